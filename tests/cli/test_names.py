"""Classes and files with names that terminals, CSV files, YAML, fonts or markup could take for something else."""

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from scsuite.cli.run_output import shell_command
from scsuite.core.runs.csv_files import read_cell
from tests.cli.conftest import training_figures
from tests.core.dataset.helpers import image_bytes
from tests.run_cli import CliResult, run_cli
from tests.tiny_args import MODEL_ARGS

NAMES = {  # the name of a folder -> of its class in every output
    b"caf\xe9": r"caf\udce9",
    "猫".encode(): "猫",
    "قطة 🐱".encode(): "قطة 🐱",
    b"[red]x[bold]": "[red]x[bold]",
    b"$x_1^2$ 100%": "$x_1^2$ 100%",
    b"\x1b[31m\x1b]0;t\x07": "\x1b[31m\x1b]0;t\x07",
    "bi\u202edi".encode(): "bi\u202edi",
    b"line\nbreak\r\tend": "line\nbreak\r\tend",
    b'a,"b"': 'a,"b"',
    b"y" * 250: "y" * 250,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CliResult]:
    """One run of each command on such data, in a folder that has such a name too."""
    folder = tmp_path_factory.mktemp("names")
    root = folder / "[b]\udcff\n data"
    for number, name in enumerate(NAMES):
        for split, count in (("train", 2), ("test", 1)):
            class_folder = root / split / os.fsdecode(name)
            class_folder.mkdir(parents=True)
            for index in range(count):
                image = image_bytes((20 * number, 90 * index, 90 * (split == "test")))
                (class_folder / os.fsdecode(name[:200] + b"%d.png" % index)).write_bytes(image)
    data, runs_dir = str(root), f"{folder}/\udcff r\nuns"
    common = ("--data", data, *MODEL_ARGS, "--bs", 10, "--runs-dir", runs_dir)
    with training_figures():
        trained = run_cli("train", *common, "--epochs", 1, "--lr-max", 0.1, "--name", data, "--json")
    answers = {"train": trained, "lr-range": run_cli("lr-range", *common, "--steps", 10, "--json")}
    run = json.loads(answers["train"].out)["run_dir"]
    for command in ("evaluate", "gradcam"):
        answers[command] = run_cli(command, "--ckpt", run, "--runs-dir", runs_dir, "--json")
    answers["zigzag"] = run_cli("zigzag", "--run", run, "--runs-dir", runs_dir, "--json")
    return answers


@pytest.mark.parametrize("command", ["train", "lr-range", "evaluate", "gradcam", "zigzag"])
def test_a_command_takes_any_name_and_prints_nothing_that_a_terminal_obeys(
    command: str, runs: dict[str, CliResult]
) -> None:
    answer = runs[command]
    assert answer.code == 0, answer.err
    assert "Glyph" not in answer.err and "Warning" not in answer.err
    assert all(line.isprintable() for line in answer.err.split("\n")), answer.err
    assert answer.out.isascii()
    run = Path(answer.result["run_dir"])
    for name in ("config.yaml", "environment.json", "result.json", "log.txt"):
        (run / name).read_bytes().decode()
    assert all(line.isprintable() for line in (run / "log.txt").read_text().split("\n"))
    assert json.loads((run / "result.json").read_text())["run_dir"] == str(run)


def test_the_data_can_be_found_again_by_the_run(runs: dict[str, CliResult]) -> None:
    config = yaml.safe_load((runs["train"].run_dir / "config.yaml").read_text())
    assert config["data"].endswith("/[b]\udcff\n data")
    assert Path(config["data"]).is_dir()


@pytest.mark.parametrize("name", ["predictions.csv", "misclassified.csv", "per_class.csv"])
def test_csv_files_hold_the_names(name: str, runs: dict[str, CliResult]) -> None:
    with (runs["evaluate"].run_dir / name).open(newline="", encoding="utf-8") as file:
        header, *rows = ([read_cell(cell) for cell in row] for row in csv.reader(file, strict=True))
    assert {len(row) for row in rows} == {len(header)}
    if name == "predictions.csv":
        assert [row[2] for row in rows if row[2] not in NAMES.values()] == []
        assert set(header[5:]) == {f"p_{name}" for name in NAMES.values()}
    if name == "per_class.csv":
        assert {row[0] for row in rows} == set(NAMES.values())


@pytest.mark.parametrize(
    "word", ["plain", "two words", "new\nline", "it's", "back\\slash\t", "\udce9\x1b", "\u202e'\\", ""]
)
def test_a_printed_command_has_no_control_characters_and_means_the_same_to_a_shell(word: str) -> None:
    command = shell_command("printf", "%s", word, "x")
    assert command.isprintable()
    completed = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert completed.stdout == os.fsencode(word) + b"x"


def test_a_name_that_is_too_long_for_a_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for flag, name in (("--out", "x" * 252 + ".png"), ("--csv", "é" * 128)):
        answer = run_cli("zigzag", flag, tmp_path / name, "--runs-dir", tmp_path / "runs")
        assert answer.code == 4 and "at most 255 bytes" in answer.err
        assert list(tmp_path.iterdir()) == []
