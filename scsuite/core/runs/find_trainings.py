"""The trainings that a user names: run directories, directories of these, and groups of `train --seeds`.

In: paths. Out: `TrainSummary` of each training with the runs that belong to it, and the group that they are.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from scsuite.core.errors import InputError
from scsuite.core.runs.find_runs import seed_runs
from scsuite.core.runs.summary import COMPANION_KEYS, HINT, RunSummary, as_mapping, read_neighbours, read_run
from scsuite.core.runs.train_summary import TrainSummary, read_training


def find_trainings(paths: Sequence[Path]) -> list[TrainSummary]:
    """Return the trainings that paths name, each once: run directories, or directories of these.

    A run of another command among them is used where it belongs to a training. A run of several seeds stands for the
    trainings that it made. Raises InputError for a path that is none of these, and if no training is among them.
    """
    runs: dict[Path, RunSummary] = {}
    for path in paths:
        runs |= {run.path: run for run in _expand(path)}
    trainings = [run for run in runs.values() if run.command == "train"]
    if not trainings:
        found = f"runs of {', '.join(sorted({run.command for run in runs.values()}))}" if runs else "no run"
        raise InputError("run", paths[0], expected="a training run", found=found, hint=HINT)
    given = [run for run in runs.values() if run.command in COMPANION_KEYS]
    neighbours: dict[Path, list[RunSummary]] = {}
    for run in trainings:
        if run.path.parent not in neighbours:
            neighbours[run.path.parent] = read_neighbours(run.path)
    return [read_training(run.path, [*neighbours[run.path.parent], *given]) for run in trainings]


def common_group(trainings: Sequence[TrainSummary]) -> RunSummary | None:
    """Return the run of `train --seeds` whose trainings these are, all that have started; None if they are others."""
    group = trainings[0].run.group
    if group is None or {training.run.path for training in trainings} != set(seed_runs(group.path).values()):
        return None
    return group


def _expand(path: Path) -> list[RunSummary]:
    """Return the run at a path, or the runs in it, or those of its seeds."""
    if os.path.isdir(path) and not os.path.isfile(path / "config.yaml"):  # noqa: PTH112, PTH113 - as in read_run
        with contextlib.suppress(OSError):
            children = [child for child in sorted(path.iterdir()) if (child / "config.yaml").is_file()]
            if runs := [run for child in children for run in _runs_of(read_run(child)) or ()]:
                return runs
    run = read_run(path)
    runs = _runs_of(run)
    if not runs:
        raise InputError("run", path, expected="a training run", found="a group of seeds without one", hint=HINT)
    return runs


def _runs_of(run: RunSummary) -> list[RunSummary]:
    """Return the run itself, or the trainings of a run of several seeds that have started."""
    if not run.is_group:
        return [run]
    if in_group := seed_runs(run.path):
        return [read_run(path) for path in in_group.values()]
    runs = []
    seeds = run.result.get("seeds")
    for seed in seeds if isinstance(seeds, list) else ():
        recorded = Path(str(as_mapping(seed).get("run_dir", "")))
        places = (run.path / recorded.name, run.path.parent / recorded.name, recorded)  # moved or not
        runs += [read_run(next((p for p in places if (p / "config.yaml").is_file()), recorded))]
    return runs
