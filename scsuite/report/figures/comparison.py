"""The figure of several trainings: accuracy and training loss over the epochs, one colour per group of settings.

In: the epochs of each training by the label of its group. Out: a Figure.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scsuite.report.figures import style
from scsuite.report.figures.style import nan_for_invalid
from scsuite.report.figures.training import NARROW_WIDTH

if TYPE_CHECKING:
    from scsuite.core.runs.results import EpochResult

# Colors of Okabe and Ito, without those that are too pale for a line.
COLORS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, "#CC79A7", "#56B4E9", style.TEXT)
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # the colors repeat with another line


def comparison(curves: "Sequence[tuple[str, Sequence[EpochResult]]]", split: str, *, narrow: bool = False) -> Figure:
    """Draw accuracy on `split` and training loss of each training, one line each, in the colour of its group."""
    labels = list(dict.fromkeys(label for label, _ in curves))
    size = (NARROW_WIDTH, 5.6) if narrow else (style.WIDTH, 3.8)
    with style.new_figure(width=size[0], height=size[1]) as figure:
        accuracy, loss = figure.subplots(*((2, 1) if narrow else (1, 2)))
        for label, rows in curves:
            place = labels.index(label)
            look = {
                "color": COLORS[place % len(COLORS)],
                "linestyle": DASHES[place // len(COLORS) % len(DASHES)],
                "marker": "o" if len(rows) < 2 else None,  # one epoch makes no line
                "linewidth": 1.4,
                "label": label,
            }
            epochs = [row.epoch for row in rows]
            accuracy.plot(epochs, 100 * nan_for_invalid([row.eval_accuracy(split) for row in rows]), **look)
            loss.plot(epochs, nan_for_invalid([row.train_loss for row in rows]), **look)
        accuracy.set(xlabel="epoch", ylabel=f"{split} accuracy (%)")
        loss.set(xlabel="epoch", ylabel="training loss")
        for axes in (accuracy, loss):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        handles = {line.get_label(): line for line in accuracy.lines}
        if len(handles) > 1:
            accuracy.legend(handles=list(handles.values()), ncols=-(-len(handles) // 8))
    return figure
