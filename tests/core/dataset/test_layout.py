"""Names alone say which picture is of which class and split; what is odd about them is said in one line."""

import numpy as np
import pytest

from scsuite.core.dataset.layout import Layout, arrange, held_out
from scsuite.core.errors import InputError


def arranged(*names: str, folders: tuple[str, ...] = (), others: tuple[str, ...] = ()) -> Layout:
    return arrange(list(names), set(folders), list(others), "pictures")


def named(layout: Layout, names: tuple[str, ...]) -> tuple[list[str], list[str] | None]:
    test = None if layout.test is None else [f"{names[i]}={label}" for i, label in layout.test]
    return [f"{names[i]}={label}" for i, label in layout.train], test


SPLIT = ("test/dog/9.png", "train/dog/2.png", "train/cat/3.png", "test/cat/0.png", "train/cat/1.png")


def test_train_and_test_are_sorted_by_class_and_name() -> None:
    layout = arranged(*SPLIT)
    assert layout.class_names == ("cat", "dog")
    assert named(layout, SPLIT) == (
        ["train/cat/1.png=0", "train/cat/3.png=0", "train/dog/2.png=1"],
        ["test/cat/0.png=0", "test/dog/9.png=1"],
    )


@pytest.mark.parametrize("top", ["pets/", "a/b/c/"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("train", "val"), ("Training", "VALID")])
def test_one_top_folder_and_other_spellings_are_seen_through(top: str, train: str, test: str) -> None:
    names = tuple(top + name.replace("train", train).replace("test", test) for name in SPLIT)
    layout = arranged(*names, others=("README.txt",))
    assert layout.class_names == ("cat", "dog")
    assert layout.test is not None
    assert [names[i] for i, _ in layout.test] == [f"{top}{test}/cat/0.png", f"{top}{test}/dog/9.png"]


def test_classes_alone_leave_the_test_images_to_be_held_out() -> None:
    names = ("pets/dog/a.png", "pets/cat/deeper/b.png")
    assert named(arranged(*names), names) == (["pets/cat/deeper/b.png=0", "pets/dog/a.png=1"], None)


def test_train_alone_leaves_the_test_images_to_be_held_out() -> None:
    layout = arranged("train/dog/a.png", "train/cat/b.png")
    assert layout.class_names == ("cat", "dog")
    assert layout.test is None


def test_test_is_preferred_to_val_and_what_is_left_out_is_counted() -> None:
    layout = arranged(*SPLIT, "val/cat/5.png", "docs/figure.png")
    assert layout.test is not None
    assert len(layout.test) == 2
    assert layout.notes == ("2 images outside train/ and test/ were left out (the first is docs/figure.png)",)


@pytest.mark.parametrize(
    ("names", "folders", "others", "words"),
    [
        ((), (), (), "expected PNG, JPEG, BMP or WebP images, found none"),
        ((), (), ("a.txt", "b.gif"), "found none, and 2 other files"),
        ((), (), ("cifar-10-batches-py/data_batch_1",), "Use --data cifar10"),
        (("cat/a.png",), (), (), "at least 2 classes, found only cat"),
        (("a.png", "b.png"), (), (), "found 2 beside the class folders"),
        (("cat/a.png", "dog/b.png", "c.png"), (), (), "c.png: expected each image in the folder of its class"),
        (("train/a.png", "train/b.png"), (), (), "train/a.png: expected each image"),
        ((*SPLIT, "test/stray.png"), (), (), "test/stray.png"),
        (("test/cat/a.png", "test/dog/b.png"), (), (), "expected train/CLASS/\\* images, found test alone"),
        (("Train/cat/a.png", "train/dog/b.png"), (), (), "expected one train folder, found Train, train"),
        ((*SPLIT, "train/emu/a.png"), (), (), "found emu only in train/"),
        ((*SPLIT, "test/emu/a.png"), (), (), "found emu only in test/"),
        (("train/Cat/a.png", "train/dog/b.png", *SPLIT[3:4], *SPLIT[:1]), (), (), "same letter case"),
        (("train/cat/a.png", "train/dog/a.png"), ("test",), (), "cat, dog only in train/"),
        (SPLIT, ("train/emu",), (), "pictures: train: .* found none in emu"),
        (("cat/a.png", "dog/b.png"), ("emu",), (), "found none in emu"),
        (("cat/a.png", "dog/b.png"), (), ("emu/movie.gif",), "found none in emu"),
    ],
)
def test_what_is_no_set_of_classes_is_refused_with_the_nearest_fix(
    names: tuple[str, ...], folders: tuple[str, ...], others: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        arranged(*names, folders=folders, others=others)
    assert "\n" not in str(caught.value)


FILES = tuple(f"{name}/{i:03d}.png" for name in ("cat", "dog") for i in range(10))
LABELS = np.repeat(np.arange(2), 10)


@pytest.mark.parametrize(("share", "count"), [(0.2, 2), (0.5, 5), (0.001, 1), (0.999, 9)])
def test_each_class_gives_its_share_and_never_all_or_nothing(share: float, count: int) -> None:
    chosen_N = held_out(FILES, LABELS, ("cat", "dog"), share, "pictures")
    assert [int(chosen_N[label == LABELS].sum()) for label in (0, 1)] == [count, count]


def test_the_choice_is_by_name_so_one_more_picture_moves_no_other() -> None:
    before = held_out(FILES, LABELS, ("cat", "dog"), 0.5, "pictures")
    order = np.random.default_rng(0).permutation(20)
    shuffled = held_out(tuple(FILES[i] for i in order), LABELS[order], ("cat", "dog"), 0.5, "pictures")
    assert np.array_equal(shuffled, before[order])
    more = held_out((*FILES, "dog/new.png"), np.append(LABELS, 1), ("cat", "dog"), 0.5, "pictures")
    assert np.count_nonzero(more[:20] != before) <= 1


def test_a_class_of_one_image_cannot_be_divided() -> None:
    with pytest.raises(InputError, match="pictures: dog: expected at least 2 images in a class, found 1"):
        held_out(("cat/a", "cat/b", "dog/c"), np.array([0, 0, 1]), ("cat", "dog"), 0.2, "pictures")
