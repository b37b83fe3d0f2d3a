"""The full job: the commands that are left, and the table of their results."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.studies import full_job
from tests.studies.full_job import RECIPES, Study, accuracy_table, run_study

CALLS = [
    "lr-range default", "train default-0", "evaluate default-0", "gradcam default-0", "train default-1",
    "evaluate default-1", "lr-range assignment", "train assignment-0", "evaluate assignment-0", "train cifar10-fast-0",
    "evaluate cifar10-fast-0",
]  # fmt: skip
ACCURACIES = {"default-0": 0.94, "default-1": 0.96, "assignment-0": 0.9, "cifar10-fast-0": 0.91}
# Two epochs of 90 seconds, the second after a resume.
METRICS = """epoch,step,lr,momentum,train_loss,train_accuracy,test_loss,test_accuracy,images_per_second,seconds
1,1,0.1,0.9,1.0,0.5,1.0,0.5,100.0,90.0
2,2,0.1,0.9,1.0,0.5,1.0,0.5,100.0,90.0
"""


def make_run(runs_dir: Path, command: str, name: str, **values: Any) -> Path:
    run = runs_dir / f"20260101T000000Z-{command}-{name}"
    run.mkdir(parents=True, exist_ok=True)
    (run / "result.json").write_text(json.dumps({"status": "ok", **values}))
    return run


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study("images.tar", tmp_path, (), {**dict.fromkeys(RECIPES, 1), "default": 2})


@pytest.fixture
def calls(study: Study, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The commands that were run; each leaves a complete run."""
    calls: list[Sequence[str]] = []

    def run(words: Sequence[str]) -> None:
        calls.append(words)
        name = words[-1].partition("-train-")[2] if "--resume" in words else words[words.index("--name") + 1]
        accuracy = ACCURACIES.get(name, 0.0)
        final = {"test_accuracy": accuracy, "test_accuracy_no_ema": accuracy - 0.01}
        out = make_run(study.runs_dir, words[0], name, final=final, tta={"accuracy": accuracy + 0.01}, seconds=90.0)
        (out / "metrics.csv").write_text(METRICS)

    monkeypatch.setattr(full_job, "run_or_exit", run)
    return calls


def names_of(calls: Sequence[Sequence[str]]) -> list[str]:
    return [f"{words[0]} {words[words.index('--name') + 1]}" for words in calls]


def test_every_training_has_the_bounds_of_the_range_test_of_its_recipe(
    study: Study, calls: list[Sequence[str]]
) -> None:
    assert run_study(study, time.monotonic() + 100)
    assert names_of(calls) == CALLS
    trainings = {words[words.index("--name") + 1]: words for words in calls if words[0] == "train"}
    for name, words in trainings.items():
        recipe, _, seed = name.rpartition("-")
        assert words[words.index("--recipe") + 1] == recipe
        assert words[words.index("--seed") + 1] == seed
        bounds = str(study.runs_dir / f"20260101T000000Z-lr-range-{recipe}")
        assert ("--lr-from" in words) == (recipe != "cifar10-fast")
        assert "--lr-from" not in words or words[words.index("--lr-from") + 1] == bounds


def test_complete_runs_are_not_repeated_and_a_stopped_training_is_resumed(
    study: Study, calls: list[Sequence[str]]
) -> None:
    assert not run_study(study, time.monotonic() - 1)
    assert calls == []
    assert run_study(study, time.monotonic() + 100)
    calls.clear()
    stopped = make_run(study.runs_dir, "train", "default-1", status="stopped")
    assert run_study(study, time.monotonic() + 100)
    assert calls == [["train", "--resume", str(stopped)]]


def test_the_table_has_mean_and_standard_deviation_over_the_seeds(study: Study, calls: list[Sequence[str]]) -> None:
    run_study(study, time.monotonic() + 100)
    columns = [list(column.cells) for column in accuracy_table(study).columns]
    # The standard deviation of 94 and 96 is sqrt(2).
    assert columns[2] == ["95.00 ± 1.41", "90.00", "91.00"]
    assert columns[3] == ["96.00 ± 1.41", "91.00", "92.00"]
    assert columns[4] == ["94.00 ± 1.41", "89.00", "90.00"]
    assert columns[5] == ["3.0, 3.0", "3.0", "3.0"]
    assert columns[6] == ["94.00, 96.00", "90.00", "91.00"]
    assert calls
