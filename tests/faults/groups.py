"""All groups of faults by name. In: `quick` (fewer cases of the same kinds). Out: the group's rows of the scorecard."""

from collections.abc import Callable

from tests.faults import (
    archives,
    checkpoints,
    command_line,
    crash_sweeps,
    distributed,
    fuzz,
    hostile,
    mismatches,
    other_systems,
    pickles,
    pictures,
    policies,
    run_files,
    runtime_faults,
    silent_errors,
    terminals,
    writers,
)
from tests.faults.case import ScoreRow

GROUPS: dict[str, Callable[[bool], list[ScoreRow]]] = {
    "checkpoints": checkpoints.rows,
    "pickles": pickles.rows,
    "pictures": pictures.rows,
    "archives": archives.rows,
    "hostile": hostile.rows,
    "policies": policies.rows,
    "run_files": run_files.rows,
    "command_line": command_line.rows,
    "runtime_faults": runtime_faults.rows,
    "distributed": distributed.rows,
    "crash_sweeps": crash_sweeps.rows,
    "soak": crash_sweeps.soak_rows,
    "fuzz": fuzz.rows,
    "silent_errors": silent_errors.rows,
    "terminals": terminals.rows,
    "other_systems": other_systems.rows,
    "mismatches": mismatches.rows,
    "writers": writers.rows,
}
FULL_ONLY = frozenset({"distributed"})  # not in the quick scorecard: ranks that wait for each other need free cores
