"""`scsuite evaluate`: how good a trained network is, class by class, and which images it got wrong."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scsuite.cli.begin import create_run, dataset_info, finish, device_info, log_figures
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.console import Terminal
from scsuite.cli.trained import load_test_data, load_trained
from scsuite.core.config import EvaluateConfig

if TYPE_CHECKING:
    from pathlib import Path

    from scsuite.core.dataset import Split
    from scsuite.core.evaluation.metrics import Evaluation
    from scsuite.core.runs.rundir import RunDir

NUM_CONFUSED = 10  # pairs in the result
NUM_SHOWN = 5  # of the confused pairs and of the mistakes, on the terminal


@options(EvaluateConfig)
def evaluate(config: EvaluateConfig, output: OutputOptions) -> None:
    """Evaluate a trained network on the test images: accuracy, classes, confusion, calibration, mistakes."""
    begin = time.perf_counter()
    terminal = Terminal(output)
    trained = load_trained(config, terminal)
    data = load_test_data(config, trained, terminal)
    seen = trained.evaluate(data.test)  # before there is a run: a network without finite answers leaves none
    tta = None if config.tta == "none" else trained.evaluate(data.test, config.tta)
    facts = {**device_info(trained.device), "data": dataset_info(data), "checkpoint": trained.path}
    with create_run(output, "evaluate", data.name, config, terminal, **facts) as run:
        mistakes = mistakes_of(data.test, seen)
        write_lists(run, data.test, seen, mistakes)
        paths = draw_evaluation(run, data.test, seen, config.misclassified)
        result: dict[str, Any] = {
            "command": "evaluate",
            "run_dir": str(run.path),
            **seen.to_dict(),
            "confused": [asdict(pair) for pair in seen.confused(NUM_CONFUSED)],
            "num_misclassified": len(mistakes),
            "misclassified": mistakes[: config.misclassified],
            "tta": None if tta is None else {"views": config.tta, **tta.overall()},
            "data": data.name,
            "checkpoint": trained.path,
            "figures": [str(path) for path in paths],
        }
        show(terminal, result)
        terminal.log_line(f"lists     {run.path}: predictions.csv, misclassified.csv, per_class.csv")
        log_figures(terminal, *paths)
        finish(run, terminal, result, begin)


def show(terminal: Terminal, result: dict[str, Any]) -> None:
    """The result as tables; the figures of the whole stand last, where the reader of a hundred classes still is."""
    from scsuite.report import tables

    parts = [tables.per_class(result["per_class"], result["macro"])]
    if result["confused"]:
        parts.append(tables.confused(result["confused"][:NUM_SHOWN]))
    if result["misclassified"]:
        parts.append(tables.mistakes(result["misclassified"][:NUM_SHOWN]))
    columns = {"plain": result}
    if tta := result["tta"]:
        columns[tta["views"]] = {**tta, "num_images": result["num_images"]}
    terminal.log_table(tables.stacked(*parts, tables.evaluation(result["data"], columns)))


def mistakes_of(test: "Split", seen: "Evaluation") -> list[dict[str, Any]]:
    """The misclassified images, the most confident first."""
    names = seen.class_names
    return [
        {
            "index": i,
            "file": test.files[i],
            "actual": names[seen.labels_N[i]],
            "predicted": names[seen.predicted_N[i]],
            "p_actual": float(seen.probabilities_NK[i, seen.labels_N[i]]),
            "p_predicted": float(seen.confidence_N[i]),
            "loss": float(seen.losses_N[i]),
        }
        for i in seen.misclassified.tolist()
    ]


def write_lists(run: "RunDir", test: "Split", seen: "Evaluation", mistakes: list[dict[str, Any]]) -> None:
    """predictions.csv: an image a row, with every class's probability; misclassified.csv; per_class.csv."""
    from scsuite.core.files import write_csv

    names, predicted_N = seen.class_names, seen.predicted_N
    rows = (
        (i, test.files[i], names[seen.labels_N[i]], names[predicted_N[i]], seen.losses_N[i], *probabilities)
        for i, probabilities in enumerate(seen.probabilities_NK.tolist())
    )
    header = ("index", "file", "actual", "predicted", "loss", *(f"p_{name}" for name in names))
    write_csv(run.path / "predictions.csv", header, rows)
    header = ("index", "file", "actual", "predicted", "p_actual", "p_predicted", "loss")
    write_csv(run.path / "misclassified.csv", header, ([row[key] for key in header] for row in mistakes))
    header = ("name", "precision", "recall", "recall_low", "recall_high", "f1", "support")
    classes = ((c.name, c.precision, c.recall, *c.recall_ci95, c.f1, c.support) for c in seen.per_class())
    write_csv(run.path / "per_class.csv", header, classes)


def draw_evaluation(run: "RunDir", test: "Split", seen: "Evaluation", num_misclassified: int) -> "list[Path]":
    """Confusion matrix, accuracy of the classes, reliability diagram, most confident mistakes; returns the paths."""
    from scsuite.report import figures

    names, bins, classes = seen.class_names, seen.calibration, seen.per_class()
    paths = [run.figure(name) for name in ("confusion", "classes", "reliability", "misclassified")]
    figures.confusion(paths[0], matrix_KK=seen.confusion_KK, class_names=names)
    figures.classes(
        paths[1],
        accuracy={row.name: row.recall for row in classes if row.support},
        interval={row.name: row.recall_ci95 for row in classes if row.support},
        mean=seen.macro().recall,
    )
    figures.reliability(
        paths[2], confidence_B=bins.confidence_B.tolist(), accuracy_B=bins.accuracy_B.tolist(),
        count_B=bins.count_B.tolist(), ece=bins.ece,
    )  # fmt: skip
    wrong = seen.misclassified[:num_misclassified]
    figures.misclassified(
        test.images_NHWC[wrong],
        paths[3],
        actual=[names[i] for i in seen.labels_N[wrong]],
        predicted=[names[i] for i in seen.predicted_N[wrong]],
        confidence=seen.confidence_N[wrong].tolist(),
        total=len(seen.misclassified),
    )
    return paths
