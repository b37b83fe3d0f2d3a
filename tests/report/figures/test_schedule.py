"""The figure of a schedule shows every step, and its labels never overlap."""

import itertools
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from scsuite.report import figures
from tests.report.figures.examples import ONE_CYCLE, texts


def _schedule(lrs: list[float], **changes: Any) -> Figure:
    options = {"lr_min": 0.04, "lr_max": 0.4, "steps_per_epoch": 2, "title": "$t$", **changes}
    return figures.schedule(lrs, **options)


def test_every_step_is_drawn_between_the_named_limits() -> None:
    figure = _schedule(ONE_CYCLE)
    lines = {tuple(np.ravel(line.get_ydata())) for line in figure.axes[0].lines}
    assert {tuple(ONE_CYCLE), (0.4, 0.4), (0.04, 0.04)} == lines
    assert {"LRMAX = 0.4", "LRMIN = 0.04", "$t$"} <= set(texts(figure))


def test_an_epoch_ends_with_its_last_step() -> None:
    figure = _schedule(ONE_CYCLE)
    (axes,) = figure.axes
    (top,) = axes.child_axes
    assert top.get_xlabel() == "epoch"
    axes.set_xlim(-1, 39)  # from before the first to the last of 40 steps, 2 per epoch
    figure.draw_without_rendering()
    assert top.get_xlim() == pytest.approx((0, 20))


def test_the_actual_learning_rates_are_drawn_over_the_planned() -> None:
    axes = _schedule(ONE_CYCLE[:7], planned=ONE_CYCLE).axes[0]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert len(np.ravel(lines["planned"].get_ydata())) == 40
    assert len(np.ravel(lines["actual"].get_ydata())) == 7
    assert axes.lines.index(lines["planned"]) < axes.lines.index(lines["actual"])


@pytest.mark.parametrize("lr_min", [0.001, 0.1, 0.22, 0.239, 0.241, 0.39])
def test_the_legend_and_the_names_of_the_limits_do_not_overlap(lr_min: float) -> None:
    axes = _schedule([lr_min, 0.4, lr_min], planned=[lr_min, 0.4, lr_min], lr_min=lr_min).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    boxes = [legend.get_window_extent(), *(text.get_window_extent() for text in axes.texts)]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of the ticks that matplotlib tries beyond the largest
@pytest.mark.parametrize("lr_max", [1e-8, 0.4, 1e4, 1.7e308])
def test_learning_rates_of_any_size_have_no_exponent_above_the_axis(lr_max: float) -> None:
    axes = _schedule([lr_max / 10, lr_max], lr_min=lr_max / 10, lr_max=lr_max).axes[0]
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert "0" in {label.get_text() for label in axes.get_yticklabels()}


def test_limits_that_are_close_are_still_distinguishable() -> None:
    low, high = _schedule([0.39, 0.4], lr_min=0.39).axes[0].get_ylim()
    assert (0.4 - 0.39) / (high - low) > 0.5
