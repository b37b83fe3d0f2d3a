"""The rule of `lr-range` is the candidate with the smallest largest regret on the committed rows."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.polynomial import Polynomial

from scsuite.core.lr_range.rules import SHORT_TRAINING_STEPS, Landmarks, choose_bounds
from tests.studies.__main__ import OUT
from tests.studies.regret import reference_lr
from tests.studies.rule_search import CANDIDATES, AccuracyCurve, Candidate, accuracy_curves, candidate_costs, fit_curve
from tests.studies.trainings import LR_GRID, SETTINGS, Setting

RULE = Candidate(1 / 2, 1 / 2, 1 / 4, 0.5, 0)  # that of `lr-range`, whose defaults have no factor


@pytest.fixture(scope="module")
def curves() -> list[AccuracyCurve]:
    """The curves of the committed rows."""
    return accuracy_curves(OUT)


def test_the_rule_has_the_smallest_largest_regret_and_the_second_smallest_mean(curves: list[AccuracyCurve]) -> None:
    costs = candidate_costs(curves)
    assert len(costs) == len(CANDIDATES) == 720
    assert min(costs, key=lambda candidate: max(costs[candidate].regrets)) == RULE
    # Computed by an independent search, before the rule was implemented.
    assert costs[RULE].mean == pytest.approx(0.000575, abs=5e-6)
    assert max(costs[RULE].regrets) == pytest.approx(0.00247, abs=5e-6)
    assert list(costs).index(RULE) == 1
    assert next(iter(costs.values())).mean == pytest.approx(0.000553, abs=5e-6)
    assert costs[Candidate(3 / 4, 2 / 3, 0, 0.7, 0)].mean == pytest.approx(0.00213, abs=5e-6)  # the fifth form


LONG_ENOUGH = {name: setting for name, setting in SETTINGS.items() if setting.num_steps >= SHORT_TRAINING_STEPS}


@pytest.mark.parametrize("setting", LONG_ENOUGH.values(), ids=LONG_ENOUGH)
def test_the_candidate_equals_the_rule_of_the_program(setting: Setting) -> None:
    today = replace(setting, cycle_momentum=False)
    for test in (Landmarks(1e-3, 0.02, 1.0, 5.0, ""), Landmarks(1e-3, None, None, 0.1, "")):
        assert RULE.lr_max(today, test) == pytest.approx(choose_bounds(test, reference_lr(setting.name))[1])


def test_the_valley_limits_of_the_program_change_lr_max_of_one_seed_only(curves: list[AccuracyCurve]) -> None:
    limited = []
    for curve in curves:
        for test in curve.tests:
            expected = RULE.lr_max(replace(curve.setting, cycle_momentum=False), test)
            lr_max = choose_bounds(test, reference_lr(curve.setting.name))[1]
            if lr_max != pytest.approx(expected):
                assert test.valley_lr is not None
                assert lr_max == pytest.approx(4 * test.valley_lr)
                limited.append((curve.setting.name, round(lr_max / expected, 2)))
    assert limited == [("fresh-shapes-256", 0.92)]  # a valley at 0.23, where the reference LR is 1.001


def test_the_valley_fraction_moves_lr_max_in_log_lr_towards_the_valley() -> None:
    setting = SETTINGS["missed-real-512"]
    test = Landmarks(1e-3, 0.02, 3.2, 2.0, "")
    assert Candidate(1, 0, 0, 1, 1 / 3).lr_max(setting, test) == pytest.approx(0.8)  # a third of the way, 0.4 to 3.2
    assert Candidate(1, 0, 0, 1, 1).lr_max(setting, test) == pytest.approx(2.0)


def test_fit_curve_recovers_a_cubic_whatever_lies_far_from_the_best() -> None:
    logs = np.log(LR_GRID)
    means = 0.7 - 0.02 * (logs - np.log(0.5)) ** 2 + 0.002 * (logs - np.log(0.5)) ** 3
    means[:2] = 0.1
    means[-1] = 0.0
    cubic, low, high, best = fit_curve(LR_GRID, means)
    assert best == pytest.approx(0.7, abs=1e-5)
    assert cubic(np.log(0.3)) == pytest.approx(0.7 - 0.02 * np.log(0.6) ** 2 + 0.002 * np.log(0.6) ** 3)
    assert low >= np.log(LR_GRID[2])
    assert high <= np.log(LR_GRID[7])


def test_the_mean_cost_counts_each_seed_once() -> None:
    # Lines in log LR, 0 at 1: an LR of 0.4, that of the full network, costs 0.5 and 0.4.
    setting = replace(SETTINGS["missed-real-512"], width=1.0, num_train=50_000, epochs=24)
    test = Landmarks(1e-3, None, None, 10.0, "")
    curves = [
        AccuracyCurve(setting, (test,) * num_seeds, Polynomial([0, slope]), -5.0, 5.0, 0.0)
        for num_seeds, slope in ((1, 0.5 / -np.log(0.4)), (3, 0.4 / -np.log(0.4)))
    ]
    cost = candidate_costs(curves)[RULE]
    assert cost.regrets == pytest.approx((0.5, 0.4))
    assert cost.mean == pytest.approx((0.5 + 3 * 0.4) / 4)
