"""B: CIFAR-10 pickles."""

from tests.faults.case import Case, Row, check_cases

CASES: list[Case] = []


def rows(quick: bool) -> list[Row]:
    """One row: the cases of B."""
    return [check_cases("B CIFAR-10 pickles", CASES)]
