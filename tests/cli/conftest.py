"""One run of each command, shared by all tests of the command line, which only read them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scsuite.cli.train_figures import draw_figures
from scsuite.cli.train_session import Session
from tests.run_cli import CliResult, run_cli
from tests.tiny_args import TINY_LR_RANGE_ARGS, TINY_TRAIN_ARGS


@pytest.fixture(scope="package", autouse=True)
def no_training_figures() -> Iterator[None]:
    """Leave out the figures of trainings, which take longer than the tiny trainings; `training_figures` draws them."""

    def draw_none(_run: object, _trainer: object, session: Session, _accuracy: float) -> list[Path]:
        session.mark("result")
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scsuite.cli.train_display.draw_figures", draw_none)
        yield


@contextlib.contextmanager
def training_figures() -> Iterator[None]:
    """Draw the figures of the trainings in this block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scsuite.cli.train_display.draw_figures", draw_figures)
        yield


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures of `evaluate`, and let those of the other commands be empty files."""
    monkeypatch.setattr("scsuite.cli.evaluate.draw_evaluation", lambda *_: [])
    for name in ("gradcam", "lr_range", "schedule"):
        monkeypatch.setattr(f"scsuite.report.figures.{name}", lambda *_, **__: None)
    monkeypatch.setattr("scsuite.report.figures.save_figure", lambda _figure, path, *_: path.touch())


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs directory of the runs below, which nothing else writes to."""
    return tmp_path_factory.mktemp("shared") / "runs"


@pytest.fixture(scope="session")
def zigzag_run(runs_dir: Path) -> CliResult:
    return run_cli("zigzag", "--step-size", 4, "--cycles", 1, "--runs-dir", runs_dir, "--json")


@pytest.fixture(scope="session")
def lr_range_run(runs_dir: Path) -> CliResult:
    return run_cli(*TINY_LR_RANGE_ARGS, "--steps", 20, "--runs-dir", runs_dir, "--json")


@pytest.fixture(scope="session")
def train_run(runs_dir: Path) -> CliResult:
    with training_figures():
        return run_cli(*TINY_TRAIN_ARGS, "--runs-dir", runs_dir, "--json")


@pytest.fixture(scope="session")
def evaluate_run(runs_dir: Path, train_run: CliResult) -> CliResult:
    return run_cli("evaluate", "--ckpt", train_run.run_dir, "--runs-dir", runs_dir, "--json")


@pytest.fixture(scope="session")
def gradcam_run(runs_dir: Path, train_run: CliResult) -> CliResult:
    return run_cli("gradcam", "--ckpt", train_run.run_dir, "--count", 4, "--runs-dir", runs_dir, "--json")


@pytest.fixture(scope="session")
def report_run(runs_dir: Path, train_run: CliResult, evaluate_run: CliResult, gradcam_run: CliResult) -> CliResult:
    return run_cli("report", train_run.run_dir, "--runs-dir", runs_dir, "--json")
