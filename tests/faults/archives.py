"""D: archives."""

from tests.faults.case import Case, Row, check_cases

CASES: list[Case] = []


def rows(quick: bool) -> list[Row]:
    """One row: the cases of D."""
    return [check_cases("D archives", CASES)]
