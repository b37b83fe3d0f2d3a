"""A batch of images under way through a policy: what moves whole pixels is put together and gathered once.

In: uint8 images_NHWC on any device; index maps and holes as small numpy arrays. Out: uint8 images_NHWC, there.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Colour = tuple[int, ...]  # of three channels, in [0, 255]
Indices = NDArray[np.int32]
OUTSIDE = -1  # in an index map: no row or column of the image, but the colour around it


class Canvas:
    """uint8 images, and where each pixel of the picture to come stands in them."""

    def __init__(self, images_NHWC: Tensor) -> None:
        self.paint(images_NHWC)

    def paint(self, images_NHWC: Tensor) -> None:
        """Go on with these images."""
        self._images_NHWC = images_NHWC
        num, height, width, _ = images_NHWC.shape
        self._rows_NH: Indices = np.tile(np.arange(height, dtype=np.int32), (num, 1))
        self._cols_NW: Indices = np.tile(np.arange(width, dtype=np.int32), (num, 1))
        self._outside: Colour | None = None
        self._holes: list[tuple[Tensor, Colour]] = []
        self._is_moved = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, rows and columns of the picture as it stands."""
        return len(self._rows_NH), self._rows_NH.shape[1], self._cols_NW.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self._images_NHWC.device

    def move(
        self, rows_NH: NDArray[Any] | None = None, cols_NW: NDArray[Any] | None = None, outside: Colour | None = None
    ) -> None:
        """Put row rows_NH[n, y] of image n at y, and the same with columns; OUTSIDE is of the colour `outside`."""
        another_colour = outside is not None and self._outside not in (None, outside)
        if self._holes or another_colour:
            self.paint(self.pixels())
        self._outside = self._outside if outside is None else outside
        self._rows_NH = self._rows_NH if rows_NH is None else _composed(self._rows_NH, rows_NH)
        self._cols_NW = self._cols_NW if cols_NW is None else _composed(self._cols_NW, cols_NW)
        self._is_moved = True

    def punch(self, holes_NK4: NDArray[np.int64], colour: Colour) -> None:
        """Fill holes (x_min, y_min, x_max, y_max), the ends not included; an image may have fewer, then empty ones."""
        _, height, width = self.shape
        x_min, y_min, x_max, y_max = (holes_NK4[:, :, None, side] for side in range(4))
        y, x = np.arange(height), np.arange(width)
        rows_NKH = on_device((y >= y_min) & (y < y_max), self.device)
        cols_NKW = on_device((x >= x_min) & (x < x_max), self.device)
        if holes_NK4.shape[1] == 1:
            inside_NHW = rows_NKH[:, 0, :, None] & cols_NKW[:, 0, None, :]
        else:
            inside_NHW = rows_NKH.float().transpose(1, 2) @ cols_NKW.float() > 0  # in how many holes
        self._holes.append((inside_NHW, colour))

    def pixels(self) -> Tensor:
        """The picture as it stands, uint8 images_NHWC."""
        if not self._is_moved and not self._holes:
            return self._images_NHWC
        num, height, width, _ = self._images_NHWC.shape
        num_pixels, colours = num * height * width, []
        rows_NH, cols_NW = (on_device(indices, self.device) for indices in (self._rows_NH, self._cols_NW))
        firsts_N = torch.arange(0, num_pixels, height * width, dtype=torch.int32, device=self.device)
        flat_NHW = (firsts_N[:, None] + rows_NH * width)[:, :, None] + cols_NW[:, None, :]
        if self._outside is not None:
            flat_NHW.masked_fill_((rows_NH < 0)[:, :, None] | (cols_NW < 0)[:, None, :], num_pixels)
            colours.append(self._outside)
        for inside_NHW, colour in self._holes:
            flat_NHW.masked_fill_(inside_NHW, num_pixels + len(colours))
            colours.append(colour)
        return take(self._images_NHWC, colours, flat_NHW)


def take(images_NHWC: Tensor, colours: list[Colour], flat_NHW: Tensor) -> Tensor:
    """The pixels at `flat_NHW`, counted through all images and then through the colours; int32, which is quickest."""
    pixels_P3 = images_NHWC.reshape(-1, 3)
    if colours:
        pixels_P3 = torch.cat([pixels_P3, on_device(np.array(colours, np.uint8), images_NHWC.device)])
    return pixels_P3.index_select(0, flat_NHW.reshape(-1)).reshape(*flat_NHW.shape, 3)


def on_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """A copy there; from pinned memory, so that CUDA is not waited for."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def _composed(inner: Indices, outer: NDArray[Any]) -> Indices:
    return np.where(outer < 0, np.int32(OUTSIDE), np.take_along_axis(inner, outer, axis=1))
