"""What scripts rely on from every command: the JSON object, the run directory, its streams, and as a process."""

import json
from pathlib import Path

import pytest
import yaml

from scsuite import __version__
from tests.cli.run_files import list_files
from tests.run_cli import CliResult, child_environment, run_cli, run_cli_process
from tests.tiny_args import TINY_TRAIN_ARGS

COMMANDS = ("zigzag_run", "lr_range_run", "train_run", "evaluate_run", "gradcam_run", "report_run")
KEYS = {  # at least these; runs/README.md has all
    "zigzag_run": set(),
    "lr_range_run": {"lr_min", "lr_max", "suggestions", "warnings"},
    "train_run": {"epochs", "lr_min", "lr_max", "images_per_second", "final", "best", "checkpoint"},
    "evaluate_run": {
        "accuracy", "loss", "num_images", "per_class", "confusion_matrix", "ece",
        "accuracy_ci95", "top5_accuracy", "macro", "confusion_normalized", "most_confused", "misclassified", "tta",
    },
    "gradcam_run": {"figures", "images"},
    "report_run": {"page", "trainings", "groups", "differences"},
}  # fmt: skip
NAMES = dict(zip(COMMANDS, ("zigzag", "lr-range", "train", "evaluate", "gradcam", "report"), strict=True))


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> tuple[str, CliResult]:
    return request.param, request.getfixturevalue(request.param)


def test_json_prints_one_object_with_the_promised_keys(command: tuple[str, CliResult]) -> None:
    name, answer = command
    result = answer.result  # asserts that stdout holds one object and nothing else
    assert {"command", "version", "run_dir", "seconds"} | KEYS[name] <= result.keys()
    assert (result["command"], result["version"]) == (NAMES[name], __version__)
    assert result["seconds"] > 0


def test_result_json_is_what_was_printed(command: tuple[str, CliResult]) -> None:
    answer = command[1]
    assert json.loads((answer.run_dir / "result.json").read_text()) == answer.result


def test_paths_in_the_object_are_absolute_and_there(command: tuple[str, CliResult]) -> None:
    result = command[1].result
    paths = [result[key] for key in ("run_dir", "checkpoint", "page") if key in result] + result["figures"]
    assert paths
    for path in paths:
        assert Path(path).is_absolute()
        assert Path(path).exists()


def test_every_run_records_its_configuration_and_environment(command: tuple[str, CliResult]) -> None:
    name, answer = command
    run = answer.run_dir
    assert {"config.yaml", "environment.json", "log.txt", "result.json"} <= list_files(run)
    facts = json.loads((run / "environment.json").read_text())
    assert {"versions", "command_line", "git_commit"} <= facts.keys()
    assert facts["versions"]["scsuite"] == __version__
    if name not in ("zigzag_run", "report_run"):  # they compute nothing with torch
        assert {"device", "threads", "precision"} <= facts.keys()
    assert f"-{NAMES[name]}-" in run.name


def test_a_runs_directory_holds_run_directories_and_nothing_else(
    runs_dir: Path,
    zigzag_run: CliResult,
    lr_range_run: CliResult,
    train_run: CliResult,
    evaluate_run: CliResult,
    gradcam_run: CliResult,
) -> None:
    made = {answer.run_dir for answer in (zigzag_run, lr_range_run, train_run, evaluate_run, gradcam_run)}
    assert len(made) == 5
    assert made <= set(runs_dir.iterdir())
    assert all((path / "config.yaml").is_file() for path in runs_dir.iterdir())


def test_under_json_the_text_goes_to_stderr_and_into_the_log(train_run: CliResult) -> None:
    log = (train_run.run_dir / "log.txt").read_text()
    for text in ("200 training and 100 test images", "epoch 1/2", "epoch 2/2", "LRMIN = LRMAX / 10"):
        assert text in train_run.err
        assert text in log


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_quiet_prints_nothing_but_the_object(more: tuple[str, ...], tmp_path: Path) -> None:
    answer = run_cli("zigzag", "--step-size", 2, "--quiet", *more, "--runs-dir", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert bool(answer.out) == bool(more)


def test_quiet_training_prints_nothing(tmp_path: Path) -> None:
    answer = run_cli(*TINY_TRAIN_ARGS, "--epochs", 1, "--quiet", "--runs-dir", tmp_path)
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_name_ends_the_run_directorys_name_and_is_no_path(tmp_path: Path) -> None:
    answer = run_cli("zigzag", "--step-size", 2, "--name", "../../a b", "--runs-dir", tmp_path / "runs", "--json")
    assert answer.run_dir.parent == (tmp_path / "runs").resolve()
    assert answer.run_dir.name.endswith("-zigzag-a-b")


def test_a_flag_overrides_the_runs_directory_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCSUITE_RUNS", str(tmp_path / "environment"))
    assert run_cli("zigzag", "--json").run_dir.parent == tmp_path / "environment"
    assert run_cli("zigzag", "--json", "--runs-dir", tmp_path / "flag").run_dir.parent == tmp_path / "flag"


# --- as a process ---


def test_python_m_scsuite_prints_one_object_and_only_that(tmp_path: Path) -> None:
    answer = run_cli_process("zigzag", "--step-size", 2, "--json", "--runs-dir", tmp_path)
    assert answer.result["command"] == "zigzag"
    assert "Learning-rate curve" in answer.err


def test_a_closed_pipe_does_not_end_the_program(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        f"{sys.executable} -m scsuite zigzag --step-size 2 --runs-dir {tmp_path} | head -0; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=True, timeout=60,
        env=child_environment(LANG="C", COLUMNS="20", NO_COLOR="1"),
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert (next(tmp_path.iterdir()) / "result.json").exists()


def test_data_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSUITE_DATA", "shapes")
    options = ("--limit-train", 64, "--limit-test", 10, "--width", 0.05, "--bs", 32, "--workers", 0, "--steps", 10)
    answer = run_cli("lr-range", *options, "--runs-dir", tmp_path, "--json")
    assert yaml.safe_load((answer.run_dir / "config.yaml").read_text())["data"] == "shapes"
