"""Turn an exception into an exit code and one line on stderr.

In: the exception that ended a command. Out: an `ExitCode`; the line `error: WHAT: WHERE: expected X, found Y. HINT`.
"""

import errno
import os
import re
import signal
import sys
from collections.abc import Sequence

import typer

from scsuite import __version__
from scsuite.cli.streams import SafeStream, redirect_to_devnull
from scsuite.core.errors import ExitCode, OutputError, ScsuiteError, UsageError, did_you_mean, one_line

# What torch, oneDNN, the thread library and the DataLoader say when memory runs out; each in its own error type.
OUT_OF_MEMORY_MESSAGES = (
    "out of memory", "allocate memory", "bad_alloc", "could not create a memory", "start new thread",
    "failed to map segment",
)  # fmt: skip
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)

# The usage errors of the parser under Typer: click's, or in newer versions Typer's own copy of it.
ParserError = typer.BadParameter.__mro__[2]


class BugError(ScsuiteError):
    """An exception that no user can act on."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(
            f"bug in scsuite {__version__}", type(error).__name__, expected="no such error", found=one_line(error, 500),
            hint="Run it again with --debug and report what it prints.",
        )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.what}: {self.where}: {self.found}. {self.hint}"


def exit_code_for(error: BaseException, arguments: Sequence[str]) -> tuple[int, ScsuiteError | None]:
    """Return an exception's exit code, and its error, which is None for a stop and for a reader that went away."""
    if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
        return (error.code if isinstance(error.code, int) else ExitCode.BUG), None
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, None
    if isinstance(error, BrokenPipeError | SystemExit):  # rich raises SystemExit for a broken pipe
        redirect_to_devnull(sys.stdout)
        return ExitCode.DONE, None
    known_error = as_scsuite_error(error, arguments) or BugError(error)
    return known_error.exit_code, known_error


def print_error(text: str) -> None:
    """Print a line on stderr; if nothing can be written there, the exit code has to be enough."""
    print(text, file=SafeStream.of(sys.stderr), flush=True)


def as_scsuite_error(error: BaseException, arguments: Sequence[str]) -> ScsuiteError | None:
    """Return the error as one of ours; None for a bug."""
    if isinstance(error, ScsuiteError):
        return error
    if isinstance(error, ParserError):
        return _usage_error(error, arguments)
    if _is_out_of_memory(error):
        return OutputError(
            "out of memory", "this machine", expected="memory for the batch", found=one_line(error),
            hint="Try a smaller --bs or --width.",
        )  # fmt: skip
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        from scsuite.core.training.workers import worker_error

        return worker_error(error)  # torch raises it in the main thread, wherever that is when a worker dies
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
        return OutputError(
            "cannot write", error.filename or "output", expected="free space and permission", found=error.strerror,
            hint="Free some space or choose another --runs-dir.",
        )  # fmt: skip
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, RuntimeError | ImportError):
        return any(message in str(error).lower() for message in OUT_OF_MEMORY_MESSAGES)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def _usage_error(error: BaseException, arguments: Sequence[str]) -> UsageError:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else " ".join(["scsuite", *arguments[:1]])
    text = str(error.format_message() if hasattr(error, "format_message") else error)
    hint = f"See {where} --help."
    if similar := getattr(error, "possibilities", None):
        hint = f"Did you mean {' or '.join(sorted(similar))}?"
    elif context is not None and text.startswith("No such command") and len(quoted := text.split("'")) > 1:
        hint = did_you_mean(quoted[1], getattr(context.command, "commands", ()), otherwise=hint)
    elif file := next((word for word in arguments if word.startswith("-") and os.path.lexists(word)), None):
        hint = f"If {file} is a file, write ./{file}."
    text = one_line(re.split(r" Did you mean| \(Possible options", text)[0], 300).rstrip(".")
    return UsageError("command line", where, expected="options as in --help", found=text, hint=hint)
