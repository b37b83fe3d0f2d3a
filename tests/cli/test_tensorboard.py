"""`train --tensorboard`. Run: pytest tests/cli/test_tensorboard.py."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scsuite.cli import tensorboard
from scsuite.core.runs.results import read_epochs, read_steps
from tests.run_cli import run_cli
from tests.tiny_args import FAULT_TRAIN_ARGS

Scalars = dict[str, dict[int, float]]  # by tag and step


class FakeWriter:
    """torch's SummaryWriter, in memory; a restart drops what is from `purge_step` on, as TensorBoard does."""

    folders: dict[str, Scalars]

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.scalars = self.folders.setdefault(log_dir, {})
        for values in self.scalars.values():
            for step in [step for step in values if step >= purge_step]:
                del values[step]

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        values = self.scalars.setdefault(tag, {})
        assert step not in values, f"{tag} twice at step {step}"
        values[step] = value

    def close(self) -> None:
        Path(next(name for name, scalars in self.folders.items() if scalars is self.scalars)).mkdir(exist_ok=True)


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> dict[str, Scalars]:
    """What the fake writers wrote, by folder; tensorboard need not be installed."""
    FakeWriter.folders = {}
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FakeWriter))
    monkeypatch.setattr(tensorboard, "_is_installed", lambda: True)
    return FakeWriter.folders


def assert_equal_to_the_rows(scalars: Scalars, run: Path) -> None:
    steps, epochs = read_steps(run), read_epochs(run)
    assert scalars["train/loss"] == {row.step: row.loss for row in steps}
    assert scalars["lr"] == {row.step: row.lr for row in steps}
    assert scalars["momentum"] == {row.step: row.momentum for row in steps}
    assert scalars["train/accuracy"] == {epoch.step - 1: epoch.train_accuracy for epoch in epochs}
    assert scalars["test/accuracy"] == {epoch.step - 1: epoch.test_accuracy for epoch in epochs}
    assert scalars["test/loss"] == {epoch.step - 1: epoch.test_loss for epoch in epochs}
    assert "val/loss" not in scalars


def test_steps_and_epochs_are_written_and_a_resume_repeats_none(
    folders: dict[str, Scalars], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*FAULT_TRAIN_ARGS, "--runs-dir", tmp_path)

    class Stopped(Exception):  # noqa: N818
        pass

    def stop_at_step_3(self: FakeWriter, tag: str, value: float, step: int) -> None:
        FakeWriter.folders[next(iter(FakeWriter.folders))].setdefault(tag, {})[step] = value
        if step == 3:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(FakeWriter, "add_scalar", stop_at_step_3)
        assert run_cli(*arguments, "--tensorboard").code == 1  # killed after events that no checkpoint has
    (run,) = tmp_path.iterdir()
    ((folder, scalars),) = folders.items()
    assert folder == str(run / "tensorboard")
    assert 3 in scalars["train/loss"]
    result = run_cli("train", "--resume", run)
    assert result.code == 0, result.err
    assert_equal_to_the_rows(scalars, run)


def test_without_the_option_nothing_is_written(folders: dict[str, Scalars], tmp_path: Path) -> None:
    assert run_cli(*FAULT_TRAIN_ARGS, "--runs-dir", tmp_path).code == 0
    assert folders == {}


def test_a_missing_package_is_one_line_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None if name == "tensorboard" else find_spec(name))
    result = run_cli(*FAULT_TRAIN_ARGS, "--tensorboard", "--runs-dir", tmp_path / "runs")
    assert result.code == 2
    assert result.err.splitlines()[-1] == (
        "error: option: --tensorboard: expected the package tensorboard, found none. "
        'Run pip install "scsuite[tensorboard]".'
    )
    assert not (tmp_path / "runs").exists()


def test_tensorboard_reads_the_event_files(tmp_path: Path) -> None:
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = run_cli(*FAULT_TRAIN_ARGS, "--tensorboard", "--runs-dir", tmp_path, "--json").run_dir
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    scalars = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    assert set(scalars["train/loss"]) == {row.step for row in read_steps(run)}
    (accuracy,) = [epoch.test_accuracy for epoch in read_epochs(run)][-1:]
    assert list(scalars["test/accuracy"].values())[-1] == pytest.approx(accuracy)
