"""`scsuite predict`: the class and the probability of each image in files, folders and archives."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scsuite.cli.console import Terminal
from scsuite.cli.exit_codes import print_error
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.output_files import check_different_files, check_output_path, writing_to
from scsuite.cli.predict_display import print_report, write_predictions
from scsuite.cli.run_output import relative_path
from scsuite.cli.runs import load_trained_model
from scsuite.core.config import PredictConfig
from scsuite.core.errors import InputError, UsageError

if TYPE_CHECKING:
    from scsuite.core.evaluation.evaluate import TrainedModel
    from scsuite.core.evaluation.predict import InputReport, Prediction
    from scsuite.core.runs.results import PredictResult

SUFFIXES = (".csv", ".json")
_PROGRESS_EVERY = 100  # images


@options(PredictConfig)
def predict(config: PredictConfig, output: OutputOptions) -> None:
    """Classify images without labels: files, folders, archives. Makes no run directory; --out writes a file."""
    from scsuite.core.evaluation.predict import InputReport, check_paths, check_topk
    from scsuite.core.runs.results import PredictResult

    start_time = time.perf_counter()
    terminal = Terminal(output)
    paths = [str(Path(path).absolute()) for path in check_paths(config.paths)]
    _check_out(config.out, paths)
    trained = load_trained_model(config, terminal)
    check_topk(config.topk, len(trained.class_names))
    fit = config.fit or trained.data_config.fit
    terminal.attach_run(None)
    report = InputReport()
    predictions = _predict(config, fit, trained, paths, report, terminal)
    result = PredictResult(
        warnings=tuple(terminal.warnings),
        predictions=predictions,
        unreadable=[{"file": file, "reason": reason} for file, reason in report.unreadable],
        fit=fit,
        tta=config.tta,
        out=None if config.out is None else str(Path(config.out).absolute()),
        checkpoint=trained.path,
        error=None,
    )
    error = _unreadable_error(result) if result.unreadable else None
    if error is not None:
        parts = {name: str(getattr(error, name)) for name in ("what", "where", "expected", "found", "hint")}
        result = replace(result, status="failed", error=parts, exit_code=error.exit_code)
    result = replace(result, seconds=time.perf_counter() - start_time, **terminal.outcome.facts)
    if result.out is not None:
        with writing_to("--out"):
            write_predictions(Path(result.out), result, config.topk)
    report.non_images = list(map(relative_path, report.non_images))
    print_report(terminal, result, report.notes())
    terminal.print_json(result.to_dict())
    if error is not None:
        print_error(f"error: {error}")
        raise typer.Exit(error.exit_code)


def _check_out(out: str | None, paths: list[str]) -> None:
    """Raise UsageError for an --out of another kind or among the inputs, and OutputError if it cannot be written."""
    if out is None:
        return
    hint = "Choose another name."
    if Path(out).suffix.lower() not in SUFFIXES:
        raise UsageError("option", "--out", expected=" or ".join(f"FILE{s}" for s in SUFFIXES), found=out, hint=hint)
    check_output_path("--out", out)
    check_different_files("--out", out, "a file that is not read", paths)


def _predict(
    config: PredictConfig, fit: str, trained: "TrainedModel", paths: list[str], report: "InputReport",
    terminal: Terminal,
) -> "list[Prediction]":  # fmt: skip
    from scsuite.core.evaluation.predict import Classifier, predict_files

    classifier = Classifier(trained.model, trained.mean, trained.std, trained.class_names, fit, trained.path)
    classifier.to(trained.device.device)
    predictions = []
    with terminal.progress_bar() as progress:
        rows = predict_files(
            classifier, paths, report, topk=config.topk, tta=config.tta, device=trained.device
        )  # fmt: skip
        for row in rows:
            predictions.append(row)
            if len(predictions) % _PROGRESS_EVERY == 0:
                progress("Predicting", len(predictions), None)
    return predictions


def _unreadable_error(result: "PredictResult") -> InputError:
    first, num_others = result.unreadable[0], len(result.unreadable) - 1
    others = f", and {num_others:,} other file{'s' * (num_others > 1)} that cannot be read" if num_others else ""
    num_done = len(result.predictions)
    done = f"The other {num_done:,} images were predicted." if num_done > 1 else "The other image was predicted."
    return InputError(
        "image", first["file"], expected="a complete image", found=f"{first['reason']}{others}",
        hint=f"{done if num_done else ''} Replace or remove what cannot be read.".strip(),
    )  # fmt: skip
