"""Where generated shapes lie: position, angle, scale and proportions, within bounds on the area that is visible.

In: a random generator and the class of each shape. Out: a `Pose`, and the signed distance of each pixel to its outline.

Shapes: N images, H x W = 32 x 32. Pixel (row i, column j) has its center at (x, y) = (j + 0.5, i + 0.5).
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset.shape_outlines import OUTLINES, Floats
from scsuite.core.dataset.split import SIZE

AREA_MIN, AREA_MAX = 82, 256  # pixels of a mask: 8 and 25 % of 32 x 32
MIN_VISIBLE_FRACTION = 0.55  # of a shape: below it a person can no longer distinguish the classes
SIZE_EXPONENT = 4.0  # on a uniform draw of the area; 1 is uniform
CENTER_EXPONENT = 0.7  # on a center's distance from the middle of the image; 1 is uniform


@dataclass(frozen=True)
class Pose:
    """Class, center and scale in pixels, angle in radians, aspect (x over y) and variant in [0, 1] of N shapes."""

    class_N: NDArray[np.int64]
    center_N2: Floats
    angle_N: Floats
    aspect_N: Floats
    variant_N: Floats
    scale_N: Floats

    def distance_NHW(self) -> Floats:
        """Return the signed distance in pixels from each pixel's center to the outline, negative inside."""
        along, across = rotated_coordinates(self.center_N2, self.angle_N)
        scale, root = self.scale_N[:, None, None], np.sqrt(self.aspect_N)[:, None, None]
        along /= scale * root
        across *= root / scale
        distance = np.empty_like(along)
        for label, outline in enumerate(OUTLINES.values()):
            indices = np.flatnonzero(self.class_N == label)
            distance[indices] = outline(along[indices], across[indices], self.variant_N[indices, None, None])
        distance *= scale
        return distance

    def area_N(self) -> NDArray[np.int64]:
        """Return how many pixels of the image each shape covers."""
        area_N: NDArray[np.int64] = np.count_nonzero(self.distance_NHW() <= 0, axis=(1, 2))
        return area_N

    def replaced(self, indices: NDArray[np.int64], other: "Pose") -> "Pose":
        """Return these poses with the other ones at these indices."""
        arrays = {item.name: getattr(self, item.name).copy() for item in fields(self)}
        for name, array in arrays.items():
            array[indices] = getattr(other, name)
        return Pose(**arrays)


def rotated_coordinates(center_N2: Floats, angle_N: Floats) -> tuple[Floats, Floats]:
    """Return each pixel's position, in pixels, along and across a direction through a center; two NHW."""
    pixels = np.arange(SIZE, dtype=np.float32) + 0.5
    x, y = pixels - center_N2[:, :1], pixels - center_N2[:, 1:]
    cos, sin = np.cos(angle_N)[:, None], np.sin(angle_N)[:, None]
    return (cos * x)[:, None, :] + (sin * y)[:, :, None], (cos * y)[:, :, None] - (sin * x)[:, None, :]


def uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Floats:
    """Draw float32 numbers in [low, high)."""
    return low + (high - low) * rng.random(shape, np.float32)


def draw_pose(rng: np.random.Generator, class_N: NDArray[np.int64]) -> Pose:
    """Draw a pose per image with a visible area in [AREA_MIN, AREA_MAX] and MIN_VISIBLE_FRACTION of its shape."""
    pose = _draw_with_area(rng, class_N)
    while len(invalid := np.flatnonzero(~_is_valid(pose))):
        pose = pose.replaced(invalid, _draw_with_area(rng, class_N[invalid]))
    return pose


def draw_any_pose(rng: np.random.Generator, class_N: NDArray[np.int64], scale_low: float, scale_high: float) -> Pose:
    """Draw a pose anywhere in the image, at any angle."""
    n = len(class_N)
    # More centers are drawn near the borders, because there more shapes are rejected and drawn again. Otherwise the
    # centers would crowd in the middle, and the middle would be a good guess at the shape's position.
    off_middle_N2 = uniform(rng, -1, 1, n, 2)
    return Pose(
        class_N=class_N,
        center_N2=SIZE / 2 * (1 + np.sign(off_middle_N2) * np.abs(off_middle_N2) ** CENTER_EXPONENT),
        angle_N=uniform(rng, 0, 2 * np.pi, n),
        aspect_N=np.exp(uniform(rng, -0.15, 0.15, n)),
        variant_N=uniform(rng, 0, 1, n),
        scale_N=uniform(rng, scale_low, scale_high, n),
    )


def _draw_with_area(rng: np.random.Generator, class_N: NDArray[np.int64]) -> Pose:
    """Draw a pose and a target area, and adjust the scale to the area, which grows as scale squared.

    Small areas are drawn more often: a large shape covers the middle of the image wherever its center is. A hollow
    shape at the border may miss its target, since its hole grows too, so the caller checks the result.
    """
    pose = draw_any_pose(rng, class_N, 7, 7)
    target_N = AREA_MIN + 3 + (AREA_MAX - AREA_MIN - 10) * uniform(rng, 0, 1, len(class_N)) ** SIZE_EXPONENT
    for _ in range(4):  # then nine in ten are within 3 pixels of the target
        growth_N = np.sqrt(target_N / np.maximum(pose.area_N(), 1))
        pose = replace(pose, scale_N=np.clip(pose.scale_N * growth_N, 3, 19).astype(np.float32))
    return pose


def _is_valid(pose: Pose) -> NDArray[np.bool_]:
    """Return which poses are within the bounds on a mask's area and show enough of their shape."""
    area_N = pose.area_N()
    # In the middle of the image the largest shape loses no more than its tips.
    full_area_N = replace(pose, center_N2=np.full_like(pose.center_N2, SIZE / 2)).area_N()
    is_valid_N: NDArray[np.bool_] = (
        (area_N >= AREA_MIN) & (area_N <= AREA_MAX) & (area_N >= MIN_VISIBLE_FRACTION * full_area_N)
    )
    return is_valid_N
