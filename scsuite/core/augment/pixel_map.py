"""A batch of images on its way through a policy: pixel moves are collected as index maps and applied in one gather.

In: uint8 images_NHWC on any device; index maps and holes, as arrays or there. Out: uint8 images_NHWC on that device.
Shapes: N images, H rows, W columns, C channels, K holes of an image, P pixels of all images.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsuite.core.augment.draws import arange

Color = tuple[int, ...]  # one value in [0, 255] for each of the three channels
IndexMap = Any  # an int32 array, or a tensor on the device of the images
OUTSIDE_INDEX = -1  # in an index map: no row or column of the image; the pixel gets the border color
CONSTANT, REPLICATE, REFLECT, WRAP, REFLECT_101 = range(5)  # border modes, numbered as in OpenCV


def border_index(positions: Any, size: int, border_mode: int) -> Any:
    """Map each position to a row or column in [0, size), as cv2.borderInterpolate does; for arrays and tensors."""
    if border_mode == WRAP:
        return positions % size
    if border_mode == REFLECT:  # repeats the edge pixel
        return (2 * size - 1 - abs(2 * (positions % (2 * size)) - (2 * size - 1))) // 2
    if border_mode == REFLECT_101 and size > 1:  # does not repeat the edge pixel
        return size - 1 - abs(positions % (2 * size - 2) - (size - 1))
    return positions.clip(0, size - 1)


class PixelMap:
    """Source images, and for each output pixel the row and column of its source pixel, or a color."""

    def __init__(self, images_NHWC: Tensor) -> None:
        self.replace(images_NHWC)

    def replace(self, images_NHWC: Tensor) -> None:
        """Start again from these images, with the identity as index map."""
        self._images_NHWC = images_NHWC
        self._shape: tuple[int, int, int] = (len(images_NHWC), images_NHWC.shape[1], images_NHWC.shape[2])
        self._rows_NH: IndexMap | None = None  # the identity
        self._cols_NW: IndexMap | None = None
        self._border_color: Color | None = None
        self._holes: list[tuple[Tensor, Color]] = []

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number, height and width of the output images."""
        return self._shape

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        return self._images_NHWC.device

    def remap(
        self,
        rows_NH: NDArray[Any] | Tensor | None = None,
        cols_NW: NDArray[Any] | Tensor | None = None,
        border_color: Color | None = None,
    ) -> None:
        """Take row y of image n from row rows_NH[n, y], and columns alike; OUTSIDE_INDEX takes `border_color`."""
        has_new_color = border_color is not None and self._border_color not in (None, border_color)
        if self._holes or has_new_color:  # holes do not move with an index map, and a map has one border color
            self.replace(self.render())
        self._border_color = self._border_color if border_color is None else border_color
        self._rows_NH = self._rows_NH if rows_NH is None else _compose_indices(self._rows_NH, rows_NH)
        self._cols_NW = self._cols_NW if cols_NW is None else _compose_indices(self._cols_NW, cols_NW)
        num_images, height, width = self._shape
        height = height if rows_NH is None else rows_NH.shape[1]
        self._shape = (num_images, height, width if cols_NW is None else cols_NW.shape[1])

    def fill(self, holes_NK4: NDArray[np.int64] | Tensor, color: Color) -> None:
        """Fill the holes [x_min, x_max) x [y_min, y_max), given as (x_min, y_min, x_max, y_max); holes may be empty."""
        _, height, width = self.shape
        x_min, y_min, x_max, y_max = (holes_NK4[:, :, None, edge] for edge in range(4))
        y, x = arange(height, holes_NK4), arange(width, holes_NK4)
        rows_NKH = to_device((y >= y_min) & (y < y_max), self.device)
        cols_NKW = to_device((x >= x_min) & (x < x_max), self.device)
        if holes_NK4.shape[1] == 1:
            is_hole_NHW = rows_NKH[:, 0, :, None] & cols_NKW[:, 0, None, :]
        else:  # the product counts the holes that cover each pixel
            is_hole_NHW = rows_NKH.float().transpose(1, 2) @ cols_NKW.float() > 0
        self._holes.append((is_hole_NHW, color))

    def render(self) -> Tensor:
        """Return the output images, uint8 images_NHWC."""
        if self._rows_NH is None and self._cols_NW is None and not self._holes:
            return self._images_NHWC
        num_images, height, width, _ = self._images_NHWC.shape
        identity = (np.arange(size, dtype=np.int32)[None] for size in (height, width))
        num_pixels = num_images * height * width
        colors: list[Color] = []
        rows_NH, cols_NW = (
            to_device(same if indices is None else indices, self.device)
            for indices, same in zip((self._rows_NH, self._cols_NW), identity, strict=True)
        )
        image_starts_N = torch.arange(0, num_pixels, height * width, dtype=torch.int32, device=self.device)
        flat_NHW = (image_starts_N[:, None] + rows_NH * width)[:, :, None] + cols_NW[:, None, :]
        if self._border_color is not None:
            flat_NHW.masked_fill_((rows_NH < 0)[:, :, None] | (cols_NW < 0)[:, None, :], num_pixels)
            colors.append(self._border_color)
        for is_hole_NHW, color in self._holes:
            flat_NHW.masked_fill_(is_hole_NHW, num_pixels + len(colors))
            colors.append(color)
        return gather_pixels(self._images_NHWC, colors, flat_NHW)


def gather_pixels(images_NHWC: Tensor, colors: list[Color], flat_NHW: Tensor) -> Tensor:
    """Gather pixels by flat index: first all pixels of all images, then the colors. int32 indices are the fastest."""
    pixels_P3 = images_NHWC.reshape(-1, 3)
    if colors:
        pixels_P3 = torch.cat([pixels_P3, to_device(np.array(colors, np.uint8), images_NHWC.device)])
    return pixels_P3.index_select(0, flat_NHW.reshape(-1)).reshape(*flat_NHW.shape, 3)


def to_device(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Copy an array to the device; from pinned memory, so that the copy to CUDA does not block. A tensor is there."""
    if isinstance(values, Tensor):
        return values
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def _compose_indices(inner: IndexMap | None, outer: Any) -> IndexMap:
    outer = outer.to(torch.int32) if isinstance(outer, Tensor) else outer.astype(np.int32)
    if inner is None:
        return outer
    if isinstance(outer, Tensor):
        return inner.take_along_dim(outer.clamp(min=0).long(), 1).masked_fill(outer < 0, OUTSIDE_INDEX)
    return np.where(outer < 0, np.int32(OUTSIDE_INDEX), np.take_along_axis(inner, outer, axis=1))
