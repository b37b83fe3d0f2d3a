"""Scores of maps whose scores are known: equal to the mask, constant, zero, and of a linear network."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from scsuite.core.cam import deletion_insertion, pointing, score_faithfulness
from scsuite.core.cam.faithfulness import (
    MAX_SCORED_IMAGES,
    NUM_DELETION_STEPS,
    POINTING_TOLERANCE_PX,
    dilate,
    fill_holes,
)
from scsuite.core.dataset import shapes

NUM_IMAGES = 60


class Sum(nn.Module):
    """Logits (scale times the sum of an 8 x 8 corner, 0), so the logit is linear in the pixels."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        corner_N = self.scale * images_NCHW[:, :, :8, :8].sum(dim=(1, 2, 3))
        return torch.stack([corner_N, torch.zeros_like(corner_N)], dim=1)


def white_images(num_images: int = 3) -> Tensor:
    return torch.ones(num_images, 3, 32, 32)


def corner_maps(num_images: int = 3) -> NDArray[np.float32]:
    """The ideal map: the 64 pixels that the network reads, as many as one deletion step of 32 x 32 pixels."""
    maps_NHW = np.zeros((num_images, 32, 32), np.float32)
    maps_NHW[:, :8, :8] = 1
    return maps_NHW


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_deletion_and_insertion_are_the_areas_under_a_linear_networks_known_curves() -> None:
    # 3 * 64 values at 1/48 each give a logit of 4. The first step deletes or inserts all of them.
    p_all, p_none = sigmoid(4.0), 0.5
    scores = deletion_insertion(Sum(1 / 48), white_images(), [0, 0, 0], corner_maps(), image_ids=[0, 1, 2])
    first = (p_all + p_none) / 2 / NUM_DELETION_STEPS  # the trapezoid of the first step
    np.testing.assert_allclose(
        scores.deletion_N, first + p_none * (NUM_DELETION_STEPS - 1) / NUM_DELETION_STEPS, rtol=1e-5
    )
    np.testing.assert_allclose(
        scores.insertion_N, first + p_all * (NUM_DELETION_STEPS - 1) / NUM_DELETION_STEPS, rtol=1e-5
    )
    assert (scores.deletion_N < scores.random_deletion_N).all()
    assert (scores.insertion_N > scores.random_insertion_N).all()


def test_the_other_class_has_the_complementary_areas() -> None:
    class_0, class_1 = (
        deletion_insertion(Sum(1 / 48), white_images(), [k] * 3, corner_maps(), image_ids=[0, 1, 2]) for k in (0, 1)
    )
    np.testing.assert_allclose(class_0.deletion_N, 1 - class_1.deletion_N, rtol=1e-5)
    np.testing.assert_allclose(class_0.insertion_N, 1 - class_1.insertion_N, rtol=1e-5)


def test_a_random_order_has_half_of_the_area_under_a_linear_curve() -> None:
    # With a small scale the sigmoid is linear: p = 1/2 + logit / 4; the logit is 4e-3 times the remaining fraction.
    scores = deletion_insertion(Sum(1e-3 / 48), white_images(200), [0] * 200, corner_maps(200), image_ids=range(200))
    for area_N in (scores.random_deletion_N, scores.random_insertion_N):
        assert (area_N.mean() - 0.5) / 1e-3 == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_constant_map_has_exactly_the_scores_of_a_random_order(value: float) -> None:
    constant_NHW = np.full((3, 32, 32), value, np.float32)
    scores = deletion_insertion(Sum(1 / 48), white_images(), [0, 1, 0], constant_NHW, image_ids=[5, 6, 7])
    assert (scores.deletion_N == scores.random_deletion_N).all()
    assert (scores.insertion_N == scores.random_insertion_N).all()


def test_the_scores_of_an_image_do_not_depend_on_the_other_images() -> None:
    noise = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps_NHW = np.random.default_rng(0).random((3, 32, 32), np.float32)
    all_scores = deletion_insertion(Sum(0.01), noise, [0, 1, 0], maps_NHW, image_ids=[4, 9, 2])
    single = deletion_insertion(Sum(0.01), noise[1:2], [1], maps_NHW[1:2], image_ids=[9])
    assert single.deletion_N[0] == pytest.approx(all_scores.deletion_N[1], rel=1e-5)
    assert single.random_insertion_N[0] == pytest.approx(all_scores.random_insertion_N[1], rel=1e-5)


def test_scoring_restores_the_mode_and_the_random_state_also_after_an_error() -> None:
    network = Sum(0.01).train()
    before = torch.get_rng_state()
    deletion_insertion(network, white_images(), [0, 0, 0], corner_maps(), image_ids=[0, 1, 2])
    with pytest.raises(RuntimeError):
        deletion_insertion(network, white_images(), [0, 9, 0], corner_maps(), image_ids=[0, 1, 2])
    assert network.training
    assert network.scale.grad is None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="module")
def masks_NHW() -> NDArray[np.bool_]:
    return shapes.generate(NUM_IMAGES, seed=0)[2]


def test_masks_are_filled_and_dilated_as_in_scipy(masks_NHW: NDArray[np.bool_]) -> None:
    radius = POINTING_TOLERANCE_PX
    distance = np.arange(-radius, radius + 1)
    disc = distance[:, None] ** 2 + distance**2 <= radius**2
    expected = [ndimage.binary_fill_holes(mask) for mask in masks_NHW]
    assert (fill_holes(masks_NHW) == expected).all()
    assert (fill_holes(masks_NHW) != masks_NHW).any()
    assert (dilate(masks_NHW, radius) == [ndimage.binary_dilation(mask, disc) for mask in masks_NHW]).all()


def test_a_map_equal_to_the_mask_hits_and_has_all_evidence_on_the_object(masks_NHW: NDArray[np.bool_]) -> None:
    scores = pointing(masks_NHW.astype(np.float32), masks_NHW)
    assert (scores.hit_N == 1).all()
    assert (scores.energy_on_object_N == 1).all()


def test_a_constant_map_points_like_a_random_point_and_has_the_masks_fraction_of_the_area(
    masks_NHW: NDArray[np.bool_],
) -> None:
    scores = pointing(np.full(masks_NHW.shape, 0.2, np.float32), masks_NHW)
    np.testing.assert_allclose(scores.hit_N, scores.random_N, rtol=1e-5)
    np.testing.assert_allclose(scores.energy_on_object_N, masks_NHW.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(scores.energy_on_object_random_N, masks_NHW.mean(axis=(1, 2)), rtol=1e-5)


def test_a_map_of_zeros_misses_and_has_no_evidence_on_the_object(masks_NHW: NDArray[np.bool_]) -> None:
    scores = pointing(np.zeros(masks_NHW.shape, np.float32), masks_NHW)
    assert not scores.hit_N.any()
    assert not scores.energy_on_object_N.any()


@pytest.mark.parametrize(
    ("row", "column", "hit"),
    [
        (10, 10, 1),  # on the mask
        (16, 16, 1),  # in its hole, which is part of the object
        (10, 26, 1),  # 4 pixels to the right of it
        (10, 27, 0),
        (24, 25, 1),  # 2 down and 3 right of its corner: within 4
        (25, 25, 0),  # 3 and 3: 4.24 away
        (0, 0, 0),
    ],
)
def test_a_maximum_within_4_pixels_of_the_filled_mask_is_a_hit(row: int, column: int, hit: int) -> None:
    masks_NHW = np.zeros((1, 32, 32), np.bool_)
    masks_NHW[0, 10:23, 10:23] = True
    masks_NHW[0, 12:21, 12:21] = False
    maps_NHW = np.full((1, 32, 32), 0.5, np.float32)
    maps_NHW[0, row, column] = 1
    scores = pointing(maps_NHW, masks_NHW)
    assert scores.hit_N[0] == hit
    assert scores.centre_N[0] == 1  # the center of the image is in the hole


def test_a_maximum_of_several_pixels_counts_as_the_fraction_of_them_that_hit() -> None:
    masks_NHW = np.zeros((1, 32, 32), np.bool_)
    masks_NHW[0, 0, 0] = True
    maps_NHW = np.zeros((1, 32, 32), np.float32)
    maps_NHW[0, 0, :10] = 1  # columns 0 to 4 are within 4 pixels
    assert pointing(maps_NHW, masks_NHW).hit_N[0] == pytest.approx(0.5)


def test_faithfulness_is_the_mean_over_images_and_deletion_is_limited_to_the_first_ones(
    masks_NHW: NDArray[np.bool_],
) -> None:
    num_images = MAX_SCORED_IMAGES + 2
    maps_NHW, masks_NHW = corner_maps(num_images), np.resize(masks_NHW, (num_images, 32, 32))
    maps_NHW[-1] = 0
    classes, image_ids = [0] * num_images, range(num_images)
    network, images_NCHW = Sum(1 / 48), white_images(num_images)
    scores = score_faithfulness(network, images_NCHW, classes, maps_NHW, image_ids=image_ids, masks_NHW=masks_NHW)
    assert (scores.num_images, scores.num_no_evidence, scores.num_scored) == (num_images, 1, MAX_SCORED_IMAGES)
    first = slice(MAX_SCORED_IMAGES)
    curves = deletion_insertion(network, images_NCHW[first], classes[first], maps_NHW[first], image_ids[first])
    assert scores.deletion == pytest.approx(curves.deletion_N.mean())
    assert scores.insertion_random == pytest.approx(curves.random_insertion_N.mean())
    on_object = pointing(maps_NHW, masks_NHW)
    assert scores.pointing == pytest.approx(on_object.hit_N.mean())
    assert scores.energy_on_object == pytest.approx(on_object.energy_on_object_N.mean())
    assert scores.energy_on_object_random == pytest.approx(masks_NHW.mean())


def test_scores_without_images_or_masks_are_none() -> None:
    scores = score_faithfulness(Sum(1.0), white_images(0), [], corner_maps(0), image_ids=[])
    assert (scores.num_images, scores.deletion, scores.pointing) == (0, None, None)
    scores = score_faithfulness(Sum(1.0), white_images(), [0] * 3, corner_maps(), image_ids=range(3))
    assert scores.deletion is not None
    assert scores.energy_on_object is None
