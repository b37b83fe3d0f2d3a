"""Mutation tests of the core: python -m tests.mutants [--only NAME ...] [--count N] [--json FILE].

In: the modules of `targets.py`. Out: one line per target and per mutant that no test noticed; exit code 1 if 5 % or
more of the valid ones are left.
A mutant is valid if the module can still be imported and `accepted.py` has no reason why nothing observable changes.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}  # before torch is imported

from tests.mutants.accepted import is_accepted
from tests.mutants.known import KNOWN
from tests.mutants.mutations import Mutant, make_mutants
from tests.mutants.runner import INVALID, NO_TEST, SURVIVED, preload, record_tests, run_mutant
from tests.mutants.targets import REPOSITORY, TARGETS, tests_of

MAX_SURVIVING = 0.05
SEED = 43
ACCEPTED_OUTCOME = "accepted"
KNOWN_SECONDS = 12.0  # of processor time, a fifth of the limit for the tests of a module
Row = tuple[Mutant, str, str]
PACKAGES = ("torch", "numpy", "albumentations", "safetensors.torch", "yaml", "filelock", "PIL.Image")  # slow to import


def main() -> int:
    """Run the mutants of each target and print what is left."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Mutation tests of the core.")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="NAME")
    parser.add_argument("--count", type=int, default=60, help="mutants of each source file, drawn at random; 0: all")
    parser.add_argument("--seed", type=int, default=SEED, help="of the draw")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--known", nargs="?", const="", metavar="TEXT", help="the changes of known.py, with this text")
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    preload(PACKAGES)
    if arguments.known is not None:
        return _run_known(arguments)
    results = {name: _run_target(name, arguments) for name in arguments.only}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    num_valid = sum(result["valid"] for result in results.values())
    num_left = sum(len(result["survivors"]) for result in results.values())
    print(f"{num_left} of {num_valid} valid mutants were not noticed")
    return int(num_left >= MAX_SURVIVING * num_valid)


def _run_all(mutants: list[Mutant], tests: list[Sequence[str]], seconds: list[float], num_jobs: int) -> Iterator[Row]:
    """Yield each mutant with its outcome and the first test that failed."""
    with ProcessPoolExecutor(num_jobs, mp_context=get_context("fork")) as pool:
        jobs = [
            pool.submit(run_mutant, mutant.path, mutant.text, names, limit)
            for mutant, names, limit in zip(mutants, tests, seconds, strict=True)
        ]
        for mutant, job in zip(mutants, jobs, strict=True):
            yield mutant, *job.result()


def _run_known(arguments: argparse.Namespace) -> int:
    """Run the changes of known.py against the tests of their modules; return 1 if no test notices one."""
    mutants = []
    for change in KNOWN:
        if arguments.known in change.name:
            text = (REPOSITORY / change.path).read_text(encoding="utf-8")
            mutants.append(Mutant(change.path, 0, range(0), change.name, text.replace(change.old, change.new)))
    tests: list[Sequence[str]] = [tests_of(mutant.path) for mutant in mutants]
    results = {}
    for mutant, outcome, test in _run_all(mutants, tests, [KNOWN_SECONDS] * len(mutants), arguments.jobs):
        results[mutant.change] = f"{outcome}, {test.removeprefix('tests/')}"
        print(f"{mutant.change} ({mutant.path}): {results[mutant.change]}", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    num_left = sum(result.startswith((SURVIVED, NO_TEST, INVALID)) for result in results.values())
    print(f"{num_left} of {len(mutants)} known changes were not noticed")
    return int(num_left > 0)


def _run_target(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    target, start = TARGETS[name], time.perf_counter()
    tests, modules = record_tests(target.sources, [f"tests/{path}" for path in target.tests])
    preload(modules)
    mutants: list[Mutant] = []
    num_all = 0
    for path in target.sources:
        chosen, count = make_mutants(REPOSITORY, path, arguments.count or 10**6, arguments.seed)
        mutants += chosen
        num_all += count
    outcomes, survivors = [], []
    names = [tests.of(mutant.path, mutant.lines) for mutant in mutants]
    limits = [sum(tests.seconds[test] for test in tests_of_mutant) for tests_of_mutant in names]
    for mutant, outcome, _ in _run_all(mutants, list(names), limits, arguments.jobs):
        if outcome in (SURVIVED, NO_TEST):
            if is_accepted(mutant.path, mutant.change):
                outcomes.append(ACCEPTED_OUTCOME)
                continue
            note = " (no test runs it)" if outcome == NO_TEST else ""
            survivors.append(f"{mutant.path}:{mutant.line}: {mutant.change}{note}")
            print("   ", survivors[-1], flush=True)
        outcomes.append(outcome)
    counts = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
    num_valid = len(mutants) - counts.get(INVALID, 0) - counts.get(ACCEPTED_OUTCOME, 0)
    seconds = time.perf_counter() - start
    score = 1 - len(survivors) / num_valid if num_valid else 1.0
    print(
        f"{name}: {score:.1%} of {num_valid} valid mutants noticed, {counts}, {num_all} in all, {seconds:.0f} s",
        flush=True,
    )
    return {
        "score": round(score, 4), "valid": num_valid, "outcomes": counts, "mutants_in_all": num_all,
        "tests": len(tests.seconds), "seconds": round(seconds), "survivors": survivors,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
