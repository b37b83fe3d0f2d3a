"""The options that every command has, which are not part of a configuration: where output goes, and --config.

In: values from the command line and the file of --config. Out: `OutputOptions`, and defaults from the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from scsuite.cli.config_file import read_config_file
from scsuite.cli.outcome import Outcome
from scsuite.core.config import OUTPUT
from scsuite.core.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class OutputOptions:
    """Where a command's output goes, and which options were given explicitly, by a flag or by --config."""

    runs_dir: Path
    name: str | None
    json: bool
    quiet: bool
    explicit_options: frozenset[str]
    outcome: Outcome = field(default_factory=Outcome)


def require_non_empty(flag: str, value: T) -> T:
    """Return a value; raise UsageError for an empty text: a variable that a script left unset."""
    if value == "":
        raise UsageError("option", flag, expected="a value", found="an empty one", hint="Leave the option out.")
    return value


def _parse_runs_dir(value: Any) -> Path:
    try:
        return Path(require_non_empty("--runs-dir", value)).expanduser()
    except RuntimeError as error:
        raise UsageError(
            "option", "--runs-dir", expected="a home directory for ~", found=f"{value}: {str(error).rstrip('.')}",
            hint="Give an absolute path.",
        ) from None  # fmt: skip


def _read_config(context: typer.Context, path: str | None) -> str | None:
    """Use the values of a file as the options' defaults: defaults < file < flags."""
    if path is None:
        return None
    require_non_empty("--config", path)
    context.default_map = read_config_file(context, path)
    return path


RunsDirOption = Annotated[
    Path,
    typer.Option(
        envvar="SCSUITE_RUNS", parser=_parse_runs_dir, metavar="DIR", help="Where run directories are made.",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
NameOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="End of the run directory's name. (default: the data's name)", rich_help_panel=OUTPUT
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config", callback=_read_config, is_eager=True, metavar="FILE.yaml",
        help="Read options from a file; flags override it.", rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on stdout, everything else on stderr.", rich_help_panel=OUTPUT),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.", rich_help_panel=OUTPUT)]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=OUTPUT)]

COMMON_OPTIONS: Mapping[str, tuple[Any, Any]] = {  # name -> alias and default
    "runs_dir": (RunsDirOption, Path("runs")),
    "name": (NameOption, None),
    "config": (ConfigOption, None),
    "json": (JsonOption, False),
    "quiet": (QuietOption, False),
    "debug": (DebugOption, False),
}
