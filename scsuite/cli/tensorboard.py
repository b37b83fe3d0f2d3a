"""`train --tensorboard`: event files for TensorBoard in the run directory.

In: the results of steps and epochs. Out: `tensorboard/` in the run directory; the x axis is the step, from 0.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from scsuite.cli.console import Terminal
from scsuite.core.errors import UsageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from scsuite.core.runs.results import EpochResult, StepResult
    from scsuite.core.runs.rundir import RunDir
    from scsuite.core.training.trainer import Trainer

FOLDER = "tensorboard"
INSTALL = 'pip install "scsuite[tensorboard]"'

TensorboardOption = Annotated[
    bool | None,
    typer.Option(
        "--tensorboard", help="Write event files for TensorBoard into the run directory.", rich_help_panel="Output"
    ),
]


def check_installed() -> None:
    """Raise UsageError if the package tensorboard is not installed."""
    if not _is_installed():
        raise UsageError(
            "option", "--tensorboard", expected="the package tensorboard", found="none", hint=f"Run {INSTALL}."
        )


def _is_installed() -> bool:
    return find_spec("tensorboard") is not None


@dataclass(frozen=True)
class Events:
    """The callbacks of a training that write its events; without a writer they do nothing."""

    writer: "SummaryWriter | None"

    def on_step(self, step: "StepResult") -> None:
        """Write loss, learning rate and momentum."""
        self._write(step.step, {"train/loss": step.loss, "lr": step.lr, "momentum": step.momentum})

    def on_epoch(self, epoch: "EpochResult") -> None:
        """Write loss and accuracy of each split at the epoch's last step."""
        values: dict[str, float | None] = {"train/epoch_loss": epoch.train_loss, "train/accuracy": epoch.train_accuracy}
        for split in ("test", "val"):
            values |= {f"{split}/loss": epoch.eval_loss(split), f"{split}/accuracy": epoch.eval_accuracy(split)}
        self._write(epoch.step - 1, values)

    def _write(self, step: int, values: Mapping[str, float | None]) -> None:
        for tag, value in values.items():
            if self.writer is not None and value is not None:
                self.writer.add_scalar(tag, value, step)


@contextmanager
def open_events(run: "RunDir", trainer: "Trainer", terminal: Terminal, is_requested: bool) -> Iterator[Events]:
    """Yield the callbacks, which write if it is requested, or if the training that is resumed did so.

    TensorBoard then drops the events that a stopped training wrote after its checkpoint.
    """
    is_continued = not is_requested and (run.path / FOLDER).is_dir()
    if is_continued and not _is_installed():
        terminal.log_warning(f"no more events for TensorBoard: it is not installed; {INSTALL}")
    elif is_requested or is_continued:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(run.path / FOLDER), purge_step=trainer.state.step)
        try:
            yield Events(writer)
        finally:
            writer.close()
        return
    yield Events(None)
