"""Runs the program on bad input or under bad luck: a process of its own for each case, in a folder of its own.

Linux only. The parent imports what is heavy once and forks for every case: a real process with a real exit code, real
signals and real limits, in a tenth of a second instead of four.
"""

import contextlib
import hashlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

TINY = (
    "train", "--data", "shapes", "--limit-train", "100", "--limit-test", "50", "--width", "0.05", "--bs", "16",
    "--workers", "0", "--device", "cpu",
)  # fmt: skip
# 100 images in batches of 16: 7 steps an epoch.


@dataclass(frozen=True)
class StepOutput:
    """How a process ended: `code` is its exit code, or minus the number of the signal that ended it."""

    code: int
    out: str
    err: str
    seconds: float
    cpu_seconds: float
    megabytes: float  # its peak of resident memory, above what the parent held when it was forked


class Box:
    """A folder for one case: `inputs/` must not change, the program may write in `runs/`, `canary` never exists."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.inputs, self.runs = self.path / "inputs", self.path / "runs"
        self.canary = self.path / "canary"
        self.inputs.mkdir(parents=True)

    @property
    def run_dirs(self) -> list[Path]:
        """The run directories that were made, oldest first."""
        return sorted(self.runs.iterdir()) if self.runs.is_dir() else []

    def tree(self, *, with_runs: bool) -> dict[str, str]:
        """All that is in the folder, a digest by name; runs/ or not, and there nothing of a run's lock."""
        names = (Path(folder) / name for folder, _, files in os.walk(self.path) for name in files)
        kept = (p for p in names if self.runs not in p.parents or (with_runs and p.name != ".lock"))
        return {str(p.relative_to(self.path)): _digest(p) for p in kept}


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if not path.is_file():
        return "special"
    size = path.stat().st_size
    return hashlib.sha256(path.read_bytes()).hexdigest() if size < 2**24 else f"{size} {path.stat().st_mtime_ns}"


@contextlib.contextmanager
def new_box() -> Iterator[Box]:
    """An empty box, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="scsuite-faults-") as folder:
        yield Box(Path(folder) / "box")


def import_heavy() -> None:
    """What every case would import: done once, on one thread, so that forked processes may go on with it."""
    os.environ.update(NO_ALBUMENTATIONS_UPDATE="1", OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="1", MPLBACKEND="Agg")
    import albumentations  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import torch
    import torch.distributed

    import scsuite.cli.app
    import scsuite.core.cam
    import scsuite.core.lr_range.range_test
    import scsuite.report.figures  # noqa: F401

    torch.set_num_threads(1)
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # the first one imports half of torch


def resident_megabytes() -> float:
    """This process's resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@dataclass(frozen=True)
class Process:
    """A program under way; `end` waits for it."""

    pid: int
    begin: float
    out: Path
    err: Path
    baseline: float

    def end(self, timeout: float = 60.0) -> StepOutput:
        """Wait for its end; past `timeout` seconds it is killed, and its code is that of SIGKILL."""
        deadline = self.begin + timeout
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.002)
        seconds = time.monotonic() - self.begin
        code = os.waitstatus_to_exitcode(status)
        out, err = (path.read_text(errors="backslashreplace") for path in (self.out, self.err))
        busy = usage.ru_utime + usage.ru_stime
        return StepOutput(code, out, err, seconds, busy, usage.ru_maxrss / 1024 - self.baseline)

    def has_orphans(self, patience: float = 6.0) -> bool:
        """Whether anything of its process group outlives it; torch's workers look for their parent every 5 seconds."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return False
            time.sleep(0.01)
        os.killpg(self.pid, signal.SIGKILL)
        return True


def start(box: Box, arguments: Sequence[object], before: Callable[[], None] = lambda: None) -> Process:
    """Fork, and run the program in the child, in the box's folder; `before` is called there first."""
    number = len(list(box.path.parent.glob("*.out")))
    out, err = (box.path.parent / f"{number}.{name}" for name in ("out", "err"))
    out.touch()  # another may be started before this one has come so far
    sys.stdout.flush()
    sys.stderr.flush()
    baseline, begin = resident_megabytes(), time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(box, [str(argument) for argument in arguments], before, out, err)
    return Process(pid, begin, out, err, baseline)


def _child(box: Box, arguments: list[str], before: Callable[[], None], out: Path, err: Path) -> NoReturn:
    code = 99  # the harness's own failure
    try:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored, by the program too
        os.chdir(box.path)
        for descriptor, path in ((0, Path(os.devnull)), (1, out), (2, err)):
            opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        before()
        from scsuite.cli.app import main

        words = list(arguments)
        if words and words[0] in ("zigzag", "lr-range", "train", "evaluate", "gradcam") and "--runs-dir" not in words:
            words += ["--runs-dir", str(box.runs)]
        code = int(main(words))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:  # whatever happened to stderr: never back into the parent's code
        os._exit(code)


def run(box: Box, *arguments: object, before: Callable[[], None] = lambda: None, timeout: float = 60.0) -> StepOutput:
    """Start the program in the box and wait for its end."""
    return start(box, arguments, before).end(timeout)
