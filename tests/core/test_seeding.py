"""Keyed seeds and the counter-based random numbers: the published algorithms, and the ranges of the values."""

from typing import Any

import numpy as np
import pytest

from scsuite.core.seeding import GOLDEN_GAMMA, CounterRng, _mix, keyed_seed


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        ((7, "shuffle", 3), 0x7AE46259D1881696),  # printf '7:shuffle:3' | b2sum -l 64
        ((0, "weights"), 0x1D4B8DD386F762A5),  # printf '0:weights' | b2sum -l 64
    ],
)
def test_a_keyed_seed_is_the_upper_63_bits_of_the_blake2b_of_its_key(key: tuple[Any, ...], digest: int) -> None:
    assert keyed_seed(*key) == digest // 2


def test_keyed_seeds_differ_between_similar_keys() -> None:
    suffixes: list[tuple[int, ...]] = [(), (0,), (1, 23), (12, 3), (123,)]
    seeds = {keyed_seed(s, purpose, *key) for s in (0, 1, 10) for purpose in ("augment", "shuffle") for key in suffixes}
    assert len(seeds) == 3 * 2 * 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_counter_rng_uses_splitmix64() -> None:
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
