"""The page that `scsuite train` writes at its end. In: a run directory and its result. Out: report.html."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from scsuite.cli.console import Terminal
from scsuite.cli.run_output import log_files
from scsuite.core.errors import one_line

if TYPE_CHECKING:
    from scsuite.core.runs.results import TrainResult
    from scsuite.core.runs.rundir import RunDir
    from scsuite.core.training.seeds import SeedsResult


def write_page(terminal: Terminal, run: "RunDir", result: "TrainResult") -> str | None:
    """Write report.html and return its path; a failure is a warning, since the training is complete without it."""
    from scsuite.core.runs.train_summary import read_training
    from scsuite.report.page import training_page

    return _write(
        terminal, run, lambda: training_page(read_training(run.path, result=result.to_dict()), redraw=False)
    )  # fmt: skip


def write_group_page(terminal: Terminal, group: "RunDir", result: "SeedsResult") -> "SeedsResult":
    """Do the same for the trainings of --seeds; return their result with the page and the warnings of the command."""
    from scsuite.core.runs.comparison import compare
    from scsuite.core.runs.find_trainings import find_trainings
    from scsuite.core.runs.summary import read_run
    from scsuite.report.page import comparison_page

    def render() -> bytes:
        trainings = find_trainings([group.path])
        complete = replace(result, warnings=(*terminal.warnings, *result.warnings))
        return comparison_page(trainings, compare(trainings), read_run(group.path, complete.to_dict()))

    page = _write(terminal, group, render)
    log_files(terminal, group, ("report.html",), ())
    return replace(result, page=page, warnings=(*terminal.warnings, *result.warnings))


def _write(terminal: Terminal, run: "RunDir", render: Callable[[], bytes]) -> str | None:
    from scsuite.core.files import write_atomic

    path = run.path / "report.html"
    try:
        write_atomic(path, render())
    except Exception as error:  # whatever it is, the weights and the result come next
        terminal.log_warning(f"report.html was not written: {one_line(error)}")
        return None
    return str(path)
