"""One run of each command, shared by all tests of the command line, which only read them."""

from pathlib import Path

import pytest

from scsuite.cli.train_session import Session
from tests.run_cli import CliResult, run_cli
from tests.tiny_args import TINY_LR_RANGE_ARGS, TINY_TRAIN_ARGS


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


@pytest.fixture
def no_training_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures of trainings, which take longer than the tiny trainings themselves."""

    def draw_none(_run: object, _trainer: object, session: Session, _accuracy: float) -> list[Path]:
        session.mark("result")
        return []

    monkeypatch.setattr("scsuite.cli.train_display.draw_figures", draw_none)
