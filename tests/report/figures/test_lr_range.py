"""The figure of a range test shows the descent of the loss, the LR bounds, and each rule's suggestion."""

import numpy as np
import pytest

from scsuite.report import figures
from tests.report.figures.examples import NAN, make_range_test, make_sweep, texts


def test_a_diverged_loss_does_not_flatten_the_descent() -> None:
    loss = figures.lr_range(make_range_test()).axes[0]
    low, high = loss.get_ylim()
    assert low < 1.0 and 2.3 < high < 4.0
    assert "rises to 1e+09" in loss.get_ylabel()


def test_each_rule_has_a_row_with_its_learning_rate() -> None:
    figure = figures.lr_range(make_range_test())
    rows = figure.axes[2]
    # "none" suggests nothing and has no row; an arrow shows that "$far$" is outside the frame.
    assert [label.get_text() for label in rows.get_yticklabels()] == ["valley", "minimum / 10", "$far$"]
    marks = [(line.get_marker(), *np.ravel(line.get_xydata())) for line in rows.lines if line.get_marker() != "None"]
    assert marks == [("D", 0.1, 0.0), ("D", 0.1, 1.0), (">", 10.0, 2.0)]
    assert {"0.1", "1e+04", "LRMIN = 0.04", "LRMAX = 0.4"} <= set(texts(figure))


def test_only_several_repeats_have_a_band() -> None:
    def num_bands(num_repeats: int) -> int:
        test = make_range_test()
        axes = figures.lr_range(make_range_test(sweeps=test.sweeps[:num_repeats])).axes[0]
        return sum(type(c).__name__ == "FillBetweenPolyCollection" for c in axes.collections)

    assert (num_bands(2), num_bands(1)) == (1, 0)


@pytest.mark.parametrize("num_steps", [2, 5])
def test_repeats_are_drawn_as_far_as_all_of_them_went(num_steps: int) -> None:
    sweeps = make_sweep([2.3, 2.0, 1.0, 1.5, 1.6], [0.1] * 5), make_sweep([2.3] * num_steps, [0.1] * num_steps)
    points, *_ = figures.lr_range(make_range_test(sweeps=sweeps)).axes[0].collections
    assert len(np.asarray(points.get_offsets())) == num_steps


@pytest.mark.parametrize("curve", ["exp", "linear"])
def test_a_range_test_without_a_finite_loss_is_drawn(curve: str) -> None:
    sweeps = (make_sweep([NAN] * 5, [NAN] * 5), make_sweep([NAN] * 5, [NAN] * 5))
    assert len(figures.lr_range(make_range_test(sweeps=sweeps, suggestions={}, curve=curve)).axes) == 2
