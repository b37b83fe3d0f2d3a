"""The range test: its steps, its stops and warnings, its conditions, and what it leaves unchanged."""

import itertools
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from scsuite.core.config import DataConfig, LrRangeConfig, RecipeConfig, TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.errors import DivergedError, InputError, UsageError
from scsuite.core.lr_range import range_test as module
from scsuite.core.lr_range import run_sweep as sweep_module
from scsuite.core.lr_range.range_test import (
    LrBounds,
    RangeTest,
    condition_warnings,
    find_lr_bounds,
    range_test,
    range_test_conditions,
    range_test_config,
    read_lr_bounds,
)
from scsuite.core.lr_range.rules import choose_bounds, find_landmarks, make_warnings
from scsuite.core.runs.results import StepResult
from scsuite.core.training.setup import TrainSetup, make_setup
from scsuite.core.training.step import StepOutput
from scsuite.core.training.trainer import Trainer
from tests.core import tiny
from tests.core.lr_range.test_rules import piecewise_linear


def make_config(**settings: Any) -> LrRangeConfig:
    defaults = {"batch_size": 15, "width": 0.05, "steps": 12, "workers": 0, "device": "cpu", "precision": "fp32"}
    return LrRangeConfig(**{**defaults, **settings})


# --- steps, length, seeds ---


@pytest.mark.parametrize(("curve", "expected"), [("exp", np.geomspace), ("linear", np.linspace)])
def test_the_sweep_follows_its_curve_from_end_to_end(curve: str, expected: Callable[..., Any]) -> None:
    steps: list[tuple[StepResult, int]] = []
    result = range_test(
        tiny.dataset(), make_config(curve=curve, lr_start=1e-4, lr_end=1e-2), on_step=lambda *args: steps.append(args)
    )
    lrs = expected(1e-4, 1e-2, 12)
    assert [step.lr for step, _ in steps] == pytest.approx(lrs.tolist(), rel=1e-12)
    assert result.sweeps[0].lrs_L == pytest.approx(lrs, rel=1e-12)
    assert [step.step for step, _ in steps] == list(range(12))
    assert {step.momentum for step, _ in steps} == {0.9}
    assert [step.loss for step, _ in steps] == result.sweeps[0].losses_L.tolist()
    assert [step.num_correct / step.num_images for step, _ in steps] == result.sweeps[0].accuracies_L.tolist()
    assert [step.num_images for step, _ in steps] == [15] * 12
    assert {repeat for _, repeat in steps} == {0}


@pytest.mark.parametrize(("cycle_momentum", "momentum"), [(False, 0.9), (True, 0.85)])
def test_the_momentum_is_that_of_the_training_at_its_peak(cycle_momentum: bool, momentum: float) -> None:
    steps: list[StepResult] = []
    range_test(tiny.dataset(), make_config(cycle_momentum=cycle_momentum), on_step=lambda step, _: steps.append(step))
    assert {step.momentum for step in steps} == {momentum}


@pytest.mark.parametrize(("epochs", "expected"), [(4.0, 16), (2.6, 10)])
def test_epochs_set_the_length_in_passes_over_the_images(epochs: float, expected: int) -> None:
    # 60 images in batches of 15 are four steps per epoch.
    assert len(range_test(tiny.dataset(), make_config(epochs=epochs, lr_end=0.1)).sweeps[0].lrs_L) == expected


def test_epochs_with_fewer_than_ten_steps_are_a_usage_error() -> None:
    with pytest.raises(
        UsageError, match=r"--epochs: expected 10 steps or more, at 4 per epoch, found 2.3 epochs, 9 st"
    ):
        range_test(tiny.dataset(), make_config(epochs=2.3))


def test_the_first_loss_is_near_ln_3_for_three_classes() -> None:
    assert range_test(tiny.dataset(), make_config()).sweeps[0].losses_L[0] == pytest.approx(math.log(3), abs=0.15)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_different_ones() -> None:
    first, same, other = (range_test(tiny.dataset(), make_config(seed=seed, dropout=0.2)) for seed in (3, 3, 4))
    assert first.sweeps[0].losses_L.tolist() == same.sweeps[0].losses_L.tolist()
    assert (first.lr_min, first.lr_max, first.suggestions) == (same.lr_min, same.lr_max, same.suggestions)
    assert first.sweeps[0].losses_L.tolist() != other.sweeps[0].losses_L.tolist()


def test_the_number_of_workers_changes_no_number() -> None:
    config = make_config(augment_backend="albumentations")
    none, two = (range_test(tiny.dataset(), replace(config, workers=workers)) for workers in (0, 2))
    assert none.sweeps[0].losses_L.tolist() == two.sweeps[0].losses_L.tolist()


def test_repeats_use_consecutive_seeds_and_give_geometric_means() -> None:
    both = range_test(tiny.dataset(), make_config(seed=5, repeats=2, lr_end=0.1))
    single = [range_test(tiny.dataset(), make_config(seed=seed, lr_end=0.1)) for seed in (5, 6)]
    assert [s.losses_L.tolist() for s in both.sweeps] == [test.sweeps[0].losses_L.tolist() for test in single]
    assert both.lr_max == pytest.approx(math.sqrt(single[0].lr_max * single[1].lr_max))
    assert both.lr_min == pytest.approx(math.sqrt(single[0].lr_min * single[1].lr_min))
    assert both.reason.startswith("Median of 2 repeats: LRMAX = ")
    assert both.reason.endswith(" The LR bounds are the geometric means over the repeats.")
    for name, value in both.suggestions.items():
        assert value == pytest.approx(math.sqrt(single[0].suggestions[name] * single[1].suggestions[name]))


@pytest.mark.parametrize(("optimizer", "reference_lr"), [("sgd", 0.4), ("adamw", 0.006)])
def test_a_range_test_uses_the_reference_lr_of_its_recipe(optimizer: str, reference_lr: float) -> None:
    # Seven epochs of four steps: 28, fewer than 192.
    reference_lr *= (15 / 512 / 0.05) ** 0.5 * (2352 / 192) ** 0.25 * (7 * 4 / 192) ** 0.5
    result = range_test(tiny.dataset(), make_config(optimizer=optimizer, lr_end=0.1, train_epochs=7))
    assert result.lr_max == pytest.approx(choose_bounds(find_landmarks(result.sweeps[0]), reference_lr)[1])
    assert f"{reference_lr:.2g}" in result.reason


def test_held_out_images_give_the_curves_with_val_split() -> None:
    result = range_test(tiny.dataset(), make_config(val_split=12, lr_end=0.1))
    assert result.loss_source == "12 held-out images"
    assert np.allclose(result.sweeps[0].accuracies_L * 12, (result.sweeps[0].accuracies_L * 12).round())
    assert result.conditions["train_images"] == 48
    assert range_test(tiny.dataset(), make_config()).loss_source == "training images"


def test_random_states_data_and_grad_mode_of_the_caller_stay() -> None:
    def states() -> tuple[Any, ...]:
        numpy_state = np.random.get_state(legacy=False)["state"]
        return random.getstate(), numpy_state["key"].tolist(), numpy_state["pos"], torch.get_rng_state().tolist()

    data, before = tiny.dataset(), states()
    images = data.train.images_NHWC.copy()
    range_test(data, make_config(dropout=0.3, repeats=2))
    assert states() == before
    assert np.array_equal(data.train.images_NHWC, images)
    assert torch.is_grad_enabled()


def test_sweep_and_training_start_from_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    initial: list[dict[str, torch.Tensor]] = []

    def record_setup(*args: Any) -> TrainSetup:
        setup = make_setup(*args)
        initial.append({name: tensor.clone() for name, tensor in setup.model.state_dict().items()})
        return setup

    monkeypatch.setattr(sweep_module, "make_setup", record_setup)
    range_test(tiny.dataset(), make_config(val_split=6, width=0.9, steps=10, lr_end=0.01))
    trainer = Trainer(tiny.dataset(), TrainConfig(width=0.9, lr_max=0.1, batch_size=10, val_split=6))
    weights = trainer.raw_model.state_dict()
    assert initial[0].keys() == weights.keys()
    assert all(torch.equal(initial[0][name], tensor) for name, tensor in weights.items())


# --- stops and warnings ---


def test_a_huge_last_lr_stops_the_sweep_with_finite_curves() -> None:
    result = range_test(tiny.dataset(), make_config(lr_start=1e-3, lr_end=1e30, steps=60))
    (sweep,) = result.sweeps
    assert sweep.diverged
    assert 10 <= len(sweep.lrs_L) == len(sweep.losses_L) < 60
    assert np.isfinite(sweep.losses_L).all()
    assert all(1e-4 <= value < 1e30 for value in result.suggestions.values())
    assert 0 < result.lr_min < result.lr_max


def test_a_huge_first_lr_is_a_diverged_error_that_says_what_to_do() -> None:
    with pytest.raises(DivergedError, match=r"expected at least 10 steps .* Lower --lr-start\.") as caught:
        range_test(tiny.dataset(), make_config(lr_start=1e20, lr_end=1e30))
    assert "\n" not in str(caught.value)


Losses = Sequence[float | None]
ScriptedTest = Callable[..., RangeTest]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedTest:
    """A range test whose training steps give these losses, one list per repeat; None is a non-finite loss."""

    def run(*losses: Losses, **settings: Any) -> RangeTest:
        remaining = itertools.chain(*losses)
        lists = iter(losses)

        def launch_step(_setup: object, _batch: object, step: int, *_args: object) -> StepOutput:
            nonlocal remaining
            if step == 0:  # of the next repeat
                remaining = itertools.chain(next(lists))
            loss = next(remaining)
            value = math.nan if loss is None else loss
            return StepOutput(torch.tensor(value).double(), torch.tensor(1), torch.tensor(float(loss is None)))

        with monkeypatch.context() as patch:
            patch.setattr(sweep_module, "launch_step", launch_step)
            defaults = {"batch_size": 2, "steps": len(losses[0]), "repeats": len(losses)}
            return range_test(tiny.dataset(12), make_config(**{**defaults, **settings}))

    return run


@pytest.mark.parametrize(("loss", "diverged"), [(6.8, False), (7.2, True)])
def test_a_sweep_diverges_where_the_smoothed_loss_exceeds_four_times_its_minimum(
    loss: float, diverged: bool, scripted: ScriptedTest
) -> None:
    # As fastai and Lightning. The window is two steps: after many losses of 1, one of 7 gives an average of 4.
    (sweep,) = scripted([1.0] * 29 + [loss] + [1.0] * 10).sweeps
    assert (sweep.diverged, len(sweep.lrs_L)) == (diverged, 30 if diverged else 40)


def test_a_non_finite_step_ends_the_sweep_before_it(scripted: ScriptedTest) -> None:
    (sweep,) = scripted([2.3] * 15 + [None] * 105).sweeps
    assert sweep.diverged
    assert len(sweep.lrs_L) == 15
    assert sweep.lrs_L[-1] == pytest.approx(1e-3 * 1e4 ** (14 / 119))


@pytest.mark.parametrize("num_finite", [0, 1, 9])
def test_fewer_than_ten_finite_steps_are_a_diverged_error(num_finite: int, scripted: ScriptedTest) -> None:
    with pytest.raises(DivergedError) as caught:
        scripted([2.3] * num_finite + [None] * (120 - num_finite))
    assert caught.value.where == f"step {num_finite}"


def test_ten_finite_steps_are_enough(scripted: ScriptedTest) -> None:
    assert len(scripted([2.3] * 10 + [None] * 110).sweeps[0].lrs_L) == 10


def test_a_smoothed_loss_of_four_times_its_minimum_ends_the_sweep(scripted: ScriptedTest) -> None:
    # 120 steps have a window of 6: after twenty losses of 1, a loss of x raises the average by about (x - 1) / 6.
    (calm,) = scripted([1.0] * 20 + [15.0] + [1.0] * 99).sweeps
    (wild,) = scripted([1.0] * 20 + [25.0] * 100).sweeps
    assert (calm.diverged, len(calm.lrs_L)) == (False, 120)
    assert (wild.diverged, len(wild.lrs_L)) == (True, 21)


def test_a_non_finite_loss_of_held_out_images_ends_the_sweep_before_it(
    scripted: ScriptedTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([2.3] * 15 + [math.nan] * 105)
    monkeypatch.setattr(TrainSetup, "evaluate", lambda *_a, **_k: SimpleNamespace(loss=next(losses), accuracy=0.5))
    result = scripted([1.0] * 120, val_split=3)
    assert result.sweeps[0].diverged
    assert result.sweeps[0].losses_L.tolist() == [2.3] * 15
    assert all(math.isfinite(value) for value in [result.lr_min, result.lr_max, *result.suggestions.values()])


WARNINGS = ("only", "too noisy", "had not turned", "at the first LRs", "disagree")
GOOD = piecewise_linear((0, 2.3), (30, 2.3), (90, 1.0), (119, 2.3)).tolist()
ALTERNATING = 0.03 * (-1.0) ** np.arange(120)
CASES: dict[str, tuple[list[Any], set[str]]] = {
    "a good curve": ([GOOD], set()),
    "two that agree": ([GOOD, piecewise_linear((0, 2.3), (30, 2.3), (92, 1.1), (119, 2.3)).tolist()], set()),
    "a good curve that diverges": ([[2.3] * 20 + GOOD[:91] + [50.0] * 29], set()),
    "few steps": ([piecewise_linear((0, 2.3), (20, 2.3), (60, 1.0), (79, 2.3)).tolist()], {"only"}),
    "stopped early": ([GOOD[:91] + [None] * 29], set()),
    "noise hides the drop": (
        [(piecewise_linear((0, 2.3), (30, 2.3), (90, 2.25), (119, 2.3)) + ALTERNATING).tolist()],
        {"too noisy", "had not turned"},
    ),
    "no turn": ([piecewise_linear((0, 2.3), (30, 2.3), (119, 1.0)).tolist()], {"had not turned"}),
    "an immediate turn": ([[2.3] * 10 + [0.5] + [2.3] * 109], {"at the first LRs"}),
    # The valleys differ by a factor of 2.6; LRMAX is the reference LR in both.
    "two that disagree": ([GOOD, piecewise_linear((0, 2.3), (20, 2.3), (76, 1.0), (119, 2.3)).tolist()], {"disagree"}),
    # The first valley is so low that the reference LR, which the noisy repeat keeps, is beyond its limit.
    "noise hides the drop of one of two": (
        [
            piecewise_linear((0, 2.3), (5, 2.3), (18, 1.0), (40, 2.3), (119, 2.3)).tolist(),
            (np.full(120, 2.3) + ALTERNATING).tolist(),
        ],
        {"too noisy", "had not turned", "disagree"},
    ),
    "noise with a rise": (
        [(piecewise_linear((0, 2.3), (30, 2.3), (50, 2.25), (60, 2.25), (70, 2.9), (119, 2.9)) + ALTERNATING).tolist()],
        {"too noisy"},
    ),
}


@pytest.mark.parametrize(("losses", "expected"), CASES.values(), ids=CASES.keys())
def test_a_warning_appears_when_and_only_when_it_should(
    losses: list[Losses], expected: set[str], scripted: ScriptedTest
) -> None:
    warnings = scripted(*losses).warnings
    assert {word for word in WARNINGS for text in warnings if word in text} == expected
    assert len(warnings) == len(expected)


@pytest.mark.parametrize("losses", [losses for losses, _ in CASES.values()], ids=CASES.keys())
def test_in_a_training_the_warnings_name_its_own_options(losses: list[Losses], scripted: ScriptedTest) -> None:
    sweeps = scripted(*losses).sweeps
    landmarks = [find_landmarks(sweep) for sweep in sweeps]
    for in_train, own_options in (
        (False, {"--bs", "--steps", "--lr-end", "--lr-start"}),
        (True, {"--bs", "--lr-from"}),
    ):
        text = " ".join(make_warnings(sweeps, landmarks, [1.0], len(losses[0]), in_train))
        of_lr_range = re.findall(r"scsuite lr-range with a (?:higher|lower) (--[a-z-]+)", text)
        assert set(of_lr_range) <= {"--steps", "--lr-end", "--lr-start"}
        assert set(re.findall(r"--[a-z-]+", text)) - set(of_lr_range) <= own_options


# --- conditions, and their use by a training ---


def test_conditions_are_the_settings_that_the_bounds_hold_for() -> None:
    config = make_config(batch_size=20, weight_decay=1e-4, lr_end=0.1)
    conditions = range_test(tiny.dataset(), config).conditions
    assert conditions["batch_size"] == 20
    assert conditions["weight_decay"] == 1e-4
    assert conditions["augmentation"] == "PadIfNeeded > RandomCrop > CoarseDropout > Normalize"
    assert range_test(tiny.dataset(), replace(config, seed=9, steps=11)).conditions == conditions
    assert range_test(tiny.dataset(), replace(config, optimizer="adamw")).conditions != conditions
    assert range_test(tiny.dataset(), replace(config, train_epochs=7)).conditions == {**conditions, "epochs": 7}


# The recipe options that change what a step does, each with a value that is not its default.
CHANGED_OPTIONS: dict[str, Any] = {
    "batch_size": 256, "optimizer": "adamw", "weight_decay": 1e-3, "l1": 1e-5, "label_smoothing": 0.2, "dropout": 0.1,
    "gradient_centralization": False, "whitening_init": False, "identity_init": False, "ghost_batch_size": 32,
    "bn_weight_decay": True, "flip": "random", "cycle_momentum": True, "width": 0.5,
    "class_weights": "balanced",
}  # fmt: skip
# Data and policy are conditions by their content; how a machine computes is none, and a recipe is the name of others.
COMPARED_BY_CONTENT = {*(item.name for item in fields(DataConfig)), "val_split", "augment", "augment_backend"}
NO_CONDITION = {"seed", "device", "workers", "precision", "recipe"}


@pytest.mark.parametrize("name", CHANGED_OPTIONS)
def test_each_option_that_changes_a_step_is_one_condition(name: str) -> None:
    default, changed = (
        range_test_conditions(tiny.dataset(), recipe, {"transforms": []}, epochs=24)
        for recipe in (RecipeConfig(), RecipeConfig(**{name: CHANGED_OPTIONS[name]}))
    )
    assert [key for key in default if changed[key] != default[key]] == [name]


def test_no_recipe_option_is_missing_from_the_conditions() -> None:
    assert {item.name for item in fields(RecipeConfig)} == {*CHANGED_OPTIONS, *COMPARED_BY_CONTENT, *NO_CONDITION}


def test_flip_is_no_condition_under_a_policy_of_the_users_own(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("transform: {__class_fullname__: Compose, transforms: [{__class_fullname__: ToGray, p: 1.0}]}")

    def test_both(augment: str | None) -> list[RangeTest]:
        return [range_test(tiny.dataset(), make_config(augment=augment, flip=flip)) for flip in ("random", "alternate")]

    random_flips, alternating = test_both(None)
    assert random_flips.conditions != alternating.conditions
    assert not np.array_equal(random_flips.sweeps[0].losses_L, alternating.sweeps[0].losses_L)
    off, on = test_both(str(policy))
    assert off.conditions == on.conditions
    assert np.array_equal(off.sweeps[0].losses_L, on.sweeps[0].losses_L)


def test_find_lr_bounds_runs_the_range_test_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    test, configs = range_test(tiny.dataset(), make_config()), list[LrRangeConfig]()

    def record_config(_data: Dataset, config: LrRangeConfig, **kwargs: Any) -> RangeTest:
        configs.append(config)
        assert kwargs["in_train"]
        return test

    monkeypatch.setattr(module, "range_test", record_config)
    config = TrainConfig(batch_size=15, width=0.05, epochs=5, seed=2)
    assert find_lr_bounds(tiny.dataset(), config) == (replace(config, lr_min=test.lr_min, lr_max=test.lr_max), test)
    assert configs == [range_test_config(config, 60)]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 100), (30, 120), (100, 200)])
def test_a_short_training_has_a_short_range_test(epochs: int, steps: int) -> None:
    config = TrainConfig(batch_size=15, epochs=epochs)  # four steps per epoch
    test = range_test_config(config, 60)
    assert (test.steps, test.train_epochs, test.epochs) == (steps, epochs, None)


def test_the_range_test_of_adamw_has_lrs_a_hundred_times_smaller() -> None:
    sgd, adamw = (range_test_config(TrainConfig(optimizer=name), 50_000) for name in ("sgd", "adamw"))
    assert (adamw.lr_start, adamw.lr_end) == (sgd.lr_start / 100, sgd.lr_end / 100)


def test_warnings_name_each_setting_in_which_a_training_differs() -> None:
    config = TrainConfig(batch_size=15, width=0.05, epochs=24, lr_from="runs/a")
    conditions = range_test(tiny.dataset(), make_config()).conditions
    assert condition_warnings(LrBounds(0.01, 0.1, conditions), config, tiny.dataset()) == []
    changed = replace(config, batch_size=20, val_split=6)
    assert condition_warnings(LrBounds(0.01, 0.1, conditions), changed, tiny.dataset()) == [
        "LR from a was found with train images 60; this run uses 54",
        "LR from a was found with batch size 15; this run uses 20",
    ]
    other_data = LrBounds(0.01, 0.1, {**conditions, "data": "f" * 64})
    assert condition_warnings(other_data, config, tiny.dataset()) == ["LR from a was found on other data"]


def write_lr_range_run(folder: Path, **result: Any) -> str:
    values = {"command": "lr-range", "status": "ok", "lr_min": 0.01, "lr_max": 0.1, "conditions": {"train_images": 48}}
    (folder / "result.json").write_text(json.dumps({**values, **result}))
    return str(folder)


def test_lr_bounds_are_read_from_a_complete_run(tmp_path: Path) -> None:
    assert read_lr_bounds(write_lr_range_run(tmp_path)) == LrBounds(0.01, 0.1, {"train_images": 48})


@pytest.mark.parametrize(
    "result",
    [
        {"lr_min": None},
        {"lr_max": "0.1"},
        {"lr_min": 0.2},
        {"lr_min": -1.0},
        {"lr_min": True},
        {"conditions": []},
        {"conditions": {"train images": 48}},
    ],
)
def test_unusable_lr_bounds_are_an_input_error(tmp_path: Path, result: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="Run scsuite lr-range again"):
        read_lr_bounds(write_lr_range_run(tmp_path, **result))
