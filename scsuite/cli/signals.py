"""SIGINT, SIGTERM and SIGHUP: a training stops at the next step and saves; other commands exit at once, cleaned up.

In: signals. Out: a request that the training loop reads, or SystemExit with 128 + the number of the signal.
"""

import _thread
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from scsuite.core.distributed import World

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # the last one: a closed terminal; Windows has none
POLL_SECONDS = 0.02  # between two looks whether a module is still being imported


class StopSignal:
    """While entered, SIGINT, SIGTERM and SIGHUP only set a flag; a second SIGINT interrupts at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.signum: int | None = None
        self._saved_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for name in STOP_SIGNALS:
            if hasattr(signal, name):
                signum = getattr(signal, name)
                if name == "SIGHUP" and signal.getsignal(signum) == signal.SIG_IGN:  # nohup
                    continue
                try:
                    self._saved_handlers[signum] = signal.signal(signum, self._handle)
                except ValueError:  # not the main thread; only the main thread gets signals
                    break
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        for signum, handler in self._saved_handlers.items():
            signal.signal(signum, handler)
        if self.signum is not None and error_type is not None:
            from scsuite.core.training.workers import WorkerError

            if issubclass(error_type, WorkerError):  # the signal came while a worker was hanging, in a range test
                self.exit()

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum

    def is_set(self) -> bool:
        """Return whether any rank got a signal: all ranks ask at the same step, and exit with the same code."""
        signum = self.world.all_reduce_max(self.signum or 0)
        if signum:  # 0 must not replace a signal that came in the meantime: it counts at the next step
            self.signum = signum
        return bool(signum)

    def exit(self) -> NoReturn:
        """End the process with the signal's exit code."""
        raise SystemExit(128 + (self.signum or signal.SIGINT))


@contextlib.contextmanager
def stop_on_signals(world: World) -> Iterator[StopSignal]:
    """Yield an entered `StopSignal`; a signal after the last step gives its exit code too, with a complete run."""
    with StopSignal(world) as stop:
        yield stop
        if stop.signum is not None and world.size == 1:
            stop.exit()


@contextlib.contextmanager
def exit_on_signals() -> Iterator[list[int]]:
    """Let a signal end a command through its clean-up; `train` replaces these handlers.

    Yields the list that gets the signal: a library may turn the exception into its own. Later signals are ignored, but
    a second Ctrl-C ends the process at once. A signal that is ignored (`nohup`) stays ignored. A signal during an
    import counts when the import has ended: torch imports numpy from C++ and drops an exception there, so that the
    command would go on with a part of numpy.
    """
    received: list[int] = []
    waiting: list[int] = []  # for the end of an import
    caller = sys._getframe(2)  # after this generator and contextlib's __enter__

    def exit_with(signum: int, frame: FrameType | None) -> None:
        if received or waiting:
            if signum == signal.SIGINT:
                os._exit(128 + signum)
        elif _is_importing(frame, caller):
            waiting.append(signum)
            _thread.start_new_thread(send_after_import, (signum, _thread.get_ident()))  # threading would take locks
        else:
            received.append(signum)
            raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)

    def send_after_import(signum: int, main_thread: int) -> None:
        while _is_importing(sys._current_frames().get(main_thread), caller):
            time.sleep(POLL_SECONDS)
        waiting.clear()
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(main_thread, signum)  # it may wait for something by now: this wakes it up
        else:
            signal.raise_signal(signum)

    names = [name for name in STOP_SIGNALS if hasattr(signal, name)]
    names = [name for name in names if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN]
    try:
        saved = {name: signal.signal(getattr(signal, name), exit_with) for name in names}
    except ValueError:  # not the main thread: a test, or a program that uses us
        saved = {}
    try:
        yield received
    finally:
        for name, handler in saved.items():
            signal.signal(getattr(signal, name), handler)


def _is_importing(frame: FrameType | None, outermost: FrameType) -> bool:
    """Return whether one of the frames from this one out to `outermost` is an import."""
    while frame is not None and frame is not outermost:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
