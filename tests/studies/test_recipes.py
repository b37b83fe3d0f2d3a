"""The factorials' device. Run: pytest tests/studies/test_recipes.py."""

from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest

from tests.studies.recipes import DESIGNS, LONG, SHORT, Design, Recipe, Trained, at_effective_rate, effects, fitted

GAINS = (0.01, -0.02, 0.0, 0.03, 0.005)  # of the factors, in their order


def signs(design: Design, recipe: Recipe) -> list[int]:
    return [1 if getattr(recipe, name) == high else -1 for name, (_, high) in design.levels.items()]


def trained(design: Design, recipe: Recipe) -> Trained:
    """0.5, and each factor's gain where it is at its high level; the averages are 0.1 better."""
    last = 0.5 + sum(gain * (sign == 1) for gain, sign in zip(GAINS, signs(design, recipe), strict=False))
    averaged = dict.fromkeys(design.horizons, last + 0.1)
    return Trained(**asdict(recipe), train_accuracy=0.9, last=last, averaged=averaged, precision="fp32")


@pytest.mark.parametrize(("design", "num_recipes"), [(SHORT, 16), (LONG, 8)])
def test_no_factor_is_mixed_with_another_or_with_two_others(design: Design, num_recipes: int) -> None:
    rows = np.array([signs(design, recipe) for recipe in design.recipes()])
    assert len(rows) == num_recipes
    columns = list(rows.T)
    for column in columns:
        assert column.sum() == 0
    for one, other in combinations(columns, 2):
        assert one @ other == 0
        for column in columns:
            assert column @ (one * other) == 0


def test_no_two_factors_of_the_short_design_are_mixed_with_two_others() -> None:
    columns = np.array([signs(SHORT, recipe) for recipe in SHORT.recipes()]).T
    for one, other in combinations([a * b for a, b in combinations(columns, 2)], 2):
        assert one @ other == 0


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_the_effects_are_the_gains_that_went_in(design: Design) -> None:
    found_CA, errors_CA, means_A = effects(design, [trained(design, recipe) for recipe in design.recipes()])
    gains = GAINS[: len(design.levels)]
    together = (0.0,) * len(design.products)
    for gain, effect_A in zip((*gains, *together), found_CA, strict=True):
        assert effect_A == pytest.approx(100 * gain, abs=1e-9)
    assert errors_CA == pytest.approx(0, abs=1e-9)
    num_averages = len(design.horizons)
    assert means_A == pytest.approx([50 + 50 * sum(gains)] + [60 + 50 * sum(gains)] * num_averages)


def test_what_two_factors_do_together_is_told_from_what_each_does() -> None:
    rows = [trained(LONG, recipe) for recipe in LONG.recipes()]
    high = [row.weight_decay == 1e-3 and row.effective_rate == 8 for row in rows]
    rows = [replace(row, last=row.last - 0.02 * both) for row, both in zip(rows, high, strict=True)]
    found_CA, errors_CA, _ = effects(LONG, rows)
    # Two points less in a quarter of the rows: one less from each factor's high level, one less where they are alike.
    assert found_CA[:, 0] == pytest.approx([1.0, -2.0 - 1.0, 0.0, 3.0 - 1.0, -1.0])
    assert errors_CA[:, 0] == pytest.approx(0, abs=1e-9)


def test_the_error_is_that_of_a_difference_of_two_means() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(400):
        rows = [trained(SHORT, recipe) for recipe in SHORT.recipes()]
        _, errors_CA, _ = effects(SHORT, [replace(row, last=row.last + 0.004 * rng.normal()) for row in rows])
        errors.append(errors_CA[0, 0])
    # Two means of eight values with a deviation of 0.4 points.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(0.4 * np.sqrt(2 / 8), rel=0.05)


@pytest.mark.parametrize(("cycle_momentum", "lr_max"), [(True, 0.6), (False, 0.4)])
def test_an_effective_rate_of_four_is_cifar10_fasts_peak(cycle_momentum: bool, lr_max: float) -> None:
    recipe = at_effective_rate(4.0, cycle_momentum=cycle_momentum, weight_decay=5e-4, label_smoothing=0.0)
    assert recipe.lr_max == pytest.approx(lr_max)
    assert recipe.effective_rate == 4.0


def test_of_rows_that_are_not_balanced_the_errors_are_larger_by_what_the_causes_share() -> None:
    # Two causes that agree in six of eight rows, a correlation of a half: their errors grow by 1 / sqrt(1 - 0.5 ** 2).
    signs_RC = np.array([[1.0, 1.0], [-1.0, -1.0]] * 3 + [[1.0, -1.0], [-1.0, 1.0]])
    accuracies_RA = np.random.default_rng(0).normal(0.9, 0.004, (8, 1))
    effects_CA, errors_CA, means_A = fitted(signs_RC, accuracies_RA)
    left_R = 100 * accuracies_RA[:, 0] - means_A[0] - signs_RC @ effects_CA[:, 0] / 2
    deviation = np.sqrt((left_R**2).sum() / 5)
    assert errors_CA[:, 0] == pytest.approx(2 * deviation / np.sqrt(8) / np.sqrt(1 - 0.5**2))
