"""Trust scores of maps whose scores are known: those equal to the mask, flat, empty, and of a linear network."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from scsuite.core.cam import erasure, pointing
from scsuite.core.cam.faithfulness import REACH, STEPS, filled, grown
from scsuite.core.dataset import shapes

NUM = 60


class Sum(nn.Module):
    """Logits (scale times the sum of an 8 x 8 corner, 0): the probability of class 0 is that of a linear network."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        corner_N = self.scale * images_NCHW[:, :, :8, :8].sum(dim=(1, 2, 3))
        return torch.stack([corner_N, torch.zeros_like(corner_N)], dim=1)


def white(num_images: int = 3) -> Tensor:
    return torch.ones(num_images, 3, 32, 32)


def corner(num_images: int = 3) -> NDArray[np.float32]:
    """The map that knows: the 64 pixels that the network reads, one STEP's worth of 32 x 32."""
    maps_NHW = np.zeros((num_images, 32, 32), np.float32)
    maps_NHW[:, :8, :8] = 1
    return maps_NHW


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_deletion_and_insertion_are_the_areas_under_a_linear_networks_known_curves() -> None:
    # Of 3 * 64 values at 1/48 each the logit is 4. The first step takes all of them, or brings all of them.
    with_all, with_none = sigmoid(4.0), 0.5
    scores = erasure(Sum(1 / 48), white(), [0, 0, 0], corner(), keys=[0, 1, 2])
    first = (with_all + with_none) / 2 / STEPS  # the trapezoid of the first step
    np.testing.assert_allclose(scores.deletion_N, first + with_none * (STEPS - 1) / STEPS, rtol=1e-5)
    np.testing.assert_allclose(scores.insertion_N, first + with_all * (STEPS - 1) / STEPS, rtol=1e-5)
    assert (scores.deletion_N < scores.random_deletion_N).all()
    assert (scores.insertion_N > scores.random_insertion_N).all()


def test_the_class_that_the_evidence_speaks_against_has_the_complements() -> None:
    of_0, of_1 = (erasure(Sum(1 / 48), white(), [k] * 3, corner(), keys=[0, 1, 2]) for k in (0, 1))
    np.testing.assert_allclose(of_0.deletion_N, 1 - of_1.deletion_N, rtol=1e-5)
    np.testing.assert_allclose(of_0.insertion_N, 1 - of_1.insertion_N, rtol=1e-5)


def test_on_a_straight_line_a_random_order_has_half_of_the_area() -> None:
    # A tiny scale keeps the sigmoid straight: p = 1/2 + logit / 4, the logit 4e-3 times the share of the corner left.
    scores = erasure(Sum(1e-3 / 48), white(200), [0] * 200, corner(200), keys=range(200))
    for area_N in (scores.random_deletion_N, scores.random_insertion_N):
        assert (area_N.mean() - 0.5) / 1e-3 == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_an_empty_or_flat_map_scores_exactly_what_a_random_one_does(value: float) -> None:
    flat_NHW = np.full((3, 32, 32), value, np.float32)
    scores = erasure(Sum(1 / 48), white(), [0, 1, 0], flat_NHW, keys=[5, 6, 7])
    assert (scores.deletion_N == scores.random_deletion_N).all()
    assert (scores.insertion_N == scores.random_insertion_N).all()


def test_an_images_scores_do_not_depend_on_the_images_beside_it() -> None:
    noise = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps_NHW = np.random.default_rng(0).random((3, 32, 32), np.float32)
    together = erasure(Sum(0.01), noise, [0, 1, 0], maps_NHW, keys=[4, 9, 2])
    alone = erasure(Sum(0.01), noise[1:2], [1], maps_NHW[1:2], keys=[9])
    assert alone.deletion_N[0] == pytest.approx(together.deletion_N[1], rel=1e-5)
    assert alone.random_insertion_N[0] == pytest.approx(together.random_insertion_N[1], rel=1e-5)


def test_scoring_gives_the_mode_and_the_random_state_back_also_after_an_error() -> None:
    network = Sum(0.01).train()
    before = torch.get_rng_state()
    erasure(network, white(), [0, 0, 0], corner(), keys=[0, 1, 2])
    with pytest.raises(RuntimeError):
        erasure(network, white(), [0, 9, 0], corner(), keys=[0, 1, 2])
    assert network.training
    assert network.scale.grad is None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="module")
def masks_NHW() -> NDArray[np.bool_]:
    return shapes.generate(NUM, seed=0)[2]


def test_masks_are_filled_and_grown_as_scipy_does_it(masks_NHW: NDArray[np.bool_]) -> None:
    away = np.arange(-REACH, REACH + 1)
    disc = away[:, None] ** 2 + away**2 <= REACH**2
    expected = [ndimage.binary_fill_holes(mask) for mask in masks_NHW]
    assert (filled(masks_NHW) == expected).all()
    assert (filled(masks_NHW) != masks_NHW).any()
    assert (grown(masks_NHW, REACH) == [ndimage.binary_dilation(mask, disc) for mask in masks_NHW]).all()


def test_a_map_equal_to_the_mask_hits_and_has_all_evidence_inside(masks_NHW: NDArray[np.bool_]) -> None:
    scores = pointing(masks_NHW.astype(np.float32), masks_NHW)
    assert (scores.hit_N == 1).all()
    assert (scores.inside_N == 1).all()


def test_a_flat_map_points_like_a_random_point_and_has_the_masks_share_of_area(masks_NHW: NDArray[np.bool_]) -> None:
    scores = pointing(np.full(masks_NHW.shape, 0.2, np.float32), masks_NHW)
    np.testing.assert_allclose(scores.hit_N, scores.random_N, rtol=1e-5)
    np.testing.assert_allclose(scores.inside_N, masks_NHW.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(scores.area_N, masks_NHW.mean(axis=(1, 2)), rtol=1e-5)


def test_an_empty_map_misses_and_has_no_evidence_inside(masks_NHW: NDArray[np.bool_]) -> None:
    scores = pointing(np.zeros(masks_NHW.shape, np.float32), masks_NHW)
    assert not scores.hit_N.any()
    assert not scores.inside_N.any()


@pytest.mark.parametrize(
    ("row", "column", "hit"),
    [
        (10, 10, 1),  # on the mask
        (16, 16, 1),  # in its hole, which counts as the mask
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
    assert scores.centre_N[0] == 1  # the middle of the picture lies in the hole


def test_a_maximum_that_pixels_share_counts_by_the_share_of_them_that_hit() -> None:
    masks_NHW = np.zeros((1, 32, 32), np.bool_)
    masks_NHW[0, 0, 0] = True
    maps_NHW = np.zeros((1, 32, 32), np.float32)
    maps_NHW[0, 0, :10] = 1  # columns 0 to 4 lie within 4 pixels
    assert pointing(maps_NHW, masks_NHW).hit_N[0] == pytest.approx(0.5)
