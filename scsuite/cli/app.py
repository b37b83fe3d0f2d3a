"""The program: registers the commands, and turns every way a command can end into an exit code and one line."""

import contextlib
import difflib
import errno
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, NoReturn

import typer

from scsuite import __version__
from scsuite.cli.evaluate import evaluate
from scsuite.cli.gradcam import gradcam
from scsuite.cli.lr_range import lr_range
from scsuite.cli.console import redirect_to_devnull, ignore_closed_stream
from scsuite.cli.train import train
from scsuite.cli.zigzag import zigzag
from scsuite.core.distributed import claim_first_failure, require_single_process
from scsuite.core.errors import ExitCode, OutputError, ScsuiteError, UsageError

app = typer.Typer(name="scsuite", no_args_is_help=True, pretty_exceptions_enable=False)
app.command("zigzag")(zigzag)
app.command("lr-range")(lr_range)
app.command("train")(train)
app.command("evaluate")(evaluate)
app.command("gradcam", context_settings={"allow_extra_args": True})(gradcam)  # --images FILES

COMMANDS = ("zigzag", "lr-range", "train", "evaluate", "gradcam")

# What torch, oneDNN, the thread library and the loader say where memory ends; each in an error type of its own.
NO_ROOM = (
    "out of memory", "allocate memory", "bad_alloc", "could not create a memory", "start new thread",
    "failed to map segment",
)  # fmt: skip

# The usage errors of the parser under Typer: click's, or in newer versions Typer's own copy of it.
_ParserError = typer.BadParameter.__mro__[2]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scsuite {__version__}")
        raise typer.Exit


@app.callback()
def scsuite(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does it all
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Super-convergence for small image classifiers: find the rates, draw the cycle, train, evaluate, explain."""
    if context.invoked_subcommand in ("zigzag", "evaluate", "gradcam"):
        require_single_process(context.invoked_subcommand)


def main(args: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code. Errors are one line on stderr; a traceback only with --debug."""
    # A thread that waits for the others gives its core up: else a loader's worker, or any other process, makes the
    # network several times slower where cores are few. On two busy ones 162 images/s became 455. Read as torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Of a rank that is gone torch's C++ part prints a stack trace; the error's line says it. Read as torch loads, too.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    _mend_streams()
    arguments = list(sys.argv[1:] if args is None else args)
    debug, hook = "--debug" in arguments, sys.unraisablehook
    if not debug:
        sys.unraisablehook = lambda _unraisable: None  # a library's clean-up that fails after the error that we tell
    try:
        return _run(arguments, debug)
    finally:
        sys.unraisablehook = hook


def _run(arguments: Sequence[str], debug: bool) -> int:
    try:
        with _polite_signals(), warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")  # a library's warning is not for the user, nor before an error's line
            code = app(arguments, standalone_mode=False, prog_name="scsuite")
            sys.stdout.flush()
            return code if isinstance(code, int) else ExitCode.DONE
    except BaseException as error:
        if debug and not isinstance(error, SystemExit | KeyboardInterrupt):
            import traceback

            _say(traceback.format_exc().rstrip())
        return _explain(error, arguments)


def _mend_streams() -> None:
    """OutputOptions never fails for being closed (`>&-`) or for its letters, and no width at all is an unknown one."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file that is opened would be taken for it
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - open to the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if os.environ.get("COLUMNS", "1").strip("0") == "":
        del os.environ["COLUMNS"]


def _say(text: str) -> None:
    """A line on stderr; where nothing can be written there, the exit code says it alone."""
    with ignore_closed_stream(sys.stderr):
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def _explain(error: BaseException, arguments: Sequence[str]) -> int:
    """Print an error's line, and return its exit code."""
    if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
        return error.code if isinstance(error.code, int) else ExitCode.BUG
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, BrokenPipeError | SystemExit):  # the latter is rich's way of saying it, in --help
        redirect_to_devnull(sys.stdout)
        return ExitCode.DONE
    if isinstance(error, _ParserError) and not str(error):
        return ExitCode.USAGE  # no command at all: the help was printed
    known = _as_ours(error, arguments)
    bug = (
        f"bug in scsuite {__version__}: {type(error).__name__}: {_one_line(error)}. "
        "Run it again with --debug and report what it prints."
    )
    if claim_first_failure():  # else another rank has named the cause
        _say(f"error: {known or bug}")
    return known.exit_code if known else ExitCode.BUG


def _as_ours(error: BaseException, arguments: Sequence[str]) -> ScsuiteError | None:
    if isinstance(error, ScsuiteError):
        return error
    if isinstance(error, _ParserError):
        return _usage_error(error, arguments)
    no_room = isinstance(error, RuntimeError | ImportError) and any(text in str(error).lower() for text in NO_ROOM)
    if no_room or isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return OutputError(
            "out of memory", "this machine", expected="room for the batch", found=_one_line(error)[:120],
            hint="Try a smaller --bs or --width.",
        )  # fmt: skip
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return OutputError(
            "a worker died", "loading images", expected="it to outlive the run", found=_one_line(error)[:120],
            hint="Free some memory, or try --workers 0.",
        )  # fmt: skip
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES):
        return OutputError(
            "cannot write", error.filename or "output", expected="room and permission", found=error.strerror,
            hint="Free some space or choose another --runs-dir.",
        )  # fmt: skip
    return None


def _usage_error(error: BaseException, arguments: Sequence[str]) -> UsageError:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else " ".join(["scsuite", *arguments[:1]])
    found = str(error.format_message() if hasattr(error, "format_message") else error)
    near = getattr(error, "possibilities", None)
    if found.startswith("No such command") and len(words := found.split("'")) > 1:
        near = difflib.get_close_matches(words[1], COMMANDS, n=1)
    hint = f"Did you mean {' or '.join(sorted(near))}?" if near else f"See {where} --help."
    found = _one_line(re.split(r" Did you mean| \(Possible options", found)[0]).rstrip(".")
    return UsageError(
        "command line", where, expected="options as in --help", found=found,
        hint=hint,
    )  # fmt: skip


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


@contextlib.contextmanager
def _polite_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as SIGINT does, through its clean-up; `train` puts its own over these.

    One that is ignored (`nohup`) stays so.
    """

    def leave(signum: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + signum)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    names = [name for name in names if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN]
    try:
        before = {name: signal.signal(getattr(signal, name), leave) for name in names}
    except ValueError:  # not the main thread: a test, or a program that uses us
        before = {}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
