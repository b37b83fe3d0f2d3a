"""What a data source gives, and the parts of it that limits and held-out images are.

Shapes: N images, H x W = 32 x 32, C = 3 (RGB), K classes.
"""

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scsuite.core.seeding import keyed_seed
from scsuite.core.errors import InputError, UsageError

SIZE = 32  # pixels; every image is SIZE x SIZE
LISTED = 12  # names of classes in a message

Progress = Callable[[str, int, int | None], None]  # what is being done, how much is done, of how much if that is known


@dataclass(frozen=True)
class Split:
    """Some images with their labels; `files` names each image's origin, `masks_NHW` is where its object is."""

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    files: tuple[str, ...]
    masks_NHW: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels_N)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "Split":
        """The images at these indices, in this order."""
        picked = np.asarray(indices, dtype=np.int64)
        masks = None if self.masks_NHW is None else self.masks_NHW[picked]
        return Split(self.images_NHWC[picked], self.labels_N[picked], tuple(self.files[i] for i in picked), masks)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over all pixels, in [0, 1]."""
        values = np.arange(256) / 255
        # A histogram is exact and needs no floating-point copy of the images.
        counts = np.zeros((3, 256), dtype=np.int64)
        for start in range(0, len(self), 1000):  # in parts: bincount makes an int64 copy of what it counts
            block_NHWC = self.images_NHWC[start : start + 1000]
            counts += [np.bincount(block_NHWC[..., c].ravel(), minlength=256) for c in range(3)]
        means = [float(count @ values / count.sum()) for count in counts]
        stds = [float((count @ (values - m) ** 2 / count.sum()) ** 0.5) for count, m in zip(counts, means, strict=True)]
        return tuple(means), tuple(max(std, 1e-3) for std in stds)  # one flat colour must not divide by zero


@dataclass(frozen=True)
class Dataset:
    """Training and test images of one source. `fingerprint` is a sha256 over all of them, limits or not."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    fingerprint: str
    notes: tuple[str, ...] = ()

    def with_limits(self, limit_train: int | None, limit_test: int | None) -> "Dataset":
        """The class-balanced parts that --limit-train and --limit-test ask for; a limit past the end takes all."""
        return replace(self, train=_limit(self.train, limit_train), test=_limit(self.test, limit_test))

    def relabelled(self, class_names: tuple[str, ...], where: str) -> "Dataset":
        """The same images under the labels of a network: classes matched by name, in any order, all of them or a part.

        Raises InputError, naming `where` the images are from, for classes that the network does not have.
        """
        if unknown := [name for name in self.class_names if name not in class_names]:
            near = difflib.get_close_matches(unknown[0], class_names, n=1)
            hint = f"Is {unknown[0]} meant to be {near[0]}?" if near else "Evaluate on data with these classes."
            raise InputError(
                "classes", where, expected=f"none but the network's ({format_names(class_names)})",
                found=format_names(unknown), hint=hint,
            )  # fmt: skip
        label_K = np.array([class_names.index(name) for name in self.class_names], dtype=np.int64)
        train, test = (replace(split, labels_N=label_K[split.labels_N]) for split in (self.train, self.test))
        return replace(self, class_names=class_names, train=train, test=test)


def format_names(names: Sequence[str]) -> str:
    """Names of classes for a message, which stays readable at a hundred of them."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


@dataclass(frozen=True)
class Decoded:
    """All of a source's images, before limits; `test` None: a part of `train` is yet to be held out."""

    class_names: tuple[str, ...]
    train: Split
    test: Split | None
    notes: tuple[str, ...] = ()


def _limit(split: Split, limit: int | None) -> Split:
    if limit is None or limit >= len(split):
        return split
    return split.select(np.sort(balanced_indices(split.labels_N, limit, "limit")))


def shared_note(train: Split, test: Split) -> list[str]:
    """A note of how many test images are, pixel for pixel, training images too; none where none is."""
    seen = set(map(_digest, train.images_NHWC))
    count = sum(_digest(image_HWC) in seen for image_HWC in test.images_NHWC)
    return [f"{count:,} of {len(test):,} test images are also among the training images"] if count else []


def _digest(image_HWC: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image_HWC.tobytes(), digest_size=16).digest()


def balanced_indices(labels_N: NDArray[np.int64], num_images: int, purpose: str) -> NDArray[np.int64]:
    """`num_images` indices, as equal in class as the data allows; a function of the labels and the purpose alone.

    Each class is put in a fixed random order; then the classes are dealt from in turn.
    """
    rng = np.random.default_rng(keyed_seed(0, purpose))
    order = rng.permutation(len(labels_N))
    rank_N = np.empty(len(labels_N), dtype=np.int64)  # place of an image within its class
    for label in np.unique(labels_N):
        members = order[labels_N[order] == label]
        rank_N[members] = np.arange(len(members))
    dealt: NDArray[np.int64] = np.lexsort((labels_N, rank_N))
    return dealt[:num_images]


def split_holdout(split: Split, num_images: int) -> tuple[Split, Split]:
    """The rest, and a class-balanced part of `num_images` held out of `split`, always the same one.

    Raises UsageError when nothing would be left to train on.
    """
    if num_images >= len(split):
        raise UsageError(
            "option",
            "--val-split",
            expected=f"fewer than the {len(split)} training images",
            found=num_images,
            hint="Hold fewer images out.",
        )
    held = np.sort(balanced_indices(split.labels_N, num_images, "val"))
    rest = np.setdiff1d(np.arange(len(split)), held)
    return split.select(rest), split.select(held)
