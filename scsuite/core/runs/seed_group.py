"""The run directory of `train --seeds`: a group that holds one run directory per seed.

In: the path of a directory. Out: the runs in it, by seed. They are found by their names, so a group can be moved.
"""

import re
from pathlib import Path

_SEED_SUFFIX = re.compile(r"-seed(\d+)$")


def seed_runs(group: Path) -> dict[int, Path]:
    """Return the runs of a group in the order of their seeds; none for any other directory."""
    runs = {}
    for path in group.glob("*-seed*/config.yaml"):  # a run that was killed while it was made has no config.yaml
        if match := _SEED_SUFFIX.search(path.parent.name):
            runs[int(match[1])] = path.parent
    return dict(sorted(runs.items()))
