"""Run directories: files, owners, rows and checkpoints. Run: pytest tests/core/runs/test_rundir.py."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
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
from scsuite.core.runs import rundir
from scsuite.core.runs.checkpoints import latest_checkpoint, list_checkpoints, open_checkpoint, prune_checkpoints
from scsuite.core.runs.find_runs import find_unfinished_run
from scsuite.core.runs.results import CommandResult, EpochResult, StepResult, read_epochs, read_steps
from scsuite.core.runs.rundir import RunDir, record_resume, remove_result, slugify, truncate_rows
from scsuite.core.training.checkpoint_schedule import check_disk_space


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


def test_environment_keeps_the_entry_of_each_process(run: RunDir) -> None:
    run.write_environment({"threads": 2, "process": "another"})
    run.update_environment(one_cycle={"lr_min": 0.1})
    assert record_resume(run, threads=2, step=5) == []
    record_resume(run, threads=3, step=9)
    environment = json.loads((run.path / "environment.json").read_text())
    assert (environment["threads"], environment["process"]) == (2, "another")
    assert environment["one_cycle"] == {"lr_min": 0.1}
    assert environment["versions"]["torch"] == version("torch")
    assert [(entry["threads"], entry["step"]) for entry in environment["resumes"]] == [(2, 5), (3, 9)]
    for entry in environment["resumes"]:
        assert entry["process"].startswith("process ")
        assert entry["versions"] == environment["versions"]
        assert entry["command_line"] == sys.argv


def test_the_owner_of_a_run_is_its_last_process(run: RunDir) -> None:
    run.write_config(TrainConfig(data="x", lr_max=0.1))
    run.write_environment({"process": "the first"})
    record_resume(run, process="the second")
    with pytest.raises(InUseError, match="in use by the second"):
        RunDir(run.path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"versions": {"torch": "1.0", "numpy": "2.0"}}, "another version, .*: torch was 1.0 and is "),
        ({"git_commit": "abc"}, "another version, .*: git_commit was abc and is "),
        ({"cpu": "i486"}, "another machine, .*: cpu was i486 and is "),
        ({"platform": "Plan 9"}, "another machine, .*: platform was Plan 9 and is "),
        ({"threads": 7}, "another number of threads, .*: threads was 7 and is 2"),
        ({"device": "cuda:1"}, "another device, .*: device was cuda:1 and is cpu"),
        ({"device_name": "H100"}, "another device, .*: device_name was H100 and is None"),
    ],
)
def test_a_resume_in_another_environment_says_what_it_was_and_is(
    changes: dict[str, Any], words: str, run: RunDir
) -> None:
    now = {"threads": 2, "device": "cpu", "device_name": None}
    run.write_environment({**now, **changes})
    (warning,) = record_resume(run, **now)
    assert re.search(words, warning) and "\n" not in warning
    assert record_resume(run, **now) == []  # compared with the last process, not with the first


def test_a_symbolic_link_in_a_run_directory_is_not_followed(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("as it was")
    for name in ("steps.csv", "result.json"):
        (run.path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(OutputError, match=r"steps\.csv"):
        run.append_step(step(0))
    run.write_result(CommandResult(command="train"))  # the link is replaced
    assert not (run.path / "result.json").is_symlink()
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


def test_truncation_sorts_the_rows_and_keeps_one_of_each(run: RunDir) -> None:
    for number in (0, 2, 1, 1, 2, 3):
        run.append_step(step(number))
    for number in (2, 1, 1, 3):
        run.append_epoch(epoch(number))
    assert truncate_rows(run.path, 3, 2) == []
    assert [row.step for row in read_steps(run.path)] == [0, 1, 2]
    assert [row.epoch for row in read_epochs(run.path)] == [1, 2]
    (run.path / "steps.csv").write_text((run.path / "steps.csv").read_text() + "x,1,1,1\n3,0.1\n-1,0.1,0.9,2.0\n")
    assert truncate_rows(run.path, 3, 2) == []  # rows without a number, too short or below 0 are dropped
    assert [row.step for row in read_steps(run.path)] == [0, 1, 2]


# --- its checkpoints ---


def test_the_newest_two_checkpoints_by_step_are_kept_and_partial_files_removed(run: RunDir) -> None:
    for number in (9, 10, 999999, 1000000):  # as text, 999999 would be the last
        run.checkpoint_path(number).write_text("x")
    folder = run.path / "checkpoints"
    (folder / f".scsuite-{os.getpid()}-{16 * '0'}.part").write_text("half")
    of_the_user = [
        ".step-000011.safetensors.part", "step-9.safetensors", "step-000009 copy.safetensors",
        "step-٠٠٠٠٠٩.safetensors", "step-0000009.safetensors",
    ]  # fmt: skip
    for name in of_the_user:
        (folder / name).write_text("mine")
    prune_checkpoints(run.path)
    kept = ["step-1000000.safetensors", "step-999999.safetensors"]
    assert [path.name for path in list_checkpoints(run.path)] == kept
    assert {path.name for path in folder.iterdir()} == {*kept, *of_the_user}


def test_a_resumed_run_removes_the_partial_files_of_a_killed_process_and_no_other(run: RunDir) -> None:
    run.write_config(TrainConfig(data="x", lr_max=0.1))
    run.close()
    (run.path / f".scsuite-{os.getpid()}-{16 * 'a'}.part").write_text("half")
    for path in (run.figure_path("loss"), run.checkpoint_path(1)):
        (path.parent / f".scsuite-{os.getpid()}-{16 * 'b'}.part").write_text("half")
    (run.path / ".notes.part").write_text("mine")
    with RunDir.open(run.path):
        assert [path.name for path in run.path.rglob(".*.part")] == [".notes.part"]


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
    with pytest.raises(InputError, match=r"step-000010.* Remove that folder to start the run again\."):
        latest_checkpoint(run.path)
    with pytest.raises(InputError, match=r"step-000010.* Give another run\."):
        open_checkpoint(run.path)


def test_a_checkpoint_of_a_run_is_its_final_weights_or_else_its_newest_state(run: RunDir) -> None:
    with pytest.raises(InputError, match="neither"):
        open_checkpoint(str(run.path))
    for number in (10, 20):
        write_checkpoint(run, number)
    assert open_checkpoint(str(run.path))[0].path.name == "step-000020.safetensors"
    shutil.copy(run.checkpoint_path(10), run.path / "model.safetensors")
    assert open_checkpoint(str(run.path))[0].path.name == "model.safetensors"


def test_damaged_final_weights_are_not_replaced_in_silence(run: RunDir) -> None:
    for number in (10, 20):
        write_checkpoint(run, number)
    shutil.copy(run.checkpoint_path(20), run.path / "model.safetensors")
    flip_a_bit(run.path / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: .*step-000020\.safetensors is intact: give that file"):
        open_checkpoint(run.path)
    for number in (10, 20):
        flip_a_bit(run.checkpoint_path(number))
    with pytest.raises(InputError, match=r"model\.safetensors: .*damaged or was changed\. Give a run"):
        open_checkpoint(run.path)


def test_rows_are_on_disk_before_the_checkpoint_that_counts_them(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("flush_file", "flush_folder", "prune_checkpoints"):
        monkeypatch.setattr(rundir, name, lambda path, name=name: calls.append(f"{name} {path.name}"))
    save = "scsuite.core.model.checkpoint.save_checkpoint"
    monkeypatch.setattr(save, lambda path, tensors, metadata: calls.append(f"save {path.name} {tensors} {metadata}"))
    run.append_step(step(0))
    calls.clear()
    run.save_checkpoint(1, {}, {"a": 1})
    assert calls == [
        "flush_file steps.csv", f"flush_folder {run.path.name}", "save step-000001.safetensors {} {'a': 1}",
        f"prune_checkpoints {run.path.name}",
    ]  # fmt: skip
    run.append_epoch(epoch(1))
    calls.clear()
    run.save_checkpoint(10, {}, {})
    assert calls[:2] == ["flush_file steps.csv", "flush_file metrics.csv"]


def test_a_disk_that_fails_before_a_checkpoint_is_an_output_error(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(rundir, "flush_folder", fail)
    with pytest.raises(OutputError, match=rf"cannot write: {run.path}: .*Input/output error"):
        run.save_checkpoint(1, {}, {})
    assert list_checkpoints(run.path) == []


def test_folders_of_figures_and_checkpoints_are_made_when_first_used(run: RunDir) -> None:
    assert {path.name for path in run.path.iterdir()} <= {".lock"}
    assert run.figure_path("loss") == run.path / "figures" / "loss.png"
    assert run.checkpoint_path(490) == run.path / "checkpoints" / "step-000490.safetensors"
    assert run.figure_path("lr").parent.is_dir() and run.checkpoint_path(980).parent.is_dir()
    shutil.rmtree(run.path / "figures")
    (run.path / "figures").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot write: .*figures"):
        run.figure_path("loss")


# --- its result ---


def test_only_the_result_of_a_complete_run_is_its_result(run: RunDir) -> None:
    assert run.result() is None
    for values, expected in (
        ({"status": "ok", "epochs": 3}, True), ({"epochs": 3}, True),  # an earlier version wrote no status
        ({"status": "failed", "epochs": 3}, False), ({"status": "stopped", "epochs": 3}, False), ({}, False),
    ):  # fmt: skip
        (run.path / "result.json").write_text(json.dumps(values))
        assert run.result() == (values if expected else None)
    remove_result(run.path)
    assert not (run.path / "result.json").exists()
    remove_result(run.path)  # there is none


def test_json_is_for_people_and_holds_any_path(run: RunDir) -> None:
    run.write_environment({"data": {"name": "Ärger \udcff"}, "threads": 2})
    text = (run.path / "environment.json").read_text(encoding="utf-8")
    assert '\n  "data": {\n    "name": "Ärger \\udcff"\n  },\n' in text  # one value a line, letters as they are
    assert text.endswith("\n}\n")
    assert json.loads(text)["data"]["name"] == "Ärger \udcff"
    run.write_config(TrainConfig(data="Ärger", lr_max=0.1))
    config = (run.path / "config.yaml").read_text(encoding="utf-8")
    assert config.startswith("data: Ärger\n")  # in the order of the options


# --- its name, again ---


def test_names_are_fit_for_files() -> None:
    for text, expected in (
        ("My data", "My-data"), ("a/../b", "a-..-b"), (".hidden.", "hidden"), ("-x-", "x"), ("", "run"), ("猫", "run"),
        ("a_b.c-1", "a_b.c-1"), ("x" * 100, "x" * 60),
    ):  # fmt: skip
        assert slugify(text) == expected


def test_a_run_is_made_below_folders_that_do_not_exist_and_numbered_from_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            assert tz == UTC
            return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    monkeypatch.setattr(rundir, "datetime", Clock)
    flushed: list[Path] = []
    monkeypatch.setattr(rundir, "flush_folder", flushed.append)
    runs = [RunDir.create(tmp_path / "a" / "b", "train", "x") for _ in range(3)]
    stem = "20260102T030405Z-train-x"
    assert [run.path.name for run in runs] == [stem, f"{stem}-2", f"{stem}-3"]
    assert flushed == [tmp_path / "a" / "b"] * 3
    assert all(run.path.is_absolute() for run in runs)


def test_a_lock_is_held_until_close_and_a_deleted_run_holds_none(run: RunDir) -> None:
    run.write_config(TrainConfig(data="x", lr_max=0.1))
    with pytest.raises(InUseError):
        RunDir.open(run.path)
    run.close()
    with RunDir.open(run.path) as again, pytest.raises(InUseError):
        RunDir.open(again.path)
    RunDir.open(run.path).close()
    with RunDir.open(run.path) as last:
        last.delete()
        assert not run.path.exists()
        assert not last._lock.is_locked  # Windows removes no open file
        run.path.mkdir()
        RunDir(run.path).close()
