"""Settings that several commands share: the data, the device, and what one training step does.

In: values by keyword. Out: frozen configurations, checked.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

from scsuite.core.config.fields import COMPUTE, DATA, RECIPE, Config, option

MOMENTUM_MAX = 0.95  # at LRMIN; Smith, https://arxiv.org/abs/1803.09820, section 4.3: high rate, low momentum
MOMENTUM_MIN = 0.85  # at LRMAX; the range test runs at this one
MOMENTUM = 0.9  # without --cycle-momentum

CLASS_WEIGHTS = ("none", "balanced")
BACKENDS = ("auto", "batched", "albumentations")
DATA_SOURCES = ("cifar10", "shapes")  # or a path
FLIPS = ("alternate", "random", "none")
FITS = ("crop", "pad", "stretch")
DEVICES = "[auto|cpu|cuda|cuda:N|mps]"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MAX_WIDTH = 16
MAX_SEED = 2**63  # seeds are below it

# The published recipe of cifar10-fast on this network: plain SGD with momentum, and nothing that came later.
_PLAIN: Mapping[str, Any] = {
    "batch_size": 512, "optimizer": "sgd", "weight_decay": 5e-4, "l1": 0.0, "label_smoothing": 0.0, "dropout": 0.0,
    "flip": "random", "gradient_centralization": False, "whitening_init": False, "identity_init": False,
    "ghost_batch_size": 0, "bn_weight_decay": True, "cycle_momentum": False, "ema_epochs": 0.0, "class_weights": "none",
    "temperature": None,
}  # fmt: skip
# By recipe, the settings that differ from the defaults of the fields. A learning rate is above 0: 1e-6 stands for the
# 0 of the published 0 > 0.4 > 0.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {}, "assignment": _PLAIN, "cifar10-fast": {**_PLAIN, "lr_min": 1e-6, "lr_max": 0.4},
}  # fmt: skip

# Options that no result depends on: a resume may change them, and ranks may differ in them.
RESULT_NEUTRAL_OPTIONS = frozenset({"workers", "data_dir", "cache_dir"})


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which images, and how many of them."""

    data: str = option(
        "cifar10", DATA, "cifar10, shapes, or a folder or archive of train/CLASS/* and test/CLASS/* images.",
        env="SCSUITE_DATA", metavar="SPEC", is_path=True, keywords=DATA_SOURCES,
    )  # fmt: skip
    data_dir: str | None = option(
        None, DATA, "Directory of the CIFAR-10 files. (default: the user's cache directory)", metavar="DIR",
        is_path=True,
    )  # fmt: skip
    cache_dir: str | None = option(
        None, DATA, "Directory of decoded images. (default: the user's cache directory)", metavar="DIR",
        env="SCSUITE_CACHE",
    )  # fmt: skip
    limit_train: int | None = option(None, DATA, "Use N training images, class-balanced, always the same.", ge=1)
    limit_test: int | None = option(None, DATA, "Use N test images, class-balanced, always the same.", ge=1)
    test_split: float = option(
        0.2, DATA, "Fraction of the images held out for testing if the data has no test/ or val/.", gt=0, lt=1
    )
    fit: str = option(
        "crop", DATA, "How an image becomes 32x32: its center square, the whole image with gray borders, or the whole"
        " image stretched.", choices=FITS,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(DataConfig):
    """Where and how a network computes."""

    seed: int = option(0, COMPUTE, "Seed of all random numbers.", ge=0, lt=MAX_SEED)
    device: str = option("auto", COMPUTE, "Device to compute on.", metavar=DEVICES)
    workers: int | None = option(
        None, COMPUTE, "DataLoader workers (albumentations backend only). (default: by machine)", ge=0, le=256
    )
    precision: str = option("auto", COMPUTE, "Compute precision.", choices=PRECISIONS)
    width: float = option(
        1.0, RECIPE, "Factor on the network's channels; 1 is the assignment's network.", gt=0, le=MAX_WIDTH
    )


@dataclass(frozen=True, kw_only=True)
class RecipeConfig(ComputeConfig):
    """What one training step does; the range test and the training share it."""

    recipe: str = option(
        "default", RECIPE, "Set the settings below at once: the assignment's words alone, or cifar10-fast as published;"
        " single options override it.", choices=tuple(RECIPES),
    )  # fmt: skip
    batch_size: int = option(512, RECIPE, "Images per step.", names=("--bs", "--batch-size"), ge=1)
    optimizer: str = option("sgd", RECIPE, "SGD with Nesterov momentum, or AdamW.", choices=("sgd", "adamw"))
    weight_decay: float = option(5e-4, RECIPE, "L2 penalty (sgd) or decoupled weight decay (adamw).", ge=0)
    l1: float = option(0.0, RECIPE, "L1 penalty on the weights, added to the loss.", ge=0)
    label_smoothing: float = option(0.1, RECIPE, "Fraction of the target spread over all classes.", ge=0, lt=1)
    class_weights: str = option(
        "none", RECIPE, "Weights of the classes in the loss; balanced: the fewer training images, the higher.",
        choices=CLASS_WEIGHTS,
    )  # fmt: skip
    dropout: float = option(0.0, RECIPE, "Fraction of features dropped before fc.", ge=0, lt=1)
    augment: str | None = option(
        None, RECIPE, "Albumentations policy file. (default: crop, flip, 8x8 cutout)", metavar="FILE.yaml", is_path=True
    )
    augment_backend: str = option(
        "auto", RECIPE, "Augment whole batches on the device, or single images in DataLoader workers; auto: batches if"
        " the policy allows it.", choices=BACKENDS,
    )  # fmt: skip
    flip: str = option(
        "alternate", RECIPE, "Mirror each image in every other epoch, at random, or never, as for digits, signs and"
        " text (default policy only).", choices=FLIPS,
    )  # fmt: skip
    gradient_centralization: bool = option(
        True, RECIPE, "Subtract each convolution filter's mean gradient (gradient centralization)."
    )
    whitening_init: bool = option(
        True, RECIPE, "Initialize prep with PCA filters of image patches (whitening); needs width >= 0.84."
    )
    identity_init: bool = option(True, RECIPE, "Initialize part of each layer's filters to the identity (Dirac).")
    ghost_batch_size: int = option(16, RECIPE, "Ghost batch size of batch norm; 0: whole batch.", ge=0)
    bn_weight_decay: bool = option(False, RECIPE, "Apply weight decay to batch norm's weights and biases too.")
    cycle_momentum: bool = option(
        False, RECIPE, "Cycle momentum 0.95 > 0.85 > 0.95 against the learning rate, instead of constant 0.9."
    )
    val_split: int = option(0, DATA, "Hold out N training images for validation.", ge=0)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration that `to_dict` gave, of runs from before --flip too."""
        if values.get("alternate_flips") is False:  # its name then
            values = {"flip": "random", **values}
        return super().from_dict(values)

    @property
    def uses_alternating_flip(self) -> bool:
        """Whether each image is flipped in every other epoch; a policy of the user's decides about flips itself."""
        return self.flip == "alternate" and self.augment is None

    def changes_of_recipe(self) -> dict[str, Any]:
        """Return the settings of --help's group Recipe that differ from those of `recipe`."""
        reference = type(self)(recipe=self.recipe)
        names = [item.name for item in fields(self) if item.metadata["group"] == RECIPE]
        return {name: value for name in names if (value := getattr(self, name)) != getattr(reference, name)}


C = TypeVar("C", bound=RecipeConfig)


def apply_recipe(config_class: type[C]) -> type[C]:
    """Let `recipe` set the fields that are not given by keyword: a given value wins, one equal to the default too."""
    init: Any = config_class.__init__
    names = {item.name for item in fields(config_class)}

    @functools.wraps(init)
    def init_with_recipe(self: C, **values: Any) -> None:
        settings = {name: value for name, value in _recipe_settings(values).items() if name in names}
        init(self, **{**settings, **values})

    config_class.__init__ = init_with_recipe  # type: ignore[assignment,method-assign]
    return config_class


def _recipe_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the recipe in `values`; without LR bounds if `values` take them from a range test."""
    recipe = values.get("recipe", "default")
    settings = dict(RECIPES.get(recipe, {})) if isinstance(recipe, str) else {}  # the check of the fields refuses it
    if values.get("lr_from") is not None or values.get("lr_max", settings.get("lr_max")) is None:
        settings = {name: value for name, value in settings.items() if name not in ("lr_min", "lr_max")}
    return settings
