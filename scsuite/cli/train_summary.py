"""What `scsuite train` prints about its result as a whole: the target, and the summary of several seeds.

In: a result. Out: lines, a table, and the exit code of a missed target.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scsuite.cli.console import Terminal
from scsuite.core.errors import ExitCode

if TYPE_CHECKING:
    from scsuite.core.runs.results import TrainResult
    from scsuite.core.training.seeds import SeedsResult


def log_target(terminal: Terminal, result: "TrainResult", accuracy: float) -> None:
    """Print whether the test accuracy after the last epoch is at least the target, and when it first was."""
    from scsuite.report.formatting import percent

    if result.target is None:
        return
    when = "no epoch reached it"
    if at := result.reached_at:
        when = f"first reached after epoch {at['epoch']}, {at['seconds']:.1f} s of training"
    verdict = "reached" if result.reached else "missed"
    text = f"{percent(result.target)} {verdict}: {percent(accuracy)} after the last epoch"
    terminal.log_line(f"target    {text}; {when}")
    set_exit_code(terminal, {"reached": result.reached})


def set_exit_code(terminal: Terminal, result: Mapping[str, Any]) -> None:
    """Let the program end with the exit code of a missed target if the result says so."""
    if result.get("reached") is False:
        terminal.outcome.exit_code = ExitCode.TARGET_MISSED


def log_seeds(terminal: Terminal, result: "SeedsResult") -> None:
    """Print the test accuracy of each seed, and their mean, standard deviation and minimum."""
    from scsuite.report import tables
    from scsuite.report.formatting import percent

    rows = {f"seed {row['seed']}": f"{percent(row['test_accuracy'])}  {row['seconds']:,.1f} s" for row in result.seeds}
    rows["mean"] = percent(result.mean)
    if result.std is not None:
        rows |= {"standard deviation": f"{percent(result.std)} (n - 1)", "minimum": percent(result.min)}
    terminal.log_table(tables.key_values(rows, title="Test accuracy after the last epoch"))
