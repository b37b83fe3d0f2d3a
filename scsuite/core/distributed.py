"""One job over the processes that torchrun started: who is who, and what they tell each other.

In: torchrun's environment. Out: a World. Outside torchrun it is SINGLE_PROCESS, whose methods do nothing and import nothing;
RANK and its like without torchrun, left over in a shell, mean nothing. Tensors on the CPU go by gloo, on CUDA by nccl.
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

RENDEZVOUS_SECONDS = 10.0  # seconds for torchrun's own answer, which is there before its processes are
COLLECTIVE_SECONDS = (
    25.0  # seconds that an answer may take; torchrun gives a rank that hangs 30 more, so all ends in a minute
)
STARTUP_SECONDS = 300.0  # seconds from the first rank to the last at a start: a cold disk gives torch late
POLL_SECONDS = 0.02  # seconds between two looks at the store
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_broadcast_counter = itertools.count()  # every rank takes them in the same order


@dataclass(frozen=True)
class World:
    """This process's place among all: `rank` of `size`, the `local_rank`-th on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main_process(self) -> bool:
        """Whether this is the rank that prints, writes and draws."""
        return self.rank == 0

    @property
    def shard(self) -> slice:
        """This rank's share of anything in order: parts differ by one at most, the leader's is never the smaller."""
        return slice(self.rank, None, self.size)

    def all_reduce_sum(self, tensor: "Tensor") -> "Tensor":
        """The sum over all ranks, in place; every rank gets the same bits. Raises OutputError where one is gone."""
        if self.size > 1:
            import torch.distributed as dist

            with self._translate_peer_errors():
                dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, value: int) -> int:
        """The largest of the ranks' values. Raises OutputError where one is gone."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(value)
        with self._translate_peer_errors():
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def barrier(self) -> None:
        """Wait until all are here. Raises OutputError where one is gone."""
        self.all_reduce_max(0)

    def check_equal(self, values: Mapping[str, Any]) -> None:
        """Raises InputError, on every rank, unless all have equal values under these names."""
        if self.size == 1:
            return
        import torch

        # A row a rank and zeros elsewhere: their sum is all rows, and nothing of another process is unpickled.
        digests = [hashlib.sha256(json.dumps(value, default=str).encode()).digest() for value in values.values()]
        rows = torch.zeros(self.size, len(digests), 32, dtype=torch.uint8)
        rows[self.rank] = torch.tensor([list(digest) for digest in digests], dtype=torch.uint8)
        different = (self.all_reduce_sum(rows) != rows[0]).any(dim=2).nonzero().tolist()
        for rank, index in different[:1]:
            name = list(values)[index]
            raise InputError(
                "ranks differ", f"rank {rank} of {self.size}", expected=f"the same {name} on all of them",
                found="another than on rank 0", hint="Start all nodes with the same command, data and version.",
            )  # fmt: skip

    def broadcast(self, say: Callable[[], str]) -> str:
        """The leader's word, on every rank."""
        if self.size == 1:
            return say()
        key = f"turn {next(_broadcast_counter)}"
        with self._translate_peer_errors():
            if self.is_main_process:
                _store().set(key, say())
            _wait_until(lambda: _store().check([key]))
            return _store().get(key).decode()

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The others enter when the leader is through, however long that takes; where it fails, torchrun ends them.

        By SIGTERM, which must still end a process at once: for before there is a run to save.
        """
        key = f"turn {next(_broadcast_counter)}"
        if not self.is_main_process:
            with self._translate_peer_errors():
                _wait_until(lambda: _store().check([key]))
        yield
        if self.is_main_process and self.size > 1:
            with self._translate_peer_errors():
                _store().set(key, "")

    @contextlib.contextmanager
    def _translate_peer_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise OutputError(
                "another rank is gone", f"rank {self.rank} of {self.size}", expected="an answer from all of them",
                found=_reason(error), hint="See what ended it, and go on with --resume.",
            ) from error  # fmt: skip


SINGLE_PROCESS = World()


def under_torchrun() -> bool:
    """Whether torchrun started this process, and others beside it."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" not in env or not all(name in env for name in _VARIABLES):
        return False
    return env["WORLD_SIZE"] != "1"


def torchrun_id() -> str:
    """Names the torchrun that started this process: the same when it starts the process again."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')}, process {os.getppid()} on {platform.node()}"


def is_restart() -> bool:
    """Whether torchrun has started its processes before, and one of them failed (`--max-restarts`)."""
    return under_torchrun() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextlib.contextmanager
def distributed_world() -> Iterator[World]:
    """The world that torchrun made, joined with all others; SINGLE_PROCESS outside it. Raises OutputError where one fails."""
    if not under_torchrun():
        yield SINGLE_PROCESS
        return
    import torch
    import torch.distributed as dist

    # The group that is there as this loads is kept by it (as default arguments), and so are gloo's threads, which must
    # not outlive join: one that lets go of a tensor while Python ends aborts the process. torch's optimizers load it.
    import torch.distributed.nn.functional

    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    world = World(rank, size, local_rank)
    try:
        with world._translate_peer_errors():
            _store().add("here", 1)
            _wait_until(
                lambda: _store().add("here", 0) >= size, STARTUP_SECONDS
            )  # a signal ends this, not what follows
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                store=_store(), rank=rank, world_size=size, timeout=timedelta(seconds=COLLECTIVE_SECONDS),
            )  # fmt: skip
        yield world
    except BaseException as error:
        claim_first_failure()  # before the others see this one's connections end, and take that for the cause
        if isinstance(error, SystemExit) and dist.is_initialized():  # a stop that all agreed on: as at the end
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def require_single_process(command: str) -> None:
    """Raises UsageError under torchrun: a command that has nothing for several processes to share."""
    if under_torchrun():
        raise UsageError(
            "command line", f"scsuite {command}", expected="one process", found=f"{os.environ['WORLD_SIZE']}",
            hint="Start it without torchrun, which is for train and lr-range.",
        )  # fmt: skip


def claim_first_failure() -> bool:
    """Whether no other rank has failed before this one: it names the cause, and they keep silent.

    From here on torchrun's SIGTERM changes nothing: it comes as another rank ends, and this one is yet to say why.
    """
    if not under_torchrun():
        return True
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return _claim_first_failure()


@functools.cache
def _claim_first_failure() -> bool:
    try:
        return _store().add("failed", 1) == 1
    except Exception:  # torchrun itself is gone: better named twice than never
        return True


@functools.cache
def _store() -> "Store":
    """The small table that torchrun keeps for its processes: it outlives any of them."""
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store: Store = next(rendezvous("env://", timeout=timedelta(seconds=RENDEZVOUS_SECONDS)))[0]
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise OutputError(
            "torchrun is gone", where, expected="its answer", found=_reason(error), hint="Start it again, or mend that."
        ) from error
    # The table is the same after a restart, and what the ranks before it wrote there is not for these.
    return PrefixStore(f"scsuite {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)


def _reason(error: RuntimeError) -> str:
    """The first sentence of what torch says, without the place in its source."""
    text = re.sub(r"^\[\S+\] *", "", " ".join(str(error).split()))
    return text.split(". ")[0].rstrip(".")[:160]


def _wait_until(condition: Callable[[], bool], seconds: float = float("inf")) -> None:
    """Asks again and again: torch's own waiting is deaf to signals."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all came within {seconds:g} s")
        time.sleep(POLL_SECONDS)
