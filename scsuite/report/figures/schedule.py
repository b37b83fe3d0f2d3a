"""The figure of a schedule: the zig-zag of the learning rate between its limits.

In: the learning rate of each step. Out: a Figure.
"""

import math
import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scsuite.report import formatting
from scsuite.report.figures import style


def schedule(
    cycle_lrs: Sequence[float],
    *,
    lr_min: float,
    lr_max: float,
    steps_per_epoch: int,
    title: str,
    planned: Sequence[float] | None = None,
) -> Figure:
    """Draw the learning rate of each step, over steps and epochs.

    With `planned`, `cycle_lrs` are the learning rates that a run has used so far, drawn over the plan.
    """
    plan = () if planned is None else planned
    num_steps = max(len(cycle_lrs), len(plan), 1)
    with style.new_figure(height=4.0) as figure:
        style.set_title(figure, style.legible(title))
        axes = figure.subplots()
        for name, limit in {"LRMAX": lr_max, "LRMIN": lr_min}.items():
            _draw_limit(axes, name, limit)
        if planned is not None:
            axes.plot(style.nan_for_invalid(planned), color=style.ORANGE, linewidth=5, alpha=0.45, label="planned")
        marker = "o" if len(cycle_lrs) < 2 else None  # one step makes no line
        axes.plot(style.nan_for_invalid(cycle_lrs), color=style.BLUE, marker=marker, label="actual")
        bottom, top = _y_limits([*cycle_lrs, *plan, lr_min, lr_max])
        axes.set(xlabel="step", ylabel="learning rate", ylim=(bottom, top))
        # No exponent above the axis: it would overlap the numbers of the epochs.
        axes.yaxis.set_major_formatter(lambda lr, _: f"{lr:g}")
        if planned is not None:
            # In the margin, half way between the names of the limits, where no curve is.
            middle = ((lr_min - bottom) + (lr_max - bottom)) / (top - bottom) / 2
            axes.legend(loc="center left", bbox_to_anchor=(1, middle))
        _draw_step_and_epoch_axes(axes, num_steps, steps_per_epoch)
    return figure


def _draw_limit(axes: Axes, name: str, limit: float) -> None:
    """Draw a dashed line, with its name outside the frame, where no curve can cross it."""
    axes.axhline(limit, color=style.VERMILION, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"{name} = {formatting.learning_rate(limit)}", (1, limit), xytext=(5, 0),
        xycoords=("axes fraction", "data"), textcoords="offset points", color=style.VERMILION, va="center",
        annotation_clip=False,
    )  # fmt: skip


def _draw_step_and_epoch_axes(axes: Axes, num_steps: int, steps_per_epoch: int) -> None:
    """Number the steps below and the epochs above; an epoch ends with its last step: epoch 5 of 98 steps with 489."""
    axes.set_xlim(-1 - 0.01 * num_steps, num_steps - 1 + 0.01 * num_steps)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}" if step >= 0 else "")
    epochs = axes.secondary_xaxis(
        "top",
        functions=(
            lambda step: (np.asarray(step) + 1) / steps_per_epoch,
            lambda epoch: np.asarray(epoch) * steps_per_epoch - 1,
        ),
    )
    epochs.set_xlabel("epoch")
    epochs.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    epochs.spines["top"].set_visible(True)


def _y_limits(lrs: Sequence[float]) -> tuple[float, float]:
    """Return a range from zero, or around the values where these are too close to each other for that."""
    finite = [lr for lr in lrs if math.isfinite(lr)]
    low, high = min(finite), max(finite)
    margin = 0.06 * (high - low or high or 1.0)
    return 0.0 if low < 0.6 * high else low - margin, min(high + margin, sys.float_info.max)
