"""The one look of all figures, and the one way that they reach the disk.

In: a path and a size. Out: an empty figure in the suite's style, written when its `with` block ends.
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from scsuite.core.errors import UsageError
from scsuite.core.files import commit, make_parent
from scsuite.report import words

DPI = 150  # pixels per inch of a PNG
WIDTH = 9.0  # inches: 1350 pixels, so 10 points are 14 pixels where a README shows the figure 900 pixels wide

# Hues of Okabe and Ito that colour-blind readers tell apart and that differ in print, https://jfly.uni-koeln.de/color/
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
INK, MUTED, FAINT, PAPER = "#222222", "#666666", "#E4E4E4", "#FFFFFF"
MATRIX = "cividis"  # even in lightness, the same for most colour-blind eyes

LARGE, NORMAL, SMALL = 12.0, 10.0, 8.5  # points

FORMATS = (".png", ".svg", ".pdf")

# Letters that DejaVu Sans lacks come from those of these that are installed.
_FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic"),
    *("Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari"),
)

_LOOK: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": NORMAL,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": LARGE,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.dpi": DPI,
    "figure.facecolor": PAPER,
    "figure.titlesize": LARGE,
    "font.size": NORMAL,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "image.composite_image": False,  # one by one, so that a vector file keeps each picture's own pixels
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.8,
    "savefig.dpi": "figure",
    "svg.hashsalt": "scsuite",  # the same figure is the same file
    "text.color": INK,
    "text.parse_math": False,  # names come from outside: $x$ is a name, not a formula
    "xtick.color": "#999999",
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.color": "#999999",
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": SMALL,
}

# These say where figures go, not how they look; matplotlib does not give a changed backend back.
_NOT_LOOKS = {"backend", "backend_fallback", "interactive", "toolbar", "timezone"}


@contextmanager
def look() -> Iterator[None]:
    """The suite's look while the block runs; matplotlib's own settings come back after it.

    A user's matplotlibrc is set aside meanwhile: with `text.usetex`, say, a class name would be a program.
    """
    plain = {name: value for name, value in matplotlib.rcParamsDefault.items() if name not in _NOT_LOOKS}
    family = ["DejaVu Sans", *(name for name in _FALLBACKS if name in font_manager.get_font_names())]
    settings: Any = {**plain, **_LOOK, "font.family": family}  # matplotlib's stubs want every key spelt out
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Where no installed font has a letter, a box stands for it; that is no news for someone who is training.
        warnings.filterwarnings("ignore", message="(?s)Glyph .* missing from")
        yield


@contextmanager
def sheet(
    path: Path, *, width: float = WIDTH, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    """An empty figure of `width` x `height` inches, written to `path` when the block ends without an error."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            "figure",
            path,
            expected=f"a name ending in {', '.join(FORMATS)}",
            found=path.suffix or "no ending",
            hint="Give it one of these endings.",
        )
    with look():
        figure = Figure(figsize=(width, height), layout=layout)
        yield figure
        write(figure, path)


def write(figure: Figure, path: Path) -> None:
    """Render first and write after: a figure that cannot be drawn, or not be written, leaves no half a file."""
    kind = path.suffix.lower()[1:]
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    rendered = io.BytesIO()
    figure.savefig(rendered, format=kind, metadata=undated.get(kind, {}))
    make_parent(path)
    commit(path, rendered.getvalue())


@contextmanager
def canvas(path: Path, *, width: int, height: int) -> Iterator[Axes]:
    """A blank page measured in the PNG's pixels, y downwards: pictures on whole pixels stay sharp."""
    # Half a thousandth of a pixel more, since the size is cut to whole pixels after it went through inches.
    inches = [(pixels + 0.0005) / DPI for pixels in (width, height)]
    with sheet(path, width=inches[0], height=inches[1], layout=None) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_autoscale_on(False)
        axes.axis("off")
        yield axes


def pixels_of(points: float) -> float:
    """Pixels of a PNG that a length in points (the unit of type) takes."""
    return points * DPI / 72


def width_of(text: str, points: float) -> float:
    """Pixels of a PNG that a line of text takes at this size, in the suite's look."""
    width, _, _ = text_to_path.get_text_width_height_descent(
        text, font_manager.FontProperties(size=points), ismath=False
    )
    return pixels_of(width)


def title(figure: Figure, text: str) -> None:
    """The figure's title, at its left edge; a long name in it is shortened to the figure's width."""
    room = 0.97 * figure.get_figwidth() * DPI
    short = words.shorten(text, room, lambda part: width_of(part, LARGE))
    figure.suptitle(short, x=0.015, ha="left", fontsize=LARGE)


def percent_ticks(axis: Axis) -> None:
    """Fractions along an axis, written as `25 %`."""
    axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def log_ticks(axes: Axes, low: float, high: float) -> None:
    """Plain numbers (0.01, not a power) along a logarithmic x axis; 1, 2 and 5 where decades alone are too few."""
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 3 else (1.0, 2.0, 5.0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12) if decades > 1 else MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
