"""The one room that knows runs/: a directory a run, with its configuration, environment, rows, results and figures.

In: what a command did. Out: the files of design.md, each whole or not there; rows are appended as they come.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from scsuite import __version__
from scsuite.core.config import STEPS_DRAWN_MAX, Config
from scsuite.core.errors import InputError, InUseError, OutputError
from scsuite.core.files import (
    append,
    cannot_write,
    commit,
    cpu_name,
    csv_text,
    read_regular,
    read_yaml,
    sync,
    write_csv,
)
from scsuite.core.schedule import one_cycle

if TYPE_CHECKING:  # these rooms import torch, which zigzag has no use for
    from torch import Tensor

    from scsuite.core.checkpoint import Checkpoint
    from scsuite.core.loop import EpochResult, StepResult

METRICS = (
    "epoch", "step", "lr", "momentum", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
    "images_per_second", "seconds", "val_loss", "val_accuracy", "raw_test_loss", "raw_test_accuracy",
)  # fmt: skip
STEPS = ("step", "lr", "momentum", "loss")
PACKAGES = ("torch", "torchvision", "albumentations", "numpy", "pillow", "safetensors", "typer", "rich", "matplotlib")
ROWS_BYTES_MAX = 2**30  # ten million steps
KEPT = 2  # checkpoints; while one is written, the one before is whole


class RunDir:
    """A run directory that this process holds: a lock keeps others out until `close`.

    Without `hold` it is another's, to read in alone: that of the rank that leads.
    """

    def __init__(self, path: Path, hold: bool = True) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")
        if not hold:
            return
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            owner = _text(path / "environment.json").get("process", "another process")
            raise InUseError(
                "run directory",
                path,
                expected="no other run in it",
                found=f"in use by {owner}",
                hint="Wait for it to end, or start a new run.",
            ) from None
        except OSError as error:
            raise cannot_write(path, error) from None

    @classmethod
    def create(cls, runs_dir: Path, command: str, name: str) -> Self:
        """Make `runs_dir/<utc time>-<command>-<name>/`. Raises OutputError where that cannot be made."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        stem = f"{stamp}-{command}-{slug(name)}"
        for number in range(1, 1000):
            path = runs_dir / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
                sync(runs_dir)  # a power cut could forget the directory, whatever is fsynced in it
            except FileExistsError:
                if runs_dir.is_dir():
                    continue  # another run of the same second
                raise cannot_write(runs_dir, NotADirectoryError("not a directory")) from None
            except OSError as error:
                with contextlib.suppress(OSError):
                    path.rmdir()
                raise cannot_write(path, error) from None
            return cls(path.resolve())
        raise cannot_write(runs_dir, FileExistsError(f"a thousand runs called {stem}"))

    @classmethod
    def open(cls, path: Path, hold: bool = True) -> Self:
        """Hold the directory of an earlier training; InputError for another path, InUseError while one is at work."""
        if not os.path.isfile(path / "config.yaml"):  # noqa: PTH113 - which says no to a name too long, and raises nothing
            raise InputError(
                "run", path, expected="a run directory with config.yaml", found="none",
                hint="Give a directory that scsuite train made.",
            )  # fmt: skip
        return cls(path.resolve(), hold)

    def config(self) -> dict[str, Any]:
        """What config.yaml says."""
        return read_yaml(str(self.path / "config.yaml"), "configuration")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory."""
        self._lock.release()

    def discard(self) -> None:
        """Remove the directory: what was to be done in it never began."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def write_config(self, config: Config) -> None:
        """config.yaml: `--config` of it repeats the run."""
        import yaml

        text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        commit(self.path / "config.yaml", text.encode())

    def write_environment(self, facts: Mapping[str, Any]) -> None:
        """environment.json: versions, machine, commit, command line, and the caller's facts (device, threads, data)."""
        self._write_json("environment.json", {**environment(), **facts})

    def update_environment(self, **facts: Any) -> None:
        """environment.json with more facts, and this process as the one that holds the directory."""
        self._write_json("environment.json", {**_text(self.path / "environment.json"), "process": _process(), **facts})

    def write_result(self, result: Mapping[str, Any]) -> None:
        """result.json: what --json prints."""
        self._write_json("result.json", result)

    def result(self) -> dict[str, Any] | None:
        """The result of a run that ended, else None."""
        return _text(self.path / "result.json") or None

    def _write_json(self, name: str, values: Mapping[str, Any]) -> None:
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        commit(self.path / name, text.encode("utf-8", "backslashreplace"))  # a path's bytes that are not UTF-8: \udcff

    def append_step(self, result: "StepResult") -> None:
        """One row of steps.csv."""
        self._append("steps.csv", STEPS, [result.step, result.lr, result.momentum, result.loss])

    def append_epoch(self, result: "EpochResult") -> None:
        """One row of metrics.csv."""
        values = asdict(result)
        self._append("metrics.csv", METRICS, ["" if values[key] is None else values[key] for key in METRICS])

    def _append(self, name: str, header: Sequence[str], row: Sequence[Any]) -> None:
        path = self.path / name
        append(path, csv_text([row] if path.exists() else [header, row]))

    def write_rows(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
        """A CSV file at once."""
        path = self.path / name
        write_csv(path, header, rows)
        return path

    def cut_back(self, steps: int, epochs: int) -> list[str]:
        """Keep the rows of so many steps and epochs: those of the state that a run goes on from, none twice.

        Returns what is wrong with the rows that are left: some were taken away, or damaged, since they were written.
        """
        problems = []
        for name, header, first, count in (("steps.csv", STEPS, 0, steps), ("metrics.csv", METRICS, 1, epochs)):
            kept: dict[int, list[str]] = {}
            for row in _table(self.path / name)[1:]:
                if len(row) == len(header) and row[0].isdigit() and first <= int(row[0]) < first + count:
                    kept.setdefault(int(row[0]), row)
            if len(kept) < count:
                problems.append(f"{name} has {len(kept)} of the {count} rows up to the state that the run goes on from")
            write_csv(self.path / name, header, [kept[number] for number in sorted(kept)])
        return problems

    def steps(self) -> list[dict[str, str]]:
        """The rows of steps.csv."""
        return _rows(self.path / "steps.csv")

    def epochs(self) -> list[dict[str, str]]:
        """The rows of metrics.csv."""
        return _rows(self.path / "metrics.csv")

    def figure(self, name: str) -> Path:
        """Where a figure goes."""
        return self._folder("figures") / f"{name}.png"

    def checkpoint_path(self, step: int) -> Path:
        """Where the state after `step` steps goes."""
        return self._folder("checkpoints") / f"step-{step:06d}.safetensors"

    def save_state(self, step: int, tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any]) -> None:
        """Commit the state after `step` steps, and keep the newest two: the rows before it are on the disk first."""
        from scsuite.core.checkpoint import save_checkpoint

        self._folder("checkpoints")
        try:
            for path in (self.path / "steps.csv", self.path / "metrics.csv", self.path):
                if path.exists():  # no row of an epoch before the first has ended
                    sync(path)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        save_checkpoint(self.checkpoint_path(step), tensors, facts)
        self.drop_old_checkpoints()

    def check_room(self, num_bytes: int) -> None:
        """Raises OutputError where the disk has not so many bytes left for the states that are not there yet."""
        there = sum(path.stat().st_size for path in checkpoints(self.path))
        free = shutil.disk_usage(self.path).free
        if free < num_bytes - there:
            raise OutputError(
                "no room for checkpoints", self.path, expected=f"{(num_bytes - there) / 1e6:.1f} MB free",
                found=f"{free / 1e6:.1f} MB", hint="Free some space or choose another --runs-dir.",
            )  # fmt: skip

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from None
        return folder

    def drop_old_checkpoints(self) -> None:
        """Keep the newest two, and sweep up what a killed process left half written."""
        for path in [*checkpoints(self.path)[KEPT:], *self.path.glob(".*.part"), *self.path.glob("*/.*.part")]:
            with contextlib.suppress(OSError):
                path.unlink()

    def log(self, text: str) -> None:
        """Lines of log.txt, each with the time; a full disk does not stop a run for them."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OutputError):
            append(self.path / "log.txt", "".join(f"{stamp}  {line.rstrip()}\n" for line in text.splitlines()))


def slug(text: str) -> str:
    """A text fit for a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:60] or "run"


def checkpoints(run: Path) -> list[Path]:
    """A run's state files, newest first: their steps say so, not their times."""
    found = [p for p in (run / "checkpoints").glob("step-*.safetensors") if p.stem.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)


def newest_checkpoint(run: Path) -> "tuple[Checkpoint | None, list[str]]":
    """The newest state file that is whole, and what was wrong with newer ones. None where no state was committed.

    Raises InputError where none is whole: to begin again would write over a run that perhaps can be saved.
    """
    from scsuite.core.checkpoint import read_checkpoint

    problems: list[str] = []
    for path in checkpoints(run):
        try:
            return read_checkpoint(path), problems
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(
            "run", run / "checkpoints", expected="a whole state", found=f"none ({problems[0]})",
            hint="Remove that folder to begin the run again.",
        )  # fmt: skip
    return None, problems


def left_unfinished(runs_dir: Path, launcher: str) -> Path | None:
    """The newest training in a runs directory that this torchrun began, if it has not ended."""
    for path in sorted(runs_dir.glob("*Z-train-*"), reverse=True):
        if _text(path / "environment.json").get("launcher") == launcher and not (path / "result.json").exists():
            return path
    return None


def weights_file(spec: str) -> Path:
    """The file that `--ckpt RUN|FILE` means: a run's model.safetensors, or its newest state while it has not ended.

    Raises InputError for a path that is neither a file nor a training run.
    """
    path = Path(spec)
    if not os.path.isdir(path):  # noqa: PTH112 - as above
        return path  # reading it says what is wrong with it
    if (path / "model.safetensors").exists():
        return path / "model.safetensors"
    if found := checkpoints(path):
        return found[0]
    raise InputError(
        "checkpoint", path, expected="a training run with model.safetensors or checkpoints/", found="neither",
        hint="Give a directory that scsuite train made.",
    )  # fmt: skip


def read_result(spec: str, command: str) -> dict[str, Any]:
    """The result of a run of `command`. Raises InputError for anything else."""
    path = Path(spec)
    path = path / "result.json" if os.path.isdir(path) else path  # noqa: PTH112 - as above
    hint = f"Give a directory that scsuite {command} made."
    try:
        result = json.loads(read_regular(path, "run"))
    except (ValueError, RecursionError):
        raise InputError("run", path, expected="a JSON object", found="something else", hint=hint) from None
    found = result.get("command") if isinstance(result, dict) else None
    if found != command:
        raise InputError("run", path, expected=f"the result of {command}", found=f"that of {found}", hint=hint)
    return dict(result)


@dataclass(frozen=True)
class Plan:
    """The cycle that a training run planned, and the rate of each step that it did; ValueError for no such cycle."""

    lr_min: float
    lr_max: float
    peak_step: int
    num_steps: int
    steps_per_epoch: int
    done: list[float]

    def __post_init__(self) -> None:
        counts = (self.peak_step, self.num_steps, self.steps_per_epoch)
        if not all(type(n) is int for n in counts) or not 0 <= self.peak_step < self.num_steps <= STEPS_DRAWN_MAX:
            raise ValueError(f"a peak at step {self.peak_step!r:.40} of {self.num_steps!r:.40}")
        if self.steps_per_epoch < 1:
            raise ValueError(f"{self.steps_per_epoch} steps an epoch")
        for rate in (self.lr_min, self.lr_max, *self.done):
            if type(rate) not in (int, float) or not 0 < rate <= sys.float_info.max:
                raise ValueError(f"a rate of {rate!r:.40}")

    def lrs(self) -> list[float]:
        """The planned rate of each step."""
        return [
            one_cycle(s, lr_min=self.lr_min, lr_max=self.lr_max, peak_step=self.peak_step, num_steps=self.num_steps)
            for s in range(self.num_steps)
        ]


def read_plan(path: Path) -> Plan:
    """Raises InputError for a directory that is not a training run's."""
    rows = _rows(path / "steps.csv")
    try:
        done = [float(row["lr"]) for row in rows]
        return Plan(**_text(path / "environment.json")["schedule"], done=done)
    except (KeyError, TypeError, ValueError) as error:
        found = " ".join(str(error).split())[:120]
        raise InputError(
            "run", path, expected="the schedule and the rates of a training run", found=found,
            hint="Give a directory that scsuite train made.",
        ) from None  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions, machine, git commit and command line; nothing heavy is imported for it."""
    versions = {"scsuite": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "versions": versions,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "git_commit": _git_commit(),
        "command_line": sys.argv,
        "process": _process(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _process() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _git_commit() -> str | None:
    """The commit of the checkout that this code runs from, if it does."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(  # noqa: S603 - fixed words
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
        return answer.stdout.strip()
    return None


def _text(path: Path) -> dict[str, Any]:
    with contextlib.suppress(InputError, ValueError, RecursionError):
        values = json.loads(read_regular(path, "run"))
        return values if isinstance(values, dict) else {}
    return {}


def _table(path: Path) -> list[list[str]]:
    """The lines of a file of ours, whose values are never quoted; none where there is no such file."""
    if not path.exists():
        return []
    text = read_regular(path, "run", ROWS_BYTES_MAX).decode(errors="replace")
    return [line.split(",") for line in text.split("\n") if line]


def _rows(path: Path) -> list[dict[str, str]]:
    header, *rows = _table(path) or [[]]
    if not header:
        raise InputError("run", path, expected="the rows of a training run", found="none", hint="Give a training run.")
    return [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]
