"""F: command line."""

from tests.faults.case import Case, Row, check_cases

CASES: list[Case] = []


def rows(quick: bool) -> list[Row]:
    """One row: the cases of F."""
    return [check_cases("F command line", CASES)]
