"""Output that never fails: closed streams, readers that went away, letters that an encoding lacks.

In: the process's standard streams. Out: streams that can be written to, or that lead nowhere.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from scsuite.core.distributed import under_torchrun
from scsuite.core.errors import OutputError

if TYPE_CHECKING:  # rich is imported by commands that run: --help does not need it
    from rich.console import Console

    from scsuite.cli.common_options import OutputOptions


def repair_streams() -> None:
    """Make stdout and stderr usable if they are closed (`>&-`) or not UTF-8, and ignore a COLUMNS of zero."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file that is opened would get this number
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - open until the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if os.environ.get("COLUMNS", "1").strip("0") == "":
        del os.environ["COLUMNS"]


@contextlib.contextmanager
def ignore_closed_stream(stream: IO[str]) -> Iterator[None]:
    """Ignore a reader that went away (`| head -1`) and a full disk; later output to the stream is discarded.

    The run's log.txt has everything.
    """
    try:
        yield
    except OSError:
        redirect_to_devnull(stream)


def redirect_to_devnull(stream: IO[str]) -> None:
    """Discard everything that is written to a stream from now on, so that it cannot fail, not even at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(devnull, stream.fileno())
    os.close(devnull)


def print_loading(output: "OutputOptions") -> None:
    """Say on a terminal that the program loads, which takes seconds; elsewhere an error is the first line of stderr."""
    is_other_rank = under_torchrun() and os.environ["RANK"] != "0"
    if sys.stderr.isatty() and not output.quiet and not is_other_rank:
        with ignore_closed_stream(sys.stderr):
            print("loading   PyTorch and the data", file=sys.stderr, flush=True)  # noqa: T201


def make_console(to_stderr: bool, quiet: bool) -> "Console":
    """Return a console that falls silent if its reader goes away; rich's own ends the program with exit code 1."""
    from rich.console import Console

    class QuietConsole(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            redirect_to_devnull(self.file)

    return QuietConsole(stderr=to_stderr, quiet=quiet, highlight=False, soft_wrap=False)


def print_json_line(result: Mapping[str, Any]) -> None:
    """Print a JSON object on stdout. Raises OutputError for a full disk; a reader that went away is ignored."""
    try:
        print(json.dumps(result, ensure_ascii=True), flush=True)  # noqa: T201 - what scripts read
    except BrokenPipeError:
        redirect_to_devnull(sys.stdout)
    except OSError as error:
        redirect_to_devnull(sys.stdout)
        raise OutputError(
            "cannot write", "stdout", expected="space for the result", found=error.strerror or error,
            hint="It is in the run directory too: result.json.",
        ) from None  # fmt: skip
