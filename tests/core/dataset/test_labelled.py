"""Data that a trained network is evaluated on. Run: pytest tests/core/dataset/test_labelled.py."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scsuite.core.dataset import Dataset, load_dataset
from scsuite.core.errors import InputError
from tests.core.dataset.helpers import Tree, class_tree, encode, write_folder, write_zip

CLASSES = ("owl", "cat", "dog")  # of the network, in another order than a folder's


def checkpoint(fingerprint: str = "", class_names: tuple[str, ...] = CLASSES, **config: Any) -> dict[str, Any]:
    """What a checkpoint records of its training's data."""
    return {"class_names": list(class_names), "data": {"name": "x", "fingerprint": fingerprint}, "config": config}


def load(path: Path, metadata: dict[str, Any] | None = None, **options: Any) -> Dataset:
    return load_dataset(str(path), checkpoint=metadata or checkpoint(), **options)


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("counts", "num_images"),
    [
        ({"cat": 3, "dog": 2, "owl": 1}, (1, 3, 2)),  # no split, a class of one image
        ({"test/cat": 2, "test/dog": 2}, (0, 2, 2)),
        ({"train/cat": 2, "test/cat": 1, "train/dog": 1, "test/dog": 3}, (0, 3, 4)),
        ({"train/cat": 1, "test/cat": 1, "val/cat": 1, "train/dog": 1, "test/dog": 1, "val/owl": 2}, (2, 3, 2)),
        ({"cat": 4}, (0, 4, 0)),  # one class
        ({"dog": 1}, (0, 0, 1)),  # one image
        ({"new/round 2/seg_test/cat": 1, "new/round 2/seg_test/owl": 2}, (2, 1, 0)),
        ({"cat/persian": 1, "cat/manx": 1, "dog": 1}, (0, 2, 1)),
    ],
)
def test_every_image_in_a_class_folder_is_a_test_image(
    counts: dict[str, int], num_images: tuple[int, ...], as_zip: bool, tmp_path: Path
) -> None:
    tree = class_tree(counts)
    path = write_zip(tmp_path / "new.zip", tree) if as_zip else write_folder(tmp_path / "new", tree)
    data = load(path)
    assert len(data.train) == 0
    assert data.class_names == CLASSES
    assert np.bincount(data.test.labels_N, minlength=3).tolist() == list(num_images)
    for file, label in zip(data.test.files, data.test.labels_N, strict=True):
        assert CLASSES[label] in file.split("/")
    assert sorted(data.test.files) == sorted(tree)
    again = load(path)  # from the cache
    assert (again.test.files, again.fingerprint) == (data.test.files, data.fingerprint)


def test_a_class_folder_without_images_is_a_class_without_images(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "new", class_tree({"cat": 2, "owl": 1}))
    (path / "dog").mkdir()
    assert np.bincount(load(path).test.labels_N, minlength=3).tolist() == [1, 2, 0]


def test_a_limit_counts_for_all_images_and_is_balanced(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "new", class_tree({"train/cat": 9, "test/cat": 9, "test/dog": 3}))
    assert np.bincount(load(path, limit_test=6).test.labels_N, minlength=3).tolist() == [0, 3, 3]


def test_unlabelled_images_in_folders_of_their_own_are_ignored_with_a_note(tmp_path: Path) -> None:
    tree = class_tree({"seg_test/seg_test/cat": 2, "seg_test/seg_test/dog": 1, "seg_pred/seg_pred": 4})
    data = load(write_folder(tmp_path / "new", tree))
    assert len(data.test) == 3
    assert data.notes == (
        "4 images outside class folders were ignored (the first is seg_pred/seg_pred/000.png)",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": 1, "bird": 2}, r"only classes of the network \(owl, cat, dog\), found bird"),
        ({"test/bird": 1, "test/fish": 1}, "found bird, fish"),
        ({"test/cats": 2}, "found cats. Did you mean cat"),
        ({"CAT": 1, "Dog": 1}, "found CAT, Dog. Spell them in the same letter case"),
        ({"test": 2}, "found test"),
        ({"cat": 2, ".": 1}, r"new: \./000\.png|new: 000\.png: expected each image in a folder"),
    ],
)
def test_images_of_other_classes_or_of_none_are_refused(counts: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load(write_folder(tmp_path / "new", class_tree(counts)))


def test_the_folder_of_a_class_itself_is_refused_with_the_folder_to_give(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "new", class_tree({"cat": 2}))
    with pytest.raises(InputError, match=rf"Give the folder above, as in --data {path},"):
        load(path / "cat")


FLAT, SPLIT = (
    class_tree({"cat": 5, "dog": 10}),
    class_tree({"train/cat": 2, "train/dog": 3, "test/cat": 1, "test/dog": 2}),
)


@pytest.mark.parametrize("tree", [FLAT, SPLIT], ids=["CLASS", "train/CLASS"])
def test_the_trainings_data_under_another_name_keeps_its_split(tree: Tree, tmp_path: Path) -> None:
    trained = load_dataset(str(write_folder(tmp_path / "pets", tree)), test_split=0.3)
    metadata = checkpoint(trained.fingerprint, trained.class_names, test_split=0.3)
    below_top = {f"pets-2/{name}": data for name, data in tree.items()}
    for moved in (
        write_folder(tmp_path / "elsewhere" / "renamed", tree),
        write_folder(tmp_path / "one more level", below_top),
        write_zip(tmp_path / "pets.zip", below_top),
    ):
        data = load(moved, metadata)
        assert data.fingerprint == trained.fingerprint
        for own, expected in ((data.train, trained.train), (data.test, trained.test)):
            np.testing.assert_array_equal(own.images_NHWC, expected.images_NHWC)
            np.testing.assert_array_equal(own.labels_N, expected.labels_N)
        assert load_dataset(str(moved), test_split=0.3).fingerprint == trained.fingerprint


@pytest.mark.parametrize("tree", [FLAT, SPLIT], ids=["CLASS", "train/CLASS"])
def test_the_trainings_data_with_another_fit_keeps_its_split(tree: Tree, tmp_path: Path) -> None:
    wide = {name: encode(Image.open(io.BytesIO(data)).crop((0, 0, 64, 32))) for name, data in tree.items()}
    path = write_folder(tmp_path / "pets", wide)
    trained = load_dataset(str(path))
    padded = load(path, checkpoint(trained.fingerprint, trained.class_names), fit="pad")
    assert padded.fingerprint != trained.fingerprint
    assert (padded.train.files, padded.test.files) == (trained.train.files, trained.test.files)
    other = write_folder(tmp_path / "other", dict(list(wide.items())[1:]))
    assert (
        len(load(other, checkpoint(trained.fingerprint, trained.class_names), fit="pad").train) == 0
    )  # used completely


def test_names_that_hold_out_other_images_give_another_fingerprint(tmp_path: Path) -> None:
    renamed = {name.replace("/0", "/img-0"): data for name, data in FLAT.items()}  # in the same order
    first, second = (
        load_dataset(str(write_folder(tmp_path / name, tree))) for name, tree in {"a": FLAT, "b": renamed}.items()
    )
    assert not np.array_equal(first.test.images_NHWC, second.test.images_NHWC)
    assert first.fingerprint != second.fingerprint


def test_a_source_that_is_not_a_folder_is_used_completely_too() -> None:
    names = load_dataset("shapes", limit_train=10, limit_test=10).class_names
    data = load_dataset("shapes", checkpoint=checkpoint("1" * 64, names[::-1]))
    assert (len(data.train), len(data.test), data.class_names) == (0, 12_000, names[::-1])
    assert data.test.masks_NHW is not None
    own = load_dataset("shapes", checkpoint=checkpoint(load_dataset("shapes").fingerprint, names))
    assert (len(own.train), len(own.test)) == (10_000, 2_000)
