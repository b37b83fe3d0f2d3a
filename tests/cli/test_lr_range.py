"""`scsuite lr-range`: its files, its repeat, and the bounds that a training takes from it or finds itself."""

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.run_files import list_files, read_rows
from tests.run_cli import CliResult, run_cli
from tests.tiny_args import TINY_ARGS, TINY_AUTO_LR_ARGS, TINY_LR_RANGE_ARGS


def test_lr_range_writes_its_curve_and_figure(lr_range_run: CliResult) -> None:
    assert list_files(lr_range_run.run_dir) == {
        "config.yaml", "environment.json", "log.txt", "result.json", "history.csv", "figures/lr-range.png",
    }  # fmt: skip
    rows = read_rows(lr_range_run.run_dir / "history.csv")
    assert 10 <= len(rows) <= 20
    assert float(rows[0]["lr"]) == pytest.approx(1e-3)
    result = lr_range_run.result
    assert 1e-3 <= result["lr_min"] < result["lr_max"] <= 10
    assert any("only" in warning for warning in result["warnings"])  # 20 steps are few, and it says so


def test_a_repeated_lr_range_gives_the_same_numbers(lr_range_run: CliResult, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    from scsuite.report.figures.style import FOOTER_HEIGHT

    again = run_cli(*TINY_LR_RANGE_ARGS, "--steps", 20, "--runs-dir", tmp_path, "--json")
    differ = {name for name, value in again.result.items() if lr_range_run.result[name] != value}
    assert differ <= {"run_dir", "figures", "seconds"}
    run_dirs = (again.run_dir, lr_range_run.run_dir)
    rows, other_rows = ((run / "history.csv").read_bytes() for run in run_dirs)
    assert rows == other_rows
    figure, other = (np.array(Image.open(run / "figures" / "lr-range.png")) for run in run_dirs)
    assert np.array_equal(figure[:-FOOTER_HEIGHT], other[:-FOOTER_HEIGHT])  # the footer names the run


def test_lr_from_is_kept_in_the_run_before_its_first_step(
    lr_range_run: CliResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at_once(*_: object) -> None:
        raise SystemExit(143)

    options = (*TINY_AUTO_LR_ARGS, "--epochs", 1, "--lr-from", lr_range_run.run_dir, "--runs-dir", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("scsuite.cli.train.run_main", stop_at_once)
        assert run_cli(*options).code == 143
    (run,) = tmp_path.iterdir()
    resumed = run_cli("train", "--resume", run, "--json")
    assert not (run / "history.csv").exists()  # no range test of its own
    for name in ("lr_min", "lr_max"):
        assert resumed.result[name] == lr_range_run.result[name]


def test_lr_from_takes_the_lr_bounds_and_warns_of_other_conditions(lr_range_run: CliResult, tmp_path: Path) -> None:
    options = ("--epochs", 1, "--lr-from", lr_range_run.run_dir, "--bs", 50, "--runs-dir", tmp_path, "--json")
    answer = run_cli(*TINY_AUTO_LR_ARGS, *options)
    bounds = ("lr_min", "lr_max")
    assert [answer.result[name] for name in bounds] == [lr_range_run.result[name] for name in bounds]
    batch_size = "was found with batch size 64; this run uses 50"
    assert batch_size in answer.err
    assert batch_size in (answer.run_dir / "log.txt").read_text()
    assert "was found with epochs 24; this run uses 1" in answer.err
    assert answer.err.count("was found with") == 2  # all other conditions are equal
    assert sum("was found with" in warning for warning in answer.result["warnings"]) == 2


def test_a_missing_condition_of_a_range_test_is_called_unknown(lr_range_run: CliResult, tmp_path: Path) -> None:
    older = {**lr_range_run.result, "conditions": {**lr_range_run.result["conditions"]}}
    del older["conditions"]["epochs"]
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "result.json").write_text(json.dumps(older))
    options = (*TINY_AUTO_LR_ARGS, "--epochs", 1, "--lr-from", tmp_path / "older")
    answer = run_cli(*options, "--runs-dir", tmp_path / "runs")
    assert answer.code == 0
    assert "was found with epochs unknown; this run uses 1" in answer.out


def test_train_without_lr_bounds_finds_them_first_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scsuite.core.lr_range.range_test.MIN_RANGE_TEST_STEPS", 25)  # a quarter of the time
    recipe = (*TINY_ARGS, "--limit-train", 64, "--bs", 16)
    answer = run_cli("train", *recipe, "--epochs", 2, "--runs-dir", tmp_path, "--json")
    result, run = answer.result, answer.run_dir
    assert {"history.csv", "figures/lr-range.png", "model.safetensors"} <= list_files(run)
    assert len(list(tmp_path.iterdir())) == 1
    for epochs, same in ((2, True), (24, False)):  # it is for a training of its own length
        found = run_cli("lr-range", *recipe, "--steps", 25, "--train-epochs", epochs, "--runs-dir", tmp_path, "--json")
        assert (found.result["lr_max"] == result["lr_max"]) is same
    config = yaml.safe_load((run / "config.yaml").read_text())
    steps = [float(row["lr"]) for row in read_rows(run / "steps.csv")]
    for name, used in (("lr_min", min(steps)), ("lr_max", max(steps))):
        assert result[name] == config[name] == pytest.approx(used, rel=1e-12)
    assert float(read_rows(run / "metrics.csv")[-1]["lr"]) == pytest.approx(result["lr_min"], rel=1e-12)
    page, reason = (run / "report.html").read_text(), json.loads((run / "environment.json").read_text())["range_test"]
    assert "from the training&#39;s own range test" in page
    assert reason["reason"].split(";")[0].replace(" %", "\xa0%") in page
