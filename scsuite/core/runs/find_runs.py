"""Finding run directories: the runs of a group of `train --seeds`, and a training that torchrun restarts.

In: the path of a directory. Out: the paths of the runs in it. The runs of a group are found by their names, so a group
can be moved.
"""

import re
from pathlib import Path

from scsuite.core.runs.results import read_json

_SEED_SUFFIX = re.compile(r"-seed(\d+)$")


def seed_runs(group: Path) -> dict[int, Path]:
    """Return the runs of a group in the order of their seeds; none for any other directory."""
    runs = {}
    for path in group.glob("*-seed*/config.yaml"):  # a run that was killed while it was made has no config.yaml
        if match := _SEED_SUFFIX.search(path.parent.name):
            runs[int(match[1])] = path.parent
    return dict(sorted(runs.items()))


def find_unfinished_run(runs_dir: Path, torchrun_id: str) -> Path | None:
    """Return the newest training that this torchrun started and that has not ended, or None."""
    for path in sorted(runs_dir.glob("*Z-train-*"), reverse=True):
        if (
            read_json(path / "environment.json").get("torchrun_id") == torchrun_id
            and read_json(path / "result.json").get("status") != "ok"
        ):
            return path
    return None
