"""What is known of the command that runs, for the JSON object of a command that fails or is stopped.

In: facts that the command records as it learns them, and the exception that ended it. Out: the object of --json, and
result.json in the run directories of the command.
"""

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scsuite.cli.streams import print_json_line
from scsuite.core.distributed import claim_first_failure, under_torchrun
from scsuite.core.errors import ExitCode, OutputError, ScsuiteError

if TYPE_CHECKING:
    from scsuite.core.runs.rundir import RunDir
    from scsuite.core.runs.unfinished import UnfinishedResult

STOPPED = {128 + signum: signum.name for signum in signal.Signals if signum.name in ("SIGHUP", "SIGINT", "SIGTERM")}


@dataclass
class Outcome:
    """The facts of one command; `known` holds fields of an `UnfinishedResult`."""

    command: str = ""
    json: bool = False
    start_time: float = field(default_factory=time.perf_counter)
    seed: int | None = None
    device: str | None = None
    run: "RunDir | None" = None
    warnings: list[str] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)
    is_printed: bool = False  # an object was printed
    exit_code: int = ExitCode.DONE  # of a command that ends without an exception

    @property
    def facts(self) -> dict[str, Any]:
        """What a result of any command has besides its own values."""
        return {"seed": self.seed, "device": self.device}

    def print_json(self, result: Mapping[str, Any]) -> None:
        """Print an object with the command's seed and device where --json asks for one; nothing after the first one."""
        if self.json and not self.is_printed:
            self.is_printed = True
            facts = {name: fact for name, fact in self.facts.items() if result.get(name) is None}
            print_json_line({**result, **facts})


def report_unfinished(outcome: Outcome, exit_code: int, error: ScsuiteError | None) -> None:
    """Write the result of a command that an exception ended to its run directory, and print it with --json."""
    is_stop = exit_code in STOPPED
    if exit_code == ExitCode.DONE or not _reports(is_stop):  # a reader that went away; another rank
        return
    result = _unfinished_result(outcome, exit_code, error)
    with contextlib.suppress(OSError, ScsuiteError):  # a full disk; the first error is the one that counts
        if outcome.run is not None and outcome.run.result() is None:
            outcome.run.write_result(result)
    with contextlib.suppress(OutputError):
        outcome.print_json(result.to_dict())


def _reports(is_stop: bool) -> bool:
    """Return whether this rank reports the end: of a stop, on which all agree, rank 0; of a failure the first one."""
    if is_stop:
        return not under_torchrun() or os.environ["RANK"] == "0"
    return claim_first_failure()


def _unfinished_result(outcome: Outcome, exit_code: int, error: ScsuiteError | None) -> "UnfinishedResult":
    from scsuite.core.runs.unfinished import UnfinishedResult, error_parts

    figures = () if outcome.run is None else sorted(map(str, outcome.run.path.glob("figures/*.png")))
    return UnfinishedResult(
        command=outcome.command,
        status="stopped" if exit_code in STOPPED else "failed",
        run_dir=None if outcome.run is None else str(outcome.run.path),
        seconds=time.perf_counter() - outcome.start_time,
        warnings=tuple(outcome.warnings),
        figures=tuple(figures),
        seed=outcome.seed,
        device=outcome.device,
        exit_code=exit_code,
        error=None if error is None else error_parts(error),
        signal=STOPPED.get(exit_code),
        **outcome.known,
    )
