"""The range test: its rules on curves with known answers, its walk, stops and warnings, and what it leaves alone."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from scsuite.core import sweep
from scsuite.core.config import DataConfig, LrRangeConfig, RecipeConfig, TrainConfig
from scsuite.core.errors import DivergedError, UsageError
from scsuite.core.loop import StepOutput, StepResult, Trainer, init_model
from scsuite.core.model import ResNet3
from scsuite.core.lr_range.range_test import (
    Curve,
    Sweep,
    choose,
    range_test_conditions,
    make_sweep,
    landmarks,
    smoothed_noise,
    range_test,
    explain,
    smooth,
    sweep_lrs,
    reference_lr_max,
)
from tests.core import tiny

NUM = 201
LRS = np.geomspace(1e-4, 1.0, NUM)  # fifty steps to a factor of ten
LRS.setflags(write=False)


def made(
    loss: Sequence[float] | Curve,
    accuracy: Sequence[float] | Curve | None = None,
    noise: float = 0.0,
    times: float = 1.0,
) -> Sweep:
    """A sweep whose smoothed curves are these, over `times` the rates of LRS."""
    loss_L = np.asarray(loss, dtype=float)
    accuracy_L = np.zeros(len(loss_L)) if accuracy is None else np.asarray(accuracy, dtype=float)
    return Sweep(
        seed=0, lrs_L=times * LRS[: len(loss_L)], losses_L=loss_L, accuracies_L=accuracy_L, smooth_loss_L=loss_L,
        smooth_accuracy_L=accuracy_L, noise=noise, diverged=False,
    )  # fmt: skip


def rule(name: str, *curves: Any, **more: Any) -> float:
    return sweep.RULES[name](made(*curves, **more))


def pieces(*points: tuple[int, float]) -> Curve:
    """Straight lines between (step, value)."""
    steps, values = zip(*points, strict=True)
    return np.asarray(np.interp(np.arange(steps[-1] + 1), steps, values))


# --- the rules, as pure functions of curves ---


@pytest.mark.parametrize("middle", [50, 100, 137])
def test_steepest_is_the_middle_of_a_logistic_fall_in_log_rate(middle: int) -> None:
    loss = 1 + 1.3 / (1 + np.exp((np.log(LRS) - np.log(LRS[middle])) * 3))
    assert rule("steepest", loss) == pytest.approx(LRS[middle])


def test_steepest_measures_the_slope_per_log_rate_not_per_rate() -> None:
    # Per rate the gentle fall at the small rates is the steeper one: 0.3 over a thousandth of the range.
    loss = pieces((0, 2.3), (20, 2.3), (60, 2.0), (140, 2.0), (160, 1.0), (200, 1.0))
    assert LRS[140] <= rule("steepest", loss) <= LRS[160]


def test_minimum_10_is_a_tenth_of_the_rate_with_the_lowest_loss() -> None:
    loss = (np.log(LRS) - np.log(LRS[150])) ** 2
    assert rule("minimum/10", loss) == pytest.approx(LRS[150] / 10)
    assert rule("minimum/10", loss) == pytest.approx(LRS[100])  # fifty steps are a factor of ten


def test_valley_is_two_thirds_down_the_longest_fall() -> None:
    assert rule("valley", pieces((0, 3.0), (90, 1.0), (120, 2.0))) == pytest.approx(LRS[60])
    # Two falls: the longer counts, 60 steps from 100 to 160, not the deeper.
    loss = pieces((0, 2.0), (20, 0.1), (100, 3.0), (160, 2.5), (200, 4.0))
    assert rule("valley", loss) == pytest.approx(LRS[140])


def test_plateau_is_where_95_percent_of_the_rise_is_made() -> None:
    accuracy = pieces((0, 0.1), (50, 0.1), (150, 0.9), (200, 0.9))  # 95 % of the rise after 95 of 100 steps
    assert rule("accuracy plateau", np.ones(NUM), accuracy) == pytest.approx(LRS[145], rel=0.05)
    falling = pieces((0, 0.1), (50, 0.1), (150, 0.9), (200, 0.1))
    assert rule("accuracy plateau", np.ones(NUM), falling) == pytest.approx(LRS[145], rel=0.05)


def test_the_edge_is_the_lowest_loss_before_it_rises_for_good() -> None:
    loss = pieces((0, 2.3), (20, 2.3), (100, 1.0), (130, 2.0), (200, 0.5))  # it falls again at rates past use
    assert rule("edge of divergence", loss) == pytest.approx(LRS[100])
    ripple = pieces((0, 2.3), (20, 2.3), (60, 1.5), (65, 1.55), (100, 1.0), (130, 2.0), (200, 3.0))
    assert rule("edge of divergence", ripple) == pytest.approx(LRS[100])  # 0.05 of a fall of 0.8 is no turn


def test_a_rise_within_the_noise_is_no_turn() -> None:
    loss = pieces((0, 2.3), (20, 2.3), (60, 1.5), (65, 1.9), (100, 1.0), (200, 3.0))
    assert rule("edge of divergence", loss) == pytest.approx(LRS[60])
    assert rule("edge of divergence", loss, noise=0.11) == pytest.approx(LRS[100])  # 0.4 is less than four of 0.11


def pair(one: Sweep, usual: float = 0.4) -> tuple[float, float]:
    return choose(landmarks(one), usual)


@pytest.mark.parametrize(
    ("more", "num_steps", "expected"),
    [
        ({}, 2352, 0.4),  # cifar10-fast's, at its momentum of 0.9
        ({"cycle_momentum": True}, 2352, 0.4),  # near 0.9 on average
        ({"batch_size": 32}, 2352, 0.1),  # half of four halvings, two
        ({"width": 0.25}, 2352, 0.8),  # half of two halvings, one
        ({}, 588, 0.4 * 2**0.5),  # a quarter of two halvings, half of one
        ({}, 48, 0.4 * 12.25**0.25 / 2),  # under 192 steps it falls again, with their square root
        ({"batch_size": 32, "width": 0.25}, 37_632, 0.1),  # 0.4 / 4 x 2 / 2
        ({"optimizer": "adamw"}, 2352, 0.006),
        ({"optimizer": "adamw", "width": 0.125}, 200, 0.006 * 8**0.5 * 11.76**0.25),  # 0.0314: 0.032 did best there
        ({"optimizer": "adamw", "batch_size": 32, "width": 4.0}, 2352, 0.00075),
    ],
)
def test_the_usual_rate_goes_with_batch_width_and_steps(more: dict[str, Any], num_steps: int, expected: float) -> None:
    usual = reference_lr_max(LrRangeConfig(**{"batch_size": 512, **more}), num_steps)
    assert usual == pytest.approx(expected)


def test_the_pair_is_where_a_tenth_of_the_fall_is_made_and_the_usual_rate_within_what_the_valley_allows() -> None:
    # 101 steps of fall, 10.1 of them a tenth; the last tenth of it is made by step 111, and lost again by step 136.
    one = made(pieces((0, 2.3), (20, 2.3), (121, 1.3), (131, 1.3), (181, 2.3)), times=20)
    middle = 20 * (LRS[111] * LRS[136]) ** 0.5
    assert pair(one) == pytest.approx((20 * LRS[20 + 11], 0.4))
    assert pair(one, usual=4.1 * middle)[1] == pytest.approx(4 * middle)
    assert pair(one, usual=3.9 * middle)[1] == 3.9 * middle
    assert pair(one, usual=middle / 31)[1] == middle / 31
    assert pair(one, usual=middle / 33)[1] == pytest.approx(middle / 32)


@pytest.mark.parametrize(("optimizer", "usual"), [("sgd", 0.4), ("adamw", 0.006)])
def test_a_range_test_takes_the_usual_rate_of_its_optimizer_batch_width_and_training(
    optimizer: str, usual: float
) -> None:
    usual *= (15 / 512 / 0.05) ** 0.5 * (2352 / 192) ** 0.25 * (7 * 4 / 192) ** 0.5  # 60 images: four steps an epoch
    result = range_test(tiny.dataset(), config(optimizer=optimizer, lr_end=0.1, train_epochs=7))
    assert result.lr_max == pytest.approx(pair(result.sweeps[0], usual)[1])
    assert f"{usual:.2g}" in result.reason


def test_what_comes_after_the_first_turn_does_not_move_start_and_valley() -> None:
    again = pieces((0, 2.3), (20, 2.3), (121, 1.3), (150, 2.3), (200, 0.5))
    assert landmarks(made(again))[:3] == landmarks(made(again[:151]))[:3]


def test_a_fall_in_one_step_still_gives_a_factor_of_three() -> None:
    # Falls in one step, and rises by a tenth of that in 1.95 more.
    one = made(pieces((0, 2.3), (169, 2.3), (170, 1.0), (200, 3.0)), times=10)
    assert pair(one) == pytest.approx((0.4 / 3, 0.4))
    assert "LRMIN is a third of LRMAX, no tenth" in explain([landmarks(one)], 0.4)


def test_lrmax_is_at_most_half_the_rate_at_which_the_loss_has_risen_past_its_start() -> None:
    # Lowest at a rate of 0.001, risen by 1.3 over 40 steps from there, by 1.0 at the 31st.
    loss = pieces((0, 2.3), (10, 2.3), (50, 1.3), (90, 2.6), (200, 2.6))
    assert pair(made(loss))[1] == pytest.approx(LRS[81] / 2)
    assert explain([landmarks(made(loss))], 0.4).startswith(
        "LRMAX is half the rate at which the loss had risen past its start, which lies below 4 times 0.00"
    )
    short = made(loss[:61])
    assert pair(short)[1] == pytest.approx(LRS[60])  # as far as it went
    assert "LRMAX is the test's last rate, which lies below" in explain([landmarks(short)], 0.4)
    diverged = replace(short, diverged=True)
    assert pair(diverged)[1] == pytest.approx(LRS[60] / 2)
    assert "LRMAX is half the rate at which the loss diverged, which" in explain([landmarks(diverged)], 0.4)


def test_a_stumble_bounds_nothing() -> None:
    # 0.8 of the fall is lost again, by a rate of 0.0063, and then made once more.
    loss = pieces((0, 2.3), (10, 2.3), (50, 1.3), (90, 2.1), (140, 1.0), (200, 1.0))
    assert landmarks(made(loss)).flat == pytest.approx(LRS[50], rel=0.05)
    assert pair(made(loss))[1] == pytest.approx(4 * LRS[50], rel=0.05)


def test_a_fall_lost_in_the_noise_leaves_the_usual_rate() -> None:
    # Falls by 0.05, rises by 0.2 from step 100 to 150, and is past 2.3 + 15 * 0.0034 by step 126.
    loss = pieces((0, 2.3), (20, 2.3), (60, 2.25), (100, 2.25), (150, 2.45), (200, 2.3))
    free, bound = made(loss, noise=0.0034, times=100), made(loss, noise=0.0034)
    assert pair(replace(free, lrs_L=free.lrs_L * 5)) == pytest.approx((100 * 5 * LRS[0], 0.4))  # the first rate
    assert pair(free) == pytest.approx((0.4 / 30, 0.4))
    assert explain([landmarks(free)], 0.4) == (
        "LRMAX is 0.4, the usual rate of this network at this width, batch size and length of training, since the fall "
        "of the loss is lost in the noise; LRMIN is a thirtieth of LRMAX, or the test's first rate, at most a third."
    )
    assert pair(bound)[1] == pytest.approx(LRS[126] / 2)
    assert "had risen past its start, which lies below 0.4, the usual rate" in explain([landmarks(bound)], 0.4)


@pytest.mark.parametrize("first", [2.28, 2.35])
def test_a_loss_from_which_nothing_is_learned_limits_nothing(first: float) -> None:
    # As of `shapes` in batches of 64: off ln 10 at first, then about it, by more where the rate is high.
    rng = np.random.default_rng(0)
    course = pieces((0, first), (40, 2.303), (199, 2.303))
    spread = pieces((0, 0.022), (120, 0.022), (199, 0.035))
    for _ in range(200):
        rows = [(float(loss), 0.1) for loss in course + rng.normal(scale=spread)]
        one = make_sweep(0, sweep_lrs(LrRangeConfig(), 0), rows, False)
        assert choose(landmarks(one), 0.42) == pytest.approx((0.014, 0.42))


def test_the_reason_names_the_usual_rate_and_what_the_test_allows() -> None:
    one = made(pieces((0, 2.3), (20, 2.3), (121, 1.3), (131, 1.3), (181, 2.3)), times=20)  # the middle is at 0.59
    usual = "the usual rate of this network at this width, batch size and length of training"
    valley = "0.59, the middle of the valley where the loss stops falling"
    for rate, said in (
        (0.15, f"0.15, {usual}; the test allows 0.018 to 2.4 by {valley}"),
        (5.0, f"4 times {valley}, below 5, {usual}"),
        (0.01, f"1/32 of {valley}, above 0.01, {usual}"),
    ):
        assert explain([landmarks(one)], rate).startswith(f"LRMAX is {said}; LRMIN is ")


@pytest.mark.parametrize(
    "loss",
    [
        pieces((0, 1.0), (200, 3.0)),  # rises from the start
        pieces((0, 3.0), (9, 1.0), (200, 3.0)),  # its lowest is where the fall is counted from
        np.full(NUM, 2.3),  # flat
        pieces((0, 3.0), (200, 1.0)),  # never turns
        np.full(10, 2.3),  # as short as can be
    ],
)
def test_every_rule_answers_for_every_finite_curve(loss: Curve) -> None:
    for name, suggest in sweep.RULES.items():
        assert LRS[0] / 10 <= suggest(made(loss)) <= LRS[-1], name
    low, high = pair(made(loss))
    assert 0 < low < high <= LRS[-1]


@pytest.mark.parametrize("window", [2.0, 10.0, 31.5])
def test_smoothing_is_the_weighted_mean_of_what_came_so_far(window: float) -> None:
    values = np.random.default_rng(0).normal(size=60)
    decay = 1 - 1 / window
    for i, ours in enumerate(smooth(values, window)):
        weights = decay ** np.arange(i, -1, -1)
        assert ours == pytest.approx((weights * values[: i + 1]).sum() / weights.sum(), rel=1e-9)


def test_smoothing_starts_at_the_first_value_and_leaves_a_constant_alone() -> None:
    assert smooth(np.array([5.0, 0.0]), 10)[0] == pytest.approx(5.0)
    assert smooth(np.full(30, 2.3), 10) == pytest.approx(np.full(30, 2.3))


@pytest.mark.parametrize("window", [5.0, 20.0])
def test_the_noise_is_the_smoothed_curves_deviation_whatever_its_course(window: float) -> None:
    noise = np.random.default_rng(1).normal(scale=0.3, size=20_000)
    seen = smooth(noise, window)[200:].std()  # 20,000 steps know it to about 3 %, the median to about 1 %
    assert smoothed_noise(noise, window) == pytest.approx(seen, rel=0.1)
    assert smoothed_noise(noise + np.linspace(0, 50, 20_000), window) == pytest.approx(seen, rel=0.1)


# --- the sweep ---


def config(**more: Any) -> LrRangeConfig:
    given = {"batch_size": 15, "width": 0.05, "steps": 12, "workers": 0, "device": "cpu", "precision": "fp32"}
    return LrRangeConfig(**{**given, **more})


@pytest.mark.parametrize(("curve", "expected"), [("exp", np.geomspace), ("linear", np.linspace)])
def test_the_sweep_walks_its_curve_from_end_to_end(curve: str, expected: Callable[..., Any]) -> None:
    steps: list[tuple[StepResult, int]] = []
    result = range_test(
        tiny.dataset(), config(curve=curve, lr_start=1e-4, lr_end=1e-2), on_step=lambda *seen: steps.append(seen)
    )
    lrs = expected(1e-4, 1e-2, 12)
    assert [step.lr for step, _ in steps] == pytest.approx(lrs.tolist(), rel=1e-12)
    assert result.sweeps[0].lrs_L == pytest.approx(lrs, rel=1e-12)
    assert [step.step for step, _ in steps] == list(range(12))
    assert {step.momentum for step, _ in steps} == {0.9}
    assert [step.loss for step, _ in steps] == result.sweeps[0].losses_L.tolist()
    assert [step.correct / step.num_images for step, _ in steps] == result.sweeps[0].accuracies_L.tolist()
    assert [step.num_images for step, _ in steps] == [15] * 12
    assert {repeat for _, repeat in steps} == {0}


@pytest.mark.parametrize(("epochs", "expected"), [(4.0, 16), (2.6, 10)])
def test_epochs_give_the_length_in_passes_over_the_images(epochs: float, expected: int) -> None:
    # 60 images in batches of 15 are four steps an epoch.
    assert len(range_test(tiny.dataset(), config(epochs=epochs, lr_end=0.1)).sweeps[0].lrs_L) == expected


def test_epochs_that_come_to_fewer_than_ten_steps_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"--epochs: expected 10 steps or more, at 4 an epoch, found 2.3 epochs, 9 st"):
        range_test(tiny.dataset(), config(epochs=2.3))


def test_the_first_loss_is_near_ln_3_for_three_classes() -> None:
    assert range_test(tiny.dataset(), config()).sweeps[0].losses_L[0] == pytest.approx(math.log(3), abs=0.15)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    one, same, other = (range_test(tiny.dataset(), config(seed=seed, dropout=0.2)) for seed in (3, 3, 4))
    assert one.sweeps[0].losses_L.tolist() == same.sweeps[0].losses_L.tolist()
    assert (one.lr_min, one.lr_max, one.suggestions) == (same.lr_min, same.lr_max, same.suggestions)
    assert one.sweeps[0].losses_L.tolist() != other.sweeps[0].losses_L.tolist()


def test_the_number_of_workers_changes_no_number() -> None:
    by_image = {"augment_backend": "albumentations"}
    none, two = (range_test(tiny.dataset(), config(workers=workers, **by_image)) for workers in (0, 2))
    assert none.sweeps[0].losses_L.tolist() == two.sweeps[0].losses_L.tolist()


def test_repeats_take_the_seeds_that_follow_and_their_geometric_mean() -> None:
    both = range_test(tiny.dataset(), config(seed=5, repeats=2, lr_end=0.1))
    single = [range_test(tiny.dataset(), config(seed=seed, lr_end=0.1)) for seed in (5, 6)]
    assert [s.losses_L.tolist() for s in both.sweeps] == [one.sweeps[0].losses_L.tolist() for one in single]
    assert both.lr_max == pytest.approx(math.sqrt(single[0].lr_max * single[1].lr_max))
    assert both.lr_min == pytest.approx(math.sqrt(single[0].lr_min * single[1].lr_min))
    assert both.reason.endswith("in one of 2 repeats; the pair is the geometric mean of theirs.")
    for name, value in both.suggestions.items():
        assert value == pytest.approx(math.sqrt(single[0].suggestions[name] * single[1].suggestions[name]))


def test_held_out_images_give_the_curves_when_asked_for() -> None:
    result = range_test(tiny.dataset(), config(val_split=12, lr_end=0.1))
    assert result.source == "12 held-out images"
    assert np.allclose(result.sweeps[0].accuracies_L * 12, (result.sweeps[0].accuracies_L * 12).round())
    assert result.conditions["train images"] == 48
    assert range_test(tiny.dataset(), config()).source == "training images"


def test_nothing_of_the_callers_is_touched() -> None:
    def states() -> tuple[Any, ...]:
        numpys = np.random.get_state(legacy=False)
        return (
            random.getstate(),
            numpys["state"]["key"].tolist(),
            numpys["state"]["pos"],
            torch.get_rng_state().tolist(),
        )

    data, before = tiny.dataset(), states()
    images = data.train.images_NHWC.copy()
    range_test(data, config(dropout=0.3, repeats=2))
    assert states() == before
    assert np.array_equal(data.train.images_NHWC, images)
    assert torch.is_grad_enabled()


def test_a_rate_without_end_stops_the_sweep_with_finite_curves() -> None:
    result = range_test(tiny.dataset(), config(lr_start=1e-3, lr_end=1e30, steps=60))
    (one,) = result.sweeps
    assert one.diverged
    assert 10 <= len(one.lrs_L) == len(one.losses_L) < 60
    assert np.isfinite(one.losses_L).all()
    assert all(1e-4 <= value < 1e30 for value in result.suggestions.values())
    assert 0 < result.lr_min < result.lr_max


def test_a_start_at_a_rate_past_use_is_a_diverged_error_that_says_what_to_do() -> None:
    with pytest.raises(DivergedError, match=r"expected at least 10 steps .* Lower --lr-start\.") as caught:
        range_test(tiny.dataset(), config(lr_start=1e20, lr_end=1e30))
    assert "\n" not in str(caught.value)


Script = Sequence[float | None]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., sweep.RangeTest]:
    """A range test whose training steps give these losses, one list a repeat; None: not finite."""

    def run(*losses: Script, **more: Any) -> sweep.RangeTest:
        told: Iterator[float | None] = iter([])
        starts = iter(losses)

        def fresh(*args: Any) -> Any:
            nonlocal told
            told = iter(next(starts))
            return made_model(*args)

        def step(*_args: object, **_more: object) -> StepOutput:
            loss = next(told)
            shown = math.nan if loss is None else loss
            return StepOutput(torch.tensor(shown).double(), torch.tensor(1), torch.tensor(float(loss is None)))

        made_model = init_model
        with monkeypatch.context() as patch:
            patch.setattr(sweep, "init_model", fresh)
            patch.setattr(sweep, "train_step", step)
            settings = {"batch_size": 2, "steps": len(losses[0]), "repeats": len(losses), **more}
            return range_test(tiny.dataset(12), config(**settings))

    return run


def test_a_step_that_is_not_finite_ends_the_sweep_before_it(scripted: Callable[..., sweep.RangeTest]) -> None:
    (one,) = scripted([2.3] * 15 + [None] * 105).sweeps
    assert one.diverged
    assert len(one.lrs_L) == 15
    assert one.lrs_L[-1] == pytest.approx(1e-3 * 1e4 ** (14 / 119))


@pytest.mark.parametrize("num_finite", [0, 1, 9])
def test_fewer_than_ten_finite_steps_are_a_diverged_error(
    num_finite: int, scripted: Callable[..., sweep.RangeTest]
) -> None:
    with pytest.raises(DivergedError) as caught:
        scripted([2.3] * num_finite + [None] * (120 - num_finite))
    assert caught.value.where == f"step {num_finite}"


def test_ten_finite_steps_are_enough(scripted: Callable[..., sweep.RangeTest]) -> None:
    assert len(scripted([2.3] * 10 + [None] * 110).sweeps[0].lrs_L) == 10


def test_a_smoothed_loss_of_four_times_its_lowest_ends_the_sweep(scripted: Callable[..., sweep.RangeTest]) -> None:
    # 120 steps are smoothed over 6: after twenty of 1 a loss of x lifts the average by about (x - 1) / 6.
    (calm,) = scripted([1.0] * 20 + [15.0] + [1.0] * 99).sweeps
    (wild,) = scripted([1.0] * 20 + [25.0] * 100).sweeps
    assert (calm.diverged, len(calm.lrs_L)) == (False, 120)
    assert (wild.diverged, len(wild.lrs_L)) == (True, 21)


def test_a_loss_of_held_out_images_that_is_not_finite_ends_the_sweep_before_it(
    scripted: Callable[..., sweep.RangeTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([2.3] * 15 + [math.nan] * 105)
    monkeypatch.setattr(sweep, "evaluate", lambda *_a, **_m: SimpleNamespace(loss=next(answers), accuracy=0.5))
    result = scripted([1.0] * 120, val_split=3)
    assert result.sweeps[0].diverged
    assert result.sweeps[0].losses_L.tolist() == [2.3] * 15
    assert all(math.isfinite(value) for value in [result.lr_min, result.lr_max, *result.suggestions.values()])


WARNINGS = ("only", "hardly fell", "had not turned", "at the first rates", "disagree")
GOOD = pieces((0, 2.3), (30, 2.3), (90, 1.0), (119, 2.3)).tolist()
CASES: dict[str, tuple[list[Any], set[str]]] = {
    "a good curve": ([GOOD], set()),
    "two that agree": ([GOOD, pieces((0, 2.3), (30, 2.3), (92, 1.1), (119, 2.3)).tolist()], set()),
    "a good curve that diverges": ([[2.3] * 20 + GOOD[:91] + [50.0] * 29], set()),
    "a short one": ([pieces((0, 2.3), (20, 2.3), (60, 1.0), (79, 2.3)).tolist()], {"only"}),
    "one cut short": ([GOOD[:91] + [None] * 29], set()),
    "lost in noise": (
        [(pieces((0, 2.3), (30, 2.3), (90, 2.25), (119, 2.3)) + 0.03 * (-1.0) ** np.arange(120)).tolist()],
        {"hardly fell", "had not turned"},
    ),
    "no turn": ([pieces((0, 2.3), (30, 2.3), (119, 1.0)).tolist()], {"had not turned"}),
    "a turn at once": ([[2.3] * 10 + [0.5] + [2.3] * 109], {"at the first rates"}),
    # Their valleys lie a factor of 2.6 apart; LRMAX is the usual rate by both.
    "two that disagree": ([GOOD, pieces((0, 2.3), (20, 2.3), (76, 1.0), (119, 2.3)).tolist()], {"disagree"}),
    # The other's valley lies so low that the usual rate, which stands where the fall is lost, is beyond what it allows.
    "one of two lost in noise": (
        [
            pieces((0, 2.3), (5, 2.3), (18, 1.0), (40, 2.3), (119, 2.3)).tolist(),
            (np.full(120, 2.3) + 0.03 * (-1.0) ** np.arange(120)).tolist(),
        ],
        {"hardly fell", "had not turned", "disagree"},
    ),
    "noise that rises": (
        [
            (
                pieces((0, 2.3), (30, 2.3), (50, 2.25), (60, 2.25), (70, 2.9), (119, 2.9))
                + 0.03 * (-1.0) ** np.arange(120)
            ).tolist()
        ],
        {"hardly fell"},
    ),
}


@pytest.mark.parametrize(("losses", "expected"), CASES.values(), ids=CASES.keys())
def test_a_warning_appears_when_and_only_when_it_should(
    losses: list[Script], expected: set[str], scripted: Callable[..., sweep.RangeTest]
) -> None:
    warnings = scripted(*losses).warnings
    assert {word for word in WARNINGS for text in warnings if word in text} == expected
    assert len(warnings) == len(expected)


def test_the_conditions_say_what_the_pair_holds_for() -> None:
    plain = config(batch_size=20, weight_decay=1e-4)
    conditions = range_test(tiny.dataset(), plain).conditions
    assert conditions["batch size"] == 20
    assert conditions["weight decay"] == 1e-4
    assert conditions["augmentation"] == "PadIfNeeded > RandomCrop > CoarseDropout > Normalize"
    assert range_test(tiny.dataset(), replace(plain, seed=9, steps=11)).conditions == conditions
    assert range_test(tiny.dataset(), replace(plain, optimizer="adamw")).conditions != conditions
    assert range_test(tiny.dataset(), replace(plain, train_epochs=7)).conditions == {**conditions, "epochs": 7}


# Of a recipe's options those that change what a step does, each with another value than the default.
OTHERWISE: dict[str, Any] = {
    "batch_size": 256, "optimizer": "adamw", "weight_decay": 1e-3, "l1": 1e-5, "label_smoothing": 0.2, "dropout": 0.1,
    "gradient_centralization": False, "whitening_init": False, "identity_init": False, "ghost_batch_size": 32,
    "bn_weight_decay": True, "alternate_flips": False, "cycle_momentum": True, "width": 0.5,
}  # fmt: skip
# The data and the policy are conditions by their content; which numbers a machine computes in is none.
BY_CONTENT = {*(item.name for item in fields(DataConfig)), "val_split", "augment", "augment_backend"}
NO_CONDITION = {"seed", "device", "workers", "precision"}


@pytest.mark.parametrize("name", OTHERWISE)
def test_each_option_that_changes_a_step_is_a_condition_of_its_own(name: str) -> None:
    plain, other = (
        range_test_conditions(tiny.dataset(), recipe, {"transforms": []}, epochs=24)
        for recipe in (RecipeConfig(), RecipeConfig(**{name: OTHERWISE[name]}))
    )
    assert sum(other[condition] != plain[condition] for condition in plain) == 1


def test_the_sweep_begins_with_the_network_that_the_training_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[dict[str, torch.Tensor]] = []

    def fresh(*arguments: Any) -> ResNet3:
        model = init_model(*arguments)
        begun.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return model

    monkeypatch.setattr(sweep, "init_model", fresh)
    range_test(tiny.dataset(), config(val_split=6, width=0.9, steps=10, lr_end=0.01))
    trained = Trainer(tiny.dataset(), TrainConfig(width=0.9, lr_max=0.1, batch_size=10, val_split=6)).model
    assert begun[0].keys() == trained.state_dict().keys()
    assert all(torch.equal(begun[0][name], tensor) for name, tensor in trained.state_dict().items())


def test_the_sweep_alternates_its_flips_unless_told_not_to_or_given_another_policy(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("transform: {__class_fullname__: Compose, transforms: [{__class_fullname__: ToGray, p: 1.0}]}")

    def both(augment: str | None) -> tuple[sweep.RangeTest, sweep.RangeTest]:
        one, other = (range_test(tiny.dataset(), config(augment=augment, alternate_flips=on)) for on in (False, True))
        return one, other

    one, other = both(None)
    assert one.conditions != other.conditions
    assert not np.array_equal(one.sweeps[0].losses_L, other.sweeps[0].losses_L)
    one, other = both(str(policy))
    assert one.conditions == other.conditions
    assert np.array_equal(one.sweeps[0].losses_L, other.sweeps[0].losses_L)


def test_no_option_of_a_recipe_is_forgotten_as_a_condition() -> None:
    assert {item.name for item in fields(RecipeConfig)} == {*OTHERWISE, *BY_CONTENT, *NO_CONDITION}


def test_the_mean_curves_go_as_far_as_all_sweeps_went() -> None:
    one, other = made(np.full(30, 2.0), np.full(30, 0.1)), made(np.full(50, 4.0), np.full(50, 0.3))
    lrs, losses, accuracies = sweep.mean_curves([one, other])
    assert lrs.tolist() == LRS[:30].tolist()
    assert losses == pytest.approx(np.full(30, 3.0))
    assert accuracies == pytest.approx(np.full(30, 0.2))
