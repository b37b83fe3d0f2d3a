"""The fault scorecard: `python -m tests.faults [--quick] [--json FILE] [GROUP ...]`; exits with 1 where a row is short.

Groups run side by side, two at a time, each in a process of its own that is forked when everything heavy is imported.
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

from tests.faults.box import import_heavy
from tests.faults.groups import FULL_ONLY, GROUPS

JOBS = 2
FIRST = ("sweeps", "fuzz")  # the longest groups: begun last, one of them would work alone at the end


def run_groups(names: list[str], quick: bool, folder: Path) -> list[dict[str, Any]]:
    """The rows of all groups, in the order of their names."""
    waiting, working = sorted(names, key=lambda name: name not in FIRST), set[int]()
    while waiting or working:
        while waiting and len(working) < JOBS:
            name = waiting.pop(0)
            pid = os.fork()
            if pid == 0:
                _work(name, quick, folder / f"{name}.json")
            working.add(pid)
        pid, _ = os.wait()
        working.discard(pid)
    rows: list[dict[str, Any]] = []
    for name in names:
        path = folder / f"{name}.json"
        rows += json.loads(path.read_text()) if path.exists() else [_died(name)]
    return rows


def _work(name: str, quick: bool, path: Path) -> None:
    try:
        begin = time.monotonic()
        rows = [asdict(row) for row in GROUPS[name](quick)]
        for row in rows:
            row["group"] = name
        path.write_text(json.dumps(rows))
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def _died(name: str) -> dict[str, Any]:
    return {"group": name, "figure": name, "target": "", "total": 1, "passed": 0, "failures": ["it broke"], "facts": {}}


def show(rows: list[dict[str, Any]]) -> None:
    """The table, and what failed under it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table("figure", "passed", "of", "measured", "target")
    for row in rows:
        style = "" if row["passed"] == row["total"] else "red"
        facts = ", ".join(f"{name} {value}" for name, value in row["facts"].items())
        table.add_row(row["figure"], str(row["passed"]), str(row["total"]), facts, row["target"], style=style)
    console.print(table)
    for row in rows:
        for failure in row["failures"]:
            console.print(f"{row['figure']}: {failure}", markup=False, highlight=False)


def main() -> int:
    """Run the groups, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="the same groups, thinned")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scsuite-faults-") as folder:
        os.environ["SCSUITE_CACHE"] = str(Path(folder) / "cache")
        for name in ("SCSUITE_DATA", "SCSUITE_RUNS", "SCSUITE_CIFAR10_URL"):
            os.environ.pop(name, None)
        import_heavy()
        from scsuite.core.dataset import load_dataset

        load_dataset("shapes")  # drawn once, into the cache of all cases
        named = options.groups or [name for name in GROUPS if not (options.quick and name in FULL_ONLY)]
        rows = run_groups(named, options.quick, Path(folder))
    show(rows)
    ok = all(row["passed"] == row["total"] for row in rows)
    card = {"quick": options.quick, "seconds": round(time.monotonic() - begin), "ok": ok, **_machine(), "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(card, indent=1) + "\n")
    print(f"{'all as it must be' if ok else 'SHORT'}: {card['seconds']} s")
    return 0 if ok else 1


def _machine() -> dict[str, Any]:
    from scsuite.core.runs.rundir import environment

    facts = environment()
    return {
        "versions": facts["versions"], "platform": platform.platform(), "cpu": facts["cpu"],
        "git_commit": facts["git_commit"],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
