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
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from scsuite.core.errors import OutputError, one_line

T = TypeVar("T")

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux keeps the batches on their way from worker to parent
POLL_SECONDS = 1.0  # between two looks at the workers
HANG_POLLS = 15  # polls in which the workers together use less than BUSY_SECONDS of processor time
BUSY_SECONDS = 0.1  # a worker that only waits for work uses about 0.1 ms in 5 s
HAS_SIGWAITINFO = hasattr(signal, "sigwaitinfo")  # it names a signal's sender; macOS and Windows lack it


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
        self._num_waits = 0  # odd while a batch is awaited
        self._hangs = False

    def __iter__(self) -> Iterator[T]:
        """Yield the batches. Raises WorkerError."""
        if self._loader is None:  # before the watching thread: the workers are forked here
            with self._kill_if_it_fails():
                self._loader, self._hangs = self._make_loader(), False
                batches: Iterator[T] | None = self._start(self._loader)
        else:
            batches = None
        with self._watch():
            if batches is None:
                with self._wait(), self._kill_if_it_fails():
                    batches = self._start(self._loader)
            while True:
                with self._wait(), self._kill_if_it_fails():
                    try:
                        batch = _raise_if_failed(next(batches))
                    except StopIteration:
                        return
                yield batch
                del batch  # not kept alive while the next one is awaited

    def _start(self, loader: Iterable[T]) -> Iterator[T]:
        others = set(multiprocessing.active_children()) - self._workers
        with _block_signals():  # the workers start here and inherit the signal mask
            batches = iter(loader)
        self._workers = set(multiprocessing.active_children()) - others
        return batches

    @contextlib.contextmanager
    def _wait(self) -> Iterator[None]:
        self._num_waits += 1
        try:
            yield
        finally:
            self._num_waits += 1

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        """Watch the workers from a thread: the wait for a batch, or within it for a worker's answer, has no limit."""
        is_done = threading.Event()
        thread = threading.Thread(target=self._kill_if_they_hang, args=(is_done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_done.set()
            thread.join()

    def _kill_if_they_hang(self, is_done: threading.Event) -> None:
        """Kill a worker if none works although a batch is awaited: torch then raises an error in the waiting thread."""
        last_wait, used, idle_polls = 0, 0.0, 0
        while not is_done.wait(POLL_SECONDS):
            wait, workers = self._num_waits, list(self._workers)
            now = _processor_seconds(workers)
            if wait % 2 == 0 or wait != last_wait or now - used >= BUSY_SECONDS:
                last_wait, used, idle_polls = wait, now, 0
                continue
            idle_polls += 1
            if idle_polls >= HANG_POLLS and (alive := [worker for worker in workers if worker.is_alive()]):
                self._hangs = True
                alive[0].kill()  # one a poll: two signals of ended processes would raise two errors

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
                found = f"none, and no worker at work, for {HANG_POLLS * POLL_SECONDS:.0f} s" if self._hangs else error
                raise worker_error(found) from None
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
    parent = multiprocessing.parent_process()
    if HAS_SIGWAITINFO and parent is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_parent_sigterm, args=(parent.pid,), daemon=True).start()
    elif hasattr(os, "setpgid"):  # macOS does not name a signal's sender: leave the parent's process group
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # drops the one that came while the worker started
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


@contextlib.contextmanager
def _block_signals() -> Iterator[None]:
    """Block signals while workers start, which inherit that: until worker_init_fn runs they would end at a signal.

    With the start method fork, torch starts threads before that, any of which could receive SIGTERM; with spawn, the
    default on macOS, a worker first imports torch for seconds.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    method = multiprocessing.get_start_method()
    if method != "fork":  # its start would unblock the signals
        resource_tracker.ensure_running()
    if method == "forkserver":  # it would block the signals in all processes that it starts
        from multiprocessing import forkserver

        forkserver.ensure_running()
    signals = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")}
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
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
