"""What Lightning's range test suggests on the fixed losses of test_rivals.py, from Lightning itself.

Lightning brings some 40 MB of packages, so it is no part of the dev extra; in an environment that has it too:
`python -m tests.studies.record_lightning`, from the repository root. Out: lightning.json beside this file.
"""

import json
import tempfile
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

from tests.studies.test_rivals import CURVES, LR_END, LR_START, RECORD


class Scripted(lightning.LightningModule):  # type: ignore[misc, unused-ignore]
    """A network whose losses are given."""

    def __init__(self, losses: Iterator[float]) -> None:
        super().__init__()
        self.lr, self.losses = LR_START, losses
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))  # so that losses keep their last digits

    def training_step(self, *_batch: Any) -> Any:
        """The next loss, on a graph that leads to the weight."""
        return 0 * self.weight + next(self.losses)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any will do."""
        return torch.optim.SGD(self.parameters())


def suggestion(losses: list[float], mode: str) -> dict[str, Any]:
    """The rates that Lightning walked, and the step and the rate that it suggests."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
            enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        data: DataLoader[Any] = DataLoader(torch.zeros(len(losses), 1))  # type: ignore[arg-type]
        found = Tuner(trainer).lr_find(
            Scripted(iter(losses)), data, min_lr=LR_START, max_lr=LR_END, num_training=len(losses), mode=mode,
        )  # fmt: skip
    lr = found.suggestion()
    return {"steps": len(found.results["loss"]), "step": found.results["lr"].index(lr), "lrs": found.results["lr"]}


def main() -> None:
    """Ask for each curve and both sweeps."""
    modes = {"exp": "exponential", "linear": "linear"}
    answers = {
        f"{name} {sweep}": suggestion(losses, mode) for name, losses in CURVES.items() for sweep, mode in modes.items()
    }
    RECORD.write_text(json.dumps({"lightning": lightning.__version__, "answers": answers}) + "\n")


if __name__ == "__main__":
    main()
