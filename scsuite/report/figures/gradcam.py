"""The figures of Grad-CAM: images with their maps, and one map over one image.

In: uint8 images and their class activation maps (>= 0, not normalized). Out: a Figure.
Shapes: N images of H x W pixels, C = 3 (RGB); sizes may differ where a sequence of arrays is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scsuite.core.errors import escape
from scsuite.report.figures import style
from scsuite.report.figures.image_grid import (
    MARGIN,
    Image,
    Images,
    PixelGrid,
    draw_caption,
    draw_image,
    draw_title,
    empty_figure,
    make_grid,
    with_caption_lines,
)

Heatmap = NDArray[np.float32]  # HW

NO_EVIDENCE = "no positive evidence"
NO_DIFFERENCE = "no difference"

_FOOTER = 120  # pixels, for the color bar
_BAR_WIDTH, _BAR_HEIGHT = 520, 22  # pixels
_NOTE_LINE = 1.4 * style.points_to_pixels(style.SMALL)  # pixels: a line under the figure
_OVERLAY_PX = 512  # the side of `overlay`, about
_HEAT_CMAP = "inferno"  # uniform in lightness
_COMPARED = ("predicted", "actual")  # maps with a third tile that shows their difference


@dataclass(frozen=True, kw_only=True)
class CamFigureData:
    """What `gradcam` draws: N images, and N maps for each class (predicted, actual, or a class name).

    `captions` holds for each image the text over its tiles: under "image", and under the name of each map.
    `notes` are written below the figure; `columns` is the number of images in a row.
    """

    images: Images
    maps: Mapping[str, Sequence[Heatmap] | NDArray[np.float32]]
    captions: Sequence[Mapping[str, str]]
    title: str
    columns: int = 2
    notes: Sequence[str] = ()

    @property
    def compares(self) -> bool:
        """Whether the maps are drawn with their difference."""
        return tuple(self.maps) == _COMPARED


def gradcam(figure_data: CamFigureData) -> Figure:
    """Draw each image, and its map for each class over the image in gray.

    The maps of an image share one scale, so that the weaker map looks weaker. Maps for the predicted and the actual
    class are followed by their difference.
    """
    data = figure_data
    if not len(data.images):
        return empty_figure("No images to explain.")
    grid = make_grid(len(data.images), data.columns, tiles_per_group=1 + len(data.maps) + data.compares, caption_pt=8)
    with style.figure_style():
        notes = [line for note in data.notes for line in _wrap(note, grid.width - 2 * MARGIN)]
    grid = replace(grid, footer_height=_FOOTER + round(len(notes) * _NOTE_LINE))
    captions = [caption.get(name, name) for caption in data.captions for name in ("image", *data.maps)]
    grid = with_caption_lines(grid, captions)
    with style.pixel_figure(width=grid.width, height=grid.height) as (figure, axes):
        draw_title(axes, grid, data.title)
        for index in range(len(data.images)):
            _draw_group(axes, grid, data, index)
        _draw_heat_bar(axes, grid, data)
        _draw_notes(axes, grid, notes)
    return figure


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


def _draw_group(axes: Axes, grid: PixelGrid, data: CamFigureData, index: int) -> None:
    """Draw one image, its maps and, where they are compared, their difference."""
    image, caption = data.images[index], data.captions[index]
    maps = {name: class_maps[index] for name, class_maps in data.maps.items()}
    max_value = max(map(_max_finite, maps.values()), default=0.0)
    draw_caption(axes, grid, grid.corner(index), caption.get("image", "image"))
    draw_image(axes, image, grid.corner(index), grid.tile_px)
    gray_HWC = _to_gray(image)
    for tile, (name, heatmap) in enumerate(maps.items(), start=1):
        corner = grid.corner(index, tile)
        draw_caption(axes, grid, corner, caption.get(name, name))
        if _max_finite(heatmap) > 0:
            draw_image(axes, blend_heatmap(gray_HWC, np.nan_to_num(heatmap) / max_value), corner, grid.tile_px)
        else:
            _draw_gray_with_text(axes, gray_HWC, corner, grid.tile_px, NO_EVIDENCE)
    if data.compares:
        corner = grid.corner(index, 1 + len(maps))
        draw_caption(axes, grid, corner, "difference")
        difference_HW = maps["predicted"] - maps["actual"]
        if _max_finite(np.abs(difference_HW)) > 0:
            blended_HWC = blend_difference(gray_HWC, np.nan_to_num(difference_HW) / max_value)
            draw_image(axes, blended_HWC, corner, grid.tile_px)
        else:
            _draw_gray_with_text(axes, gray_HWC, corner, grid.tile_px, NO_DIFFERENCE)


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


def _draw_heat_bar(axes: Axes, grid: PixelGrid, data: CamFigureData) -> None:
    """Draw the colors of the maps as they look over medium gray, and explain their scale."""
    note = "each image has its own scale" + ", shared by its maps" * (len(data.maps) > 1)
    if data.compares:
        note += "; difference: orange where predicted has more evidence, blue where actual has"
    x = (grid.width - _BAR_WIDTH) // 2
    y = grid.height - grid.footer_height + _FOOTER - MARGIN - _BAR_HEIGHT - 34
    strength_HW = np.linspace(0, 1, _BAR_WIDTH, dtype=np.float32)[None].repeat(_BAR_HEIGHT, axis=0)
    bar_HWC = blend_heatmap(np.full((_BAR_HEIGHT, _BAR_WIDTH, 3), 132, np.uint8), strength_HW)
    extent = (x, x + _BAR_WIDTH, y + _BAR_HEIGHT, y)
    axes.imshow(bar_HWC, extent=extent, aspect="auto", interpolation="nearest")
    small: dict[str, Any] = {"fontsize": style.SMALL, "color": style.TEXT_MUTED}
    axes.text(x + _BAR_WIDTH / 2, y - 10, note, ha="center", va="baseline", **small)
    axes.text(x, y + _BAR_HEIGHT + 8, "no evidence", ha="left", va="top", **small)
    axes.text(x + _BAR_WIDTH, y + _BAR_HEIGHT + 8, "maximum of the image", ha="right", va="top", **small)


def _draw_notes(axes: Axes, grid: PixelGrid, lines: Sequence[str]) -> None:
    top = grid.height - MARGIN - round(len(lines) * _NOTE_LINE) + 6
    for line_number, line in enumerate(lines):
        y = top + line_number * _NOTE_LINE
        axes.text(MARGIN, y, line, fontsize=style.SMALL, color=style.TEXT_MUTED, va="top")


def _wrap(text: str, max_width: float) -> list[str]:
    """Break a text into lines of at most `max_width` pixels."""
    lines: list[str] = []
    for word in escape(text).split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and style.text_width(longer, style.SMALL) <= max_width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
