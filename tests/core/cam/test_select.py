"""Selections of images from an evaluation whose confidences are known."""

import numpy as np
import pytest
import torch

from scsuite.core.cam import check_indices, select_images
from scsuite.core.config import SELECTIONS
from scsuite.core.errors import UsageError
from scsuite.core.evaluation.metrics import Evaluation, compute_metrics


@pytest.fixture
def evaluation() -> Evaluation:
    """Five images: 1 and 3 are misclassified."""
    probabilities_NK = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.55, 0.45]])
    return compute_metrics(probabilities_NK.log(), torch.tensor([0, 1, 1, 0, 0]), ("cat", "dog"))


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("misclassified", [1, 3]),
        ("correct", [0, 2, 4]),
        ("confident", [0, 2, 1, 3, 4]),
        ("uncertain", [4, 3, 1, 2, 0]),
        ("all", [0, 1, 2, 3, 4]),
    ],
)
def test_each_selection_has_its_images_and_its_order(evaluation: Evaluation, select: str, expected: list[int]) -> None:
    assert select_images(evaluation, select, None, 10).tolist() == expected
    assert select_images(evaluation, select, None, 2).tolist() == expected[:2]


def test_every_selection_of_the_configuration_is_known(evaluation: Evaluation) -> None:
    for select in SELECTIONS:
        assert select_images(evaluation, select, None, 1).shape == (1,)


def test_given_indices_keep_their_order(evaluation: Evaluation) -> None:
    indices = select_images(evaluation, "3,0,3", (3, 0, 3), 2)
    assert indices.tolist() == [3, 0]
    assert indices.dtype == np.int64


def test_an_index_beyond_the_last_image_is_a_usage_error() -> None:
    check_indices(None, 5)
    check_indices((0, 4), 5)
    with pytest.raises(UsageError, match="expected indices from 0 to 4, found 5"):
        check_indices((0, 5), 5)
