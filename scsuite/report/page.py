"""The page of one training, or of several side by side: one HTML file that loads nothing from elsewhere.

In: `TrainSummary`, `Comparison`. Out: the bytes of the file. The texts are in `templates/`; names that come from users
are escaped there, all of them.
"""

import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from scsuite.core.errors import InputError, escape, one_line
from scsuite.core.runs.comparison import NOT_COMPARED, Comparison
from scsuite.core.runs.results import is_reached
from scsuite.core.runs.settings import Setting, repeat_command, train_settings
from scsuite.core.runs.summary import RunSummary
from scsuite.core.runs.train_summary import TrainSummary
from scsuite.report import figures, formatting
from scsuite.report.page_images import MAX_BYTES, bitmap, confusion_image, vector

MAX_CLASSES_IN_TABLE = 20  # a larger confusion matrix is drawn
NUM_PAIRS_SHOWN = 10  # confused pairs of classes


def training_page(training: TrainSummary, redraw: bool = True) -> bytes:
    """Return the page of one training.

    With `redraw`, the curves are drawn for the page, for a screen and for a telephone; otherwise figures/training.png
    is embedded, which costs no time. Raises InputError for files that were edited to hold other kinds of values.
    """
    return _render("training.html", training.run.path, lambda: _training_values(training, redraw))


def comparison_page(
    trainings: Sequence[TrainSummary], comparison: Comparison, group: RunSummary | None = None
) -> bytes:
    """Return the page of several trainings; `group` is the run of `train --seeds` that made all of them.

    Raises InputError as `training_page` does.
    """
    return _render("comparison.html", trainings[0].run.path, lambda: _comparison_values(trainings, comparison, group))


def _training_values(training: TrainSummary, redraw: bool) -> dict[str, Any]:
    images = {
        name: bitmap(run.figure(figure), MAX_BYTES[name]) if run is not None else None
        for name, figure, run in (
            ("lr_range", "lr-range", training.run if training.has_own_range_test else training.lr_range),
            ("augmented", "augmented", training.run),
            ("gradcam", "gradcam", training.gradcam),
            ("misclassified", "misclassified", training.evaluation if training.gradcam is None else None),
            ("training", "training", None if redraw else training.run),
        )
    }
    history = training.history
    if history is not None and images["training"] is None:
        images["training"] = vector(figures.training(history))
        images["training_narrow"] = vector(figures.training(history, narrow=True))
    evaluation = None if training.evaluation is None else training.evaluation.result
    if evaluation is not None and len(evaluation["per_class"]) > MAX_CLASSES_IN_TABLE:
        images["confusion"] = confusion_image(evaluation)
    return {
        "training": training,
        "run": training.run,
        "images": images,
        "settings": _shown_settings(training),
        "command": repeat_command(training.run.config),
        "num_pairs": NUM_PAIRS_SHOWN,
    }


def _comparison_values(
    trainings: Sequence[TrainSummary], comparison: Comparison, group: RunSummary | None
) -> dict[str, Any]:
    curves = [
        (f"{same.label}: {len(same.trainings)} training{'s' * (len(same.trainings) > 1)}", training.epochs)
        for same in comparison.groups
        for training in same.trainings
        if training.epochs
    ]
    splits = {training.eval_split for training in trainings}
    split = "val" if splits == {"val"} else "test"
    images = {}
    if curves:
        images["curves"] = vector(figures.comparison(curves, split))
        images["curves_narrow"] = vector(figures.comparison(curves, split, narrow=True))
    environments = {
        name: [_recorded(training, name) for training in trainings]
        for name in ("scsuite", "torch", "python", "device", "device_name", "precision", "cpu", "threads", "world_size")
    }
    return {
        "trainings": trainings,
        "comparison": comparison,
        "group_run": group,
        "is_reached": is_reached,
        "command": None if group is None else repeat_command(group.config),
        "labels": {t.run.path: same.label for same in comparison.groups for t in same.trainings},
        "images": images,
        "settings": _common_settings(trainings),
        "flags": {setting.name: setting.flag for setting in train_settings(trainings[0].run.config)},
        "environments": {name: values for name, values in environments.items() if len(set(values)) > 1},
        "split": split,
    }


def _shown_settings(training: TrainSummary) -> list[Setting]:
    """Return the settings without folders of this machine and the like, on which no result depends."""
    return [s for s in train_settings(training.run.config) if not s.is_neutral]


def _common_settings(trainings: Sequence[TrainSummary]) -> list[Setting]:
    first, *others = ({s.name: s for s in _shown_settings(training)} for training in trainings)
    return [
        setting
        for name, setting in first.items()
        if name not in NOT_COMPARED and all(name in other and other[name].value == setting.value for other in others)
    ]


def _recorded(training: TrainSummary, name: str) -> str:
    environment = training.run.environment
    value = environment.get(name, environment.get("versions", {}).get(name))
    return formatting.MISSING if value is None else str(value)


def _render(template: str, where: Path, make_values: Callable[[], dict[str, Any]]) -> bytes:
    try:
        return _environment().get_template(template).render(make_values()).encode()
    except (jinja2.UndefinedError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            "run", where, expected="the values that scsuite writes", found=one_line(error),
            hint="A file of the run, or of one that belongs to it, was edited; use the original.",
        ) from error  # fmt: skip


@functools.cache
def _environment() -> jinja2.Environment:
    """Return what renders the templates; it keeps them compiled, which takes most of the time of a page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, finalize=_visible,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": formatting.percent, "number": formatting.number, "count": formatting.count,
        "lr": formatting.learning_rate, "rule": formatting.rule_label, "points": formatting.points,
        "duration": formatting.duration, "interval": formatting.interval, "value": formatting.option_value,
        "command": shlex.join,
    }  # fmt: skip
    return environment


def _visible(value: Any) -> Any:
    """Return a text on one line, with control characters and bytes that are not UTF-8 as visible escapes."""
    is_markup = hasattr(value, "__html__")  # what a template declared safe: its own macros and images
    if not isinstance(value, str) or is_markup:
        return value
    return escape(value).replace(" %", "\N{NO-BREAK SPACE}%")  # a number and its percent sign stay together
