"""The regret study drawn, a row a setting: accuracy over LRMAX, the rules' rates below it, their regrets beside."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scsuite.report.figures import style
from tests.studies.cells import GRID, SETTINGS
from tests.studies.regret import FOUND, RIVALS, USUAL_ALONE, WHOLE_SEEDS, Regret, contenders

REGRET_MAX = 8.0  # points; of a larger one only the number is there, at the edge
ROW = 3.6  # inches


def draw(path: Path, found: Mapping[str, Sequence[Regret]], grids: Mapping[str, NDArray[np.float64]]) -> None:
    """The figure, as a PNG."""
    with style.new_figure(height=0.5 + ROW * len(found)) as figure:
        style.set_title(figure, "Held-out accuracy over LRMAX, and what each rule's rate costs")
        grid = figure.add_gridspec(2 * len(found), 2, height_ratios=[2.2, 1.2] * len(found))
        for index, (name, rows) in enumerate(found.items()):
            shown = [rows[0], *(row for row in rows if row.rule in (*RIVALS, USUAL_ALONE))]
            strip = figure.add_subplot(grid[2 * index + 1, 0])
            regrets = figure.add_subplot(grid[2 * index : 2 * index + 2, 1])
            accuracy = figure.add_subplot(grid[2 * index, 0])
            _accuracy(accuracy, name, grids[name], shown[0])
            _rates(strip, shown)
            for axes in (accuracy, strip):
                _log_axis(axes, [GRID[0], GRID[-1], *(rate for row in shown for rate in row.rates_S)])
            _regrets(regrets, shown)
            if index == len(found) - 1:
                strip.set_xlabel("LRMAX")
                regrets.set_xlabel("regret (points of accuracy)")
    style.save_figure(figure, path)


def _accuracy(axes: Any, name: str, grid_SR: NDArray[np.float64], found: Regret) -> None:
    setting = SETTINGS[name]
    kind = "real images" if setting.real else "shapes"
    axes.set_title(
        f"{kind}, batch {setting.batch_size}, width {setting.width:g}, {found.seeds} seeds", fontsize=style.NORMAL
    )
    for row in grid_SR:
        axes.plot(setting.rates, 100 * row, ".", color=style.BLUE, alpha=0.35, markersize=4)
    # Dashed, the first seeds, which have the whole grid; solid, all of them, where the best may lie.
    axes.plot(setting.rates, 100 * grid_SR[:WHOLE_SEEDS].mean(axis=0), "--", color=style.BLUE, linewidth=1)
    race = contenders(grid_SR)
    all_SR = grid_SR[~np.isnan(grid_SR[:, race]).any(axis=1), race]
    axes.plot(setting.rates[race], 100 * all_SR.mean(axis=0), color=style.BLUE)
    axes.plot(np.exp(np.mean(np.log(found.rates_S))), 100 * found.accuracy, "D", color=style.VERMILION, zorder=3)
    axes.set_ylabel("accuracy (%)")
    axes.tick_params(labelbottom=False)


def _rates(axes: Any, shown: Sequence[Regret]) -> None:
    for place, row in enumerate(shown):
        color = style.VERMILION if row.rule == FOUND else style.TEXT
        axes.plot(row.rates_S, [place] * len(row.rates_S), "d", color=color, markersize=3.5)
    axes.set_yticks(range(len(shown)), [row.rule for row in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)


def _regrets(axes: Any, shown: Sequence[Regret]) -> None:
    for place, row in enumerate(shown):
        color = style.VERMILION if row.rule == FOUND else style.TEXT
        value = 100 * row.regret
        low, high = (value, value) if row.interval is None else (100 * end for end in row.interval)
        if value <= REGRET_MAX:
            axes.plot([low, min(high, REGRET_MAX)], [place, place], color=color)
            axes.plot(value, place, "o", color=color, markersize=5)
        label = f"{value:.1f}"
        axes.annotate(
            label, (min(high, REGRET_MAX), place), xytext=(6, 0), textcoords="offset points", va="center",
            color=color, fontsize=style.SMALL,
        )  # fmt: skip
    axes.axvline(0, color=style.TEXT_MUTED, linewidth=0.8)
    axes.set_yticks(range(len(shown)), [row.rule for row in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    lows = [100 * (row.interval[0] if row.interval else row.regret) - 0.5 for row in shown]
    axes.set_xlim(min(-1.0, *lows), REGRET_MAX * 1.15)


def _log_axis(axes: Any, rates: Sequence[float]) -> None:
    low, high = min(rates) / 1.3, max(rates) * 1.3
    axes.set_xlim(low, high)
    style.use_log_ticks(axes, low, high)
