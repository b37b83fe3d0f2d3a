"""What a run directory says.

In: the path of a run, complete or not, moved or not. Out: a `RunSummary`. Nothing is written, no weights are read.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from scsuite.core.errors import InputError
from scsuite.core.files import read_yaml
from scsuite.core.runs.results import read_json

HINT = "Give a directory that scsuite train made."
# What the result of a run that belongs to a training must have, by command.
COMPANION_KEYS = {
    "lr-range": {"lr_min", "lr_max"},
    "evaluate": {"accuracy", "accuracy_ci95", "loss", "num_images", "per_class", "confusion_matrix"},
    "gradcam": {"images", "method", "layer"},
}


@dataclass(frozen=True)
class RunSummary:
    """One run directory and the content of its three files; `result` is empty until the run ends.

    The other two are read when they are asked for: a runs directory may hold thousands of runs.
    """

    path: Path
    result: Mapping[str, Any]

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The content of config.yaml. Raises InputError."""
        return read_yaml(str(self.path / "config.yaml"), "configuration")

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """The content of environment.json; empty if it is missing or damaged."""
        return read_json(self.path / "environment.json")

    @property
    def command(self) -> str:
        """The command that made the run; of a run without a result, train or unknown."""
        is_training = {"peak_epoch", "batch_size"} <= self.config.keys() if not self.result else False
        return str(self.result.get("command", "train" if is_training else "unknown"))

    @property
    def status(self) -> str:
        """The status in result.json: ok, stopped, failed; a run without a result is stopped."""
        return str(self.result.get("status", "ok")) if self.result else "stopped"

    @cached_property
    def group(self) -> "RunSummary | None":
        """The run of `train --seeds` in whose directory it lies; None for any other run."""
        with contextlib.suppress(InputError, OSError):
            group = read_run(self.path.resolve().parent)
            return group if group.is_group else None
        return None

    @property
    def is_group(self) -> bool:
        """Whether it is a run of `train --seeds`, which holds a run directory of each seed."""
        return self.command == "train" and bool(self.config.get("seeds"))

    @property
    def target(self) -> float | None:
        """The accuracy that a training had to reach, a fraction; None without one. The option is in percent."""
        target = self.result.get("target", self.config.get("target"))
        if isinstance(target, bool) or not isinstance(target, int | float):
            return None
        return target if target <= 1 else round(target / 100, 12)

    @property
    def name(self) -> str:
        """The run directory's name, below that of its parent: what a user types."""
        return f"{self.path.parent.name}/{self.path.name}".lstrip("/")

    @property
    def started(self) -> str:
        """When the run started, in UTC; texts sort as times do."""
        return str(self.environment.get("started", ""))

    @property
    def data(self) -> Mapping[str, Any]:
        """What environment.json says about the data."""
        return as_mapping(self.environment.get("data"))

    @property
    def checkpoint(self) -> PurePath:
        """The file whose network the run used, as the path was then."""
        return PurePath(str(self.result.get("checkpoint") or self.environment.get("checkpoint") or ""))

    def figure(self, name: str) -> Path | None:
        """Return the path of a figure of this run if it is there."""
        path = self.path / "figures" / f"{name}.png"
        return path if path.is_file() else None


def read_run(path: Path, result: Mapping[str, Any] | None = None) -> RunSummary:
    """Return what a run directory says; `result` stands for a result.json that is not written yet.

    Raises InputError for anything that is not a run directory.
    """
    if not os.path.isfile(path / "config.yaml"):  # noqa: PTH113 - returns False for a name that is too long
        found = "no config.yaml in it" if os.path.isdir(path) else "no directory"  # noqa: PTH112
        raise InputError("run", path, expected="a run directory", found=found, hint=HINT)
    path = path.resolve()
    return RunSummary(path, read_json(path / "result.json") if result is None else result)


def read_neighbours(path: Path) -> list[RunSummary]:
    """Return the complete runs of other commands in the directory of a run, the newest first.

    Those of a training of `train --seeds` are beside its group.
    """
    runs, group = [], RunSummary(path, {}).group
    folders = [path.resolve().parent, *([] if group is None else [group.path.parent])]
    with contextlib.suppress(OSError):
        for neighbour in itertools.chain.from_iterable(folder.iterdir() for folder in folders):
            with contextlib.suppress(InputError, OSError):
                if (neighbour / "result.json").is_file():
                    runs.append(read_run(neighbour))
    # A run that stopped or failed has a result too, without its figures and numbers.
    return newest_first(run for run in runs if run.command in COMPANION_KEYS and run.result.get("status", "ok") == "ok")


def newest_first(runs: Iterable[RunSummary]) -> list[RunSummary]:
    """Return runs in the order of their start, the last one first."""
    return sorted(runs, key=lambda run: (run.started, run.path.name), reverse=True)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a value of a JSON file if it is an object, else an empty mapping."""
    return value if isinstance(value, Mapping) else {}
