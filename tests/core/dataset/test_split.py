"""Mean and deviation, limits and held-out images of a split; labels of a network on data with its classes."""

from dataclasses import replace

import numpy as np
import pytest

from scsuite.core.dataset import Split, split_holdout
from scsuite.core.dataset.split import balanced_indices, train_test_overlap_note
from scsuite.core.errors import InputError, UsageError
from tests.core.tiny import dataset

NAMES = ("owl", "class 2", "class 0", "yak", "class 1")


def test_classes_are_matched_by_name_in_any_order_and_number() -> None:
    data = dataset()
    relabelled = data.relabelled(NAMES, "here")
    assert relabelled.class_names == NAMES
    for before, after in ((data.train, relabelled.train), (data.test, relabelled.test)):
        assert [NAMES[k] for k in after.labels_N] == [data.class_names[k] for k in before.labels_N]
        assert after.files == before.files
        assert np.shares_memory(after.images_NHWC, before.images_NHWC)  # 60,000 images are not copied for their names


def test_an_unknown_class_is_refused_with_the_most_similar_one() -> None:
    with pytest.raises(InputError) as caught:
        dataset().relabelled(("class 0", "class 1", "clas 2"), "here")
    assert str(caught.value) == (
        "classes: here: expected only classes of the network (class 0, class 1, clas 2), found class 2. "
        "Did you mean clas 2?"
    )


def test_a_hundred_classes_give_a_short_line() -> None:
    with pytest.raises(InputError) as caught:
        dataset(num_classes=100).relabelled(tuple(f"{k}" for k in range(100)), "here")
    assert str(caught.value).count("and 88 more") == 2
    assert "class 0, class 1, " in str(caught.value)


def test_a_class_matches_in_nfc_and_nfd() -> None:
    nfd = replace(dataset(), class_names=("e\u0301clair", "n\u0303", "a"))
    assert nfd.relabelled(("a", "\u00f1", "\u00e9clair"), "here").class_names == ("a", "\u00f1", "\u00e9clair")


def test_test_images_among_the_training_images_are_counted() -> None:
    data = dataset()
    assert train_test_overlap_note(data.train, data.test) == []
    (note,) = train_test_overlap_note(data.train, data.train.select([0, 1, 2]))
    assert note == "3 of 3 test images are also among the training images"


# --- mean and standard deviation ---


@pytest.mark.parametrize("num_images", [1, 999, 1000, 1001, 2500])
def test_mean_and_std_are_numpys_over_all_pixels_of_all_images(num_images: int) -> None:
    rng = np.random.default_rng(num_images)
    # Every image and every channel has its own range, so that leaving one out changes the result.
    low_NHWC = rng.integers(0, 100, (num_images, 1, 1, 3)) + np.array([0, 40, 90])
    images_NHWC = (low_NHWC + rng.integers(0, 60, (num_images, 32, 32, 3))).astype(np.uint8)
    mean, std = labelled(np.zeros(num_images, np.int64), images_NHWC).mean_std()
    assert mean == pytest.approx((images_NHWC / 255).mean(axis=(0, 1, 2)).tolist(), abs=1e-9)
    assert std == pytest.approx((images_NHWC / 255).std(axis=(0, 1, 2)).tolist(), abs=1e-9)


def test_images_of_one_color_have_a_deviation_that_can_be_divided_by() -> None:
    mean, std = labelled(np.zeros(3, np.int64), np.full((3, 32, 32, 3), (255, 51, 0), np.uint8)).mean_std()
    assert mean == pytest.approx((1.0, 0.2, 0.0))
    assert std == (1e-3,) * 3


# --- selections ---


def labelled(labels_N: "np.ndarray[tuple[int], np.dtype[np.int64]]", images_NHWC: np.ndarray | None = None) -> Split:
    """Images whose files are their numbers, and whose masks have as many pixels."""
    num_images = len(labels_N)
    images_NHWC = np.zeros((num_images, 32, 32, 3), np.uint8) if images_NHWC is None else images_NHWC
    masks_NHW = np.arange(32 * 32).reshape(1, 32, 32) < np.arange(num_images)[:, None, None] % 1024
    return Split(images_NHWC, labels_N, tuple(map(str, range(num_images))), masks_NHW)


def test_a_selection_keeps_image_label_file_and_mask_together_in_the_order_given() -> None:
    images_NHWC = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    selected = labelled(np.array([0, 1, 2, 1, 0]), images_NHWC).select([4, 1])
    assert selected.images_NHWC[:, 0, 0, 0].tolist() == [4, 1]
    assert selected.labels_N.tolist() == [0, 1]
    assert selected.files == ("4", "1")
    assert selected.masks_NHW is not None
    assert selected.masks_NHW.sum(axis=(1, 2)).tolist() == [4, 1]
    assert selected.class_counts(3) == [1, 1, 0]
    assert replace(labelled(np.array([0, 1])), masks_NHW=None).select([1]).masks_NHW is None


def test_limits_take_equally_many_images_of_each_class_in_their_order_and_always_the_same() -> None:
    labels_N = np.repeat(np.arange(4), [50, 40, 3, 7])  # sorted by class, as folders are
    data = replace(dataset(), class_names=tuple("abcd"), train=labelled(labels_N), test=labelled(labels_N[::-1]))
    limited = data.with_limits(40, 12)
    # The class of 3 has no more to give, and that of 7 neither; the others share the rest.
    assert limited.train.class_counts(4) == [15, 15, 3, 7]
    assert limited.test.class_counts(4) == [3, 3, 3, 3]
    assert list(map(int, limited.train.files)) == sorted(map(int, limited.train.files))
    assert limited.train.files == data.with_limits(40, None).train.files
    assert limited.train.files[:15] != tuple(map(str, range(15)))  # a random part of the class, not its first images
    assert data.with_limits(None, 100).train is data.train
    assert data.with_limits(None, 100).test is data.test
    assert len(data.with_limits(99, None).train) == 99


def test_held_out_images_are_balanced_and_none_is_trained_on() -> None:
    split = labelled(np.repeat(np.arange(3), [30, 20, 10]))
    rest, holdout = split_holdout(split, 9)
    assert holdout.class_counts(3) == [3, 3, 3]
    assert sorted((*rest.files, *holdout.files), key=int) == list(split.files)
    assert list(map(int, rest.files)) == sorted(map(int, rest.files))
    assert list(map(int, holdout.files)) == sorted(map(int, holdout.files))
    assert split_holdout(split, 59)[0].files != ()
    for too_many in (60, 61):
        with pytest.raises(UsageError, match=f"fewer than the 60 training images, found {too_many}"):
            split_holdout(split, too_many)
    assert set(holdout.files) != set(replace(dataset(), train=split).with_limits(9, None).train.files)


def test_the_selections_are_the_recorded_ones_so_that_limits_mean_the_same_images_in_every_version() -> None:
    labels_N = np.arange(12) % 3  # recorded on 2026-11-29
    assert balanced_indices(labels_N, 5, "limit").tolist() == [0, 7, 11, 3, 10]
    assert balanced_indices(labels_N, 5, "val").tolist() == [9, 10, 8, 6, 7]
