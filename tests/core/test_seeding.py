"""The counter-based random numbers: the published algorithm, and the ranges of the values."""

import numpy as np

from scsuite.core.seeding import GOLDEN_GAMMA, CounterRng, _mix


def test_counter_rng_uses_mix() -> None:
    numbers = _mix(np.arange(1, 4, dtype=np.uint64) * GOLDEN_GAMMA)
    # The first three numbers of seed 0.
    assert [f"{number:x}" for number in numbers.tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "6c45d188009454f",
    ]


def test_integers_include_both_ends_and_uniform_numbers_fill_their_range() -> None:
    rng = CounterRng(0, 0, np.arange(1000))
    assert set(rng.integers(-2, 3).tolist()) == {-2, -1, 0, 1, 2, 3}
    assert set(rng.integers(5, 5).tolist()) == {5}
    numbers = rng.uniform(2.0, 3.0, 100)
    assert 2 <= numbers.min() < 2.001
    assert 2.999 < numbers.max() < 3
