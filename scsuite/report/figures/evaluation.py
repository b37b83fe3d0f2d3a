"""The figures of an evaluation: confusion matrix, accuracy of each class, reliability diagram.

In: an `Evaluation`. Out: a Figure. Shapes: K classes, B bins of confidence.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from scsuite.report import formatting
from scsuite.report.figures import style
from scsuite.report.figures.style import Floats

if TYPE_CHECKING:
    from scsuite.core.evaluation.metrics import ClassMetrics, Evaluation

MAX_CLASSES_WITH_COUNTS = 20  # with more, a cell is too small for its count
MAX_CLASSES_WITH_PERCENT = 12  # with more, a cell is too small for its percentage as well
MAX_CLASSES_DRAWN = 100  # in the figure of accuracies, which would get too long
MIN_LABEL_PT = 6.0  # the smallest class name
MAX_NAME_WIDTH = 28  # characters

_DASHED = (0, (4, 3))


@dataclass(frozen=True)
class _ConfusionLayout:
    """Sizes of the confusion matrix; a matrix of many classes is larger and has smaller labels."""

    matrix_in: float
    cell_pt: float
    label_pt: float
    label_step: int  # every n-th class is named
    names: tuple[str, ...]
    names_in: float  # width of the longest name
    rotation: int  # degrees, of the names below

    @property
    def width(self) -> float:
        """Inches of the figure."""
        return self.matrix_in + self.names_in + 1.7

    @property
    def height(self) -> float:
        """Inches of the figure."""
        return self.matrix_in + max(self.names_in * math.sin(math.radians(self.rotation)), 0.2) + 0.6


def _confusion_layout(class_names: tuple[str, ...]) -> _ConfusionLayout:
    num_classes = len(class_names)
    few = num_classes <= MAX_CLASSES_WITH_COUNTS
    matrix_in = min(max(0.62 * num_classes, 3.2), 7.0) if few else min(max(0.115 * num_classes, 7.0), 12)
    cell_pt = 72 * matrix_in / num_classes
    label_step = max(1, math.ceil(MIN_LABEL_PT / (0.8 * cell_pt)))  # above 1 from about 140 classes on
    label_pt = min(style.NORMAL, 0.8 * cell_pt * label_step)
    names = tuple(formatting.truncate_middle(style.legible(name), MAX_NAME_WIDTH) for name in class_names)
    names_in = 0.62 * label_pt * max(map(formatting.display_width, names), default=0) / 72
    rotation = 0 if names_in < 0.9 * cell_pt / 72 else 45 if few else 90
    return _ConfusionLayout(matrix_in, cell_pt, label_pt, label_step, names, names_in, rotation)


def confusion(evaluation: "Evaluation") -> Figure:
    """Draw how many images of each actual class (rows) were predicted as which class (columns).

    Colors show fractions of the row. A cell with enough space holds its count and, below it, its percentage.
    """
    layout = _confusion_layout(evaluation.class_names)
    num_classes = len(layout.names)
    counts_KK = evaluation.confusion_KK
    # A class without images has no fractions and stays pale.
    fractions_KK = np.where(counts_KK.sum(axis=1, keepdims=True) > 0, evaluation.confusion_normalized_KK, np.nan)
    with style.new_figure(width=layout.width, height=layout.height) as figure:
        axes = figure.subplots()
        # A root spreads the small fractions, where the mistakes of a good network are.
        gamma = 1 / 2 if num_classes <= MAX_CLASSES_WITH_COUNTS else 1 / 3
        matrix = axes.imshow(
            fractions_KK,
            cmap=matplotlib.colormaps[style.HEATMAP_CMAP].with_extremes(bad=style.GRID),
            norm=PowerNorm(gamma, vmin=0, vmax=1),
            interpolation="nearest",
        )
        _label_classes(axes, layout)
        if num_classes <= MAX_CLASSES_WITH_COUNTS:
            _write_counts(axes, counts_KK, fractions_KK, layout.cell_pt)
        _draw_color_bar(figure, axes, matrix)
    return figure


def _label_classes(axes: Axes, layout: _ConfusionLayout) -> None:
    ticks = range(0, len(layout.names), layout.label_step)
    axes.set(xlabel="predicted", ylabel="actual", xticks=ticks, yticks=ticks)
    names = [layout.names[k] for k in ticks]
    is_slanted = layout.rotation == 45  # a slanted name ends at its column
    axes.set_xticklabels(
        names, fontsize=layout.label_pt, rotation=layout.rotation, ha="right" if is_slanted else "center",
        rotation_mode="anchor" if is_slanted else "default",
    )  # fmt: skip
    axes.set_yticklabels(names, fontsize=layout.label_pt)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _draw_color_bar(figure: Figure, axes: Axes, matrix: AxesImage) -> None:
    ticks = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]
    bar = figure.colorbar(matrix, ax=axes, shrink=0.8, aspect=30, pad=0.02, ticks=ticks)
    style.use_percent_ticks(bar.ax.yaxis)
    bar.set_label("fraction of the actual class", color=style.TEXT_MUTED)
    bar.ax.spines[:].set_visible(False)


def _write_counts(axes: Axes, counts_KK: NDArray[np.int64], fractions_KK: Floats, cell_pt: float) -> None:
    """Write count and percentage of each cell, dark on bright cells and bright on dark ones, and separate the cells."""
    num_digits = len(formatting.count(int(counts_KK.max(initial=0))))
    count_pt = min(11.0, 0.4 * cell_pt, 1.5 * cell_pt / num_digits)
    percent_pt = min(7.5, 0.28 * cell_pt)
    with_percent = len(counts_KK) <= MAX_CLASSES_WITH_PERCENT
    for row, column in np.ndindex(*counts_KK.shape):
        count, fraction = int(counts_KK[row, column]), float(fractions_KK[row, column])
        is_bright = not fraction < 0.3  # true for NaN: a row without images is pale
        font: dict[str, Any] = {"ha": "center", "color": style.TEXT if is_bright else style.BACKGROUND}
        if with_percent and count:
            up, down = 0.85 * percent_pt / cell_pt, count_pt / cell_pt  # cells
            axes.text(column, row - up, formatting.count(count), va="center", fontsize=count_pt, **font)
            axes.text(column, row + down, formatting.percent(fraction, 1), va="center", fontsize=percent_pt, **font)
        else:
            alpha = 0.55 if count == 0 else 1.0
            axes.text(column, row, formatting.count(count), va="center", fontsize=count_pt, alpha=alpha, **font)
    edges = np.arange(1, len(counts_KK)) - 0.5
    axes.hlines(edges, -0.5, len(counts_KK) - 0.5, color=style.BACKGROUND, linewidth=0.8)
    axes.vlines(edges, -0.5, len(counts_KK) - 0.5, color=style.BACKGROUND, linewidth=0.8)


def class_accuracy(evaluation: "Evaluation") -> Figure:
    """Draw the accuracy of each class with its 95 % interval, the worst class on top.

    Of more than MAX_CLASSES_DRAWN classes the worst are drawn. A class without images is left out.
    """
    classes = sorted((row for row in evaluation.per_class() if row.support), key=lambda row: row.recall or 0.0)
    rows, mean = classes[:MAX_CLASSES_DRAWN], evaluation.macro().recall
    all_drawn = len(rows) == len(classes)
    label_pt = style.NORMAL if len(rows) <= MAX_CLASSES_WITH_COUNTS else MIN_LABEL_PT
    with style.new_figure(width=7.0, height=1.3 + len(rows) * 1.7 * label_pt / 72) as figure:
        suffix = "" if all_drawn else f", the {len(rows)} worst of {len(classes)}"
        num_empty = len(evaluation.class_names) - len(classes)
        suffix += f" ({num_empty} without images)" if num_empty else ""
        style.set_title(figure, f"Accuracy of the classes{suffix}")
        axes = figure.subplots()
        left = math.floor(10 * min([mean, *(row.recall_ci95[0] for row in rows if row.recall_ci95)])) / 10
        _draw_accuracies(axes, rows, label_pt)
        axes.axvline(mean, color=style.VERMILION, linewidth=1, linestyle=_DASHED)
        label = f"mean of {'' if all_drawn else 'all '}classes {formatting.percent(mean, 1)}"
        axes.annotate(
            label, (mean, 1), xytext=(0, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="right" if 2 * mean > 1 + left else "left", color=style.VERMILION, fontsize=style.SMALL,
        )  # fmt: skip
        axes.set(xlim=(left, 1), xlabel="accuracy (recall) and 95 % interval")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # whole percents
        style.use_percent_ticks(axes.xaxis)
    return figure


def _draw_accuracies(axes: Axes, rows: "list[ClassMetrics]", label_pt: float) -> None:
    for y, row in enumerate(rows):
        assert row.recall is not None  # the row of a class with images
        assert row.recall_ci95 is not None
        low, high = row.recall_ci95
        axes.hlines(y, low, high, color=style.BLUE, alpha=0.35, linewidth=0.5 * label_pt, clip_on=False)
        axes.plot(row.recall, y, color=style.BLUE, marker="o", markersize=0.5 * label_pt, clip_on=False)
        axes.annotate(
            formatting.percent(row.recall, 1), (1, y), xytext=(8, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=label_pt, color=style.TEXT_MUTED, annotation_clip=False,
        )  # fmt: skip
    axes.set(ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)))
    names = [formatting.truncate_middle(style.legible(row.name), MAX_NAME_WIDTH) for row in rows]
    axes.set_yticklabels(names, fontsize=label_pt)
    axes.tick_params(axis="y", length=0)


def reliability(evaluation: "Evaluation") -> Figure:
    """Draw accuracy over confidence, bin by bin, with the number of images of each bin below.

    A point stands at the mean confidence of its bin; the line to the diagonal is the miscalibration of the bin.
    """
    calibration = evaluation.calibration
    filled_B = (calibration.count_B > 0) & np.isfinite(calibration.confidence_B)
    confidence, accuracy = calibration.confidence_B[filled_B], calibration.accuracy_B[filled_B]
    with style.new_figure(width=7.0, height=7.2) as figure:
        style.set_title(figure, f"Expected calibration error {formatting.percent(calibration.ece)}")
        curve, bars = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        curve.plot([0, 1], [0, 1], color=style.TEXT_MUTED, linewidth=1, linestyle=_DASHED)
        curve.vlines(confidence, confidence, accuracy, color=style.VERMILION, linewidth=5, alpha=0.35)
        curve.plot(confidence, accuracy, color=style.BLUE, marker="o", markersize=5, clip_on=False)
        curve.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
        style.use_percent_ticks(curve.yaxis)
        for text, x, y, side in (("underconfident", 0.03, 0.93, "left"), ("overconfident", 0.97, 0.05, "right")):
            curve.text(x, y, text, color=style.TEXT_MUTED, ha=side, fontsize=style.SMALL)
        centers_B = (np.arange(len(filled_B)) + 0.5) / len(filled_B)  # the bins are equally wide
        _draw_bin_counts(bars, centers_B[filled_B], calibration.count_B[filled_B], 0.9 / len(filled_B))
    return figure


def _draw_bin_counts(axes: Axes, centers: Floats, counts: NDArray[np.int64], width: float) -> None:
    axes.bar(centers, counts, width=width, color=style.BLUE, alpha=0.75)
    axes.set(xlabel="confidence", ylabel="images")
    style.use_percent_ticks(axes.xaxis)
    # The last bin holds nearly all images of a trained network: a linear scale would show no other bin.
    axes.set_yscale("symlog", linthresh=1)
    highest = max(counts.max(initial=1), 1)
    axes.set_ylim(0, 6 * highest)
    axes.set_yticks([0, *(10.0**power for power in range(0, 1 + int(math.log10(highest))))])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    if len(centers) <= MAX_CLASSES_WITH_COUNTS:
        for x, count in zip(centers, counts, strict=True):
            axes.annotate(
                formatting.count(count), (x, count), ha="center", va="bottom", fontsize=7, xytext=(0, 2),
                textcoords="offset points",
            )  # fmt: skip
