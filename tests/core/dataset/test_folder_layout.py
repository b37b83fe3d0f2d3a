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


def in_splits(*tops: str) -> tuple[str, ...]:
    """An image of each of two classes in each of these folders."""
    return tuple(f"{top}/{name}/{i}.png" for i, top in enumerate(tops) for name in ("cat", "dog"))


SPLIT_NAMES = [
    ("training_set", "test_set"),
    ("seg_train", "seg_test"),
    ("Train", "Valid"),
    ("Train_data", "Test_data"),
    ("train-images", "test-images"),
    ("TRAIN", "DEV"),
    ("cifar_train", "cifar_test"),
    ("trainSet", "testSet"),
    ("train2017", "val2017"),
    ("my.training.data", "holdout"),
    ("train_32x32", "Held-Out"),
    ("data/train", "data/eval"),
    ("seg_train/seg_train", "seg_test/seg_test"),  # as unpacked from two zips
    ("train/images", "val/images"),
    ("a/b/training_set/training_set", "a/b/test_set/test_set"),
    ("first/train", "second/test"),
    ("train_and_test/train", "train_and_test/test"),
    ("train", "tests"),
    ("train_v1", "test_v1"),  # beside the same class folders, any other words may follow
    ("train_another", "validation_another"),
    ("train", "test_another"),
    ("images", "test"),  # what is not called test has the training images
]


@pytest.mark.parametrize(("train", "test"), SPLIT_NAMES)
def test_splits_are_recognised_by_any_usual_name_and_reported(train: str, test: str) -> None:
    names = in_splits(train, test)
    layout = layout_of(*names)
    assert layout.class_names == ("cat", "dog")
    expected = [f"{name}={i % 2}" for i, name in enumerate(names)]
    assert labelled(layout, names) == (expected[:2], expected[2:])
    shown = [name.removeprefix("a/b/").removeprefix("data/").removeprefix("train_and_test/") for name in (train, test)]
    note = f"{shown[0]}/ was read as training images, {shown[1]}/ as test images"
    assert layout.notes == (() if shown == ["train", "test"] else (note,))


@pytest.mark.parametrize("name", ["test_tube", "train_station", "latest", "contest", "devices", "train_val", "intrain"])
def test_a_name_that_only_contains_a_splits_word_is_a_class(name: str) -> None:
    assert layout_of(f"{name}/a/1.png", "other/a/1.png", "third/b/1.png").class_names == tuple(
        sorted([name, "other", "third"])
    )


def test_a_split_in_each_class_is_read_as_a_split() -> None:
    names = ("cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png")
    layout = layout_of(*names)
    assert layout.class_names == ("cat", "dog")
    expected = (["cat/train/1.png=0", "dog/train/3.png=1"], ["cat/test/2.png=0", "dog/test/4.png=1"])
    assert labelled(layout, names) == expected
    assert layout.notes == ("the folders in each class were read as its splits, as in cat/train/1.png",)


@pytest.mark.parametrize(
    ("names", "test_folder"),
    [
        (in_splits("train", "val", "test"), "test"),
        (in_splits("train", "val", "holdout"), "holdout"),
        ((*in_splits("train", "val"), "test/1.png"), "val"),  # test images without labels
        ((*in_splits("train"), "test/1.png"), None),
        (in_splits("train", "extra"), None),
        (in_splits("train", "val", "test_extra"), "val"),
    ],
)
def test_of_several_folders_one_gives_the_test_images(names: tuple[str, ...], test_folder: str | None) -> None:
    layout = layout_of(*names)
    assert {names[i].partition("/")[0] for i, _ in layout.train} == {"train"}
    assert (None if layout.test is None else {names[i].partition("/")[0] for i, _ in layout.test}) == (
        test_folder and {test_folder}
    )
    num_used = len(layout.train) + len(layout.test or [])
    used = "train/" + (f" and {test_folder}/" if test_folder else "")
    if num_unused := len(names) - num_used:
        what = f"image outside {used} was" if num_unused == 1 else f"images outside {used} were"
        assert layout.notes[-1].startswith(f"{num_unused} {what} ignored")


@pytest.mark.parametrize("tops", [("a", "b"), ("x/fold one", "x/fold two"), ("a", "b", "c")])
def test_folders_of_the_same_classes_are_never_classes(tops: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"found the same folders \(cat, dog\) in each of .* Rename these to train"):
        layout_of(*in_splits(*tops))


def test_classes_may_have_the_names_of_splits() -> None:
    names = ("train/1.png", "test/1.png", "index/1.png", "val/deeper/1.png")
    assert layout_of(*names).class_names == ("index", "test", "train", "val")
    layout = layout_of(*(f"{split}/{name}" for split in ("train", "test") for name in names[:3]))
    assert layout.class_names == ("index", "test", "train")
    assert layout.test is not None


def test_a_class_may_lack_test_images() -> None:
    layout = layout_of(*SPLIT, "train/emu/a.png", folders=("test/emu",))
    assert layout.class_names == ("cat", "dog", "emu")
    assert layout.notes == ("there are no test images of 1 of 3 classes: emu",)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("10", "2", "1", "0"), ("0", "1", "2", "10")),
        (("-1", "1", "0"), ("-1", "0", "1")),
        (("010", "9", "08"), ("08", "9", "010")),
        (("10", "2", "x"), ("10", "2", "x")),  # not all are numbers: as before
        (("n10", "n2"), ("n10", "n2")),
    ],
)
def test_class_names_that_are_integers_are_sorted_as_numbers(
    classes: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    names = tuple(f"{name}/a.png" for name in classes)
    layout = layout_of(*names)
    assert layout.class_names == expected
    assert [names[i] for i, _ in layout.train] == [f"{name}/a.png" for name in expected]


@pytest.mark.parametrize(
    ("names", "folders", "non_images", "words"),
    [
        (("train/1.png", "test/2.png"), (), (), r"no class folders in test/, train/\. Move the images into class"),
        (("train/images/1.png",), (), ("train/labels/1.txt",), "images/ and labels/, as for object detection"),
        ((), (), (), "expected images, such as PNG or JPEG, found none"),
        ((), (), ("a.txt", "b.gif"), "found none, and 2 other files"),
        ((), (), ("cifar-10-batches-py/data_batch_1",), "Use --data cifar10"),
        (("cat/a.png",), (), (), "at least 2 classes, found only cat"),
        (("a.png", "b.png"), (), (), "found 2 without class folders"),
        (("cat/a.png", "dog/b.png", "c.png"), (), (), "c.png: expected each image in the folder of its class"),
        (("train/a.png", "train/b.png"), (), (), "train/a.png: expected each image"),
        ((*SPLIT, "test/stray.png"), (), (), "test/stray.png"),
        (("test/cat/a.png", "test/dog/b.png"), (), (), "expected train/CLASS/\\* images, found only test"),
        (("Train/cat/a.png", "train/dog/b.png"), (), (), "expected one train folder, found Train, train"),
        ((*SPLIT, "test/emu/a.png"), (), (), "found emu only in test/"),
        (("train/Cat/a.png", "train/dog/b.png", *SPLIT[3:4], *SPLIT[:1]), (), (), "same letter case"),
        (("train/cat/a.png", "train/dog/a.png"), ("test",), (), "test: expected images, found an empty folder"),
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
