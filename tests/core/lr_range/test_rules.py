"""The rules of the range test on curves with known answers; no network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scsuite.core.config import LrRangeConfig
from scsuite.core.errors import DivergedError
from scsuite.core.lr_range.rules import (
    RULES,
    Landmarks,
    allowed_lr_max,
    choose_bounds,
    explain,
    find_landmarks,
    lr_max_source,
    make_warnings,
    reference_lr_max,
    steepest,
    valley,
)
from scsuite.core.lr_range.run_sweep import sweep_lrs
from scsuite.core.lr_range.sweep import (
    ExponentialAverage,
    Float1D,
    LrSweep,
    make_sweep,
    mean_curves,
    smooth,
    smoothed_noise,
)

NUM_STEPS = 201
LRS = np.geomspace(1e-4, 1.0, NUM_STEPS)  # fifty steps are a factor of ten
LRS.setflags(write=False)


def make_smooth_sweep(
    loss: Sequence[float] | Float1D,
    accuracy: Sequence[float] | Float1D | None = None,
    noise: float = 0.0,
    lr_factor: float = 1.0,
) -> LrSweep:
    """Return a sweep with these smoothed curves over `lr_factor` times LRS."""
    loss_L = np.asarray(loss, dtype=float)
    accuracy_L = np.zeros(len(loss_L)) if accuracy is None else np.asarray(accuracy, dtype=float)
    return LrSweep(
        seed=0, lrs_L=lr_factor * LRS[: len(loss_L)], losses_L=loss_L, accuracies_L=accuracy_L, smooth_loss_L=loss_L,
        smooth_accuracy_L=accuracy_L, noise=noise, diverged=False,
    )  # fmt: skip


def suggest(rule: str, *curves: Any, **kwargs: Any) -> float:
    return RULES[rule](make_smooth_sweep(*curves, **kwargs))


def bounds(sweep: LrSweep, reference_lr: float = 0.4) -> tuple[float, float]:
    return choose_bounds(find_landmarks(sweep), reference_lr)


def piecewise_linear(*points: tuple[int, float]) -> Float1D:
    """Return straight lines between (step, value) points."""
    steps, values = zip(*points, strict=True)
    return np.asarray(np.interp(np.arange(steps[-1] + 1), steps, values))


@pytest.mark.parametrize("middle", [50, 100, 137])
def test_steepest_is_the_middle_of_a_logistic_fall_in_log_lr(middle: int) -> None:
    loss = 1 + 1.3 / (1 + np.exp((np.log(LRS) - np.log(LRS[middle])) * 3))
    assert suggest("steepest", loss) == pytest.approx(LRS[middle])


def test_steepest_measures_the_slope_per_log_lr_not_per_lr() -> None:
    # Per LR the slow fall at the small LRs is the steeper one: 0.3 over a thousandth of the range.
    loss = piecewise_linear((0, 2.3), (20, 2.3), (60, 2.0), (140, 2.0), (160, 1.0), (200, 1.0))
    assert LRS[140] <= suggest("steepest", loss) <= LRS[160]


def test_steepest_measures_the_slope_per_log_lr_in_a_linear_sweep_too() -> None:
    lrs = np.linspace(0.1, 1.0, 50)
    assert steepest(lrs, 2 - lrs) == 1.0  # the loss falls by 1 per LR, so by LR per log LR


def test_minimum_over_10_is_a_tenth_of_the_lr_with_the_lowest_loss() -> None:
    loss = (np.log(LRS) - np.log(LRS[150])) ** 2
    assert suggest("minimum_over_10", loss) == pytest.approx(LRS[150] / 10)
    assert suggest("minimum_over_10", loss) == pytest.approx(LRS[100])  # fifty steps are a factor of ten


def test_valley_is_halfway_along_the_longest_fall() -> None:
    # fastai's rule: a third and a sixth of the length, 91, both rounded down, from one step before the first.
    assert valley(LRS[:121], piecewise_linear((0, 3.0), (90, 1.0), (120, 2.0))) == LRS[-1 + 30 + 15]
    # The rule starts at the tenth step, 9: the fall has 82 steps from there.
    assert suggest("valley", piecewise_linear((0, 3.0), (90, 1.0), (120, 2.0))) == LRS[9 - 1 + 27 + 13]
    # Of two falls the longer one counts, 61 steps from 100 to 160, not the deeper one.
    loss = piecewise_linear((0, 2.0), (20, 0.1), (100, 3.0), (160, 2.5), (200, 4.0))
    assert valley(LRS, loss) == LRS[99 + 20 + 10]


def test_accuracy_plateau_is_where_95_percent_of_the_rise_is_made() -> None:
    accuracy = piecewise_linear((0, 0.1), (50, 0.1), (150, 0.9), (200, 0.9))  # 95 % of the rise after 95 of 100 steps
    falls = piecewise_linear((0, 2.3), (200, 1.0))
    assert suggest("accuracy_plateau", falls, accuracy) == pytest.approx(LRS[145], rel=0.05)
    falling = piecewise_linear((0, 0.1), (50, 0.1), (150, 0.9), (200, 0.1))
    assert suggest("accuracy_plateau", falls, falling) == pytest.approx(LRS[145], rel=0.05)


def test_the_rules_of_the_literature_end_where_the_loss_turns() -> None:
    # Falls by 1.3 over 100 steps, rises by 0.9, and falls again, 3.5 times as steeply and to a lower loss.
    loss = piecewise_linear((0, 2.3), (20, 2.3), (120, 1.0), (140, 1.9), (180, 0.1), (200, 0.1))
    accuracy = piecewise_linear((0, 0.1), (20, 0.1), (120, 0.5), (140, 0.2), (180, 0.9), (200, 0.9))
    assert LRS[20] <= suggest("steepest", loss) <= LRS[120]
    # Halfway from step 9 to the first minimum; the fall has a step of the flat start and 100 from 21 on.
    assert LRS[63] <= suggest("valley", loss) <= LRS[71]
    assert suggest("minimum_over_10", loss) == pytest.approx(LRS[120] / 10)
    assert suggest("accuracy_plateau", loss, accuracy) == pytest.approx(LRS[20 + 95])
    assert suggest("edge_of_divergence", loss) == pytest.approx(LRS[120])
    noisy_start = loss.copy()
    noisy_start[:9] = np.linspace(9.0, 2.3, 9)  # the steepest fall of all, while the average is over few steps
    for name in RULES:
        assert suggest(name, noisy_start, accuracy) == suggest(name, loss, accuracy), name
    for name in RULES:  # nothing after the turn counts
        assert suggest(name, loss, accuracy) == suggest(name, loss[:141], accuracy[:141]), name


def test_edge_of_divergence_is_the_lowest_loss_before_the_first_turn() -> None:
    loss = piecewise_linear((0, 2.3), (20, 2.3), (100, 1.0), (130, 2.0), (200, 0.5))  # falls again at useless LRs
    assert suggest("edge_of_divergence", loss) == pytest.approx(LRS[100])
    ripple = piecewise_linear((0, 2.3), (20, 2.3), (60, 1.5), (65, 1.55), (100, 1.0), (130, 2.0), (200, 3.0))
    assert suggest("edge_of_divergence", ripple) == pytest.approx(LRS[100])  # 0.05 of a drop of 0.8 is no turn


def test_a_rise_within_the_noise_is_no_turn() -> None:
    loss = piecewise_linear((0, 2.3), (20, 2.3), (60, 1.5), (65, 1.9), (100, 1.0), (200, 3.0))
    assert suggest("edge_of_divergence", loss) == pytest.approx(LRS[60])
    assert suggest("edge_of_divergence", loss, noise=0.11) == pytest.approx(LRS[100])  # 0.4 is less than 4 * 0.11
    assert suggest("edge_of_divergence", loss, noise=0.09) == pytest.approx(LRS[60])


@pytest.mark.parametrize(
    ("settings", "num_steps", "expected"),
    [
        ({}, 2352, 0.4),  # cifar10-fast's, at its momentum of 0.9
        ({"cycle_momentum": True}, 2352, 0.4),  # near 0.9 on average
        ({"batch_size": 32}, 2352, 0.1),  # sqrt(1 / 16)
        ({"width": 0.25}, 2352, 0.8),  # sqrt(4)
        ({}, 588, 0.4 * 2**0.5),  # 4 ** 0.25
        ({}, 48, 0.4 * 12.25**0.25 / 2),  # below 192 steps it falls again, with their square root
        ({"batch_size": 32, "width": 0.25}, 37_632, 0.1),  # 0.4 / 4 * 2 / 2
        ({"optimizer": "adamw"}, 2352, 0.006),
        ({"optimizer": "adamw", "width": 0.125}, 200, 0.006 * 8**0.5 * 11.76**0.25),  # 0.0314: 0.032 did best there
        ({"optimizer": "adamw", "batch_size": 32, "width": 4.0}, 2352, 0.00075),
    ],
)
def test_reference_lr_follows_batch_size_width_and_steps(
    settings: dict[str, Any], num_steps: int, expected: float
) -> None:
    config = LrRangeConfig(**{"batch_size": 512, **settings})
    assert reference_lr_max(config, num_steps) == pytest.approx(expected)


def test_bounds_are_a_tenth_of_the_drop_and_the_reference_lr_within_the_valley_ratios() -> None:
    # 101 steps of fall, a tenth after 10.1; the last tenth of the drop is made by step 111, and lost again by step 136.
    sweep = make_smooth_sweep(piecewise_linear((0, 2.3), (20, 2.3), (121, 1.3), (131, 1.3), (181, 2.3)), lr_factor=20)
    valley_lr = 20 * (LRS[111] * LRS[136]) ** 0.5
    assert bounds(sweep) == pytest.approx((20 * LRS[20 + 11], 0.4))
    assert bounds(sweep, 4.1 * valley_lr)[1] == pytest.approx(4 * valley_lr)
    assert bounds(sweep, 3.9 * valley_lr)[1] == 3.9 * valley_lr
    assert bounds(sweep, valley_lr / 31)[1] == valley_lr / 31
    assert bounds(sweep, valley_lr / 33)[1] == pytest.approx(valley_lr / 32)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_losses_in_another_unit_have_the_same_landmarks(factor: float) -> None:
    loss = piecewise_linear((0, 2.3), (20, 2.3), (121, 1.3), (131, 1.3), (150, 2.0), (181, 2.6))
    noise = 0.001  # far below the drop
    expected = find_landmarks(make_smooth_sweep(loss, noise=noise))
    assert None not in expected[:4]
    assert find_landmarks(make_smooth_sweep(factor * loss, noise=factor * noise)) == expected


def test_nothing_after_the_first_turn_moves_fall_start_and_valley() -> None:
    falls_again = piecewise_linear((0, 2.3), (20, 2.3), (121, 1.3), (150, 2.3), (200, 0.5))
    landmarks = find_landmarks(make_smooth_sweep(falls_again))
    assert landmarks[:3] == find_landmarks(make_smooth_sweep(falls_again[:151]))[:3]


def test_a_fall_in_one_step_leaves_a_factor_of_three_between_the_bounds() -> None:
    # Falls in one step, and rises by a tenth of that in 1.95 more.
    sweep = make_smooth_sweep(piecewise_linear((0, 2.3), (169, 2.3), (170, 1.0), (200, 3.0)), lr_factor=10)
    assert bounds(sweep) == pytest.approx((0.4 / 3, 0.4))
    assert "; LRMIN = LRMAX / 3, since 10% of the loss drop is reached only above it." in explain(
        [find_landmarks(sweep)], 0.4
    )


def test_lr_max_is_at_most_half_the_lr_at_which_the_loss_rose_above_its_start() -> None:
    # Lowest at an LR of 0.001, a rise of 1.3 over 40 steps from there, of 1.0 at the 31st.
    loss = piecewise_linear((0, 2.3), (10, 2.3), (50, 1.3), (90, 2.6), (200, 2.6))
    rises = make_smooth_sweep(loss)
    below = "; below 0.4, the reference LR for this width, batch size and number of steps; LRMIN"
    assert bounds(rises)[1] == pytest.approx(LRS[81] / 2)
    assert f": half the LR at which the loss rose above its start{below}" in explain([find_landmarks(rises)], 0.4)
    short = make_smooth_sweep(loss[:61])
    assert bounds(short)[1] == pytest.approx(LRS[60])
    assert f": the last LR of the test{below}" in explain([find_landmarks(short)], 0.4)
    diverged = replace(short, diverged=True)
    assert bounds(diverged)[1] == pytest.approx(LRS[60] / 2)
    assert f": half the LR at which the loss diverged{below}" in explain([find_landmarks(diverged)], 0.4)


def test_a_rise_below_the_start_of_the_loss_is_no_upper_bound() -> None:
    # 0.8 of the drop is lost again, by an LR of 0.0063, and then made once more.
    sweep = make_smooth_sweep(piecewise_linear((0, 2.3), (10, 2.3), (50, 1.3), (90, 2.1), (140, 1.0), (200, 1.0)))
    assert find_landmarks(sweep).valley_lr == pytest.approx(LRS[50], rel=0.05)
    assert bounds(sweep)[1] == pytest.approx(4 * LRS[50], rel=0.05)


def test_a_fall_within_the_noise_leaves_the_reference_lr() -> None:
    # Falls by 0.05, rises by 0.2 from step 100 to 150, and is above 2.3 + 15 * 0.0034 by step 126.
    loss = piecewise_linear((0, 2.3), (20, 2.3), (60, 2.25), (100, 2.25), (150, 2.45), (200, 2.3))
    free = make_smooth_sweep(loss, noise=0.0034, lr_factor=100)
    late = make_smooth_sweep(loss, noise=0.0034, lr_factor=500)
    bounded = make_smooth_sweep(loss, noise=0.0034)
    reference = "LRMAX = 0.4: reference LR for this width, batch size and number of steps"
    assert bounds(free) == pytest.approx((0.4 / 30, 0.4))
    assert explain([find_landmarks(free)], 0.4) == (
        f"{reference} (loss curve too noisy to adjust it); LRMIN = LRMAX / 30."
    )
    assert bounds(late) == pytest.approx((500 * LRS[0], 0.4))
    assert explain([find_landmarks(late)], 0.4).endswith("; LRMIN = 0.05, the first LR of the test.")
    assert bounds(late, 0.12) == pytest.approx((0.04, 0.12))
    assert explain([find_landmarks(late)], 0.12).endswith("; LRMIN = LRMAX / 3.")
    assert bounds(bounded)[1] == pytest.approx(LRS[126] / 2)
    assert explain([find_landmarks(bounded)], 0.4).startswith(
        f"LRMAX = {LRS[126] / 2:.2g}: half the LR at which the loss rose above its start; below 0.4, the reference LR"
    )


@pytest.mark.parametrize("first_loss", [2.28, 2.35])
def test_the_loss_of_a_network_that_learns_nothing_limits_nothing(first_loss: float) -> None:
    # Like `shapes` in batches of 64: not ln 10 at first, then about ln 10, with more noise at high LRs.
    rng = np.random.default_rng(0)
    trend = piecewise_linear((0, first_loss), (40, 2.303), (199, 2.303))
    deviation = piecewise_linear((0, 0.022), (120, 0.022), (199, 0.035))
    for _ in range(200):
        rows = [(float(loss), 0.1) for loss in trend + rng.normal(scale=deviation)]
        sweep = make_sweep(0, sweep_lrs(LrRangeConfig(), 0), rows, False)
        assert bounds(sweep, 0.42) == pytest.approx((0.014, 0.42))


def test_the_reason_says_that_the_scaling_rule_sets_lr_max_and_the_test_bounds_it() -> None:
    loss = piecewise_linear((0, 2.3), (20, 2.3), (121, 1.3), (131, 1.3), (181, 2.3))
    landmarks = find_landmarks(make_smooth_sweep(loss, lr_factor=20))  # the middle of the valley is at 0.59
    reference = "reference LR for this width, batch size and number of steps"
    only_bounds = "the scaling rule sets LRMAX and the test only bounds it (0.018 to 2.4, loss valley at 0.59)"
    for reference_lr, expected in (
        (0.15, f"0.15: {reference}; {only_bounds}; LRMIN = 0.0083, where 10% of the loss drop is reached."),
        (5.0, f"2.4: 4 times the middle of the loss valley, 0.59; below 5, the {reference}; LRMIN = 0.0083, "),
        (0.01, f"0.018: 1/32 of the middle of the loss valley, 0.59; above 0.01, the {reference}; LRMIN = LRMAX / 3, "),
    ):
        assert explain([landmarks], reference_lr).startswith(f"LRMAX = {expected}")


def test_without_a_reference_lr_lr_max_is_half_the_middle_of_the_loss_valley() -> None:
    loss = piecewise_linear((0, 2.3), (20, 2.3), (121, 1.3), (131, 1.3), (181, 2.3))
    marks = find_landmarks(make_smooth_sweep(loss, lr_factor=20))
    valley_lr = 20 * (LRS[111] * LRS[136]) ** 0.5  # the last tenth of the drop
    assert choose_bounds(marks, None)[1] == pytest.approx(valley_lr / 2)
    assert lr_max_source([marks], None) == "from the test"
    assert explain([marks], None) == (
        "LRMAX = 0.3: 0.5 times the middle of the loss valley, 0.59; your own network has no reference LR, so the test"
        " sets LRMAX; LRMIN = 0.0083, where 10% of the loss drop is reached."
    )
    bounded = marks._replace(upper_bound=0.2, upper_bound_reason="half the LR at which the loss diverged")
    assert choose_bounds(bounded, None)[1] == pytest.approx(0.2)
    assert explain([bounded], None).startswith("LRMAX = 0.2: half the LR at which the loss diverged; your own network")
    noisy = bounded._replace(valley_lr=None, fall_start_lr=None)
    assert choose_bounds(noisy, None)[1] == pytest.approx(0.02)
    assert explain([noisy], None).startswith("LRMAX = 0.02: 0.1 times half the LR at which the loss diverged (loss")
    assert explain([marks, marks], None).startswith("Median of 2 repeats: LRMAX = 0.3: ")


def test_the_range_that_the_test_allows_and_what_set_lr_max() -> None:
    loss = piecewise_linear((0, 2.3), (20, 2.3), (121, 1.3), (131, 1.3), (181, 2.3))
    marks = find_landmarks(make_smooth_sweep(loss, lr_factor=20))
    valley_lr = 20 * (LRS[111] * LRS[136]) ** 0.5  # as above: the last tenth of the drop
    assert allowed_lr_max([marks]) == pytest.approx((valley_lr / 32, 4 * valley_lr))
    for reference_lr, source in ((0.15, "scaling rule"), (5.0, "limited by the test"), (0.01, "limited by the test")):
        assert lr_max_source([marks], reference_lr) == source
    bounded = marks._replace(upper_bound=valley_lr)
    assert allowed_lr_max([bounded]) == pytest.approx((valley_lr / 32, valley_lr))
    assert allowed_lr_max([bounded, marks]) == pytest.approx((valley_lr / 32, 2 * valley_lr))  # geometric means
    low_bound = marks._replace(upper_bound=valley_lr / 64)
    assert allowed_lr_max([low_bound]) == pytest.approx((valley_lr / 64, valley_lr / 64))
    noisy = marks._replace(valley_lr=None, fall_start_lr=None)
    assert allowed_lr_max([noisy]) == pytest.approx((0.0, marks.upper_bound))
    assert allowed_lr_max([noisy, marks])[0] == 0


@pytest.mark.parametrize(
    "loss",
    [
        piecewise_linear((0, 1.0), (200, 3.0)),  # rises from the start
        piecewise_linear((0, 3.0), (9, 1.0), (200, 3.0)),  # lowest at the step that the drop is measured from
        np.full(NUM_STEPS, 2.3),  # flat
        piecewise_linear((0, 3.0), (200, 1.0)),  # never turns
        np.full(10, 2.3),  # as short as possible
    ],
)
def test_every_rule_has_an_answer_for_every_finite_curve(loss: Float1D) -> None:
    for name, rule in RULES.items():
        assert LRS[0] / 10 <= rule(make_smooth_sweep(loss)) <= LRS[-1], name
    low, high = bounds(make_smooth_sweep(loss))
    assert 0 < low < high <= LRS[-1]


@pytest.mark.parametrize("window", [2.0, 10.0, 31.5])
def test_smoothing_is_the_weighted_mean_of_the_values_so_far(window: float) -> None:
    values = np.random.default_rng(0).normal(size=60)
    decay = 1 - 1 / window
    average = ExponentialAverage(window)
    for step, smoothed in enumerate(smooth(values, window)):
        weights = decay ** np.arange(step, -1, -1)
        assert smoothed == pytest.approx((weights * values[: step + 1]).sum() / weights.sum(), rel=1e-9)
        assert smoothed == average.update(float(values[step]))


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant() -> None:
    assert smooth(np.array([5.0, 0.0]), 10)[0] == pytest.approx(5.0)
    assert smooth(np.full(30, 2.3), 10) == pytest.approx(np.full(30, 2.3))


@pytest.mark.parametrize("window", [2.0, 5.0, 20.0])
def test_noise_is_the_deviation_of_the_smoothed_curve_whatever_its_trend(window: float) -> None:
    noise = np.random.default_rng(1).normal(scale=0.3, size=20_000)
    deviation = smooth(noise, window)[200:].std()  # known to about 3 % from 20,000 steps, the median to about 1 %
    assert smoothed_noise(noise, window) == pytest.approx(deviation, rel=0.1)
    assert smoothed_noise(noise + np.linspace(0, 50, 20_000), window) == pytest.approx(deviation, rel=0.1)


def test_mean_curves_end_where_the_shortest_sweep_ends() -> None:
    short = make_smooth_sweep(np.full(30, 2.0), np.full(30, 0.1))
    long = make_smooth_sweep(np.full(50, 4.0), np.full(50, 0.3))
    lrs, losses, accuracies = mean_curves([short, long])
    assert lrs.tolist() == LRS[:30].tolist()
    assert losses == pytest.approx(np.full(30, 3.0))
    assert accuracies == pytest.approx(np.full(30, 0.2))
    rising, falling = (make_smooth_sweep(np.arange(40.0) * sign, np.arange(40.0) * sign / 40) for sign in (3, -1))
    for sweeps in ([rising, falling], [falling, rising]):
        lrs, losses, accuracies = mean_curves(sweeps)
        assert losses.tolist() == np.arange(40.0).tolist()
        assert accuracies == pytest.approx(np.arange(40.0) / 40)


MARKS = Landmarks(LRS[0], LRS[40], LRS[100], LRS[150], "the last LR of the test")
NOISY = MARKS._replace(fall_start_lr=None, valley_lr=None)
TURNED = make_smooth_sweep(piecewise_linear((0, 2.3), (20, 2.3), (100, 1.0), (130, 2.0), (200, 2.0)))
FALLS = make_smooth_sweep(piecewise_linear((0, 2.3), (20, 2.3), (200, 1.0)))


def warnings(
    sweeps: Sequence[LrSweep], landmarks: Sequence[Landmarks], lr_maxs: Sequence[float] = (0.1,), num_steps: int = 100,
    in_train: bool = False, **arguments: bool,
) -> list[str]:  # fmt: skip
    return list(make_warnings(sweeps, landmarks, lr_maxs, num_steps, in_train, **arguments))


def test_a_sweep_of_enough_steps_that_turns_has_no_warnings() -> None:
    assert warnings([TURNED], [MARKS]) == []
    assert warnings([TURNED] * 2, [MARKS, MARKS._replace(valley_lr=2 * LRS[100])], (0.1, 0.2)) == []  # a factor of two


@pytest.mark.parametrize("in_train", [False, True])
def test_each_warning_has_its_own_condition_and_an_option_that_helps(in_train: bool) -> None:
    def helps(option: str, in_a_training: str) -> str:
        return f"run scsuite lr-range with {in_a_training} and give its run to --lr-from" if in_train else option

    steps, end = helps("raise --steps", "a higher --steps"), helps("raise --lr-end", "a higher --lr-end")
    start = helps("lower --lr-start", "a lower --lr-start")
    not_turned = f"the loss had not turned at the last LR: the upper bound may be higher; {end}"
    for sweeps, landmarks, arguments, expected in (
        ([TURNED], [MARKS], {"num_steps": 99}, "only 99 steps: the LR bounds are uncertain; use 100 or more"),
        ([TURNED], [NOISY], {}, f"loss curve too noisy: using the reference LR; raise --bs, or {steps}"),
        ([TURNED] * 2, [MARKS, NOISY], {}, f"loss curve too noisy: using the reference LR; raise --bs, or {steps}"),
        (
            [TURNED], [NOISY], {"has_reference": False},
            f"loss curve too noisy: using 0.1 times the upper bound; raise --bs, or {steps}",
        ),
        ([FALLS], [MARKS], {}, not_turned),
        ([TURNED, FALLS], [MARKS] * 2, {}, not_turned),
        # The average is over too few steps up to the tenth step; a valley within the step after it is too early.
        ([TURNED], [MARKS._replace(valley_lr=LRS[10])], {}, f"the loss turned at the first LRs: {start}"),
        (
            [TURNED] * 2, [MARKS, MARKS._replace(valley_lr=2.1 * LRS[100])], {},
            "the repeats disagree by more than a factor of two: loss valley at 0.01 to 0.021, LRMAX 0.1 to 0.1",
        ),
        (
            [TURNED] * 2, [MARKS] * 2, {"lr_maxs": (0.1, 0.21)},
            "the repeats disagree by more than a factor of two: loss valley at 0.01 to 0.01, LRMAX 0.1 to 0.21",
        ),
    ):  # fmt: skip
        assert warnings(sweeps, landmarks, in_train=in_train, **arguments) == [expected]
    assert warnings([TURNED], [MARKS._replace(valley_lr=LRS[11])]) == []
    assert warnings([replace(FALLS, diverged=True)], [MARKS]) == []


def test_of_repeats_that_are_too_noisy_the_learning_rates_are_compared_and_twice_the_bound_is_the_end() -> None:
    noisy = "loss curve too noisy: using the reference LR; raise --bs, or raise --steps"
    disagree = "the repeats disagree by more than a factor of two: LRMAX 0.1 to 0.3"
    assert warnings([TURNED] * 2, [NOISY] * 2, (0.1, 0.3)) == [noisy, disagree]
    early = NOISY._replace(upper_bound=LRS[10] / 2)  # half the LR at which the loss rose
    assert warnings([TURNED], [early]) == [noisy, "the loss turned at the first LRs: lower --lr-start"]
    assert warnings([TURNED], [early._replace(upper_bound=LRS[11] / 2)]) == [noisy]


def test_the_reason_of_several_repeats_is_that_of_the_one_with_the_median_lr_max() -> None:
    # LRMAX of each is its upper bound, which has its own reason.
    repeats = [
        MARKS._replace(first_lr=1e-6 / bound, upper_bound=bound, upper_bound_reason=f"bound {bound}")
        for bound in (0.03, 0.01, 0.02, 0.04)
    ]
    assert "bound 0.02;" in explain(repeats[:3], 10.0)
    assert "bound 0.02;" in explain(repeats, 10.0)  # of an even number the lower one
    assert explain(repeats[:3], 10.0).startswith("Median of 3 repeats: LRMAX = 0.02: ")
    assert explain(repeats[:3], 10.0).endswith(" The LR bounds are the geometric means over the repeats.")
    assert lr_max_source([MARKS, MARKS, MARKS._replace(upper_bound=0.001)], 0.02) == "scaling rule"
    assert lr_max_source([MARKS, *[MARKS._replace(upper_bound=0.001)] * 2], 0.02) == "limited by the test"


def test_a_sweep_keeps_the_steps_that_were_done_and_too_few_are_a_divergence() -> None:
    lrs = np.geomspace(1e-3, 1.0, 100)
    rows = [(3.0 - step / 10, step / 100) for step in range(12)]
    sweep = make_sweep(5, lrs, rows, True)
    assert (sweep.seed, sweep.diverged, len(sweep.lrs_L)) == (5, True, 12)
    assert sweep.lrs_L.tolist() == lrs[:12].tolist()
    assert sweep.losses_L.tolist() == [loss for loss, _ in rows]
    assert sweep.accuracies_L.tolist() == [accuracy for _, accuracy in rows]
    # The window is a twentieth of the planned steps, 5, at least 2.
    assert sweep.smooth_loss_L.tolist() == smooth(sweep.losses_L, 5.0).tolist()
    assert sweep.smooth_accuracy_L.tolist() == smooth(sweep.accuracies_L, 5.0).tolist()
    assert sweep.noise == smoothed_noise(sweep.losses_L, 5.0)
    assert make_sweep(5, lrs[:20], rows, False).noise == smoothed_noise(sweep.losses_L, 2.0)
    assert len(make_sweep(5, lrs, rows[:10], False).lrs_L) == 10
    with pytest.raises(DivergedError, match=f"step 9: expected at least 10 steps before that, found .* {lrs[9]:.4g}"):
        make_sweep(5, lrs, rows[:9], True)
