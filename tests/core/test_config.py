"""Configurations: bounds, choices and pairs that belong together are checked when one is made."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from scsuite.core.config import (
    RECIPES,
    ComputeConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    GradcamConfig,
    LrRangeConfig,
    RecipeConfig,
    TrainConfig,
    ZigzagConfig,
)
from scsuite.core.errors import UsageError

NAN, INFINITY = float("nan"), float("inf")

REFUSED: list[tuple[type[Config], str, Any, str]] = [
    (ComputeConfig, "seed", -1, "--seed"),
    (ComputeConfig, "seed", 2**63, "--seed"),
    (ComputeConfig, "seed", 10**400, "--seed"),
    (ComputeConfig, "seed", 0.5, "--seed"),
    (ComputeConfig, "seed", True, "--seed"),
    (ComputeConfig, "workers", 257, "--workers"),
    (ComputeConfig, "width", 0.0, "--width"),
    (ComputeConfig, "width", 16.1, "--width"),
    (ComputeConfig, "width", NAN, "--width"),
    (ComputeConfig, "width", "wide", "--width"),
    (ComputeConfig, "precision", "fp64", "--precision"),
    (DataConfig, "data", "", "--data"),
    (DataConfig, "limit_train", 0, "--limit-train"),
    (DataConfig, "limit_test", -5, "--limit-test"),
    (DataConfig, "test_split", 0.0, "--test-split"),
    (DataConfig, "test_split", 1.0, "--test-split"),
    (RecipeConfig, "batch_size", 0, "--bs"),
    (RecipeConfig, "batch_size", "512", "--bs"),
    (RecipeConfig, "batch_size", 512.0, "--bs"),
    (RecipeConfig, "weight_decay", -1e-9, "--weight-decay"),
    (RecipeConfig, "weight_decay", INFINITY, "--weight-decay"),
    (RecipeConfig, "weight_decay", 10**400, "--weight-decay"),
    (RecipeConfig, "l1", -1.0, "--l1"),
    (RecipeConfig, "label_smoothing", 1.0, "--label-smoothing"),
    (RecipeConfig, "dropout", 1.0, "--dropout"),
    (RecipeConfig, "val_split", -1, "--val-split"),
    (RecipeConfig, "ghost_batch_size", -1, "--ghost-batch-size"),
    (RecipeConfig, "optimizer", "adam", "--optimizer"),
    (RecipeConfig, "optimizer", ["sgd"], "--optimizer"),
    (LrRangeConfig, "lr_start", 0.0, "--lr-start"),
    (LrRangeConfig, "lr_start", 10.0, "--lr-start and --lr-end"),
    (LrRangeConfig, "lr_end", 1e-3, "--lr-start and --lr-end"),
    (LrRangeConfig, "steps", 9, "--steps"),
    (LrRangeConfig, "epochs", 0.0, "--epochs"),
    (LrRangeConfig, "repeats", 101, "--repeats"),
    (LrRangeConfig, "curve", "cosine", "--curve"),
    (TrainConfig, "epochs", 0, "--epochs"),
    (TrainConfig, "peak_epoch", 0.0, "--peak-epoch"),
    (TrainConfig, "peak_epoch", 24.0, "--peak-epoch"),
    (TrainConfig, "lr_max", 0.0, "--lr-max"),
    (TrainConfig, "lr_min", 0.1, "--lr-min"),
    (TrainConfig, "div_factor", 1.0, "--div-factor"),
    (TrainConfig, "cycle_momentum", "no", "--cycle-momentum"),
    (TrainConfig, "deterministic", 1, "--deterministic"),
    (ZigzagConfig, "lr_min", 0.4, "--lr-min and --lr-max"),
    (ZigzagConfig, "step_size", 0, "--step-size"),
    (ZigzagConfig, "policy", "triangle", "--policy"),
    (ZigzagConfig, "peak_epoch", 30.0, "--peak-epoch"),
]


@pytest.mark.parametrize(("config_class", "name", "value", "flag"), REFUSED)
def test_a_value_out_of_its_range_is_a_usage_error_that_names_the_option(
    config_class: type[Config], name: str, value: object, flag: str
) -> None:
    with pytest.raises(UsageError) as caught:
        config_class(**{name: value})
    assert caught.value.where == flag
    assert "\n" not in str(caught.value)


ALLOWED: list[tuple[type[Config], str, Any]] = [
    (ComputeConfig, "seed", 2**63 - 1),
    (ComputeConfig, "workers", 0),
    (ComputeConfig, "workers", 256),
    (ComputeConfig, "width", 16),  # a whole number where a number is asked for
    (RecipeConfig, "batch_size", 1),
    (RecipeConfig, "ghost_batch_size", 513),
    (RecipeConfig, "weight_decay", 0),
    (RecipeConfig, "dropout", 0.999),
    (LrRangeConfig, "steps", 10),
    (LrRangeConfig, "epochs", 0.5),
    (TrainConfig, "peak_epoch", 23.99),
    (TrainConfig, "lr_max", 5),
    (TrainConfig, "cycle_momentum", True),
]


@pytest.mark.parametrize(("config_class", "name", "value"), ALLOWED)
def test_the_ends_of_a_range_are_allowed(config_class: type[Config], name: str, value: object) -> None:
    assert getattr(config_class(**{name: value}), name) == value


def test_a_misspelt_choice_is_answered_with_the_most_similar_one() -> None:
    with pytest.raises(UsageError, match=r"Did you mean gradcam\+\+\?"):
        GradcamConfig(ckpt="run", method="grad-cam++")
    with pytest.raises(UsageError, match=r"one of none, flip, flip-shift, found 'zzz'\. See --help"):
        EvaluateConfig(ckpt="run", tta="zzz")


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"lr_min": 0.01}, "--lr-min"),
        ({"lr_min": 0.5, "lr_max": 0.5}, "--lr-min and --lr-max"),
        ({"lr_from": "run", "lr_max": 0.5}, "--lr-from"),
        ({"lr_from": "run", "lr_min": 0.5}, "--lr-from"),
        ({"epochs": 5, "peak_epoch": 5.0}, "--peak-epoch"),
    ],
)
def test_contradicting_lr_bounds_and_peaks_are_refused(values: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(**values)
    assert caught.value.where == flag


def test_the_defaults_are_the_assignments() -> None:
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.width) == (24, 512, 1.0)
    assert config.resolved_peak_epoch == pytest.approx(5.0)
    assert config.lr_max is None  # found by the range test
    assert config.div_factor == 10


@pytest.mark.parametrize(("epochs", "peak"), [(24, 5.0), (48, 10.0), (12, 2.5), (1, 5 / 24)])
def test_the_default_peak_is_a_fixed_fraction_of_the_epochs(epochs: int, peak: float) -> None:
    assert TrainConfig(epochs=epochs).resolved_peak_epoch == pytest.approx(peak)


def test_a_given_peak_is_taken_as_it_is() -> None:
    assert TrainConfig(epochs=8, peak_epoch=2.5).resolved_peak_epoch == 2.5


def test_a_configuration_survives_its_dictionary_and_a_yaml_file() -> None:
    import yaml

    train = TrainConfig(lr_max=0.4, lr_min=0.1, epochs=3, augment="a.yaml", limit_train=7)
    assert TrainConfig.from_dict(yaml.safe_load(yaml.safe_dump(train.to_dict()))) == train
    cam = GradcamConfig(ckpt="run", images=("a.png", "b.png"))
    assert GradcamConfig.from_dict(yaml.safe_load(yaml.safe_dump(cam.to_dict()))) == cam


@pytest.mark.parametrize(
    ("name", "values"),
    [("--data", {"data": "folder"}), ("--limit-test", {"limit_test": 10}), ("--select", {"select": "3,14"})],
)
def test_options_that_choose_test_images_are_refused_next_to_images(name: str, values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{name}: expected not with --images"):
        GradcamConfig(ckpt="run", images=("a.png",), **values)


def test_unknown_names_are_ignored_and_known_values_are_checked() -> None:
    values = TrainConfig(seed=3).to_dict()
    assert ComputeConfig.from_dict(values) == ComputeConfig(seed=3)
    with pytest.raises(UsageError, match="--seed"):
        ComputeConfig.from_dict({**values, "seed": "three"})


def test_a_configuration_cannot_be_changed() -> None:
    config = ComputeConfig()
    with pytest.raises(FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("config_class", [LrRangeConfig, TrainConfig])
def test_the_docstring_of_a_public_configuration_lists_every_field(config_class: type[Config]) -> None:
    doc = config_class.__doc__ or ""
    for item in fields(config_class):
        assert f"        {item.name} (" in doc
        assert item.metadata["help"] in doc
    assert "All fields, by keyword" not in doc


# --- recipes ---

PLAIN = {  # SGD with Nesterov momentum as published, and none of what the default recipe adds
    "optimizer": "sgd", "batch_size": 512, "weight_decay": 5e-4, "bn_weight_decay": True, "cycle_momentum": False,
    "label_smoothing": 0.0, "ghost_batch_size": 0, "whitening_init": False, "identity_init": False,
    "gradient_centralization": False, "flip": "random", "dropout": 0.0, "l1": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("config_class", [LrRangeConfig, TrainConfig])
@pytest.mark.parametrize("recipe", ["assignment", "cifar10-fast"])
def test_a_recipe_sets_every_setting_that_is_not_given(config_class: type[RecipeConfig], recipe: str) -> None:
    config = config_class(recipe=recipe)
    assert {name: getattr(config, name) for name in PLAIN} == PLAIN
    assert config.recipe == recipe
    assert config.changes_of_recipe() == {}


@pytest.mark.parametrize("recipe", ["assignment", "cifar10-fast"])
def test_a_recipe_names_every_setting_so_that_no_new_default_enters_it(recipe: str) -> None:
    in_group = {item.name for item in fields(TrainConfig) if item.metadata["group"] == "Recipe"}
    assert in_group - set(RECIPES[recipe]) == {"recipe", "width", "augment", "augment_backend"}


def test_a_recipe_of_a_training_has_its_learning_rates_and_no_average() -> None:
    assert TrainConfig(recipe="assignment").lr_max is None  # the range test finds them
    published = TrainConfig(recipe="cifar10-fast")
    assert (published.lr_min, published.lr_max) == (1e-6, 0.4)
    assert published.resolved_peak_epoch == pytest.approx(5.0)
    assert TrainConfig(recipe="assignment").resolved_ema_epochs == published.resolved_ema_epochs == 0


def test_a_given_value_overrides_its_recipe_even_if_it_is_the_default() -> None:
    defaults = TrainConfig()
    config = TrainConfig(recipe="assignment", label_smoothing=defaults.label_smoothing, ghost_batch_size=16, seed=3)
    assert (config.label_smoothing, config.ghost_batch_size) == (0.1, 16)
    assert config.changes_of_recipe() == {"label_smoothing": 0.1, "ghost_batch_size": 16}
    assert replace(config, seed=3) == TrainConfig.from_dict(config.to_dict()) == config
    assert TrainConfig(recipe="default") == defaults


@pytest.mark.parametrize("given", [{"lr_max": None}, {"lr_from": "run"}])
def test_bounds_from_a_range_test_replace_those_of_the_recipe(given: dict[str, Any]) -> None:
    config = TrainConfig(recipe="cifar10-fast", **given)
    assert (config.lr_min, config.lr_max) == (None, None)
    assert config.label_smoothing == 0


def test_an_unknown_recipe_is_refused_with_the_most_similar_one() -> None:
    with pytest.raises(UsageError, match=r"--recipe: expected one of default, .*Did you mean assignment\?"):
        TrainConfig(recipe="assigment")
    with pytest.raises(UsageError, match="--recipe"):
        TrainConfig(recipe=["assignment"])  # type: ignore[arg-type]
