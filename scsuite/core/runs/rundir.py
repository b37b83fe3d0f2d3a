"""Run directories: one per run, with configuration, environment, rows, result, figures and checkpoints.

In: what a command did. Out: the files of the run directory, each complete or absent; CSV rows are appended one by one.
No other module writes to a run directory without it.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from scsuite.core.config import Config
from scsuite.core.errors import InputError, InUseError, OutputError
from scsuite.core.files import (
    append,
    check_run_exists,
    csv_text,
    read_yaml,
    write_atomic,
    write_csv,
    write_error,
)
from scsuite.core.flush import flush_file, flush_folder
from scsuite.core.runs.environment import collect_environment, process_name
from scsuite.core.runs.find_runs import seed_runs
from scsuite.core.runs.results import (
    EPOCH_COLUMNS,
    STEP_COLUMNS,
    CommandResult,
    EpochResult,
    StepResult,
    read_csv,
    read_json,
)

if TYPE_CHECKING:  # these modules import torch, which zigzag does not need
    from torch import Tensor

    from scsuite.core.model.checkpoint import Checkpoint

NUM_CHECKPOINTS_KEPT = 2  # while one is written, the one before is complete


class RunDir:
    """A run directory that this process owns: a lock keeps other processes out until `close`.

    With lock=False the directory is only read; rank 0 holds the lock.
    """

    def __init__(self, path: Path, lock: bool = True) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")
        if not lock:
            return
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            owner = read_json(path / "environment.json").get("process", "another process")
            raise InUseError(
                "run directory", path, expected="no other run in it", found=f"in use by {owner}",
                hint="Wait for it to end, or start a new run.",
            ) from None  # fmt: skip
        except OSError as error:
            raise write_error(path, error) from None

    @classmethod
    def create(cls, runs_dir: Path, command: str, name: str) -> Self:
        """Make `runs_dir/<utc time>-<command>-<name>/`. Raises OutputError if that fails."""
        return cls(_make_directory(runs_dir, command, name))

    @classmethod
    def start(cls, runs_dir: Path, command: str, name: str, config: Config, environment: Mapping[str, Any]) -> Self:
        """Make a run directory with config.yaml and environment.json in it."""
        run = cls.create(runs_dir, command, name)
        try:
            run.write_config(config)
            run.write_environment(environment)
        except BaseException:  # also on a signal: a directory that cannot be resumed is removed
            run.delete()
            raise
        return run

    @classmethod
    def open(cls, path: Path, lock: bool = True) -> Self:
        """Open the directory of an earlier training.

        Raises InputError for any other path, InUseError while another process works in it.
        """
        check_run_exists(path)
        if not os.path.isfile(path / "config.yaml"):  # noqa: PTH113 - returns False for a name that is too long
            raise InputError(
                "run", path, expected="a run directory with config.yaml", found="none",
                hint="Give a directory that scsuite train made.",
            )  # fmt: skip
        return cls(path.resolve(), lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def delete(self) -> None:
        """Remove the directory of a run that never started."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def config(self) -> dict[str, Any]:
        """Return the content of config.yaml."""
        return read_yaml(str(self.path / "config.yaml"), "configuration")

    def write_config(self, config: Config) -> None:
        """Write config.yaml: --config with this file repeats the run."""
        import yaml

        text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        write_atomic(self.path / "config.yaml", text.encode())

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write environment.json: versions, machine, commit, command line, and the caller's device, threads, data."""
        self._write_json("environment.json", {**collect_environment(), **environment})

    def update_environment(self, **environment: Any) -> None:
        """Add entries to environment.json, and name this process as the owner of the directory."""
        saved = read_json(self.path / "environment.json")
        self._write_json("environment.json", {**saved, "process": process_name(), **environment})

    def write_result(self, result: CommandResult) -> None:
        """Write result.json, the same object as --json prints."""
        self._write_json("result.json", result.to_dict())

    def result(self) -> dict[str, Any] | None:
        """Return the result of a complete run, else None."""
        result = read_json(self.path / "result.json")
        return result if result and result.get("status", "ok") == "ok" else None

    def _write_json(self, name: str, values: Mapping[str, Any]) -> None:
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        write_atomic(self.path / name, text.encode("utf-8", "backslashreplace"))  # a path may not be UTF-8: \udcff

    def append_step(self, result: StepResult) -> None:
        """Append a row to steps.csv."""
        self._append("steps.csv", STEP_COLUMNS, (result.step, result.lr, result.momentum, result.loss))

    def append_epoch(self, result: EpochResult) -> None:
        """Append a row to metrics.csv."""
        values = ["" if value is None else value for value in astuple(result)]
        self._append("metrics.csv", EPOCH_COLUMNS, values)

    def _append(self, name: str, header: Sequence[str], row: Sequence[Any]) -> None:
        path = self.path / name
        append(path, csv_text([row] if path.exists() else [header, row]))

    def figure_path(self, name: str) -> Path:
        """Return the path of a figure, and make its folder."""
        return self._folder("figures") / f"{name}.png"

    def checkpoint_path(self, step: int) -> Path:
        """Return the path of the checkpoint after `step` steps, and make its folder."""
        return self._folder("checkpoints") / f"step-{step:06d}.safetensors"

    def save_checkpoint(self, step: int, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, Any]) -> None:
        """Write the checkpoint after `step` steps, and keep the newest two; its CSV rows are on disk before it."""
        from scsuite.core.model.checkpoint import save_checkpoint

        self._folder("checkpoints")
        try:
            for path in (self.path / "steps.csv", self.path / "metrics.csv"):
                if path.exists():  # metrics.csv appears with the first complete epoch
                    flush_file(path)
            flush_folder(self.path)
        except OSError as error:
            raise write_error(self.path, error) from None
        save_checkpoint(self.checkpoint_path(step), tensors, metadata)
        prune_checkpoints(self.path)

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(folder, error) from None
        return folder

    def log(self, text: str) -> None:
        """Append lines to log.txt, each with the time. A full disk does not stop the run here."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OutputError):
            append(self.path / "log.txt", "".join(f"{stamp}  {line.rstrip()}\n" for line in text.splitlines()))


def _make_directory(runs_dir: Path, command: str, name: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    stem = f"{stamp}-{command}-{slugify(name)}"
    for number in range(1, 1000):
        path = runs_dir / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
            flush_folder(runs_dir)  # without this, a power cut can lose the directory and its content
        except FileExistsError:
            if runs_dir.is_dir():
                continue  # another run of the same second
            raise write_error(runs_dir, NotADirectoryError("not a directory")) from None
        except OSError as error:
            with contextlib.suppress(OSError):
                path.rmdir()
            raise write_error(path, error) from None
        return path.resolve()
    raise write_error(runs_dir, FileExistsError(f"a thousand runs called {stem}"))


def slugify(text: str) -> str:
    """Return a text that is fit for a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:60] or "run"


def truncate_rows(run: Path, num_steps: int, num_epochs: int) -> list[str]:
    """Truncate steps.csv and metrics.csv to the rows that a checkpoint covers, without duplicates.

    Returns a warning for each file in which rows are missing or damaged.
    """
    problems = []
    tables = (("steps.csv", STEP_COLUMNS, 0, num_steps), ("metrics.csv", EPOCH_COLUMNS, 1, num_epochs))
    for name, header, first, count in tables:
        rows: dict[int, list[str]] = {}
        for row in read_csv(run / name)[1:]:
            if len(row) == len(header) and row[0].isdigit() and first <= int(row[0]) < first + count:
                rows.setdefault(int(row[0]), row)
        if len(rows) < count:
            problems.append(f"{name} has {len(rows)} of the {count} rows up to the checkpoint that is resumed")
        write_csv(run / name, header, [rows[number] for number in sorted(rows)])
    return problems


def remove_result(run: Path) -> None:
    """Remove the result of a run that was stopped or failed, because it goes on."""
    (run / "result.json").unlink(missing_ok=True)


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, newest first: by the step in the name, not by time."""
    paths = [p for p in (run / "checkpoints").glob("step-*.safetensors") if p.stem.removeprefix("step-").isdecimal()]
    return sorted(paths, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)


def prune_checkpoints(run: Path) -> None:
    """Keep the newest two checkpoints, and remove partial files that a killed process left."""
    for path in [*list_checkpoints(run)[NUM_CHECKPOINTS_KEPT:], *run.glob(".*.part"), *run.glob("*/.*.part")]:
        with contextlib.suppress(OSError):
            path.unlink()


def check_disk_space(run: Path, checkpoint_bytes: int) -> None:
    """Raise OutputError if the disk has no space for the checkpoints still to be written.

    One more than is kept has to fit: the newest is written before the oldest is removed.
    """
    written = sum(path.stat().st_size for path in list_checkpoints(run))
    required = (NUM_CHECKPOINTS_KEPT + 1) * checkpoint_bytes - written
    free = shutil.disk_usage(run).free
    if free < required:
        raise OutputError(
            "no space for checkpoints", run, expected=f"{required / 1e6:.1f} MB free", found=f"{free / 1e6:.1f} MB",
            hint="Free some space or choose another --runs-dir.",
        )  # fmt: skip


def latest_checkpoint(run: Path) -> "tuple[Checkpoint | None, list[str]]":
    """Return the newest intact checkpoint, and what is wrong with newer ones; None if none was written yet.

    Raises InputError if all are damaged: starting again would overwrite a run that a user may be able to repair.
    """
    from scsuite.core.model.checkpoint import read_checkpoint

    problems: list[str] = []
    for path in list_checkpoints(run):
        try:
            return read_checkpoint(path), problems
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(
            "run", run / "checkpoints", expected="a complete checkpoint", found=f"none ({problems[0]})",
            hint="Remove that folder to start the run again.",
        )  # fmt: skip
    return None, problems


def resolve_checkpoint(spec: str | Path) -> Path:
    """Return the file that --ckpt RUN|FILE means: a run's model.safetensors, or its newest checkpoint until it ends.

    Raises InputError for a directory that is not a training run.
    """
    path = Path(spec)
    if not os.path.isdir(path):  # noqa: PTH112 - returns False for a name that is too long
        return path  # the error comes from reading it
    if (path / "model.safetensors").exists():
        return path / "model.safetensors"
    if checkpoints := list_checkpoints(path):
        return checkpoints[0]
    for member in seed_runs(path).values():  # the first seed's: none is selected
        return resolve_checkpoint(member)
    raise InputError(
        "checkpoint", path, expected="a training run with model.safetensors or checkpoints/", found="neither",
        hint="Give a directory that scsuite train made.",
    )  # fmt: skip
