"""Run directories: what they hold, who holds them, and how rows are cut back. Run: pytest tests/core/test_rundir.py."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from scsuite.core.model.checkpoint import save_checkpoint
from scsuite.core.config import TrainConfig
from scsuite.core.errors import InputError, InUseError, OutputError
from scsuite.core.loop import EpochResult, StepResult
from scsuite.core.model import build_model
from scsuite.core.runs.rundir import RunDir, checkpoints, latest_checkpoint, read_result, resolve_checkpoint
from tests.core.test_checkpoint import facts_of


def step(number: int) -> StepResult:
    return StepResult(number, 0.1, 0.9, 2.0, 3, 10, 0.5)


def epoch(number: int) -> EpochResult:
    return EpochResult(number, 10 * number, 0.1, 0.9, 2.0, 0.3, None, None, 100.0, 5.0, 1.9, 0.4)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", "train", "My data/../x.tar.xz")


def test_a_run_is_named_by_time_command_and_a_tame_name(run: RunDir) -> None:
    assert re.fullmatch(r"\d{8}T\d{6}Z-train-My-data-..-x.tar.xz", run.path.name)
    assert run.path.parent.name == "runs"


def test_two_runs_of_one_second_do_not_share_a_directory(tmp_path: Path) -> None:
    paths = {RunDir.create(tmp_path, "train", "x").path for _ in range(5)}
    assert len(paths) == 5


def test_a_place_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        RunDir.create(tmp_path / "file", "train", "x")


def test_a_run_that_another_process_holds_is_refused_and_a_dead_one_never_blocks(run: RunDir) -> None:
    run.write_config(TrainConfig(data="x", lr_max=0.1))
    run.write_environment({})
    run.close()
    code = (
        "import sys; from pathlib import Path; from scsuite.core.runs.rundir import RunDir\n"
        "run = RunDir.open(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InUseError, match="in use by process"):
            RunDir.open(run.path)
        other.kill()
    RunDir.open(run.path).close()


def test_config_yaml_makes_the_same_configuration(run: RunDir) -> None:
    config = TrainConfig(data="shapes", lr_max=0.1, lr_min=0.01, peak_epoch=1.5, epochs=3)
    run.write_config(config)
    assert TrainConfig.from_dict(yaml.safe_load((run.path / "config.yaml").read_text())) == config


def test_cut_back_drops_the_rows_past_a_step_and_a_torn_one(run: RunDir) -> None:
    for number in range(25):
        run.append_step(step(number))
    for number in (1, 2):
        run.append_epoch(epoch(number))
    with (run.path / "steps.csv").open("a") as file:
        file.write("25,0.1")  # as a killed process leaves it
    assert run.cut_back(17, 1) == []
    assert [int(row["step"]) for row in run.steps()] == list(range(17))
    assert [int(row["epoch"]) for row in run.epochs()] == [1]


def test_the_row_of_an_epoch_that_was_not_committed_goes_though_its_steps_were(run: RunDir) -> None:
    # Killed between the row and the commit, the run goes on before the epoch's evaluation, and writes the row again.
    for number in range(20):
        run.append_step(step(number))
    run.append_epoch(epoch(1))
    run.append_epoch(epoch(2))
    run.cut_back(20, 1)
    assert [int(row["epoch"]) for row in run.epochs()] == [1]


def test_rows_that_somebody_took_away_are_said_to_be_missing(run: RunDir) -> None:
    for number in (0, 1, 1, 3):
        run.append_step(step(number))
    (steps, epochs) = run.cut_back(4, 2)
    assert "steps.csv has 3 of the 4 rows" in steps
    assert "metrics.csv has 0 of the 2 rows" in epochs
    assert [int(row["step"]) for row in run.steps()] == [0, 1, 3]


def test_a_link_in_a_run_directory_is_not_written_through(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for name in ("steps.csv", ".result.json.part"):
        (run.path / name).symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match=r"steps\.csv"):
        run.append_step(step(0))
    with pytest.raises(OutputError, match=r"result\.json"):
        run.write_result({})
    assert (tmp_path / "mine").read_text() == "mine"


def test_too_little_room_for_the_checkpoints_is_said_beforehand(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=2_000_000))
    with pytest.raises(OutputError, match=r"3\.0 MB free, found 2\.0 MB"):
        run.check_room(3_000_000)
    run.checkpoint_path(10).write_bytes(bytes(1_000_000))  # of a run that goes on: it is there already
    run.check_room(3_000_000)


def test_an_epochs_row_leaves_blank_what_was_not_measured(run: RunDir) -> None:
    run.append_epoch(epoch(1))
    (row,) = run.epochs()
    assert row["test_accuracy"] == ""
    assert float(row["val_accuracy"]) == 0.4


def test_the_newest_two_checkpoints_are_kept_by_step_and_leftovers_go(run: RunDir) -> None:
    for number in (9, 10, 100, 1000000):
        run.checkpoint_path(number).write_text("x")
    (run.path / "checkpoints" / ".step-000011.safetensors.part").write_text("half")
    run.drop_old_checkpoints()
    assert [path.name for path in checkpoints(run.path)] == ["step-1000000.safetensors", "step-000100.safetensors"]
    assert len(list((run.path / "checkpoints").iterdir())) == 2


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run: RunDir) -> None:
    for number in (10, 20):
        facts = {**facts_of(build_model(3, 0.05)), "note": number}
        save_checkpoint(run.checkpoint_path(number), {"model.x": torch.zeros(1)}, facts)
    damage(run.checkpoint_path(20))
    checkpoint, problems = latest_checkpoint(run.path)
    assert checkpoint is not None
    assert checkpoint.facts["note"] == 10
    assert len(problems) == 1
    assert "step-000020" in problems[0]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(run: RunDir) -> None:
    assert latest_checkpoint(run.path) == (None, [])
    save_checkpoint(run.checkpoint_path(10), {"model.x": torch.zeros(1)}, facts_of(build_model(3, 0.05)))
    damage(run.checkpoint_path(10))
    with pytest.raises(InputError, match="step-000010"):
        latest_checkpoint(run.path)


def test_weights_of_a_run_are_model_safetensors_or_else_its_newest_state(run: RunDir) -> None:
    with pytest.raises(InputError, match="neither"):
        resolve_checkpoint(str(run.path))
    run.checkpoint_path(10).write_text("x")
    assert resolve_checkpoint(str(run.path)).name == "step-000010.safetensors"
    (run.path / "model.safetensors").write_text("x")
    assert resolve_checkpoint(str(run.path)).name == "model.safetensors"


def test_a_result_of_another_command_is_refused(run: RunDir) -> None:
    run.write_result({"command": "train"})
    assert read_result(str(run.path), "train") == {"command": "train"}
    with pytest.raises(InputError, match="the result of lr-range, found that of train"):
        read_result(str(run.path), "lr-range")
    (run.path / "result.json").write_text("[1]")
    with pytest.raises(InputError):
        read_result(str(run.path), "lr-range")
