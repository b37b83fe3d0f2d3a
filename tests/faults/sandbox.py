"""Run the program on bad input or with injected faults. In: arguments and a folder. Out: exit code, output, cost.

Linux only. The parent imports torch once and forks for every case: a real process with a real exit code, real signals
and real limits, in a tenth of a second instead of four.
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

HARNESS_FAILED = 99  # exit code of a child whose failure is ours
COMMANDS_WITH_RUNS = ("zigzag", "lr-range", "train", "evaluate", "gradcam", "report")


@dataclass(frozen=True)
class Outcome:
    """How a process ended: `code` is its exit code, or minus the number of the signal that killed it."""

    code: int
    out: str
    err: str
    seconds: float
    cpu_seconds: float
    megabytes: float  # peak of anonymous memory, above the parent's when it forked


class Sandbox:
    """A folder for one case: `inputs/` must not change, the program may write to `runs/`, `canary` must not appear."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.inputs, self.runs = self.path / "inputs", self.path / "runs"
        self.canary = self.path / "canary"
        self.inputs.mkdir(parents=True)

    @property
    def run_dirs(self) -> list[Path]:
        """The run directories, oldest first."""
        return sorted(self.runs.iterdir()) if self.runs.is_dir() else []

    def tree(self, *, with_runs: bool) -> dict[str, str]:
        """A digest of every file by name; the lock files of runs are left out."""
        paths = (Path(folder) / name for folder, _, files in os.walk(self.path) for name in files)
        included = (p for p in paths if self.runs not in p.parents or (with_runs and p.name != ".lock"))
        return {str(p.relative_to(self.path)): _digest(p) for p in included}


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if not path.is_file():
        return "special"
    size = path.stat().st_size
    return hashlib.sha256(path.read_bytes()).hexdigest() if size < 2**24 else f"{size} {path.stat().st_mtime_ns}"


@contextlib.contextmanager
def new_sandbox() -> Iterator[Sandbox]:
    """An empty sandbox, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="scsuite-faults-") as folder:
        yield Sandbox(Path(folder) / "sandbox")


def import_heavy() -> None:
    """Import what every case needs, once and on one thread, so that forked processes can use it."""
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
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # the first optimizer imports half of torch


def anonymous_megabytes(pid: int) -> float:
    """Resident memory of a process without files that are mapped: a child has those of libraries once it uses them."""
    _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - shared) * resource.getpagesize() / 2**20


@dataclass(frozen=True)
class Process:
    """A running program."""

    pid: int
    start_time: float
    out: Path
    err: Path
    parent_megabytes: float

    def wait(self, timeout: float = 60.0) -> Outcome:
        """Wait for its end; after `timeout` seconds it is killed, and its code is that of SIGKILL."""
        deadline, peak_megabytes = self.start_time + timeout, self.parent_megabytes
        while True:
            peak_megabytes = max(peak_megabytes, anonymous_megabytes(self.pid))  # 0 of a process that has ended
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.002)
        seconds = time.monotonic() - self.start_time
        code = os.waitstatus_to_exitcode(status)
        out, err = (path.read_text(errors="backslashreplace") for path in (self.out, self.err))
        cpu_seconds = usage.ru_utime + usage.ru_stime
        return Outcome(code, out, err, seconds, cpu_seconds, peak_megabytes - self.parent_megabytes)

    def has_orphans(self, patience: float = 6.0) -> bool:
        """Whether a process of its group outlives it; DataLoader workers look for their parent every 5 seconds."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return False
            time.sleep(0.01)
        os.killpg(self.pid, signal.SIGKILL)
        return True


def start(sandbox: Sandbox, arguments: Sequence[object], before: Callable[[], None] = lambda: None) -> Process:
    """Fork and run the program in the sandbox's folder; `before` is called in the child first."""
    number = len(list(sandbox.path.parent.glob("*.out")))
    out, err = (sandbox.path.parent / f"{number}.{name}" for name in ("out", "err"))
    out.touch()  # another process may be started before this one creates it
    sys.stdout.flush()
    sys.stderr.flush()
    parent_megabytes, start_time = anonymous_megabytes(os.getpid()), time.monotonic()
    pid = os.fork()
    if pid == 0:
        _run_child(sandbox, [str(argument) for argument in arguments], before, out, err)
    return Process(pid, start_time, out, err, parent_megabytes)


def _run_child(sandbox: Sandbox, arguments: list[str], before: Callable[[], None], out: Path, err: Path) -> NoReturn:
    code = HARNESS_FAILED
    try:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup would ignore it, in the program too
        os.chdir(sandbox.path)
        for descriptor, path in ((0, Path(os.devnull)), (1, out), (2, err)):
            opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        before()
        from scsuite.cli.app import main

        is_placed = "--runs-dir" in arguments or "--resume" in arguments  # a resume continues its run where it is
        if arguments and arguments[0] in COMMANDS_WITH_RUNS and not is_placed:
            arguments = [*arguments, "--runs-dir", str(sandbox.runs)]
        code = int(main(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:  # whatever happened to stderr: never return into the parent's code
        os._exit(code)


def run(
    sandbox: Sandbox, *arguments: object, before: Callable[[], None] = lambda: None, timeout: float = 60.0
) -> Outcome:
    """Start the program in the sandbox and wait for its end."""
    return start(sandbox, arguments, before).wait(timeout)
