"""The transforms of an albumentations policy as operations on whole batches, on any device.

In: uint8 images_NHWC, their indices, a seed, an epoch. Out: float32 images_NCHW, channels last in memory, normalised.

The default policy runs through the classes below in their order:

    Pad            4 pixels, reflect-101    40 x 40    index map
    Crop           random                   32 x 32    index map
    Flip           p 0.5, horizontal        32 x 32    index map (absent if the loader alternates the flips)
    CoarseDropout  one 8 x 8 hole           32 x 32    mask
    PixelMap.render                         32 x 32    one gather for all of the above
    BatchedPolicy._normalise                32 x 32    (pixels - 255 mean) / (255 std)

With the same parameters, a batched transform gives the pixels of albumentations, within one gray level where it
interpolates, and it samples parameters from the same distributions. tests/core/augment/test_transforms.py compares both
with albumentations 2.0.8.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsuite.core.augment.draws import arange, library, make_rng
from scsuite.core.augment.pixel_map import CONSTANT, OUTSIDE_INDEX, Color, PixelMap, border_index, to_device
from scsuite.core.seeding import CounterRng

# One row per image, named as in albumentations: arrays, or tensors if they were drawn on the device.
TransformParams = Mapping[str, Any]
Shape = tuple[int, int]  # height, width
GRAY_WEIGHTS = (9798, 19235, 3735)  # OpenCV's 0.299, 0.587, 0.114, in units of 2^-15


class BatchTransform(Protocol):
    """One transform of the policy: samples random parameters, then applies them."""

    @property
    def draws_integers(self) -> bool:
        """Whether it draws no real numbers, so that it can draw on a device."""

    def sample(self, rng: CounterRng, shape: Shape) -> TransformParams:
        """Sample parameters for images of this shape, from the distributions that albumentations uses."""

    def apply(self, pixel_map: PixelMap, params: TransformParams) -> None:
        """Do what albumentations does to an image with these parameters."""


class BatchedPolicy:
    """A compiled policy: transforms of uint8 batches, then normalisation to (pixels - mean_3) * scale_3."""

    def __init__(
        self, transforms: tuple[BatchTransform, ...], mean_3: NDArray[np.float32], scale_3: NDArray[np.float32]
    ) -> None:
        self.transforms, self._mean_3, self._scale_3 = transforms, mean_3, scale_3

    @property
    def draws_integers(self) -> bool:
        """Whether the policy can draw on a device."""
        return all(transform.draws_integers for transform in self.transforms)

    def __call__(self, images_NHWC: Tensor, indices_N: NDArray[np.int64] | Tensor, *, seed: int, epoch: int) -> Tensor:
        """Augment and normalise images for one epoch. Each result depends on its image, index, seed and epoch only.

        With `indices_N` on the device, the random numbers are drawn there; they are the same.
        """
        rng, pixel_map = make_rng(seed, epoch, indices_N), PixelMap(images_NHWC)
        for transform in self.transforms:
            transform.apply(pixel_map, transform.sample(rng, pixel_map.shape[1:]))
        return self._normalise(pixel_map.render())

    def _normalise(self, images_NHWC: Tensor) -> Tensor:
        # Works on rows of width x channels: a longer last axis is faster on the CPU.
        mean, scale = (
            to_device(np.tile(values, images_NHWC.shape[2]), images_NHWC.device)
            for values in (self._mean_3, self._scale_3)
        )
        rows = images_NHWC.flatten(2).float().sub_(mean).mul_(scale)
        return rows.view(images_NHWC.shape).permute(0, 3, 1, 2)


# --- geometry without interpolation ---


@dataclass(frozen=True)
class Pad:
    """Add pixels around the images; with `is_random`, each image gets a random part of them on either side."""

    draws_integers: ClassVar[bool] = True
    padding: tuple[int, int, int, int]  # top, bottom, left, right
    border_mode: int
    color: Color
    is_random: bool = False

    def sample(self, rng: CounterRng, _shape: Shape) -> TransformParams:
        """Sample the number of pixels on each side."""
        top, bottom, left, right = self.padding
        tops_N, lefts_N = rng.integers(0, top + bottom), rng.integers(0, left + right)
        if not self.is_random:
            full_like = library(tops_N).full_like
            tops_N, lefts_N = full_like(tops_N, top), full_like(lefts_N, left)
        bottoms_N, rights_N = top + bottom - tops_N, left + right - lefts_N
        return {"pad_top": tops_N, "pad_bottom": bottoms_N, "pad_left": lefts_N, "pad_right": rights_N}

    def apply(self, pixel_map: PixelMap, params: TransformParams) -> None:
        """Pad as cv2.copyMakeBorder does."""
        _, height, width = pixel_map.shape
        top, bottom, left, right = self.padding
        pixel_map.remap(
            self._indices(params["pad_top"], height, height + top + bottom),
            self._indices(params["pad_left"], width, width + left + right),
            self.color if self.border_mode == CONSTANT else None,
        )

    def _indices(self, offsets_N: Any, size: int, new_size: int) -> Any:
        positions = arange(new_size, offsets_N) - offsets_N[:, None]
        indices = border_index(positions, size, self.border_mode)
        if self.border_mode != CONSTANT:
            return indices
        return library(indices).where(indices == positions, indices, OUTSIDE_INDEX)


@dataclass(frozen=True)
class Crop:
    """Cut a rectangle out of the images, from the center or from a random position."""

    draws_integers: ClassVar[bool] = True
    size: Shape
    is_random: bool

    def sample(self, rng: CounterRng, shape: Shape) -> TransformParams:
        """Sample crop_coords: x_min, y_min, x_max, y_max, with exclusive ends."""
        height, width = self.size
        max_y, max_x = shape[0] - height, shape[1] - width
        y_N, x_N = rng.integers(0, max_y), rng.integers(0, max_x)
        if not self.is_random:
            full_like = library(y_N).full_like
            y_N, x_N = full_like(y_N, max_y // 2), full_like(x_N, max_x // 2)
        return {"crop_coords": library(y_N).stack([x_N, y_N, x_N + width, y_N + height], axis=1)}

    def apply(self, pixel_map: PixelMap, params: TransformParams) -> None:
        """Crop the images."""
        x_N, y_N = params["crop_coords"][:, 0], params["crop_coords"][:, 1]
        height, width = self.size
        pixel_map.remap(y_N[:, None] + arange(height, y_N), x_N[:, None] + arange(width, x_N))


@dataclass(frozen=True)
class Flip:
    """Mirror images with probability p: left to right, or upside down."""

    draws_integers: ClassVar[bool] = True
    p: float
    is_vertical: bool

    def sample(self, rng: CounterRng, _shape: Shape) -> TransformParams:
        """Sample which images are flipped."""
        return {"is_applied": rng.bernoulli(self.p)}

    def apply(self, pixel_map: PixelMap, params: TransformParams) -> None:
        """Flip the sampled images."""
        size, is_applied_N1 = pixel_map.shape[1 if self.is_vertical else 2], params["is_applied"][:, None]
        positions = arange(size, is_applied_N1)
        indices = library(is_applied_N1).where(is_applied_N1, size - 1 - positions, positions)
        pixel_map.remap(indices) if self.is_vertical else pixel_map.remap(None, indices)


@dataclass(frozen=True)
class CoarseDropout:
    """Fill rectangles with one color. Their sizes are pixels if the height's upper end is 1 or more, else fractions."""

    p: float
    num_holes: tuple[int, int]
    heights: tuple[float, float]
    widths: tuple[float, float]
    color: Color

    @property
    def draws_integers(self) -> bool:
        """Whether the sizes are pixels."""
        return self.heights[1] >= 1

    def sample(self, rng: CounterRng, shape: Shape) -> TransformParams:
        """Sample holes (x_min, y_min, x_max, y_max) inside the image; unused rows of an image are empty holes."""
        max_holes = self.num_holes[1]
        is_applied_N, num_holes_N = rng.bernoulli(self.p), rng.integers(*self.num_holes)
        edges = []
        for size, value_range in zip(shape, (self.heights, self.widths), strict=True):
            if self.draws_integers:
                lengths_NK = rng.integers(int(value_range[0]), int(min(value_range[1], size) + 1) - 1, max_holes)
            else:
                lengths_NK = (size * rng.uniform(*value_range, max_holes)).astype(np.int64)
            starts_NK = rng.integers(0, size - lengths_NK, max_holes)
            edges.append((starts_NK, starts_NK + lengths_NK))
        (y_min, y_max), (x_min, x_max) = edges
        holes_NK4 = library(x_min).stack([x_min, y_min, x_max, y_max], axis=2)
        is_hole_NK = (arange(max_holes, num_holes_N) < num_holes_N[:, None]) & is_applied_N[:, None]
        return {"holes": holes_NK4 * is_hole_NK[:, :, None]}

    def apply(self, pixel_map: PixelMap, params: TransformParams) -> None:
        """Fill the holes."""
        pixel_map.fill(params["holes"], self.color)


# --- colors ---


@dataclass(frozen=True)
class ToGray:
    """Replace the three channels by one gray value, with probability p."""

    draws_integers: ClassVar[bool] = True
    p: float
    method: str

    def sample(self, rng: CounterRng, _shape: Shape) -> TransformParams:
        """Sample which images become gray."""
        return {"is_applied": rng.bernoulli(self.p)}

    def apply(self, pixel_map: PixelMap, params: TransformParams) -> None:
        """Convert the sampled images."""
        images_NHWC = pixel_map.render()
        gray_NHW = GRAY_METHODS[self.method](images_NHWC).to(torch.uint8)
        gray_NP = gray_NHW[..., None].expand_as(images_NHWC).flatten(1)
        is_applied_N = to_device(params["is_applied"], pixel_map.device)
        output_NP = torch.where(is_applied_N[:, None], gray_NP, images_NHWC.flatten(1))
        pixel_map.replace(output_NP.view(images_NHWC.shape))


def _weighted_average(images_NHWC: Tensor) -> Tensor:
    red, green, blue = (images_NHWC[..., c].int() * weight for c, weight in enumerate(GRAY_WEIGHTS))
    return (red + green + blue + (1 << 14)) >> 15


GRAY_METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "weighted_average": _weighted_average,
    "average": lambda images_NHWC: images_NHWC.sum(3, dtype=torch.int32) // 3,
    "desaturation": lambda images_NHWC: (images_NHWC.amax(3).int() + images_NHWC.amin(3)) // 2,
    "max": lambda images_NHWC: images_NHWC.amax(3),
}


@dataclass(frozen=True)
class RandomBrightnessContrast:
    """Multiply every value by alpha and add beta, a fraction of 255 (`by_max`) or of the image's mean value."""

    draws_integers: ClassVar[bool] = False
    p: float
    brightness: tuple[float, float]
    contrast: tuple[float, float]
    by_max: bool

    def sample(self, rng: CounterRng, _shape: Shape) -> TransformParams:
        """Sample alpha and beta; beta in gray levels (`by_max`) or as a fraction of the mean."""
        is_applied_N = rng.bernoulli(self.p)
        alpha_N = 1.0 + rng.uniform(*self.contrast)
        beta_N = rng.uniform(*self.brightness) * (255 if self.by_max else 1)
        return {"alpha": np.where(is_applied_N, alpha_N, 1.0), "beta": np.where(is_applied_N, beta_N, 0.0)}

    def apply(self, pixel_map: PixelMap, params: TransformParams) -> None:
        """Compute as albumentations' lookup table does: float32, rounded after each operation, truncated to uint8."""
        images_NHWC = pixel_map.render()
        alpha_N1, beta_N1 = (
            to_device(params[name].astype(np.float32), pixel_map.device)[:, None] for name in ("alpha", "beta")
        )
        values_NP = images_NHWC.flatten(1).float()
        if not self.by_max:  # the mean comes from an integer sum, which is exact in any order
            sums_N1 = images_NHWC.sum((1, 2, 3), dtype=torch.int32)[:, None]
            beta_N1 = beta_N1 * (sums_N1 / values_NP.shape[1])
        values_NP = values_NP.mul_(alpha_N1).add_(beta_N1).clamp_(0, 255)
        pixel_map.replace(values_NP.to(torch.uint8).view(images_NHWC.shape))
