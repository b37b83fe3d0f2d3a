"""Record what Lightning's range test suggests for the fixed losses of test_baselines.py.

In: the losses. Out: lightning.json in this folder.
Lightning installs about 40 MB of packages, so it is not in the dev extra. In an environment that has it:
`python -m tests.studies.record_lightning`, from the root of the repository.
"""

import json
import tempfile
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

from tests.studies.test_baselines import CURVES, LR_END, LR_START, RECORD


class ScriptedModule(lightning.LightningModule):  # type: ignore[misc, unused-ignore]
    """A module whose training losses are given."""

    def __init__(self, losses: Iterator[float]) -> None:
        super().__init__()
        self.lr, self.losses = LR_START, losses
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))  # double, so that losses stay exact

    def training_step(self, *_batch: Any) -> Any:
        """Return the next loss, connected to the weight."""
        return 0 * self.weight + next(self.losses)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return any optimizer."""
        return torch.optim.SGD(self.parameters())


def run_lightning(losses: list[float], mode: str) -> dict[str, Any]:
    """Return the learning rates of Lightning's range test, and the step that it suggests."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
            enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        data: DataLoader[Any] = DataLoader(torch.zeros(len(losses), 1))  # type: ignore[arg-type]
        finder = Tuner(trainer).lr_find(
            ScriptedModule(iter(losses)), data, min_lr=LR_START, max_lr=LR_END, num_training=len(losses), mode=mode,
        )  # fmt: skip
    lrs = finder.results["lr"]
    return {"steps": len(finder.results["loss"]), "step": lrs.index(finder.suggestion()), "lrs": lrs}


def main() -> None:
    """Record both modes for each curve."""
    modes = {"exp": "exponential", "linear": "linear"}
    answers = {
        f"{name} {curve}": run_lightning(losses, mode)
        for name, losses in CURVES.items()
        for curve, mode in modes.items()
    }
    RECORD.write_text(json.dumps({"lightning": lightning.__version__, "answers": answers}) + "\n")


if __name__ == "__main__":
    main()
