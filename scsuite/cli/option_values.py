"""The values that the parser gives for a command's options: where each comes from, paths, trailing arguments.

In: a Typer context and values by option. Out: values as a configuration takes them.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

from scsuite.cli.common_options import require_non_empty
from scsuite.core.config import Config
from scsuite.core.errors import UsageError


def absolute_paths(config_class: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """Make paths that exist absolute: a run is resumed and evaluated from other directories too."""
    keywords = {i.name: i.metadata.get("keywords", ()) for i in fields(config_class) if i.metadata.get("is_path")}
    return {
        name: str(Path(value).absolute())
        if name in keywords and value and value not in keywords[name] and _exists(value)
        else value
        for name, value in values.items()
    }


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # not a valid path; what reads it reports that
        return False


def is_explicit(context: typer.Context, name: str) -> bool:
    """Return whether a value was given by a flag or by --config."""
    return value_source(context, name) in ("COMMANDLINE", "DEFAULT_MAP")


def value_source(context: typer.Context, name: str) -> str:
    """Return where a value comes from: COMMANDLINE, DEFAULT_MAP (the file of --config), ENVIRONMENT or DEFAULT."""
    source = context.get_parameter_source(name)
    return "DEFAULT" if source is None else source.name


def check_non_empty(values: Mapping[str, Any]) -> None:
    """Raise UsageError for an empty name or run; as a path it would be the current directory."""
    for name in ("name", "resume"):
        require_non_empty("--" + name, values.get(name))


def collect_trailing_files(config_class: type[Config], context: typer.Context, values: dict[str, Any]) -> None:
    """Add arguments without an option to the option that takes many, if it is given: `--images a.png b.png`."""
    if not context.args:
        return
    target = next((i.name for i in fields(config_class) if values[i.name] and isinstance(i.default, tuple)), None)
    unknown = next((text for text in context.args if text.startswith("-") or target is None), None)
    if target is None or unknown is not None:
        raise UsageError(
            "command line", context.command_path, expected="options as in --help", found=f"the argument {unknown}",
            hint=f"See {context.command_path} --help.",
        )  # fmt: skip
    values[target] = [*values[target], *context.args]
