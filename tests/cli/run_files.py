"""Read the files of a run directory, for the tests of the commands. In: paths. Out: rows and names."""

import csv
from pathlib import Path


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def list_files(run: Path) -> set[str]:
    """All files of a run directory but the empty one that the lock is held on."""
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
