"""Small learnable data, and trainings on it. In: sizes and a seed. Out: a `Split`, a `Dataset`, step results."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset, Split
from scsuite.core.runs.results import EpochResult, StepResult
from scsuite.core.training.trainer import Trainer

MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)

# Three epochs of five steps on `dataset(72, 30)`; the last batch of an epoch has eight images.
CONFIG = TrainConfig(
    data="tiny", batch_size=16, epochs=3, width=0.05, lr_max=0.1, precision="fp32", device="cpu", workers=0, dropout=0.1
)


def split(num_images: int, num_classes: int = 3, seed: int = 0) -> Split:
    """Return noise with one tint per class: a few steps learn it."""
    rng = np.random.default_rng(seed)
    labels_N = np.arange(num_images, dtype=np.int64) % num_classes
    tints_K3 = np.random.default_rng(99).integers(40, 200, (num_classes, 3))
    noise_NHWC = rng.integers(-40, 41, (num_images, 32, 32, 3))
    images_NHWC = np.clip(tints_K3[labels_N][:, None, None] + noise_NHWC, 0, 255).astype(np.uint8)
    return Split(images_NHWC, labels_N, tuple(f"{seed}/{i}.png" for i in range(num_images)))


def dataset(num_train: int = 60, num_test: int = 12, num_classes: int = 3) -> Dataset:
    """Return training and test images with different noise."""
    names = tuple(f"class {k}" for k in range(num_classes))
    return Dataset("tiny", names, split(num_train, num_classes, 1), split(num_test, num_classes, 2), "0" * 64)


def train(trainer: Trainer) -> list[StepResult]:
    """Train to the end and return the steps."""
    steps: list[StepResult] = []
    trainer.fit(on_step=steps.append)
    return steps


def train_until(trainer: Trainer, num_steps: int) -> Trainer:
    """Stop after `num_steps` steps."""
    trainer.fit(should_stop=lambda: trainer.state.step == num_steps)
    assert trainer.state.step == num_steps
    return trainer


def without_clocks(epochs: list[EpochResult]) -> list[EpochResult]:
    """Return the epochs without the values that differ between equal runs."""
    return [replace(epoch, images_per_second=0.0, seconds=0.0) for epoch in epochs]


def equal_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether both have the same names with the same bits."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
