"""evaluate, gradcam and train --resume on other data, and on data and runs that were moved or copied."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from scsuite.core.augment import load_policy
from scsuite.core.config import TrainConfig
from scsuite.core.dataset import load_dataset
from scsuite.core.model.checkpoint import read_checkpoint
from scsuite.core.training.trainer import Trainer
from tests.cli.test_errors import check_refusal
from tests.core.dataset.helpers import class_tree, write_folder
from tests.core.tiny import equal_tensors
from tests.run_cli import CliResult, run_cli

PETS = class_tree({"cat": 5, "dog": 10, "owl": 5})
SETTINGS = {"width": 0.05, "batch_size": 4, "epochs": 1, "lr_max": 0.1, "device": "cpu", "workers": 0, "seed": 1}


def policy_file(path: Path) -> Path:
    policy = {
        "__class_fullname__": "Compose",
        "transforms": [{"__class_fullname__": "HorizontalFlip", "p": 0.5}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump({"transform": policy}))
    load_policy(str(path), (0.5,) * 3, (0.25,) * 3)
    return path


def make_run(folder: Path, num_steps: int | None = None) -> Path:
    """Train on folder/pets with the policy folder/policy.yaml, to the end or to a step; return the run directory."""
    data, policy = write_folder(folder / "pets", PETS), policy_file(folder / "policy.yaml")
    config = TrainConfig(data=str(data), augment=str(policy), **SETTINGS)  # type: ignore[arg-type]
    trainer = Trainer(load_dataset(str(data)), config)
    trainer.fit(folder / "runs", should_stop=lambda: trainer.state.step == num_steps)
    (run,) = (folder / "runs").iterdir()
    return run


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("finished"))


def refuse(arguments: tuple[object, ...], code: int, *words: str) -> None:
    """Run the program, which must refuse in one line with these words."""
    check_refusal(run_cli(*arguments), code, *words)


def evaluate(run: Path, data: Path, *more: object) -> CliResult:
    return run_cli("evaluate", "--ckpt", run, "--data", data, "--runs-dir", data.parent / "out", "--json", *more)


@pytest.mark.usefixtures("no_figures")
def test_a_class_without_test_images_is_reported_once(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", class_tree({"train/a": 4, "train/b": 4, "test/a": 1}))
    settings = [str(part) for name, value in SETTINGS.items() for part in ("--" + name.replace("_", "-"), value)]
    run = run_cli("train", "--data", data, *settings, "--runs-dir", tmp_path / "runs", "--json").run_dir
    answer = run_cli("evaluate", "--ckpt", run, "--runs-dir", tmp_path / "runs")
    assert answer.out.count("no test images of") == 1


def test_a_class_without_images_has_no_recall_and_no_part_in_the_means(finished_run: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "new", class_tree({"cat": 3, "owl": 1}))
    (folder / "dog").mkdir()
    answer = evaluate(finished_run, folder)
    result = answer.result
    assert (result["num_images"], result["evaluated"], result["data"]) == (4, "all", "new")
    assert "the content differs from the training's data, so all are used" in answer.err
    rows = {row["name"]: row for row in result["per_class"]}
    assert rows["dog"] == {
        "name": "dog", "precision": None, "recall": None, "recall_ci95": None, "f1": None, "support": 0,
    }  # fmt: skip
    assert result["balanced_accuracy"] == pytest.approx((rows["cat"]["recall"] + rows["owl"]["recall"]) / 2)
    assert result["macro"]["recall"] == result["balanced_accuracy"]
    with (answer.run_dir / "per_class.csv").open(newline="") as file:
        assert list(csv.reader(file))[2] == ["dog", "", "", "", "", "", "0"]
    log = [line.split()[2:] for line in (answer.run_dir / "log.txt").read_text().splitlines()]
    assert ["dog", "-", "-", "-", "0"] in log
    assert any(line[:6] == ["macro", "average", "of", "the", "2", "with"] for line in log)
    assert any(line[:2] == ["balanced", "accuracy"] for line in log)


def test_gradcam_explains_images_of_all_of_the_other_data(finished_run: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "new", class_tree({"test/cat": 2, "train/cat": 1}))
    options = ("--select", "all", "--class", "cat", "--runs-dir", tmp_path / "out", "--json")
    result = run_cli("gradcam", "--ckpt", finished_run, "--data", folder, *options).result
    assert [(image["file"], image["actual"]) for image in result["images"]] == [
        ("test/cat/000.png", "cat"), ("test/cat/001.png", "cat"), ("train/cat/000.png", "cat"),
    ]  # fmt: skip
    assert result["evaluated"] == "all"


@pytest.mark.usefixtures("no_figures")
def test_moved_data_and_a_moved_run_are_evaluated_as_before(finished_run: Path, tmp_path: Path) -> None:
    final = json.loads((finished_run / "result.json").read_text())["final"]
    run = tmp_path / "runs" / "copy"
    shutil.copytree(finished_run, run)
    data = shutil.copytree(finished_run.parents[1] / "pets", tmp_path / "renamed")
    evaluation = evaluate(run, data).result
    assert (evaluation["accuracy"], evaluation["loss"]) == (final["test_accuracy"], final["test_loss"])
    assert (evaluation["num_images"], evaluation["evaluated"]) == (4, "test")
    # The result that a resume of a complete run prints has the paths of today.
    result = run_cli("train", "--resume", run, "--json").result
    assert Path(result["run_dir"]) == run
    assert Path(result["checkpoint"]) == run / "model.safetensors"
    assert run_cli("train", "--resume", finished_run, "--json").result["run_dir"] == str(finished_run)


def test_missing_data_of_a_run_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_steps=2)
    (tmp_path / "pets").rename(tmp_path / "moved")
    for command, option in (("evaluate", "--ckpt"), ("gradcam", "--ckpt"), ("train", "--resume")):
        fix = f"If it was moved: scsuite {command} {option} {run} --data NEW."
        refuse((command, option, run), 3, str(tmp_path / "pets"), fix)


@pytest.mark.usefixtures("no_figures")
def test_a_run_resumes_after_its_data_its_policy_file_and_itself_were_moved(finished_run: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, num_steps=2).rename(tmp_path / "run")
    data = (tmp_path / "pets").rename(tmp_path / "elsewhere")
    (tmp_path / "policy.yaml").unlink()
    other = write_folder(tmp_path / "other", class_tree({"cat": 6, "dog": 9, "owl": 5}))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    refuse(("train", "--resume", run, "--data", other), 3, "cannot resume", "the same data", "--data")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    result = run_cli("train", "--resume", run, "--data", data, "--json").result
    own, expected = (read_checkpoint(path / "model.safetensors") for path in (run, finished_run))
    assert equal_tensors(own.tensors, expected.tensors)  # of a run that was neither stopped nor moved
    assert own.metadata["policy"] == expected.metadata["policy"]
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == str(data)
    evaluation = run_cli("evaluate", "--ckpt", run, "--runs-dir", tmp_path / "out", "--json").result
    assert evaluation["accuracy"] == result["final"]["test_accuracy"]


def test_another_policy_file_and_a_run_that_recorded_other_data_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_steps=2)
    policy = tmp_path / "policy.yaml"
    moved = policy.rename(tmp_path / "moved.yaml")
    policy.write_text(moved.read_text().replace("0.5", "0.25"))
    refuse(("train", "--resume", run), 3, "cannot resume", "the same policy")
    refuse(("train", "--resume", run, "--augment", tmp_path / "no.yaml"), 3, "no.yaml")
    shutil.rmtree(run / "checkpoints")  # killed before the first one
    other = write_folder(tmp_path / "other", class_tree({"cat": 6, "dog": 9, "owl": 5}))
    refuse(("train", "--resume", run, "--data", other), 3, "cannot resume", "the same data")
    assert run_cli("train", "--resume", run, "--augment", moved, "--json").code == 0


def test_uneven_classes_are_reported_with_balanced_accuracy_and_the_largest_class(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "uneven", class_tree({"train/a": 6, "train/b": 2, "test/a": 5, "test/b": 1}))
    options = ("--width", 0.05, "--bs", 4, "--epochs", 1, "--lr-max", 1e-9, "--device", "cpu", "--workers", 0)
    answer = run_cli(
        "train", "--data", data, *options, "--class-weights", "balanced", "--runs-dir", tmp_path / "out", "--json"
    )
    final = answer.result["final"]
    assert final["test_accuracy"] in (1 / 6, 5 / 6)  # an untrained network predicts one class of six equal images
    assert final["test_balanced_accuracy"] == 0.5
    assert "balanced accuracy 50.00 %" in answer.err
    assert "test accuracy never exceeded the fraction of the largest class (83.3 %, a)" in answer.result["warnings"]
    assert yaml.safe_load((answer.run_dir / "config.yaml").read_text())["class_weights"] == "balanced"
