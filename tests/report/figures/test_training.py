"""The figure of a training draws what was measured, and names the split of the evaluation."""

from dataclasses import replace

import numpy as np
import pytest

from scsuite.report import figures
from tests.report.figures.examples import make_history, overlap, texts


def test_the_last_accuracy_is_written_in_percent() -> None:
    figure = figures.training(make_history())
    assert "val\n65.43 %" in texts(figure)
    legend = figure.axes[1].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["train", "val"]


def test_a_single_epoch_without_an_evaluation_is_drawn_as_a_point() -> None:
    (line,) = figures.training(make_history([None])).axes[0].lines
    assert (line.get_label(), line.get_marker()) == ("train", "o")


def test_a_training_without_an_epoch_is_drawn() -> None:
    assert len(figures.training(make_history([])).axes) == 3


def test_the_momentum_has_a_panel_only_where_it_changes() -> None:
    history = make_history()
    cycled = tuple(row._replace(momentum=0.85 + 0.01 * row.step) for row in history.steps)
    for steps, labels in ((history.steps, {"learning rate"}), (cycled, {"learning rate", "momentum"})):
        panels = figures.training(replace(history, steps=steps)).axes
        assert {axes.get_ylabel() for axes in panels} == {"loss", "accuracy (%)", *labels}


def test_the_accuracy_panel_shows_the_largest_class_where_classes_are_uneven() -> None:
    figure = figures.training(replace(make_history(), majority_fraction=0.9))
    shown = texts(figure)
    assert "largest class 90 %" in shown
    assert not [text for text in shown if text.startswith("chance")]


@pytest.mark.parametrize(("num_classes", "text"), [(2, "chance 50 %"), (3, "chance 33.3 %"), (100, "chance 1 %")])
def test_the_accuracy_of_guessing_is_a_named_line(num_classes: int, text: str) -> None:
    axes = figures.training(replace(make_history(), num_classes=num_classes)).axes[1]
    (label,) = [t for t in axes.texts if t.get_text() == text]
    assert any(np.allclose(line.get_ydata(), 100 / num_classes) for line in axes.lines)
    assert axes.get_ylim()[0] < 100 / num_classes
    box, frame = label.get_window_extent(), axes.get_window_extent()
    assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0


@pytest.mark.parametrize("test_accuracy", [0.6543, 0.66, 0.3])
def test_with_a_validation_split_the_final_test_accuracy_is_a_named_point(test_accuracy: float) -> None:
    history = make_history()
    last = replace(history.epochs[-1], test_accuracy=test_accuracy)
    axes = figures.training(replace(history, epochs=(*history.epochs[:-1], last))).axes[1]
    labels = [t for t in axes.texts if t.get_text() in ("val\n65.43 %", f"test\n{100 * test_accuracy:.2f} %")]
    assert len(labels) == 2
    assert not overlap(labels, 1)
    (point,) = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(point, np.array([[2, 100 * test_accuracy]]))
