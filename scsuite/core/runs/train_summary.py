"""A training with its rows and the runs of other commands that belong to it.

In: paths of run directories. Out: `TrainSummary`. A run belongs to a training by the name of the run directory, by the
content of the data and by the LR bounds, never by an absolute path: a moved or copied runs directory reads the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from scsuite.core.config import is_finite_number
from scsuite.core.errors import InputError
from scsuite.core.runs.results import EpochResult, StepRow, TrainHistory, is_reached, read_epochs, read_steps
from scsuite.core.runs.summary import (
    COMPANION_KEYS,
    HINT,
    RunSummary,
    as_mapping,
    newest_first,
    read_neighbours,
    read_run,
)

NUM_CLASSES = {"cifar10": 10, "shapes": 10}  # of data whose older runs do not record it


@dataclass(frozen=True)
class TrainSummary:
    """A training: its run, its rows, and the newest runs of other commands that belong to it, None where there is none.

    `other_evaluations` are those on other images. `problems` says what could not be read.
    """

    run: RunSummary
    epochs: tuple[EpochResult, ...] = ()
    steps: tuple[StepRow, ...] = ()
    lr_range: RunSummary | None = None
    evaluation: RunSummary | None = None
    gradcam: RunSummary | None = None
    other_evaluations: tuple[RunSummary, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether the training reached its end."""
        return bool(as_mapping(self.run.result.get("final")))

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return int(self.run.config.get("seed", 0))

    @property
    def num_epochs(self) -> int:
        """The planned number of epochs."""
        return int(self.run.config.get("epochs", len(self.epochs)))

    @property
    def cycle(self) -> Mapping[str, Any]:
        """The planned cycle, as environment.json has it; empty before the first step."""
        return as_mapping(self.run.environment.get("one_cycle"))

    @property
    def final(self) -> Mapping[str, Any]:
        """The metrics of the last epoch; empty unless the training is complete."""
        return as_mapping(self.run.result.get("final"))

    @property
    def eval_split(self) -> str:
        """The images that each epoch is evaluated on: test or val."""
        return "val" if self.run.config.get("val_split") else "test"

    @property
    def accuracy(self) -> float | None:
        """The test accuracy of the last epoch; before the end, that of the last epoch done, on `eval_split`."""
        if self.is_complete:
            return _number(self.final.get("test_accuracy"))
        measured = [row.eval_accuracy(self.eval_split) for row in self.epochs]
        return measured[-1] if measured else None

    @property
    def num_test_images(self) -> int | None:
        """The number of test images."""
        count = self.run.data.get("test_images")
        return count if isinstance(count, int) else None

    @cached_property
    def accuracy_ci95(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the test accuracy; None before the end."""
        from scsuite.core.evaluation.metrics import wilson_interval

        if not self.is_complete or self.accuracy is None or not self.num_test_images:
            return None
        return wilson_interval(round(self.accuracy * self.num_test_images), self.num_test_images)

    @property
    def target(self) -> float | None:
        """The accuracy to reach, a fraction; None if none was set. That of several seeds is for their mean."""
        group = self.run.group
        return group.target if group is not None and group.config.get("seeds") == 1 else self.run.target

    @property
    def target_reached(self) -> bool:
        """Whether the test accuracy of the last epoch is the target or more."""
        return self.is_complete and self.target is not None and is_reached(self.accuracy or 0, self.target)

    @property
    def target_reached_at(self) -> tuple[int, float] | None:
        """The first epoch whose test accuracy reached the target, and the seconds up to its end; None without one."""
        seconds = 0.0
        for row in self.epochs:
            seconds += row.seconds
            if self.target is not None and is_reached(row.test_accuracy or 0, self.target):
                return row.epoch, seconds
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in their order; empty if neither the training nor an evaluation recorded them."""
        names = self.run.data.get("class_names")
        if not names and self.evaluation is not None:
            names = [row["name"] for row in self.evaluation.result.get("per_class", ())]
        return tuple(map(str, names or ()))

    @property
    def num_classes(self) -> int | None:
        """The number of classes, if it is known."""
        return len(self.class_names) or NUM_CLASSES.get(str(self.run.data.get("name")))

    @cached_property
    def num_parameters(self) -> int | None:
        """The parameters of the network, if they were recorded or the number of classes is known."""
        recorded = self.run.environment.get("num_parameters")
        if isinstance(recorded, int) or self.num_classes is None:
            return recorded if isinstance(recorded, int) else None
        return _count_parameters(self.num_classes, float(self.run.config.get("width", 1.0)))

    @property
    def lr_reason(self) -> tuple[str, str]:
        """Where the LR bounds come from, and why they are what they are."""
        own = as_mapping(self.run.environment.get("range_test"))
        if own:
            return "the training's own range test", str(own.get("reason", ""))
        if self.lr_range is not None:
            return f"the range test {self.lr_range.path.name}", str(self.lr_range.result.get("reason", ""))
        if self.has_own_range_test:
            return "the training's own range test", "This version did not record the reason; log.txt may have it."
        if self.cycle or self.run.config.get("lr_max"):
            return "the options of the command", "LRMAX was given, not measured."
        return "a range test that has not ended", ""

    @property
    def has_own_range_test(self) -> bool:
        """Whether the training found its LR bounds itself."""
        return bool(self.run.environment.get("range_test")) or (self.run.path / "history.csv").is_file()

    @property
    def suggestions(self) -> Mapping[str, float]:
        """The suggestion of each rule of the range test; empty without one."""
        source = self.run.environment.get("range_test") or (self.lr_range.result if self.lr_range else {})
        return as_mapping(as_mapping(source).get("suggestions"))

    @property
    def lrs_done(self) -> tuple[float, float, float]:
        """The first, the highest and the last learning rate of the steps done."""
        return self.steps[0].lr, max(row.lr for row in self.steps), self.steps[-1].lr

    @property
    def history(self) -> TrainHistory | None:
        """The rows to draw; None before the first step."""
        steps_per_epoch = self.cycle.get("steps_per_epoch")
        if not self.steps or not isinstance(steps_per_epoch, int) or steps_per_epoch < 1:
            return None
        majority = _number(self.run.environment.get("majority_fraction"))
        return TrainHistory(self.epochs, self.steps, steps_per_epoch, self.eval_split, self.num_classes or 0, majority)


def _count_parameters(num_classes: int, width: float) -> int:
    """Return the parameters of the network that the command line trains."""
    import torch

    from scsuite.core.model.network import build_model

    with torch.device("meta"):  # no memory, no random numbers
        return sum(parameter.numel() for parameter in build_model(num_classes, width).parameters())


def read_training(
    path: Path, others: Sequence[RunSummary] | None = None, result: Mapping[str, Any] | None = None
) -> TrainSummary:
    """Return a training with the runs among `others` that belong to it; by default, those of its runs directory.

    Raises InputError for anything but the run directory of a training.
    """
    run = read_run(path, result)
    if run.command != "train":
        raise InputError("run", path, expected="a training run", found=f"a run of {run.command}", hint=HINT)
    problems, rows = [], dict[str, Any]()
    readers: tuple[tuple[str, str, Callable[[Path], Sequence[Any]]], ...] = (
        ("epochs", "metrics.csv", read_epochs), ("steps", "steps.csv", read_steps)
    )  # fmt: skip
    for name, file, read in readers:
        try:
            rows[name] = tuple(read(run.path)) if (run.path / file).exists() else ()
        except InputError as error:
            problems.append(str(error))
    _require_numbers(run)
    candidates = read_neighbours(run.path) if others is None else newest_first(others)
    candidates = [other for other in candidates if COMPANION_KEYS.get(other.command, {""}) <= other.result.keys()]
    evaluations = [other for other in candidates if other.command == "evaluate" and _is_of(other, run)]
    maps = [other for other in candidates if other.command == "gradcam" and _is_of(other, run)]
    maps = [other for other in maps if not other.config.get("images") and _has_same_data(other, run)]
    best_maps = [other for other in maps if other.config.get("select") == "misclassified"]
    same = [other for other in evaluations if _has_same_images(other, run)]
    return TrainSummary(
        run=run,
        **rows,
        lr_range=next((other for other in candidates if _gave_bounds(other, run)), None),
        evaluation=same[0] if same else None,
        gradcam=next(iter(best_maps or maps), None),
        other_evaluations=tuple(other for other in evaluations if other not in same),
        problems=tuple(problems),
    )


def _is_of(other: RunSummary, training: RunSummary) -> bool:
    """Return whether a run used the weights of this training: by the name of the directory, which moves with it."""
    folder = other.checkpoint.parent
    name = folder.parent.name if folder.name == "checkpoints" else folder.name
    is_final = other.checkpoint.name == "model.safetensors" or not training.result.get("final")
    names = {training.path.name, PurePath(str(training.result.get("run_dir", ""))).name} - {""}
    return name in names and is_final and not (other.started and other.started < training.started)


def _has_same_images(other: RunSummary, training: RunSummary) -> bool:
    """Return whether a run evaluated on the test images of the training, no more and no fewer."""
    if not other.data:  # an older run
        return _has_same_data(other, training) and other.config.get("limit_test") is None
    return _has_same_data(other, training) and other.data.get("test_images") == training.data.get("test_images")


def _has_same_data(other: RunSummary, training: RunSummary) -> bool:
    """Return whether a run read the data of the training: by content, or, where that is not recorded, by option."""
    if not other.data:
        return other.config.get("data") is None
    return bool(other.data.get("fingerprint") == training.data.get("fingerprint"))


def _gave_bounds(other: RunSummary, training: RunSummary) -> bool:
    """Return whether this range test found exactly the LR bounds of the training, on the same data."""
    bounds = [other.result.get(name) for name in ("lr_min", "lr_max")]
    data = as_mapping(other.result.get("conditions")).get("data", training.data.get("fingerprint"))
    return (
        other.command == "lr-range"
        and None not in bounds
        and bounds == [training.config.get(name) for name in ("lr_min", "lr_max")]
        and data == training.data.get("fingerprint")
    )


def _require_numbers(run: RunSummary) -> None:
    """Raise InputError for a configuration that was edited to hold texts in place of the numbers that are used here."""
    for name in ("seed", "epochs", "width"):
        value = run.config.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(
                "settings", run.path / "config.yaml", expected=f"a number for {name}", found=repr(value),
                hint="The file was edited; use the original.",
            )  # fmt: skip


def _number(value: Any) -> float | None:
    return float(value) if is_finite_number(value) else None
