"""Output that never fails: closed streams, readers that went away, letters that an encoding lacks.

In: the process's standard streams. Out: streams that can be written to, or that lead nowhere.
"""

import contextlib
import errno
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

READER_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # the other end of a pipe, a terminal, the stream itself


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
            with contextlib.suppress(OSError, ValueError, AttributeError):  # no descriptor; Windows
                os.set_blocking(stream.fileno(), True)  # else a slow reader would lose lines
    if os.environ.get("COLUMNS", "1").strip("0") == "":
        del os.environ["COLUMNS"]


class SafeStream(io.TextIOBase):
    """A text stream that discards what the stream behind it cannot take. Without a `buffer`, nothing gets past it."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.error: OSError | ValueError | None = None  # the first one

    @classmethod
    def of(cls, stream: "IO[str] | SafeStream") -> "SafeStream":
        """Return the stream itself if it is safe already."""
        return stream if isinstance(stream, SafeStream) else cls(stream)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream behind; rich chooses its characters by it."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write a text, or discard it."""
        with self._recording():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or discard it."""
        with self._recording():
            self._stream.flush()

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self.error = self.error or error
            if isinstance(error, OSError):  # what is left in the buffer would fail at the end of the process
                redirect_to_devnull(self._stream)

    def isatty(self) -> bool:
        """Return whether the stream is a terminal that is still there."""
        with contextlib.suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        """Return the descriptor of the stream behind."""
        return self._stream.fileno()


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Let no failure of stdout or stderr reach the block: a run goes on, and its log.txt has everything.

    A terminal that was closed gives EIO, a reader that went away (`| head -1`) EPIPE, a full disk ENOSPC. A stream that
    failed stays silent.
    """
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = SafeStream.of(stdout), SafeStream.of(stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = stdout, stderr


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
        print("loading   PyTorch and the data", file=SafeStream.of(sys.stderr), flush=True)


def make_console(to_stderr: bool, quiet: bool) -> "Console":
    """Return the console of a command, which writes to the present stdout or stderr."""
    from rich.console import Console

    return Console(stderr=to_stderr, quiet=quiet, highlight=False, soft_wrap=False)


def print_json_line(result: Mapping[str, Any]) -> None:
    """Print a JSON object on stdout. Raises OutputError for a full disk; a reader that is gone is ignored."""
    stdout = SafeStream.of(sys.stdout)
    print(json.dumps(result, ensure_ascii=True), file=stdout, flush=True)
    if isinstance(stdout.error, OSError) and stdout.error.errno not in READER_GONE:
        raise OutputError(
            "cannot write", "stdout", expected="space for the result", found=stdout.error.strerror or stdout.error,
            hint="It is in the run directory too: result.json.",
        )  # fmt: skip
