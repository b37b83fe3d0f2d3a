"""Draws on a device have the bits of numpy's, and so have the images. Run: pytest tests/core/augment/test_draws.py."""

from typing import Any

import numpy as np
import pytest
import torch

from scsuite.core.augment import compile_policy, default_policy
from scsuite.core.augment.draws import DeviceRng
from scsuite.core.augment.transforms import CoarseDropout, Crop, Flip, Pad, RandomBrightnessContrast, ToGray
from scsuite.core.seeding import CounterRng
from tests.core import tiny

INDICES_N = np.random.default_rng(0).permutation(5000)
IMAGES_NHWC = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("seed", [0, 2**62 + 1])
def test_integers_and_bernoulli_have_the_bits_of_numpys(seed: int) -> None:
    ours, numpys = DeviceRng(seed, 3, torch.from_numpy(INDICES_N)), CounterRng(seed, 3, INDICES_N)
    for low, high, shape in ((0, 8, ()), (-5, 2**31, ()), (0, 0, ()), (0, 24, (3,)), (1, 3, (2, 4))):
        assert np.array_equal(ours.integers(low, high, *shape).numpy(), numpys.integers(low, high, *shape))
    high_NK = np.random.default_rng(2).integers(0, 30, (5000, 2))
    assert np.array_equal(ours.integers(0, torch.from_numpy(high_NK), 2).numpy(), numpys.integers(0, high_NK, 2))
    for p in (0.0, 0.3, 0.5, 1 / 3, 1 - 2**-53, 1.0):
        assert np.array_equal(ours.bernoulli(p).numpy(), numpys.bernoulli(p))


def test_a_probability_of_one_draw_in_2_53_is_a_compare_of_integers() -> None:
    state = int(CounterRng(0, 0, np.array([7]))._bits(())[0]) >> 11
    for threshold, is_drawn in ((state, False), (state + 1, True)):
        rng = DeviceRng(0, 0, torch.tensor([7]))
        assert bool(rng.bernoulli(threshold * 2.0**-53)) == is_drawn


HOLES = CoarseDropout(0.7, (1, 3), (4, 9), (2, 40), (1, 2, 3))
POLICIES: dict[str, list[Any]] = {
    "default": list(compile_policy(default_policy(tiny.MEAN, tiny.STD)).transforms),
    "constant border": [Pad((3, 1, 2, 5), 0, (9, 8, 7)), Flip(0.4, True), Crop((30, 28), True), Flip(0.5, False)],
    "random pad, several holes": [Pad((4, 4, 4, 4), 2, (0, 0, 0), True), HOLES, Crop((32, 32), False)],
    "columns only": [Flip(0.5, False)],
    "gray between": [Flip(0.5, True), ToGray(0.5, "weighted_average"), Crop((20, 20), True)],
}


@pytest.mark.parametrize("name", POLICIES)
def test_images_augmented_by_draws_on_the_device_are_the_same(name: str) -> None:
    policy = compile_policy(default_policy(tiny.MEAN, tiny.STD))
    policy.transforms = tuple(POLICIES[name])
    assert policy.draws_integers
    indices_N = INDICES_N[:64]
    by_numpy = policy(IMAGES_NHWC, indices_N, seed=5, epoch=2)
    on_device = policy(IMAGES_NHWC, torch.from_numpy(indices_N), seed=5, epoch=2)
    assert torch.equal(by_numpy, on_device)
    assert not torch.equal(by_numpy, policy(IMAGES_NHWC, indices_N, seed=5, epoch=3))


def test_policies_that_need_real_numbers_draw_in_numpy() -> None:
    fractions = CoarseDropout(1.0, (1, 1), (0.1, 0.3), (0.1, 0.3), (0, 0, 0))
    policy = compile_policy(default_policy(tiny.MEAN, tiny.STD))
    for transform in (fractions, RandomBrightnessContrast(0.5, (-0.2, 0.2), (-0.2, 0.2), True)):
        policy.transforms = (Flip(0.5, False), transform)
        assert not policy.draws_integers
