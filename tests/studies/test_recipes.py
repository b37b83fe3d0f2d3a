"""The factorial designs and their effects, on made-up accuracies."""

from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest

from tests.studies.recipes import (
    DESIGNS,
    LONG,
    SHORT,
    Design,
    Recipe,
    RecipeResult,
    compute_effects,
    fit_effects,
    make_recipe,
)

GAINS = (0.01, -0.02, 0.0, 0.03, 0.005)  # of the factors, in order


def signs(design: Design, recipe: Recipe) -> list[int]:
    return [1 if getattr(recipe, name) == high else -1 for name, (_, high) in design.levels.items()]


def make_result(design: Design, recipe: Recipe) -> RecipeResult:
    """Return accuracy 0.5 plus the gain of each factor at its high level; 0.1 more for the averages."""
    last = 0.5 + sum(gain * (sign == 1) for gain, sign in zip(GAINS, signs(design, recipe), strict=False))
    ema = dict.fromkeys(design.time_constants, last + 0.1)
    return RecipeResult(**asdict(recipe), train_accuracy=0.9, last=last, ema=ema, precision="fp32")


@pytest.mark.parametrize(("design", "num_recipes"), [(SHORT, 16), (LONG, 8)])
def test_no_factor_is_confounded_with_one_or_two_others(design: Design, num_recipes: int) -> None:
    rows = np.array([signs(design, recipe) for recipe in design.recipes()])
    assert len(rows) == num_recipes
    columns = list(rows.T)
    for column in columns:
        assert column.sum() == 0
    for first, second in combinations(columns, 2):
        assert first @ second == 0
        for third in columns:
            assert third @ (first * second) == 0


def test_no_pair_of_factors_is_confounded_with_another_in_the_short_design() -> None:
    columns = np.array([signs(SHORT, recipe) for recipe in SHORT.recipes()]).T
    for first, second in combinations([a * b for a, b in combinations(columns, 2)], 2):
        assert first @ second == 0


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
def test_effects_equal_the_gains_of_the_made_up_rows(design: Design) -> None:
    rows = [make_result(design, recipe) for recipe in design.recipes()]
    effects_CA, errors_CA, means_A = compute_effects(design, rows)
    gains = GAINS[: len(design.levels)]
    interactions = (0.0,) * len(design.interactions)
    for gain, effect_A in zip((*gains, *interactions), effects_CA, strict=True):
        assert effect_A == pytest.approx(100 * gain, abs=1e-9)
    assert errors_CA == pytest.approx(0, abs=1e-9)
    num_averages = len(design.time_constants)
    assert means_A == pytest.approx([50 + 50 * sum(gains)] + [60 + 50 * sum(gains)] * num_averages)


def test_an_interaction_is_separated_from_the_effect_of_each_factor() -> None:
    rows = [make_result(LONG, recipe) for recipe in LONG.recipes()]
    both_high = [row.weight_decay == 1e-3 and row.effective_lr == 8 for row in rows]
    rows = [replace(row, last=row.last - 0.02 * high) for row, high in zip(rows, both_high, strict=True)]
    effects_CA, errors_CA, _ = compute_effects(LONG, rows)
    # Two points less in a quarter of the rows: one less for each high level, one less for equal levels.
    assert effects_CA[:, 0] == pytest.approx([1.0, -2.0 - 1.0, 0.0, 3.0 - 1.0, -1.0])
    assert errors_CA[:, 0] == pytest.approx(0, abs=1e-9)


def test_the_error_is_that_of_a_difference_of_two_means() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(400):
        rows = [make_result(SHORT, recipe) for recipe in SHORT.recipes()]
        _, errors_CA, _ = compute_effects(SHORT, [replace(row, last=row.last + 0.004 * rng.normal()) for row in rows])
        errors.append(errors_CA[0, 0])
    # Two means of eight values with a deviation of 0.4 points.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(0.4 * np.sqrt(2 / 8), rel=0.05)


@pytest.mark.parametrize(("cycle_momentum", "lr_max"), [(True, 0.6), (False, 0.4)])
def test_an_effective_lr_of_four_is_the_peak_of_cifar10_fast(cycle_momentum: bool, lr_max: float) -> None:
    recipe = make_recipe(4.0, cycle_momentum=cycle_momentum, weight_decay=5e-4, label_smoothing=0.0)
    assert recipe.lr_max == pytest.approx(lr_max)
    assert recipe.effective_lr == 4.0


def test_correlated_factors_have_larger_errors() -> None:
    # Two factors that agree in six of eight rows, a correlation of a half: their errors grow by 1 / sqrt(1 - 0.5 ** 2).
    signs_RC = np.array([[1.0, 1.0], [-1.0, -1.0]] * 3 + [[1.0, -1.0], [-1.0, 1.0]])
    accuracies_RA = np.random.default_rng(0).normal(0.9, 0.004, (8, 1))
    effects_CA, errors_CA, means_A = fit_effects(signs_RC, accuracies_RA)
    residuals_R = 100 * accuracies_RA[:, 0] - means_A[0] - signs_RC @ effects_CA[:, 0] / 2
    deviation = np.sqrt((residuals_R**2).sum() / 5)
    assert errors_CA[:, 0] == pytest.approx(2 * deviation / np.sqrt(8) / np.sqrt(1 - 0.5**2))
