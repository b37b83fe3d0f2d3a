"""The harness of the fault scorecard itself. The scorecard runs outside pytest: `make faults-quick`, `make faults`."""

import sys
from dataclasses import replace

import pytest

from tests.faults.case import FaultCase, ScoreRow, SkipCaseError, thin_cases
from tests.faults.groups import FULL_ONLY, GROUPS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, signals and limits are those of Linux")


def skipping() -> str:
    raise SkipCaseError("needs root")


def test_a_missing_precondition_counts_as_skipped_not_as_passed() -> None:
    row = ScoreRow("figure", "target")
    row.run("good", lambda: "")
    row.run("bad", lambda: ["exit 1, not 3", "a traceback"])
    row.run("impossible here", skipping)
    assert (row.total, row.passed, row.skipped) == (2, 1, 1)
    assert row.failures == ["bad: exit 1, not 3; a traceback"]
    assert row.skips == ["impossible here: needs root"]


def test_thinned_cases_keep_the_first_of_each_fault() -> None:
    case = FaultCase("A1", "0", lambda _sandbox: (), 3)
    cases = [replace(case, fault=fault, name=str(number)) for fault in ("A1", "A2") for number in range(4)]
    assert [(case.fault, case.name) for case in thin_cases(cases, 3)] == [
        ("A1", "0"), ("A1", "3"), ("A2", "0"), ("A2", "3"),
    ]  # fmt: skip


def test_the_groups_of_the_full_scorecard_alone_exist() -> None:
    assert set(GROUPS) > FULL_ONLY
