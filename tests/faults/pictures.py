"""C: image folders."""

from tests.faults.case import Case, Row, check_cases

CASES: list[Case] = []


def rows(quick: bool) -> list[Row]:
    """One row: the cases of C."""
    return [check_cases("C image folders", CASES)]
