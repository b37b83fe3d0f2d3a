"""The curves of several trainings side by side. Run: pytest tests/report/figures/test_comparison.py."""

import pytest

from scsuite.core.runs.results import EpochResult
from scsuite.report import figures


@pytest.mark.parametrize("num_epochs", [1, 2, 24])
def test_epochs_are_whole_numbers(num_epochs: int) -> None:
    rows = [
        EpochResult(
            epoch=epoch, step=epoch, lr=0.1, momentum=0.9, train_loss=1.0, train_accuracy=0.5, test_loss=1.0,
            test_accuracy=0.5, images_per_second=1.0, seconds=1.0,
        )
        for epoch in range(1, num_epochs + 1)
    ]  # fmt: skip
    for axes in figures.comparison([("A", rows)], "test").axes:
        ticks = axes.get_xticks()
        assert len(ticks) >= 1
        assert all(tick == round(tick) for tick in ticks)
