"""Tiny data and networks for the tests of the core."""

import numpy as np
import pytest

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset, Split


def tiny_split(num_images: int, num_classes: int, seed: int) -> Split:
    """Noise with a class-wide tint: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    labels_N = np.arange(num_images) % num_classes
    tints_K3 = np.random.default_rng(99).integers(40, 200, (num_classes, 3))
    noise = rng.integers(-40, 41, (num_images, 32, 32, 3))
    images_NHWC = np.clip(tints_K3[labels_N][:, None, None] + noise, 0, 255).astype(np.uint8)
    return Split(images_NHWC, labels_N.astype(np.int64), tuple(f"{seed}/{i}.png" for i in range(num_images)))


@pytest.fixture(scope="session")
def tiny_data() -> Dataset:
    """72 training and 30 test images of three classes."""
    return Dataset("tiny", ("red", "green", "blue"), tiny_split(72, 3, 1), tiny_split(30, 3, 2), "0" * 64)


@pytest.fixture
def tiny_config() -> TrainConfig:
    """Three epochs of five steps, the last of eight images."""
    return TrainConfig(
        data="tiny",
        batch_size=16,
        epochs=3,
        width=0.05,
        lr_max=0.1,
        precision="fp32",
        device="cpu",
        workers=0,
        dropout=0.1,
    )
