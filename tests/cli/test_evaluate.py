"""`scsuite evaluate`: the metrics of the training again, the same values in table, object and files, other data."""

import json
from pathlib import Path

import pytest

from scsuite.core.dataset import load_dataset
from tests.cli.run_files import read_rows
from tests.run_cli import CliResult, run_cli
from tests.tiny_args import TINY_TRAIN_ARGS


def test_evaluate_repeats_the_final_metrics_of_the_training(train_run: CliResult, evaluate_run: CliResult) -> None:
    final, evaluation = train_run.result["final"], evaluate_run.result
    assert (evaluation["accuracy"], evaluation["loss"]) == (final["test_accuracy"], final["test_loss"])


@pytest.mark.usefixtures("no_figures")
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


@pytest.mark.usefixtures("no_figures")
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


@pytest.mark.usefixtures("no_figures")
def test_evaluate_uses_the_precision_of_the_run_unless_a_flag_overrides_it(tmp_path: Path) -> None:
    run = run_cli(*TINY_TRAIN_ARGS, "--epochs", 1, "--precision", "bf16", "--runs-dir", tmp_path, "--json").run_dir
    for more, precision in (((), "bf16"), (("--precision", "fp32"), "fp32")):
        answer = run_cli("evaluate", "--ckpt", run, "--device", "cpu", *more, "--runs-dir", tmp_path, "--json")
        assert json.loads((answer.run_dir / "environment.json").read_text())["precision"] == precision


@pytest.mark.usefixtures("no_figures")
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
