"""Class and split of each image follow from names alone; every problem with them gives one line."""

import numpy as np
import pytest

from scsuite.core.dataset import folder_layout
from scsuite.core.dataset.folder_layout import Layout, parse_layout
from scsuite.core.errors import InputError


def layout_of(*names: str, folders: tuple[str, ...] = (), non_images: tuple[str, ...] = ()) -> Layout:
    return parse_layout(list(names), set(folders), list(non_images), "images")


def labelled(layout: Layout, names: tuple[str, ...]) -> tuple[list[str], list[str] | None]:
    test = None if layout.test is None else [f"{names[i]}={label}" for i, label in layout.test]
    return [f"{names[i]}={label}" for i, label in layout.train], test


SPLIT = ("test/dog/9.png", "train/dog/2.png", "train/cat/3.png", "test/cat/0.png", "train/cat/1.png")


def test_train_and_test_are_sorted_by_class_and_name() -> None:
    layout = layout_of(*SPLIT)
    assert layout.class_names == ("cat", "dog")
    assert labelled(layout, SPLIT) == (
        ["train/cat/1.png=0", "train/cat/3.png=0", "train/dog/2.png=1"],
        ["test/cat/0.png=0", "test/dog/9.png=1"],
    )


@pytest.mark.parametrize("top", ["pets/", "a/b/c/"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("train", "val"), ("Training", "VALID")])
def test_a_top_folder_and_other_spellings_of_the_splits_are_accepted(top: str, train: str, test: str) -> None:
    names = tuple(top + name.replace("train", train).replace("test", test) for name in SPLIT)
    layout = layout_of(*names, non_images=("README.txt",))
    assert layout.class_names == ("cat", "dog")
    assert layout.test is not None
    assert [names[i] for i, _ in layout.test] == [f"{top}{test}/cat/0.png", f"{top}{test}/dog/9.png"]


def test_classes_alone_give_no_test_images() -> None:
    names = ("pets/dog/a.png", "pets/cat/deeper/b.png")
    assert labelled(layout_of(*names), names) == (["pets/cat/deeper/b.png=0", "pets/dog/a.png=1"], None)


def test_a_train_folder_alone_gives_no_test_images() -> None:
    layout = layout_of("train/dog/a.png", "train/cat/b.png")
    assert layout.class_names == ("cat", "dog")
    assert layout.test is None


def test_test_is_preferred_to_val_and_ignored_images_are_counted() -> None:
    layout = layout_of(*SPLIT, "val/cat/5.png", "docs/figure.png")
    assert layout.test is not None
    assert len(layout.test) == 2
    assert layout.notes == ("2 images outside train/ and test/ were ignored (the first is docs/figure.png)",)


@pytest.mark.parametrize(
    ("names", "folders", "non_images", "words"),
    [
        ((), (), (), "expected PNG, JPEG, BMP or WebP images, found none"),
        ((), (), ("a.txt", "b.gif"), "found none, and 2 other files"),
        ((), (), ("cifar-10-batches-py/data_batch_1",), "Use --data cifar10"),
        (("cat/a.png",), (), (), "at least 2 classes, found only cat"),
        (("a.png", "b.png"), (), (), "found 2 next to the class folders"),
        (("cat/a.png", "dog/b.png", "c.png"), (), (), "c.png: expected each image in the folder of its class"),
        (("train/a.png", "train/b.png"), (), (), "train/a.png: expected each image"),
        ((*SPLIT, "test/stray.png"), (), (), "test/stray.png"),
        (("test/cat/a.png", "test/dog/b.png"), (), (), "expected train/CLASS/\\* images, found only test"),
        (("Train/cat/a.png", "train/dog/b.png"), (), (), "expected one train folder, found Train, train"),
        ((*SPLIT, "train/emu/a.png"), (), (), "found emu only in train/"),
        ((*SPLIT, "test/emu/a.png"), (), (), "found emu only in test/"),
        (("train/Cat/a.png", "train/dog/b.png", *SPLIT[3:4], *SPLIT[:1]), (), (), "same letter case"),
        (("train/cat/a.png", "train/dog/a.png"), ("test",), (), "cat, dog only in train/"),
        (SPLIT, ("train/emu",), (), "images: train: .* found none in emu"),
        (("cat/a.png", "dog/b.png"), ("emu",), (), "found none in emu"),
        (("cat/a.png", "dog/b.png"), (), ("emu/movie.gif",), "found none in emu"),
    ],
)
def test_a_layout_without_classes_is_refused_with_a_fix(
    names: tuple[str, ...], folders: tuple[str, ...], non_images: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        layout_of(*names, folders=folders, non_images=non_images)
    assert "\n" not in str(caught.value)


FILES = tuple(f"{name}/{i:03d}.png" for name in ("cat", "dog") for i in range(10))
LABELS = np.repeat(np.arange(2), 10)


@pytest.mark.parametrize(("fraction", "count"), [(0.2, 2), (0.5, 5), (0.001, 1), (0.999, 9)])
def test_each_class_gives_its_fraction_but_never_all_or_none(fraction: float, count: int) -> None:
    mask_N = folder_layout.test_split_mask(FILES, LABELS, ("cat", "dog"), fraction, "images")
    assert [int(mask_N[label == LABELS].sum()) for label in (0, 1)] == [count, count]


def test_test_images_are_selected_by_name_so_another_image_moves_none() -> None:
    before = folder_layout.test_split_mask(FILES, LABELS, ("cat", "dog"), 0.5, "images")
    order = np.random.default_rng(0).permutation(20)
    shuffled = folder_layout.test_split_mask(
        tuple(FILES[i] for i in order), LABELS[order], ("cat", "dog"), 0.5, "images"
    )
    assert np.array_equal(shuffled, before[order])
    extended = folder_layout.test_split_mask(
        (*FILES, "dog/new.png"), np.append(LABELS, 1), ("cat", "dog"), 0.5, "images"
    )
    assert np.count_nonzero(extended[:20] != before) <= 1


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(InputError, match="images: dog: expected at least 2 images in a class, found 1"):
        folder_layout.test_split_mask(("cat/a", "cat/b", "dog/c"), np.array([0, 0, 1]), ("cat", "dog"), 0.2, "images")
