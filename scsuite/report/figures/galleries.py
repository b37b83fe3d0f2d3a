"""Figures made of pictures: augmented images, mistakes, Grad-CAM overlays.

In: uint8 images, with words and maps for each. Out: a file.
Shapes: N images of H x W pixels, C = 3 (RGB); sizes may differ where a sequence of arrays is given.

Everything is placed in whole pixels on one page (`style.canvas`): a 32x32 image is enlarged by a whole number, without
blur, and a thousand of them take one set of axes instead of a thousand.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scsuite.core.files import commit, make_parent
from scsuite.report import words
from scsuite.report.figures import style

Image = NDArray[np.uint8]  # HWC, or HW for grey
Map = NDArray[np.float32]  # HW

NO_EVIDENCE = "no positive evidence"
NO_DIFFERENCE = "no difference"
ROW = 5  # mistakes in a row, up to five rows; twice as many beyond

_MARGIN, _HEAD, _FOOT = 30, 64, 120  # pixels: around the page, for the title, for the bar of colours
_GAP, _GROUP_GAP, _ROW_GAP = 8, 34, 18  # pixels: between the tiles of one image, between images, between rows
_NOTE_LINE = 1.4 * style.pixels_of(style.SMALL)  # pixels: a line under a figure
_SINGLE = 512  # pixels, of an overlay of its own
_WIDE = 1290  # pixels that a page aims at, margins left out
_NARROW = 760  # pixels; no page is narrower, so that a single image has room for its title
_HEAT = "inferno"  # rises evenly in lightness
_PAIR = ("predicted", "actual")  # maps that are also drawn as a difference
_DIFFERENCE = "difference"


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Where tiles stand: `columns` groups in a row, each of `tiles` pictures side by side, captions above them."""

    tile: int  # pixels
    columns: int
    rows: int
    tiles: int = 1
    lines: int = 2  # of caption
    points: float = style.SMALL  # of the caption
    foot: int = 0

    @property
    def line(self) -> float:
        return 1.25 * style.pixels_of(self.points)

    @property
    def group(self) -> int:
        return self.tiles * (self.tile + _GAP) - _GAP

    @property
    def between(self) -> int:
        return _GROUP_GAP if self.tiles > 1 else 2 * _GAP

    @property
    def row(self) -> int:
        return round(self.lines * self.line) + 6 + self.tile + _ROW_GAP

    @property
    def width(self) -> int:
        return max(2 * _MARGIN + self.columns * (self.group + self.between) - self.between, _NARROW)

    @property
    def height(self) -> int:
        return _HEAD + self.rows * self.row - _ROW_GAP + self.foot + _MARGIN

    def corner(self, index: int, tile: int = 0) -> tuple[int, int]:
        """The upper left pixel of a tile of the group `index`."""
        row, column = divmod(index, self.columns)
        x = _MARGIN + column * (self.group + self.between) + tile * (self.tile + _GAP)
        return x, _HEAD + (row + 1) * self.row - _ROW_GAP - self.tile


def _grid(num_images: int, columns: int, tiles: int = 1, **facts: Any) -> _Grid:
    """Tiles as large as the page's width allows, by whole multiples of 32 pixels."""
    columns = max(1, min(columns, num_images))
    factor = min(max(round(_WIDE / (columns * tiles * (32 + 1))), 5), 7)
    return _Grid(tile=32 * factor, columns=columns, rows=-(-num_images // columns), tiles=tiles, **facts)


def image_grid(
    images_NHWC: Sequence[Image] | Image, path: Path, *, titles: Sequence[str], columns: int = 8, title: str
) -> None:
    """Small images, enlarged without blur, each under its own title."""
    if not len(images_NHWC):
        _nothing(path, "No images to show.")
        return
    grid = _fitted(_grid(len(images_NHWC), columns), titles)
    with style.canvas(path, width=grid.width, height=grid.height) as axes:
        _title(axes, grid, title)
        for index, (image, name) in enumerate(zip(images_NHWC, titles, strict=True)):
            _caption(axes, grid, grid.corner(index), name)
            _picture(axes, image, grid.corner(index), grid.tile)


def misclassified(
    images_NHWC: Sequence[Image] | Image,
    path: Path,
    *,
    actual: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
    total: int,
) -> None:
    """Images that the network got wrong, five in a row (ten where there are more than 25); `total` is how many it did.

    Each says what it is, what the network said, and with which probability.
    """
    shown = len(images_NHWC)
    if not shown:
        _nothing(path, f"{total:,} misclassified images, none shown." if total else "No misclassified images.")
        return
    many = shown > ROW * ROW
    grid = _grid(shown, 2 * ROW if many else ROW, points=6.5 if many else style.SMALL)
    with style.look():
        captions = [_mistake(grid, *facts) for facts in zip(actual, predicted, confidence, strict=True)]
    grid = replace(grid, lines=max(map(len, captions)))
    plural = "" if total == 1 else "s"
    with style.canvas(path, width=grid.width, height=grid.height) as axes:
        _title(
            axes, grid, f"{total:,} misclassified image{plural}" + (f", the most confident {shown:,}" * (total > shown))
        )
        for index, image in enumerate(images_NHWC):
            x, y = grid.corner(index)
            for below, (line, colour) in enumerate(captions[index], start=1 - len(captions[index])):
                axes.text(x, y - 7 + below * grid.line, line, fontsize=grid.points, color=colour)
            _picture(axes, image, (x, y), grid.tile)


def _mistake(grid: _Grid, actual: str, predicted: str, confidence: float) -> list[tuple[str, str]]:
    """Two to four lines over a tile, each with its colour; the number stays whole, whatever the name."""
    width = partial(style.width_of, points=grid.points)
    surely = f" {confidence:.2f}"
    true = words.wrap(f"true {words.clean(actual)}", grid.tile - 4, width)
    said = words.wrap(f"said {words.clean(predicted)}", grid.tile - 4 - width(surely), width)
    said[-1] += surely
    return [(line, style.INK) for line in true] + [(line, style.VERMILION) for line in said]


def gradcam(
    images_NHWC: Sequence[Image] | Image,
    path: Path,
    *,
    maps: Mapping[str, Sequence[Map] | Map],
    captions: Sequence[Mapping[str, str]],
    columns: int = 2,
    title: str,
    notes: Sequence[str] = (),
) -> None:
    """Each image, then what spoke for each class of `maps` (name -> N maps, >= 0, not normalised) over it in grey.

    An image's maps share one scale, so that the weaker of two looks weaker; a map without positive evidence says so.
    Predicted and actual are followed by their difference. `captions` holds the words over each tile: under "image" and
    under the name of each map. `notes` are lines under it all.
    """
    if not len(images_NHWC):
        _nothing(path, "No images to explain.")
        return
    paired = tuple(maps) == _PAIR
    grid = _grid(len(images_NHWC), columns, tiles=1 + len(maps) + paired, points=8)
    notes = [line for note in notes for line in _fill(note, grid.width - 2 * _MARGIN)]
    grid = replace(grid, foot=_FOOT + round(len(notes) * _NOTE_LINE))
    grid = _fitted(grid, [words_of.get(name, name) for words_of in captions for name in ("image", *maps)])
    with style.canvas(path, width=grid.width, height=grid.height) as axes:
        _title(axes, grid, title)
        for index, image in enumerate(images_NHWC):
            _caption(axes, grid, grid.corner(index), captions[index].get("image", "image"))
            _picture(axes, image, grid.corner(index), grid.tile)
            strongest = max((_strength(of_class[index]) for of_class in maps.values()), default=0.0)
            for tile, (name, of_class) in enumerate(maps.items(), start=1):
                corner = grid.corner(index, tile)
                _caption(axes, grid, corner, captions[index].get(name, name))
                _map_tile(axes, corner, grid.tile, _grey(image), of_class[index], strongest)
            if paired:
                corner = grid.corner(index, 1 + len(maps))
                _caption(axes, grid, corner, _DIFFERENCE)
                apart_HW = maps["predicted"][index] - maps["actual"][index]
                _difference_tile(axes, corner, grid.tile, _grey(image), apart_HW, strongest)
        said = "each image has its own scale" + ", shared by its maps" * (len(maps) > 1)
        _heat_bar(axes, grid, said + "; difference: orange where more speaks for predicted, blue for actual" * paired)
        _notes(axes, grid, notes)


def _map_tile(axes: Axes, corner: tuple[int, int], tile: int, grey_HWC: Image, map_HW: Map, strongest: float) -> None:
    if _strength(map_HW) > 0:
        _picture(axes, overlay(grey_HWC, np.nan_to_num(map_HW) / strongest), corner, tile)
        return
    width, height = _picture(axes, grey_HWC, corner, tile)
    _plate(axes, (corner[0] + width / 2, corner[1] + height / 2), NO_EVIDENCE)


def _plate(axes: Axes, centre: tuple[float, float], text: str) -> None:
    """A word a line, on white."""
    plate = {"facecolor": style.PAPER, "alpha": 0.85, "linewidth": 0, "pad": 3}
    axes.text(*centre, text.replace(" ", "\n"), ha="center", va="center", fontsize=8, bbox=plate)


def _difference_tile(
    axes: Axes, corner: tuple[int, int], tile: int, grey_HWC: Image, apart_HW: Map, strongest: float
) -> None:
    if _strength(np.abs(apart_HW)) > 0:
        _picture(axes, difference(grey_HWC, np.nan_to_num(apart_HW) / strongest), corner, tile)
        return
    width, height = _picture(axes, grey_HWC, corner, tile)
    _plate(axes, (corner[0] + width / 2, corner[1] + height / 2), NO_DIFFERENCE)


def _strength(map_HW: Map) -> float:
    """The largest value of a map; 0 where it has none above that."""
    finite = map_HW[np.isfinite(map_HW)]
    return float(finite.max(initial=0))


def overlay(grey_HWC: Image, strength_HW: NDArray[np.float32]) -> Image:
    """Heat over a grey picture: the stronger (0 to 1), the brighter and the less of the picture shines through."""
    strength = np.clip(strength_HW, 0, 1)
    heat_HWC = matplotlib.colormaps[_HEAT](0.15 + 0.8 * strength)[..., :3] * 255
    cover = (0.75 * np.sqrt(strength))[..., None]
    mixed: Image = np.rint((1 - cover) * grey_HWC + cover * heat_HWC).astype(np.uint8)
    return mixed


def difference(grey_HWC: Image, apart_HW: NDArray[np.float32]) -> Image:
    """Orange over a grey picture where a difference (-1 to 1) is above 0, blue where it is below."""
    tints = [np.array(matplotlib.colors.to_rgb(hue)) * 255 for hue in (style.VERMILION, style.BLUE)]
    tint_HWC = np.where(apart_HW[..., None] > 0, *tints)
    cover = 0.95 * np.clip(np.abs(apart_HW), 0, 1)[..., None]
    mixed: Image = np.rint((1 - cover) * grey_HWC + cover * tint_HWC).astype(np.uint8)
    return mixed


def single_overlay(image: Image, path: Path, map_HW: Map, strongest: float) -> None:
    """One map over its image as a picture of its own, enlarged by a whole number to about `_SINGLE` pixels.

    `strongest` is what the image's maps share as their scale; a map without evidence leaves the picture grey.
    """
    mixed = overlay(_grey(image), np.nan_to_num(map_HW) / (strongest or 1))
    factor = max(1, _SINGLE // max(mixed.shape[:2]))
    encoded = io.BytesIO()
    matplotlib.image.imsave(encoded, mixed.repeat(factor, axis=0).repeat(factor, axis=1), format="png")
    make_parent(path)
    commit(path, encoded.getvalue())


def _grey(image: Image) -> Image:
    """Luma (ITU-R BT.601) in three equal channels, somewhat towards the middle so that colours stand out on it."""
    luma_HW = image[..., :3] @ np.array([0.299, 0.587, 0.114]) if image.ndim == 3 else image
    return np.repeat(np.rint(30 + 0.8 * luma_HW).astype(np.uint8)[..., None], 3, axis=-1)


def _heat_bar(axes: Axes, grid: _Grid, note: str) -> None:
    """The overlay's colours as they look on middle grey."""
    width, height = 520, 22
    x, y = (grid.width - width) // 2, grid.height - grid.foot + _FOOT - _MARGIN - height - 34
    strength = np.linspace(0, 1, width, dtype=np.float32)[None].repeat(height, axis=0)
    ramp = overlay(np.full((height, width, 3), 132, np.uint8), strength)
    axes.imshow(ramp, extent=(x, x + width, y + height, y), aspect="auto", interpolation="nearest")
    small: dict[str, Any] = {"fontsize": style.SMALL, "color": style.MUTED}
    axes.text(x + width / 2, y - 10, note, ha="center", va="baseline", **small)
    axes.text(x, y + height + 8, "no evidence", ha="left", va="top", **small)
    axes.text(x + width, y + height + 8, "the image's strongest", ha="right", va="top", **small)


def _notes(axes: Axes, grid: _Grid, lines: Sequence[str]) -> None:
    below = grid.height - _MARGIN - round(len(lines) * _NOTE_LINE) + 6
    for number, line in enumerate(lines):
        axes.text(_MARGIN, below + number * _NOTE_LINE, line, fontsize=style.SMALL, color=style.MUTED, va="top")


def _fill(text: str, room: float) -> list[str]:
    """A text on as many lines as it takes."""
    lines: list[str] = []
    for word in words.clean(text).split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and style.width_of(longer, style.SMALL) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _picture(axes: Axes, image: Image, corner: tuple[int, int], tile: int) -> tuple[int, int]:
    """An image in the upper left of a square tile, its proportions kept; returns the width and height it took."""
    rows, columns = image.shape[:2]
    stride = max(1, max(rows, columns) // (4 * tile))  # a photograph of 20 megapixels needs no more than the page has
    scale = tile / max(rows, columns)
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


def _lines(grid: _Grid, text: str) -> list[str]:
    return words.wrap(words.clean(text), grid.tile - 4, partial(style.width_of, points=grid.points))


def _fitted(grid: _Grid, texts: Sequence[str]) -> _Grid:
    """The same grid with as many lines of caption as its texts take."""
    with style.look():
        return replace(grid, lines=max((len(_lines(grid, text)) for text in texts), default=0))


def _caption(axes: Axes, grid: _Grid, corner: tuple[int, int], text: str) -> None:
    """One or two lines that end just above a tile and are no wider than it."""
    for up, line in enumerate(reversed(_lines(grid, text))):
        axes.text(corner[0], corner[1] - 7 - up * grid.line, line, fontsize=grid.points)


def _title(axes: Axes, grid: _Grid, text: str) -> None:
    width = partial(style.width_of, points=style.LARGE)
    short = words.shorten(words.clean(text), grid.width - 2 * _MARGIN, width)
    axes.text(_MARGIN, 20, short, fontsize=style.LARGE, va="top")


def _nothing(path: Path, text: str) -> None:
    """A small page with a sentence where there is nothing to show."""
    with style.canvas(path, width=900, height=220) as axes:
        axes.text(450, 110, text, ha="center", va="center", fontsize=style.LARGE, color=style.MUTED)
