"""`scsuite train`: its files, rows, learning rates and metrics, its repeat, its settings and its resume."""

import json
from pathlib import Path

import pytest

from scsuite.core.model.checkpoint import read_checkpoint
from tests.cli.run_files import list_files, read_rows
from tests.run_cli import CliResult, run_cli
from tests.tiny_args import TINY_LR_RANGE_ARGS, TINY_TRAIN_ARGS, without_option

METRICS = ["epoch", "step", "lr", "momentum", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
           "images_per_second", "seconds"]  # fmt: skip


def assert_same_weights(run: Path, other: Path) -> None:
    weights, other_weights = (read_checkpoint(path / "model.safetensors").tensors for path in (run, other))
    assert weights.keys() == other_weights.keys()
    assert all(bool((weights[name] == other_weights[name]).all()) for name in weights)


def test_a_training_run_holds_exactly_the_files_of_the_contract(train_run: CliResult) -> None:
    files = list_files(train_run.run_dir)
    states = {name for name in files if name.startswith("checkpoints/")}
    figures = {name for name in files if name.startswith("figures/")}
    assert files - states - figures == {
        "config.yaml", "environment.json", "metrics.csv", "steps.csv", "log.txt", "result.json", "model.safetensors",
        "report.html",
    }  # fmt: skip
    assert "checkpoints/step-000008.safetensors" in states  # 200 images, batches of 64: 4 steps, 2 epochs
    assert len(states) <= 2
    assert figures == {"figures/training.png", "figures/augmented.png"}


@pytest.mark.usefixtures("no_figures")
def test_with_ema_the_average_is_saved_and_both_accuracies_are_reported(tmp_path: Path) -> None:
    last = run_cli(*TINY_TRAIN_ARGS, "--runs-dir", tmp_path, "--ema-epochs", 0, "--json").result
    answer = run_cli(*TINY_TRAIN_ARGS, "--runs-dir", tmp_path, "--ema-epochs", 1, "--json")
    final = answer.result["final"]
    assert (final["test_accuracy_no_ema"], final["test_loss_no_ema"]) == (
        last["final"]["test_accuracy"],
        last["final"]["test_loss"],
    )
    assert last["final"]["test_accuracy_no_ema"] is None
    assert f"without EMA {100 * final['test_accuracy_no_ema']:.2f}" in answer.err
    evaluation = run_cli("evaluate", "--ckpt", answer.run_dir, "--runs-dir", tmp_path, "--json").result
    assert (evaluation["accuracy"], evaluation["loss"]) == (final["test_accuracy"], final["test_loss"])
    assert evaluation["loss"] != last["final"]["test_loss"]


def test_rows_have_the_contracts_columns_and_one_row_an_epoch_and_a_step(train_run: CliResult) -> None:
    metrics = (train_run.run_dir / "metrics.csv").read_text().splitlines()
    assert metrics[0].split(",")[: len(METRICS)] == METRICS
    rows = read_rows(train_run.run_dir / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8")]
    steps = read_rows(train_run.run_dir / "steps.csv")
    assert list(steps[0]) == ["step", "lr", "momentum", "loss"]
    assert [row["step"] for row in steps] == [str(step) for step in range(8)]


def test_the_learning_rates_follow_one_cycle_without_annihilation(train_run: CliResult) -> None:
    lrs = [float(row["lr"]) for row in read_rows(train_run.run_dir / "steps.csv")]
    # peak at round(2 * 5 / 24 * 4) - 1 = 1; then 6 equal steps of 0.015 down to LRMIN, and never below it
    assert lrs == pytest.approx([0.01, 0.1, 0.085, 0.07, 0.055, 0.04, 0.025, 0.01])
    assert {row["momentum"] for row in read_rows(train_run.run_dir / "steps.csv")} == {"0.9"}


def test_lr_max_alone_sets_lr_min_to_a_tenth_and_says_so(train_run: CliResult) -> None:
    assert (train_run.result["lr_min"], train_run.result["lr_max"]) == (pytest.approx(0.01), 0.1)
    assert "LRMIN = LRMAX / 10" in train_run.err


def test_the_final_metrics_are_the_last_row(train_run: CliResult) -> None:
    last = read_rows(train_run.run_dir / "metrics.csv")[-1]
    final = train_run.result["final"]
    assert {name: float(last[name]) if last[name] else None for name in final} == final
    assert train_run.result["best"]["test_accuracy"] >= final["test_accuracy"]
    assert train_run.result["best"]["selected_on"] == "test"
    assert train_run.result["checkpoint"] == str(train_run.run_dir / "model.safetensors")


def test_a_runs_config_repeats_it_bit_by_bit(train_run: CliResult, tmp_path: Path) -> None:
    again = run_cli("train", "--config", train_run.run_dir / "config.yaml", "--runs-dir", tmp_path, "--json")
    name = "model.safetensors"
    assert (again.run_dir / name).read_bytes() == (train_run.run_dir / name).read_bytes()
    assert again.result["final"] == train_run.result["final"]
    assert (again.run_dir / "config.yaml").read_bytes() == (train_run.run_dir / "config.yaml").read_bytes()


@pytest.mark.parametrize("name", ["bs", "batch-size", "batch_size"])
def test_a_file_names_options_as_the_command_line_or_config_yaml_does(name: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"{name}: 201\n")
    answer = run_cli(*without_option(TINY_TRAIN_ARGS, "--bs"), "--config", file, "--runs-dir", tmp_path)
    assert "at least one batch of 201, found 200 images" in answer.err


def test_any_number_of_workers_gives_the_same_run(tmp_path: Path) -> None:
    none, one, two = (
        run_cli(
            *TINY_TRAIN_ARGS,
            "--augment-backend",
            "albumentations",
            "--workers",
            workers,
            "--runs-dir",
            tmp_path,
            "--json",
        )
        for workers in (0, 1, 2)
    )
    for other in (one, two):
        assert_same_weights(other.run_dir, none.run_dir)
        assert other.result["final"] == none.result["final"]


@pytest.mark.parametrize("command", ["train", "lr-range"])
@pytest.mark.usefixtures("no_figures")
def test_the_augmentation_backend_is_reported_with_its_reason(command: str, tmp_path: Path) -> None:
    words = (*TINY_TRAIN_ARGS, "--epochs", 1) if command == "train" else (*TINY_LR_RANGE_ARGS, "--steps", 10)
    policy = tmp_path / "noise.yaml"
    policy.write_text(
        "transform:\n  __class_fullname__: Compose\n  transforms:\n  - {__class_fullname__: GaussNoise}\n"
    )
    for more, name, reason in (
        ((), "batched", "every transform of the policy has a batched version"),
        (("--augment-backend", "albumentations"), "albumentations", "as requested"),
        (("--augment", policy), "albumentations", "GaussNoise has no batched version"),
    ):
        answer = run_cli(*words, *more, "--runs-dir", tmp_path / "runs", "--json")
        environment = json.loads((answer.run_dir / "environment.json").read_text())
        assert environment["augment_backend"] == {"name": name, "reason": reason}
        lines = [line for line in answer.err.splitlines() if line.startswith("augmentation")]
        assert [line for line in lines if f"{name}: {reason}" in line]


def test_a_resume_with_another_backend_is_refused(train_run: CliResult) -> None:
    answer = run_cli("train", "--resume", train_run.run_dir, "--augment-backend", "albumentations")
    assert answer.code == 2
    assert "--augment-backend: expected auto" in answer.err


def test_another_seed_gives_another_run(train_run: CliResult, tmp_path: Path) -> None:
    other = run_cli(*TINY_TRAIN_ARGS, "--seed", 1, "--runs-dir", tmp_path, "--json")
    run_dirs = (other.run_dir, train_run.run_dir)
    weights, other_weights = (read_checkpoint(run / "model.safetensors").tensors for run in run_dirs)
    assert not bool((weights["model.fc.weight"] == other_weights["model.fc.weight"]).all())
    losses = [float(read_rows(run / "steps.csv")[0]["loss"]) for run in run_dirs]
    assert losses[0] != losses[1]


def test_resuming_a_finished_run_prints_the_same_object_and_rewrites_nothing(train_run: CliResult) -> None:
    run = train_run.run_dir
    before = {name: (run / name).stat().st_mtime_ns for name in list_files(run)}
    again = run_cli("train", "--resume", run, "--json")
    assert again.result == train_run.result
    assert "complete" in again.err
    assert {name: (run / name).stat().st_mtime_ns for name in list_files(run)} == before


@pytest.mark.usefixtures("no_figures")
def test_held_out_images_select_the_best_and_the_test_images_are_read_once(tmp_path: Path) -> None:
    answer = run_cli(*TINY_TRAIN_ARGS, "--val-split", 50, "--epochs", 3, "--runs-dir", tmp_path, "--json")
    rows = read_rows(answer.run_dir / "metrics.csv")
    assert [bool(row["test_accuracy"]) for row in rows] == [False, False, True]
    assert [bool(row["test_loss"]) for row in rows] == [False, False, True]
    assert rows[0]["step"] == "3"  # 150 images are left to train on: 64 + 64 + 22
    best = answer.result["best"]
    assert best["selected_on"] == "val"
    assert best["val_accuracy"] == max(float(row["val_accuracy"]) for row in rows)
    assert float(rows[best["epoch"] - 1]["val_accuracy"]) == best["val_accuracy"]
    chosen = answer.run_dir / "best.safetensors"
    evaluation = run_cli("evaluate", "--ckpt", chosen, "--runs-dir", tmp_path, "--json").result
    assert 0 <= evaluation["accuracy"] <= 1
    if best["epoch"] == 3:
        assert evaluation["accuracy"] == answer.result["final"]["test_accuracy"]


def test_train_learns_shapes(tmp_path: Path) -> None:
    policy = tmp_path / "flip.yaml"  # on so few images, what the suite does to them by default takes more epochs
    policy.write_text(
        "transform:\n  __class_fullname__: Compose\n  transforms:\n  - {__class_fullname__: HorizontalFlip, p: 0.5}\n"
    )
    data = ("--data", "shapes", "--limit-train", 2000, "--limit-test", 500, "--width", 0.1, "--bs", 40)
    recipe = ("--epochs", 4, "--optimizer", "adamw", "--lr-max", 0.005, "--augment", policy, "--workers", 0)
    answer = run_cli(
        "train", *data, *recipe, "--device", "cpu", "--precision", "fp32", "--runs-dir", tmp_path / "runs", "--json"
    )
    # Chance is 10 %, with a standard deviation of 1.3 % on 500 images; ln 10 is 2.303.
    assert answer.result["final"]["test_accuracy"] > 0.16
    assert answer.result["final"]["train_loss"] < 2.2
