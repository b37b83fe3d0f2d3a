"""The JSON contract: one frozen dataclass per command. The order of the fields is the order of the keys.

In: what a command computed. Out: plain values, fit for result.json and --json. Accuracies are fractions in [0, 1],
losses means per image in nats, durations seconds.
"""

import contextlib
import itertools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from scsuite import __version__
from scsuite.core.config import MAX_PLOTTED_STEPS
from scsuite.core.errors import InputError, one_line
from scsuite.core.files import load_json
from scsuite.core.runs.csv_files import check_num_rows, read_csv

MAX_EPOCHS = 100_000  # as --epochs has
TOLERANCE = 1e-9  # of an accuracy: a mean that equals the target reaches it, whatever the last digit of the sum is
Record = TypeVar("Record")


@dataclass(frozen=True)
class StepResult:
    """One optimizer update.

    `loss` is the mean cross entropy of the batch, without L1 and label smoothing; `seconds` includes waiting for data.
    """

    step: int
    lr: float
    momentum: float
    loss: float
    num_correct: int
    num_images: int
    seconds: float


class StepRow(NamedTuple):
    """A row of steps.csv."""

    step: int
    lr: float
    momentum: float
    loss: float


@dataclass(frozen=True)
class EpochResult:
    """One epoch, counted from 1, and a row of metrics.csv.

    `step` is the number of steps done; `lr` and `momentum` are those of the last step. Test and validation values are
    those of the averaged weights if there is an average; `test_*_no_ema` are those of the raw weights, after the
    last epoch only.
    """

    epoch: int
    step: int
    lr: float
    momentum: float
    train_loss: float
    train_accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    images_per_second: float
    seconds: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    test_loss_no_ema: float | None = None
    test_accuracy_no_ema: float | None = None
    test_balanced_accuracy: float | None = None  # mean of the classes' recalls

    def eval_loss(self, split: str) -> float | None:
        """Return the loss on `split`: test or val."""
        return self.test_loss if split == "test" else self.val_loss

    def eval_accuracy(self, split: str) -> float | None:
        """Return the accuracy on `split`: test or val."""
        return self.test_accuracy if split == "test" else self.val_accuracy


EPOCH_COLUMNS = tuple(column.name for column in fields(EpochResult))
STEP_COLUMNS = StepRow._fields


@dataclass(frozen=True)
class TrainHistory:
    """All epochs and steps of a training; each epoch is evaluated on `eval_split`: test or val.

    `majority_fraction` is that of the largest class of these images, if the classes are uneven.
    """

    epochs: tuple[EpochResult, ...]
    steps: tuple[StepRow, ...]
    steps_per_epoch: int
    eval_split: str
    num_classes: int
    majority_fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """What every command reports. Paths are absolute; `seed` is that of the training, if there is one."""

    command: str
    version: str = __version__
    status: str = "ok"
    run_dir: str | None = None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    seed: int | None = None
    device: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: lists for tuples, dictionaries for dataclasses."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, kw_only=True)
class ZigzagResult(CommandResult):
    """A drawn learning-rate curve."""

    command: str = "zigzag"
    policy: str
    lr_min: float
    lr_max: float
    steps_per_epoch: int
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class LrRangeResult(CommandResult):
    """A range test: the LR bounds, each rule's suggestion, the number of steps of each repeat, and the conditions."""

    command: str = "lr-range"
    lr_min: float
    lr_max: float
    reason: str
    suggestions: dict[str, float]
    steps: tuple[int, ...]
    conditions: dict[str, Any]


@dataclass(frozen=True)
class FinalMetrics:
    """Metrics of the last epoch, of the averaged weights if there are any; then `*_no_ema` are of the raw weights."""

    test_accuracy: float
    test_loss: float
    train_loss: float
    train_accuracy: float
    test_accuracy_no_ema: float | None
    test_loss_no_ema: float | None
    test_balanced_accuracy: float


@dataclass(frozen=True, kw_only=True)
class TrainResult(CommandResult):
    """A complete training. `best` names its epoch, its accuracy and the split that it was selected on.

    `reached` compares the test accuracy of the last epoch with `target`; `reached_at` has the first epoch that was at
    least the target, and the seconds of training up to its end.
    """

    command: str = "train"
    epochs: int
    lr_min: float
    lr_max: float
    images_per_second: float | None
    temperature: float = 1.0
    final: FinalMetrics
    best: dict[str, Any]
    checkpoint: str
    page: str | None = None
    target: float | None = None
    reached: bool | None = None
    reached_at: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(CommandResult):
    """An evaluation of a trained network.

    `evaluated`: test, the test images of the training's data; all, every labelled image of other data.
    """

    command: str = "evaluate"
    accuracy: float
    accuracy_ci95: tuple[float, float]
    balanced_accuracy: float
    top5_accuracy: float | None
    loss: float
    ece: float
    temperature: float = 1.0
    macro: dict[str, float]
    num_images: int
    per_class: list[dict[str, Any]]
    confusion_matrix: list[list[int]]
    confusion_normalized: list[list[float]]
    most_confused: list[dict[str, Any]]
    num_misclassified: int
    misclassified: list[dict[str, Any]]
    tta: dict[str, Any] | None
    data: str
    evaluated: str
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class GradcamResult(CommandResult):
    """Class activation maps of some images, and how faithful they are.

    `evaluated` says of which images, as in `EvaluateResult`; None for the user's own images.
    """

    command: str = "gradcam"
    method: str
    layer: str
    images: list[dict[str, Any]]
    faithfulness: dict[str, dict[str, Any]]
    maps: str | None
    overlays: list[str] | None
    evaluated: str | None
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class PredictResult(CommandResult):
    """Predictions for images without labels, and the files that could not be read; then the status is failed."""

    command: str = "predict"
    predictions: list[Any]
    unreadable: list[dict[str, str]]
    fit: str
    tta: str
    out: str | None
    checkpoint: str
    error: dict[str, str] | None
    exit_code: int | None = None


def read_result(spec: str | Path, command: str) -> dict[str, Any]:
    """Return the result of a run of `command`. Raises InputError for anything else."""
    path = Path(spec, "result.json") if os.path.isdir(spec) else Path(spec)  # noqa: PTH112 - False for a long name
    hint = f"Give a directory that scsuite {command} made."
    try:
        result = load_json(path, "run")
    except (ValueError, RecursionError):
        raise InputError("run", path, expected="a JSON object", found="something else", hint=hint) from None
    actual = result.get("command", "no command") if isinstance(result, dict) else "no command"
    if actual != command:
        raise InputError("run", path, expected=f"the result of {command}", found=f"that of {actual}", hint=hint)
    if (status := result.get("status", "ok")) != "ok":
        hint = f"Continue it: scsuite train --resume {path.parent}" if command == "train" else "Start it again."
        raise InputError("run", path, expected="a complete run", found=f"status {status!r:.40}", hint=hint)
    return dict(result)


def read_steps(run: Path, num_steps: int | None = None) -> list[StepRow]:
    """Return the rows of steps.csv, or the first `num_steps`. Raises InputError for no file, other values, too many."""
    return _read_records(run / "steps.csv", StepRow, MAX_PLOTTED_STEPS, num_steps)


def read_epochs(run: Path) -> list[EpochResult]:
    """Return the rows of metrics.csv as numbers. Raises InputError for no file, other values, or too many."""
    return _read_records(run / "metrics.csv", EpochResult, MAX_EPOCHS)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty dictionary if the file is missing or damaged."""
    with contextlib.suppress(InputError, ValueError, RecursionError):
        values = load_json(path, "run")
        return values if isinstance(values, dict) else {}
    return {}


def is_reached(accuracy: float, target: float) -> bool:
    """Return whether an accuracy is at least the target; False for NaN."""
    return accuracy >= target - TOLERANCE


def _read_records(
    path: Path, make_record: Callable[..., Record], max_rows: int, num_rows: int | None = None
) -> list[Record]:
    """Return the complete rows of a CSV file, made of numbers by column; an empty cell is None."""
    hint, rows, records = "Give a training run.", read_csv(path), list[Record]()
    if (header := next(rows, None)) is None:
        raise InputError("run", path, expected="the rows of a training run", found="none", hint=hint)
    if num_rows is None:
        check_num_rows(path, max_rows)
    convert: list[Callable[[str], float | None]] = [
        _parse_int if column in ("epoch", "step") else _parse_float for column in header
    ]
    try:
        for row in itertools.islice(rows, num_rows):
            values = [parse(text) for parse, text in zip(convert, row, strict=True)]
            records.append(make_record(**dict(zip(header, values, strict=True))))
    except ValueError as error:
        raise InputError("run", path, expected="numbers", found=one_line(error), hint=hint) from None
    except TypeError as error:  # a column that is missing or unknown
        raise InputError("run", path, expected="the columns of a run", found=one_line(error), hint=hint) from None
    return records


def _parse_int(text: str) -> int | None:
    return int(text) if text else None


def _parse_float(text: str) -> float | None:
    return float(text) if text else None
