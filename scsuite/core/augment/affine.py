"""The batched version of albumentations' Affine, the one transform that interpolates between pixels.

In: a PixelMap and a 3 x 3 matrix per image. Out: the transformed images in that PixelMap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsuite.core.augment.pixel_map import CONSTANT, Color, PixelMap, border_index, to_device
from scsuite.core.augment.transforms import Shape, TransformParams
from scsuite.core.seeding import CounterRng

OUT_OF_RANGE = -(2**30)  # marks a row or column outside the image; the sum of two of them still fits int32
# The tolerances of numpy.allclose: albumentations does nothing for a matrix this close to the identity.
IDENTITY_TOLERANCE = 1e-8 + 1e-5 * np.eye(3)


@dataclass(frozen=True)
class Affine:
    """Scale, rotate and shear about the center, then translate. Ranges are those of albumentations, for x and y."""

    draws_integers: ClassVar[bool] = False
    p: float
    scale: Mapping[str, tuple[float, float]]
    translate: Mapping[str, tuple[float, float]]  # pixels, or fractions of the side
    is_fraction: bool
    rotate: tuple[float, float]  # degrees
    shear: Mapping[str, tuple[float, float]]  # degrees
    keep_ratio: bool
    balanced: bool
    border_mode: int
    color: Color

    def sample(self, rng: CounterRng, shape: Shape) -> TransformParams:
        """Sample the matrix from input to output coordinates; the identity if the transform is not applied."""
        is_applied_N = rng.bernoulli(self.p)
        height, width = shape
        shift_x, shift_y = (
            self._sample_shift(rng, self.translate[axis], size) for axis, size in (("x", width), ("y", height))
        )
        shear_x, shear_y = (np.tan(np.deg2rad(-rng.uniform(*self.shear[axis]))) for axis in "xy")
        scale_x, scale_y = (self._sample_scale(rng, self.scale[axis]) for axis in "xy")
        angle = np.deg2rad(rng.uniform(*self.rotate) % 360)
        rotation = _make_matrices(np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0)
        scaling = _make_matrices(scale_x, 0, 0, 0, scale_x if self.keep_ratio else scale_y, 0)
        shearing = _make_matrices(1, shear_x, 0, shear_y, 1, 0)
        center_x, center_y = width / 2 - 0.5, height / 2 - 0.5
        to_origin = _make_matrices(1, 0, -center_x, 0, 1, -center_y)
        from_origin = _make_matrices(1, 0, center_x + shift_x, 0, 1, center_y + shift_y)
        matrix_N33 = from_origin @ shearing @ rotation @ scaling @ to_origin
        return {"matrix": np.where(is_applied_N[:, None, None], matrix_N33, np.eye(3))}

    def _sample_shift(self, rng: CounterRng, value_range: tuple[float, float], size: int) -> NDArray[Any]:
        if self.is_fraction:
            return np.trunc(rng.uniform(*value_range) * size)
        return rng.integers(int(value_range[0]), int(value_range[1]))

    def _sample_scale(self, rng: CounterRng, value_range: tuple[float, float]) -> NDArray[np.float64]:
        low, high = value_range
        choice_N, fraction_N = rng.integers(0, 1), rng.uniform(0.0, 1.0)
        if self.balanced:  # below 1 and above 1 are equally likely if the range has both
            choice_N = choice_N if low < 1 < high else np.full_like(choice_N, low >= 1)
            low_N, high_N = np.where(choice_N == 0, min(low, 1.0), 1.0), np.where(choice_N == 0, 1.0, max(high, 1.0))
        else:
            low_N, high_N = np.full_like(fraction_N, low), np.full_like(fraction_N, high)
        return low_N + (high_N - low_N) * fraction_N

    def apply(self, pixel_map: PixelMap, params: TransformParams) -> None:
        """Warp as cv2.warpAffine of OpenCV 5 does, which interpolates linearly between float32 coordinates."""
        images_NHWC = pixel_map.render()
        height, width, channels = images_NHWC.shape[1:]
        x_NHW, y_NHW = self._source_coordinates(images_NHWC.shape, params["matrix"], pixel_map.device)
        left_NHW, top_NHW = x_NHW.floor(), y_NHW.floor()
        # Repeated for each channel in memory: arithmetic that broadcasts over a last axis of three is slow on the CPU.
        x_weight_NHWC, y_weight_NHWC = (
            (coordinate - floor)[..., None].expand(-1, -1, -1, channels).contiguous()
            for coordinate, floor in ((x_NHW, left_NHW), (y_NHW, top_NHW))
        )
        color_13 = to_device(np.array([self.color], np.uint8), pixel_map.device)
        pixels_P3 = torch.cat([color_13, images_NHWC.reshape(-1, channels)])  # index 0 is the border color
        starts_N = torch.arange(1, len(pixels_P3), height * width, dtype=torch.int32, device=pixel_map.device)
        rows = [self._flat_index(top_NHW + i, height, width).add_(starts_N[:, None, None]) for i in (0, 1)]
        columns = [self._flat_index(left_NHW + i, width, 1) for i in (0, 1)]

        def interpolate_row(row_NHW: Tensor) -> Tensor:
            indices = [(row_NHW + column_NHW).clamp_(min=0).flatten() for column_NHW in columns]
            left, right = (pixels_P3.index_select(0, index).float().view(x_weight_NHWC.shape) for index in indices)
            return right.sub_(left).mul_(x_weight_NHWC).add_(left)

        upper, lower = map(interpolate_row, rows)
        pixel_map.replace(lower.sub_(upper).mul_(y_weight_NHWC).add_(upper).round_().to(torch.uint8))

    def _flat_index(self, coordinates_NHW: Tensor, size: int, stride: int) -> Tensor:
        """Convert rows or columns to offsets in an image's pixels; a large negative number selects the border color."""
        positions = coordinates_NHW.int()
        indices = border_index(positions, size, self.border_mode)
        offsets: Tensor = indices * stride
        return offsets.masked_fill_(indices != positions, OUT_OF_RANGE) if self.border_mode == CONSTANT else offsets

    def _source_coordinates(
        self, shape: torch.Size, matrix_N33: NDArray[np.float64], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Compute the float32 input column and row of each output pixel, from the inverse matrix."""
        is_changed_N33 = np.abs(matrix_N33 - np.eye(3)) > IDENTITY_TOLERANCE
        is_changed_N11 = is_changed_N33.any(axis=(1, 2), keepdims=True)
        inverse_N33 = np.linalg.inv(np.where(is_changed_N11, matrix_N33, np.eye(3)))
        coefficients = to_device(inverse_N33[:, :2].astype(np.float32), device)[:, :, :, None, None]
        y, x = (torch.arange(size, dtype=torch.float32, device=device) for size in shape[1:3])
        columns, rows = (
            coefficients[:, i, 0] * x + (coefficients[:, i, 1] * y[:, None] + coefficients[:, i, 2]) for i in (0, 1)
        )
        return columns, rows


def _make_matrices(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> NDArray[np.float64]:
    """Make [[a, b, c], [d, e, f], [0, 0, 1]] from numbers, or one matrix per image from arrays."""
    entries = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in (a, b, c, d, e, f, 0.0, 0.0, 1.0)))
    return np.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)
