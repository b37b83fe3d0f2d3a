"""The style of all figures, and how they are written to disk.

In: a size in inches or pixels. Out: an empty matplotlib Figure in the style of the suite; `save_figure` writes it.
"""

import functools
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from scsuite.core.errors import UsageError, escape
from scsuite.core.files import make_parent, write_atomic
from scsuite.report import formatting

Floats = NDArray[np.float64]

DPI = 150  # pixels per inch of a PNG
WIDTH = 9.0  # inches: 1350 pixels, so 10 points are 14 pixels where a README shows the figure 900 pixels wide

# Colors of Okabe and Ito: distinguishable for color-blind readers and in print, https://jfly.uni-koeln.de/color/
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
TEXT, TEXT_MUTED, GRID, BACKGROUND = "#222222", "#666666", "#E4E4E4", "#FFFFFF"
HEATMAP_CMAP = "cividis"  # uniform in lightness, and nearly the same for color-blind readers

LARGE, NORMAL, SMALL = 12.0, 10.0, 8.5  # points

FOOTER_HEIGHT, FOOTER_MARGIN, FOOTER_PT = 40, 30, 7.5  # pixels, pixels, points

SUFFIXES = (".png", ".svg", ".pdf")

# Fonts for the characters that DejaVu Sans lacks; those that are installed are used.
_FALLBACK_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic"),
    *("Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari"),
)

_RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.labelcolor": TEXT,
    "axes.labelsize": NORMAL,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": LARGE,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.dpi": DPI,
    "figure.facecolor": BACKGROUND,
    "figure.titlesize": LARGE,
    "font.size": NORMAL,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "image.composite_image": False,  # a vector file keeps the pixels of each image
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.8,
    "savefig.dpi": "figure",
    "svg.hashsalt": "scsuite",  # equal figures give equal files
    "text.color": TEXT,
    "text.parse_math": False,  # a class may be called $x$
    "xtick.color": "#999999",
    "xtick.labelcolor": TEXT_MUTED,
    "xtick.labelsize": SMALL,
    "ytick.color": "#999999",
    "ytick.labelcolor": TEXT_MUTED,
    "ytick.labelsize": SMALL,
}

# Settings that are not about style; matplotlib does not restore a changed backend.
_KEPT_RC = {"backend", "backend_fallback", "interactive", "toolbar", "timezone"}


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the style of the suite inside the block, and restore matplotlib's settings after it.

    A user's matplotlibrc is not used: with `text.usetex`, for example, a class name would be run as TeX.
    """
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name not in _KEPT_RC}
    # The type stubs of matplotlib want literal keys.
    settings: Any = {**defaults, **_RC, "font.family": _font_families()}
    with matplotlib.rc_context(settings):
        yield


@contextmanager
def new_figure(
    *, width: float = WIDTH, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    """Yield an empty figure of `width` x `height` inches, to be drawn inside the block.

    The layout is final after the block, so that a figure that is saved twice gives equal files.
    """
    with figure_style():
        figure = Figure(figsize=(width, height), layout=layout)
        yield figure
        if layout is not None:
            figure.draw_without_rendering()  # makes the ticks and applies the layout
            figure.set_layout_engine(None)


@contextmanager
def pixel_figure(*, width: int, height: int) -> Iterator[tuple[Figure, Axes]]:
    """Yield an empty page measured in pixels of the PNG, y downwards: images on whole pixels stay sharp."""
    # Half a thousandth of a pixel is added, since matplotlib truncates inches to whole pixels.
    inches = [(pixels + 0.0005) / DPI for pixels in (width, height)]
    with new_figure(width=inches[0], height=inches[1], layout=None) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_autoscale_on(False)
        axes.axis("off")
        yield figure, axes


def save_figure(figure: Figure, path: str | Path, footer: str = "") -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix of `path`. Equal figures give equal files.

    A `footer` (`formatting.footer`) is written into a strip that is added at the bottom of the page.
    The figure is rendered before the file is opened, so an error leaves no partial file. Raises UsageError for another
    suffix, OutputError when the file cannot be written.
    """
    path = Path(path)
    check_figure_suffix(path, "figure", path)
    rendered = render_figure(figure, path.suffix.lower(), footer)
    make_parent(path)
    write_atomic(path, rendered)


def render_figure(figure: Figure, suffix: str, footer: str = "") -> bytes:
    """Return a figure as the content of a PNG, SVG or PDF file; `suffix` is one of SUFFIXES."""
    without_date: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    rendered = io.BytesIO()
    with figure_style(), _footer_strip(figure, footer) as page:
        figure.savefig(rendered, format=suffix[1:], metadata=without_date.get(suffix, {}), bbox_inches=page)
    return rendered.getvalue()


@contextmanager
def _footer_strip(figure: Figure, footer: str) -> Iterator[Bbox | None]:
    """Write the footer below the page, and yield the page with that strip; the figure is as before after the block."""
    if not footer:
        yield None
        return
    width, height = figure.get_size_inches()
    strip, margin = FOOTER_HEIGHT / DPI, FOOTER_MARGIN / DPI  # inches
    max_width = 0.96 * (width * DPI - 2 * FOOTER_MARGIN)  # letters on whole pixels can be wider than in `text_width`
    line = formatting.truncate_middle(legible(footer), max_width, lambda part: text_width(part, FOOTER_PT))
    text = figure.text(
        margin / width, -strip / 2 / height, line, va="center", fontsize=FOOTER_PT, color=TEXT_MUTED, parse_math=False
    )
    try:
        yield Bbox.from_extents(0, -strip, width, height)
    finally:
        text.remove()


def check_figure_suffix(path: Path, what: str, where: object) -> None:
    """Raise UsageError, with `what` and `where`, for a suffix that `save_figure` cannot write."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            what, where, expected=f"a name ending in {', '.join(SUFFIXES)}", found=repr(path.name),
            hint="Change the ending.",
        )  # fmt: skip


def points_to_pixels(points: float) -> float:
    """Convert a length in points, the unit of font sizes, to pixels of a PNG."""
    return points * DPI / 72


def text_width(text: str, points: float) -> float:
    """Return the width of a line of text in pixels of a PNG; to be called inside `figure_style`."""
    width, _, _ = text_to_path.get_text_width_height_descent(
        text, font_manager.FontProperties(size=points), ismath=False
    )
    return points_to_pixels(width)


def legible(text: str) -> str:
    """Return a text on one line in which control characters, and those that no font has, are visible escapes."""
    return "".join(c if _has_glyph(c) else c.encode("unicode_escape").decode() for c in escape(text))


@functools.cache
def _has_glyph(character: str) -> bool:
    return character.isascii() or any(font.get_char_index(ord(character)) for font in _fonts())


@functools.cache
def _fonts() -> list[Any]:
    families = [font_manager.FontProperties(family=[family]) for family in _font_families()]
    return [font_manager.get_font(font_manager.findfont(properties)) for properties in families]


@functools.cache
def _font_families() -> list[str]:
    return ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in font_manager.get_font_names())]


def wrap_lines(text: str, max_width: float, points: float) -> list[str]:
    """Break a text into lines of at most `max_width` pixels; to be called inside `figure_style`."""
    lines: list[str] = []
    for word in legible(text).replace(" %", "\xa0%").split(" "):  # a number and its percent sign stay together
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, points) <= max_width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line.replace("\xa0", " ") for line in lines]


def set_title(figure: Figure, text: str) -> None:
    """Write the title at the left edge, truncated to the width of the figure."""
    max_width = 0.97 * figure.get_figwidth() * DPI
    title = formatting.truncate_middle(legible(text), max_width, lambda part: text_width(part, LARGE))
    figure.suptitle(title, x=0.015, ha="left", fontsize=LARGE)


def use_percent_ticks(axis: Axis) -> None:
    """Write the fractions along an axis as `25 %`."""
    axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def use_log_ticks(axes: Axes, low: float, high: float) -> None:
    """Write plain numbers (0.01, no powers) along a logarithmic x axis: decades, or 1, 2 and 5 if these are too few."""
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 3 else (1.0, 2.0, 5.0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12) if decades > 1 else MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def nan_for_invalid(values: "Sequence[float | None] | Floats") -> Floats:
    """Return floats, with NaN for what cannot be drawn: None and infinities."""
    numbers = np.array(values, dtype=np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers
