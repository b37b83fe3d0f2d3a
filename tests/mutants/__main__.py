"""Mutation tests of the core: python -m tests.mutants [--only NAME ...] [--count N] [--json FILE] [--again FILE].

In: the modules of `targets.py`. Out: one line per target and per mutant that no test noticed; exit code 1 if 5 % or more
of the valid ones are left.
A mutant is valid if the module can still be imported and `accepted.py` has no reason why nothing observable changes.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}  # before torch is imported

from tests.mutants.accepted import ACCEPTED
from tests.mutants.known import KNOWN
from tests.mutants.mutations import Mutant, make_mutants, statement_lines
from tests.mutants.runner import INVALID, NO_TEST, SURVIVED, Tests, preload, record_tests, run_mutant
from tests.mutants.targets import MORE_TESTS, REPOSITORY, TARGETS

MAX_SURVIVING = 0.05
SEED = 43
ACCEPTED_OUTCOME = "accepted"
PACKAGES = ("torch", "numpy", "albumentations", "safetensors.torch", "yaml", "filelock", "PIL.Image", "torch.utils.data")


def main() -> int:
    """Run the mutants of each target and print what is left."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Mutation tests of the core.")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="NAME")
    parser.add_argument("--count", type=int, default=100, help="mutants of each source file, drawn at random; 0: all")
    parser.add_argument("--seed", type=int, default=SEED, help="of the draw")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--again", type=Path, help="only the mutants that survived in this file")
    parser.add_argument("--known", nargs="?", const="", metavar="TEXT", help="the changes of known.py, with this text")
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    preload(PACKAGES)
    if arguments.known is not None:
        return _run_known(arguments)
    survivors = None if arguments.again is None else _survivors(json.loads(arguments.again.read_text()))
    results = {name: _run_target(name, arguments, survivors) for name in arguments.only}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    num_valid = sum(result["valid"] for result in results.values())
    num_left = sum(len(result["survivors"]) for result in results.values())
    print(f"{num_left} of {num_valid} valid mutants were not noticed")
    return int(num_left >= MAX_SURVIVING * num_valid)


def _survivors(results: dict[str, Any]) -> set[str]:
    return {_change(text) for result in results.values() for text in result["survivors"]}


def _change(text: str) -> str:
    """Return path and change of a survivor's line, without the line number."""
    path, _, change = text.split(": ", 2) if text.count(": ") > 1 else (text, "", "")
    return f"{path.rpartition(':')[0] or path} {change}"


def _run_all(mutants: list[Mutant], tests: Tests, num_jobs: int) -> list[tuple[str, str]]:
    """Return outcome and first failing test of each mutant."""
    jobs = []
    with ProcessPoolExecutor(num_jobs, mp_context=get_context("fork")) as pool:
        for mutant in mutants:
            names = tests.of(mutant.path, mutant.lines)
            seconds = sum(tests.seconds[name] for name in names)
            jobs.append(pool.submit(run_mutant, mutant.path, mutant.text, names, seconds))
        return [job.result() for job in jobs]


def _run_known(arguments: argparse.Namespace) -> int:
    """Run the changes of known.py; return 1 if a test does not notice one."""
    known = [change for change in KNOWN if arguments.known in change.name]
    files = {path for target in TARGETS.values() for path in target.tests} | set(MORE_TESTS)
    paths = sorted({change.path for change in known})
    tests, modules = record_tests(paths, [f"tests/{path}" for path in sorted(files)])
    preload(modules)
    mutants = []
    for change in known:
        text = (REPOSITORY / change.path).read_text(encoding="utf-8")
        lines = statement_lines(text, change.old)
        mutants.append(Mutant(change.path, lines.start, lines, change.name, text.replace(change.old, change.new)))
    results = _run_all(mutants, tests, arguments.jobs)
    for mutant, (outcome, test) in zip(mutants, results, strict=True):
        print(f"{outcome:8} {mutant.change}: {mutant.path}" + (f", by {test}" if test else ""))
    if arguments.json is not None:
        rows = {m.change: f"{outcome}: {test}" for m, (outcome, test) in zip(mutants, results, strict=True)}
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    num_left = sum(outcome in (SURVIVED, NO_TEST, INVALID) for outcome, _ in results)
    print(f"{num_left} of {len(mutants)} known changes were not noticed")
    return int(num_left > 0)


def _run_target(name: str, arguments: argparse.Namespace, again: set[str] | None) -> dict[str, Any]:
    target, start = TARGETS[name], time.perf_counter()
    tests, modules = record_tests(target.sources, [f"tests/{path}" for path in target.tests])
    preload(modules)
    mutants: list[Mutant] = []
    num_all = 0
    for path in target.sources:
        chosen, count = make_mutants(REPOSITORY, path, arguments.count or 10**6, arguments.seed)
        mutants += chosen
        num_all += count
    if again is not None:
        mutants = [mutant for mutant in mutants if f"{mutant.path} {mutant.change}" in again]
    outcomes = [outcome for outcome, _ in _run_all(mutants, tests, arguments.jobs)]
    outcomes = [
        ACCEPTED_OUTCOME if outcome in (SURVIVED, NO_TEST) and mutant.change in ACCEPTED.get(mutant.path, {}) else outcome
        for mutant, outcome in zip(mutants, outcomes, strict=True)
    ]
    counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    survivors = [
        f"{mutant.path}:{mutant.line}: {mutant.change}" + (" (no test runs it)" if outcome == NO_TEST else "")
        for mutant, outcome in zip(mutants, outcomes, strict=True)
        if outcome in (SURVIVED, NO_TEST)
    ]
    num_valid = len(mutants) - counts.get(INVALID, 0) - counts.get(ACCEPTED_OUTCOME, 0)
    seconds = time.perf_counter() - start
    score = 1 - len(survivors) / num_valid if num_valid else 1.0
    print(f"{name}: {score:.1%} of {num_valid} valid mutants noticed, {counts}, {num_all} in all, {seconds:.0f} s")
    for line in survivors:
        print("   ", line)
    sys.stdout.flush()
    return {
        "score": round(score, 4), "valid": num_valid, "outcomes": counts, "mutants_in_all": num_all,
        "tests": len(tests.seconds), "seconds": round(seconds), "survivors": survivors,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
