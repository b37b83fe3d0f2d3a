"""The figure of a training: loss, accuracy and learning rate over the epochs, and the momentum where it changes.

In: a `TrainHistory`. Out: a Figure.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scsuite.report import formatting
from scsuite.report.figures import style
from scsuite.report.figures.style import Floats, nan_for_invalid

if TYPE_CHECKING:
    from scsuite.core.runs.results import TrainHistory


NARROW_WIDTH = 4.6  # inches: readable on a telephone, where a figure of the usual width is shrunk to a third


def training(history: "TrainHistory", *, narrow: bool = False) -> Figure:
    """Draw loss and accuracy of each epoch, and the learning rate of each step; the momentum too where it changes.

    The accuracy panel shows the level of chance, or that of the largest class where the classes are uneven. With a
    validation split it shows the test accuracy of the last epoch as well. With `narrow`, the panels stand one below
    the other.
    """
    results, split = history.epochs, history.eval_split
    epochs = [result.epoch for result in results]
    train_loss = nan_for_invalid([result.train_loss for result in results])
    train_accuracy = nan_for_invalid([result.train_accuracy for result in results])
    eval_loss = nan_for_invalid([result.eval_loss(split) for result in results])
    eval_accuracy = nan_for_invalid([result.eval_accuracy(split) for result in results])
    times = (nan_for_invalid([row.step for row in history.steps]) + 1) / history.steps_per_epoch  # epochs
    momenta = nan_for_invalid([row.momentum for row in history.steps])
    with_momentum = len(momenta) > 0 and bool((momenta != momenta[0]).any())
    layout = ("L;A;R;M" if with_momentum else "L;A;R") if narrow else "LA;RM" if with_momentum else "LA;RR"
    size = (NARROW_WIDTH, 2.4 * len(layout.split(";"))) if narrow else (style.WIDTH, 5.8)
    with style.new_figure(width=size[0], height=size[1]) as figure:
        panels = figure.subplot_mosaic(layout, sharex=True)
        loss, accuracy, lr = (panels[key] for key in "LAR")
        last = max([1.0, *map(float, epochs), *times[-1:]])
        loss.set_xlim(-0.02 * last, 1.02 * last)  # of all panels
        loss.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _draw_epochs(loss, epochs, {"train": train_loss, split: eval_loss})
        _draw_baseline(accuracy, history)
        _draw_epochs(accuracy, epochs, {"train": 100 * train_accuracy, split: 100 * eval_accuracy})
        _label_last(accuracy, history)
        loss.set_ylabel("loss")
        accuracy.set_ylabel("accuracy (%)")
        marker = "o" if len(times) < 2 else None  # one step makes no line
        lr.plot(times, nan_for_invalid([row.lr for row in history.steps]), color=style.ORANGE, marker=marker)
        lr.set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
        if with_momentum:
            panels["M"].plot(times, momenta, color=style.TEXT_MUTED, marker=marker)
            panels["M"].set(ylabel="momentum", xlabel="epoch")
        else:  # the columns above differ from that of the learning rate
            loss.tick_params(labelbottom=True)
            accuracy.tick_params(labelbottom=True)
    return figure


def _draw_epochs(axes: Axes, epochs: Sequence[int], values: dict[str, Floats]) -> None:
    marker = "o" if len(epochs) <= 40 else None  # with more epochs the markers would touch
    lines = [
        axes.plot(epochs, line, color=color, marker=marker, markersize=3, label=name)[0]
        for (name, line), color in zip(values.items(), (style.BLUE, style.VERMILION), strict=True)
        if np.isfinite(line).any()
    ]
    if lines:
        axes.legend(handles=lines, loc="best")


def _draw_baseline(axes: Axes, history: "TrainHistory") -> None:
    """Draw the accuracy without learning, named below its right end, where a training that learns has no curve."""
    majority = history.majority_fraction
    if majority is None and not history.num_classes:  # an older run that did not record its classes
        return
    baseline, name = (1 / history.num_classes, "chance") if majority is None else (majority, "largest class")
    axes.axhline(100 * baseline, color=style.TEXT_MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"{name} {100 * baseline:.3g} %", (1, 100 * baseline),
        xytext=(-2, -3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", va="top",
        color=style.TEXT_MUTED, fontsize=style.SMALL,
    )  # fmt: skip
    axes.margins(y=0.1)  # space for the name


def _label_last(axes: Axes, history: "TrainHistory") -> None:
    """Write the last measured accuracy next to its point; with a validation split, that of the test images too."""
    split = history.eval_split
    names = {split: style.VERMILION} if split == "test" else {split: style.VERMILION, "test": style.GREEN}
    points = []
    for name, color in names.items():
        values = [(row.epoch, row.eval_accuracy(name)) for row in history.epochs]
        measured = [(epoch, value) for epoch, value in values if value is not None and math.isfinite(value)]
        points += [(value, epoch, name, color) for epoch, value in measured[-1:]]
    places = ("center",) if len(points) == 1 else ("top", "bottom")  # the lower of two is written below its point
    for (accuracy, epoch, name, color), place in zip(sorted(points), places, strict=False):
        if name != split:
            axes.plot(epoch, 100 * accuracy, color=color, marker="D", markersize=5, linestyle="none", clip_on=False)
        axes.annotate(
            f"{name}\n{formatting.percent(accuracy)}", (epoch, 100 * accuracy), xytext=(6, 0),
            textcoords="offset points", color=color, va=place, annotation_clip=False,
        )  # fmt: skip
