"""Several trainings that differ in the seed: their mean and spread, and when they reached a target.

In: the run directories of the trainings, or test accuracies by epoch. Out: a `SeedsResult`.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scsuite.core.errors import ExitCode
from scsuite.core.runs.checkpoints import list_checkpoints
from scsuite.core.runs.results import (
    EpochResult,
    FinalMetrics,
    TrainResult,
    is_reached,
    read_epochs,
    read_json,
    read_result,
)
from scsuite.core.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class SeedsResult(TrainResult):
    """Trainings with several seeds: the test accuracy of each, their mean, standard deviation (n - 1) and minimum.

    `std` is None for one seed. `reached` compares the mean with `target`. All other values of a training are those of
    the first seed; its network is the one that `evaluate --ckpt GROUP` takes.
    """

    seeds: tuple[dict[str, Any], ...]
    mean: float
    std: float | None
    min: float


@dataclass(frozen=True)
class SeedRun:
    """What the run directory of one seed says; `result` is None unless the training is complete."""

    seed: int
    path: Path
    result: dict[str, Any] | None
    diverged: bool

    @classmethod
    def read(cls, seed: int, path: Path) -> "SeedRun":
        """Read a run directory."""
        values = read_json(path / "result.json")
        is_complete = values.get("status", "") == "ok"
        diverged = values.get("status") == "failed" and values.get("exit_code") == ExitCode.DIVERGED
        return cls(seed, path, read_result(path, "train") if is_complete else None, diverged)

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to train: a diverged training would diverge again."""
        return self.result is not None or self.diverged

    def summary(self) -> dict[str, Any]:
        """Return its entry in `seeds` of the JSON contract; without an accuracy if it diverged."""
        result: Mapping[str, Any] = self.result or {}
        return {
            "seed": self.seed,
            "run_dir": str(self.path),
            "test_accuracy": result["final"]["test_accuracy"] if result else None,
            "lr_min": result.get("lr_min"),
            "lr_max": result.get("lr_max"),
            "seconds": sum(epoch.seconds for epoch in read_epochs(self.path)) if result else None,
        }


def summarize_seeds(runs: Sequence[SeedRun], target: float | None) -> SeedsResult:
    """Return the summary of complete trainings; `target` is a fraction."""
    first, summaries = runs[0].result, tuple(run.summary() for run in runs)
    assert first is not None
    accuracies = [summary["test_accuracy"] for summary in summaries]
    mean, histories = statistics.fmean(accuracies), [read_epochs(run.path) for run in runs]
    return SeedsResult(
        epochs=first["epochs"],
        lr_min=first["lr_min"],
        lr_max=first["lr_max"],
        images_per_second=first["images_per_second"],
        final=FinalMetrics(**{item.name: first["final"].get(item.name) for item in fields(FinalMetrics)}),
        best=first["best"],
        checkpoint=str(runs[0].path / "model.safetensors"),
        warnings=tuple(f"seed {run.seed}: {text}" for run in runs for text in (run.result or {}).get("warnings", ())),
        seeds=summaries,
        mean=mean,
        std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        min=min(accuracies),
        **target_facts(mean, histories, target),
    )


def training_position(trainer: Trainer, run: Path) -> dict[str, Any]:
    """Return where a training is, for the result of a run that stops here, and its newest checkpoint."""
    checkpoint = next(iter(list_checkpoints(run)), None)
    return {
        "epochs": trainer.config.epochs,
        "epochs_done": trainer.num_epochs_done,
        "steps_done": trainer.state.step,
        "lr_min": trainer.config.lr_min,
        "lr_max": trainer.config.lr_max,
        "checkpoint": None if checkpoint is None else str(checkpoint),
    }


def target_facts(accuracy: float, histories: Sequence[Sequence[EpochResult]], target: float | None) -> dict[str, Any]:
    """Return the fields of a result that compare a test accuracy after the last epoch with a target."""
    if target is None:
        return {}
    return {"target": target, "reached": is_reached(accuracy, target), "reached_at": first_reached(histories, target)}


def first_reached(histories: Iterable[Sequence[EpochResult]], target: float) -> dict[str, float] | None:
    """Return the first epoch whose mean test accuracy is at least the target, and the seconds up to its end.

    Both are means over the trainings; the seconds include evaluations. Epochs that were not evaluated on the test
    images do not count. None if there is no such epoch.
    """
    seconds = 0.0
    for epochs in zip(*histories, strict=True):
        seconds += statistics.fmean(epoch.seconds for epoch in epochs)
        accuracies = [epoch.test_accuracy for epoch in epochs if epoch.test_accuracy is not None]
        if len(accuracies) == len(epochs) and is_reached(statistics.fmean(accuracies), target):
            return {"epoch": epochs[0].epoch, "seconds": seconds}
    return None
