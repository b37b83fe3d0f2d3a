"""The labels of a network on data with its classes in another order, or with some of them."""

from dataclasses import replace

import numpy as np
import pytest

from scsuite.core.errors import InputError
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
