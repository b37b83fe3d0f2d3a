"""All groups of faults by name: each takes `quick` (the same, thinned) and returns its rows of the scorecard."""

from collections.abc import Callable

from tests.faults import archives, checkpoints, pickles, pictures, policies, words
from tests.faults.case import Row

GROUPS: dict[str, Callable[[bool], list[Row]]] = {
    "checkpoints": checkpoints.rows,
    "pickles": pickles.rows,
    "pictures": pictures.rows,
    "archives": archives.rows,
    "policies": policies.rows,
    "words": words.rows,
}
