"""I: systems that are not at hand, simulated: Windows and macOS, a device without float64, fp16 without end.

In: an empty sandbox, and the finished run of this system. Out: one row. Each simulation refuses what that system
refuses; the run must end as on this one, bit for bit where it computes the same.
"""

import fcntl
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core.test_flush import F_FULLFSYNC, refuse_as_windows
from tests.core.training.test_no_float64 import TensorWithoutFloat64
from tests.faults import injection as inject
from tests.faults.builders import picture
from tests.faults.case import ScoreRow, check_outcome
from tests.faults.compare_runs import find_differences, find_partial_files
from tests.faults.runtime_faults import make_reference_run, with_workers
from tests.faults.sandbox import Sandbox, new_sandbox, run, start
from tests.tiny_args import FAULT_DATA_ARGS, RESUME_ARGS, RESUME_WORKER_ARGS, STEPS_PER_EPOCH

Check = Callable[[Sandbox, Path], list[str]]


# --- flushing ---


def windows() -> None:
    """No folder can be opened; no descriptor flushed that is only for reading."""
    refuse_as_windows(pytest.MonkeyPatch())


def macos(log: Path, *, has_command: bool = True) -> inject.Action:
    """fsync leaves data in the disk's cache: only F_FULLFSYNC counts. Without it, as on some file systems, fsync does.

    `log` gets a line for each file that was flushed.
    """

    def before() -> None:
        original, fsync = fcntl.fcntl, os.fsync
        fcntl.F_FULLFSYNC = F_FULLFSYNC  # type: ignore[attr-defined]

        def record(descriptor: int) -> None:
            with log.open("a") as file:
                file.write(f"{descriptor}\n")
            fsync(descriptor)

        def flush_or_call(descriptor: int, command: int, *more: Any) -> Any:
            if command != F_FULLFSYNC:
                return original(descriptor, command, *more)
            if not has_command:
                raise OSError(45, "Operation not supported")
            return record(descriptor)

        fcntl.fcntl = flush_or_call  # type: ignore[assignment]
        if not has_command:
            os.fsync = record  # type: ignore[assignment]

    return before


def flushed_on_macos(*, has_command: bool) -> Check:
    """As many files are flushed as fsync flushes here, and the run is the same."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        log, plain = sandbox.path.parent / "flushed", sandbox.path.parent / "operations"
        outcome = run(sandbox, *RESUME_ARGS, before=_every_epoch(macos(log, has_command=has_command)))
        problems = check_outcome(outcome, 0) + find_differences(sandbox.run_dirs[0], reference)
        with new_sandbox() as other:
            run(other, *RESUME_ARGS, before=lambda: inject.fail_operation(0, "kill", plain))
        num_flushed = len(log.read_text().splitlines()) if log.exists() else 0
        expected = sum(line.startswith("fsync ") for line in plain.read_text().splitlines())
        return problems + ([] if num_flushed == expected else [f"{num_flushed} flushes, not {expected}"])

    return check


def _every_epoch(before: inject.Action) -> inject.Action:
    def both() -> None:
        inject.save_every_epoch()
        before()

    return both


def same_end(before: inject.Action) -> Check:
    """A training on that system ends as here."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        outcome = run(sandbox, *RESUME_ARGS, before=before)
        return check_outcome(outcome, 0) + find_differences(sandbox.run_dirs[0], reference)

    return check


def stopped_and_resumed(before: inject.Action) -> Check:
    """A training is stopped there and resumed there, and ends as here."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        def stop() -> None:
            before()
            inject.after_step(10, inject.send_signal(signal.SIGTERM))

        problems = check_outcome(run(sandbox, *RESUME_ARGS, before=stop), 143)
        if problems:
            return problems
        outcome = run(sandbox, "train", "--resume", sandbox.run_dirs[0], before=before)
        return check_outcome(outcome, 0) + find_differences(sandbox.run_dirs[0], reference)

    return check


def other_command(before: inject.Action, command: str) -> Check:
    """Another command on that system succeeds and leaves no partial file."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        (sandbox.inputs / "a.png").write_bytes(picture(3))
        trained = ("--ckpt", reference, "--device", "cpu")
        words: tuple[object, ...] = {
            "zigzag": ("--run", reference, "--out", sandbox.runs / "new" / "a.svg", "--csv", sandbox.runs / "b.csv"),
            "lr-range": FAULT_DATA_ARGS, "report": (reference, "--out", sandbox.runs / "page.html"),
            "predict": (*trained, sandbox.inputs / "a.png", "--out", sandbox.runs / "answers.csv"),
        }.get(command, trained)  # fmt: skip
        outcome = run(sandbox, command, *words, "--runs-dir", sandbox.runs, before=before)
        return check_outcome(outcome, 0) + find_partial_files(sandbox.runs)

    return check


# --- a device without float64 ---


def without_float64() -> None:
    """Every image on the device is of a class that refuses float64, and so is what is computed from it."""
    from scsuite.core.device import Device

    move = Device.move

    def move_to_device(self: Device, images_NCHW: Tensor) -> Tensor:
        return move(self, images_NCHW).as_subclass(TensorWithoutFloat64)

    Device.move = move_to_device  # type: ignore[method-assign]


# --- worker processes ---


def spawned() -> None:
    """Worker processes are spawned, as on macOS and Windows, and inherit nothing."""
    multiprocessing.set_start_method("spawn", force=True)


def without_senders() -> None:
    """No signal names its sender, as on macOS."""
    from scsuite.core.training import workers

    workers.HAS_SIGWAITINFO = False


def signal_to_group(before: inject.Action, signum: int) -> Check:
    """A signal to the whole process group, as from a terminal or a container: saved, and no worker is left."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        def prepare() -> None:
            before()
            inject.after_step(9, lambda: os.killpg(os.getpgid(0), signum))

        process = start(sandbox, RESUME_WORKER_ARGS, before=prepare)
        problems = check_outcome(process.wait(120), 128 + signum, "scsuite train --resume")
        problems += ["a worker is still running"] if process.has_orphans() else []
        if problems:
            return problems
        outcome = run(sandbox, "train", "--resume", sandbox.run_dirs[0], before=before, timeout=120)
        return check_outcome(outcome, 0) + find_differences(sandbox.run_dirs[0], reference)

    return check


# --- fp16 ---

MAX_SKIPPED = 16  # steps in a row: the scale falls from 2^16 to 1; the next one is a divergence


def with_scaler() -> None:
    """Scale the loss as in fp16, on a CPU that computes in fp32."""
    from scsuite.core.device import Device

    Device.grad_scaler = lambda self: torch.amp.GradScaler("cpu")  # type: ignore[method-assign]


def nan_gradients(first: int, count: int) -> inject.Action:
    """The gradients of these steps are NaN, while their losses are finite."""

    def before() -> None:
        from scsuite.core.training import step as step_module

        with_scaler()
        calls, train_step = itertools.count(), step_module.train_step

        def poisoned_step(model: Any, *args: Any, **kwargs: Any) -> Any:
            if not first <= next(calls) < first + count:
                return train_step(model, *args, **kwargs)
            hook = model.fc.weight.register_hook(lambda gradient: gradient * float("nan"))
            try:
                return train_step(model, *args, **kwargs)
            finally:
                hook.remove()

        step_module.train_step = poisoned_step

    return before


def skips_for_ever(first: int) -> Check:
    """Exit 5 at a bounded number of steps; the last checkpoint is kept, and resumes once the cause is gone."""

    def check(sandbox: Sandbox, _reference: Path) -> list[str]:
        outcome = run(sandbox, *RESUME_ARGS, before=_every_epoch(nan_gradients(first, 10**6)))
        problems = check_outcome(outcome, 5, f"step {first + MAX_SKIPPED}")
        names = sorted(path.name for path in sandbox.runs.glob("*/checkpoints/*"))
        last = (first + MAX_SKIPPED) // STEPS_PER_EPOCH * STEPS_PER_EPOCH
        problems += [] if names[-1:] == [f"step-{last:06d}.safetensors"] else [f"checkpoints: {names}"]
        if problems:
            return problems
        return check_outcome(run(sandbox, "train", "--resume", sandbox.run_dirs[0], before=with_scaler), 0)

    return check


def some_skipped(first: int, count: int) -> Check:
    """As many skipped steps as a scale can need are no error."""
    return lambda sandbox, _reference: check_outcome(run(sandbox, *RESUME_ARGS, before=nan_gradients(first, count)), 0)


COMMANDS = ("zigzag", "lr-range", "evaluate", "gradcam", "predict", "report")
CHECKS: dict[str, Check] = {
    "Windows, train": same_end(windows),
    "Windows, stopped and resumed": stopped_and_resumed(windows),
    **{f"Windows, {command}": other_command(windows, command) for command in COMMANDS},
    "macOS, every flush reaches the disk": flushed_on_macos(has_command=True),
    "macOS, a file system without that flush": flushed_on_macos(has_command=False),
    "no float64, train": same_end(without_float64),
    "no float64, stopped and resumed": stopped_and_resumed(without_float64),
    **{f"no float64, {command}": other_command(without_float64, command) for command in COMMANDS[1:5]},
    **{
        f"{name} workers, {signal.Signals(signum).name} to the group": with_workers(signal_to_group(before, signum))
        for name, before in (("spawned", spawned), ("unnamed senders,", without_senders))
        for signum in (signal.SIGTERM, signal.SIGINT)
    },
    "fp16, NaN gradients from the start": skips_for_ever(0),
    "fp16, NaN gradients from step 4 on": skips_for_ever(4),
    "fp16, one NaN gradient": some_skipped(3, 1),
    "fp16, 16 NaN gradients": some_skipped(0, MAX_SKIPPED),
}
QUICK = ("Windows, train", "no float64, train", "fp16, NaN gradients from step 4 on")


def rows(quick: bool) -> list[ScoreRow]:
    """One row: all checks, or a few of them if `quick`."""
    row = ScoreRow("I other systems, simulated", "all: exit code, message; the same end as here, tolerance 0")
    with new_sandbox() as reference_sandbox:
        reference = make_reference_run(reference_sandbox)
        for name, check in CHECKS.items():
            if not quick or name in QUICK:
                with new_sandbox() as sandbox:
                    row.run(f"I {name}", lambda check=check, sandbox=sandbox: check(sandbox, reference))  # type: ignore[misc]
    return [row]
