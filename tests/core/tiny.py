"""Small data for the tests of the core rooms: learnable, made here, nothing read or fetched."""

import numpy as np

from scsuite.core.dataset import Dataset, Split

MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)


def split(num_images: int, num_classes: int = 3, seed: int = 0) -> Split:
    """Noise over one brightness per class: a few steps learn it."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images, dtype=np.int64) % num_classes
    images = rng.integers(0, 100, (num_images, 32, 32, 3)) + (labels * 155 // num_classes)[:, None, None, None]
    return Split(images.astype(np.uint8), labels, tuple(f"{i}.png" for i in range(num_images)))


def dataset(num_train: int = 60, num_test: int = 12, num_classes: int = 3) -> Dataset:
    names = tuple(f"class {k}" for k in range(num_classes))
    return Dataset("tiny", names, split(num_train, num_classes), split(num_test, num_classes, 1), "0" * 64)
