"""What a command prints about its run: the directory once, names relative to it, the next command; what loads."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scsuite.cli.options import OutputOptions
from scsuite.cli.run_output import relative_path
from scsuite.cli.streams import print_loading
from tests.run_cli import CliResult, child_environment, run_cli
from tests.tiny_args import TINY_LR_RANGE_ARGS

COMMANDS = ("zigzag_run", "lr_range_run", "train_run", "evaluate_run", "gradcam_run")


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def labelled_text(text: str, label: str) -> str:
    """The text after a label, with its continuation lines."""
    (found,) = re.findall(rf"^{label:<10}(.*(?:\n {{10}}\S.*)*)$", text, re.MULTILINE)
    return " ".join(found.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_run_directory_is_printed_once_and_below_it_names_of_files(
    name: str, request: pytest.FixtureRequest
) -> None:
    answer: CliResult = request.getfixturevalue(name)
    run = answer.run_dir
    assert labelled_text(answer.err, "run") == str(run)
    assert [line for line in answer.err.splitlines() if str(run) in line and line[:4] not in ("run ", "next")] == []
    figures = labelled_text(answer.err, "figures").split(", ")
    assert [str(run / figure) for figure in figures] == answer.result["figures"]
    if name != "gradcam_run":  # it writes further files on request
        assert all((run / file).is_file() for file in labelled_text(answer.err, "files").split(", "))


def test_a_training_names_its_weights_and_rows(train_run: CliResult) -> None:
    assert labelled_text(train_run.err, "files") == "model.safetensors, metrics.csv, steps.csv, report.html"


def test_no_line_breaks_within_a_name_at_80_columns(evaluate_run: CliResult) -> None:
    block = evaluate_run.err[evaluate_run.err.index("\nfiles ") : evaluate_run.err.index("\nnext ")]
    assert len(block.splitlines()) == 4  # an empty one, the files, two lines of figures
    assert max(len(line) for line in block.splitlines()) <= 80


def test_paths_are_relative_below_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--step-size", 2, "--runs-dir", "my runs", "--out", "curve.svg", "--csv", "tables/curve.csv")
    answer = run_cli("zigzag", *options)
    (run,) = (tmp_path / "my runs").iterdir()
    assert labelled_text(answer.out, "run") == f"my runs/{run.name}"
    assert re.findall("^copy      (.*)$", answer.out, re.MULTILINE) == ["curve.svg", "tables/curve.csv"]
    assert str(tmp_path) not in answer.out
    assert relative_path(tmp_path / "a" / "b") == "a/b"
    assert relative_path(tmp_path.parent) == str(tmp_path.parent)


def test_the_next_command_is_complete(train_run: CliResult, evaluate_run: CliResult) -> None:
    assert labelled_text(train_run.err, "next") == f"scsuite evaluate --ckpt {train_run.run_dir}"
    assert labelled_text(evaluate_run.err, "next") == f"scsuite gradcam --ckpt {train_run.run_dir}"


@pytest.mark.usefixtures("no_figures")
def test_the_next_command_of_evaluate_keeps_other_data(train_run: CliResult, tmp_path: Path) -> None:
    options = ("--ckpt", train_run.run_dir, "--data", "shapes", "--runs-dir", tmp_path)
    expected = f"scsuite gradcam --ckpt {train_run.run_dir} --data shapes"
    assert labelled_text(run_cli("evaluate", *options).out, "next") == expected


@pytest.mark.usefixtures("no_figures")
def test_the_next_command_of_lr_range_trains_under_the_same_settings(tmp_path: Path) -> None:
    options = ("--steps", 20, "--train-epochs", 1, "--flip", "random", "--label-smoothing", 0.2)
    found = run_cli(*TINY_LR_RANGE_ARGS, *options, "--runs-dir", tmp_path / "my runs", "--json")
    line = labelled_text(found.err, "next")
    program, *words = shlex.split(line)
    assert program == "scsuite"
    trained = run_cli(*words, "--runs-dir", tmp_path / "trained", "--json")
    assert trained.result["lr_max"] == found.result["lr_max"]
    assert not [warning for warning in trained.result["warnings"] if "was found" in warning]


def test_gradcam_names_images_as_evaluate_does(gradcam_run: CliResult, evaluate_run: CliResult) -> None:
    table = gradcam_run.err.split("faithfulness")[0]
    for image in gradcam_run.result["images"]:
        assert re.search(rf"^ *{image['index']}  {image['file']} ", table, re.MULTILINE)
    first = evaluate_run.result["misclassified"][0]
    assert re.search(rf"^ *{first['index']}  {first['file']} ", evaluate_run.err, re.MULTILINE)


# --- the line before what takes time ---


def output_options(quiet: bool = False) -> OutputOptions:
    return OutputOptions(Path("runs"), None, False, quiet, frozenset())


def test_loading_is_printed_on_a_terminal_only() -> None:
    for stream, quiet, expected in (
        (FakeTerminal(), False, "loading   PyTorch and the data\n"),
        (FakeTerminal(), True, ""),
        (io.StringIO(), False, ""),  # an error is the first line there
    ):
        with contextlib.redirect_stderr(stream):
            print_loading(output_options(quiet))
        assert stream.getvalue() == expected


def test_loading_is_printed_by_rank_0_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        stream = FakeTerminal()
        with contextlib.redirect_stderr(stream):
            print_loading(output_options())
        assert stream.getvalue().count("\n") == expected


def test_loading_is_printed_before_torch_and_rich_are_imported_and_not_logged(train_run: CliResult) -> None:
    code = (
        "import sys\n"
        "from scsuite.cli import options\n"
        "from scsuite.cli.app import main\n"
        "def stop(output):\n"
        "    sys.exit(bool({'torch', 'numpy', 'rich', 'matplotlib', 'albumentations'} & set(sys.modules)))\n"
        "options.print_loading = stop\n"
        "print([main(words.split()) for words in ('train', 'lr-range', 'evaluate --ckpt x', 'gradcam --ckpt x')])\n"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=child_environment()
    )
    assert completed.stdout == "[False, False, False, False]\n"
    assert "loading" not in (train_run.run_dir / "log.txt").read_text()
