"""Images with their labels: one split, the two splits of a dataset, and class-balanced selections of a split.

In: uint8 images and labels of a source. Out: the same images, all of them or a selection.

Shapes: N images, H x W = 32 x 32, C = 3 (RGB), K classes.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scsuite.core.errors import InputError, UsageError, did_you_mean
from scsuite.core.files import normalise_name
from scsuite.core.seeding import keyed_seed

SIZE = 32  # pixels; every image is SIZE x SIZE
MAX_NAMES_IN_MESSAGE = 12
ARRAYS = "arrays"  # name of a dataset that a Python program made, which --data cannot name

Progress = Callable[[str, int, int | None], None]  # (activity, number done, total number or None)


@dataclass(frozen=True)
class Split:
    """Images with their labels. `files` names the origin of each image; `masks_NHW` marks the pixels of the object."""

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    files: tuple[str, ...]
    masks_NHW: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels_N)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "Split":
        """Return the images at these indices, in this order."""
        indices_N = np.asarray(indices, dtype=np.int64)
        masks_NHW = None if self.masks_NHW is None else self.masks_NHW[indices_N]
        files = tuple(self.files[i] for i in indices_N)
        return Split(self.images_NHWC[indices_N], self.labels_N[indices_N], files, masks_NHW)

    def class_counts(self, num_classes: int) -> list[int]:
        """Return the number of images of each class."""
        return [int(count) for count in np.bincount(self.labels_N, minlength=num_classes)]

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel over all pixels, in [0, 1]."""
        values = np.arange(256) / 255
        # A histogram is exact and needs no floating-point copy of the images.
        counts = np.zeros((3, 256), dtype=np.int64)
        for start in range(0, len(self), 1000):  # in blocks: bincount makes an int64 copy of its input
            block_NHWC = self.images_NHWC[start : start + 1000]
            counts += [np.bincount(block_NHWC[..., c].ravel(), minlength=256) for c in range(3)]
        means = [float(count @ values / count.sum()) for count in counts]
        stds = [float((count @ (values - m) ** 2 / count.sum()) ** 0.5) for count, m in zip(counts, means, strict=True)]
        return tuple(means), tuple(
            max(std, 1e-3) for std in stds
        )  # at least 1e-3: images of one color have a deviation of 0


@dataclass(frozen=True)
class Dataset:
    """Training and test images of one source. `fingerprint` is a sha256 over all of them, before limits.

    `load_dataset`, `from_arrays` and `from_torch` make it.

    Example:
        >>> data = Dataset.from_arrays(train_images, train_labels, test_images, test_labels, ["cat", "dog"])
        >>> trainer = Trainer(data, TrainConfig(epochs=8, lr_max=0.4))
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    fingerprint: str
    notes: tuple[str, ...] = ()

    @classmethod
    def from_arrays(
        cls,
        train_images: Any,
        train_labels: Any,
        test_images: Any,
        test_labels: Any,
        class_names: Sequence[str] | None = None,
    ) -> "Dataset":
        """Return a dataset of arrays or tensors; the images are copied.

        Args:
            train_images: Pixels in [0, 255] of shape (N, H, W, 3), (N, H, W, 1) or (N, H, W). Images that are not
                32 x 32 are cut to their centre square and resized.
            train_labels: The index of each image's class, from 0.
            test_images: Test images, in the same form.
            test_labels: Their labels.
            class_names: Names of the K classes; default: "0" to "K - 1".

        Raises:
            InputError: For another shape, type or range; the message says what is expected.
        """
        from scsuite.core.dataset.arrays import from_arrays

        return from_arrays(train_images, train_labels, test_images, test_labels, class_names)

    @classmethod
    def from_torch(cls, train: Any, test: Any) -> "Dataset":
        """Return a dataset of two map-style torch datasets whose items are an image and its label.

        Each item is read once: scsuite augments and normalises the images itself, so leave both out of the datasets'
        transforms. The class names are `classes` of the datasets if they have them, else "0" to "K - 1".

        Args:
            train: The training images: Pillow images, uint8 arrays or tensors, or floats in [0, 1] as of `ToTensor`.
            test: The test images, in the same form.

        Raises:
            InputError: For other items or labels; the message says what is expected.
        """
        from scsuite.core.dataset.arrays import from_torch

        return from_torch(train, test)

    def with_limits(self, limit_train: int | None, limit_test: int | None) -> "Dataset":
        """Return the dataset with at most this many images in each split, balanced by class; None means all."""
        return replace(self, train=_limit(self.train, limit_train), test=_limit(self.test, limit_test))

    def relabelled(self, class_names: tuple[str, ...], where: str) -> "Dataset":
        """Return the same images under the labels of a network whose classes include these, matched by name.

        Raises InputError, which names `where` the images are from, for classes that the network does not have.
        """
        names = list(map(normalise_name, self.class_names))
        if unknown := [name for name in names if name not in class_names]:
            raise InputError(
                "classes",
                where,
                expected=f"only classes of the network ({format_names(class_names)})",
                found=format_names(unknown),
                hint=did_you_mean(unknown[0], class_names, "Evaluate on data with these classes."),
            )
        label_K = np.array([class_names.index(name) for name in names], dtype=np.int64)
        train, test = (replace(split, labels_N=label_K[split.labels_N]) for split in (self.train, self.test))
        return replace(self, class_names=class_names, train=train, test=test)


def format_names(names: Sequence[str], max_names: int = MAX_NAMES_IN_MESSAGE) -> str:
    """Return names for a message; of many, the first ones and how many more there are."""
    num_more = len(names) - max_names
    return ", ".join(names[:max_names]) + (f" and {num_more} more" if num_more > 0 else "")


def count_text(number: int, one: str, many: str) -> str:
    """Return the number with the text for one thing, or for several."""
    return f"{number:,} {one if number == 1 else many}"


@dataclass(frozen=True)
class RawDataset:
    """All images of a source, before limits. `test` is None if test images must still be split off `train`."""

    class_names: tuple[str, ...]
    train: Split
    test: Split | None
    notes: tuple[str, ...] = ()


def _limit(split: Split, limit: int | None) -> Split:
    if limit is None or limit >= len(split):
        return split
    return split.select(np.sort(balanced_indices(split.labels_N, limit, "limit")))


def train_test_overlap_note(train: Split, test: Split) -> list[str]:
    """Return a note with the number of test images that equal a training image, or an empty list if none does."""
    train_digests = set(map(_digest, train.images_NHWC))
    count = sum(_digest(image_HWC) in train_digests for image_HWC in test.images_NHWC)
    return [f"{count:,} of {len(test):,} test images are also among the training images"] if count else []


def _digest(image_HWC: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image_HWC.tobytes(), digest_size=16).digest()


def balanced_indices(labels_N: NDArray[np.int64], num_images: int, purpose: str) -> NDArray[np.int64]:
    """Return `num_images` indices, as balanced by class as the data allows, always the same for labels and purpose.

    Each class is put in a fixed random order. Then the classes give one image each in turn.
    """
    rng = np.random.default_rng(keyed_seed(0, purpose))
    order = rng.permutation(len(labels_N))
    rank_N = np.empty(len(labels_N), dtype=np.int64)  # position of an image within its class
    for label in np.unique(labels_N):
        class_indices = order[labels_N[order] == label]
        rank_N[class_indices] = np.arange(len(class_indices))
    ordered: NDArray[np.int64] = np.lexsort((labels_N, rank_N))
    return ordered[:num_images]


def split_holdout(split: Split, num_images: int) -> tuple[Split, Split]:
    """Return the rest of `split` and a class-balanced holdout of `num_images`, always the same.

    Raises UsageError if no training images would remain.
    """
    if num_images >= len(split):
        expected = f"fewer than the {len(split)} training images"
        raise UsageError("option", "--val-split", expected=expected, found=num_images, hint="Hold out fewer images.")
    holdout = np.sort(balanced_indices(split.labels_N, num_images, "val"))
    rest = np.setdiff1d(np.arange(len(split)), holdout)
    return split.select(rest), split.select(holdout)
