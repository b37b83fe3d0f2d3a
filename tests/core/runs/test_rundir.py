"""Run directories: files, owners, rows and checkpoints. Run: pytest tests/core/runs/test_rundir.py."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from scsuite.core.config import TrainConfig
from scsuite.core.errors import InputError, InUseError, OutputError
from scsuite.core.model.checkpoint import network_metadata, save_checkpoint
from scsuite.core.model.network import build_model
from scsuite.core.runs.find_runs import find_unfinished_run
from scsuite.core.runs.results import CommandResult, EpochResult, StepResult, read_epochs, read_steps
from scsuite.core.runs.rundir import (
    RunDir,
    check_disk_space,
    latest_checkpoint,
    list_checkpoints,
    prune_checkpoints,
    resolve_checkpoint,
    slugify,
    truncate_rows,
)


def step(number: int) -> StepResult:
    return StepResult(number, 0.1, 0.9, 2.0, 3, 10, 0.5)


def epoch(number: int) -> EpochResult:
    return EpochResult(number, 10 * number, 0.1, 0.9, 2.0, 0.3, None, None, 100.0, 5.0, 1.9, 0.4)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs", "train", "My data/../x.tar.xz")


def write_checkpoint(run: RunDir, number: int) -> None:
    metadata: dict[str, Any] = {
        "version": "0", "network": network_metadata(build_model(3, 0.05)), "class_names": ["a", "b", "c"],
        "mean": [0.5] * 3, "std": [0.2] * 3, "precision": "fp32", "policy": {}, "augment_backend": "batched",
        "data": {"name": "x", "fingerprint": "0" * 64}, "config": TrainConfig(lr_max=0.1).to_dict(), "note": number,
    }  # fmt: skip
    save_checkpoint(run.checkpoint_path(number), {"model.x": torch.zeros(1)}, metadata)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


# --- its name and its owner ---


def test_a_run_is_named_by_time_command_and_a_safe_name(run: RunDir) -> None:
    assert re.fullmatch(r"\d{8}T\d{6}Z-train-My-data-..-x.tar.xz", run.path.name)
    assert run.path.parent.name == "runs"
    assert slugify("/../") == "run"


def test_runs_of_the_same_second_have_their_own_directories(tmp_path: Path) -> None:
    paths = {RunDir.create(tmp_path, "train", "x").path for _ in range(5)}
    assert len(paths) == 5


def test_a_file_as_runs_dir_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        RunDir.create(tmp_path / "file", "train", "x")


def test_a_run_owned_by_a_live_process_is_refused_and_by_a_dead_one_is_not(run: RunDir) -> None:
    run.write_config(TrainConfig(data="x", lr_max=0.1))
    run.write_environment({})
    run.close()
    code = (
        "import sys; from pathlib import Path; from scsuite.core.runs.rundir import RunDir\n"
        "run = RunDir.open(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InUseError, match="in use by process"):
            RunDir.open(run.path)
        RunDir.open(run.path, lock=False)  # only to read, as the ranks after the first do
        other.kill()
    RunDir.open(run.path).close()


def test_a_directory_without_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a run directory with config\.yaml, found none"):
        RunDir.open(tmp_path)


def test_a_run_that_cannot_start_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        RunDir.start(tmp_path, "train", "x", TrainConfig(), {"data": object()})
    assert list(tmp_path.iterdir()) == []


def test_the_newest_unfinished_training_of_a_torchrun_is_found(tmp_path: Path) -> None:
    assert find_unfinished_run(tmp_path, "id 1") is None
    with RunDir.start(tmp_path, "train", "x", TrainConfig(), {"torchrun_id": "id 1"}) as run:
        assert find_unfinished_run(tmp_path, "id 1") == run.path
        assert find_unfinished_run(tmp_path, "id 2") is None
        run.write_result(CommandResult(command="train"))
    assert find_unfinished_run(tmp_path, "id 1") is None


# --- its files ---


def test_config_yaml_gives_the_same_configuration(run: RunDir) -> None:
    config = TrainConfig(data="shapes", lr_max=0.1, lr_min=0.01, peak_epoch=1.5, epochs=3)
    run.write_config(config)
    assert TrainConfig.from_dict(yaml.safe_load((run.path / "config.yaml").read_text())) == config
    assert run.config() == config.to_dict()


def test_environment_keeps_its_entries_and_names_a_new_owner(run: RunDir) -> None:
    run.write_environment({"threads": 2, "process": "another"})
    run.update_environment(one_cycle={"lr_min": 0.1})
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["threads"] == 2
    assert environment["one_cycle"] == {"lr_min": 0.1}
    assert environment["process"].startswith("process ")
    assert environment["versions"]["torch"] == version("torch")


def test_a_symbolic_link_in_a_run_directory_is_not_followed(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("as it was")
    for name in ("steps.csv", ".result.json.part"):
        (run.path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(OutputError, match=r"steps\.csv"):
        run.append_step(step(0))
    with pytest.raises(OutputError, match=r"result\.json"):
        run.write_result(CommandResult(command="train"))
    assert (tmp_path / "outside").read_text() == "as it was"


def test_too_little_disk_space_is_reported_before_a_checkpoint(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=8_000_000))
    with pytest.raises(OutputError, match=r"9\.0 MB free, found 8\.0 MB"):
        check_disk_space(run.path, 3_000_000)
    run.checkpoint_path(10).write_bytes(bytes(1_000_000))  # of a run that is resumed: its space is taken already
    check_disk_space(run.path, 3_000_000)


def test_a_log_line_has_the_time_and_a_full_disk_does_not_stop_a_run(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.log("one\ntwo  ")
    lines = (run.path / "log.txt").read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in lines] == ["one", "two"]

    def full(*_: object) -> None:
        raise OutputError("cannot write", "log.txt", expected="space", found="none", hint="")

    monkeypatch.setattr("scsuite.core.runs.rundir.append", full)
    run.log("three")


# --- its rows ---


def test_truncation_drops_rows_after_the_checkpoint_and_a_torn_one(run: RunDir) -> None:
    for number in range(25):
        run.append_step(step(number))
    for number in (1, 2):
        run.append_epoch(epoch(number))
    with (run.path / "steps.csv").open("a") as file:
        file.write("25,0.1")  # as a killed process leaves it
    assert truncate_rows(run.path, 17, 1) == []
    assert [row.step for row in read_steps(run.path)] == list(range(17))
    assert [row.epoch for row in read_epochs(run.path)] == [1]


def test_truncation_drops_the_row_of_an_epoch_that_no_checkpoint_covers(run: RunDir) -> None:
    # Killed between row and checkpoint, a run resumes before the epoch's evaluation, and writes the row again.
    for number in range(20):
        run.append_step(step(number))
    run.append_epoch(epoch(1))
    run.append_epoch(epoch(2))
    assert truncate_rows(run.path, 20, 1) == []
    assert [row.epoch for row in read_epochs(run.path)] == [1]


def test_missing_and_duplicate_rows_are_reported(run: RunDir) -> None:
    for number in (0, 1, 1, 3):
        run.append_step(step(number))
    steps, epochs = truncate_rows(run.path, 4, 2)
    assert "steps.csv has 3 of the 4 rows" in steps
    assert "metrics.csv has 0 of the 2 rows" in epochs
    assert [row.step for row in read_steps(run.path)] == [0, 1, 3]


# --- its checkpoints ---


def test_the_newest_two_checkpoints_by_step_are_kept_and_partial_files_removed(run: RunDir) -> None:
    for number in (9, 10, 100, 1000000):
        run.checkpoint_path(number).write_text("x")
    (run.path / "checkpoints" / ".step-000011.safetensors.part").write_text("half")
    prune_checkpoints(run.path)
    assert [path.name for path in list_checkpoints(run.path)] == ["step-1000000.safetensors", "step-000100.safetensors"]
    assert len(list((run.path / "checkpoints").iterdir())) == 2


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run: RunDir) -> None:
    for number in (10, 20):
        write_checkpoint(run, number)
    flip_a_bit(run.checkpoint_path(20))
    checkpoint, problems = latest_checkpoint(run.path)
    assert checkpoint is not None
    assert checkpoint.metadata["note"] == 10
    assert len(problems) == 1
    assert "step-000020" in problems[0]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again(run: RunDir) -> None:
    assert latest_checkpoint(run.path) == (None, [])
    write_checkpoint(run, 10)
    flip_a_bit(run.checkpoint_path(10))
    with pytest.raises(InputError, match="step-000010"):
        latest_checkpoint(run.path)


def test_a_checkpoint_of_a_run_is_its_final_weights_or_else_its_newest_state(run: RunDir) -> None:
    with pytest.raises(InputError, match="neither"):
        resolve_checkpoint(str(run.path))
    run.checkpoint_path(10).write_text("x")
    assert resolve_checkpoint(str(run.path)).name == "step-000010.safetensors"
    (run.path / "model.safetensors").write_text("x")
    assert resolve_checkpoint(str(run.path)).name == "model.safetensors"
