"""`scsuite evaluate`: how accurate a trained network is, class by class, and which images it misclassifies."""

import time
from typing import TYPE_CHECKING, Any

from scsuite.cli.console import Terminal
from scsuite.cli.evaluation_data import evaluated_images, load_evaluation_data
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.run_output import log_files, log_next, log_run, relative_path
from scsuite.cli.runs import create_run, load_trained_model, write_result
from scsuite.core.config import EvaluateConfig

if TYPE_CHECKING:
    from pathlib import Path

    from scsuite.core.dataset import Split
    from scsuite.core.evaluation import Evaluation
    from scsuite.core.runs.results import EvaluateResult
    from scsuite.core.runs.rundir import RunDir

NUM_ROWS_SHOWN = 5  # confused pairs and mistakes on the terminal
CSV_FILES = ("predictions.csv", "misclassified.csv", "per_class.csv")


@options(EvaluateConfig)
def evaluate(config: EvaluateConfig, output: OutputOptions) -> None:
    """Evaluate a trained network on the test images. Accuracy, classes, confusion, calibration, mistakes."""
    from scsuite.core.model.network import temperature_of
    from scsuite.core.runs.environment import dataset_info, device_info
    from scsuite.core.runs.results import EvaluateResult
    from scsuite.report import formatting

    start_time = time.perf_counter()
    terminal = Terminal(output)
    trained = load_trained_model(config, terminal)
    data = load_evaluation_data("evaluate", config, trained, terminal)
    evaluation = trained.evaluate(data.test)  # before the run directory: nothing is left if this fails
    if (name := evaluation.only_predicted_class) is not None:
        fraction = formatting.percent(evaluation.accuracy)
        terminal.log_warning(f"every image is predicted as {name}; {fraction} of the images are of that class")
    tta = None if config.tta == "none" else trained.evaluate(data.test, config.tta)
    environment = {**device_info(trained.device), "data": dataset_info(data), "checkpoint": trained.path}
    with create_run(output, "evaluate", data.name, config, terminal, **environment) as run:
        mistakes = list_mistakes(data.test, evaluation)
        write_csv_files(run, data.test, evaluation, mistakes)
        footer = formatting.footer(run.path, data=data.name, seed=trained.seed, accuracy=evaluation.accuracy)
        paths = draw_evaluation(run, data.test, evaluation, config.misclassified, footer)
        result = EvaluateResult(
            warnings=tuple(terminal.warnings),
            figures=tuple(map(str, paths)),
            **evaluation.to_dict(),
            temperature=temperature_of(trained.model),
            num_misclassified=len(mistakes),
            misclassified=mistakes[: config.misclassified],
            tta=None if tta is None else {"views": config.tta, **tta.summary()},
            data=data.name,
            evaluated=evaluated_images(data),
            checkpoint=trained.path,
        )
        print_report(terminal, result)
        log_run(terminal, run)
        log_files(terminal, run, CSV_FILES, paths)
        write_result(run, terminal, result, start_time)
        data_options = () if config.data is None else ("--data", config.data)
        select = () if mistakes else ("--select", "uncertain")  # by default, gradcam explains the misclassified images
        log_next(terminal, "gradcam", "--ckpt", relative_path(config.ckpt), *data_options, *select)


def print_report(terminal: Terminal, result: "EvaluateResult") -> None:
    """Print the result as tables, the overall metrics last: that is what stays on the screen after 100 classes."""
    from scsuite.report import tables

    parts = [tables.per_class(result.per_class, result.macro)]
    if result.most_confused:
        parts.append(tables.confused_pairs(result.most_confused[:NUM_ROWS_SHOWN]))
    if result.misclassified:
        parts.append(tables.mistakes(result.misclassified[:NUM_ROWS_SHOWN]))
    terminal.log_table(tables.stack(*parts, tables.evaluation(result)))


def list_mistakes(test: "Split", evaluation: "Evaluation") -> list[dict[str, Any]]:
    """Return the misclassified images, the most confident first."""
    names = evaluation.class_names
    return [
        {
            "index": i,
            "file": test.files[i],
            "actual": names[evaluation.labels_N[i]],
            "predicted": names[evaluation.predicted_N[i]],
            "p_actual": float(evaluation.probabilities_NK[i, evaluation.labels_N[i]]),
            "p_predicted": float(evaluation.confidence_N[i]),
            "loss": float(evaluation.losses_N[i]),
        }
        for i in evaluation.misclassified.tolist()
    ]


def write_csv_files(run: "RunDir", test: "Split", evaluation: "Evaluation", mistakes: list[dict[str, Any]]) -> None:
    """Write predictions.csv (a row per image, with the probability of each class), misclassified.csv, per_class.csv."""
    from scsuite.core.runs.csv_files import write_csv

    names, labels_N, predicted_N = evaluation.class_names, evaluation.labels_N, evaluation.predicted_N
    rows = (
        (i, test.files[i], names[labels_N[i]], names[predicted_N[i]], evaluation.losses_N[i], *probabilities)
        for i, probabilities in enumerate(evaluation.probabilities_NK.tolist())
    )
    header = ("index", "file", "actual", "predicted", "loss", *(f"p_{name}" for name in names))
    write_csv(run.path / "predictions.csv", header, rows)
    header = ("index", "file", "actual", "predicted", "p_actual", "p_predicted", "loss")
    write_csv(run.path / "misclassified.csv", header, ([row[key] for key in header] for row in mistakes))
    header = ("name", "precision", "recall", "recall_low", "recall_high", "f1", "support")
    classes = (  # blank without images
        (c.name, c.precision, c.recall, *(c.recall_ci95 or (None, None)), c.f1, c.support)
        for c in evaluation.per_class()
    )
    write_csv(run.path / "per_class.csv", header, classes)


def draw_evaluation(
    run: "RunDir", test: "Split", evaluation: "Evaluation", num_misclassified: int, footer: str
) -> "list[Path]":
    """Draw confusion matrix, class accuracies, reliability diagram and most confident mistakes; return the paths."""
    from scsuite.report import figures

    drawn = {
        "confusion": figures.confusion(evaluation),
        "classes": figures.class_accuracy(evaluation),
        "reliability": figures.reliability(evaluation),
        "misclassified": figures.misclassified(evaluation, test, num_misclassified),
    }
    for name, figure in drawn.items():
        figures.save_figure(figure, run.figure_path(name), footer)
    return [run.figure_path(name) for name in drawn]
