"""The figure of the regret study: for each setting accuracy over LRMAX, the LRMAX of each rule, and its regret.

In: the regrets of the test settings, and the accuracies of their grids. Out: a PNG file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scsuite.report.figures import style
from tests.studies.regret import (
    BASELINES,
    NUM_FULL_GRID_SEEDS,
    REFERENCE_ONLY,
    TRAINED,
    Regret,
    Values,
    remaining_lrs,
)
from tests.studies.trainings import LR_GRID, SETTINGS

MAX_REGRET = 8.0  # points; a larger one is only written as a number at the edge
SETTING_HEIGHT = 3.6  # inches


def draw(path: Path, regrets: Mapping[str, Sequence[Regret]], grids: Mapping[str, Values]) -> None:
    """Draw the settings below each other and write the PNG."""
    with style.new_figure(height=0.5 + SETTING_HEIGHT * len(regrets)) as figure:
        style.set_title(figure, "Held-out accuracy over LRMAX, and the regret of each rule")
        grid = figure.add_gridspec(2 * len(regrets), 2, height_ratios=[2.2, 1.2] * len(regrets))
        for index, (name, rows) in enumerate(regrets.items()):
            drawn = [rows[0], *(row for row in rows if row.rule in (*BASELINES, REFERENCE_ONLY))]
            lr_axes = figure.add_subplot(grid[2 * index + 1, 0])
            regret_axes = figure.add_subplot(grid[2 * index : 2 * index + 2, 1])
            accuracy_axes = figure.add_subplot(grid[2 * index, 0])
            _draw_accuracy(accuracy_axes, name, grids[name], drawn[0])
            _draw_lrs(lr_axes, drawn)
            for axes in (accuracy_axes, lr_axes):
                _set_log_limits(axes, [LR_GRID[0], LR_GRID[-1], *(lr for row in drawn for lr in row.lr_max_S)])
            _draw_regrets(regret_axes, drawn)
            if index == len(regrets) - 1:
                lr_axes.set_xlabel("LRMAX")
                regret_axes.set_xlabel("regret (points of accuracy)")
    style.save_figure(figure, path)


def _draw_accuracy(axes: Any, name: str, grid_SR: Values, ours: Regret) -> None:
    setting = SETTINGS[name]
    images = "real images" if setting.real else "shapes"
    axes.set_title(
        f"{images}, batch {setting.batch_size}, width {setting.width:g}, {ours.seeds} seeds", fontsize=style.NORMAL
    )
    for row in grid_SR:
        axes.plot(setting.lrs, 100 * row, ".", color=style.BLUE, alpha=0.35, markersize=4)
    # Dashed: the first seeds, with the full grid. Solid: all seeds, at the LRs that can be the best.
    first_R = grid_SR[:NUM_FULL_GRID_SEEDS].mean(axis=0)
    axes.plot(setting.lrs, 100 * first_R, "--", color=style.BLUE, linewidth=1)
    remaining = remaining_lrs(grid_SR)
    complete_SR = grid_SR[~np.isnan(grid_SR[:, remaining]).any(axis=1), remaining]
    axes.plot(setting.lrs[remaining], 100 * complete_SR.mean(axis=0), color=style.BLUE)
    lr_max = np.exp(np.mean(np.log(ours.lr_max_S)))
    axes.plot(lr_max, 100 * ours.accuracy, "D", color=style.VERMILION, zorder=3)
    axes.set_ylabel("accuracy (%)")
    axes.tick_params(labelbottom=False)


def _draw_lrs(axes: Any, rows: Sequence[Regret]) -> None:
    for y, row in enumerate(rows):
        axes.plot(row.lr_max_S, [y] * len(row.lr_max_S), "d", color=_color(row), markersize=3.5)
    _label_rules(axes, rows)


def _draw_regrets(axes: Any, rows: Sequence[Regret]) -> None:
    for y, row in enumerate(rows):
        value = 100 * row.regret
        low, high = (value, value) if row.interval is None else (100 * end for end in row.interval)
        if value <= MAX_REGRET:
            axes.plot([low, min(high, MAX_REGRET)], [y, y], color=_color(row))
            axes.plot(value, y, "o", color=_color(row), markersize=5)
        axes.annotate(
            f"{value:.1f}", (min(high, MAX_REGRET), y), xytext=(6, 0), textcoords="offset points", va="center",
            color=_color(row), fontsize=style.SMALL,
        )  # fmt: skip
    axes.axvline(0, color=style.TEXT_MUTED, linewidth=0.8)
    _label_rules(axes, rows)
    lows = [100 * (row.interval[0] if row.interval else row.regret) - 0.5 for row in rows]
    axes.set_xlim(min(-1.0, *lows), MAX_REGRET * 1.15)


def _color(row: Regret) -> str:
    return style.VERMILION if row.rule == TRAINED else style.TEXT


def _label_rules(axes: Any, rows: Sequence[Regret]) -> None:
    axes.set_yticks(range(len(rows)), [row.rule for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _set_log_limits(axes: Any, lrs: Sequence[float]) -> None:
    low, high = min(lrs) / 1.3, max(lrs) * 1.3
    axes.set_xlim(low, high)
    style.use_log_ticks(axes, low, high)
