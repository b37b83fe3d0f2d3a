"""The figure of a range test shows the descent of the loss, the LR bounds, and each rule's suggestion."""

import numpy as np
import pytest
from matplotlib.text import Text

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
    assert [label.get_text() for label in rows.get_yticklabels()] == [
        "range that the test allows", "valley", "minimum / 10", "$far$",
    ]  # fmt: skip
    marks = [(line.get_marker(), *np.ravel(line.get_xydata())) for line in rows.lines if line.get_marker() != "None"]
    assert marks == [("D", 0.1, 1.0), ("D", 0.1, 2.0), (">", 10.0, 3.0)]
    assert {"0.1", "1e+04", "LRMIN = 0.04", "LRMAX = 0.4 (scaling rule)"} <= set(texts(figure))


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
    assert len(figures.lr_range(make_range_test(sweeps=sweeps, suggestions={}, curve=curve)).axes) == 3


@pytest.mark.parametrize(("allowed", "text"), [((0.02, 2.56), "0.02 to 2.56"), ((0.0, 0.05), "up to 0.05")])
def test_the_range_that_the_test_allows_is_drawn_and_named(allowed: tuple[float, float], text: str) -> None:
    figure = figures.lr_range(make_range_test(allowed_lr_max=allowed))
    bar = figure.axes[2].lines[0]
    np.testing.assert_allclose(np.asarray(bar.get_xdata()), [max(allowed[0], 0.001), allowed[1]])  # as far as the frame
    assert text in texts(figure)


@pytest.mark.parametrize("curve", ["exp", "linear"])
@pytest.mark.parametrize(("lr_min", "lr_max"), [(0.001, 10.0), (0.001, 0.003), (3.0, 10.0), (0.01, 0.03), (0.04, 0.4)])
def test_all_labels_are_on_the_page_and_those_of_the_bounds_above_the_frame(
    lr_min: float, lr_max: float, curve: str
) -> None:
    reason = "LRMAX = 1: half the LR at which the loss rose above its start; " * 4
    figure = figures.lr_range(
        make_range_test(
            lr_min=lr_min, lr_max=lr_max, curve=curve, reason=reason, lr_max_source="limited by the test",
            suggestions={"low": 1e-3, "high": 10.0, "lower": 1e-6, "higher": 1e6},
        )
    )  # fmt: skip
    width, height = figure.bbox.width, figure.bbox.height
    labels = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text().strip() and t.get_visible()]
    ticks = {t for axes in figure.axes for t in axes.get_xticklabels(which="both")}  # some lie outside the limits
    boxes = {text.get_text(): text.get_window_extent() for text in labels if text not in ticks}
    assert all(b.x0 >= 0 and b.x1 <= width and b.y0 >= 0 and b.y1 <= height for b in boxes.values())
    low, high = (box for text, box in boxes.items() if text.startswith(("LRMIN = ", "LRMAX = ")) and "half" not in text)
    frame = figure.axes[0].get_window_extent()
    assert frame.x0 - 1 <= low.x0 and low.x1 < high.x0 and high.x1 <= frame.x1 + 1
    (written,) = [box for text, box in boxes.items() if "half" in text]
    assert written.x1 <= frame.x1 + 1
    assert min(low.y0, high.y0) >= frame.y1 and max(low.y1, high.y1) <= written.y0
