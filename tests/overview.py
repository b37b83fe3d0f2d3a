"""The wide picture at the top of README.md: range test, cycle, training and Grad-CAM of one training, side by side.

In: the directories of an `lr-range` run, a `train` run and a `gradcam --save-overlays` run. Out: one PNG.

    python -m tests.overview LR_RANGE_RUN TRAIN_RUN GRADCAM_RUN OUT.png
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.ticker import LogLocator, MaxNLocator

from scsuite.core.lr_range.sweep import smooth, smoothing_window
from scsuite.core.runs.csv_files import read_csv
from scsuite.core.runs.results import read_epochs, read_result, read_steps
from scsuite.report import formatting
from scsuite.report.figures import save_figure, style

WIDTH, HEIGHT = 12.0, 2.8  # inches: 1800 x 420 pixels


def overview(lr_range_run: Path, train_run: Path, gradcam_run: Path) -> Figure:
    """Draw the four stages, from left to right."""
    with style.new_figure(width=WIDTH, height=HEIGHT) as figure:
        range_test, cycle, accuracy, *maps = figure.subplots(1, 5, width_ratios=[1.35, 1.2, 1.35, 1, 1])
        draw_range_test(range_test, lr_range_run)
        draw_training(cycle, accuracy, train_run)
        draw_maps(maps, gradcam_run)
    return figure


def draw_range_test(axes: Axes, run: Path) -> None:
    """Draw the loss of the first repeat over the learning rate, and the LR bounds."""
    result = read_result(run, "lr-range")
    header, *rows = read_csv(run / "history.csv")
    values = [dict(zip(header, map(float, row), strict=True)) for row in rows]
    lrs_L, losses_L = (np.array([row[key] for row in values if row["repeat"] == 0]) for key in ("lr", "loss"))
    smooth_L = smooth(losses_L, smoothing_window(len(losses_L)))
    axes.scatter(lrs_L, losses_L, s=4, color=style.BLUE, alpha=0.3, linewidths=0)
    axes.plot(lrs_L, smooth_L, color=style.BLUE)
    axes.axvspan(result["lr_min"], result["lr_max"], color=style.ORANGE, alpha=0.2, linewidth=0)
    style.use_log_ticks(axes, lrs_L.min(), lrs_L.max())
    axes.xaxis.set_major_locator(LogLocator())  # powers of ten: the panel is narrow
    drop = smooth_L[0] - smooth_L.min()
    axes.set_ylim(smooth_L.min() - 0.4 * drop, smooth_L[0] + 0.4 * drop)
    low, high = (formatting.learning_rate(result[key]) for key in ("lr_min", "lr_max"))
    label(axes, f"1  Range test: {low} to {high}", "learning rate", "loss")


def draw_training(cycle: Axes, accuracy: Axes, run: Path) -> None:
    """Draw the learning rate of each step, and the accuracies of each epoch."""
    epochs, steps = read_epochs(run), read_steps(run)
    steps_per_epoch = epochs[0].step / epochs[0].epoch
    cycle.plot([(row.step + 1) / steps_per_epoch for row in steps], [row.lr for row in steps], color=style.ORANGE)
    label(cycle, "2  One cycle", "epoch", "learning rate")
    test_accuracy = read_result(run, "train")["final"]["test_accuracy"]
    numbers = [row.epoch for row in epochs]
    train = style.nan_for_invalid([row.train_accuracy for row in epochs])
    accuracy.plot(numbers, 100 * train, color=style.BLUE, label="train")
    test = style.nan_for_invalid([row.test_accuracy for row in epochs])
    accuracy.plot(numbers, 100 * test, color=style.VERMILION, label="test")
    accuracy.legend(loc="lower right")
    for axes in (cycle, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    label(accuracy, f"3  Training: test {formatting.percent(test_accuracy)}", "epoch", "accuracy (%)")


def draw_maps(pair: list[Any], run: Path) -> None:
    """Draw the maps of the closest mistake, for the predicted and for the actual class."""
    result = read_result(run, "gradcam")
    image = max(result["images"], key=lambda row: row["p_actual"])
    for axes, name in zip(pair, ("predicted", "actual"), strict=True):
        (path,) = [Path(path) for path in result["overlays"] if path.endswith(f"overlay-{image['index']}-{name}.png")]
        axes.imshow(imread(run / "figures" / path.name), interpolation="nearest")
        axes.set(xticks=[], yticks=[], anchor="N")
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"{name}: {formatting.truncate_middle(image[name], 16)}", fontsize=style.SMALL)
    pair[0].set_title("4  Grad-CAM of a mistake", fontsize=style.NORMAL)


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Name a panel and its axes."""
    axes.set_title(title, fontsize=style.NORMAL)
    axes.set_xlabel(x, fontsize=style.SMALL)
    axes.set_ylabel(y, fontsize=style.SMALL)


def main() -> None:
    """Write the picture of the runs that the command line names."""
    if len(sys.argv) != 5:
        raise SystemExit("usage: python -m tests.overview LR_RANGE_RUN TRAIN_RUN GRADCAM_RUN OUT.png")
    *runs, out = map(Path, sys.argv[1:])
    save_figure(overview(*runs), out)


if __name__ == "__main__":
    main()
