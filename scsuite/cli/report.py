"""`scsuite report`: one HTML page of a training, or of several side by side, to hand in or to send."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsuite.cli.console import Terminal
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.output_files import check_different_files, check_output_path, writing_to
from scsuite.cli.run_output import log_run, relative_path
from scsuite.cli.runs import create_run, write_result
from scsuite.core.config import ReportConfig
from scsuite.core.errors import UsageError

if TYPE_CHECKING:
    from scsuite.core.runs.comparison import Comparison
    from scsuite.core.runs.train_summary import TrainSummary


@options(ReportConfig)
def report(config: ReportConfig, output: OutputOptions) -> None:
    """Make one HTML page of a training, or of several side by side. It holds everything and loads nothing."""
    from scsuite.core.files import make_parent, write_atomic
    from scsuite.core.runs.comparison import ReportResult, compare
    from scsuite.core.runs.find_trainings import common_group, find_trainings
    from scsuite.report.page import comparison_page, training_page

    start_time = time.perf_counter()
    terminal = Terminal(output)
    if not config.runs:
        raise UsageError(
            "command line", "scsuite report", expected="one RUN or more", found="none",
            hint="Name the run directories of trainings: scsuite report runs/RUN.",
        )  # fmt: skip
    check_output_path("--out", config.out)
    trainings = find_trainings([Path(run) for run in config.runs])
    check_different_files("--out", config.out, "no file of the runs", _files_of(trainings))
    comparison = compare(trainings)
    # Before the run directory: nothing is left if this fails.
    if len(trainings) == 1:
        page, name = training_page(trainings[0]), trainings[0].run.path.name
    else:
        group = common_group(trainings)
        page = comparison_page(trainings, comparison, group)
        name = f"{len(trainings)}-trainings" if group is None else group.path.name
    with create_run(output, "report", name, config, terminal) as run:
        paths = [run.path / "report.html", *([Path(config.out).absolute()] if config.out else [])]
        for path, flag in zip(paths, ("--runs-dir", "--out"), strict=False):
            with writing_to(flag):
                make_parent(path)
                write_atomic(path, page)
        _log_trainings(terminal, trainings, comparison)
        log_run(terminal, run)
        terminal.log_line(f"page      {relative_path(paths[-1])} ({len(page) / 1e6:.1f} MB)")
        result = ReportResult(
            page=str(paths[0]),
            trainings=[training_row(training) for training in trainings],
            groups=comparison.group_rows(),
            differences=comparison.difference_rows(),
        )
        write_result(run, terminal, result, start_time)


def _files_of(trainings: "Sequence[TrainSummary]") -> list[Path]:
    """Return the files of the trainings and of the runs that belong to them, except for pages."""
    runs = [
        run for training in trainings
        for run in (training.run, training.lr_range, training.evaluation, training.gradcam, *training.other_evaluations)
    ]  # fmt: skip
    return [path for run in runs if run is not None for path in run.path.iterdir() if path.suffix != ".html"]


def training_row(training: "TrainSummary") -> dict[str, Any]:
    """Return a training as plain values for result.json."""
    return {
        "run_dir": str(training.run.path),
        "status": training.run.status,
        "seed": training.seed,
        "epochs": len(training.epochs),
        "test_accuracy": training.accuracy if training.is_complete else None,
        "accuracy_ci95": None if training.accuracy_ci95 is None else list(training.accuracy_ci95),
        "lr_range": None if training.lr_range is None else str(training.lr_range.path),
        "evaluate": None if training.evaluation is None else str(training.evaluation.path),
        "gradcam": None if training.gradcam is None else str(training.gradcam.path),
    }


def _log_trainings(terminal: Terminal, trainings: "Sequence[TrainSummary]", comparison: "Comparison") -> None:
    """Print what the page is of: the runs that belong to one training, or the mean of each group."""
    from scsuite.report.formatting import percent

    if len(trainings) > 1:
        for group in comparison.groups:
            spread = "" if group.std is None else f", SD {percent(group.std)}"
            num_seeds = f"{len(group.seeds)} seed{'' if len(group.seeds) == 1 else 's'}"
            terminal.log_line(f"group {group.label:<4}mean {percent(group.mean)}{spread}, {num_seeds}")
        return
    training = trainings[0]
    for label, part in (
        ("lr-range", training.lr_range), ("evaluate", training.evaluation), ("gradcam", training.gradcam)
    ):  # fmt: skip
        missing = "in the training" if label == "lr-range" and training.has_own_range_test else "none found"
        terminal.log_line(f"{label:<10}{missing if part is None else relative_path(part.path)}")
