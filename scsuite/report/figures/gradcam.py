"""The figures of Grad-CAM: images with their maps, and one map over one image.

In: uint8 images and their class activation maps (>= 0, not normalized). Out: a Figure.
Shapes: N images of H x W pixels, C = 3 (RGB); sizes may differ where a sequence of arrays is given.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from scsuite.report import formatting
from scsuite.report.figures import style
from scsuite.report.figures.image_grid import (
    HEADER,
    MARGIN,
    Image,
    Images,
    PixelGrid,
    draw_image,
    draw_lines,
    draw_title,
    empty_figure,
)

Heatmap = NDArray[np.float32]  # HW
Lines = list[tuple[str, str]]  # text and color

NO_EVIDENCE = "no positive evidence"
NO_DIFFERENCE = "no difference"

_BAR_BLOCK = 74  # pixels, for the color bar
_BAR_WIDTH, _BAR_HEIGHT = 360, 22  # pixels
_NOTE_LINE = 1.4 * style.points_to_pixels(style.SMALL)  # pixels: a line under the figure
_OVERLAY_PX = 512  # the side of `overlay`, about
_HEAT_CMAP = "inferno"  # uniform in lightness
_COMPARED = ("predicted", "actual")  # maps of which the difference can be drawn
_MAX_WIDTH, _RATIO = 2240, 16 / 9  # of a page, in pixels: that of a slide, readable when it is shown 1280 pixels wide
_TILE_FACTORS = (7, 6, 5, 4, 3)  # a tile is this many times 32 pixels


@dataclass(frozen=True, kw_only=True)
class CamFigureData:
    """What `gradcam` draws: N images, and N maps for each class (predicted, actual, or a class name).

    `captions` holds for each image the lines over its tiles: the name of its file under "image", and under the name of
    each map the class and its probability. With `difference`, the maps for the predicted and the actual class are
    followed by their difference. `notes` are written below the figure. `regions` are outlined: what the network saw of
    each image, in its pixels.
    """

    images: Images
    maps: Mapping[str, Sequence[Heatmap] | NDArray[np.float32]]
    captions: Sequence[Mapping[str, str]]
    title: str
    difference: bool = False
    notes: Sequence[str] = ()
    regions: Sequence[tuple[float, float, float, float]] | None = None  # left, top, right, bottom

    @property
    def compares(self) -> bool:
        """Whether the difference of the maps is drawn."""
        return self.difference and tuple(self.maps) == _COMPARED

    @property
    def tile_names(self) -> tuple[str, ...]:
        """The tiles of each image, from left to right."""
        return ("image", *self.maps, *(["difference"] if self.compares else []))


def gradcam(figure_data: CamFigureData) -> Figure:
    """Draw each image, and its map for each class over the image in gray, on a page with the proportions of a slide.

    The maps of an image share one scale, so that the weaker map looks weaker.
    """
    data = figure_data
    if not len(data.images):
        return empty_figure("No images to explain.")
    with style.figure_style():
        grid, captions, footer = _layout(data)
    with style.pixel_figure(width=grid.width, height=grid.height) as (figure, axes):
        draw_title(axes, grid, data.title)
        _name_tiles(axes, grid, data)
        for index, lines in enumerate(captions):
            _draw_group(axes, grid, data, index, lines)
        _draw_heat_bar(axes, grid, footer)
    return figure


def _choose_grid(data: CamFigureData) -> PixelGrid:
    """Return the grid, with the largest tiles that fit on the page, whose proportions are closest to those of a slide.

    A caption has a line for the file and for each map; few have more.
    """
    choices = []
    for columns in range(1, len(data.images) + 1):
        for factor in _TILE_FACTORS:
            grid = PixelGrid(
                tile_px=32 * factor, columns=columns, rows=-(-len(data.images) // columns),
                tiles_per_group=len(data.tile_names), caption_lines=1 + len(data.maps), footer_height=_BAR_BLOCK,
            )  # fmt: skip
            if grid.width <= _MAX_WIDTH or (columns, factor) == (1, _TILE_FACTORS[-1]):
                choices.append(grid)
                break
    return min(choices, key=lambda grid: abs(math.log(grid.width / grid.height / _RATIO)))


def _layout(data: CamFigureData) -> tuple[PixelGrid, list[Lines], list[str]]:
    """Return the grid, the caption of each image, and the lines of the footer."""
    grid = _choose_grid(data)
    captions = [_caption(grid, data, caption) for caption in data.captions]
    footer = [line for note in (_scale_note(data), *data.notes) for line in _wrap(grid, note)]
    grid = replace(
        grid, caption_lines=max(map(len, captions)), header_height=HEADER + round(grid.line_height),
        footer_height=_BAR_BLOCK + round(len(footer) * _NOTE_LINE),
    )  # fmt: skip
    return grid, captions, footer


def overlay(image: Image, heatmap: Heatmap, max_value: float) -> Figure:
    """Draw one map over its image, enlarged by a whole number to about 512 pixels.

    `max_value` is the largest value of all maps of the image; a map without evidence leaves the image gray.
    """
    blended_HWC = blend_heatmap(_to_gray(image), np.nan_to_num(heatmap) / (max_value or 1))
    rows, columns = blended_HWC.shape[:2]
    factor = max(1, _OVERLAY_PX // max(rows, columns))
    width, height = columns * factor, rows * factor
    with style.pixel_figure(width=width, height=height) as (figure, axes):
        axes.imshow(blended_HWC, extent=(0, width, height, 0), aspect="auto", interpolation="nearest")
    return figure


def blend_heatmap(gray_HWC: Image, strength_HW: NDArray[np.float32]) -> Image:
    """Blend a heatmap over a gray image: stronger evidence (0 to 1) is brighter and covers more of the image."""
    strength_HW = np.clip(strength_HW, 0, 1)
    heat_HWC = matplotlib.colormaps[_HEAT_CMAP](0.15 + 0.8 * strength_HW)[..., :3] * 255
    alpha_HW1 = (0.75 * np.sqrt(strength_HW))[..., None]
    blended: Image = np.rint((1 - alpha_HW1) * gray_HWC + alpha_HW1 * heat_HWC).astype(np.uint8)
    return blended


def blend_difference(gray_HWC: Image, difference_HW: NDArray[np.floating[Any]]) -> Image:
    """Blend orange over a gray image where the difference (-1 to 1) is positive, blue where it is negative."""
    positive, negative = (np.array(matplotlib.colors.to_rgb(color)) * 255 for color in (style.VERMILION, style.BLUE))
    color_HWC = np.where(difference_HW[..., None] > 0, positive, negative)
    alpha_HW1 = 0.95 * np.clip(np.abs(difference_HW), 0, 1)[..., None]
    blended: Image = np.rint((1 - alpha_HW1) * gray_HWC + alpha_HW1 * color_HWC).astype(np.uint8)
    return blended


def _draw_group(axes: Axes, grid: PixelGrid, data: CamFigureData, index: int, lines: Lines) -> None:
    """Draw one image, its maps and, where they are compared, their difference."""
    image = data.images[index]
    maps = {name: class_maps[index] for name, class_maps in data.maps.items()}
    max_value = max(map(_max_finite, maps.values()), default=0.0)
    draw_lines(axes, grid, grid.corner(index), lines)
    draw_image(axes, image, grid.corner(index), grid.tile_px)
    gray_HWC = _to_gray(image)
    for tile, heatmap in enumerate(maps.values(), start=1):
        corner = grid.corner(index, tile)
        if _max_finite(heatmap) > 0:
            draw_image(axes, blend_heatmap(gray_HWC, np.nan_to_num(heatmap) / max_value), corner, grid.tile_px)
        else:
            _draw_gray_with_text(axes, gray_HWC, corner, grid.tile_px, NO_EVIDENCE)
    if data.compares:
        corner = grid.corner(index, 1 + len(maps))
        difference_HW = maps["predicted"] - maps["actual"]
        if _max_finite(np.abs(difference_HW)) > 0:
            blended_HWC = blend_difference(gray_HWC, np.nan_to_num(difference_HW) / max_value)
            draw_image(axes, blended_HWC, corner, grid.tile_px)
        else:
            _draw_gray_with_text(axes, gray_HWC, corner, grid.tile_px, NO_DIFFERENCE)
    if data.regions is not None:
        for tile in range(len(data.tile_names)):
            _outline(axes, data.regions[index], image, grid.corner(index, tile), grid.tile_px)


def _outline(
    axes: Axes, region: tuple[float, float, float, float], image: Image, corner: tuple[int, int], tile_px: int
) -> None:
    """Draw the outline of a region of an image on its tile, in white on black, so that it is visible on any image."""
    scale = tile_px / max(image.shape[:2])
    left, top, right, bottom = (side * scale for side in region)
    for color, width in (("black", 1.6), ("white", 0.7)):  # points
        inset = style.points_to_pixels(1.6) / 2  # the line is within the region
        axes.add_patch(
            Rectangle(
                (corner[0] + left + inset, corner[1] + top + inset), right - left - 2 * inset, bottom - top - 2 * inset,
                fill=False, edgecolor=color, linewidth=width,
            )
        )  # fmt: skip


def _draw_gray_with_text(axes: Axes, gray_HWC: Image, corner: tuple[int, int], tile_px: int, text: str) -> None:
    width, height = draw_image(axes, gray_HWC, corner, tile_px)
    _text_box(axes, (corner[0] + width / 2, corner[1] + height / 2), text)


def _text_box(axes: Axes, center: tuple[float, float], text: str) -> None:
    """Write one word per line, on white."""
    box = {"facecolor": style.BACKGROUND, "alpha": 0.85, "linewidth": 0, "pad": 3}
    axes.text(*center, text.replace(" ", "\n"), ha="center", va="center", fontsize=8, bbox=box)


def _max_finite(heatmap: Heatmap) -> float:
    """Return the largest value of a map, or 0 if it has no positive one."""
    return float(heatmap[np.isfinite(heatmap)].max(initial=0))


def _to_gray(image: Image) -> Image:
    """Return the luma (ITU-R BT.601) in three equal channels, moved to medium grays on which colors are visible."""
    luma_HW = image[..., :3] @ np.array([0.299, 0.587, 0.114]) if image.ndim == 3 else image
    return np.repeat(np.rint(30 + 0.8 * luma_HW).astype(np.uint8)[..., None], 3, axis=-1)


def _caption(grid: PixelGrid, data: CamFigureData, caption: Mapping[str, str]) -> Lines:
    """Return the lines over the tiles of an image, no wider than these: its file, and each map's class."""
    width, max_width = partial(style.text_width, points=grid.caption_pt), grid.group_width - 8
    lines: Lines = []
    if "image" in caption:
        lines.append((formatting.truncate_path(style.legible(caption["image"]), max_width, width), style.TEXT_MUTED))
    for name in data.maps:
        color = style.VERMILION if name == "predicted" else style.TEXT
        if name in caption:
            text = style.legible(caption[name])
            lines += [(line, color) for line in formatting.wrap_two_lines(text, max_width, width)]
    return lines


def _name_tiles(axes: Axes, grid: PixelGrid, data: CamFigureData) -> None:
    """Write the name of each tile above the first row."""
    width = partial(style.text_width, points=grid.caption_pt)
    y = grid.corner(0)[1] - 7 - grid.caption_lines * grid.line_height - 6
    for index in range(min(grid.columns, len(data.images))):
        for tile, name in enumerate(data.tile_names):
            text = formatting.truncate_middle(style.legible(name), grid.tile_px, width)
            x = grid.corner(index, tile)[0]
            axes.text(x, y, text, fontsize=grid.caption_pt, color=style.TEXT_MUTED, style="italic")


def _scale_note(data: CamFigureData) -> str:
    note = "Each image has its own scale" + ", shared by its maps" * (len(data.maps) > 1) + "."
    if data.compares:
        note += " Difference: orange where predicted has more evidence, blue where actual has."
    return note


def _wrap(grid: PixelGrid, text: str) -> list[str]:
    return style.wrap_lines(text, grid.width - 2 * MARGIN, style.SMALL)


def _draw_heat_bar(axes: Axes, grid: PixelGrid, notes: Sequence[str]) -> None:
    """Draw the colors of the maps as they look over medium gray, and below them the notes."""
    small: dict[str, Any] = {"fontsize": style.SMALL, "color": style.TEXT_MUTED}
    low, high = "no evidence", "maximum of the image"
    x = MARGIN + round(style.text_width(low, style.SMALL)) + 12
    y = grid.height - MARGIN - grid.footer_height + 30
    strength_HW = np.linspace(0, 1, _BAR_WIDTH, dtype=np.float32)[None].repeat(_BAR_HEIGHT, axis=0)
    bar_HWC = blend_heatmap(np.full((_BAR_HEIGHT, _BAR_WIDTH, 3), 132, np.uint8), strength_HW)
    extent = (x, x + _BAR_WIDTH, y + _BAR_HEIGHT, y)
    axes.imshow(bar_HWC, extent=extent, aspect="auto", interpolation="nearest")
    axes.text(MARGIN, y + _BAR_HEIGHT / 2, low, va="center_baseline", **small)
    axes.text(x + _BAR_WIDTH + 12, y + _BAR_HEIGHT / 2, high, va="center_baseline", **small)
    top = y + _BAR_BLOCK - 30
    for line_number, line in enumerate(notes):
        axes.text(MARGIN, top + line_number * _NOTE_LINE, line, va="top", **small)
