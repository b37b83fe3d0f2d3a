"""Folders that people bring: what train prints of their splits and classes, and classes with the names of keywords."""

import csv
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.core.dataset.helpers import class_tree, write_folder
from tests.run_cli import CliResult, run_cli
from tests.tiny_args import ONE_EPOCH_ARGS

NAMES = ("index", "train", "test", "val", "all", "both", "predicted", "actual", "none", "cifar10", "10", "image")


@pytest.fixture(scope="module")
def keyword_run(tmp_path_factory: pytest.TempPathFactory) -> CliResult:
    """A training on classes with the names of keywords."""
    path = tmp_path_factory.mktemp("keywords")
    tree = class_tree({f"{split}/{name}": 2 for split in ("training_set", "seg_test") for name in NAMES})
    data = write_folder(path / "data", tree)
    return run_cli("train", "--data", data, *ONE_EPOCH_ARGS, "--runs-dir", path / "runs", "--json")


def test_train_names_the_splits_and_the_classes(keyword_run: CliResult) -> None:
    assert "training_set/ was read as training images, seg_test/ as test images" in keyword_run.err
    counts = "classes   2 training and 2 test images in each of 10, actual, all, both, cifar10, image, index, none,"
    assert counts in keyword_run.err
    assert keyword_run.code == 0


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("choice", "keys"),
    [
        ("predicted", {"predicted"}),  # the keyword wins
        ("name:predicted", {"name:predicted"}),
        ("both", {"predicted", "actual"}),
        ("index", {"name:index"}),  # not the indices of the images
        ("name:all", {"all"}),
        ("10", {"10"}),
    ],
)
def test_gradcam_explains_classes_with_the_names_of_keywords(
    choice: str, keys: set[str], keyword_run: CliResult, tmp_path: Path
) -> None:
    options = ("--class", choice, "--select", "all", "--count", 2, "--save-maps", "--runs-dir", tmp_path, "--json")
    result = run_cli("gradcam", "--ckpt", keyword_run.run_dir, *options).result
    assert set(result["faithfulness"]) == keys
    with safe_open(result["maps"], framework="numpy") as file:
        assert set(file.keys()) == keys | {"index"}
        assert file.get_tensor("index").tolist() == [0, 1]


def test_evaluate_has_a_column_and_a_row_for_each_such_class(keyword_run: CliResult, tmp_path: Path) -> None:
    answer = run_cli("evaluate", "--ckpt", keyword_run.run_dir, "--runs-dir", tmp_path, "--json")
    assert [row["name"] for row in answer.result["per_class"]] == sorted(NAMES)
    with (answer.run_dir / "predictions.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert len(set(header)) == len(header)
    assert header[5:] == [f"p_{name}" for name in sorted(NAMES)]


@pytest.mark.usefixtures("no_figures")
def test_numbered_classes_keep_the_order_of_their_numbers_in_a_run(tmp_path: Path) -> None:
    tree = class_tree({f"{split}/{number}": 2 for split in ("train", "test") for number in (0, 2, 10)})
    data = write_folder(tmp_path / "data", tree)
    run = run_cli("train", "--data", data, *ONE_EPOCH_ARGS, "--runs-dir", tmp_path / "runs", "--json")
    answer = run_cli("evaluate", "--ckpt", run.run_dir, "--runs-dir", tmp_path / "runs", "--json").result
    assert [row["name"] for row in answer["per_class"]] == ["0", "2", "10"]
    assert answer["num_images"] == 6
