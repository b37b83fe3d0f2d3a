"""The values in the file of --config, each checked against its option.

In: a value as YAML reads it, and as the file writes it. Out: the value as the command line would give it.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import typer

from scsuite.core.config import Config, base_type, parse_number
from scsuite.core.errors import UsageError, did_you_mean

FLAGS = frozenset({"json", "quiet", "debug"})  # true or false, of the options that are not part of a configuration


def check_value(context: typer.Context, parameter: Any, place: tuple[str, str], value: Any, text: str | None) -> Any:
    """Return a value as the command line would give it; `text` is how the file writes one that is no list or mapping.

    `place` is the key and the file's path. A number is read as on the command line: YAML itself takes 010 for 8, 1:30
    for 90, and 1e-3 for a text.
    """
    key, path = place
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
