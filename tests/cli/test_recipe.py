"""`--recipe` on the command line: defaults < recipe < file < flags, recorded in config.yaml, kept by a resume."""

from pathlib import Path

import pytest
import yaml

from tests.run_cli import run_cli
from tests.tiny_args import TINY_LR_RANGE_ARGS, TINY_TRAIN_ARGS


def test_a_recipe_is_overridden_by_the_file_and_the_file_by_flags(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("recipe: assignment\nlabel_smoothing: 0.1\nl1: 0.1\n")  # 0.1 is the default: the file still wins
    words = (*TINY_TRAIN_ARGS, "--epochs", 1, "--config", file, "--l1", 0, "--runs-dir", tmp_path / "runs")
    answer = run_cli(*words, "--json")
    config = yaml.safe_load((answer.run_dir / "config.yaml").read_text())
    assert (config["recipe"], config["label_smoothing"], config["l1"]) == ("assignment", 0.1, 0.0)
    assert (config["ghost_batch_size"], config["ema_epochs"], config["bn_weight_decay"]) == (0, 0.0, True)
    assert "assignment, with width 0.05, batch size 64, label smoothing 0.1" in answer.err
    assert answer.result["final"]["test_accuracy_no_ema"] is None  # no average

    for recipe in ("default", "cifar10-fast"):
        resumed = run_cli("train", "--resume", answer.run_dir, "--recipe", recipe)
        assert resumed.code == 2
        assert f"--recipe: expected assignment, as in {answer.run_dir}, found {recipe}." in resumed.err
    assert run_cli("train", "--resume", answer.run_dir, "--recipe", "assignment").code == 0


@pytest.mark.usefixtures("no_figures")
def test_the_range_test_of_a_recipe_is_under_its_conditions(tmp_path: Path) -> None:
    words = (*TINY_LR_RANGE_ARGS, "--steps", 10, "--recipe", "cifar10-fast", "--runs-dir", tmp_path, "--json")
    answer = run_cli(*words)
    conditions = answer.result["conditions"]
    assert (conditions["label_smoothing"], conditions["ghost_batch_size"]) == (0, 0)
    assert "--recipe cifar10-fast" in answer.err.split("next")[1]  # the training has the same recipe
    assert "recipe    cifar10-fast, with width 0.05, batch size 64" in answer.err
