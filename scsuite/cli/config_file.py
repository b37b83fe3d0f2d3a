"""The file of --config: every value is checked against its option before the command line is.

In: a YAML file, and the options of a command. Out: the options' defaults; an error names the file's key and the flag.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import typer

from scsuite.core.config import Config, base_type, parse_number
from scsuite.core.errors import UsageError, did_you_mean
from scsuite.core.files import read_yaml_texts

FLAGS = frozenset({"json", "quiet", "debug"})  # true or false, of the options that are not part of a configuration
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
            defaults[str(parameter.name)] = _check(context, parameter, key, value, texts.get(key))
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


def _check(context: typer.Context, parameter: Any, key: str, value: Any, text: str | None) -> Any:
    """Return a value as the command line would give it; `text` is how the file writes one that is no list or mapping.

    A number is read as on the command line: YAML itself takes 010 for 8, 1:30 for 90, and 1e-3 for a text.
    """
    path, _ = context.meta[_META_KEY]
    where = f"{parameter.opts[0]} ({key} in {path})"
    config_class = getattr(context.command.callback, "config_class", Config)
    item = {item.name: item for item in fields(config_class)}.get(str(parameter.name))
    kind = bool if parameter.name in FLAGS else str if item is None else base_type(item)
    if kind is None:
        return _check_list(where, key, value, text)
    if kind is bool:
        if not isinstance(value, bool):
            hint = f"Write {key}: true or {key}: false."
            raise UsageError("option", where, expected="true or false", found=_found(value, text), hint=hint)
        return value
    if kind is str:
        return _check_text(where, key, value, text, () if item is None else item.metadata.get("choices", ()))
    assert item is not None and kind in (int, float)
    try:
        parse_number(value if text is None else text, kind, where, bool(item.metadata.get("allow_auto")))
    except UsageError as error:
        example: Any = f"{item.default or 1}, for example"
        if isinstance(value, list) and len(value) == 1:
            (example,) = value
        elif isinstance(value, int) and not isinstance(value, bool) and ":" not in str(text):
            example = value  # of 1_000 or 0x10
        found = repr(value) if isinstance(value, str) else _found(value, text)
        hint = f"Write {key}: {example}."
        raise UsageError("option", where, expected=error.expected, found=found, hint=hint) from None
    return text


def _check_list(where: str, key: str, value: Any, text: str | None) -> list[str]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        for item in value:
            _refuse_nul(where, item)
        return value
    hint = f"Write {key}: [{text}]." if isinstance(value, str) else f'Put each text in quotes: {key}: ["1.png"].'
    raise UsageError("option", where, expected="a list of texts", found=_found(value, text), hint=hint)


def _refuse_nul(where: str, value: Any) -> None:
    """Raise UsageError for a character that no path can have: an argument of the command line cannot have it either."""
    if isinstance(value, str) and "\0" in value:
        hint = "Remove that character."
        raise UsageError("option", where, expected="a text without NUL", found=repr(value), hint=hint)


def _check_text(where: str, key: str, value: Any, text: str | None, choices: Sequence[str]) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    _refuse_nul(where, value)
    if isinstance(value, str) or (is_number and text is not None):
        return value if isinstance(value, str) else str(text)
    found = _found(value, text)
    if text is not None:
        if not isinstance(value, bool) or text.lower() != str(value).lower():
            kind = "binary data" if isinstance(value, bytes) else "a date"
            found += f", which YAML reads as {str(value).lower() if isinstance(value, bool) else kind}"
        hint = f'Write {key}: "{text}".'
    elif isinstance(value, list) and value and all(isinstance(item, str | int) for item in value):
        texts = ",".join(map(str, value))
        hint = f"Write {key}: {texts}." if len(value) == 1 else f'Write {key}: "{texts}".'
    else:
        hint = "Give one text."
    if choices:
        hint = did_you_mean(text, choices, f"Write {key}: {choices[0]}, for example.")
    expected = f"one of {', '.join(choices)}" if choices else "a text"
    raise UsageError("option", where, expected=expected, found=found, hint=hint)


def _found(value: Any, text: str | None) -> str:
    return "a mapping" if isinstance(value, dict) else str(value) if text is None else text
