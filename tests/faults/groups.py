"""All groups of faults by name: each takes `quick` (the same, thinned) and returns its rows of the scorecard."""

from collections.abc import Callable

from tests.faults import archives, checkpoints, fuzz, pickles, pictures, policies, ranks, running, silent, sweeps, words
from tests.faults.case import Row

GROUPS: dict[str, Callable[[bool], list[Row]]] = {
    "checkpoints": checkpoints.rows,
    "pickles": pickles.rows,
    "pictures": pictures.rows,
    "archives": archives.rows,
    "policies": policies.rows,
    "words": words.rows,
    "running": running.rows,
    "ranks": ranks.rows,
    "sweeps": sweeps.rows,
    "soak": sweeps.soak_rows,
    "fuzz": fuzz.rows,
    "silent": silent.rows,
}
FULL_ONLY = frozenset({"ranks"})  # not in the quick scorecard: processes that wait for each other want a quiet machine
