"""What a command prints about its run: the directory once, file names relative to it, and the command to type next.

In: a run directory, paths, a terminal. Out: lines as wide as the terminal; a command stays on one line, to be copied.
"""

import contextlib
import os
import shlex
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from scsuite.cli.console import Progress, Terminal
from scsuite.core.config import DATA_SOURCES
from scsuite.core.errors import InputError

if TYPE_CHECKING:
    from scsuite.core.dataset import Dataset
    from scsuite.core.runs.results import StepResult
    from scsuite.core.runs.rundir import RunDir

INDENT = " " * 10  # the width of a line's label


def relative_path(path: str | Path) -> str:
    """Return a path relative to the current directory if it lies below it, else absolute."""
    with contextlib.suppress(ValueError, OSError):  # it lies elsewhere, or the current directory is gone
        return str(Path(path).absolute().relative_to(Path.cwd()))
    return str(path)


def log_run(terminal: Terminal, run: "RunDir") -> None:
    """Print the run directory."""
    terminal.log_line(f"{'run':<10}{relative_path(run.path)}")


def log_classes(terminal: Terminal, data: "Dataset") -> None:
    """Print the names of the classes and the number of their images."""
    from scsuite.report.formatting import class_counts

    counts = (split.class_counts(len(data.class_names)) for split in (data.train, data.test))
    log_text(terminal, class_counts(data.class_names, *counts), "classes")


def log_text(terminal: Terminal, text: str, label: str = "") -> None:
    """Print a text after a label; on a terminal with line breaks between words only, in a pipe on one line."""
    _log_wrapped(terminal, label, text, max(terminal.console.width - len(INDENT), 1) if terminal.is_live else len(text))


def _log_wrapped(terminal: Terminal, label: str, text: str, width: int) -> None:
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        terminal.log_line(f"{'' if number else label:<10}{line}")


def log_files(terminal: Terminal, run: "RunDir", files: Iterable[str], figures: Iterable[Path]) -> None:
    """Print the names of the files that exist and of the figures, with line breaks between names only."""
    width = max(terminal.console.width - len(INDENT), 1)
    file_names = [name for name in files if (run.path / name).exists()]
    figure_names = [path.relative_to(run.path).as_posix() for path in figures]
    for label, names in {"files": file_names, "figures": figure_names}.items():
        _log_wrapped(terminal, label, ", ".join(names), width)


def shell_command(*words: str) -> str:
    r"""Return a command that a shell reads as these words; bash and zsh read \xHH within $'' as a byte."""
    return " ".join(shlex.quote(word) if word.isprintable() else _quote_bytes(word) for word in words)


def _quote_bytes(word: str) -> str:
    quoted = (c if c.isprintable() and c not in "'\\" else _hex_bytes(c) for c in word)
    return f"$'{''.join(quoted)}'"


def _hex_bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def log_next(terminal: Terminal, *words: str) -> None:
    """Print the command to type next."""
    terminal.log_line(f"{'next':<10}{shell_command('scsuite', *words)}")


def log_stop(terminal: Terminal, run: "RunDir", text: str) -> None:
    """Print where a training stopped, and below it the command that continues it."""
    terminal.log_line(f"{'stopped':<10}{text} with:")
    terminal.log_line(INDENT + shell_command("scsuite", "train", "--resume", relative_path(run.path)))


def check_data_exists(data: str, *command: str) -> None:
    """Raise InputError, which names the command that helps, if the recorded data of a run is not at its place."""
    if data not in DATA_SOURCES and not os.path.lexists(data):
        raise InputError(
            "data of the run", data, expected="a folder or an archive", found="none",
            hint=f"If it was moved: {shell_command('scsuite', *command, '--data', 'NEW')}.",
        )  # fmt: skip


def range_test_progress(progress: Progress, num_steps: int, repeats: int) -> "Callable[[StepResult, int], None]":
    """Return an `on_step` for `range_test` that shows its progress."""

    def on_step(step: "StepResult", repeat: int) -> None:
        detail = f"LR {step.lr:.4g}  loss {step.loss:.3f}"
        progress("Range test", repeat * num_steps + step.step + 1, num_steps * repeats, detail)

    return on_step
