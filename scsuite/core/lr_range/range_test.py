"""The learning-rate range test: a short training in which the learning rate rises from step to step.

In: a dataset and a `LrRangeConfig`. Out: a `RangeTest` with the curves, each rule's suggestion, and the LR bounds with
a reason; or a `TrainConfig` with its bounds found.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from scsuite.core import schedule
from scsuite.core.augment import policy_dict
from scsuite.core.config import MIN_RANGE_TEST_STEPS, LrRangeConfig, RecipeConfig, TrainConfig, is_finite_number
from scsuite.core.dataset import Dataset
from scsuite.core.device import deterministic_algorithms
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.errors import InputError, require_type
from scsuite.core.lr_range.rules import (
    RULES,
    allowed_lr_max,
    choose_bounds,
    explain,
    find_landmarks,
    geometric_mean,
    lr_max_source,
    make_warnings,
    reference_lr_max,
)
from scsuite.core.lr_range.run_sweep import OnStep, num_sweep_steps, run_sweep
from scsuite.core.lr_range.sweep import Float1D, LrSweep, mean_curves
from scsuite.core.runs.csv_files import write_csv
from scsuite.core.runs.results import read_result
from scsuite.core.training.own_network import own_network_config
from scsuite.core.training.setup import check_batch_size, check_classes, make_policy, split_validation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RangeTest:
    """All sweeps, each rule's suggestion (geometric mean over the repeats), and the LR bounds with their reason.

    `allowed_lr_max` is the range that the test allows for LRMAX, and `lr_max_source` what set it. `loss_source` names
    the images that the losses are of; `conditions` are the settings that the bounds hold for.
    """

    sweeps: tuple[LrSweep, ...]
    suggestions: dict[str, float]
    lr_min: float
    lr_max: float
    allowed_lr_max: tuple[float, float]
    lr_max_source: str
    reason: str
    warnings: tuple[str, ...]
    loss_source: str
    curve: str
    conditions: dict[str, Any]

    def mean_curves(self) -> tuple[Float1D, Float1D, Float1D]:
        """Return learning rates, smoothed loss and smoothed accuracy, averaged over the repeats."""
        return mean_curves(self.sweeps)

    def plot(self) -> "Figure":
        """Return a figure of loss and accuracy over the learning rate, with the bounds and the suggestions."""
        from scsuite.report.figures import lr_range

        return lr_range(self)


def range_test(
    data: Dataset, config: LrRangeConfig, *, on_step: OnStep | None = None, world: World = SINGLE_PROCESS,
    in_train: bool = False, model: nn.Module | None = None,
) -> RangeTest:  # fmt: skip
    """Run the range test `config.repeats` times, each with fresh weights, and choose the LR bounds.

    Args:
        data: The images to train on.
        config: The recipe, and the learning rates of the sweep.
        on_step: Called with each step's result and the number of its repeat; an exception that it raises ends the test.
        world: The ranks that share the work.
        in_train: Whether the warnings name options of `scsuite train` instead of `scsuite lr-range`.
        model: Your own network; see `Trainer`. Each repeat trains a copy of it. It has no reference LR, so LRMAX comes
            from the loss valley of the test.

    Returns:
        The curves, the suggestions of the rules, `lr_min`, `lr_max` and the `reason` for them.

    Raises:
        DivergedError: If the loss is not finite before ten steps are done.
        UsageError: For settings that the data or this machine does not allow.
        InputError: For a bad augmentation policy file.

    Example:
        >>> data = load_dataset("shapes", limit_train=2000, limit_test=500)
        >>> test = range_test(data, LrRangeConfig(width=0.25, batch_size=64))
        >>> test.lr_min, test.lr_max
    """
    require_type("data", data, Dataset)
    require_type("config", config, LrRangeConfig)
    config = config if model is None else own_network_config(config)
    configs = [replace(config, seed=config.seed + repeat) for repeat in range(config.repeats)]
    sweeps = tuple(
        run_sweep(data, repeat_config, repeat, on_step, world, copy.deepcopy(model))
        for repeat, repeat_config in enumerate(configs)
    )
    suggestions = {name: geometric_mean([rule(sweep) for sweep in sweeps]) for name, rule in RULES.items()}
    train, val = split_validation(data.train, config.val_split)
    train_steps = config.train_epochs * schedule.num_steps_per_epoch(len(train), config.batch_size)
    landmarks = [find_landmarks(sweep) for sweep in sweeps]
    reference_lr = reference_lr_max(config, train_steps) if model is None else None
    lr_mins, lr_maxs = zip(*(choose_bounds(marks, reference_lr) for marks in landmarks), strict=True)
    num_steps, has_reference = num_sweep_steps(config, len(train)), reference_lr is not None
    return RangeTest(
        sweeps=sweeps,
        suggestions=suggestions,
        lr_min=geometric_mean(lr_mins),
        lr_max=geometric_mean(lr_maxs),
        allowed_lr_max=allowed_lr_max(landmarks),
        lr_max_source=lr_max_source(landmarks, reference_lr),
        reason=explain(landmarks, reference_lr),
        warnings=tuple(make_warnings(sweeps, landmarks, lr_maxs, num_steps, in_train, has_reference=has_reference)),
        loss_source="training images" if val is None else f"{len(val)} held-out images",
        curve=config.curve,
        conditions=range_test_conditions(
            data, config, policy_dict(make_policy(config, train)), epochs=config.train_epochs
        ),
    )


def range_test_conditions(data: Dataset, config: RecipeConfig, policy: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Return the settings that found LR bounds hold for, of which `train` warns; `epochs` are those of the training."""
    # Of the policy only the transforms count: its mean and std follow the data, which the fingerprint identifies.
    transforms = [part["__class_fullname__"] for part in policy["transforms"]]
    return {
        "data": data.fingerprint,
        "train_images": len(data.train) - config.val_split,
        "epochs": epochs,
        "batch_size": config.batch_size,
        "width": config.width,
        "optimizer": config.optimizer,
        "weight_decay": config.weight_decay,
        "label_smoothing": config.label_smoothing,
        "class_weights": config.class_weights,
        "dropout": config.dropout,
        "gradient_centralization": config.gradient_centralization,
        "whitening_init": config.whitening_init,
        "identity_init": config.identity_init,
        "ghost_batch_size": config.ghost_batch_size,
        "bn_weight_decay": config.bn_weight_decay,
        "flip": config.flip if config.augment is None else None,  # a policy of the user's decides about flips itself
        "cycle_momentum": config.cycle_momentum,
        "l1": config.l1,
        "augmentation": " > ".join(transforms),
    }


def write_history(path: Path, test: RangeTest) -> None:
    """Write history.csv: one row per step of every repeat. Raises OutputError."""
    rows: list[tuple[Any, ...]] = []
    for repeat, sweep in enumerate(test.sweeps):
        columns = zip(sweep.lrs_L.tolist(), sweep.losses_L.tolist(), sweep.accuracies_L.tolist(), strict=True)
        rows += [(repeat, sweep.seed, step, *values) for step, values in enumerate(columns)]
    write_csv(path, ("repeat", "seed", "step", "lr", "loss", "accuracy"), rows)


def check_range_test(data: Dataset, config: LrRangeConfig, world: World) -> None:
    """Raise UsageError or InputError for settings that do not fit the data, before anything is written."""
    train, _ = split_validation(data.train, config.val_split)
    check_classes(train)
    check_batch_size(len(train), config.batch_size, world)
    num_sweep_steps(config, len(train))


def range_test_config(config: TrainConfig, num_images: int) -> LrRangeConfig:
    """Return the range test under the conditions of a training on `num_images`; a short training has a shorter test."""
    test = LrRangeConfig.from_dict({name: value for name, value in config.to_dict().items() if name != "epochs"})
    num_steps = config.epochs * schedule.num_steps_per_epoch(num_images - config.val_split, config.batch_size)
    test = replace(test, train_epochs=config.epochs, steps=min(test.steps, max(MIN_RANGE_TEST_STEPS, num_steps)))
    if config.optimizer == "adamw":  # its steps do not shrink with the gradient, so its learning rates are far smaller
        test = replace(test, lr_start=test.lr_start / 100, lr_end=test.lr_end / 100)
    return test


def num_range_test_steps(config: TrainConfig, data: Dataset) -> int:
    """Return the length of the range test that `find_lr_bounds` runs."""
    return num_sweep_steps(range_test_config(config, len(data.train)), len(data.train) - config.val_split)


def find_lr_bounds(
    data: Dataset, config: TrainConfig, *, on_step: OnStep | None = None, world: World = SINGLE_PROCESS
) -> tuple[TrainConfig, RangeTest]:
    """Return the configuration with the LR bounds that a range test under its conditions finds, and the range test."""
    with deterministic_algorithms(config.deterministic):
        test = range_test(data, range_test_config(config, len(data.train)), on_step=on_step, world=world, in_train=True)
    return replace(config, lr_min=test.lr_min, lr_max=test.lr_max), test


@dataclass(frozen=True)
class LrBounds:
    """The LR bounds of an lr-range run, and the settings that they hold for."""

    lr_min: float
    lr_max: float
    conditions: Mapping[str, Any]


def read_lr_bounds(run: str) -> LrBounds:
    """Read the LR bounds of an lr-range run. Raises InputError for anything but a complete one."""
    result = read_result(run, "lr-range")
    lr_min, lr_max, conditions = (result.get(key) for key in ("lr_min", "lr_max", "conditions"))
    hint = "Run scsuite lr-range again."
    if not is_finite_number(lr_min) or not is_finite_number(lr_max) or not 0 < lr_min < lr_max:
        raise InputError(
            "run", run, expected="finite learning rates, 0 < lr_min < lr_max",
            found=f"{lr_min!r:.40} and {lr_max!r:.40}", hint=hint,
        )  # fmt: skip
    if not isinstance(conditions, dict) or "train_images" not in conditions:  # an earlier version had other names
        raise InputError("run", run, expected="conditions of this version", found=f"{conditions!r:.40}", hint=hint)
    return LrBounds(lr_min, lr_max, conditions)


def condition_warnings(bounds: LrBounds, config: TrainConfig, data: Dataset) -> list[str]:
    """Return a warning for each setting in which a training differs from the range test of its LR bounds."""
    train, _ = split_validation(data.train, config.val_split)
    current = range_test_conditions(data, config, policy_dict(make_policy(config, train)), epochs=config.epochs)
    run, warnings = Path(str(config.lr_from)).name, []
    for name, value in current.items():
        saved = bounds.conditions.get(name, "unknown")
        if name == "data" and saved != value:  # fingerprints mean nothing to a reader
            warnings.append(f"LR from {run} was found on other data")
        elif saved != value:
            setting = name.replace("_", " ")
            warnings.append(f"LR from {run} was found with {setting} {saved!s:.80}; this run uses {value}")
    return warnings
