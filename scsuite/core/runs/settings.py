"""The settings of a training beside their defaults, and the command that repeats it.

In: the content of a config.yaml, of this version or another one. Out: plain values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from scsuite.core.config import RECIPES, RESULT_NEUTRAL_OPTIONS, TrainCommandConfig, flag_name


@dataclass(frozen=True)
class Setting:
    """An option with its value, and its default in the recipe of the training.

    `flag` is empty for a name that this version does not know.
    """

    name: str
    flag: str
    value: Any
    default: Any
    help: str
    group: str

    @property
    def is_changed(self) -> bool:
        """Whether the value is not the default of the recipe in this version."""
        return bool(self.flag) and bool(self.value != self.default)

    @property
    def is_neutral(self) -> bool:
        """Whether no result depends on it: a folder of this machine, a number of workers."""
        return self.name in RESULT_NEUTRAL_OPTIONS


def train_settings(config: Mapping[str, Any]) -> list[Setting]:
    """Return every option of a training, those that are not at their default first."""
    recipe = config.get("recipe", "default")
    reference = TrainCommandConfig(recipe=recipe if isinstance(recipe, str) and recipe in RECIPES else "default")
    settings = []
    for item in fields(TrainCommandConfig):
        default = "default" if item.name == "recipe" else getattr(reference, item.name)
        value = config.get(item.name, default)
        value = tuple(value) if isinstance(value, list) else value
        text, group = str(item.metadata["help"]), str(item.metadata["group"])
        settings.append(Setting(item.name, flag_name(item).partition("/")[0], value, default, text, group))
    known = {setting.name for setting in settings}
    unknown = [Setting(name, "", value, None, "", "") for name, value in config.items() if name not in known]
    return sorted(settings, key=lambda setting: not setting.is_changed) + unknown


def repeat_command(config: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that repeats a training: every setting that is not at its default."""
    words = ["scsuite", "train"]
    for setting in train_settings(config):
        if not setting.is_changed or setting.is_neutral or setting.value is None:
            continue
        if isinstance(setting.value, bool):
            words.append(setting.flag if setting.value else f"--no{setting.flag[1:]}")
        else:
            values = setting.value if isinstance(setting.value, tuple) else (setting.value,)
            words += [word for value in values for word in (setting.flag, str(value))]
    return words
