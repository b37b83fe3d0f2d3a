"""The figure of a learning-rate range test: loss and accuracy over the learning rate, LR bounds, rules.

In: a `RangeTest`. Out: a Figure. Shapes: R repeats of S steps, of which some repeats have fewer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from scsuite.report import formatting
from scsuite.report.figures import style
from scsuite.report.figures.style import Floats, nan_for_invalid

ALLOWED_LABEL = "range that the test allows"

if TYPE_CHECKING:
    from scsuite.core.lr_range.range_test import RangeTest


def lr_range(test: "RangeTest") -> Figure:
    """Draw loss and accuracy over the learning rate, the LR bounds, the range that the test allows, and each rule."""
    lrs_S, loss_S, accuracy_S = test.mean_curves()
    suggestions = {name: lr for name, lr in test.suggestions.items() if math.isfinite(lr)}
    rules_height = 0.6 + 0.24 * len(suggestions)
    with style.new_figure(height=5.9 + rules_height) as figure:
        style.set_title(figure, f"Learning-rate range test, {style.legible(test.loss_source)}")
        rows = list(figure.subplots(3, 1, sharex=True, height_ratios=[2.3, 2.3, rules_height]))
        low, high = _lr_limits([*lrs_S, test.lr_min, test.lr_max])
        rows[0].set_xlim(low, high)
        if test.curve == "exp":
            style.use_log_ticks(rows[0], low, high)
        losses = [sweep.losses_L for sweep in test.sweeps]
        _draw_curves(rows[0], lrs_S, losses, loss_S, style.BLUE)
        accuracies = [100 * sweep.accuracies_L for sweep in test.sweeps]
        _draw_curves(rows[1], lrs_S, accuracies, 100 * accuracy_S, style.GREEN)
        _set_loss_limits(rows[0], losses, loss_S)
        rows[1].set_ylabel("accuracy (%)")
        rows[1].set_ylim(bottom=0)
        _draw_rules(rows[2], suggestions, test)
        rows[2].set_xlabel("learning rate")
        for axes in rows:
            axes.tick_params(labelsize=style.SMALL)  # else the number of ticks follows the settings when it is saved
            axes.axvspan(test.lr_min, test.lr_max, color=style.ORANGE, alpha=0.16, linewidth=0, zorder=0.5)
            for limit in (test.lr_min, test.lr_max):
                axes.axvline(limit, color=style.VERMILION, linewidth=1, linestyle=(0, (4, 3)), zorder=0.6)
        _name_bounds(figure, rows[0], test)
    return figure


def _lr_limits(lrs: Sequence[float]) -> tuple[float, float]:
    valid = [lr for lr in lrs if math.isfinite(lr) and lr > 0] or [1e-3, 1.0]
    return (min(valid), max(valid)) if min(valid) < max(valid) else (min(valid) / 2, max(valid) * 2)


def _draw_curves(axes: Axes, lrs_S: Floats, repeats: Sequence[Floats], smooth_S: Floats, color: str) -> None:
    """Draw faint points of all repeats, the band between their extremes, and the smoothed curve."""
    values_RS = np.full((len(repeats), len(lrs_S)), np.nan)  # the end of a repeat that stopped early stays NaN
    for row_S, values in zip(values_RS, repeats, strict=True):
        valid = _clip(nan_for_invalid(values)[: len(lrs_S)])
        row_S[: len(valid)] = valid
        axes.scatter(lrs_S, row_S, s=7, color=color, alpha=0.35, linewidths=0)
    has_value_S = np.isfinite(values_RS).any(axis=0)
    if len(repeats) > 1 and has_value_S.any():
        band_RS = values_RS[:, has_value_S]
        low_S, high_S = np.nanmin(band_RS, axis=0), np.nanmax(band_RS, axis=0)
        axes.fill_between(lrs_S[has_value_S], low_S, high_S, color=color, alpha=0.15, linewidth=0)
    axes.plot(lrs_S, _clip(nan_for_invalid(smooth_S)), color=color)


def _clip(values: Floats) -> Floats:
    """Clip diverged losses to values that the renderer can place; the frame ends far below them."""
    return np.clip(values, -1e6, 1e6)


def _set_loss_limits(axes: Axes, losses: Sequence[Floats], smooth_S: Floats) -> None:
    """Choose a y range that shows the descent; the label says how far a loss that leaves it at the top rises."""
    axes.set_ylabel("loss")
    raw = nan_for_invalid([loss for repeat in losses for loss in repeat])
    raw, smooth = raw[np.isfinite(raw)], smooth_S[np.isfinite(smooth_S)]
    values = np.concatenate([raw, smooth])
    if not len(values):
        return
    start = float(smooth[0] if len(smooth) else raw[0])
    low = float(min(np.percentile(raw, 2) if len(raw) else start, smooth.min(initial=start)))
    high = min(float(values.max()), start + 0.6 * max(start - low, 0.25 * abs(start), 1e-3))
    margin = 0.06 * max(high - low, 1e-3)
    axes.set_ylim(low - margin, high + margin)
    if values.max() > high + margin:
        axes.set_ylabel(f"loss\n(clipped; rises to {float(values.max()):.3g})")


def _draw_rules(axes: Axes, suggestions: Mapping[str, float], test: "RangeTest") -> None:
    """Draw the range that the test allows for LRMAX, and a row per rule: rules that agree do not cover each other."""
    axes.set(ylim=(len(suggestions) + 0.6, -0.6), yticks=range(len(suggestions) + 1))
    labels = [style.legible(formatting.rule_label(name)) for name in suggestions]
    axes.set_yticklabels([ALLOWED_LABEL, *(formatting.truncate_middle(label, 26) for label in labels)])
    axes.tick_params(axis="y", length=0, pad=9)
    axes.grid(axis="x", visible=False)
    low, high = axes.get_xlim()
    start, end = (min(max(lr, low), high) for lr in test.allowed_lr_max)
    axes.plot([start, end], [0, 0], color=style.BLUE, linewidth=7, alpha=0.35, solid_capstyle="butt")
    first, last = map(formatting.learning_rate, test.allowed_lr_max)
    _write_number(axes, f"{first} to {last}" if test.allowed_lr_max[0] else f"up to {last}", end, 0)
    for row, lr in enumerate(suggestions.values(), start=1):
        x = min(max(lr, low), high)
        marker = "D" if x == lr else ">" if lr > high else "<"  # an arrow points to a value outside the frame
        axes.plot(x, row, marker=marker, markersize=5, color=style.TEXT, clip_on=False, linestyle="none")
        _write_number(axes, formatting.learning_rate(lr), x, row)


def _write_number(axes: Axes, text: str, x: float, row: int) -> None:
    """Write a number on the side of a mark on which the frame has space."""
    side = 1 if _position(axes, x) < 0.8 else -1
    axes.annotate(
        text, (x, row), xytext=(7 * side, 0), textcoords="offset points", va="center",
        ha="left" if side > 0 else "right", fontsize=style.SMALL, annotation_clip=False,
        path_effects=[withStroke(linewidth=3, foreground="white")],  # readable over the line of a limit
    )  # fmt: skip


def _position(axes: Axes, lr: float) -> float:
    """Return where an LR is in the frame, from 0 at the left to 1 at the right."""
    low, high = axes.get_xlim()
    return math.log(lr / low) / math.log(high / low) if axes.get_xscale() == "log" else (lr - low) / (high - low)


def _name_bounds(figure: Figure, axes: Axes, test: "RangeTest") -> None:
    """Write the reason for the LR bounds above the frame, and name both close to their lines, within its width."""
    figure.draw_without_rendering()
    width = axes.get_window_extent().width
    reason = style.wrap_lines(test.reason, width, style.SMALL)
    # Its distance from the frame leaves one line for the names.
    axes.set_title("\n".join(reason), loc="left", fontsize=style.SMALL, color=style.TEXT_MUTED, pad=26)
    low_text = f"LRMIN = {formatting.learning_rate(test.lr_min)}"
    high_text = f"LRMAX = {formatting.learning_rate(test.lr_max)} ({test.lr_max_source})"
    # A renderer places letters on whole pixels: a text can be 1 % wider than the sum of its letters.
    low_width, high_width = (1.01 * style.text_width(text, style.NORMAL) / width for text in (low_text, high_text))
    gap = 20 / width
    high_x = min(max(_position(axes, test.lr_max), low_width + gap), 1 - high_width)
    low_x = max(min(_position(axes, test.lr_min), high_x - gap) - low_width, 0.0)
    for text, x in ((low_text, low_x), (high_text, high_x)):
        label = axes.annotate(
            text, (x, 1), xytext=(0, 4), xycoords="axes fraction", textcoords="offset points", va="bottom",
            color=style.VERMILION, annotation_clip=False,
        )  # fmt: skip
        label.set_in_layout(False)
