"""Figures over time and rate: the schedule, the range test, the training.

In: sequences of plain numbers, one a step or an epoch; NaN where there is none. Out: a file.
Shapes: S steps, R repeats of the range test, E epochs.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from scsuite.report import words
from scsuite.report.figures import style

Numbers = NDArray[np.float64]


def schedule(
    lrs: Sequence[float],
    path: Path,
    *,
    lr_min: float,
    lr_max: float,
    steps_per_epoch: int,
    title: str,
    planned: Sequence[float] | None = None,
) -> None:
    """The zig-zag: learning rate (S) over steps and epochs between its two limits.

    With `planned`, `lrs` is what a run really did, drawn over the plan.
    """
    with style.sheet(path, height=4.0) as figure:
        style.title(figure, words.clean(title))
        axes = figure.subplots()
        for name, limit in {"LRMAX": lr_max, "LRMIN": lr_min}.items():
            axes.axhline(limit, color=style.VERMILION, linewidth=1, linestyle=(0, (4, 3)))
            # Outside the frame, where no curve can cross it.
            label = f"{name} = {words.rate(limit)}"
            axes.annotate(
                label,
                (1, limit),
                xytext=(5, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                color=style.VERMILION,
                va="center",
                annotation_clip=False,
            )
        if planned is not None:
            axes.plot(_finite(planned), color=style.ORANGE, linewidth=5, alpha=0.45, label="planned")
        sparse = "o" if len(lrs) < 2 else None  # a single step is no line
        axes.plot(_finite(lrs), color=style.BLUE, marker=sparse, label="really done")
        plan = () if planned is None else planned
        num_steps = max(len(lrs), len(plan), 1)
        bottom, top = _rate_limits([*lrs, *plan, lr_min, lr_max])
        axes.set(xlabel="step", ylabel="learning rate", ylim=(bottom, top))
        # Written out: a power of ten above the axis would stand in the epochs' numbers.
        axes.yaxis.set_major_formatter(lambda lr, _: f"{lr:g}")
        if planned is not None:
            # In the margin, half way between the limits' names, where no curve of any shape runs.
            middle = ((lr_min - bottom) + (lr_max - bottom)) / (top - bottom) / 2
            axes.legend(loc="center left", bbox_to_anchor=(1, middle))
        # An epoch ends with its last step: step 489 of 98 a epoch is the end of epoch 5.
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


def lr_range(
    path: Path,
    *,
    lrs: Sequence[float],
    losses: Sequence[Sequence[float]],
    accuracies: Sequence[Sequence[float]],
    smooth_loss: Sequence[float],
    smooth_accuracy: Sequence[float],
    suggestions: Mapping[str, float],
    lr_min: float,
    lr_max: float,
    log: bool,
    source: str,
) -> None:
    """The range test: loss and accuracy (R x S, ragged) over the rate (S), the chosen pair, every rule's own choice.

    The rules stand in a strip of their own, a row each, so that they can agree without covering each other.
    """
    rules = {name: lr for name, lr in suggestions.items() if math.isfinite(lr)}
    strip = 0.35 + 0.24 * len(rules) if rules else 0.0
    with style.sheet(path, height=5.6 + strip) as figure:
        style.title(figure, f"Learning-rate range test, {words.clean(source)}")
        ratios = [2.3, 2.3, strip] if rules else [2.3, 2.3]
        rows = list(figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios))
        low, high = _rate_span([*lrs, lr_min, lr_max])
        rows[0].set_xlim(low, high)
        if log:
            style.log_ticks(rows[0], low, high)
        _sweep(rows[0], lrs, losses, smooth_loss, style.BLUE)
        _sweep(rows[1], lrs, [100 * _finite(a) for a in accuracies], 100 * _finite(smooth_accuracy), style.GREEN)
        _frame_loss(rows[0], losses, smooth_loss)
        rows[1].set_ylabel("accuracy (%)")
        rows[1].set_ylim(bottom=0)
        if rules:
            _rule_strip(rows[2], rules, low, high, log)
        rows[-1].set_xlabel("learning rate")
        _chosen_pair(rows, lr_min, lr_max)


def training(
    path: Path,
    *,
    epochs: Sequence[int],
    train_loss: Sequence[float],
    test_loss: Sequence[float],
    train_accuracy: Sequence[float],
    test_accuracy: Sequence[float],
    steps: Sequence[int],
    lrs: Sequence[float],
    momenta: Sequence[float],
    steps_per_epoch: int,
    held_out: str,
) -> None:
    """Loss and accuracy (E), learning rate and momentum (S) over one time axis; `held_out` names the test's images."""
    with style.sheet(path, height=5.8) as figure:
        (loss, accuracy), (rate, momentum) = figure.subplots(2, 2, sharex=True)
        _pair_of_lines(loss, epochs, train_loss, test_loss, held_out)
        _pair_of_lines(accuracy, epochs, 100 * _finite(train_accuracy), 100 * _finite(test_accuracy), held_out)
        _label_last(accuracy, epochs, test_accuracy, held_out)
        times = (_finite(steps) + 1) / steps_per_epoch
        sparse = "o" if len(steps) < 2 else None
        rate.plot(times, _finite(lrs), color=style.ORANGE, marker=sparse)
        momentum.plot(times, _finite(momenta), color=style.MUTED, marker=sparse)
        loss.set_ylabel("loss")
        accuracy.set_ylabel("accuracy (%)")
        rate.set(ylabel="learning rate", xlabel="epoch", ylim=(0, None))
        momentum.set(ylabel="momentum", xlabel="epoch")
        last = max([1.0, *map(float, epochs), *times[-1:]])
        loss.set_xlim(-0.02 * last, 1.02 * last)
        loss.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _finite(values: Sequence[float] | Numbers) -> Numbers:
    """Floats with NaN for whatever cannot be drawn: None, infinities."""
    numbers = np.array(values, dtype=np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def _rate_limits(rates: Sequence[float]) -> tuple[float, float]:
    """The y range: from zero, unless the limits are so near each other that zero would squeeze them together."""
    values = [value for value in rates if math.isfinite(value)]
    low, high = min(values), max(values)
    room = 0.06 * (high - low or high or 1.0)
    return 0.0 if low < 0.6 * high else low - room, min(high + room, sys.float_info.max)


def _rate_span(rates: Sequence[float]) -> tuple[float, float]:
    finite = [rate for rate in rates if math.isfinite(rate) and rate > 0] or [1e-3, 1.0]
    return (min(finite), max(finite)) if min(finite) < max(finite) else (min(finite) / 2, max(finite) * 2)


def _sweep(
    axes: Axes,
    lrs: Sequence[float],
    repeats: Sequence[Sequence[float] | Numbers],
    smooth: Sequence[float] | Numbers,
    color: str,
) -> None:
    """Faint points of every repeat, the band that they span, and the smoothed line over them."""
    rates = _finite(lrs)
    grid = np.full((len(repeats), len(rates)), np.nan)  # RS; a repeat that stopped early leaves its end empty
    for row, values in zip(grid, repeats, strict=True):
        part = _bounded(_finite(values)[: len(rates)])
        row[: len(part)] = part
        axes.scatter(rates, row, s=7, color=color, alpha=0.35, linewidths=0)
    measured_S = np.isfinite(grid).any(axis=0)
    if len(repeats) > 1 and measured_S.any():
        band = grid[:, measured_S]
        low, high = np.nanmin(band, axis=0), np.nanmax(band, axis=0)
        axes.fill_between(rates[measured_S], low, high, color=color, alpha=0.15, linewidth=0)
    line = _bounded(_finite(smooth)[: len(rates)])
    axes.plot(rates[: len(line)], line, color=color)


def _bounded(values: Numbers) -> Numbers:
    """Diverged losses cut at what the renderer can place; the frame ends far below."""
    return np.clip(values, -1e6, 1e6)


def _frame_loss(axes: Axes, losses: Sequence[Sequence[float]], smooth: Sequence[float]) -> None:
    """A y range that shows the descent: what diverges leaves through the top instead of flattening the rest.

    Where it does, the axis says how far it goes.
    """
    axes.set_ylabel("loss")
    raw = _finite([value for repeat in losses for value in repeat])
    raw, line = raw[np.isfinite(raw)], _finite(smooth)
    line = line[np.isfinite(line)]
    values = np.concatenate([raw, line])
    if not len(values):
        return
    start = float(line[0] if len(line) else raw[0])
    low = float(min(np.percentile(raw, 2) if len(raw) else start, line.min(initial=start)))
    high = min(float(values.max()), start + 0.6 * max(start - low, 0.25 * abs(start), 1e-3))
    room = 0.06 * max(high - low, 1e-3)
    axes.set_ylim(low - room, high + room)
    if values.max() > high + room:
        axes.set_ylabel(f"loss\n(cut; rises to {words.rate(float(values.max()))})")


def _rule_strip(axes: Axes, rules: Mapping[str, float], low: float, high: float, log: bool) -> None:
    """A row for each rule: its name, and a mark with its rate."""
    axes.set(ylim=(len(rules) - 0.4, -0.6), yticks=range(len(rules)))
    axes.set_yticklabels([words.shorten(words.clean(name), 24) for name in rules])
    axes.tick_params(axis="y", length=0, pad=9)
    axes.grid(axis="x", visible=False)
    for row, rate in enumerate(rules.values()):
        place = min(max(rate, low), high)
        share = math.log(place / low) / math.log(high / low) if log else (place - low) / (high - low)
        marker = "D" if place == rate else ">" if rate > high else "<"  # an arrow: its place is outside
        axes.plot(place, row, marker=marker, markersize=5, color=style.INK, clip_on=False, linestyle="none")
        side = 1 if share < 0.8 else -1  # towards the side that has room
        axes.annotate(
            words.rate(rate),
            (place, row),
            xytext=(7 * side, 0),
            textcoords="offset points",
            va="center",
            ha="left" if side > 0 else "right",
            fontsize=style.SMALL,
            annotation_clip=False,
            path_effects=[withStroke(linewidth=3, foreground="white")],  # legible where it lies on a limit's line
        )


def _chosen_pair(rows: Sequence[Axes], lr_min: float, lr_max: float) -> None:
    """The span from LRMIN to LRMAX through all rows; its names stand above the frame, on either side of it."""
    for axes in rows:
        axes.axvspan(lr_min, lr_max, color=style.ORANGE, alpha=0.16, linewidth=0, zorder=0.5)
        for limit in (lr_min, lr_max):
            axes.axvline(limit, color=style.VERMILION, linewidth=1, linestyle=(0, (4, 3)), zorder=0.6)
    for name, limit, side in (("LRMIN", lr_min, -1), ("LRMAX", lr_max, 1)):
        rows[0].annotate(
            f"{name} = {words.rate(limit)}",
            (limit, 1),
            xytext=(2 * side, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="bottom",
            color=style.VERMILION,
            annotation_clip=False,
        )


def _pair_of_lines(
    axes: Axes,
    epochs: Sequence[int],
    train: Sequence[float] | Numbers,
    held: Sequence[float] | Numbers,
    held_out: str,
) -> None:
    marker = "o" if len(epochs) <= 40 else None  # each epoch is a point as long as points can be told apart
    for values, name, color in ((train, "train", style.BLUE), (held, held_out, style.VERMILION)):
        numbers = _finite(values)
        if np.isfinite(numbers).any():
            axes.plot(epochs[: len(numbers)], numbers, color=color, marker=marker, markersize=3, label=name)
    if axes.lines:
        axes.legend(loc="best")


def _label_last(axes: Axes, epochs: Sequence[int], test_accuracy: Sequence[float], held_out: str) -> None:
    last = [(epoch, a) for epoch, a in zip(epochs, _finite(test_accuracy), strict=False) if math.isfinite(a)][-1:]
    for epoch, accuracy in last:
        axes.annotate(
            f"{held_out}\n{words.percent(accuracy)}",
            (epoch, 100 * accuracy),
            xytext=(6, 0),
            textcoords="offset points",
            color=style.VERMILION,
            va="center",
            annotation_clip=False,
        )
