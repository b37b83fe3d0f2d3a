"""--json prints one object whatever the end: done, failed, stopped, a bug; and result.json has its status."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scsuite.core.training.seeds import SeedsResult
from tests.conftest import REPOSITORY
from tests.run_cli import CliResult, run_cli
from tests.tiny_args import TINY_TRAIN_ARGS

COMMON = ("command", "version", "status", "run_dir", "seconds", "warnings", "figures", "seed", "device")
ERROR = {"what", "where", "expected", "found", "hint"}


def only_object(answer: CliResult) -> dict[str, Any]:
    """The JSON object on stdout, which has nothing else."""
    assert answer.out.count("\n") == 1, answer.out
    values = json.loads(answer.out)
    assert isinstance(values, dict)
    assert tuple(values)[: len(COMMON)] == COMMON
    return values


@pytest.mark.parametrize("command", ["zigzag_run", "lr_range_run", "train_run", "evaluate_run", "gradcam_run"])
def test_a_finished_command_has_the_common_keys_first(command: str, request: pytest.FixtureRequest) -> None:
    result = only_object(request.getfixturevalue(command))
    assert result["status"] == "ok"
    expected = (None, None) if command == "zigzag_run" else (0, "cpu")  # zigzag draws no random number
    assert (result["seed"], result["device"]) == expected


@pytest.mark.parametrize(
    ("words", "code", "command", "where"),
    [
        (("train", "--no-such-option"), 2, "train", "scsuite train"),
        (("evaluate",), 2, "evaluate", "scsuite evaluate"),  # --ckpt is missing
        (("no-such-command",), 2, "", "scsuite"),
        ((), 2, "", "scsuite"),
        (("train", "--epochs", "many"), 2, "train", "--epochs"),
        (("train", "--width", 0), 2, "train", "--width"),
        (("train", "--config", "none.yaml"), 3, "train", "none.yaml"),
        (("train", "stray"), 2, "train", "scsuite train"),
        (("evaluate", "--ckpt", "none"), 3, "evaluate", "none"),
        (("train", "--resume", "none"), 3, "train", "none"),
        (("lr-range", "--data", "none"), 3, "lr-range", "none"),
    ],
)
def test_a_refused_command_prints_one_object_with_the_parts_of_its_error(
    words: tuple[object, ...], code: int, command: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run_cli(*words, "--json")
    result = only_object(answer)
    assert (answer.code, result["exit_code"], result["status"], result["command"]) == (code, code, "failed", command)
    assert result["error"].keys() == ERROR
    assert where in result["error"]["where"]
    error = result["error"]
    line = "error: {what}: {where}: expected {expected}, found {found}. {hint}".format_map(error)
    assert answer.err.splitlines()[0] == line
    assert result["run_dir"] is None
    assert not list(tmp_path.iterdir())  # nothing is written


def test_json_in_the_file_of_config_counts_too(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("json: true\nlr_min: 3\n")
    assert only_object(run_cli("zigzag", "--config", tmp_path / "c.yaml"))["status"] == "failed"
    assert run_cli("zigzag", "--lr-min", 3).out == ""  # without --json there is none


def test_a_bug_prints_one_object_and_leaves_its_status_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("one by zero")

    monkeypatch.setattr("scsuite.report.figures.schedule", fail)
    answer = run_cli("zigzag", "--runs-dir", tmp_path, "--json")
    (run,) = tmp_path.iterdir()
    result = only_object(answer)
    assert (answer.code, result["exit_code"], result["run_dir"]) == (1, 1, str(run))
    assert (result["error"]["where"], result["error"]["found"]) == ("ZeroDivisionError", "one by zero")
    assert re.search(r"error: bug in scsuite \S+: ZeroDivisionError: one by zero\. Run it again", answer.err)
    assert json.loads((run / "result.json").read_text()) == result


@pytest.fixture
def failing_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """An exception that the sixth step of a training raises."""
    from scsuite.core.training import loop

    errors: list[BaseException] = []
    launch_step = loop.launch_step  # type: ignore[attr-defined]

    def launch_or_raise(setup: Any, batch: Any, step: int, *arguments: Any) -> Any:
        if step == 5 and errors:
            raise errors[0]
        return launch_step(setup, batch, step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "launch_step", launch_or_raise)
        yield errors


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [(MemoryError("no memory"), 4, "failed"), (KeyboardInterrupt(), 130, "stopped"), (SystemExit(143), 143, "stopped")],
)
def test_a_training_that_ends_early_says_where_and_is_not_taken_as_complete(
    error: BaseException, code: int, status: str, tmp_path: Path, failing_step: list[BaseException]
) -> None:
    failing_step.append(error)
    answer = run_cli(*TINY_TRAIN_ARGS, "--runs-dir", tmp_path, "--json")
    (run,) = tmp_path.iterdir()
    result = only_object(answer)
    assert (answer.code, result["exit_code"], result["status"]) == (code, code, status)
    assert (result["epochs"], result["epochs_done"], result["steps_done"]) == (2, 1, 5)
    assert (result["lr_min"], result["lr_max"]) == (pytest.approx(0.01), 0.1)
    assert result.get("signal") == {130: "SIGINT", 143: "SIGTERM"}.get(code)
    assert Path(result["checkpoint"]).is_file()
    assert (result["seed"], result["device"]) == (0, "cpu")
    assert json.loads((run / "result.json").read_text()) == result
    refused = run_cli("train", *TINY_TRAIN_ARGS[1:-2], "--lr-from", run)  # a train run: another command's result
    assert refused.code == 3
    failing_step.clear()
    if status == "stopped":
        resumed = run_cli("train", "--resume", run, "--json")
        assert only_object(resumed)["status"] == "ok"
        assert "already complete" not in resumed.err


def test_a_result_that_cannot_be_printed_does_not_change_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scsuite.core.errors import OutputError

    def full(*_: object) -> None:
        raise OutputError("cannot write", "stdout", expected="space", found="none", hint="Free some space.")

    monkeypatch.setattr("scsuite.cli.outcome.print_json_line", full)
    answer = run_cli("zigzag", "--runs-dir", tmp_path, "--json")
    assert answer.code == 4
    (run,) = tmp_path.iterdir()
    assert json.loads((run / "result.json").read_text())["status"] == "ok"


def test_a_stop_before_the_run_directory_has_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("scsuite.core.dataset.load_dataset", stop)
    answer = run_cli(*TINY_TRAIN_ARGS, "--json")
    result = only_object(answer)
    assert (answer.code, result["status"], result["signal"], result["run_dir"]) == (143, "stopped", "SIGTERM", None)


# --- the examples of runs/README.md ---


def jq_examples() -> list[tuple[str, str]]:
    """The command that each gate reads, and its filter."""
    text = (REPOSITORY / "runs" / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^scsuite ([a-z-]+) .*--json \| jq -e '([^']+)'", text, re.MULTILINE)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize(("command", "expression"), jq_examples())
def test_a_jq_example_gives_a_verdict(command: str, expression: str, request: pytest.FixtureRequest) -> None:
    result = request.getfixturevalue(command.replace("-", "_") + "_run").out
    done = subprocess.run(["jq", "-e", expression], input=result, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) in (("true", 0), ("false", 1), ("null", 1)), done.stderr


@pytest.mark.parametrize(("command", "expression"), jq_examples())
def test_the_keys_of_a_jq_example_exist(command: str, expression: str, request: pytest.FixtureRequest) -> None:
    result = request.getfixturevalue(command.replace("-", "_") + "_run").result
    of_seeds = {item.name for item in dataclasses.fields(SeedsResult)}
    text = json.dumps(result)
    keys = set(re.findall(r"\.([a-z_]+)", expression))
    assert [key for key in keys - of_seeds if f'"{key}":' not in text] == []


def test_there_are_examples_for_the_common_gates() -> None:
    text = " ".join(expression for _, expression in jq_examples())
    for key in (".final.test_accuracy", ".reached", ".lr_max", ".warnings", ".recall", ".mean"):
        assert key in text
