"""The figure of a training: loss, accuracy, learning rate and momentum over the epochs.

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


def training(history: "TrainHistory") -> Figure:
    """Draw loss and accuracy of each epoch, and learning rate and momentum of each step."""
    results, split = history.epochs, history.eval_split
    epochs = [result.epoch for result in results]
    train_loss = nan_for_invalid([result.train_loss for result in results])
    train_accuracy = nan_for_invalid([result.train_accuracy for result in results])
    eval_loss = nan_for_invalid([result.eval_loss(split) for result in results])
    eval_accuracy = nan_for_invalid([result.eval_accuracy(split) for result in results])
    times = (nan_for_invalid([row.step for row in history.steps]) + 1) / history.steps_per_epoch  # epochs
    with style.new_figure(height=5.8) as figure:
        (loss, accuracy), (lr, momentum) = figure.subplots(2, 2, sharex=True)
        _train_eval_lines(loss, epochs, {"train": train_loss, split: eval_loss})
        _train_eval_lines(accuracy, epochs, {"train": 100 * train_accuracy, split: 100 * eval_accuracy})
        _label_last(accuracy, epochs, eval_accuracy, split)
        marker = "o" if len(times) < 2 else None  # one step makes no line
        lr.plot(times, nan_for_invalid([row.lr for row in history.steps]), color=style.ORANGE, marker=marker)
        momenta = nan_for_invalid([row.momentum for row in history.steps])
        momentum.plot(times, momenta, color=style.TEXT_MUTED, marker=marker)
        loss.set_ylabel("loss")
        accuracy.set_ylabel("accuracy (%)")
        lr.set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
        momentum.set(ylabel="momentum", xlabel="epoch")
        last = max([1.0, *map(float, epochs), *times[-1:]])
        loss.set_xlim(-0.02 * last, 1.02 * last)
        loss.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    return figure


def _train_eval_lines(axes: Axes, epochs: Sequence[int], values: dict[str, Floats]) -> None:
    marker = "o" if len(epochs) <= 40 else None  # with more epochs the markers would touch
    for (name, line), color in zip(values.items(), (style.BLUE, style.VERMILION), strict=True):
        if np.isfinite(line).any():
            axes.plot(epochs, line, color=color, marker=marker, markersize=3, label=name)
    if axes.lines:
        axes.legend(loc="best")


def _label_last(axes: Axes, epochs: Sequence[int], accuracies: Floats, split: str) -> None:
    """Write the last measured accuracy next to its point."""
    measured = [(epoch, value) for epoch, value in zip(epochs, accuracies, strict=True) if math.isfinite(value)]
    for epoch, accuracy in measured[-1:]:
        axes.annotate(
            f"{split}\n{formatting.percent(accuracy)}", (epoch, 100 * accuracy), xytext=(6, 0),
            textcoords="offset points", color=style.VERMILION, va="center", annotation_clip=False,
        )  # fmt: skip
