"""The page that `scsuite train` writes at its end. In: a run directory and its result. Out: report.html."""

from typing import TYPE_CHECKING

from scsuite.cli.console import Terminal
from scsuite.core.errors import one_line

if TYPE_CHECKING:
    from scsuite.core.runs.results import TrainResult
    from scsuite.core.runs.rundir import RunDir


def write_page(terminal: Terminal, run: "RunDir", result: "TrainResult") -> str | None:
    """Write report.html and return its path; a failure is a warning, since the training is complete without it."""
    from scsuite.core.files import write_atomic
    from scsuite.core.runs.train_summary import read_training
    from scsuite.report.page import training_page

    path = run.path / "report.html"
    try:
        write_atomic(path, training_page(read_training(run.path, result=result.to_dict()), redraw=False))
    except Exception as error:  # whatever it is, the weights and the result come next
        terminal.log_warning(f"report.html was not written: {one_line(error)}")
        return None
    return str(path)
