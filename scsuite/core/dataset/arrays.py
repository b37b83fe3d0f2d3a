"""Images that a Python program has: arrays of images and labels, or torch datasets.

In: arrays of a training and a test split, or two datasets whose items are an image and its label. Out: a `Dataset`.

An image is gray, RGB, or RGB with transparency. One that is not 32 x 32 is cut and resized as an image of a folder is.
Labels are 0 to K - 1.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from scsuite.core.dataset.cache import fingerprint
from scsuite.core.dataset.image_file import CorruptImageError, convert_to_rgb_32
from scsuite.core.dataset.split import ARRAYS, SIZE, Dataset, RawDataset, Split, format_names, train_test_overlap_note
from scsuite.core.errors import InputError, one_line

CHANNELS = (1, 3, 4)  # gray, RGB, RGB with transparency


class LabelledImages(NamedTuple):
    """Images of one split as RGB 32 x 32, their labels, and how many images had another size."""

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    num_resized: int


def from_arrays(
    train_images: Any, train_labels: Any, test_images: Any, test_labels: Any, class_names: Sequence[str] | None
) -> Dataset:
    """Return the dataset of four arrays; see `Dataset.from_arrays`."""
    train, test = _check_arrays(train_images, train_labels, "train"), _check_arrays(test_images, test_labels, "test")
    return _make_dataset(train, test, class_names)


def from_torch(train: Any, test: Any) -> Dataset:
    """Return the dataset of two torch datasets; see `Dataset.from_torch`."""
    train_names, test_names = _torch_class_names(train), _torch_class_names(test)
    if train_names and test_names and train_names != test_names:
        raise _error(
            "test.classes", f"those of train ({format_names(train_names)})", format_names(test_names),
            "Give two datasets with the same classes.",
        )  # fmt: skip
    return _make_dataset(_read_items(train, "train"), _read_items(test, "test"), train_names or test_names)


def _make_dataset(train: LabelledImages, test: LabelledImages, class_names: Sequence[str] | None) -> Dataset:
    names = _check_classes(train.labels_N, test.labels_N, class_names)
    train_split, test_split = _make_split(train, "train"), _make_split(test, "test")
    notes = []
    if num_resized := train.num_resized + test.num_resized:
        total = len(train_split) + len(test_split)
        notes.append(f"{num_resized:,} of {total:,} images were resized to {SIZE} x {SIZE}")
    if absent := [name for label, name in enumerate(names) if label not in train.labels_N]:
        notes.append(f"no training images of {len(absent)} of the classes: {format_names(absent)}")
    notes += train_test_overlap_note(train_split, test_split)
    digest = fingerprint(RawDataset(names, train_split, test_split))
    return Dataset(ARRAYS, names, train_split, test_split, digest, tuple(notes))


def _make_split(images: LabelledImages, name: str) -> Split:
    files = tuple(f"{name}/{index:05d}" for index in range(len(images.labels_N)))
    return Split(images.images_NHWC, images.labels_N, files)


# --- arrays ---


def _check_arrays(images: Any, labels: Any, split: str) -> LabelledImages:
    pixels_NHWC = _check_images(_to_array(images, f"{split}_images"), f"{split}_images")
    labels_N = _check_labels(_to_array(labels, f"{split}_labels"), f"{split}_labels")
    if len(pixels_NHWC) != len(labels_N):
        raise _error(
            f"{split}_labels", f"a label for each of {len(pixels_NHWC):,} images", f"{len(labels_N):,} labels",
            "Give as many labels as images.",
        )  # fmt: skip
    if pixels_NHWC.shape[1:] == (SIZE, SIZE, 3):
        return LabelledImages(np.array(pixels_NHWC), labels_N, 0)  # a copy: the caller may change its array later
    images_NHWC = np.empty((len(pixels_NHWC), SIZE, SIZE, 3), np.uint8)
    for row, pixels_HWC in enumerate(pixels_NHWC):
        images_NHWC[row] = _to_rgb_32(pixels_HWC)
    is_resized = pixels_NHWC.shape[1:3] != (SIZE, SIZE)
    return LabelledImages(images_NHWC, labels_N, len(images_NHWC) * is_resized)


def _to_array(values: Any, where: str) -> NDArray[Any]:
    try:
        return np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of images of several sizes, for example
        raise _error(where, "an array", one_line(error), "Give one array, with images of one size.") from None


def _check_images(images: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Return images as uint8 of shape N H W C."""
    is_gray, shape = images.ndim == 3, images.shape
    if not is_gray and not (images.ndim == 4 and shape[3] in CHANNELS):
        hint = "Reshape the images."
        if images.ndim == 4 and shape[1] in CHANNELS:
            hint = "These are N x C x H x W: give images.transpose(0, 2, 3, 1), or permute for a tensor."
        raise _error(where, "images of shape (N, H, W, 3), (N, H, W, 1) or (N, H, W)", f"the shape {shape}", hint)
    if 0 in shape:
        raise _error(where, "at least one image", f"the shape {shape}", "Give images.")
    if images.dtype.kind == "f":
        low, high = images.min(), images.max()
        hint = "Give (images * 255).round().astype('uint8')." if low >= 0 and high <= 1 else "Scale the images."
        hint = "Give images.round().astype('uint8')." if low >= 0 and 1 < high <= 255 else hint
        raise _error(where, "uint8 in [0, 255]", f"{images.dtype} from {low:.3g} to {high:.3g}", hint)
    pixels = _integers_to_uint8(images, where)
    return pixels[..., None] if is_gray else pixels


def _integers_to_uint8(pixels: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "iu":
        raise _error(where, "uint8 in [0, 255]", str(pixels.dtype), "Give the images as they were read.")
    if pixels.min() < 0 or pixels.max() > 255:
        found = f"{pixels.dtype} from {pixels.min()} to {pixels.max()}"
        raise _error(where, "uint8 in [0, 255]", found, "Scale the images to this range.")
    return pixels.astype(np.uint8)


def _check_labels(labels: NDArray[Any], where: str) -> NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:  # as of the data sets that come with Keras
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        hint = "Give class indices: np.unique(labels, return_inverse=True)[1]."
        hint = "Give labels.argmax(axis=1)." if labels.ndim == 2 else hint
        raise _error(where, "whole numbers of shape (N,)", f"{labels.dtype} of shape {labels.shape}", hint)
    if len(labels) and labels.min() < 0:
        raise _error(where, "labels from 0", int(labels.min()), "Give the index of the class.")
    return labels.astype(np.int64)


def _check_classes(
    train_labels_N: NDArray[np.int64], test_labels_N: NDArray[np.int64], class_names: Sequence[str] | None
) -> tuple[str, ...]:
    used = np.unique(np.concatenate([train_labels_N, test_labels_N]))
    if class_names is None:
        if used[-1] >= len(used):
            absent = next(label for label in range(len(used)) if label != used[label])
            raise _error(
                "labels", f"0 to {len(used) - 1} for {len(used)} classes", f"{used[-1]}, but no {absent}",
                "Give class_names, or class indices: np.unique(labels, return_inverse=True)[1].",
            )  # fmt: skip
        if len(used) < 2:
            raise _error("labels", "two or more classes", "one", "Give images of more classes, or class_names.")
        class_names = [str(label) for label in used]
    names = [] if isinstance(class_names, str) else list(class_names)
    if not all(isinstance(name, str) and name for name in names) or not 2 <= len(names) == len(set(names)):
        hint = "Give the name of each class, in the order of the labels."
        raise _error("class_names", "two or more different texts", f"{class_names!r:.60}", hint)
    if used[-1] >= len(names):
        found = f"the label {used[-1]}"
        raise _error("labels", f"0 to {len(names) - 1} for {len(names)} class names", found, "Name all classes.")
    return tuple(map(str, names))


# --- torch datasets ---


def _torch_class_names(dataset: Any) -> tuple[str, ...] | None:
    """Return `.classes` of a dataset, or of the one that a `Subset` is of; None if there are none."""
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    is_text = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if names and is_text else None


def _read_items(dataset: Any, split: str) -> LabelledImages:
    is_loader = isinstance(dataset, DataLoader)
    is_map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if is_loader or isinstance(dataset, IterableDataset) or not is_map_style:
        hint = "Give its dataset: loader.dataset." if is_loader else "Give a map-style torch dataset."
        raise _error(split, "a dataset with a length and items by index", f"a {type(dataset).__name__}", hint)
    if not len(dataset):
        raise _error(split, "at least one image", "an empty dataset", "Give images.")
    images_NHWC, num_resized = np.empty((len(dataset), SIZE, SIZE, 3), np.uint8), 0
    labels_N = np.empty(len(dataset), np.int64)
    for index in range(len(dataset)):
        item, where = dataset[index], f"{split}[{index}]"
        if not isinstance(item, tuple | list) or len(item) < 2:
            hint = "Wrap the dataset in one whose items are an image and its label."
            raise _error(where, "(image, label)", f"a {type(item).__name__}", hint)
        image = item[0] if isinstance(item[0], Image.Image) else _item_pixels(item[0], where)
        num_resized += (image.size if isinstance(image, Image.Image) else image.shape[:2]) != (SIZE, SIZE)
        try:
            images_NHWC[index] = _to_rgb_32(image)
        except CorruptImageError as error:
            raise _error(where, "an image that can be shown in RGB", str(error), "Convert it to RGB.") from None
        labels_N[index] = _item_label(item[1], where)
    return LabelledImages(images_NHWC, labels_N, num_resized)


def _item_label(label: Any, where: str) -> int:
    try:
        index = operator.index(label)
    except TypeError:
        hint = "Give the index of the class."
        raise _error(where, "a whole number as label", f"a {type(label).__name__}", hint) from None
    if index < 0:
        raise _error(where, "labels from 0", index, "Give the index of the class.")
    return index


def _item_pixels(image: Any, where: str) -> NDArray[np.uint8]:
    """Return a tensor (C x H x W or H x W x C) or an array as uint8 of shape H W C; floats are in [0, 1]."""
    pixels = _to_array(image, where)
    axes = (0, 2) if isinstance(image, Tensor) else (2, 0)  # of the channels, the usual one first
    channel_axis = next((axis for axis in axes if pixels.ndim == 3 and pixels.shape[axis] in CHANNELS), None)
    if pixels.ndim == 2:
        pixels, channel_axis = pixels[..., None], 2
    if channel_axis is None or 0 in pixels.shape:
        hint = "Give single images, not batches." if pixels.ndim == 4 else "Give an image with 1 or 3 channels."
        raise _error(where, "an image of shape (3, H, W), (H, W, 3) or (H, W)", f"the shape {pixels.shape}", hint)
    pixels = np.moveaxis(pixels, channel_axis, 2)
    if pixels.dtype.kind != "f":
        return _integers_to_uint8(pixels, where)
    low, high = float(pixels.min()), float(pixels.max())
    if not 0 <= low <= high <= 1:
        hint = "Leave Normalize out of the dataset's transform: scsuite normalises the images itself."
        raise _error(where, "values in [0, 1], or uint8", f"{pixels.dtype} from {low:.3g} to {high:.3g}", hint)
    return np.asarray((pixels * 255).round().astype(np.uint8))


def _to_rgb_32(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))
    return convert_to_rgb_32(image)


def _error(where: str, expected: str, found: object, hint: str) -> InputError:
    return InputError("data", where, expected=expected, found=found, hint=hint)
