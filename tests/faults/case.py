"""A bad input or a bad command line, what must come of it, and the check of the rules that hold for all of them.

The rules are R1 to R8 of the project's list of faults: one line that says what, where, what was expected and found and
what to do; nothing executed, nothing written but in the runs directory, nothing there where input or usage was wrong;
refused within 5 seconds and 300 MB; no process left behind.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.faults.box import Box, new_box, start

LINE = re.compile(r"error: [^:]+: .+: expected .+, found .+\. .+\n")
SECONDS_MAX, MEGABYTES_MAX = 5.0, 300.0


@dataclass(frozen=True)
class Case:
    """`make` puts what is bad into the box and returns the command line; `words` stand in what the program says."""

    row: str  # of the list of faults: "A5"
    name: str
    make: Callable[[Box], Sequence[object]]
    code: int
    words: tuple[str, ...] = ()
    before: Callable[[], None] = lambda: None  # called in the program's process before it starts
    after: Callable[[Box], str] = lambda _box: ""  # what is wrong with the disk afterwards, if anything


@dataclass
class Row:
    """One line of the scorecard."""

    figure: str
    target: str
    total: int = 0
    passed: int = 0
    failures: list[str] = field(default_factory=list)
    facts: dict[str, float | int | str] = field(default_factory=dict)

    def count(self, name: str, problems: str | list[str]) -> None:
        """One more case; it passed if there are no problems."""
        self.total += 1
        self.passed += not problems
        if problems:
            self.failures.append(f"{name}: {problems if isinstance(problems, str) else '; '.join(problems)}")

    def worst(self, name: str, value: float) -> None:
        """Keep the largest value under a name."""
        self.facts[name] = round(max(float(self.facts.get(name, 0.0)), value), 2)


def thinned(cases: Sequence[Case], share: int) -> list[Case]:
    """Of each line of the list of faults the first case, and then one in so many."""
    seen: Counter[str] = Counter()
    kept = []
    for case in cases:
        if seen[case.row] % share == 0:
            kept.append(case)
        seen[case.row] += 1
    return kept


def check_cases(figure: str, cases: Sequence[Case]) -> Row:
    """Run every case; a row that says how many ended as they must."""
    row = Row(figure, "all: exit code, message, disk; no traceback, nothing executed, nothing written elsewhere")
    for case in cases:
        row.count(f"{case.row} {case.name}", check(case, row))
    return row


def check(case: Case, row: Row) -> list[str]:
    """What is wrong with the way a case ended; nothing if all is as it must be."""
    with new_box() as box:
        arguments = case.make(box)
        refused = case.code in (2, 3)  # then the runs that were there are as they were, and there is no other
        tree, runs = box.tree(with_runs=refused), box.run_dirs
        process = start(box, arguments, case.before)
        outcome = process.end()
        problems = [case.after(box)]
        if outcome.code != case.code:
            problems.append(f"exit {outcome.code}, not {case.code}")
        said = outcome.out + outcome.err
        if case.code in range(2, 7) and not LINE.fullmatch(outcome.err):
            problems.append("stderr is not one error line")
        if "Traceback" in said:
            problems.append("a traceback")
        problems += [f"does not say {word!r}" for word in case.words if word not in said]
        if box.canary.exists():
            problems.append("CODE WAS EXECUTED")
        if difference := set(box.tree(with_runs=refused).items()) ^ set(tree.items()):
            problems.append(f"changed or written where nothing may be: {sorted(difference)}")
        if refused:
            row.worst("cpu_seconds_max", outcome.cpu_seconds)
            row.worst("seconds_max", outcome.seconds)
            row.worst("megabytes_max", outcome.megabytes)
            if box.run_dirs != runs:
                problems.append("a run directory was made")
            # Of the processor: on a machine with other work the clock counts that too. Waiting has a limit of its own.
            slow = outcome.cpu_seconds > SECONDS_MAX or outcome.seconds > 4 * SECONDS_MAX
            if slow or outcome.megabytes > MEGABYTES_MAX:
                problems.append(f"took {outcome.seconds:.1f} s and {outcome.megabytes:.0f} MB")
        if process.has_orphans():
            problems.append("a process was left behind")
        problems = [problem for problem in problems if problem]
        return [*problems, f"it said: {said[:400]!r}"] if problems else []
