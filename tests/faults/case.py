"""Fault cases and score rows. In: a bad input or command line. Out: what is wrong with the way the program ended.

Rules that hold for every case (R1 to R8 of the project's list of faults): an error is one line that says what, where,
what was expected and found, and what to do; nothing from a file is executed; nothing is written outside the runs
directory; wrong input or usage creates no run; a refusal takes at most 5 seconds and 300 MB; no process is left behind.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.faults.sandbox import Outcome, Sandbox, new_sandbox, start

ERROR_LINE = re.compile(r"error: [^:]+: .+: expected .+, found .+\. .+\n")
MAX_SECONDS, MAX_MEGABYTES = 5.0, 300.0
Problems = str | list[str]  # empty where nothing is wrong


class SkipCaseError(Exception):
    """This machine lacks what a case needs, such as root rights or a tool. The text names it."""


@dataclass(frozen=True)
class FaultCase:
    """A command line on prepared inputs, and how the program must end."""

    fault: str  # its number in the list of faults: "A5"
    name: str
    prepare: Callable[[Sandbox], Sequence[object]]  # writes the inputs, returns the arguments; may raise SkipCaseError
    exit_code: int
    words: tuple[str, ...] = ()  # expected in the output
    before: Callable[[], None] = lambda: None  # called in the program's process before it starts
    after: Callable[[Sandbox], str] = lambda _sandbox: ""  # what is wrong with the files afterwards


@dataclass(frozen=True)
class BoundedCase:
    """A command line on hostile inputs: accepted or refused, but within the limits of a refusal and without a trace."""

    name: str
    prepare: Callable[[Sandbox], Sequence[object]]
    codes: tuple[int, ...] = (0, 3)
    before: Callable[[], None] = lambda: None  # as in FaultCase


@dataclass
class ScoreRow:
    """One line of the scorecard. `total` counts the cases that ran; skipped ones are counted apart."""

    figure: str
    target: str
    total: int = 0
    passed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    measured: dict[str, float | int | str] = field(default_factory=dict)

    def count(self, name: str, problems: Problems) -> None:
        """Add a case that ran; it passed if there are no problems."""
        self.total += 1
        self.passed += not problems
        if problems:
            self.failures.append(f"{name}: {problems if isinstance(problems, str) else '; '.join(problems)}")

    def run(self, name: str, check: Callable[[], Problems]) -> None:
        """Run a check and count it; a missing precondition is counted as skipped, not as passed."""
        try:
            problems = check()
        except SkipCaseError as reason:
            self.skip(name, str(reason))
        else:
            self.count(name, problems)

    def skip(self, name: str, reason: str) -> None:
        """Add a case that this machine cannot run."""
        self.skipped += 1
        self.skips.append(f"{name}: {reason}")

    def keep_max(self, name: str, value: float) -> None:
        """Keep the largest value under a name."""
        self.measured[name] = round(max(float(self.measured.get(name, 0.0)), value), 2)


def thin_cases(cases: Sequence[FaultCase], every: int) -> list[FaultCase]:
    """For each fault, the first case and then every n-th one."""
    num_seen: Counter[str] = Counter()
    selected = []
    for case in cases:
        if num_seen[case.fault] % every == 0:
            selected.append(case)
        num_seen[case.fault] += 1
    return selected


def check_cases(figure: str, cases: Sequence[FaultCase]) -> ScoreRow:
    """Run every case."""
    row = ScoreRow(figure, "all: exit code, message, disk; no traceback, nothing executed, nothing written elsewhere")
    for case in cases:
        row.run(f"{case.fault} {case.name}", lambda case=case: check_case(case, row))  # type: ignore[misc]
    return row


def check_case(case: FaultCase, row: ScoreRow) -> list[str]:
    """Run one case and list what is wrong with the way it ended."""
    with new_sandbox() as sandbox:
        arguments = case.prepare(sandbox)
        is_refusal = case.exit_code in (2, 3)  # then existing runs stay as they are, and no new one is created
        tree, run_dirs = sandbox.tree(with_runs=is_refusal), sandbox.run_dirs
        process = start(sandbox, arguments, case.before)
        outcome = process.wait()
        problems = check_outcome(outcome, case.exit_code, *case.words)
        if disk_problem := case.after(sandbox):
            problems.append(disk_problem)
        if sandbox.canary.exists():
            problems.append("CODE WAS EXECUTED")
        if difference := set(sandbox.tree(with_runs=is_refusal).items()) ^ set(tree.items()):
            problems.append(f"changed or written where nothing may be: {sorted(difference)}")
        if is_refusal:
            problems += _check_refusal_cost(outcome, row)
            if sandbox.run_dirs != run_dirs:
                problems.append("a run directory was created")
        if process.has_orphans():
            problems.append("a process was left behind")
        return problems


def run_bounded(figure: str, cases: Sequence[BoundedCase]) -> ScoreRow:
    """Run every case of hostile inputs."""
    row = ScoreRow(figure, f"all: no traceback; {MAX_SECONDS:g} s of processor time and {MAX_MEGABYTES:g} MB")
    for case in cases:
        row.run(case.name, lambda case=case: check_bounded(case, row))  # type: ignore[misc]
    return row


def check_bounded(case: BoundedCase, row: ScoreRow) -> list[str]:
    """Run one case and list what is wrong: another exit code, a traceback, too much time or memory, a changed input."""
    with new_sandbox() as sandbox:
        arguments = case.prepare(sandbox)
        tree = sandbox.tree(with_runs=False)
        process = start(sandbox, arguments, case.before)
        outcome = process.wait()
        code = outcome.code if outcome.code in case.codes else case.codes[0]
        problems = check_outcome(outcome, code)
        problems += _check_refusal_cost(outcome, row)
        if sandbox.canary.exists():
            problems.append("CODE WAS EXECUTED")
        if sandbox.tree(with_runs=False) != tree:
            problems.append("an input was changed, or a file written beside it")
        return problems + (["a process was left behind"] if process.has_orphans() else [])


def check_outcome(outcome: Outcome, exit_code: int, *words: str) -> list[str]:
    """Check the exit code, the form of an error line, and that the output contains these words."""
    output = outcome.out + outcome.err
    problems = [f"exit {outcome.code}, not {exit_code}"] if outcome.code != exit_code else []
    if exit_code in range(2, 7) and not ERROR_LINE.fullmatch(outcome.err):
        problems.append("stderr is not one error line")
    if "Traceback" in output:
        problems.append("a traceback")
    problems += [f"{word!r} is missing" for word in words if word not in output]
    return [*problems, f"output: {output[-600:]!r}"] if problems else []


def _check_refusal_cost(outcome: Outcome, row: ScoreRow) -> list[str]:
    row.keep_max("cpu_seconds_max", outcome.cpu_seconds)
    row.keep_max("seconds_max", outcome.seconds)
    row.keep_max("megabytes_max", outcome.megabytes)
    # CPU time: on a busy machine, wall-clock time also counts other work. Waiting has a larger limit of its own.
    is_slow = outcome.cpu_seconds > MAX_SECONDS or outcome.seconds > 4 * MAX_SECONDS
    if is_slow or outcome.megabytes > MAX_MEGABYTES:
        return [f"took {outcome.seconds:.1f} s and {outcome.megabytes:.0f} MB"]
    return []
