"""Injected faults: signals, kills, full disks, non-finite numbers. In: where and what. Out: a changed child process.

Each function is called in the forked child, as `before` of `sandbox.start`; what it changes ends with that process.
"""

import errno
import itertools
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

OPERATIONS = ("write", "fsync", "replace", "unlink")
NOBODY = 65534
Action = Callable[[], None]


def kill() -> NoReturn:
    """End this process as an out-of-memory killer does: nothing runs afterwards."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def send_signal(signum: int, times: int = 1) -> Action:
    """An action that sends this process a signal."""

    def action() -> None:
        for _ in range(times):
            signal.raise_signal(signum)

    return action


def raise_error(error: BaseException) -> Action:
    """An action that raises an error."""

    def action() -> None:
        raise error

    return action


def after_step(step: int, action: Action) -> None:
    """Act when the row of a step has been written."""
    from scsuite.core.runs.rundir import RunDir

    append = RunDir.append_step

    def append_and_act(self: RunDir, result: Any) -> None:
        append(self, result)
        if result.step == step:
            action()

    RunDir.append_step = append_and_act  # type: ignore[method-assign]


def before_call(owner: Any, name: str, action: Action, call: int = 1) -> None:
    """Act at the start of the n-th call of a function; `owner` is its module or class."""
    calls, function = itertools.count(1), getattr(owner, name)

    def act_and_call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            action()
        return function(*args, **kwargs)

    setattr(owner, name, act_and_call)


def record_steps(path: Path) -> None:
    """Append the number of each finished step to a file."""
    from scsuite.core.runs.rundir import RunDir

    append = RunDir.append_step

    def append_and_record(self: RunDir, result: Any) -> None:
        append(self, result)
        with path.open("a") as file:
            file.write(f"{result.step}\n")

    RunDir.append_step = append_and_record  # type: ignore[method-assign]


def poison_batch(step: int, value: float) -> None:
    """Make one pixel of a step's batch NaN or infinite."""
    from scsuite.core.training.loader import TrainLoader

    epoch_batches = TrainLoader.epoch

    def poisoned_batches(self: TrainLoader, epoch: int, first_batch: int = 0) -> Iterator[Any]:
        for number, batch in enumerate(epoch_batches(self, epoch, first_batch), first_batch):
            if epoch * self.steps_per_epoch + number == step:
                batch.images_NCHW[0, 0, 0, 0] = value
            yield batch

    TrainLoader.epoch = poisoned_batches  # type: ignore[method-assign]


def poison_gradient(step: int) -> None:
    """Make a gradient of a step NaN; its loss stays finite."""
    from scsuite.core.training import step as step_module

    calls, train_step = itertools.count(), step_module.train_step

    def poisoned_step(model: Any, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == step:
            model.fc.weight.register_hook(lambda gradient: gradient * float("nan"))
        return train_step(model, *args, **kwargs)

    step_module.train_step = poisoned_step


def limit_memory(more_bytes: int) -> None:
    """Limit the address space to what the process has now plus this."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limit_file_size(num_bytes: int) -> None:
    """Limit the size of every file, as a quota does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def become_nobody() -> None:
    """Give up root, whom file permissions do not stop."""
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def save_every_epoch() -> None:
    """Write a checkpoint after every epoch, however short it is."""
    from scsuite.core.training import checkpoint_schedule

    checkpoint_schedule.MAX_CHECKPOINT_TIME_FRACTION = 1e9


def fail_operation(number: int, action: str, log: Path | None = None) -> None:
    """Count the writes, fsyncs, renames and unlinks of files, and let the n-th one fail.

    `action` is kill (a write puts half of its bytes on the disk, then the process ends; before any other operation it
    just ends), ENOSPC (from this write on the disk is full, after half of the bytes) or EIO (this operation alone
    fails). With `log`, each operation is written there; number 0 fails none.
    """
    calls = itertools.count(1)
    save_every_epoch()  # otherwise the clock would decide how many operations there are

    def wrap(name: str) -> None:
        function = getattr(os, name)

        def count_and_fail(*args: Any, **kwargs: Any) -> Any:
            position = next(calls)
            if log is not None:
                with log.open("a") as file:
                    file.write(f"{name} {_format_target(args[0])}\n")
            is_full = action == "ENOSPC" and name == "write" and 0 < number <= position
            if is_full or (position == number and action != "ENOSPC"):
                if name == "write" and action != "EIO":
                    function(args[0], bytes(args[1])[: len(args[1]) // 2])
                if action == "kill":
                    kill()
                raise OSError(getattr(errno, action), os.strerror(getattr(errno, action)))
            return function(*args, **kwargs)

        setattr(os, name, count_and_fail)

    for name in OPERATIONS:
        wrap(name)


def _format_target(target: Any) -> str:
    path = Path(f"/proc/self/fd/{target}").resolve() if isinstance(target, int) else Path(target)
    return f"{path.parent.name}/{path.name}"


def leave_out_figures() -> None:
    """Leave out the drawing of a training's figures and the rendering of a page's, which take seconds."""
    import importlib

    for module in ("scsuite.report.page", "scsuite.report.page_images"):
        setattr(importlib.import_module(module), "vector", lambda _figure: "data:,")  # noqa: B010 - for mypy
    setattr(importlib.import_module("scsuite.cli.train_display"), "draw_figures", lambda *_args: [])  # noqa: B010
