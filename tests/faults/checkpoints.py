"""A: checkpoint files that are damaged, foreign or hostile, given to evaluate, gradcam and train --resume."""

from tests.faults.box import Box
from tests.faults.case import Case, Row, check_cases


def _missing(box: Box) -> list[object]:
    return ["evaluate", "--ckpt", box.inputs / "none.safetensors"]


CASES = [
    Case("A13", "a missing file", _missing, 3, ("No such file",)),
]


def rows(quick: bool) -> list[Row]:
    """One row: the cases of A."""
    return [check_cases("A checkpoint files", CASES)]
