"""What a training and a range test build before their first step: images, policy, loader, network, optimizer, scaler.

In: a dataset and a recipe. Out: one `TrainSetup`, built the same way for both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scsuite.core.augment import (
    Backend,
    DefaultPolicy,
    choose_backend,
    load_policy,
    normalise,
    policy_dict,
    policy_mean_std,
)
from scsuite.core.config import RecipeConfig
from scsuite.core.dataset import Dataset, Split, split_holdout
from scsuite.core.device import Device, resolve_device
from scsuite.core.distributed import World
from scsuite.core.errors import InputError, UsageError
from scsuite.core.evaluation import Evaluation, evaluate
from scsuite.core.model.initialization import identity_init, whitening_init
from scsuite.core.model.network import ResNet3, build_model
from scsuite.core.seeding import keyed_seed
from scsuite.core.training.loader import TrainLoader
from scsuite.core.training.optimizer import make_optimizer
from scsuite.core.training.own_network import prepare_network

if TYPE_CHECKING:
    from albumentations import Compose

NUM_WHITENING_IMAGES = 256  # 230,400 patches, for 27 components


@dataclass(frozen=True)
class TrainSetup:
    """The parts of a training. `mean` and `std` are those that the policy normalises with, in [0, 1]."""

    config: RecipeConfig
    train: Split
    val: Split | None
    class_names: tuple[str, ...]
    device: Device
    policy: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    backend: Backend
    loader: TrainLoader
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    world: World
    class_weights_K: Tensor | None = None  # of the loss, on the device

    def evaluate(
        self, model: nn.Module, split: Split, *, tta: str = "none", on_batch: Callable[[], None] | None = None
    ) -> Evaluation:
        """Evaluate a network on a split, with the normalisation and on the device of the training."""
        return evaluate(
            model, split, mean=self.mean, std=self.std, class_names=self.class_names, device=self.device, tta=tta,
            on_batch=on_batch, world=self.world,
        )  # fmt: skip


def make_setup(
    data: Dataset, config: RecipeConfig, momentum: float, world: World, model: nn.Module | None = None,
    temperature: float = 1.0,
) -> TrainSetup:  # fmt: skip
    """Build all parts from the recipe's seed. `momentum` is that of the first step, `temperature` that of evaluations.

    A user's own `model` is checked, moved to the device and used as it is.
    Raises UsageError for settings that the data or this machine does not allow, InputError for a bad policy file.
    """
    train, val = split_validation(data.train, config.val_split)
    check_classes(train)
    policy = make_policy(config, train)
    mean, std = policy_mean_std(policy)
    backend = choose_backend(config.augment_backend, policy)
    device = resolve_device(config.device, config.precision, world)
    loader = TrainLoader(
        train,
        policy,
        batch_size=config.batch_size,
        seed=config.seed,
        batched_policy=backend.batched_policy,
        device=device.device,
        workers=config.workers,
        shard=world.shard,
        alternate_flips=config.uses_alternating_flip,
    )
    images_NCHW = whitening_images(train, mean, std)
    if model is None:
        model = init_model(len(data.class_names), config, device, images_NCHW, world)
        model.temperature = temperature
    else:
        prepare_network(model, images_NCHW[:2], len(data.class_names), device)
    optimizer = make_optimizer(model, config, momentum)
    return TrainSetup(
        config, train, val, data.class_names, device, policy_dict(policy), mean, std, backend, loader, model, optimizer,
        device.grad_scaler(), world, make_class_weights(config, train, len(data.class_names), device),
    )  # fmt: skip


def make_class_weights(config: RecipeConfig, train: Split, num_classes: int, device: Device) -> Tensor | None:
    """Return the weight n / (K n_k) of each class k, as scikit-learn's "balanced"; None where all count the same.

    n and K count the images and the classes that have images; a class without images has the weight 0.
    """
    if config.class_weights == "none":
        return None
    counts_K = torch.bincount(torch.from_numpy(train.labels_N), minlength=num_classes)
    weights_K = len(train) / ((counts_K > 0).sum() * counts_K.clamp(min=1)) * (counts_K > 0)
    return weights_K.float().to(device.device)


def split_validation(train: Split, num_images: int) -> tuple[Split, Split | None]:
    """Return the images to train on, and those that --val-split holds out, if any."""
    return split_holdout(train, num_images) if num_images else (train, None)


def check_classes(train: Split) -> None:
    """Raise InputError if all training images are of one class: any network would be right, and none would learn."""
    if len(train) and (train.labels_N == train.labels_N[0]).all():
        raise InputError(
            "data", "training images", expected="images of two or more classes", found="one class",
            hint="Add images of another class, or raise --limit-train.",
        )  # fmt: skip


def check_batch_size(num_images: int, batch_size: int, world: World) -> None:
    """Raise InputError if not even one batch is full, UsageError if a batch has fewer images than ranks."""
    if batch_size < world.size:
        raise UsageError(
            "option", "--bs", expected=f"at least one image for each of {world.size} ranks", found=batch_size,
            hint="Raise --bs or start fewer processes.",
        )  # fmt: skip
    if batch_size > num_images:
        raise InputError(
            "too few images", "--bs", expected=f"at least one batch of {batch_size}", found=f"{num_images} images",
            hint="Lower --bs or use more images.",
        )  # fmt: skip


def make_policy(config: RecipeConfig, train: Split) -> "Compose | DefaultPolicy":
    """Return the augmentation policy of these training images. Raises InputError as `load_policy` does."""
    if config.augment is None and config.augment_backend != "albumentations":
        return DefaultPolicy(*train.mean_std(), flip=config.flip == "random")
    return load_policy(config.augment, *train.mean_std(), flip=config.flip == "random")


def whitening_images(split: Split, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return about 256 evenly spaced training images, normalised, used to initialise the whitening filters."""
    return normalise(split.images_NHWC[:: -(-len(split) // NUM_WHITENING_IMAGES)], mean, std)


def init_model(num_classes: int, config: RecipeConfig, device: Device, images_NCHW: Tensor, world: World) -> ResNet3:
    """Return the network with the seed's initial weights, on the device; `images_NCHW` give the whitening filters."""
    model = build_model(
        num_classes, config.width, dropout=config.dropout, ghost_batch_size=config.ghost_batch_size,
        seed=keyed_seed(config.seed, "weights"),
    )  # fmt: skip
    if config.whitening_init:
        whitening_init(model, images_NCHW)
    if config.identity_init:
        identity_init(model)
    model.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.whitening_init and world.size > 1:
        # Rank 0's filters on all ranks: on another machine, or with other threads, the last digits can differ.
        weight = model.get_parameter("prep.0.weight").detach()
        world.all_reduce_sum(weight if world.is_main_process else weight.zero_())
    return model
