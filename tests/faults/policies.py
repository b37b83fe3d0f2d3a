"""E: augmentation policies."""

from tests.faults.case import Case, Row, check_cases

CASES: list[Case] = []


def rows(quick: bool) -> list[Row]:
    """One row: the cases of E."""
    return [check_cases("E augmentation policies", CASES)]
