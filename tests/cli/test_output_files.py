"""--out and --csv: safe beside other processes, refused where a file would be lost, named in their own errors."""

import os
from pathlib import Path

import pytest

from tests.cli.test_errors import check_refusal
from tests.made_runs import make_evaluation, make_training
from tests.run_cli import CliResult, run_cli

SHORT = ("zigzag", "--step-size", 2, "--cycles", 1)


@pytest.mark.parametrize("spelling", ["a.svg", "./a.svg", "folder/../a.svg", "link/a.svg", "hard.svg"])
def test_out_and_csv_of_the_same_file_are_refused(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("link").symlink_to(".")
    Path("b.svg").write_text("old")
    Path("hard.svg").hardlink_to("b.svg")
    out = "b.svg" if spelling == "hard.svg" else "a.svg"
    answer = run_cli(*SHORT, "--out", out, "--csv", spelling, "--runs-dir", "runs")
    check_refusal(answer, 2, f"option: --csv: expected another file than --out, found {spelling}")
    assert not Path("runs").exists() and Path("b.svg").read_text() == "old"


def test_the_files_that_a_run_is_drawn_from_are_not_overwritten(train_run: CliResult, tmp_path: Path) -> None:
    steps = train_run.run_dir / "steps.csv"
    answer = run_cli("zigzag", "--run", train_run.run_dir, "--csv", steps, "--runs-dir", tmp_path / "runs")
    check_refusal(answer, 2, "--csv: expected a file that is not read")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["training/result.json", "training/steps.csv", "evaluation/config.yaml"])
def test_a_page_does_not_replace_a_file_of_its_runs(name: str, tmp_path: Path) -> None:
    training = make_training(tmp_path / "training")
    make_evaluation(tmp_path / "evaluation", "training")
    before = (tmp_path / name).read_bytes()
    answer = run_cli("report", training, "--out", tmp_path / name, "--runs-dir", tmp_path / "runs")
    check_refusal(answer, 2, "--out: expected no file of the runs", name)
    assert (tmp_path / name).read_bytes() == before and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flag", ["--csv", "--out"])
def test_the_configuration_is_not_overwritten(flag: str, tmp_path: Path) -> None:
    config = tmp_path / "c.svg"
    config.write_text("step_size: 2\n")
    answer = run_cli(*SHORT, "--config", config, flag, config, "--runs-dir", tmp_path / "runs")
    check_refusal(answer, 2, f"{flag}: expected another file than --config")
    assert config.read_text() == "step_size: 2\n" and not (tmp_path / "runs").exists()


def test_an_error_of_an_output_names_its_own_option(
    train_run: CliResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    report = ("report", train_run.run_dir, "--out", tmp_path / "file" / "a.html")
    for words in (
        (*SHORT, "--out", tmp_path / "file" / "a.png"),
        (*SHORT, "--csv", tmp_path / "file" / "a.csv"),
        report,
    ):
        answer = run_cli(*words, "--runs-dir", tmp_path / "runs")
        check_refusal(answer, 4, f"Choose another {words[-2]}.")
        assert not (tmp_path / "runs").exists()
    replace = os.replace

    def full(source: Path, target: Path) -> None:  # the disk of the named file only
        if Path(target).parent == tmp_path:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(Path, "replace", full)
    names = {"--out": tmp_path / "b.png", "--csv": tmp_path / "b.csv"}
    for flag, path in names.items():
        answer = run_cli(*SHORT, flag, path, "--runs-dir", tmp_path / "runs")
        check_refusal(answer, 4, str(path), f"Free some space or choose another {flag}.")
    monkeypatch.setattr(Path, "replace", lambda *_: full(Path(), tmp_path / "x"))
    check_refusal(run_cli(*SHORT, "--runs-dir", tmp_path / "full"), 4, "choose another --runs-dir")
