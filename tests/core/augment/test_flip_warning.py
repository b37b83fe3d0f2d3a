"""Classes that a mirrored image may change are noticed by their names."""

import pytest

from scsuite.core.augment import flip_warning


@pytest.mark.parametrize(
    "class_names",
    [
        tuple("0123456789"), tuple("ABCXYZ"), ("a", "b", "9"), ("digit_3", "digit_5"), ("zero", "One", "two"),
        ("Letter A", "Letter B"), ("turn_left", "turn_right", "stop"), ("LeftHand", "RightHand"), ("car-left", "dog"),
    ],
)  # fmt: skip
def test_digits_letters_and_sides_are_noticed(class_names: tuple[str, ...]) -> None:
    assert "--flip none" in (flip_warning(class_names) or "")


@pytest.mark.parametrize(
    "class_names",
    [("cat", "dog"), ("bright", "dark"), ("upright", "leftover"), ("0", "cat"), ("10", "25"), ("one", "cat")],
)
def test_other_names_are_not(class_names: tuple[str, ...]) -> None:
    assert flip_warning(class_names) is None
