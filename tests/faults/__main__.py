"""The fault scorecard: `python -m tests.faults [--quick] [--json FILE] [GROUP ...]`; exits with 1 if a case failed.

Two groups run at a time, each in its own process, forked after everything heavy has been imported.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.case import ScoreRow
from tests.faults.groups import FULL_ONLY, GROUPS
from tests.faults.sandbox import import_heavy

NUM_JOBS = 2
# Started first: otherwise one would run alone at the end.
LONGEST = ("runtime_faults", "crash_sweeps", "fuzz", "terminals", "run_files", "mismatches")
Row = dict[str, Any]  # a ScoreRow and the name of its group


def run_groups(names: list[str], quick: bool, folder: Path) -> list[Row]:
    """The rows of all groups, in the order of `names`."""
    waiting, running = sorted(names, key=lambda name: name not in LONGEST), set[int]()
    while waiting or running:
        while waiting and len(running) < NUM_JOBS:
            name = waiting.pop(0)
            pid = os.fork()
            if pid == 0:
                _run_group(name, quick, folder / f"{name}.json")
            running.add(pid)
        pid, _ = os.wait()
        running.discard(pid)
    rows: list[Row] = []
    for name in names:
        path = folder / f"{name}.json"
        rows += json.loads(path.read_text()) if path.exists() else [_crashed_group(name)]
    return rows


def _run_group(name: str, quick: bool, path: Path) -> None:
    try:
        start_time = time.monotonic()
        rows = [asdict(row) | {"group": name} for row in GROUPS[name](quick)]
        path.write_text(json.dumps(rows))
        print(f"{name}: {time.monotonic() - start_time:.0f} s", file=sys.stderr, flush=True)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def _crashed_group(name: str) -> Row:
    row = ScoreRow(name, "")
    row.count(name, "the group itself crashed")
    return asdict(row) | {"group": name}


def show(rows: list[Row]) -> None:
    """Print the table, then each failure and each skipped case."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table("figure", "passed", "of", "skipped", "measured", "target")
    for row in rows:
        style = "" if row["passed"] == row["total"] else "red"
        measured = ", ".join(f"{name} {value}" for name, value in row["measured"].items())
        counts = (str(row[name]) for name in ("passed", "total", "skipped"))
        table.add_row(row["figure"], *counts, measured, row["target"], style=style)
    console.print(table)
    for row in rows:
        for failure in row["failures"]:
            console.print(f"{row['figure']}: {failure}", markup=False, highlight=False)
        for skip in row["skips"]:
            console.print(f"skipped: {row['figure']}: {skip}", markup=False, highlight=False)


def parse_arguments() -> argparse.Namespace:
    """Groups, --quick and --json."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer cases of the same kinds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}")
    return options


def main() -> int:
    """Run the groups, print the table, write the JSON."""
    options = parse_arguments()
    start_time = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scsuite-faults-") as folder:
        os.environ["SCSUITE_CACHE"] = str(Path(folder) / "cache")
        for name in ("SCSUITE_DATA", "SCSUITE_RUNS", "SCSUITE_CIFAR10_URL"):
            os.environ.pop(name, None)
        import_heavy()
        from scsuite.core.dataset import load_dataset

        load_dataset("shapes")  # drawn once, into the cache that all cases share
        names = options.groups or [name for name in GROUPS if not (options.quick and name in FULL_ONLY)]
        rows = run_groups(names, options.quick, Path(folder))
    show(rows)
    ok = all(row["passed"] == row["total"] for row in rows)
    seconds, num_skipped = round(time.monotonic() - start_time), sum(row["skipped"] for row in rows)
    if options.json:
        card = {"quick": options.quick, "seconds": seconds, "ok": ok, "skipped": num_skipped, **_machine()}
        options.json.write_text(json.dumps(card | {"rows": rows}, indent=1) + "\n")
    print(f"{'passed' if ok else 'FAILED'}, {num_skipped} skipped: {seconds} s")
    return 0 if ok else 1


def _machine() -> dict[str, Any]:
    from scsuite.core.runs.environment import collect_environment

    values = collect_environment()
    return {
        "versions": values["versions"], "platform": platform.platform(), "cpu": values["cpu"],
        "git_commit": values["git_commit"],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
