"""Bad luck to order: signals, kills, full disks and broken numbers, put into the program's process before it starts.

Each function here is called in the forked child, as `before` of `box.start`; what it changes ends with that process.
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


def kill() -> NoReturn:
    """What a power cut or an out-of-memory killer does: nothing can follow."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def raising(signum: int, times: int = 1) -> Callable[[], None]:
    """An action that sends this process a signal."""

    def action() -> None:
        for _ in range(times):
            signal.raise_signal(signum)

    return action


def after_step(step: int, action: Callable[[], None]) -> None:
    """Act when the row of a step has been written."""
    from scsuite.core.runs.rundir import RunDir

    append = RunDir.append_step

    def append_and_act(self: RunDir, result: Any) -> None:
        append(self, result)
        if result.step == step:
            action()

    RunDir.append_step = append_and_act  # type: ignore[method-assign]


def around(module: Any, name: str, action: Callable[[], None], call: int = 1) -> None:
    """Act at the start of the given call of a function."""
    calls, function = itertools.count(1), getattr(module, name)

    def acting(*args: Any, **named: Any) -> Any:
        if next(calls) == call:
            action()
        return function(*args, **named)

    setattr(module, name, acting)


def record_steps(path: Path) -> None:
    """Write the number of each step that is done into a file."""
    from scsuite.core.runs.rundir import RunDir

    append = RunDir.append_step

    def append_and_tell(self: RunDir, result: Any) -> None:
        append(self, result)
        with path.open("a") as file:
            file.write(f"{result.step}\n")

    RunDir.append_step = append_and_tell  # type: ignore[method-assign]


def poison_batch(step: int, value: float) -> None:
    """One pixel of one image of a step's batch becomes NaN or infinite."""
    from scsuite.core.training.loader import TrainLoader

    epoch_of = TrainLoader.epoch

    def poisoned(self: TrainLoader, epoch: int, first_batch: int = 0) -> Iterator[Any]:
        for number, batch in enumerate(epoch_of(self, epoch, first_batch), first_batch):
            if epoch * self.steps_per_epoch + number == step:
                batch.images_NCHW[0, 0, 0, 0] = value
            yield batch

    TrainLoader.epoch = poisoned  # type: ignore[method-assign]


def poison_gradient(step: int) -> None:
    """The loss of a step is finite, one of its gradients is not."""
    from scsuite.core import loop

    calls, train_step = itertools.count(), loop.train_step

    def poisoned(model: Any, *args: Any, **named: Any) -> Any:
        if next(calls) == step:
            model.fc.weight.register_hook(lambda gradient: gradient * float("nan"))
        return train_step(model, *args, **named)

    loop.train_step = poisoned


def limit_memory(more_bytes: int) -> None:
    """So much address space beyond what the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limit_file_size(num_bytes: int) -> None:
    """As a quota does: a file cannot grow past this."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def commit_every_epoch() -> None:
    """However short the epochs are."""
    from scsuite.cli import train

    train.COMMIT_SHARE = 1e9


def fail_operation(number: int, action: str, tell: Path | None = None) -> None:
    """Count the writes, fsyncs, renames and unlinks of files, and at one of them do what `action` says.

    kill: a write gets half of its bytes to the disk and the process ends; before any other operation it just ends.
    ENOSPC: from this write on the disk is full, half-way through each. EIO: this operation alone fails.
    With `tell`, the name of each operation is written there, and `number` 0 fails none.
    """
    calls = itertools.count(1)
    commit_every_epoch()  # else the clock would decide how many operations there are

    def wrap(name: str) -> None:
        function = getattr(os, name)

        def counted(*args: Any, **named: Any) -> Any:
            at = next(calls)
            if tell is not None:
                with tell.open("a") as file:
                    file.write(f"{name} {_target(args[0])}\n")
            full = action == "ENOSPC" and name == "write" and 0 < number <= at
            if full or (at == number and action != "ENOSPC"):
                if name == "write" and action != "EIO":
                    function(args[0], bytes(args[1])[: len(args[1]) // 2])
                if action == "kill":
                    kill()
                raise OSError(getattr(errno, action), os.strerror(getattr(errno, action)))
            return function(*args, **named)

        setattr(os, name, counted)

    for name in OPERATIONS:
        wrap(name)


def _target(place: Any) -> str:
    path = Path(f"/proc/self/fd/{place}").resolve() if isinstance(place, int) else Path(place)
    return f"{path.parent.name}/{path.name}"
