"""The file of --config: every value is checked against its option before the command line is.

In: a YAML file, and the options of a command. Out: the options' defaults; an error names the file's key and the flag.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from scsuite.cli.config_values import check_value
from scsuite.core.errors import UsageError, did_you_mean
from scsuite.core.files import read_yaml_texts

_META_KEY = "scsuite.config_file"  # in context.meta: (path, flag -> key)


def read_config_file(context: typer.Context, path: str) -> dict[str, Any]:
    """Return the values of a file by the names of parameters; null is as good as nothing.

    Raises InputError for a file that cannot be read, UsageError for a name or a value that the command does not take.
    """
    values, texts = read_yaml_texts(path, "configuration")
    parameters: dict[str, Any] = {}  # by name and by flag
    for parameter in context.command.params:
        for name in (str(parameter.name), *parameter.opts):
            parameters[_normalised(name)] = parameter
    del parameters["config"]
    if unknown := [key for key in values if _normalised(key) not in parameters]:
        hint = did_you_mean(_normalised(unknown[0]), parameters, otherwise=_options_with_the_words(unknown[0], context))
        if isinstance(values[unknown[0]], dict):
            hint = "Write the options without a section, as in seed: 1."
        raise UsageError(
            "configuration", path, expected=f"options of {context.info_name}",
            found=", ".join(key if key.strip() == key != "" else repr(key) for key in unknown), hint=hint,
        )  # fmt: skip
    keys: dict[str, list[str]] = {}  # name of a parameter -> keys
    for key in values:
        keys.setdefault(str(parameters[_normalised(key)].name), []).append(key)
    if repeated := next((names for names in keys.values() if len(names) > 1), None):
        raise UsageError(
            "configuration", path, expected="each option once", found=" and ".join(repeated),
            hint="Remove one of them.",
        )  # fmt: skip
    context.meta[_META_KEY] = path, {parameters[_normalised(key)].opts[0]: key for key in values}
    defaults = {}
    for key, value in values.items():
        parameter = parameters[_normalised(key)]
        if value is not None:
            defaults[str(parameter.name)] = check_value(context, parameter, (key, path), value, texts.get(key))
    return defaults


def _normalised(name: str) -> str:
    return name.strip("-_").replace("-", "_")


def _options_with_the_words(key: str, context: typer.Context) -> str:
    """Return a hint with the options that have the most words in common with an unknown key, as lr_max with max_lr."""
    words = set(_normalised(key).lower().replace("learning_rate", "lr").split("_"))
    names = [str(parameter.name) for parameter in context.command.params]
    common = {name: len(words.intersection(name.split("_"))) for name in names}
    most = max(common.values())
    similar = [name for name in names if common[name] == most > 0]
    return f"Did you mean {' or '.join(similar)}?" if similar else "Fix or remove them."


@contextmanager
def name_config_file(context: typer.Context) -> Iterator[None]:
    """Add the file and its key to a UsageError about an option whose value comes from it."""
    path, keys = context.meta.get(_META_KEY, ("", {}))
    try:
        yield
    except UsageError as error:
        name = next((str(p.name) for p in context.command.params if p.opts[0] == error.where), "")
        source = context.get_parameter_source(name)
        if error.where not in keys or source is None or source.name != "DEFAULT_MAP":
            raise
        raise UsageError(
            error.what, f"{error.where} ({keys[error.where]} in {path})", expected=error.expected, found=error.found,
            hint=error.hint,
        ) from None  # fmt: skip
