"""The program: registers the commands, runs one of them, and returns its exit code.

In: the command line. Out: what the command prints and writes, and the exit code of the process.
"""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from scsuite import __version__
from scsuite.cli.evaluate import evaluate
from scsuite.cli.exit_codes import exit_code_for, print_error
from scsuite.cli.gradcam import gradcam
from scsuite.cli.help import GroupedCommand
from scsuite.cli.lr_range import lr_range
from scsuite.cli.outcome import STOPPED, Outcome, report_unfinished
from scsuite.cli.predict import predict
from scsuite.cli.report import report
from scsuite.cli.signals import exit_on_signals
from scsuite.cli.streams import repair_streams
from scsuite.cli.train import train
from scsuite.cli.zigzag import zigzag
from scsuite.core.distributed import claim_first_failure, require_single_process
from scsuite.core.errors import ExitCode

# rich_markup_mode=None: Typer's own layout needs more than 80 columns for options with long names.
app = typer.Typer(
    name="scsuite", pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _register(command: Callable[..., None], name: str, *examples: str, takes_files: bool = False) -> None:
    lines = "\n".join(f"  {example}" for example in examples)
    epilog = f"\b\nExamples:\n{lines}"  # \b: click keeps these lines as they are
    app.command(name, cls=GroupedCommand, epilog=epilog, context_settings={"allow_extra_args": takes_files})(command)


_register(
    zigzag, "zigzag",
    "scsuite zigzag --policy one-cycle --lr-min 0.04 --lr-max 0.4", "scsuite zigzag --run runs/RUN --out schedule.svg",
)  # fmt: skip
_register(lr_range, "lr-range", "scsuite lr-range", "scsuite lr-range --data photos.zip --steps 300 --repeats 3")
_register(
    train, "train",
    "scsuite train --data shapes --epochs 8",
    "scsuite train --lr-from runs/RUN --seed 1",
)  # fmt: skip
_register(
    evaluate, "evaluate",
    "scsuite evaluate --ckpt runs/RUN",
    "scsuite evaluate --ckpt runs/RUN --tta flip --json",
)  # fmt: skip
_register(
    gradcam, "gradcam",
    "scsuite gradcam --ckpt runs/RUN",
    "scsuite gradcam --ckpt runs/RUN --images cat.jpg dog.png --save-overlays",
    takes_files=True,
)  # fmt: skip
_register(
    predict, "predict",
    "scsuite predict --ckpt runs/RUN photos/ cat.jpg",
    "scsuite predict --ckpt runs/RUN photos.zip --topk 3 --out predictions.csv",
)  # fmt: skip
_register(report, "report", "scsuite report runs/RUN", "scsuite report runs/RUN1 runs/RUN2 --out report.html")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"scsuite {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def scsuite(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does everything
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Super-convergence for small image classifiers: find LR bounds, draw the schedule, train, evaluate, explain."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)
    if context.invoked_subcommand in ("zigzag", "evaluate", "gradcam", "predict", "report"):
        require_single_process(context.invoked_subcommand)


def main(args: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code. An error is one line on stderr, with a traceback only if --debug."""
    # A thread that waits for the others then yields its core. Otherwise a DataLoader worker, or any other process,
    # makes the network several times slower on few cores: on two busy cores this gave 455 images/s instead of 162.
    # torch reads both variables when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # torch's C++ part prints a stack trace when a rank is gone; the error line names the cause.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    repair_streams()
    arguments = list(sys.argv[1:] if args is None else args)
    debug, saved_hook = "--debug" in arguments, sys.unraisablehook
    if not debug:
        sys.unraisablehook = lambda _unraisable: None  # failures of a library's clean-up, after the error that counts
    received: list[int] = []
    try:
        with exit_on_signals() as received:
            return _run(arguments, debug, received)
    except (KeyboardInterrupt, SystemExit):  # a signal while the error line was written
        return 128 + (received or [signal.SIGINT])[0]
    finally:
        sys.unraisablehook = saved_hook


def _run(arguments: Sequence[str], debug: bool, received: Sequence[int]) -> int:
    outcome = Outcome(json="--json" in arguments)
    outcome.command = next((c.name for c in app.registered_commands if c.name in arguments[:1]), None) or ""
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.simplefilter("ignore")  # warnings of libraries are not for users
            code = app(arguments, standalone_mode=False, prog_name="scsuite", obj=outcome)
            if isinstance(code, int) and code in STOPPED:  # Typer's answer to a KeyboardInterrupt
                report_unfinished(outcome, code, None)
            return code if isinstance(code, int) else outcome.exit_code
    except BaseException as error:
        code, known_error = (128 + received[0], None) if received else exit_code_for(error, arguments)
        if debug and not isinstance(error, SystemExit | KeyboardInterrupt):
            import traceback

            print_error(traceback.format_exc().rstrip())
        if known_error is not None and claim_first_failure():  # otherwise another rank has reported the cause
            print_error(f"error: {known_error}")
        report_unfinished(outcome, code, known_error)
        return code
