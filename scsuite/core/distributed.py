"""One training or range test over several processes: which rank this is, and how the ranks exchange values.

In: torchrun's environment variables. Out: a `World`. Outside torchrun it is SINGLE_PROCESS, whose methods do nothing
and import nothing; RANK and similar variables without torchrun, left over in a shell, are ignored. CPU tensors are
exchanged by gloo, CUDA tensors by nccl.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from scsuite.core.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from torch._C._distributed_c10d import Store

RENDEZVOUS_SECONDS = 10.0  # limit for torchrun's store to answer; torchrun starts the store before its processes
COLLECTIVE_SECONDS = 25.0  # limit for one collective; torchrun gives a rank that hangs another 30 s
STARTUP_SECONDS = 300.0  # limit from the first rank's start to the last one's: torch loads slowly from a cold disk
POLL_SECONDS = 0.02  # between two reads of the store
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_broadcast_counter = itertools.count()  # every rank counts in the same order, so equal numbers belong together


@dataclass(frozen=True)
class World:
    """The ranks of a job: this process is rank `rank` of `size`, and number `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main_process(self) -> bool:
        """Return whether this is rank 0, which prints, writes and draws."""
        return self.rank == 0

    @property
    def shard(self) -> slice:
        """Return this rank's shard of a sequence; shards differ by at most one element, rank 0's is never smaller."""
        return slice(self.rank, None, self.size)

    def all_reduce_sum(self, tensor: "Tensor") -> "Tensor":
        """Sum a tensor over all ranks, in place, to the same bits on each. Raises OutputError if a rank is gone."""
        if self.size > 1:
            import torch.distributed as dist

            with self._translate_peer_errors():
                dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, value: int) -> int:
        """Return the largest of the ranks' values. Raises OutputError if a rank is gone."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(value)
        with self._translate_peer_errors():
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def barrier(self) -> None:
        """Wait until all ranks are here. Raises OutputError if a rank is gone."""
        self.all_reduce_max(0)

    def check_equal(self, values: Mapping[str, Any]) -> None:
        """Raise InputError, on every rank, unless all ranks have equal values under these names."""
        if self.size == 1:
            return
        import torch

        # Each rank fills its own row of a table of zeros, and the sum is the full table: no process unpickles anything.
        digests = [hashlib.sha256(json.dumps(value, default=str).encode()).digest() for value in values.values()]
        rows = torch.zeros(self.size, len(digests), 32, dtype=torch.uint8)
        rows[self.rank] = torch.tensor([list(digest) for digest in digests], dtype=torch.uint8)
        different = (self.all_reduce_sum(rows) != rows[0]).any(dim=2).nonzero().tolist()
        for rank, index in different[:1]:
            name = list(values)[index]
            raise InputError(
                "ranks differ", f"rank {rank} of {self.size}", expected=f"the same {name} on all ranks",
                found="another value than on rank 0", hint="Start all nodes with the same command, data and version.",
            )  # fmt: skip

    def broadcast(self, make_text: Callable[[], str]) -> str:
        """Return rank 0's string on every rank; only rank 0 calls `make_text`."""
        if self.size == 1:
            return make_text()
        key = f"broadcast {next(_broadcast_counter)}"
        with self._translate_peer_errors():
            if self.is_main_process:
                _store().set(key, make_text())
            _wait_until(lambda: _store().check([key]))
            return _store().get(key).decode()

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let rank 0 run the block first; the others wait for it without a timeout.

        If rank 0 fails, torchrun stops the others with SIGTERM, so use this before the SIGTERM handler is installed.
        """
        key = f"broadcast {next(_broadcast_counter)}"
        if not self.is_main_process:
            with self._translate_peer_errors():
                _wait_until(lambda: _store().check([key]))
        yield
        if self.is_main_process and self.size > 1:
            with self._translate_peer_errors():
                _store().set(key, "")

    @contextlib.contextmanager
    def _translate_peer_errors(self) -> Iterator[None]:
        """Raise OutputError for torch's RuntimeError when a peer or the store does not answer."""
        try:
            yield
        except RuntimeError as error:
            raise OutputError(
                "another rank is gone", f"rank {self.rank} of {self.size}", expected="an answer from every rank",
                found=_reason(error), hint="Look for the cause in that rank's output, then continue with --resume.",
            ) from error  # fmt: skip


SINGLE_PROCESS = World()


def under_torchrun() -> bool:
    """Return whether torchrun started this process together with others."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" not in env or not all(name in env for name in _VARIABLES):
        return False
    return env["WORLD_SIZE"] != "1"


def torchrun_id() -> str:
    """Return a name of the torchrun that started this process; it stays the same when torchrun restarts the process."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')}, process {os.getppid()} on {platform.node()}"


def is_restart() -> bool:
    """Return whether torchrun restarted its processes after one of them failed (`--max-restarts`)."""
    return under_torchrun() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextlib.contextmanager
def distributed_world() -> Iterator[World]:
    """Join torchrun's other processes, and yield their world; SINGLE_PROCESS outside torchrun.

    Raises OutputError if another process is gone.
    """
    if not under_torchrun():
        yield SINGLE_PROCESS
        return
    import torch
    import torch.distributed as dist

    # Imported before the group exists: when it is loaded, this module stores the existing group in default arguments,
    # which would keep gloo's threads until Python exits. A thread that frees a tensor then aborts the process.
    # torch's optimizers import this module too, so importing it later is not an option.
    import torch.distributed.nn.functional

    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    world = World(rank, size, local_rank)
    try:
        with world._translate_peer_errors():
            # A signal interrupts this wait, but not init_process_group.
            _store().add("num_started", 1)
            _wait_until(lambda: _store().add("num_started", 0) >= size, STARTUP_SECONDS)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                store=_store(), rank=rank, world_size=size, timeout=timedelta(seconds=COLLECTIVE_SECONDS),
            )  # fmt: skip
        yield world
    except BaseException as error:
        claim_first_failure()  # before the other ranks lose their connections to this one and report that as the cause
        if isinstance(error, SystemExit) and dist.is_initialized():  # all ranks agreed on this stop: a normal end
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def require_single_process(command: str) -> None:
    """Raise UsageError under torchrun, for a command that cannot use several processes."""
    if under_torchrun():
        raise UsageError(
            "command line", f"scsuite {command}", expected="one process", found=f"{os.environ['WORLD_SIZE']}",
            hint="Start it without torchrun, which is for train and lr-range.",
        )  # fmt: skip


def claim_first_failure() -> bool:
    """Return whether this rank is the first to fail; only that rank reports the cause.

    From here on SIGTERM is ignored: torchrun sends it when another rank ends, and this rank must still report.
    """
    if not under_torchrun():
        return True
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return _claim_first_failure()


@functools.cache
def _claim_first_failure() -> bool:
    try:
        return _store().add("num_failed", 1) == 1
    except Exception:  # torchrun itself is gone: two reports are better than none
        return True


@functools.cache
def _store() -> "Store":
    """Return the key-value store that torchrun keeps for its processes; it outlives each of them."""
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store: Store = next(rendezvous("env://", timeout=timedelta(seconds=RENDEZVOUS_SECONDS)))[0]
    except RuntimeError as error:
        raise OutputError(
            "torchrun unreachable", f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
            expected="torchrun's store at this address", found=_reason(error), hint="Start torchrun again.",
        ) from error  # fmt: skip
    # A restart gets the same store: the prefix hides what the ranks before the restart wrote.
    return PrefixStore(f"scsuite {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)


def _reason(error: RuntimeError) -> str:
    """Return the first sentence of torch's error text, without the location in torch's source."""
    text = re.sub(r"^\[\S+\] *", "", " ".join(str(error).split()))
    return text.split(". ")[0].rstrip(".")[:160]


def _wait_until(condition: Callable[[], bool], seconds: float = float("inf")) -> None:
    """Poll a condition: torch's own wait ignores signals. Raises RuntimeError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all ranks started within {seconds:g} s")
        time.sleep(POLL_SECONDS)
