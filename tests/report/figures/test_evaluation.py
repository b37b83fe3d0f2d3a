"""The figures of an evaluation show its counts, fractions and intervals, with class names that do not overlap."""

import numpy as np
import pytest
from numpy.typing import NDArray

from scsuite.report import figures
from tests.report.figures.examples import NAN, make_evaluation, overlap, texts

LONG_NAME = "an extraordinarily long class name"


@pytest.mark.parametrize("num_classes", [2, 10, 15])
def test_cells_hold_counts_and_percentages_of_their_row(num_classes: int) -> None:
    counts_KK = np.random.default_rng(1).integers(0, 50, (num_classes, num_classes))
    counts_KK[0, 1], counts_KK[1, 1] = 0, 4999  # a cell without images has no percentage
    cells: dict[tuple[int, int], list[str]] = {}
    for text in figures.confusion(make_evaluation(counts_KK)).axes[0].texts:
        cell = round(text.get_position()[1]), round(text.get_position()[0])
        cells.setdefault(cell, []).append(text.get_text())
    percent_KK = 100 * counts_KK / counts_KK.sum(axis=1, keepdims=True)
    assert cells == {
        cell: [f"{count:,}"] + [f"{percent_KK[cell]:.1f} %"] * bool(count and num_classes <= 12)
        for cell, count in np.ndenumerate(counts_KK)
    }


def test_colors_are_fractions_of_the_actual_class_or_none_without_images() -> None:
    axes = figures.confusion(make_evaluation(np.array([[3, 1], [0, 0]]))).axes[0]
    fractions: NDArray[np.float64] = np.ma.filled(np.ma.asarray(axes.get_images()[0].get_array()), NAN)
    np.testing.assert_array_equal(fractions, [[0.75, 0.25], [NAN, NAN]])


@pytest.mark.parametrize("num_classes", [2, 10, 100, 300])
def test_class_names_do_not_overlap_and_many_classes_have_no_counts(num_classes: int) -> None:
    names = [f"{LONG_NAME} {k}" for k in range(num_classes)]
    figure = figures.confusion(make_evaluation(np.eye(num_classes, dtype=np.int64), names))
    axes = figure.axes[0]
    assert not overlap(axes.get_yticklabels(), 1)
    # A cell with a count also has a percentage.
    assert len(axes.texts) == (num_classes**2 + num_classes if num_classes <= 20 else 0)
    assert axes.get_yticklabels()[0].get_text().endswith("0")
    assert max(figure.get_size_inches()) < 17


def test_class_accuracies_are_drawn_worst_first_with_their_intervals() -> None:
    evaluation = make_evaluation(np.array([[90, 10, 0], [60, 40, 0], [0, 0, 0]]), ["cat", "dog", "owl"])
    figure = figures.class_accuracy(evaluation)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat"]  # no images of owls
    assert [np.asarray(line.get_xydata()).tolist() for line in axes.lines[:2]] == [[[0.4, 0]], [[0.9, 1]]]
    segments = [tuple(np.asarray(path.vertices)[:, 0]) for bars in axes.collections for path in bars.get_paths()]
    cat, dog, _ = evaluation.per_class()
    assert segments == [dog.recall_ci95, cat.recall_ci95]
    title = "Accuracy of the classes (1 without images)"
    assert {"40.0 %", "90.0 %", "mean of classes 65.0 %", title} <= set(texts(figure))


@pytest.mark.parametrize("num_classes", [1, 10, 100, 101])
def test_the_worst_hundred_classes_have_names_that_do_not_overlap(num_classes: int) -> None:
    names = [f"{LONG_NAME} {k}" for k in range(num_classes)]
    counts_KK = np.ones((num_classes, num_classes), np.int64) + np.diag(np.arange(num_classes))
    figure = figures.class_accuracy(make_evaluation(counts_KK, names))
    labels = figure.axes[0].get_yticklabels()
    assert len(labels) == min(num_classes, 100)
    assert not overlap(labels, 1)
    assert ("Accuracy of the classes, the 100 worst of 101" in texts(figure)) == (num_classes > 100)


def test_reliability_leaves_empty_bins_out_and_counts_the_others() -> None:
    figure = figures.reliability(make_evaluation(np.eye(3, dtype=np.int64)))
    curve, bars = figure.axes
    np.testing.assert_array_equal(curve.lines[1].get_xydata(), [[0.4, 0.3], [0.95, 0.99]])
    assert [text.get_text() for text in bars.texts] == ["12", "3,456"]
    # Of three bins, each a third wide, the second and the third have images.
    centers = [bar.get_x() + bar.get_width() / 2 for bar in bars.patches]  # type: ignore[attr-defined]
    assert centers == pytest.approx([1 / 2, 5 / 6])
    assert "Expected calibration error 2.31 %" in texts(figure)
