"""L: terminals, pipes and disks behind the output that fail, and Ctrl-C while the program starts.

In: an empty sandbox, and the finished run that nothing happened to. Out: one row. The terminals are real: the program
leads a session whose terminal is closed at a chosen call, so that the system itself sends SIGHUP and fails each write.
"""

import contextlib
import fcntl
import importlib
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scsuite.cli import app
from tests.cli.test_terminal import ERRORS, SIGNAL_AT_IMPORT, FailingStream, PseudoTerminal
from tests.conftest import REPOSITORY
from tests.faults import injection as inject
from tests.faults.case import ScoreRow, check_outcome
from tests.faults.command_line import redirect
from tests.faults.compare_runs import find_differences, find_partial_files, is_complete
from tests.faults.runtime_faults import make_reference_run, resume
from tests.faults.sandbox import Sandbox, new_sandbox, run
from tests.tiny_args import FAULT_DATA_ARGS, RESUME_ARGS, RESUME_AUTO_LR_ARGS, RESUME_WORKER_ARGS, STEPS_PER_EPOCH

HANGUP = 128 + signal.SIGHUP
Check = Callable[[Sandbox, Path], list[str]]


def close_terminal_at(owner: str, name: str, call: int = 1, *, ignored: bool = False) -> inject.Action:
    """Put the program on a terminal of its own, which is closed at the n-th call of a function.

    `owner` is a module, or a module and a class in it: "package.module:Class". `ignored`: SIGHUP is, as under nohup.
    """

    def before() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        terminal = PseudoTerminal()
        fcntl.ioctl(terminal.slave, termios.TIOCSCTTY, 0)  # this process leads its session
        for descriptor in range(3):
            os.dup2(terminal.slave, descriptor)
        sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", closefd=False) for descriptor in (1, 2))
        module, _, class_name = owner.partition(":")
        found = importlib.import_module(module)
        inject.before_call(getattr(found, class_name) if class_name else found, name, terminal.close, call)

    return before


def _check_status(run_dir: Path) -> list[str]:
    """A run that the hangup ended says so, or was complete before."""
    try:
        result = json.loads((run_dir / "result.json").read_text())
    except (OSError, ValueError) as error:
        return [f"result.json: {error}"]
    if result["status"] == "ok" or (result["status"], result.get("signal")) == ("stopped", "SIGHUP"):
        return []
    return [f"result.json says {result['status']}, {result.get('signal')}"]


def hang_up(owner: str, name: str, call: int = 1, arguments: tuple[str, ...] = RESUME_ARGS) -> Check:
    """The terminal is closed during a training: exit code of the signal, a run that resumes to the same end."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        outcome = run(sandbox, *arguments, before=close_terminal_at(owner, name, call))
        problems = check_outcome(outcome, HANGUP) + find_partial_files(sandbox.runs)
        if problems or not sandbox.run_dirs:
            return problems or ["no run directory"]
        problems = _check_status(sandbox.run_dirs[0])
        return problems or resume(sandbox, reference)

    return check


def hang_up_with_other_arguments(owner: str, name: str, call: int, arguments: tuple[str, ...]) -> Check:
    """The same with a reference of its own."""

    def check(sandbox: Sandbox, _reference: Path) -> list[str]:
        with new_sandbox() as other:
            problems = check_outcome(run(other, *arguments), 0)
            return problems or hang_up(owner, name, call, arguments)(sandbox, other.run_dirs[0])

    return check


def hang_up_before_the_run(sandbox: Sandbox, _reference: Path) -> list[str]:
    """While data is read there is no run directory, and none is left."""
    before = close_terminal_at("scsuite.core.dataset", "load_dataset")
    outcome = run(sandbox, *RESUME_ARGS, before=before)
    return check_outcome(outcome, HANGUP) + [f"left: {path}" for path in sandbox.run_dirs]


def hang_up_saves_before_it_stops(step: int) -> Check:
    """A checkpoint of the very step at which the terminal was closed exists."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        before = close_terminal_at("scsuite.core.runs.rundir:RunDir", "append_step", step)
        outcome = run(sandbox, *RESUME_ARGS, before=before)
        problems = check_outcome(outcome, HANGUP)
        names = [path.name for path in sandbox.runs.glob("*/checkpoints/*")]
        problems += [] if f"step-{step:06d}.safetensors" in names else [f"checkpoints: {names}"]
        return problems or resume(sandbox, reference, f"at step {step}")

    return check


def gone_without_a_signal(call: int, *more: str) -> Check:
    """SIGHUP is ignored, as under nohup: every write fails with EIO, and the run ends as if nothing had happened."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        before = close_terminal_at("scsuite.core.runs.rundir:RunDir", "append_step", call, ignored=True)
        outcome = run(sandbox, *RESUME_ARGS, *more, before=before)
        return check_outcome(outcome, 0) + find_differences(sandbox.run_dirs[0], reference)

    return check


def closed_twice(sandbox: Sandbox, reference: Path) -> list[str]:
    """The resumed run loses its terminal too."""
    before = close_terminal_at("scsuite.core.runs.rundir:RunDir", "append_step", 5)
    problems = check_outcome(run(sandbox, *RESUME_ARGS, before=before), HANGUP)
    outcome = run(sandbox, "train", "--resume", sandbox.run_dirs[0], before=before)
    return problems + check_outcome(outcome, HANGUP) + resume(sandbox, reference, "at step 10")


def hang_up_other_command(command: str, owner: str, name: str, call: int = 1) -> Check:
    """The terminal is closed during another command: the signal's code, no partial file, no run that looks complete."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        words: tuple[object, ...] = {
            "lr-range": FAULT_DATA_ARGS, "report": (reference,), "zigzag": ("--run", reference),
            "predict": ("--ckpt", reference, *_write_images(sandbox)),
        }.get(command, ("--ckpt", reference, "--device", "cpu"))  # fmt: skip
        where = ("--runs-dir", sandbox.runs) if command in ("predict", "report") else ()
        outcome = run(sandbox, command, *words, *where, before=close_terminal_at(owner, name, call))
        problems = check_outcome(outcome, HANGUP) + find_partial_files(sandbox.runs)
        return problems + [f"{path.name} looks complete" for path in sandbox.run_dirs if is_complete(path)]

    return check


def _write_images(sandbox: Sandbox) -> list[Path]:
    from tests.faults.builders import picture

    paths = [sandbox.inputs / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number))
    return paths


# --- streams that fail ---


def failing_streams(error: str, *, out: bool = True, err: bool = True) -> inject.Action:
    """Replace stdout and stderr by terminals on which each write fails."""

    def before() -> None:
        main = app.main

        def main_on_streams(args: Sequence[str] | None = None) -> int:
            with contextlib.ExitStack() as stack:  # only the program's: the caller flushes its own afterwards
                if out:
                    stack.enter_context(contextlib.redirect_stdout(FailingStream(ERRORS[error])))
                if err:
                    stack.enter_context(contextlib.redirect_stderr(FailingStream(ERRORS[error])))
                return main(args)

        app.main = main_on_streams

    return before


def breaks_at_step(step: int, descriptor: int) -> inject.Action:
    """The disk behind a stream is full from a step on."""

    def action() -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, descriptor)

    return lambda: inject.after_step(step, action)


def same_end_with(before: inject.Action, code: int = 0, *more: str) -> Check:
    """The run is complete, and equal to the one whose output could be written."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        outcome = run(sandbox, *RESUME_ARGS, *more, before=before)
        problems = [] if outcome.code == code else [f"exit {outcome.code}, not {code}: {outcome.err[-300:]!r}"]
        problems += ["a traceback"] if "Traceback" in outcome.out + outcome.err else []
        return problems + find_differences(sandbox.run_dirs[0], reference)

    return check


def error_code_with(before: inject.Action) -> Check:
    """The code of an error is its own, wherever its line goes."""

    def check(sandbox: Sandbox, _reference: Path) -> list[str]:
        codes = {
            2: run(sandbox, "train", "--bs", "0", before=before).code,
            3: run(sandbox, "train", "--data", sandbox.path / "none", before=before).code,
        }
        return [f"exit {code}, not {expected}" for expected, code in codes.items() if code != expected]

    return check


def _stream_checks() -> dict[str, Check]:
    checks: dict[str, Check] = {}
    streams = {"stdout": {"err": False}, "stderr": {"out": False}, "both": {}}
    for error in ERRORS:
        for name, which in streams.items():
            checks[f"{name}: {error}"] = same_end_with(failing_streams(error, **which))
        checks[f"an error's code where both are: {error}"] = error_code_with(failing_streams(error))
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        for target in ("/dev/full", "pipe", "closed"):
            code = 4 if (descriptor, target) == (1, "/dev/full") else 0
            checks[f"{name} is {target}"] = same_end_with(redirect(descriptor, target))
            checks[f"{name} is {target}, --json"] = same_end_with(redirect(descriptor, target), code, "--json")
        checks[f"{name} is full from step 9 on"] = same_end_with(breaks_at_step(9, descriptor))
    return checks


# --- Ctrl-C while the program starts ---

ARGUMENTS = ("train", "--data", "shapes", "--device", "cpu")
LIST_IMPORTS = """
import runpy, sys

class Listing:
    def find_spec(self, name, *_):
        print(name, file=sys.stderr)

sys.meta_path.insert(0, Listing())
sys.argv = ["scsuite", "lr-range", "--data", "none"]
runpy.run_module("scsuite", run_name="__main__", alter_sys=True)
"""


def imported_modules() -> list[str]:
    """Each module that a command imports until it refuses its data, in order."""
    completed = _python(LIST_IMPORTS)
    names = [line for line in completed.stderr.splitlines() if line and not line.startswith("error: ")]
    return list(dict.fromkeys(names))


def _python(code: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with new_sandbox() as sandbox:
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=sandbox.path, env=environment, check=False
        )


def interrupt_at_import(module: str, name: str) -> str:
    """A signal as a module is looked for: its code, and nothing on stdout or stderr unless a run could be stopped."""
    completed = _python(SIGNAL_AT_IMPORT.format(module=module, signal=name))
    code = 128 + getattr(signal, name)
    output = completed.stdout + completed.stderr
    is_stopped = (
        "stopped   " in output and "Traceback" not in output
    )  # some modules are needed after the first step only
    is_right = completed.returncode == code and (not output.strip() or is_stopped)
    return "" if is_right else f"exit {completed.returncode}: {output!r}"


def interrupt_after(seconds: float) -> str:
    """Ctrl-C some time after the start: no traceback; 130, or the signal itself where Python is not yet there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored, new processes ignore it too
    with new_sandbox() as sandbox:
        process = subprocess.Popen(
            [sys.executable, "-m", "scsuite", *ARGUMENTS, "--runs-dir", str(sandbox.runs)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=sandbox.path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
        problems = [] if process.returncode in (130, -signal.SIGINT) else [f"exit {process.returncode}"]
        problems += [f"stderr: {err!r}"] if err else []
        return "; ".join([*problems, f"output: {out!r}"] if problems else [])


RUN_DIR, TRAINER = "scsuite.core.runs.rundir:RunDir", "scsuite.core.training.trainer:Trainer"
FILES, STREAMS = "scsuite.core.files", "scsuite.cli.streams"
CHECKPOINT = "scsuite.core.model.checkpoint"
CHECKS: dict[str, Check] = {
    "while data is loaded": hang_up_before_the_run,
    "in the range test, at its first step": hang_up_with_other_arguments(
        "scsuite.core.lr_range.run_sweep", "launch_step", 1, RESUME_AUTO_LR_ARGS
    ),
    "in the range test": hang_up_with_other_arguments(
        "scsuite.core.lr_range.run_sweep", "launch_step", 30, RESUME_AUTO_LR_ARGS
    ),
    "after the range test, in the training": hang_up_with_other_arguments(
        RUN_DIR, "append_step", 2, RESUME_AUTO_LR_ARGS
    ),
    "at the first step": hang_up_saves_before_it_stops(1),
    "in an epoch": hang_up_saves_before_it_stops(10),
    "after an epoch's last step": hang_up_saves_before_it_stops(2 * STEPS_PER_EPOCH),
    "after the last step": hang_up_saves_before_it_stops(3 * STEPS_PER_EPOCH),
    "in an evaluation": hang_up("scsuite.core.evaluation.evaluate", "_tta_views", 2),
    "before an evaluation": hang_up(TRAINER, "evaluate", 2),
    "in the first commit": hang_up(CHECKPOINT, "save_checkpoint", 1),
    "in the second commit": hang_up(CHECKPOINT, "save_checkpoint", 2),
    "in the writing of a commit": hang_up(CHECKPOINT, "write_atomic", 1),
    "before its rename": hang_up("os", "fsync", 4),
    "with worker processes": hang_up_with_other_arguments(RUN_DIR, "append_step", 9, RESUME_WORKER_ARGS),
    "again after the resume": closed_twice,
    "ignored SIGHUP, from the first step on": gone_without_a_signal(1),
    "ignored SIGHUP, in an epoch": gone_without_a_signal(10),
    "ignored SIGHUP, --json": gone_without_a_signal(10, "--json"),
    "ignored SIGHUP, --quiet": gone_without_a_signal(10, "--quiet"),
    "in lr-range": hang_up_other_command("lr-range", "scsuite.core.lr_range.run_sweep", "launch_step", 9),
    "in evaluate": hang_up_other_command("evaluate", "scsuite.core.evaluation.evaluate", "_tta_views"),
    "in the figures of evaluate": hang_up_other_command("evaluate", "scsuite.report.figures", "save_figure"),
    "in gradcam": hang_up_other_command("gradcam", "scsuite.report.figures", "save_figure"),
    "in predict": hang_up_other_command("predict", "scsuite.core.evaluation.predict", "decode_images"),
    "in zigzag": hang_up_other_command("zigzag", "scsuite.report.figures", "save_figure"),
    **_stream_checks(),
}
QUICK = ("in the range test", "in an epoch", "in the writing of a commit", "both: no terminal", "stdout is /dev/full")
IMPORTS_EVERY, QUICK_IMPORTS = 100, 2  # of the modules that are imported, one in so many; or so many in all
DELAYS = tuple(step / 20 for step in range(2, 11))  # seconds after the start; until half a second


def rows(quick: bool) -> list[ScoreRow]:
    """Two rows: terminals and streams, and signals while the program starts."""
    row = ScoreRow("L terminals and streams that fail", "all: the signal's exit code; resumed to the same end")
    with new_sandbox() as reference_sandbox:
        reference = make_reference_run(reference_sandbox)
        for name, check in CHECKS.items():
            if not quick or name in QUICK:
                with new_sandbox() as sandbox:
                    row.run(f"L {name}", lambda check=check, sandbox=sandbox: check(sandbox, reference))  # type: ignore[misc]
    starts = ScoreRow("L signals while the program starts", "all: 130, 143 or 129, and no traceback")
    modules = imported_modules()
    modules = modules[10 :: len(modules) // QUICK_IMPORTS] if quick else modules[5::IMPORTS_EVERY]
    for number, module in enumerate(modules):
        signum = ("SIGINT", "SIGTERM", "SIGHUP", "SIGINT")[number % 4]
        starts.count(f"L {signum} at the import of {module}", interrupt_at_import(module, signum))
    for seconds in DELAYS[-1:] if quick else DELAYS:
        starts.count(f"L Ctrl-C after {seconds} s", interrupt_after(seconds))
    return [row, starts]
