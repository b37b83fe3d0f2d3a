"""Summaries of several trainings, and when a target was reached. Run: pytest tests/core/training/test_seeds.py."""

import json
from pathlib import Path

import pytest

from scsuite.core.config import TrainCommandConfig, TrainConfig
from scsuite.core.runs.find_runs import seed_runs
from scsuite.core.runs.results import EPOCH_COLUMNS, EpochResult, is_reached
from scsuite.core.training.seeds import SeedRun, first_reached, summarize_seeds


def epochs(*accuracies: float | None, seconds: float = 2.0) -> list[EpochResult]:
    """Epochs with these test accuracies."""
    return [
        EpochResult(number, number, 0.1, 0.9, 1.0, 0.5, None if accuracy is None else 1.0, accuracy, 100.0, seconds)
        for number, accuracy in enumerate(accuracies, 1)
    ]


@pytest.mark.parametrize(
    ("histories", "target", "expected"),
    [
        ([epochs(0.5, 0.8, 0.9)], 0.8, {"epoch": 2, "seconds": 4.0}),  # equal is reached
        ([epochs(0.5, 0.9, 0.7)], 0.8, {"epoch": 2, "seconds": 4.0}),  # also if a later epoch is below it
        ([epochs(0.5, 0.79, 0.7)], 0.8, None),
        ([epochs(None, None, 0.9)], 0.8, {"epoch": 3, "seconds": 6.0}),  # with --val-split: the last one only
        # The mean of the seeds: 0.6, 0.75, 0.8; and of the seconds: 2 and 4.
        ([epochs(0.6, 0.9, 0.9), epochs(0.6, 0.6, 0.7, seconds=4.0)], 0.8, {"epoch": 3, "seconds": 9.0}),
        ([], 0.8, None),
    ],
)
def test_a_target_is_first_reached_by_the_mean_of_an_epoch(
    histories: list[list[EpochResult]], target: float, expected: dict[str, float] | None
) -> None:
    assert first_reached(histories, target) == expected


def test_a_target_is_compared_as_the_percentage_that_was_written() -> None:
    for hundredths in range(200, 10_001):  # as a fraction and as a percentage of 10,000 images
        target = TrainCommandConfig(target=hundredths / 100).target_accuracy
        assert target is not None
        assert is_reached(hundredths / 10_000, target)
        assert not is_reached((hundredths - 1) / 10_000, target)
    assert not is_reached(float("nan"), 0.5)


def test_the_settings_of_one_training_are_without_those_of_the_group() -> None:
    config = TrainCommandConfig(recipe="assignment", seed=3, seeds=2, target=90, l1=0.1)
    assert config.training() == TrainConfig(recipe="assignment", seed=3, l1=0.1)
    assert config.training(seed=4) == TrainConfig(recipe="assignment", seed=4, l1=0.1)


def write_run(group: Path, seed: int, accuracy: float) -> None:
    """A complete training."""
    run = group / f"20261129T000000Z-train-x-seed{seed}"
    run.mkdir()
    final = {
        "test_accuracy": accuracy, "test_loss": 1.0, "train_loss": 1.0, "train_accuracy": 0.5,
        "test_accuracy_no_ema": None, "test_loss_no_ema": None, "test_balanced_accuracy": accuracy,
    }  # fmt: skip
    result = {
        "command": "train", "status": "ok", "seed": seed, "epochs": 1, "lr_min": 0.1, "lr_max": 0.2 + seed,
        "images_per_second": 10.0, "final": final, "best": {"epoch": 1},
    }  # fmt: skip
    (run / "config.yaml").touch()
    (run / "result.json").write_text(json.dumps(result))
    row = [("" if value is None else value) for value in vars(epochs(accuracy)[0]).values()]
    (run / "metrics.csv").write_text(",".join(EPOCH_COLUMNS) + "\n" + ",".join(map(str, row)) + "\n")


def test_mean_and_standard_deviation_are_those_of_the_seeds(tmp_path: Path) -> None:
    for seed, accuracy in ((10, 0.9), (9, 0.8), (8, 0.7)):
        write_run(tmp_path, seed, accuracy)
    (tmp_path / "20261129T000000Z-train-x-seed7").mkdir()  # killed before it had a configuration
    (tmp_path / "unrelated").mkdir()
    runs = [SeedRun.read(seed, path) for seed, path in seed_runs(tmp_path).items()]
    assert [run.seed for run in runs] == [8, 9, 10]  # by number
    result = summarize_seeds(runs, 0.8)
    assert result.mean == pytest.approx(0.8)
    assert result.std == pytest.approx(0.1)  # sqrt((0.1^2 + 0 + 0.1^2) / 2)
    assert (result.min, result.reached, result.target) == (0.7, True, 0.8)
    assert [(row["seed"], row["lr_max"], row["seconds"]) for row in result.seeds] == [
        (8, 8.2, 2.0), (9, 9.2, 2.0), (10, 10.2, 2.0),
    ]  # fmt: skip
    assert summarize_seeds(runs[:1], None).std is None
    assert summarize_seeds(runs, 0.81).reached is False
