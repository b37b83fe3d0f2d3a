"""Worker processes that augment: their start, their signals, and what happens when they fail or hang.

In: a function that makes a DataLoader with worker processes. Out: its batches, or a WorkerError in place of a wait
without end: torch does not notice a worker that hangs, or whose batch found no space in shared memory.
"""

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from scsuite.core.errors import OutputError, one_line

T = TypeVar("T")

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux keeps the batches on their way from worker to parent
POLL_SECONDS = 1.0  # torch's time limit for a batch, after which we look at the workers and wait on
HANG_POLLS = 15  # polls in which the workers together use less than BUSY_SECONDS of processor time
BUSY_SECONDS = 0.1  # a worker that only waits for work uses about 0.1 ms in 5 s
HAS_SIGWAITINFO = hasattr(signal, "sigwaitinfo")  # it names a signal's sender; without it, torch handles SIGTERM


class WorkerError(OutputError):
    """A worker process that died, hangs, or cannot pass on its batches."""


def worker_error(found: object) -> WorkerError:
    """Return the error for a worker that failed, with the two usual remedies."""
    free = ""
    with contextlib.suppress(OSError):
        free = f" ({shutil.disk_usage(SHARED_MEMORY).free / 1e6:,.0f} MB free)"
    return WorkerError(
        "worker process", "augmentation", expected="a batch", found=one_line(found, 200).rstrip("."),
        hint=f"Use --workers 0, free memory, or make {SHARED_MEMORY}{free} larger: docker run --shm-size=1g.",
    )  # fmt: skip


class WorkerBatches(Iterable[T]):
    """The batches of a DataLoader whose worker processes live for all epochs; they are killed when one fails."""

    def __init__(self, make_loader: Callable[[], Iterable[T]]) -> None:
        self._make_loader = make_loader
        self._loader: Iterable[T] | None = None
        self._workers: set[BaseProcess] = set()

    def __iter__(self) -> Iterator[T]:
        """Yield the batches. Raises WorkerError."""
        with self._kill_if_it_fails():
            batches = self._start()
        while True:
            with self._kill_if_it_fails():
                batch, is_last = self._wait_for_batch(batches)
            if is_last:
                return
            yield batch
            del batch  # not kept alive while the next one is awaited

    def _start(self) -> Iterator[T]:
        if self._loader is None:
            self._loader = self._make_loader()
        others = set(multiprocessing.active_children()) - self._workers
        with _block_sigterm():  # the workers start here and inherit the signal mask
            batches = iter(self._loader)
        self._workers = set(multiprocessing.active_children()) - others
        return batches

    def _wait_for_batch(self, batches: Iterator[T]) -> tuple[Any, bool]:
        """Return the next batch, or None and True at the end. Raises WorkerError when no worker works any more."""
        used, idle_polls = _processor_seconds(self._workers), 0
        while idle_polls < HANG_POLLS:
            try:
                return _raise_if_failed(next(batches)), False
            except StopIteration:
                return None, True
            except RuntimeError as error:
                if "timed out" not in str(error):
                    raise
            now = _processor_seconds(self._workers)
            idle_polls = idle_polls + 1 if now - used < BUSY_SECONDS else 0
            used = now if idle_polls == 0 else used
        raise worker_error(f"none, and no worker at work, for {HANG_POLLS * POLL_SECONDS:.0f} s")

    @contextlib.contextmanager
    def _kill_if_it_fails(self) -> Iterator[None]:
        """Kill the workers on any error, also on a signal: the exit of the process would wait for one that hangs."""
        try:
            yield
        except BaseException as error:
            _kill(self._workers)
            self._loader, self._workers = None, set()  # the next epoch, in a notebook, starts new ones
            is_torch_error = isinstance(error, RuntimeError) and re.search("DataLoader|open files", str(error))
            if is_torch_error or isinstance(error, OSError | EOFError):  # no process, no semaphore, a broken pipe
                raise worker_error(error) from None
            raise


def _raise_if_failed(batch: T) -> T:
    if isinstance(batch, WorkerError):
        try:
            raise batch
        finally:
            del batch  # breaks the cycle of error and frame
    return batch


def _processor_seconds(workers: Iterable[BaseProcess]) -> float:
    """Return the processor time that the workers used so far; where it is unknown, they count as busy."""
    if not Path("/proc/self/stat").exists():
        return time.monotonic()
    ticks = 0
    for worker in workers:
        with contextlib.suppress(OSError):  # it has ended
            fields = Path(f"/proc/{worker.pid}/stat").read_bytes().rpartition(b")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime, `man 5 proc`
    return ticks / os.sysconf("SC_CLK_TCK")


def _kill(workers: Iterable[BaseProcess]) -> None:
    """End workers that may ignore everything else, and wait for their end."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    has_sigchld = is_main_thread and hasattr(signal, "SIGCHLD")
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if has_sigchld else None  # torch's would raise
    try:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(timeout=5)
    finally:
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)


def init_worker_signals(_worker: int) -> None:
    """Ignore signals to the process group (Ctrl-C, a container's stop): the parent still needs batches for its step.

    A SIGTERM from the parent ends the worker: torch and multiprocessing send it, then wait for the worker's end.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if HAS_SIGWAITINFO:
        threading.Thread(target=_exit_on_parent_sigterm, args=(os.getppid(),), daemon=True).start()


@contextlib.contextmanager
def _block_sigterm() -> Iterator[None]:
    """Block SIGTERM while the workers are forked: torch starts threads in them before worker_init_fn runs.

    Any of these threads could receive the signal.
    """
    if not HAS_SIGWAITINFO:
        yield
        return
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def _exit_on_parent_sigterm(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def default_workers() -> int:
    """Return half of the cores, at most 8: on a small machine one core augments and the other trains."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores // 2)
