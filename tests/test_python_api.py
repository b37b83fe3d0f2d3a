"""The Python API does what the commands do, in a short script. Run: pytest tests/test_python_api.py."""

import ast
import runpy
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from scsuite import Trainer
from scsuite.core.runs.checkpoints import list_checkpoints
from tests import own_network
from tests.core.tiny import equal_tensors, without_clocks

SCRIPT = Path(__file__).with_name("api_script.py")


def test_a_script_of_thirty_lines_does_it_all_with_no_import_below_scsuite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = SCRIPT.read_text()
    assert len(code.splitlines()) <= 30
    nodes = list(ast.walk(ast.parse(code)))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert modules == {"scsuite", "torch"}
    monkeypatch.chdir(tmp_path)
    values = runpy.run_path(str(SCRIPT))

    trainer, test, evaluation = values["trainer"], values["test"], values["evaluation"]
    assert 0 < test.lr_min < test.lr_max
    assert values["stopped"].state.step == 6
    assert [epoch.epoch for epoch in trainer.epochs] == [2, 3]
    assert evaluation.loss == trainer.epochs[-1].test_loss
    assert evaluation.num_images == 100
    assert values["heatmaps"].shape == (4, 32, 32)
    assert all(isinstance(figure, Figure) and figure.axes for figure in values["figures"])

    (run,) = (tmp_path / "runs").iterdir()
    assert list_checkpoints(run)[0].name == "step-000006.safetensors"
    from_run = Trainer(values["data"], values["config"]).resume(run)
    assert [epoch.epoch for epoch in from_run.epochs] == [1]
    from_run.fit()
    assert without_clocks(from_run.epochs[1:]) == without_clocks(trainer.epochs)
    assert equal_tensors(from_run.state_tensors(), trainer.state_tensors())


def test_resnet18_of_torchvision_is_tested_trained_evaluated_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    test, trainer, evaluation, heatmaps = own_network.run(16, 10, batch_size=8, steps=10, lr_end=0.02, epochs=1)
    assert "your own network has no reference LR" in test.reason
    assert trainer.finished
    assert trainer.config.lr_max == test.lr_max
    assert evaluation.accuracy == trainer.epochs[-1].test_accuracy
    assert evaluation.loss == pytest.approx(trainer.epochs[-1].test_loss, rel=0.02)  # the training may be in bf16
    assert heatmaps.shape == (4, 32, 32)
    assert heatmaps.amax() > 0
    assert (next((tmp_path / "runs").iterdir()) / "result.json").exists()
