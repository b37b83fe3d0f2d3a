"""`scsuite evaluate`: how good a trained network is, class by class, and which images it got wrong."""

import time
from typing import TYPE_CHECKING, Any

from scsuite.cli.begin import create_run, data_facts, finish, machine_facts, say_figures
from scsuite.cli.options import Output, options
from scsuite.cli.terminal import Terminal
from scsuite.cli.trained import load_test_data, load_trained
from scsuite.core.config import EvaluateConfig

if TYPE_CHECKING:
    from pathlib import Path

    from scsuite.core.dataset import Split
    from scsuite.core.metrics import Evaluation
    from scsuite.core.rundir import RunDir

NUM_CONFUSED = 5  # pairs in the table


@options(EvaluateConfig)
def evaluate(config: EvaluateConfig, output: Output) -> None:
    """Evaluate a trained network on the test images: accuracy, classes, confusion, calibration, mistakes."""
    from scsuite.report import tables

    begin = time.perf_counter()
    terminal = Terminal(output)
    trained = load_trained(config, terminal)
    data = load_test_data(config, trained, terminal)
    seen = trained.evaluate(data.test)  # before there is a run: a network without finite answers leaves none
    tta = None if config.tta == "none" else trained.evaluate(data.test, config.tta)
    facts = {**machine_facts(trained.arithmetic), "data": data_facts(data), "checkpoint": trained.path}
    with create_run(output, "evaluate", data.name, config, terminal, **facts) as run:
        write_predictions(run, data.test, seen)
        paths = draw_evaluation(run, data.test, seen, config.misclassified)
        shown = None if tta is None else (config.tta, tta.accuracy)
        terminal.print(
            tables.evaluation(
                name=data.name, num_images=seen.num_images, accuracy=seen.accuracy, loss=seen.loss,
                ece=seen.calibration.ece, tta=shown,
            )
        )  # fmt: skip
        terminal.print(tables.per_class([vars(row) for row in seen.per_class()]))
        if pairs := seen.confused(NUM_CONFUSED):
            terminal.print(tables.confused(pairs))
        say_figures(terminal, *paths)
        result: dict[str, Any] = {
            "command": "evaluate",
            "run_dir": str(run.path),
            **seen.to_dict(),
            "tta": None if tta is None else {"views": config.tta, "accuracy": tta.accuracy, "loss": tta.loss},
            "data": data.name,
            "checkpoint": trained.path,
            "figures": [str(path) for path in paths],
        }
        finish(run, terminal, result, begin)


def write_predictions(run: "RunDir", test: "Split", seen: "Evaluation") -> None:
    """predictions.csv: an image a row, with every class's probability."""
    from scsuite.core.files import write_csv

    names = seen.class_names
    header = ("index", "file", "actual", "predicted", "loss", *(f"p_{name}" for name in names))
    rows = (
        (i, test.files[i], names[seen.labels_N[i]], names[seen.predicted_N[i]], seen.losses_N[i], *probabilities)
        for i, probabilities in enumerate(seen.probabilities_NK.tolist())
    )
    write_csv(run.path / "predictions.csv", header, rows)


def draw_evaluation(run: "RunDir", test: "Split", seen: "Evaluation", num_misclassified: int) -> "list[Path]":
    """Confusion matrix, reliability diagram, and the most confident mistakes; returns the paths."""
    from scsuite.report import figures

    names, bins = seen.class_names, seen.calibration
    paths = [run.figure(name) for name in ("confusion", "reliability", "misclassified")]
    figures.confusion(paths[0], matrix_KK=seen.confusion_KK, class_names=names)
    figures.reliability(
        paths[1], confidence_B=bins.confidence_B.tolist(), accuracy_B=bins.accuracy_B.tolist(),
        count_B=bins.count_B.tolist(), ece=bins.ece,
    )  # fmt: skip
    wrong = seen.misclassified[:num_misclassified]
    figures.misclassified(
        test.images_NHWC[wrong],
        paths[2],
        actual=[names[i] for i in seen.labels_N[wrong]],
        predicted=[names[i] for i in seen.predicted_N[wrong]],
        confidence=seen.confidence_N[wrong].tolist(),
        total=len(seen.misclassified),
    )
    return paths
