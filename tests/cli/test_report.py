"""`scsuite report`: what it finds, writes, prints and refuses; and the page that `train` writes itself."""

import shutil
from pathlib import Path

import pytest

from tests.made_runs import make_evaluation, make_training
from tests.run_cli import CliResult, run_cli
from tests.tiny_args import TINY_TRAIN_ARGS


def test_report_finds_the_runs_of_a_real_training(
    report_run: CliResult, train_run: CliResult, evaluate_run: CliResult, gradcam_run: CliResult
) -> None:
    (row,) = report_run.result["trainings"]
    assert (row["run_dir"], row["evaluate"], row["gradcam"]) == tuple(
        str(answer.run_dir) for answer in (train_run, evaluate_run, gradcam_run)
    )
    assert row["test_accuracy"] == train_run.result["final"]["test_accuracy"]
    assert row["accuracy_ci95"] == pytest.approx(evaluate_run.result["accuracy_ci95"])
    page = Path(report_run.result["page"]).read_text()
    assert all(f"<h2>{head}</h2>" in page for head in ("Test results", "Misclassified images", "Settings", "Repeat it"))


def test_train_writes_its_page_and_names_it(train_run: CliResult) -> None:
    page = Path(train_run.result["page"])
    assert page == train_run.run_dir / "report.html"
    assert f"{100 * train_run.result['final']['test_accuracy']:.2f}\xa0% test accuracy" in page.read_text()
    assert "report.html" in train_run.err  # under --json, text goes to stderr


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError("no template")

    monkeypatch.setattr("scsuite.report.page.training_page", fail)
    result = run_cli(*TINY_TRAIN_ARGS, "--epochs", 1, "--runs-dir", tmp_path, "--json").result
    assert result["page"] is None
    assert "report.html was not written: no template" in result["warnings"]
    assert Path(result["checkpoint"]).is_file()


def test_out_gets_the_same_page(tmp_path: Path) -> None:
    path, out = make_training(tmp_path / "runs" / "a"), tmp_path / "new" / "folder" / "page.html"
    result = run_cli("report", path, "--out", out, "--runs-dir", tmp_path / "pages", "--json").result
    assert out.read_bytes() == Path(result["page"]).read_bytes()


def test_several_trainings_give_groups_and_differences(tmp_path: Path) -> None:
    paths = [
        make_training(tmp_path / "runs" / f"{smoothing}-{seed}", [0.9 + seed / 100 + smoothing / 10], seed=seed,
                      label_smoothing=smoothing)
        for smoothing in (0.1, 0) for seed in (0, 1)
    ]  # fmt: skip
    answer = run_cli("report", *paths, "--runs-dir", tmp_path / "pages", "--json")
    first, second = answer.result["groups"]
    assert (first["settings"], first["seeds"]) == ({"label_smoothing": 0.1}, [0, 1])
    assert (first["mean"], second["mean"]) == pytest.approx((0.915, 0.905))
    (difference,) = answer.result["differences"]
    assert difference["mean"] == pytest.approx(-0.01)
    assert "group A   mean 91.50 %, SD 0.71 %, 2 seeds" in answer.err


def test_a_directory_of_runs_is_one_page(tmp_path: Path) -> None:
    for seed in range(3):
        make_training(tmp_path / "runs" / f"{seed}", seed=seed)
    make_evaluation(tmp_path / "runs" / "e", "0")
    answer = run_cli("report", tmp_path / "runs", "--runs-dir", tmp_path / "pages", "--json")
    assert len(answer.result["trainings"]) == 3


def test_a_copied_run_gives_the_same_page(tmp_path: Path) -> None:
    path = make_training(tmp_path / "one" / "runs" / "a")
    make_evaluation(tmp_path / "one" / "runs" / "e", "a")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    pages = [
        run_cli("report", folder / "runs" / "a", "--runs-dir", folder / "pages", "--json").result["page"]
        for folder in (path.parents[1], tmp_path / "two")
    ]
    assert Path(pages[0]).read_bytes() == Path(pages[1]).read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "expected one RUN or more"),
        (("{tmp}/missing",), 3, "expected a run directory, found no directory"),
        (("{tmp}",), 3, "expected a run directory, found no config.yaml in it"),
        (("{tmp}/runs/e",), 3, "expected a training run, found runs of evaluate"),
        (("{tmp}/runs/a", "{tmp}/missing"), 3, "expected a run directory, found no directory"),
        (("{tmp}/runs/a", "--out", "{tmp}/runs"), 2, "--out"),
        (("{tmp}/runs/edited",), 3, "expected a number for seed"),
    ],
)
def test_what_is_no_training_is_refused_in_one_line(
    words: tuple[str, ...], code: int, text: str, tmp_path: Path
) -> None:
    make_training(tmp_path / "runs" / "a")
    make_evaluation(tmp_path / "runs" / "e", "a")
    edited = make_training(tmp_path / "runs" / "edited") / "config.yaml"
    edited.write_text(edited.read_text().replace("seed: 0", "seed: zero"))
    answer = run_cli("report", *(word.format(tmp=tmp_path) for word in words), "--runs-dir", tmp_path / "pages")
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith("error: ")
    assert text in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "pages").exists()
