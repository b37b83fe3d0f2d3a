"""Datasets of arrays and of torch datasets. Run: pytest tests/core/dataset/test_arrays.py."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torchvision.datasets import FakeData
from torchvision.transforms import Compose, Normalize, ToTensor

from scsuite import Dataset
from scsuite.core.dataset.image_file import read_image_32
from scsuite.core.errors import InputError

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), np.arange(12) % 3
TEST_IMAGES, TEST_LABELS = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), np.arange(6) % 3


def from_train(images: Any, labels: Any = LABELS, class_names: Any = None) -> Dataset:
    return Dataset.from_arrays(images, labels, TEST_IMAGES, TEST_LABELS, class_names)


def test_arrays_of_32x32_rgb_are_taken_as_they_are() -> None:
    data = from_train(IMAGES, class_names=["a", "b", "c"])
    assert np.array_equal(data.train.images_NHWC, IMAGES)
    assert np.array_equal(data.test.labels_N, TEST_LABELS)
    assert [str(data.train.images_NHWC.dtype), str(data.train.labels_N.dtype)] == ["uint8", "int64"]
    assert (data.class_names, data.notes) == (("a", "b", "c"), ())


def test_a_later_change_of_the_array_does_not_change_the_dataset() -> None:
    images = IMAGES.copy()
    data = from_train(images)
    images[:] = 0
    assert np.array_equal(data.train.images_NHWC, IMAGES)


@pytest.mark.parametrize("shape", [(12, 28, 28), (12, 28, 28, 1)])
def test_gray_images_become_rgb_and_are_resized(shape: tuple[int, ...]) -> None:
    gray = np.full(shape, 80, np.uint8)
    gray[:, :14] = 200
    data = from_train(gray)
    assert data.class_names == ("0", "1", "2")
    image = data.train.images_NHWC[0]
    assert np.array_equal(image[..., 0], image[..., 1])
    assert np.array_equal(image[..., 0], image[..., 2])
    assert image[2, 16, 0] == pytest.approx(200, abs=3)
    assert image[-3, 16, 0] == pytest.approx(80, abs=3)
    assert data.notes == ("12 of 18 images were resized to 32 x 32",)


def test_an_array_becomes_the_pixels_that_its_file_would(tmp_path: Any) -> None:
    images = RNG.integers(0, 256, (12, 64, 80, 3), dtype=np.uint8)
    Image.fromarray(images[3]).save(tmp_path / "image.png")
    assert np.array_equal(from_train(images).train.images_NHWC[3], read_image_32(tmp_path / "image.png"))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int32])
def test_whole_numbers_of_another_type_are_the_same_pixels(dtype: Any) -> None:
    data = Dataset.from_arrays(torch.from_numpy(IMAGES), LABELS.tolist(), TEST_IMAGES, TEST_LABELS[:, None])
    other = from_train(IMAGES.astype(dtype), LABELS.astype(np.int8))
    assert other.fingerprint == data.fingerprint
    assert np.array_equal(other.train.images_NHWC, IMAGES)


def test_the_fingerprint_follows_pixels_labels_and_names() -> None:
    changed = IMAGES.copy()
    changed[5, 4, 3, 2] ^= 1
    variants = [
        from_train(IMAGES), from_train(changed), from_train(IMAGES, np.roll(LABELS, 1)),
        from_train(IMAGES, class_names=["a", "b", "c"]),
    ]  # fmt: skip
    assert len({data.fingerprint for data in variants}) == len(variants)


def test_a_class_without_training_images_is_noted() -> None:
    data = from_train(IMAGES, class_names=["a", "b", "c", "d"])
    assert data.notes == ("no training images of 1 of the classes: d",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: from_train(IMAGES.transpose(0, 3, 1, 2)), r"shape \(12, 3, 32, 32\).*transpose\(0, 2, 3, 1\)"),
        (lambda: from_train(IMAGES / 255), r"float64 from 0 to 1\. Give \(images \* 255\)"),
        (lambda: from_train(IMAGES.astype(np.float32)), r"float32 from 0 to 255\. Give images.round"),
        (lambda: from_train((IMAGES - 120.0) / 60), r"uint8 in \[0, 255\], found float64 from -2"),
        (lambda: from_train(IMAGES.astype(int) * 2), r"found int64 from 0 to 510"),
        (lambda: from_train(IMAGES > 5), "found bool"),
        (lambda: from_train(IMAGES.reshape(12, -1)), r"found the shape \(12, 3072\)"),
        (lambda: from_train(IMAGES[:0], LABELS[:0]), "at least one image"),
        (lambda: from_train([IMAGES[0], IMAGES[0, :9]], [0, 1]), "train_images: expected an array"),
        (lambda: from_train(IMAGES, LABELS[:5]), "a label for each of 12 images, found 5 labels"),
        (lambda: from_train(IMAGES, np.eye(3)[LABELS]), r"found float64 of shape \(12, 3\)\. Give labels.argmax"),
        (lambda: from_train(IMAGES, LABELS.astype(str)), r"np.unique\(labels, return_inverse=True\)"),
        (lambda: from_train(IMAGES, LABELS - 1), "labels from 0, found -1"),
        (lambda: from_train(IMAGES, LABELS * 10), "0 to 4 for 5 classes, found 20, but no 3"),
        (lambda: from_train(IMAGES, class_names=["a", "b"]), "0 to 1 for 2 class names, found the label 2"),
        (lambda: from_train(IMAGES, class_names=["a", "b", "a"]), "different texts"),
        (lambda: from_train(IMAGES, class_names="abc"), "different texts, found 'abc'"),
        (lambda: Dataset.from_arrays(IMAGES, LABELS * 0, IMAGES, LABELS * 0), "two or more classes, found one"),
    ],
)
def test_other_arrays_are_refused_in_one_line(change: Callable[[], Dataset], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        change()
    assert "\n" not in str(caught.value)


# --- torch datasets ---


class Items(torch.utils.data.Dataset[Any]):
    """A map-style dataset of these items."""

    def __init__(self, *items: Any, classes: list[str] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


TEST = Items(*zip(TEST_IMAGES, TEST_LABELS.tolist(), strict=True))
CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "Pillow": Image.fromarray,
    "array H W C": lambda image: image,
    "tensor C H W": lambda image: torch.from_numpy(image).permute(2, 0, 1),
    "tensor H W C": torch.from_numpy,
    "ToTensor": ToTensor(),
    "float array": lambda image: image.astype(np.float32) / 255,
}


@pytest.mark.parametrize("kind", CONVERSIONS)
@pytest.mark.parametrize("make_label", [int, torch.tensor, np.int32])
def test_each_kind_of_item_gives_the_same_pixels_and_labels(kind: str, make_label: Callable[[int], Any]) -> None:
    items = [(CONVERSIONS[kind](i), make_label(k)) for i, k in zip(IMAGES, LABELS.tolist(), strict=True)]
    data = Dataset.from_torch(Items(*items, classes=["a", "b", "c"]), TEST)
    assert np.array_equal(data.train.images_NHWC, IMAGES)
    assert data.fingerprint == from_train(IMAGES, class_names=["a", "b", "c"]).fingerprint


def test_torchs_own_datasets_are_read_and_a_subset_has_the_names_of_its_dataset() -> None:
    tensors = TensorDataset(torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255, torch.from_numpy(LABELS))
    assert np.array_equal(Dataset.from_torch(tensors, TEST).train.images_NHWC, IMAGES)
    fake = FakeData(9, (3, 40, 30), num_classes=3, transform=ToTensor())  # labels at random
    fake.classes = ["x", "y", "z"]
    data = Dataset.from_torch(Subset(fake, range(6)), Subset(fake, [6, 7, 8]))
    assert data.class_names == ("x", "y", "z")
    assert data.notes[0] == "9 of 9 images were resized to 32 x 32"


class Stream(IterableDataset[Any]):
    """A dataset without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (DataLoader(TEST), r"found a DataLoader\. Give its dataset: loader\.dataset\."),
        (Stream(), "found a Stream"),
        (Items(), "an empty dataset"),
        (Items({"image": IMAGES[0], "label": 0}), r"train\[0\]: expected \(image, label\), found a dict"),
        (Items((IMAGES[0], 0), (IMAGES[1], "cat")), r"train\[1\]: expected a whole number as label, found a str"),
        (Items((IMAGES[0], -1)), "found -1"),
        (Items((IMAGES, 0)), r"the shape \(12, 32, 32, 3\)\. Give single images"),
        (Items((IMAGES[0, :, :, :2], 0)), "1 or 3 channels"),
        (Items((Compose([ToTensor(), Normalize((0.5,) * 3, (0.2,) * 3)])(IMAGES[0]), 0)), "Leave Normalize out"),
        (Items((IMAGES[0], 0), classes=["a", "b"]), "0 to 1 for 2 class names, found the label 2"),
    ],
)
def test_other_items_are_refused_in_one_line(train: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Dataset.from_torch(train, TEST)
    assert "\n" not in str(caught.value)


def test_datasets_with_other_classes_are_refused() -> None:
    train = Items((IMAGES[0], 0), classes=["cat", "dog"])
    with pytest.raises(InputError, match=r"test\.classes: expected those of train \(cat, dog\), found dog, wolf"):
        Dataset.from_torch(train, Items((IMAGES[0], 0), classes=["dog", "wolf"]))
