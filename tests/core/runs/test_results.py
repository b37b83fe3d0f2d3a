"""The JSON contract, and rows read back as numbers. Run: pytest tests/core/runs/test_results.py."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from scsuite.core.config import MAX_PLOTTED_STEPS, TrainConfig
from scsuite.core.errors import InputError
from scsuite.core.runs.results import (
    EPOCH_COLUMNS,
    CommandResult,
    EpochResult,
    EvaluateResult,
    FinalMetrics,
    GradcamResult,
    LrRangeResult,
    StepResult,
    StepRow,
    TrainResult,
    ZigzagResult,
    read_epochs,
    read_json,
    read_result,
    read_steps,
)
from scsuite.core.runs.run_schedule import read_run_schedule
from scsuite.core.runs.rundir import RunDir
from scsuite.core.runs.unfinished import UnfinishedResult
from scsuite.core.schedule import OneCycle

CYCLE = OneCycle.from_epochs(lr_min=0.01, lr_max=0.1, epochs=3, steps_per_epoch=5, momentum_max=0.95, momentum_min=0.85)
STEP = StepResult(7, 1 / 3, 0.9, 2.0000000000000004, 3, 10, 0.5)
EPOCH = EpochResult(1, 5, 1e-05, 0.9, 2.0, 0.3, None, None, 1 / 7, 5.0, 1.9, 0.4)
COMMON = ["command", "version", "status", "run_dir", "seconds", "warnings", "figures", "seed", "device"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.start(tmp_path, "train", "x", TrainConfig(), {"one_cycle": asdict(CYCLE)})


def test_every_result_begins_with_the_common_keys() -> None:
    assert list(CommandResult(command="x").to_dict()) == COMMON
    commands = (ZigzagResult, LrRangeResult, TrainResult, EvaluateResult, GradcamResult)
    for command in commands:
        assert list(command.__dataclass_fields__)[: len(COMMON)] == COMMON
    names = [command.__dataclass_fields__["command"].default for command in commands]
    assert names == ["zigzag", "lr-range", "train", "evaluate", "gradcam"]


def test_a_result_becomes_plain_values_in_the_order_of_its_fields() -> None:
    result = TrainResult(
        epochs=3, seed=0, lr_min=0.01, lr_max=0.1, images_per_second=None, figures=("a.png",), checkpoint="/model",
        final=FinalMetrics(0.5, 1.0, 1.1, 0.4, None, None, 0.5), best={"epoch": 2},
    )  # fmt: skip
    values = result.to_dict()
    assert list(values) == [
        *COMMON, "epochs", "lr_min", "lr_max", "images_per_second", "temperature", "final", "best", "checkpoint",
        "page", "target", "reached", "reached_at",
    ]  # fmt: skip
    assert list(values["final"]) == [
        "test_accuracy", "test_loss", "train_loss", "train_accuracy", "test_accuracy_no_ema", "test_loss_no_ema",
        "test_balanced_accuracy",
    ]  # fmt: skip
    assert values["figures"] == ["a.png"]
    assert json.loads(json.dumps(values)) == values
    assert (values["command"], values["status"], values["warnings"]) == ("train", "ok", [])


def test_the_result_of_a_stopped_run_is_not_one_of_a_complete_run(run: RunDir) -> None:
    stopped = UnfinishedResult(command="train", status="stopped", exit_code=143, signal="SIGTERM", steps_done=3)
    run.write_result(stopped)
    assert list(stopped.to_dict()) == [*COMMON, "exit_code", "signal", "steps_done"]  # nothing that is unknown
    assert run.result() is None
    with pytest.raises(InputError, match=f"found status 'stopped'. Continue it: scsuite train --resume {run.path}"):
        read_result(run.path, "train")


def test_steps_are_read_back_as_the_same_numbers(run: RunDir) -> None:
    run.append_step(STEP)
    (row,) = read_steps(run.path)
    assert row == StepRow(STEP.step, STEP.lr, STEP.momentum, STEP.loss)
    assert [type(value) for value in row] == [int, float, float, float]


def test_epochs_are_read_back_as_the_same_numbers_and_none_where_nothing_was_measured(run: RunDir) -> None:
    complete = replace(EPOCH, epoch=2, test_loss=1.5, test_accuracy=0.5, test_loss_no_ema=1.6, test_accuracy_no_ema=0.4)
    for result in (EPOCH, complete):
        run.append_epoch(result)
    assert (run.path / "metrics.csv").read_text().splitlines()[0] == ",".join(EPOCH_COLUMNS)
    assert read_epochs(run.path) == [EPOCH, complete]
    assert type(read_epochs(run.path)[0].step) is int
    assert EPOCH.eval_accuracy("val") == 0.4
    assert EPOCH.eval_loss("test") is None


def test_rows_that_are_not_numbers_or_not_there_are_refused(run: RunDir) -> None:
    with pytest.raises(InputError, match=r"steps\.csv: expected the rows of a training run, found none"):
        read_steps(run.path)
    run.append_step(STEP)
    path = run.path / "steps.csv"
    path.write_text(path.read_text().replace("0.9", "much"))
    with pytest.raises(InputError, match=r"steps\.csv: expected numbers, found could not convert"):
        read_steps(run.path)


def test_the_schedule_of_a_run_is_its_cycle_and_the_learning_rates_done(run: RunDir) -> None:
    for number in range(3):
        run.append_step(replace(STEP, step=number, lr=CYCLE.lr_at(number)))
    assert read_run_schedule(run.path) == (CYCLE, [CYCLE.lr_at(number) for number in range(3)])


@pytest.mark.parametrize(
    ("cycle", "message"),
    [
        (None, "one_cycle"),
        ({"lr_min": 0.1}, "missing"),
        ({**asdict(CYCLE), "lr_max": -1.0}, "learning rate or momentum -1.0 is not positive and finite"),
        ({**asdict(CYCLE), "peak_step": 15}, "peak at step 15 is outside a cycle of 15 steps"),
        ({**asdict(CYCLE), "num_steps": MAX_PLOTTED_STEPS + 1}, "1,000,001 steps"),
    ],
)
def test_a_directory_without_the_schedule_of_a_training_is_refused(
    run: RunDir, cycle: dict[str, float] | None, message: str
) -> None:
    run.append_step(STEP)
    run.write_environment({} if cycle is None else {"one_cycle": cycle})
    with pytest.raises(InputError, match=f"the schedule and the learning rates of a training run, found .*{message}"):
        read_run_schedule(run.path)


def test_learning_rates_that_cannot_be_are_refused(run: RunDir) -> None:
    run.append_step(replace(STEP, lr=float("inf")))
    with pytest.raises(InputError, match="a learning rate of inf"):
        read_run_schedule(run.path)


def test_a_result_of_another_command_is_refused(run: RunDir) -> None:
    result = CommandResult(command="train")
    run.write_result(result)
    assert read_result(str(run.path), "train") == result.to_dict()
    assert read_result(run.path / "result.json", "train") == result.to_dict()
    with pytest.raises(InputError, match="the result of lr-range, found that of train"):
        read_result(str(run.path), "lr-range")
    (run.path / "result.json").write_text("[1]")
    with pytest.raises(InputError, match="the result of lr-range"):
        read_result(str(run.path), "lr-range")


HOSTILE_JSON = {
    "empty lists": b'{"a":[' + b"[]," * 2**21 + b"[]]}",
    "keys": b"{" + b",".join(b'"%d":0' % number for number in range(2**18 + 1)) + b"}",
    "one long text": b'{"a":"' + b"x" * 2**25 + b'"}',
}


@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON.keys())
def test_json_that_would_take_gigabytes_is_not_parsed(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "loads", lambda _text, **_: pytest.fail("it was parsed"))
    (tmp_path / "result.json").write_bytes(text)
    assert read_json(tmp_path / "result.json") == {}
    with pytest.raises(InputError, match=r"result\.json"):
        read_result(tmp_path, "train")


def test_a_number_that_no_float_can_hold_makes_a_file_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"command": "train", "steps": 1' + "0" * 400 + "}")
    assert read_json(tmp_path / "result.json") == {}


def test_the_json_of_an_evaluation_of_a_thousand_classes_is_read(tmp_path: Path) -> None:
    text = '{"confusion_matrix": [' + ",".join(f"[{'0,' * 999}0]" for _ in range(1000)) + "],"
    text += '"confusion_normalized": [' + ",".join(f"[{'0.0,' * 999}0.0]" for _ in range(1000)) + "],"
    text += '"per_class": [' + ",".join(['{"a": 0, "b": 1, "c": [0, 1]}'] * 1000) + "]}"
    (tmp_path / "a.json").write_text(text)
    assert len(read_json(tmp_path / "a.json")["confusion_matrix"]) == 1000


def test_a_row_without_an_end_is_refused_and_one_row_is_in_memory_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text("step,lr,momentum,loss\n0,0.1,0.9,2.0\n1," + "1" * 5000)
    with pytest.raises(InputError, match="rows of at most 4,096 bytes"):
        read_steps(tmp_path)
    assert read_steps(tmp_path, 1) == [StepRow(0, 0.1, 0.9, 2.0)]  # what comes after it is not looked at
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(InputError, match="rows of at most 4,096 bytes"):
        read_steps(tmp_path)


def test_more_rows_than_a_run_can_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scsuite.core.runs.results.MAX_PLOTTED_STEPS", 2)
    (tmp_path / "steps.csv").write_text("step,lr,momentum,loss\n" + "0,0.1,0.9,2.0\n" * 3)
    with pytest.raises(InputError, match="at most 2 rows, found more"):
        read_steps(tmp_path)
    assert len(read_steps(tmp_path, 3)) == 3  # a resume knows how many there are


@pytest.mark.parametrize("damaged", ["\n", ",\n", "1,0.1\n"])
def test_rows_that_are_no_rows_are_passed_over_only_while_they_are_few(damaged: str, tmp_path: Path) -> None:
    header, row = "step,lr,momentum,loss\n", "0,0.1,0.9,2.0\n"
    (tmp_path / "steps.csv").write_text("\n" + header + damaged * 999 + row)
    assert len(read_steps(tmp_path)) == 1
    (tmp_path / "steps.csv").write_text(header + damaged * 1001 + row)
    with pytest.raises(InputError, match="rows of 4 cells, found more than 1,000 others"):
        read_steps(tmp_path)
