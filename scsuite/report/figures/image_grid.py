"""Figures made of small images: training images, misclassified images; and the pixel grid that Grad-CAM shares.

In: uint8 images with a caption each, or an `Evaluation` with its images. Out: a Figure.
Shapes: N images of H x W pixels, C = 3 (RGB); sizes may differ where a sequence of arrays is given.

Everything is placed on whole pixels of one page (`style.pixel_figure`): a 32x32 image is enlarged by a whole number,
without blur, and a thousand images need one set of axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scsuite.report import formatting
from scsuite.report.figures import style

if TYPE_CHECKING:
    from scsuite.core.dataset import Split
    from scsuite.core.evaluation.metrics import Evaluation

Image = NDArray[np.uint8]  # HWC, or HW for gray
Images = Sequence[Image] | Image  # N images, or images_NHWC

IMAGES_PER_ROW = 8
MISTAKES_PER_ROW = 5  # up to five rows; with more mistakes, twice as many per row

MARGIN = 30  # pixels, around the page
HEADER = 64  # pixels, for the title
_TILE_GAP, _GROUP_GAP, _ROW_GAP = 8, 34, 18  # pixels: between the tiles of one image, between images, between rows
_TARGET_WIDTH = 1290  # pixels, without the margins
_MIN_WIDTH = 900  # pixels: a page with one image has space for its title


@dataclass(frozen=True, kw_only=True)
class PixelGrid:
    """Positions of tiles on a page: rows of `columns` groups, each of `tiles_per_group` images with captions above."""

    tile_px: int
    columns: int
    rows: int
    tiles_per_group: int = 1
    caption_lines: int = 2
    caption_pt: float = style.SMALL
    header_height: int = HEADER
    footer_height: int = 0

    @property
    def line_height(self) -> float:
        """Pixels of a caption line."""
        return 1.25 * style.points_to_pixels(self.caption_pt)

    @property
    def group_width(self) -> int:
        """Pixels of all tiles of one image."""
        return self.tiles_per_group * (self.tile_px + _TILE_GAP) - _TILE_GAP

    @property
    def group_gap(self) -> int:
        """Pixels between two images of a row."""
        return _GROUP_GAP if self.tiles_per_group > 1 else 2 * _TILE_GAP

    @property
    def row_height(self) -> int:
        """Pixels from one row to the next."""
        return round(self.caption_lines * self.line_height) + 6 + self.tile_px + _ROW_GAP

    @property
    def width(self) -> int:
        """Pixels of the page."""
        groups = self.columns * (self.group_width + self.group_gap) - self.group_gap
        return max(2 * MARGIN + groups, _MIN_WIDTH)

    @property
    def height(self) -> int:
        """Pixels of the page."""
        return self.header_height + self.rows * self.row_height - _ROW_GAP + self.footer_height + MARGIN

    def corner(self, index: int, tile: int = 0) -> tuple[int, int]:
        """Return the upper left pixel of a tile of the group `index`."""
        row, column = divmod(index, self.columns)
        x = MARGIN + column * (self.group_width + self.group_gap) + tile * (self.tile_px + _TILE_GAP)
        return x, self.header_height + (row + 1) * self.row_height - _ROW_GAP - self.tile_px


def make_grid(num_images: int, columns: int, **kwargs: Any) -> PixelGrid:
    """Return a grid with tiles as large as the width of the page allows: multiples of 32 pixels."""
    columns = max(1, min(columns, num_images))
    factor = min(max(round(_TARGET_WIDTH / (columns * (32 + 1))), 5), 7)
    rows = -(-num_images // columns)
    return PixelGrid(tile_px=32 * factor, columns=columns, rows=rows, **kwargs)


def with_caption_lines(grid: PixelGrid, captions: Sequence[str]) -> PixelGrid:
    """Return the grid with as many caption lines as the longest caption needs."""
    with style.figure_style():
        num_lines = max((len(_wrap_caption(grid, caption)) for caption in captions), default=0)
    return replace(grid, caption_lines=num_lines)


def image_grid(images: Images, titles: Sequence[str], title: str) -> Figure:
    """Draw small images, enlarged without blur, each under its own title."""
    if not len(images):
        return empty_figure("No images to show.")
    grid = with_caption_lines(make_grid(len(images), IMAGES_PER_ROW), titles)
    with style.pixel_figure(width=grid.width, height=grid.height) as (figure, axes):
        draw_title(axes, grid, title)
        for index, (image, name) in enumerate(zip(images, titles, strict=True)):
            draw_caption(axes, grid, grid.corner(index), name)
            draw_image(axes, image, grid.corner(index), grid.tile_px)
    return figure


def misclassified(evaluation: "Evaluation", split: "Split", count: int) -> Figure:
    """Draw the `count` most confident mistakes with file, actual class, predicted class and its probability.

    Five are in a row, or ten when there are more than 25.
    """
    total, indices = len(evaluation.misclassified), evaluation.misclassified[:count]
    if not len(indices):
        return empty_figure(f"{total:,} misclassified images, none shown." if total else "No misclassified images.")
    many = len(indices) > MISTAKES_PER_ROW**2
    columns = 2 * MISTAKES_PER_ROW if many else MISTAKES_PER_ROW
    grid = make_grid(len(indices), columns, caption_pt=6.5 if many else style.SMALL)
    with style.figure_style():
        captions = [_mistake_caption(grid, evaluation, index, split.files[index]) for index in indices]
    grid = replace(grid, caption_lines=max(map(len, captions)))
    title = f"{total:,} misclassified image{'' if total == 1 else 's'}"
    if total > len(indices):
        title += f", the most confident {len(indices):,}"
    with style.pixel_figure(width=grid.width, height=grid.height) as (figure, axes):
        draw_title(axes, grid, title)
        for position, (index, caption) in enumerate(zip(indices, captions, strict=True)):
            draw_lines(axes, grid, grid.corner(position), caption)
            draw_image(axes, split.images_NHWC[index], grid.corner(position), grid.tile_px)
    return figure


def _mistake_caption(grid: PixelGrid, evaluation: "Evaluation", index: int, file: str) -> list[tuple[str, str]]:
    """Return three to five lines with their colors; a long name is truncated, the probability is not."""
    width = partial(style.text_width, points=grid.caption_pt)
    actual = style.legible(evaluation.class_names[evaluation.labels_N[index]])
    predicted = style.legible(evaluation.class_names[evaluation.predicted_N[index]])
    probability = f" {evaluation.confidence_N[index]:.2f}"
    actual_lines = formatting.wrap_two_lines(f"true {actual}", grid.tile_px - 4, width)
    max_width = grid.tile_px - 4 - width(probability)
    predicted_lines = formatting.wrap_two_lines(f"predicted {predicted}", max_width, width)
    predicted_lines[-1] += probability
    file_line = formatting.truncate_path(style.legible(file), grid.tile_px - 4, width)
    lines = [(file_line, style.TEXT_MUTED), *((line, style.TEXT) for line in actual_lines)]
    return lines + [(line, style.VERMILION) for line in predicted_lines]


def draw_image(axes: Axes, image: Image, corner: tuple[int, int], tile_px: int) -> tuple[int, int]:
    """Draw an image in the upper left of a square tile with its proportions; return its width and height in pixels."""
    rows, columns = image.shape[:2]
    stride = max(1, max(rows, columns) // (4 * tile_px))  # a large photograph is thinned out to what the page can show
    scale = tile_px / max(rows, columns)
    (x, y), width, height = corner, max(1, round(columns * scale)), max(1, round(rows * scale))
    axes.imshow(
        image[::stride, ::stride],
        cmap="gray",
        vmin=0,
        vmax=255,
        extent=(x, x + width, y + height, y),
        aspect="auto",
        interpolation="nearest" if scale >= 1 else "hanning",
    )
    return width, height


def draw_lines(axes: Axes, grid: PixelGrid, corner: tuple[int, int], lines: Sequence[tuple[str, str]]) -> None:
    """Write lines with their colors above a tile, the last one next to it."""
    for line_number, (line, color) in enumerate(lines, start=1 - len(lines)):
        y = corner[1] - 7 + line_number * grid.line_height
        axes.text(corner[0], y, line, fontsize=grid.caption_pt, color=color)


def draw_caption(axes: Axes, grid: PixelGrid, corner: tuple[int, int], text: str) -> None:
    """Write one or two lines above a tile, no wider than the tile."""
    for line_number, line in enumerate(reversed(_wrap_caption(grid, text))):
        axes.text(corner[0], corner[1] - 7 - line_number * grid.line_height, line, fontsize=grid.caption_pt)


def _wrap_caption(grid: PixelGrid, text: str) -> list[str]:
    width = partial(style.text_width, points=grid.caption_pt)
    return formatting.wrap_two_lines(style.legible(text), grid.tile_px - 4, width)


def draw_title(axes: Axes, grid: PixelGrid, text: str) -> None:
    """Write the title of a page, truncated to its width."""
    width = partial(style.text_width, points=style.LARGE)
    title = formatting.truncate_middle(style.legible(text), grid.width - 2 * MARGIN, width)
    axes.text(MARGIN, 20, title, fontsize=style.LARGE, va="top")


def empty_figure(text: str) -> Figure:
    """Return a small page that says why there are no images."""
    with style.pixel_figure(width=900, height=220) as (figure, axes):
        axes.text(450, 110, text, ha="center", va="center", fontsize=style.LARGE, color=style.TEXT_MUTED)
    return figure
