"""Figures of an evaluation: the confusion matrix, the accuracy of the classes and the reliability diagram.

In: counts and fractions. Out: a file. Shapes: K classes, B bins of confidence.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from scsuite.report import words
from scsuite.report.figures import style

COUNTED = 20  # classes; with more, a cell is too small for its count
LABEL = 6.0  # points; the smallest class name
SHARED = 12  # classes; with more, a cell is too small for its share as well
SHOWN = 100  # classes; the accuracies of more would make a page too long


def confusion(path: Path, *, matrix_KK: NDArray[np.int64], class_names: Sequence[str]) -> None:
    """How many images of each actual class (rows) were called what (columns); colours are shares of the row.

    A cell with room for both says its count and, below it, its share in percent.
    """
    num_classes = len(class_names)
    side = min(max(0.62 * num_classes, 3.2), 7.0) if num_classes <= COUNTED else min(max(0.115 * num_classes, 7.0), 12)
    cell = 72 * side / num_classes  # points
    # Beyond some 140 classes only every second, third ... name has room.
    every = max(1, math.ceil(LABEL / (0.8 * cell)))
    size = min(style.NORMAL, 0.8 * cell * every)
    names = [words.shorten(words.clean(name), 28) for name in class_names]
    room = 0.62 * size * max(map(words.columns, names), default=0) / 72  # inches, for the names
    turn = 0 if room < 0.9 * cell / 72 else 45 if num_classes <= COUNTED else 90
    below = max(room * math.sin(math.radians(turn)), 0.2)
    with style.sheet(path, width=side + room + 1.7, height=side + below + 0.6) as figure:
        axes = figure.subplots()
        totals_K1 = matrix_KK.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            confusion_normalized_KK = matrix_KK / totals_K1  # a class without images has no shares and stays pale
        # A root spreads the small shares, where the mistakes of a good network are; without counts colours say it all.
        root = 1 / 2 if num_classes <= COUNTED else 1 / 3
        picture = axes.imshow(
            confusion_normalized_KK,
            cmap=matplotlib.colormaps[style.MATRIX].with_extremes(bad=style.FAINT),
            norm=PowerNorm(root, vmin=0, vmax=1),
            interpolation="nearest",
        )
        ticks = range(0, num_classes, every)
        axes.set(xlabel="predicted", ylabel="actual", xticks=ticks, yticks=ticks)
        side_of = "right" if turn == 45 else "center"  # a slanting name ends at its column
        mode = "anchor" if turn == 45 else "default"
        axes.set_xticklabels([names[k] for k in ticks], fontsize=size, rotation=turn, ha=side_of, rotation_mode=mode)
        axes.set_yticklabels([names[k] for k in ticks], fontsize=size)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        if num_classes <= COUNTED:
            _counts(axes, matrix_KK, confusion_normalized_KK, cell)
        bar = figure.colorbar(
            picture, ax=axes, shrink=0.8, aspect=30, pad=0.02, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]
        )
        style.percent_ticks(bar.ax.yaxis)
        bar.set_label("share of the actual class", color=style.MUTED)
        bar.ax.spines[:].set_visible(False)


def _counts(axes: Axes, matrix_KK: NDArray[np.int64], confusion_normalized_KK: NDArray[np.float64], cell: float) -> None:
    """Each cell's count and share, dark on bright cells and bright on dark ones; thin lines between the cells."""
    digits = len(words.count(int(matrix_KK.max(initial=0))))
    size = min(11.0, 0.4 * cell, 1.5 * cell / digits)
    small = min(7.5, 0.28 * cell)
    both = len(matrix_KK) <= SHARED
    for row, column in np.ndindex(*matrix_KK.shape):
        count, share = int(matrix_KK[row, column]), float(confusion_normalized_KK[row, column])
        bright = not share < 0.3  # a row without images counts as bright
        look: dict[str, Any] = {"ha": "center", "color": style.INK if bright else style.PAPER}
        if both and count:
            up, down = 0.85 * small / cell, size / cell  # cells
            axes.text(column, row - up, words.count(count), va="center", fontsize=size, **look)
            axes.text(column, row + down, words.percent(share, 1), va="center", fontsize=small, **look)
        else:
            faded = 0.55 if count == 0 else 1.0
            axes.text(column, row, words.count(count), va="center", fontsize=size, alpha=faded, **look)
    edges = np.arange(1, len(matrix_KK)) - 0.5
    axes.hlines(edges, -0.5, len(matrix_KK) - 0.5, color=style.PAPER, linewidth=0.8)
    axes.vlines(edges, -0.5, len(matrix_KK) - 0.5, color=style.PAPER, linewidth=0.8)


def classes(
    path: Path, *, accuracy: Mapping[str, float], interval: Mapping[str, tuple[float, float]], mean: float
) -> None:
    """Each class's accuracy with its 95 % interval, the worst class on top; of more than SHOWN classes, the worst."""
    names = sorted(accuracy, key=lambda name: accuracy[name])[:SHOWN]
    size = style.NORMAL if len(names) <= COUNTED else LABEL
    with style.sheet(path, width=7.0, height=1.3 + len(names) * 1.7 * size / 72) as figure:
        many = f", the {len(names)} worst of {len(accuracy)}" if len(names) < len(accuracy) else ""
        style.title(figure, f"Accuracy of the classes{many}")
        axes = figure.subplots()
        left = math.floor(10 * min([mean, *(interval[name][0] for name in names)])) / 10
        for row, name in enumerate(names):
            axes.hlines(row, *interval[name], color=style.BLUE, alpha=0.35, linewidth=0.5 * size, clip_on=False)
            axes.plot(accuracy[name], row, color=style.BLUE, marker="o", markersize=0.5 * size, clip_on=False)
            axes.annotate(
                words.percent(accuracy[name], 1), (1, row), xytext=(8, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", va="center", fontsize=size, color=style.MUTED, annotation_clip=False,
            )  # fmt: skip
        axes.axvline(mean, color=style.VERMILION, linewidth=1, linestyle=(0, (4, 3)))
        label = f"mean of {'all ' if many else ''}classes {words.percent(mean, 1)}"
        axes.annotate(
            label, (mean, 1), xytext=(0, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right" if 2 * mean > 1 + left else "left", color=style.VERMILION, fontsize=style.SMALL,
        )  # fmt: skip
        axes.set(
            xlim=(left, 1),
            ylim=(len(names) - 0.4, -0.6),
            yticks=range(len(names)),
            xlabel="accuracy (recall) and 95 % interval",
        )
        axes.set_yticklabels([words.shorten(words.clean(name), 28) for name in names], fontsize=size)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # whole percents
        style.percent_ticks(axes.xaxis)


def reliability(
    path: Path,
    *,
    confidence_B: Sequence[float],
    accuracy_B: Sequence[float],
    count_B: Sequence[float],
    ece: float,
) -> None:
    """How often a network that says p is right, bin by bin, with the number of images in each bin below.

    A point stands at its bin's mean confidence; the line down to the diagonal is the bin's miscalibration.
    """
    with style.sheet(path, width=7.0, height=7.2) as figure:
        style.title(figure, f"Expected calibration error {words.percent(ece)}")
        curve, bars = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        filled = [b for b, count in enumerate(count_B) if count > 0 and math.isfinite(confidence_B[b])]
        confidence = np.array([confidence_B[b] for b in filled], dtype=np.float64)
        accuracy = np.array([accuracy_B[b] for b in filled], dtype=np.float64)
        count = np.array([count_B[b] for b in filled], dtype=np.float64)
        curve.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)))
        curve.vlines(confidence, confidence, accuracy, color=style.VERMILION, linewidth=5, alpha=0.35)
        curve.plot(confidence, accuracy, color=style.BLUE, marker="o", markersize=5, clip_on=False)
        curve.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
        style.percent_ticks(curve.yaxis)
        for text, x, y, side in (("underconfident", 0.03, 0.93, "left"), ("overconfident", 0.97, 0.05, "right")):
            curve.text(x, y, text, color=style.MUTED, ha=side, fontsize=style.SMALL)
        centres = [(b + 0.5) / len(count_B) for b in filled]  # of the bins, which are equally wide
        bars.bar(centres, count, width=0.9 / max(len(count_B), 1), color=style.BLUE, alpha=0.75)
        bars.set(xlabel="confidence", ylabel="images")
        style.percent_ticks(bars.xaxis)
        # Nearly all images of a trained network are in the last bin: a linear scale would show that one alone.
        bars.set_yscale("symlog", linthresh=1)
        bars.set_ylim(0, 6 * max(count.max(initial=1), 1))
        bars.set_yticks([0, *(10.0**p for p in range(0, 1 + int(math.log10(max(count.max(initial=1), 1)))))])
        bars.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        bars.minorticks_off()
        if len(filled) <= COUNTED:
            for x, number in zip(centres, count, strict=True):
                label = words.count(round(number))
                offset = {"xytext": (0, 2), "textcoords": "offset points"}
                bars.annotate(label, (x, number), ha="center", va="bottom", fontsize=7, **offset)
