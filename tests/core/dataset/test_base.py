"""The labels of a network on data of another order or of a part of its classes."""

import numpy as np
import pytest

from scsuite.core.errors import InputError
from tests.core.tiny import dataset

NAMES = ("owl", "class 2", "class 0", "yak", "class 1")


def test_classes_are_matched_by_name_whatever_their_order_and_however_many_more_the_network_has() -> None:
    data = dataset()
    ours = data.relabelled(NAMES, "here")
    assert ours.class_names == NAMES
    for before, after in ((data.train, ours.train), (data.test, ours.test)):
        assert [NAMES[k] for k in after.labels_N] == [data.class_names[k] for k in before.labels_N]
        assert after.files == before.files
        assert np.shares_memory(after.images_NHWC, before.images_NHWC)  # 60,000 images are not copied for their names


def test_a_class_that_the_network_does_not_have_is_refused_with_the_one_it_may_be() -> None:
    with pytest.raises(InputError) as caught:
        dataset().relabelled(("class 0", "class 1", "clas 2"), "here")
    assert str(caught.value) == (
        "classes: here: expected none but the network's (class 0, class 1, clas 2), found class 2. "
        "Is class 2 meant to be clas 2?"
    )


def test_a_hundred_classes_make_a_line_that_can_be_read() -> None:
    with pytest.raises(InputError) as caught:
        dataset(num_classes=100).relabelled(tuple(f"{k}" for k in range(100)), "here")
    assert str(caught.value).count("and 88 more") == 2
    assert "class 0, class 1, " in str(caught.value)
