"""What scripts rely on: the JSON object, the run directory, its rows, and where values come from."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from scsuite import __version__
from scsuite.core.dataset import load_dataset
from scsuite.core.model.checkpoint import read_checkpoint
from tests.run_cli import CliResult, child_environment, run_cli, run_cli_process
from tests.tiny_args import TINY_ARGS, TINY_AUTO_LR_ARGS, TINY_LR_RANGE_ARGS, TINY_TRAIN_ARGS, without_option

COMMANDS = ("zigzag_run", "lr_range_run", "train_run", "evaluate_run", "gradcam_run", "report_run")
KEYS = {  # at least these; runs/README.md has all
    "zigzag_run": set(),
    "lr_range_run": {"lr_min", "lr_max", "suggestions", "warnings"},
    "train_run": {"epochs", "lr_min", "lr_max", "images_per_second", "final", "best", "checkpoint"},
    "evaluate_run": {
        "accuracy", "loss", "num_images", "per_class", "confusion_matrix", "ece",
        "accuracy_ci95", "top5_accuracy", "macro", "confusion_normalized", "most_confused", "misclassified", "tta",
    },
    "gradcam_run": {"figures", "images"},
    "report_run": {"page", "trainings", "groups", "differences"},
}  # fmt: skip
NAMES = dict(zip(COMMANDS, ("zigzag", "lr-range", "train", "evaluate", "gradcam", "report"), strict=True))
METRICS = ["epoch", "step", "lr", "momentum", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
           "images_per_second", "seconds"]  # fmt: skip
CLOCKS = ("images_per_second", "seconds")


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> tuple[str, CliResult]:
    return request.param, request.getfixturevalue(request.param)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def list_files(run: Path) -> set[str]:
    """All files of a run directory but the empty one that the lock is held on."""
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def assert_same_weights(run: Path, other: Path) -> None:
    weights, other_weights = (read_checkpoint(path / "model.safetensors").tensors for path in (run, other))
    assert weights.keys() == other_weights.keys()
    assert all(bool((weights[name] == other_weights[name]).all()) for name in weights)


# --- every command ---


def test_json_prints_one_object_with_the_promised_keys(command: tuple[str, CliResult]) -> None:
    name, answer = command
    result = answer.result  # asserts that stdout holds one object and nothing else
    assert {"command", "version", "run_dir", "seconds"} | KEYS[name] <= result.keys()
    assert (result["command"], result["version"]) == (NAMES[name], __version__)
    assert result["seconds"] > 0


def test_result_json_is_what_was_printed(command: tuple[str, CliResult]) -> None:
    answer = command[1]
    assert json.loads((answer.run_dir / "result.json").read_text()) == answer.result


def test_paths_in_the_object_are_absolute_and_there(command: tuple[str, CliResult]) -> None:
    result = command[1].result
    paths = [result[key] for key in ("run_dir", "checkpoint", "page") if key in result] + result["figures"]
    assert paths
    for path in paths:
        assert Path(path).is_absolute()
        assert Path(path).exists()


def test_every_run_records_its_configuration_and_environment(command: tuple[str, CliResult]) -> None:
    name, answer = command
    run = answer.run_dir
    assert {"config.yaml", "environment.json", "log.txt", "result.json"} <= list_files(run)
    facts = json.loads((run / "environment.json").read_text())
    assert {"versions", "command_line", "git_commit"} <= facts.keys()
    assert facts["versions"]["scsuite"] == __version__
    if name not in ("zigzag_run", "report_run"):  # they compute nothing with torch
        assert {"device", "threads", "precision"} <= facts.keys()
    assert f"-{NAMES[name]}-" in run.name


def test_a_runs_directory_holds_run_directories_and_nothing_else(
    runs_dir: Path,
    zigzag_run: CliResult,
    lr_range_run: CliResult,
    train_run: CliResult,
    evaluate_run: CliResult,
    gradcam_run: CliResult,
) -> None:
    made = {answer.run_dir for answer in (zigzag_run, lr_range_run, train_run, evaluate_run, gradcam_run)}
    assert len(made) == 5
    assert made <= set(runs_dir.iterdir())
    assert all((path / "config.yaml").is_file() for path in runs_dir.iterdir())


def test_under_json_the_text_goes_to_stderr_and_into_the_log(train_run: CliResult) -> None:
    log = (train_run.run_dir / "log.txt").read_text()
    for text in ("200 training and 100 test images", "epoch 1/2", "epoch 2/2", "LRMIN = LRMAX / 10"):
        assert text in train_run.err
        assert text in log


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_quiet_prints_nothing_but_the_object(more: tuple[str, ...], tmp_path: Path) -> None:
    answer = run_cli("zigzag", "--step-size", 2, "--quiet", *more, "--runs-dir", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert bool(answer.out) == bool(more)


def test_quiet_training_prints_nothing(tmp_path: Path) -> None:
    answer = run_cli(*TINY_TRAIN_ARGS, "--epochs", 1, "--quiet", "--runs-dir", tmp_path)
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_name_ends_the_run_directorys_name_and_is_no_path(tmp_path: Path) -> None:
    answer = run_cli("zigzag", "--step-size", 2, "--name", "../../a b", "--runs-dir", tmp_path / "runs", "--json")
    assert answer.run_dir.parent == (tmp_path / "runs").resolve()
    assert answer.run_dir.name.endswith("-zigzag-a-b")


def test_a_flag_overrides_the_runs_directory_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCSUITE_RUNS", str(tmp_path / "environment"))
    assert run_cli("zigzag", "--json").run_dir.parent == tmp_path / "environment"
    assert run_cli("zigzag", "--json", "--runs-dir", tmp_path / "flag").run_dir.parent == tmp_path / "flag"


# --- zigzag ---


def test_zigzag_draws_the_triangle(zigzag_run: CliResult) -> None:
    # step size 4, from 0.04 to 0.4: up a quarter of 0.36 a step, and down again; one cycle
    lrs = [float(row["lr"]) for row in read_rows(zigzag_run.run_dir / "schedule.csv")]
    assert lrs == pytest.approx([0.04, 0.13, 0.22, 0.31, 0.4, 0.31, 0.22, 0.13, 0.04])


@pytest.mark.parametrize(
    ("policy", "step", "lr"),
    [
        ("triangular2", 10, 0.1),  # the first peak
        ("triangular2", 30, 0.055),  # the second one: half the height, 0.01 + 0.09 / 2
        ("triangular2", 40, 0.01),
        ("exp-range", 0, 0.01),
        ("exp-range", 20, 0.01),  # a valley whatever gamma is
        ("one-cycle", 0, 0.01),
        ("one-cycle", 9, 0.1),  # 2 epochs of 5 steps: step 2 * 5 - 1
        ("one-cycle", 19, 0.01),  # the last of 4 * 5
        ("one-cycle", 14, 0.055),  # half way down from 9 to 19
    ],
)
def test_zigzag_writes_each_policys_values(policy: str, step: int, lr: float, tmp_path: Path) -> None:
    table = tmp_path / "curve.csv"
    options = ("--lr-min", 0.01, "--lr-max", 0.1, "--step-size", 10, "--epochs", 4, "--steps-per-epoch", 5)
    more = ("--peak-epoch", 2) if policy == "one-cycle" else ()
    answer = run_cli("zigzag", "--policy", policy, *options, *more, "--csv", table, "--runs-dir", tmp_path / "runs")
    assert answer.code == 0
    assert float(read_rows(table)[step]["lr"]) == pytest.approx(lr, abs=1e-12)


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_zigzag_writes_the_figure_to_out(suffix: str, magic: bytes, tmp_path: Path) -> None:
    out = tmp_path / f"curve.{suffix}"
    answer = run_cli("zigzag", "--step-size", 4, "--out", out, "--runs-dir", tmp_path / "runs", "--json")
    assert answer.result["figures"][-1] == str(out)
    assert out.read_bytes().startswith(magic)


def test_zigzag_creates_the_folders_of_out_and_csv(tmp_path: Path) -> None:
    out, table = tmp_path / "figures" / "new" / "curve.png", tmp_path / "tables" / "new" / "curve.csv"
    where = ("--out", out, "--csv", table, "--runs-dir", tmp_path / "runs")
    assert run_cli("zigzag", "--step-size", 4, *where).code == 0
    assert out.is_file()
    assert len(read_rows(table)) == 17


def test_zigzag_draws_the_actual_steps_of_a_run(train_run: CliResult, tmp_path: Path) -> None:
    answer = run_cli("zigzag", "--run", train_run.run_dir, "--runs-dir", tmp_path, "--json")
    real = [row["lr"] for row in read_rows(train_run.run_dir / "steps.csv")]
    assert [row["lr"] for row in read_rows(answer.run_dir / "schedule.csv")] == real
    assert (answer.result["lr_min"], answer.result["lr_max"]) == (0.01, 0.1)


# --- lr-range ---


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


def test_train_without_lr_bounds_finds_them_first_and_keeps_them(tmp_path: Path) -> None:
    recipe = (*TINY_ARGS, "--limit-train", 64, "--bs", 16)
    answer = run_cli("train", *recipe, "--epochs", 2, "--runs-dir", tmp_path, "--json")
    result, run = answer.result, answer.run_dir
    assert {"history.csv", "figures/lr-range.png", "model.safetensors"} <= list_files(run)
    assert len(list(tmp_path.iterdir())) == 1
    for epochs, same in ((2, True), (24, False)):  # it is for a training of its own length
        found = run_cli("lr-range", *recipe, "--steps", 100, "--train-epochs", epochs, "--runs-dir", tmp_path, "--json")
        assert (found.result["lr_max"] == result["lr_max"]) is same
    config = yaml.safe_load((run / "config.yaml").read_text())
    steps = [float(row["lr"]) for row in read_rows(run / "steps.csv")]
    for name, used in (("lr_min", min(steps)), ("lr_max", max(steps))):
        assert result[name] == config[name] == pytest.approx(used, rel=1e-12)
    assert float(read_rows(run / "metrics.csv")[-1]["lr"]) == pytest.approx(result["lr_min"], rel=1e-12)
    page, reason = (run / "report.html").read_text(), json.loads((run / "environment.json").read_text())["range_test"]
    assert "from the training&#39;s own range test" in page
    assert reason["reason"].split(";")[0].replace(" %", "\xa0%") in page


# --- train ---


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


def test_flags_override_the_file_and_the_file_overrides_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("lr-max: 1.5\nlr_min: 1e-2\nstep_size: 7\n")  # YAML reads 1e-2 as a text; both spellings of names
    answer = run_cli("zigzag", "--config", file, "--step-size", 3, "--runs-dir", tmp_path / "runs", "--json")
    result = answer.result
    assert (result["lr_min"], result["lr_max"], result["num_steps"]) == (0.01, 1.5, 2 * 2 * 3 + 1)


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
def test_the_augmentation_backend_is_reported_with_its_reason(command: str, tmp_path: Path) -> None:
    words = TINY_TRAIN_ARGS if command == "train" else (*TINY_LR_RANGE_ARGS, "--steps", 10)
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


# --- evaluate ---


def test_evaluate_repeats_the_final_metrics_of_the_training(train_run: CliResult, evaluate_run: CliResult) -> None:
    final, evaluation = train_run.result["final"], evaluate_run.result
    assert (evaluation["accuracy"], evaluation["loss"]) == (final["test_accuracy"], final["test_loss"])


def test_evaluate_of_the_file_equals_evaluate_of_the_run(
    train_run: CliResult, evaluate_run: CliResult, tmp_path: Path
) -> None:
    again = run_cli("evaluate", "--ckpt", train_run.result["checkpoint"], "--runs-dir", tmp_path, "--json").result
    own = {"run_dir", "seconds", "figures"}
    assert {k: v for k, v in again.items() if k not in own} == {
        k: v for k, v in evaluate_run.result.items() if k not in own
    }


def test_the_confusion_matrix_adds_up(evaluate_run: CliResult) -> None:
    evaluation = evaluate_run.result
    matrix = evaluation["confusion_matrix"]
    assert sum(map(sum, matrix)) == evaluation["num_images"] == 100
    assert [sum(row) for row in matrix] == [row["support"] for row in evaluation["per_class"]]  # rows: actual classes
    assert sum(matrix[i][i] for i in range(10)) / 100 == pytest.approx(evaluation["accuracy"])
    for i, row in enumerate(evaluation["per_class"]):
        assert row["recall"] == pytest.approx(matrix[i][i] / sum(matrix[i]))
        assert {"name", "precision", "recall", "f1", "support"} <= row.keys()
    assert 0 <= evaluation["ece"] <= 1


def test_evaluate_reads_what_the_run_read_and_a_flag_overrides_it(
    train_run: CliResult, evaluate_run: CliResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCSUITE_DATA", "cifar10")  # no explicit flag
    fewer = run_cli(
        "evaluate", "--ckpt", train_run.run_dir, "--limit-test", 50, "--runs-dir", tmp_path, "--json"
    ).result
    assert fewer["num_images"] == 50
    assert {row["support"] for row in fewer["per_class"]} == {5}
    assert evaluate_run.result["data"] == fewer["data"] == "shapes"


def test_evaluate_uses_the_precision_of_the_run_unless_a_flag_overrides_it(tmp_path: Path) -> None:
    run = run_cli(*TINY_TRAIN_ARGS, "--epochs", 1, "--precision", "bf16", "--runs-dir", tmp_path, "--json").run_dir
    for more, precision in (((), "bf16"), (("--precision", "fp32"), "fp32")):
        answer = run_cli("evaluate", "--ckpt", run, "--device", "cpu", *more, "--runs-dir", tmp_path, "--json")
        assert json.loads((answer.run_dir / "environment.json").read_text())["precision"] == precision


def test_tta_is_reported_next_to_the_metrics(train_run: CliResult, evaluate_run: CliResult, tmp_path: Path) -> None:
    options = ("--ckpt", train_run.run_dir, "--tta", "flip", "--runs-dir", tmp_path)
    evaluation = run_cli("evaluate", *options, "--json").result
    assert evaluation["accuracy"] == evaluate_run.result["accuracy"]
    assert evaluation["tta"]["views"] == "flip"
    assert evaluation["tta"]["loss"] != evaluation["loss"]
    assert {"accuracy", "accuracy_ci95", "top5_accuracy", "loss", "ece", "macro"} < evaluation["tta"].keys()
    plain, flip = (f"{100 * accuracy:.2f}" for accuracy in (evaluation["accuracy"], evaluation["tta"]["accuracy"]))
    assert ("accuracy", plain, "%", flip, "%") in logged(Path(evaluation["run_dir"]))


def logged(run: Path) -> set[tuple[str, ...]]:
    """The words of each line of a run's log, after its date and time."""
    return {tuple(line.split()[2:]) for line in (run / "log.txt").read_text().splitlines()}


def test_the_table_the_object_and_the_files_have_the_same_values(evaluate_run: CliResult) -> None:
    evaluation, run = evaluate_run.result, evaluate_run.run_dir
    lines = logged(run)
    rows = [*evaluation["per_class"], {"name": "macro average", **evaluation["macro"], "support": 100}]
    for row in rows:
        shares = [f"{100 * row[key]:.2f}" for key in ("precision", "recall", "f1")]
        assert (*row["name"].split(), *shares, str(row["support"])) in lines
    for pair in evaluation["most_confused"][:5]:
        assert (pair["actual"], pair["predicted"], str(pair["count"]), f"{100 * pair['fraction']:.1f}") in lines
    low, high = evaluation["accuracy_ci95"]
    assert low < evaluation["accuracy"] < high
    assert ("95", "%", "interval", f"{100 * low:.2f}", "to", f"{100 * high:.2f}", "%") in lines
    assert ("top-5", "accuracy", f"{100 * evaluation['top5_accuracy']:.2f}", "%") in lines
    for row, own in zip(read_rows(run / "per_class.csv"), evaluation["per_class"], strict=True):
        assert row["name"] == own["name"]
        assert [float(row[key]) for key in ("precision", "recall", "f1")] == [
            own["precision"],
            own["recall"],
            own["f1"],
        ]
        assert [float(row["recall_low"]), float(row["recall_high"])] == own["recall_ci95"]


def test_misclassified_images_are_listed_with_the_most_confident_first(
    evaluate_run: CliResult,
) -> None:
    predictions = read_rows(evaluate_run.run_dir / "predictions.csv")
    listed = read_rows(evaluate_run.run_dir / "misclassified.csv")
    wrong = [row for row in predictions if row["actual"] != row["predicted"]]
    confidences = [float(row["p_predicted"]) for row in listed]
    assert confidences == sorted(confidences, reverse=True)
    assert {row["index"] for row in listed} == {row["index"] for row in wrong}
    assert evaluate_run.result["num_misclassified"] == len(listed) == round(100 * (1 - evaluate_run.result["accuracy"]))
    assert len(evaluate_run.result["misclassified"]) == min(len(listed), 25)
    for row, own in zip(listed, evaluate_run.result["misclassified"], strict=False):
        assert {key: str(value) for key, value in own.items()} == row
        prediction = predictions[int(row["index"])]
        assert (prediction["file"], prediction["loss"]) == (row["file"], row["loss"])
        assert (row["p_actual"], row["p_predicted"]) == (
            prediction[f"p_{row['actual']}"],
            prediction[f"p_{row['predicted']}"],
        )


def write_shapes(folder: Path, names: tuple[str, ...]) -> Path:
    """Write the test images of these classes to a folder, named by their index among the test images."""
    from PIL import Image

    data = load_dataset("shapes", limit_test=100)
    for i, (image_HWC, label) in enumerate(zip(data.test.images_NHWC, data.test.labels_N, strict=True)):
        for part in ("train", "test"):
            place = folder / part / data.class_names[label]
            if place.name in names:
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image_HWC).save(place / f"{i:03d}.png")
    return folder


@pytest.mark.parametrize("names", [("arrow", "circle", "ring"), ()])
def test_classes_of_other_data_are_matched_by_name(
    names: tuple[str, ...], evaluate_run: CliResult, train_run: CliResult, tmp_path: Path
) -> None:
    classes = [row["name"] for row in evaluate_run.result["per_class"]]
    assert classes != sorted(classes)  # a folder's classes stand in another order than the network's
    folder = write_shapes(tmp_path / "images", names or tuple(classes))
    answer = run_cli(
        "evaluate", "--ckpt", train_run.run_dir, "--data", folder, "--runs-dir", tmp_path / "runs", "--json"
    )
    evaluation = answer.result
    assert [row["name"] for row in evaluation["per_class"]] == classes
    assert evaluation["num_images"] == 2 * (10 * len(names) or 100)  # those in train/ and those in test/
    assert evaluation["evaluated"] == "all"
    assert {row["name"] for row in evaluation["per_class"] if row["support"]} == set(names or classes)
    assert ("no test images of 7 of the network's classes" in answer.err) == bool(names)
    originals = read_rows(evaluate_run.run_dir / "predictions.csv")
    for row in read_rows(answer.run_dir / "predictions.csv"):
        original = originals[int(Path(row["file"]).stem)]
        assert (row["actual"], row["predicted"]) == (original["actual"], original["predicted"])
        assert float(row["loss"]) == pytest.approx(float(original["loss"]), rel=0.02)  # bf16 in other batches
    if not names:
        assert evaluation["accuracy"] == evaluate_run.result["accuracy"]


# --- gradcam ---


def gradcam(train_run: CliResult, tmp_path: Path, *options: object) -> dict[str, Any]:
    return run_cli("gradcam", "--ckpt", train_run.run_dir, *options, "--runs-dir", tmp_path, "--json").result


def test_gradcam_looks_at_mistakes_unless_told_else(
    train_run: CliResult, gradcam_run: CliResult, tmp_path: Path
) -> None:
    images = gradcam_run.result["images"]
    assert len(images) == 4
    for image in images:
        assert {"index", "actual", "predicted", "p_actual", "p_predicted"} <= image.keys()
        assert image["actual"] != image["predicted"]
        assert 0 <= image["p_actual"] <= image["p_predicted"] <= 1
    correct = gradcam(train_run, tmp_path, "--select", "correct", "--count", 3)["images"]
    assert correct
    assert all(image["actual"] == image["predicted"] for image in correct)


def test_gradcam_agrees_with_evaluate_about_the_images_it_is_asked_for(
    train_run: CliResult, evaluate_run: CliResult, tmp_path: Path
) -> None:
    images = gradcam(train_run, tmp_path, "--select", "7,3", "--class", "predicted")["images"]
    rows = read_rows(evaluate_run.run_dir / "predictions.csv")
    assert [image["index"] for image in images] == [7, 3]
    for image in images:
        row = rows[image["index"]]
        assert (image["actual"], image["predicted"]) == (row["actual"], row["predicted"])
        assert image["p_predicted"] == pytest.approx(float(row[f"p_{row['predicted']}"]), abs=1e-6)


@pytest.mark.parametrize("repeated", [False, True])
def test_gradcam_takes_own_images(repeated: bool, train_run: CliResult, tmp_path: Path) -> None:
    from PIL import Image

    files = [tmp_path / "a.png", tmp_path / "b.JPG"]
    Image.new("RGB", (64, 48), (200, 30, 30)).save(files[0])
    Image.new("L", (32, 32), 128).save(files[1])
    named = ("--images", files[0], "--images", files[1]) if repeated else ("--images", *files)
    images = gradcam(train_run, tmp_path / "runs", *named, "--class", "circle")["images"]
    assert [image["file"] for image in images] == [str(file) for file in files]
    assert all(image["actual"] is None and image["p_actual"] is None for image in images)


@pytest.mark.parametrize("method", ["gradcam++", "hirescam", "layercam", "xgradcam"])
def test_every_method_draws(method: str, train_run: CliResult, tmp_path: Path) -> None:
    result = gradcam(train_run, tmp_path, "--method", method, "--layer", "layer2", "--count", 1)
    assert Path(result["figures"][0]).stat().st_size > 5000
    assert (result["method"], result["layer"]) == (method, "layer2")


def test_gradcam_draws_the_difference_of_its_maps_on_request(train_run: CliResult, tmp_path: Path) -> None:
    from PIL import Image

    widths = []
    for options in ((), ("--difference",)):
        with Image.open(gradcam(train_run, tmp_path, "--count", 4, *options)["figures"][0]) as page:
            widths.append(page.width)
    assert widths[0] < widths[1]  # one more tile for each image


def test_gradcam_reports_the_faithfulness_of_its_maps(
    train_run: CliResult, gradcam_run: CliResult, tmp_path: Path
) -> None:
    scores = gradcam_run.result["faithfulness"]
    assert list(scores) == ["predicted", "actual"]
    for of_class in scores.values():
        assert (of_class["num_images"], of_class["num_scored"]) == (4, 4)
        names = [name for name in of_class if not name.startswith("num_")]
        assert len(names) == 9  # `shapes` has masks
        assert all(0 <= of_class[name] <= 1 for name in names)
    assert "pointing game" in gradcam_run.err
    again = gradcam(train_run, tmp_path, "--count", 4)
    assert again["faithfulness"] == scores
    none = gradcam(train_run, tmp_path, "--select", "0", "--class", "circle", "--limit-test", 10)
    assert list(none["faithfulness"]) == ["circle"]


def test_scores_of_own_images_need_no_masks(train_run: CliResult, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "a.png")
    scores = gradcam(train_run, tmp_path / "runs", "--images", tmp_path / "a.png")["faithfulness"]["predicted"]
    assert scores["deletion"] is not None
    assert scores["pointing"] is None and scores["energy_on_object"] is None


def test_gradcam_lists_the_layers_that_it_takes_and_writes_nothing(train_run: CliResult, tmp_path: Path) -> None:
    listed = gradcam(train_run, tmp_path / "runs", "--list-layers")
    assert not (tmp_path / "runs").exists()
    layers = {row["name"]: (row["height"], row["width"]) for row in listed["layers"]}
    assert layers["prep"] == (32, 32) and layers["layer3.res"] == (4, 4)
    assert listed["layer"] in layers
    answer = run_cli("gradcam", "--ckpt", train_run.run_dir, "--list-layers")
    assert all(name in answer.out for name in layers)
    averaged = gradcam(train_run, tmp_path, "--layer", "layer2,layer3.res", "--count", 1)
    assert averaged["layer"] == "layer2,layer3.res"


def test_maps_and_overlays_are_written_on_request(train_run: CliResult, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image
    from safetensors.numpy import load_file

    result = gradcam(train_run, tmp_path, "--select", "7,3", "--save-maps", "--save-overlays")
    maps = load_file(result["maps"])
    assert maps["index"].tolist() == [7, 3]
    assert all(maps[name].shape == (2, 32, 32) and maps[name].min() >= 0 for name in ("predicted", "actual"))
    for number, image in enumerate(result["images"]):
        no_evidence = [name for name in ("predicted", "actual") if not np.any(maps[name][number])]
        assert image["no_evidence"] == no_evidence
    assert [Path(path).name for path in result["overlays"]] == [
        f"overlay-{index}-{name}.png" for index in (7, 3) for name in ("predicted", "actual")
    ]
    assert all(Image.open(path).size == (512, 512) for path in result["overlays"])


def test_maps_of_own_images_cover_the_complete_image(train_run: CliResult, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (1200, 600), (200, 30, 30)).save(tmp_path / "a.jpg")
    result = gradcam(train_run, tmp_path / "runs", "--images", tmp_path / "a.jpg", "--class", "ring", "--save-overlays")
    assert [Image.open(path).size for path in result["overlays"]] == [(512, 256)]
    assert gradcam(train_run, tmp_path / "runs", "--count", 1)["overlays"] is None


# --- as a process ---


def test_python_m_scsuite_prints_one_object_and_only_that(tmp_path: Path) -> None:
    answer = run_cli_process("zigzag", "--step-size", 2, "--json", "--runs-dir", tmp_path)
    assert answer.result["command"] == "zigzag"
    assert "Learning-rate curve" in answer.err


def test_a_closed_pipe_does_not_end_the_program(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        f"{sys.executable} -m scsuite zigzag --step-size 2 --runs-dir {tmp_path} | head -0; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=True, timeout=60,
        env=child_environment(LANG="C", COLUMNS="20", NO_COLOR="1"),
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert (next(tmp_path.iterdir()) / "result.json").exists()


def test_data_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSUITE_DATA", "shapes")
    options = ("--limit-train", 64, "--limit-test", 10, "--width", 0.05, "--bs", 32, "--workers", 0, "--steps", 10)
    answer = run_cli("lr-range", *options, "--runs-dir", tmp_path, "--json")
    assert yaml.safe_load((answer.run_dir / "config.yaml").read_text())["data"] == "shapes"
