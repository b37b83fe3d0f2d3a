"""Run directories: one per run, with configuration, environment, rows, result, figures and checkpoints.

In: what a command did. Out: the files of the run directory, each complete or absent; CSV rows are appended one by one.
No other module writes to a run directory without it.
"""

import contextlib
import itertools
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
    read_yaml,
    write_atomic,
    write_error,
)
from scsuite.core.flush import flush_file, flush_folder
from scsuite.core.runs.checkpoints import checkpoint_name, prune_checkpoints, remove_left_over_files
from scsuite.core.runs.csv_files import csv_text, read_csv, write_csv
from scsuite.core.runs.environment import collect_environment, environment_changes, last_process
from scsuite.core.runs.results import (
    EPOCH_COLUMNS,
    STEP_COLUMNS,
    CommandResult,
    EpochResult,
    StepResult,
    read_json,
)

if TYPE_CHECKING:  # zigzag does not need torch
    from torch import Tensor


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
            owner = last_process(read_json(path / "environment.json")).get("process", "another process")
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
        """Open the directory of an earlier training. Raises InputError for any other path, or InUseError."""
        check_run_exists(path)
        if not os.path.isfile(path / "config.yaml"):  # noqa: PTH113 - returns False for a name that is too long
            raise InputError(
                "run", path, expected="a run directory with config.yaml", found="none",
                hint="Give a directory that scsuite train made.",
            )  # fmt: skip
        run = cls(path.resolve(), lock)
        if lock:
            remove_left_over_files(run.path)
        return run

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
        """Add entries to environment.json."""
        self._write_json("environment.json", {**read_json(self.path / "environment.json"), **environment})

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
        return self._folder("checkpoints") / checkpoint_name(step)

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


def record_resume(run: RunDir, **environment: Any) -> list[str]:
    """Add this process to `resumes` in environment.json, with what `write_environment` records of the first one.

    Returns a warning for each kind of difference from the process before.
    """
    saved = read_json(run.path / "environment.json")
    before, entry = saved.get("resumes"), {**collect_environment(), **environment}
    run.update_environment(resumes=[*(before if isinstance(before, list) else []), entry])
    return environment_changes(last_process(saved), entry)


def truncate_rows(run: Path, num_steps: int, num_epochs: int) -> list[str]:
    """Truncate steps.csv and metrics.csv to the rows that a checkpoint covers, without duplicates.

    Returns a warning for each file in which rows are missing or damaged.
    """
    problems = []
    tables = (("steps.csv", STEP_COLUMNS, 0, num_steps), ("metrics.csv", EPOCH_COLUMNS, 1, num_epochs))
    for name, header, first, count in tables:
        rows: dict[int, list[str]] = {}
        for row in itertools.islice(read_csv(run / name), 1, None):
            if len(row) == len(header) and row[0].isdigit() and first <= int(row[0]) < first + count:
                rows.setdefault(int(row[0]), row)
        if len(rows) < count:
            problems.append(f"{name} has {len(rows)} of the {count} rows up to the checkpoint that is resumed")
        write_csv(run / name, header, [rows[number] for number in sorted(rows)])
    return problems


def remove_result(run: Path) -> None:
    """Remove the result of a run that was stopped or failed, because it goes on."""
    (run / "result.json").unlink(missing_ok=True)
