"""Shapes: masks are exact, only the outline tells the class, and every image can be drawn again.

Shapes: N images, H x W = 32 x 32, C = 3 (RGB), K classes.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scsuite.core.dataset import shapes
from scsuite.core.dataset.shape_outlines import OUTLINES, Outline

Bools = NDArray[np.bool_]
Generated = tuple[NDArray[np.uint8], NDArray[np.int64], Bools]


@pytest.fixture(scope="module")
def generated() -> Generated:
    """1,500 images; a fixture, since drawing them takes seconds."""
    return shapes.generate(1500, seed=0)


def _shifted(masks_NHW: Bools, down: int, right: int) -> Bools:
    """Masks moved by up to 4 pixels and padded with False."""
    padded = np.pad(masks_NHW, ((0, 0), (4, 4), (4, 4)))
    height, width = masks_NHW.shape[1:]
    return padded[:, 4 - down : 4 - down + height, 4 - right : 4 - right + width]


def _filled(masks_NHW: Bools) -> Bools:
    """Masks with filled holes: pixels that a walk from outside the image, over the four neighbors, cannot reach."""
    open_NHW = ~np.pad(masks_NHW, ((0, 0), (1, 1), (1, 1)))
    reached = np.zeros_like(open_NHW)
    reached[:, 0] = True
    while True:
        steps = [_shifted(reached, *step) for step in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        further = np.logical_or.reduce([reached, *steps]) & open_NHW
        if (further == reached).all():
            return np.asarray(~reached[:, 1:-1, 1:-1])
        reached = further


def _grown(masks_NHW: Bools, radius: int) -> Bools:
    reach = range(-radius, radius + 1)
    near = [_shifted(masks_NHW, i, j) for i in reach for j in reach if i * i + j * j <= radius * radius]
    return np.asarray(np.logical_or.reduce(near))


def _ridge_accuracy(features_NF: NDArray[Any], labels_N: NDArray[np.int64]) -> float:
    """Accuracy of a linear classifier, fitted in closed form to the first 4 in 5 and tested on the rest."""
    num_train = len(labels_N) * 4 // 5
    features = np.asarray(features_NF, np.float64) / 255
    features -= features[:num_train].mean(axis=0)
    targets = np.eye(len(shapes.CLASS_NAMES))[labels_N[:num_train]] - 1 / len(shapes.CLASS_NAMES)
    gram = features @ features[:num_train].T
    weights = np.linalg.solve(gram[:num_train] + 100 * np.eye(num_train), targets)
    scores = gram[num_train:] @ weights
    return float((scores.argmax(axis=1) == labels_N[num_train:]).mean())


def test_images_labels_and_masks_have_the_documented_types(generated: Generated) -> None:
    images_NHWC, labels_N, masks_NHW = generated
    assert images_NHWC.shape == (1500, 32, 32, 3)
    assert images_NHWC.dtype == np.uint8
    assert labels_N.shape == (1500,)
    assert labels_N.dtype == np.int64
    assert masks_NHW.shape == (1500, 32, 32)
    assert masks_NHW.dtype == np.bool_
    assert len(set(shapes.CLASS_NAMES)) == 10
    assert (shapes.NUM_TRAIN, shapes.NUM_TEST) == (10_000, 2_000)


def test_version_1_draws_the_images_that_it_always_drew() -> None:
    # Cached copies and published accuracies belong to a version: raise it and change these numbers together. Processors
    # differ in the last bit of a sine, so the images are compared by their means.
    images_NHWC, labels_N, masks_NHW = shapes.generate(10, seed=0)
    assert shapes.VERSION == 1
    assert labels_N.tolist() == [6, 8, 3, 0, 7, 5, 1, 4, 9, 2]
    assert masks_NHW.sum(axis=(1, 2)) == pytest.approx([243, 88, 85, 115, 100, 89, 85, 192, 233, 105], abs=2)
    assert images_NHWC.mean(axis=(1, 2, 3)) == pytest.approx(
        [162.1, 131.2, 93.1, 120.7, 129.8, 140.6, 166.1, 137.1, 144.5, 107.9], abs=0.5
    )


def test_no_images_are_drawn_for_a_count_of_zero() -> None:
    assert [len(array) for array in shapes.generate(0, seed=0)] == [0, 0, 0]


def test_the_same_seed_draws_the_same_images_and_another_seed_others() -> None:
    first, again, other = shapes.generate(20, seed=7), shapes.generate(20, seed=7), shapes.generate(20, seed=8)
    for k in range(3):
        assert np.array_equal(first[k], again[k])
    assert not any((first[0] == image).all(axis=(1, 2, 3)).any() for image in other[0])


def test_the_first_images_do_not_depend_on_how_many_are_drawn(generated: Generated) -> None:
    few = shapes.generate(130, seed=0)
    for k in range(3):
        assert np.array_equal(few[k], generated[k][:130])


def test_no_image_is_drawn_twice(generated: Generated) -> None:
    assert len({image.tobytes() for image in generated[0]}) == len(generated[0])


def test_the_first_images_are_balanced_to_one_image(generated: Generated) -> None:
    for num_images in (10, 15, 101, 1500):
        counts = np.bincount(generated[1][:num_images], minlength=10)
        assert counts.max() - counts.min() <= 1


def test_every_mask_covers_8_to_25_percent_of_the_image(generated: Generated) -> None:
    area_N = generated[2].sum(axis=(1, 2))
    assert area_N.min() >= 0.08 * 1024
    assert area_N.max() <= 0.25 * 1024
    assert area_N.max() - area_N.min() > 140  # both bounds are used


def test_every_class_has_small_and_large_masks(generated: Generated) -> None:
    _, labels_N, masks_NHW = generated
    area_N = masks_NHW.sum(axis=(1, 2))
    for label in range(10):
        assert np.percentile(area_N[labels_N == label], 10) < 95
        assert np.percentile(area_N[labels_N == label], 95) > 150


def test_shapes_are_everywhere_in_the_image_and_across_its_borders(generated: Generated) -> None:
    _, labels_N, masks_NHW = generated
    area_N = masks_NHW.sum(axis=(1, 2))
    pixels = np.arange(32) + 0.5
    x_N, y_N = (masks_NHW.sum(axis=1) @ pixels / area_N, masks_NHW.sum(axis=2) @ pixels / area_N)
    fraction_4x4 = np.histogram2d(x_N, y_N, bins=4, range=((0, 32), (0, 32)))[0] / len(area_N)
    assert fraction_4x4.min() > 0.03  # 1/16 = 0.0625 would be uniform
    assert fraction_4x4[1:3, 1:3].sum() < 0.32
    cut_N = masks_NHW[:, [0, -1]].any(axis=(1, 2)) | masks_NHW[:, :, [0, -1]].any(axis=(1, 2))
    assert 0.5 < cut_N.mean() < 0.85
    for label in range(10):  # the position does not tell the class
        assert abs(x_N[labels_N == label].mean() - 16) < 2
        assert abs(y_N[labels_N == label].mean() - 16) < 2


def test_the_color_inside_a_mask_differs_from_the_color_around_it(generated: Generated) -> None:
    # Independent of how a shape is drawn: the comparison is the same mask elsewhere on the same image.
    images_NHWC, _, masks_NHW = generated
    images = images_NHWC / 255

    def contrast_and_spread(masks: Bools) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Distance between the mean colors in and around each mask; root mean square spread of color within it."""
        border = _grown(masks, 3) & ~_grown(masks, 1)
        inside, around = (m[..., None] / m.sum(axis=(1, 2))[:, None, None, None] for m in (masks, border))
        mean = (images * inside).sum(axis=(1, 2))
        spread = (((images - mean[:, None, None]) ** 2) * inside).sum(axis=(1, 2, 3)) ** 0.5
        return np.linalg.norm(mean - (images * around).sum(axis=(1, 2)), axis=1), spread

    contrast_N, spread_N = contrast_and_spread(masks_NHW)
    assert (contrast_N > 2 * spread_N).mean() > 0.9
    assert (contrast_N > 0.3).mean() > 0.97  # of a cube with sides of 1: clearly visible
    contrast_N, spread_N = contrast_and_spread(masks_NHW[:, ::-1, ::-1])
    assert (contrast_N > 2 * spread_N).mean() < 0.2


def test_only_rings_have_holes(generated: Generated) -> None:
    _, labels_N, masks_NHW = generated
    holes_N = (_filled(masks_NHW) & ~masks_NHW).sum(axis=(1, 2))
    ring = shapes.CLASS_NAMES.index("ring")
    assert (holes_N[labels_N == ring] > 5).mean() > 0.4  # a ring that the border cuts is open
    assert (holes_N[labels_N != ring] > 2).mean() < 0.01


def test_the_middle_of_the_image_is_a_poor_guess_at_the_shapes_position(generated: Generated) -> None:
    # The pointing game of the Grad-CAM tests: a point within 4 pixels of the filled mask is a hit.
    near_NHW = _grown(_filled(generated[2]), 4)
    assert near_NHW[:, 15:17, 15:17].mean() < 0.38  # the issue allows 0.40
    assert near_NHW.mean() < 0.32  # a point drawn at random


def test_a_linear_classifier_on_the_pixels_learns_almost_nothing(generated: Generated) -> None:
    images_NHWC, labels_N, _ = generated
    assert _ridge_accuracy(images_NHWC.reshape(len(labels_N), -1), labels_N) < 0.25  # chance is 0.1; 0.6 is allowed


def test_the_colors_of_shape_and_clutter_do_not_tell_the_class(generated: Generated) -> None:
    images_NHWC, labels_N, masks_NHW = generated
    weights = np.stack([masks_NHW / masks_NHW.mean(axis=(1, 2), keepdims=True), np.ones_like(masks_NHW)], axis=1)
    colors_NF = np.einsum("nkij,nijc->nkc", weights, images_NHWC / 1024).reshape(len(labels_N), -1)
    assert _ridge_accuracy(colors_NF, labels_N) < 0.2  # chance is 0.1


def _silhouettes(outline: Outline, angles: NDArray[np.float64]) -> Bools:
    """A class at each angle, about its center of mass and of one area, on a fine grid; NHW."""
    grid = np.linspace(-2, 2, 128, dtype=np.float32)
    x, y, variant = grid[None, None, :], grid[None, :, None], np.full((1, 1, 1), 0.5, np.float32)
    inside = outline(x + 0 * y, y + 0 * x, variant) <= 0
    middle = (inside * x).sum() / inside.sum()  # on the x axis, about which it is symmetric
    scale = np.sqrt(inside.mean() * 16 / 1.5)  # every class covers 1.5 of the grid's 16 square units
    cos, sin = (f(angles).astype(np.float32)[:, None, None] * scale for f in (np.cos, np.sin))
    return np.asarray(outline(cos * x + sin * y + middle, cos * y - sin * x, variant) <= 0)


def test_every_class_is_its_own_mirror_image() -> None:
    grid = np.linspace(-1.5, 1.5, 61, dtype=np.float32)
    for variant in (0.0, 0.5, 1.0):
        variants = np.full((1, 1, 1), variant, np.float32)
        x, y = np.broadcast_arrays(grid[None, None, :], grid[None, :, None])
        for name, outline in OUTLINES.items():
            assert np.allclose(outline(x, y, variants), outline(x, -y, variants), atol=1e-5), name


def test_no_class_at_any_angle_looks_like_another() -> None:
    angles = np.arange(0, 360, 6) * np.pi / 180
    silhouettes_by_class = {name: _silhouettes(outline, angles) for name, outline in OUTLINES.items()}
    for name, silhouettes in silhouettes_by_class.items():
        for other in set(silhouettes_by_class) - {name}:
            overlap = (silhouettes_by_class[other] & silhouettes[0]).sum(axis=(1, 2)) / (
                silhouettes_by_class[other] | silhouettes[0]
            ).sum(axis=(1, 2))
            assert overlap.max() < 0.87, (name, other)
