"""The factorial's arithmetic. Run: pytest tests/studies/test_recipes.py."""

from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest

from tests.studies.recipes import HORIZONS, LEVELS, Recipe, Trained, effects, recipes

GAIN = {"cycle_momentum": 0.01, "weight_decay": -0.02, "label_smoothing": 0.0, "lr_min": 0.03, "lr_max": 0.005}


def signs(recipe: Recipe) -> dict[str, int]:
    return {name: 1 if getattr(recipe, name) == high else -1 for name, (_, high) in LEVELS.items()}


def trained(recipe: Recipe) -> Trained:
    """0.5, and each factor's gain where it is at its high level; the averages are 0.1 better."""
    last = 0.5 + sum(GAIN[name] * (sign == 1) for name, sign in signs(recipe).items())
    return Trained(**asdict(recipe), last=last, averaged=(last + 0.1,) * len(HORIZONS), precision="fp32")


def test_no_factor_is_mixed_with_another_or_with_two_others() -> None:
    rows = [signs(recipe) for recipe in recipes()]
    assert len(rows) == 16
    columns = [np.array([row[name] for row in rows]) for name in LEVELS]
    pairs = [a * b for a, b in combinations(columns, 2)]
    for one, other in combinations([*columns, *pairs], 2):
        assert one @ other == 0
        assert one.sum() == 0


def test_the_effects_are_the_gains_that_went_in() -> None:
    found_CA, errors_A, means_A = effects([trained(recipe) for recipe in recipes()])
    for name, effect_A in zip(LEVELS, found_CA, strict=True):
        assert effect_A == pytest.approx(100 * GAIN[name], abs=1e-9)
    assert errors_A == pytest.approx(0, abs=1e-9)
    assert means_A == pytest.approx([100 * (0.5 + sum(GAIN.values()) / 2)] + [60 + 50 * sum(GAIN.values())] * 3)


def test_the_error_is_that_of_a_difference_of_two_means() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(400):
        rows = [trained(recipe) for recipe in recipes()]
        _, errors_A, _ = effects([replace(row, last=row.last + 0.004 * rng.normal()) for row in rows])
        errors.append(errors_A[0])
    # Two means of eight values with a deviation of 0.4 points.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(0.4 * np.sqrt(2 / 8), rel=0.05)
