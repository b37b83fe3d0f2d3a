"""The figure of a training draws what was measured, and names the split of the evaluation."""

from scsuite.report import figures
from tests.report.figures.examples import make_history, texts


def test_the_last_accuracy_is_written_in_percent() -> None:
    figure = figures.training(make_history())
    assert "val\n65.43 %" in texts(figure)
    legend = figure.axes[1].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["train", "val"]


def test_a_single_epoch_without_an_evaluation_is_drawn_as_a_point() -> None:
    (line,) = figures.training(make_history([None])).axes[0].lines
    assert (line.get_label(), line.get_marker()) == ("train", "o")


def test_a_training_without_an_epoch_is_drawn() -> None:
    assert len(figures.training(make_history([])).axes) == 4
