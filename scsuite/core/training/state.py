"""The position of a training, its checks, and what a checkpoint records of a training.

In: step results, or the values in a checkpoint. Out: a `TrainState`; tensors and metadata for a checkpoint.
"""

import reprlib
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scsuite import __version__
from scsuite.core.config import TrainConfig, is_finite_number
from scsuite.core.dataset import Dataset
from scsuite.core.model.checkpoint import OPTIMIZER_PREFIX, SCALER_PREFIX, network_metadata, own_network_metadata
from scsuite.core.model.network import ResNet3, temperature_of
from scsuite.core.runs.results import StepResult
from scsuite.core.training.optimizer import parameters_by_name
from scsuite.core.training.setup import TrainSetup


@dataclass(frozen=True)
class EpochTotals:
    """Sums over the steps of the current epoch; part of the state, so a stop inside an epoch loses none of them."""

    loss: float = 0.0
    num_correct: int = 0
    num_images: int = 0
    seconds: float = 0.0

    def add(self, step: StepResult) -> "EpochTotals":
        """Return the totals with one more step."""
        return EpochTotals(
            self.loss + step.loss * step.num_images,
            self.num_correct + step.num_correct,
            self.num_images + step.num_images,
            self.seconds + step.seconds,
        )


@dataclass(frozen=True)
class BestEpoch:
    """Best epoch so far and the split it was selected on. If that is the test split, its accuracy is biased upwards."""

    epoch: int
    accuracy: float
    selected_on: str


@dataclass
class TrainState:
    """The position of a run: steps done, totals of the current epoch, best epoch, images per second of every step."""

    step: int = 0
    totals: EpochTotals = field(default_factory=EpochTotals)
    best: BestEpoch | None = None
    images_per_second: list[float] = field(default_factory=list)

    @property
    def median_images_per_second(self) -> float | None:
        """Return the median speed over all steps, or None before the first."""
        return statistics.median(self.images_per_second) if self.images_per_second else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint; of the speeds only the median is kept, as one value."""
        median = self.median_images_per_second
        return {**asdict(self), "images_per_second": [] if median is None else [median]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainState":
        """Return the state that `to_dict` gave. Raises ValueError for values that it cannot have given."""
        try:
            best = None if values["best"] is None else BestEpoch(**values["best"])
            state = cls(values["step"], EpochTotals(**values["totals"]), best, list(values["images_per_second"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if asdict(state.totals) != values["totals"]:  # a missing field would get its default
            raise ValueError(f"totals {reprlib.repr(values['totals'])}")
        totals, best = state.totals, state.best or BestEpoch(0, 0.0, "")
        counts = {
            "step": state.step, "num_correct": totals.num_correct, "num_images": totals.num_images, "epoch": best.epoch,
        }  # fmt: skip
        numbers = {"loss": totals.loss, "seconds": totals.seconds, "accuracy": best.accuracy}
        numbers |= {f"images_per_second {index}": speed for index, speed in enumerate(state.images_per_second)}
        for name, value in (counts | numbers).items():
            if not is_finite_number(value) or value < 0 or (name in counts and type(value) is not int):
                raise ValueError(f"{name} {reprlib.repr(value)}")
        return state

    def validate(
        self, *, num_steps: int, steps_per_epoch: int, batch_size: int, num_images: int, eval_split: str
    ) -> None:
        """Raise ValueError unless a run of this size can be at this position."""
        epochs, steps = divmod(self.step, steps_per_epoch)
        images, best = self.totals.num_images, self.best
        if not 1 <= self.step <= num_steps:
            raise ValueError(f"step {self.step}")
        if images not in ((steps * batch_size,) if steps else (0, num_images)):
            raise ValueError(f"totals over {images} images at step {self.step}")
        if 0 in self.images_per_second:
            raise ValueError("a speed of 0")
        if self.totals.num_correct > images or (images and not self.totals.seconds):
            raise ValueError(f"{self.totals.num_correct} of {images} images correct in {self.totals.seconds} seconds")
        num_evaluated = epochs - (images > 0 and steps == 0)  # epochs
        if best is None and num_evaluated:
            raise ValueError(f"no best epoch of {num_evaluated}")
        if best and not (1 <= best.epoch <= num_evaluated and best.accuracy <= 1 and best.selected_on == eval_split):
            raise ValueError(
                f"best epoch {best.epoch} of {num_evaluated}, {best.accuracy} on {reprlib.repr(best.selected_on)}"
            )


def checkpoint_metadata(
    data: Dataset, config: TrainConfig, setup: TrainSetup, evaluated: nn.Module, state: TrainState | None
) -> dict[str, Any]:
    """Return network, classes, normalisation, data and configuration; with `state`, the position too.

    `evaluated` is the network that is evaluated, which may have averaged weights.
    """
    model, num_classes = setup.model, len(data.class_names)
    metadata = {
        "version": __version__,
        "network": network_metadata(model) if type(model) is ResNet3 else own_network_metadata(model, num_classes),
        "class_names": list(data.class_names),
        "mean": list(setup.mean),
        "std": list(setup.std),
        "temperature": temperature_of(evaluated),
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "precision": setup.device.precision,
        "world_size": setup.world.size,
        "policy": setup.policy,
        "augment_backend": setup.backend.name,
        "config": config.to_dict(),
    }
    return metadata if state is None else metadata | {"state": state.to_dict()}


def optimizer_tensors(setup: TrainSetup) -> dict[str, Tensor]:
    """Return the state of optimizer and gradient scaler, by the names that a checkpoint has for them."""
    names = list(parameters_by_name(setup.model, setup.optimizer))
    optimizer = {
        f"{OPTIMIZER_PREFIX}{key}.{names[index]}": torch.as_tensor(value)
        for index, values in setup.optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if value is not None
    }
    scaler = {SCALER_PREFIX + key: torch.tensor(value) for key, value in setup.scaler.state_dict().items()}
    return {**optimizer, **scaler}


def with_prefix(prefix: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network, with a prefix before their names."""
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}
