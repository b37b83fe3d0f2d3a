"""One full-size training with held-out images decides what costs no extra training.

    python -m tests.studies.held_out --data ARCHIVE [--out FOLDER] [--seed N] [--width W] [--limit-train N] ...

Candidates: averages of the weights over 0.5, 1, 2 and 3 epochs, kept side by side; each with batch norm statistics
recomputed on 10,000 augmented training images; and a temperature on the logits, for calibration. 5,000 training images
are held out; no test image is read. The defaults were an average over one epoch, its averaged statistics and no
temperature, which all candidates are compared with. A study that is stopped continues from the end of its last epoch,
in FOLDER/state.
Out: held_out.json and environments.json in FOLDER, and a table.
A averages.
"""

import argparse
import copy
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from scsuite.core.config import LrRangeConfig, TrainConfig
from scsuite.core.config.training import SMOOTHED_TEMPERATURE
from scsuite.core.dataset import Split, load_dataset, split_holdout
from scsuite.core.device import tune_process
from scsuite.core.evaluation.metrics import Evaluation, compute_metrics
from scsuite.core.lr_range.range_test import range_test
from scsuite.core.model.ema import EMA
from scsuite.core.model.network import GhostBatchNorm2d
from scsuite.core.training.trainer import Trainer
from tests.studies.trainings import append_environment

ROOT = Path(__file__).parents[2]
OUT = ROOT / "runs" / "reference" / "held-out"
TIME_CONSTANTS = (0.5, 1.0, 2.0, 3.0)  # of the averages, in epochs
DEFAULT = "average over 1 epoch"
NUM_STATISTICS_IMAGES = 10_000
NUM_EPOCH_IMAGES = 10  # images that `fit` evaluates after each epoch
MAX_TEMPERATURE = 4.0


@dataclass(frozen=True)
class Candidate:
    """A network on the held-out images, compared with the default: the gain and its standard error, as fractions."""

    name: str
    accuracy: float
    loss: float
    ece: float
    gain: float
    gain_error: float


@dataclass(frozen=True)
class Temperature:
    """A divisor of the logits, fitted to one half of the held-out images and measured on the other; means of both.

    `loss_default` and `ece_default` are those at the temperature that is the default since.
    """

    temperature: float
    loss_before: float
    loss: float
    ece_before: float
    ece: float
    loss_default: float
    ece_default: float


class SideBySideAverages:
    """Averages over several time constants, updated after each optimizer step and saved next to the trainer's state."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        steps_per_epoch = trainer.cycle.steps_per_epoch
        self.by_epochs = {epochs: EMA(trainer.raw_model, epochs * steps_per_epoch) for epochs in TIME_CONSTANTS}
        self.steps = itertools.count()
        # Not in `on_step`, which an accelerator calls some steps later.
        trainer.setup.optimizer.register_step_post_hook(self.update)

    def update(self, *_: Any) -> None:
        """Include the weights after a step in all averages."""
        step = next(self.steps)
        for average in self.by_epochs.values():
            average.update(self.trainer.raw_model, step)

    def save(self, folder: Path) -> None:
        """Write the trainer's state and the averages of the same step; the averages first, under the step's number."""
        step = self.trainer.state.step
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{epochs:g}.{name}": tensor.cpu().contiguous()
            for epochs, average in self.by_epochs.items()
            for name, tensor in average.model.state_dict().items()
        }
        save_file(tensors, folder / f"averages-{step:06d}.safetensors")
        self.trainer.save(folder / "trainer.safetensors")
        for path in folder.glob("averages-*.safetensors"):
            if path.name != f"averages-{step:06d}.safetensors":
                path.unlink()

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote, if it did."""
        if not (folder / "trainer.safetensors").exists():
            return
        self.trainer.resume(folder / "trainer.safetensors")
        step = self.trainer.state.step
        tensors = load_file(folder / f"averages-{step:06d}.safetensors")
        for epochs, average in self.by_epochs.items():
            prefix = f"{epochs:g}."
            average.model.load_state_dict({name: tensors[prefix + name] for name in average.model.state_dict()})
        self.steps = itertools.count(step)


def fit(trainer: Trainer, averages: SideBySideAverages, folder: Path) -> None:
    """Train to the end; the state is saved after each epoch."""
    averages.load(folder)
    start_time = time.perf_counter()
    for epoch in range(trainer.num_epochs_done, trainer.config.epochs):
        last_step = (epoch + 1) * trainer.cycle.steps_per_epoch
        # The epoch is evaluated before the state is saved, so the stop is at the first step of the next one.
        trainer.fit(should_stop=lambda last_step=last_step: trainer.state.step > last_step)  # type: ignore[misc]
        averages.save(folder)
        minutes = (time.perf_counter() - start_time) / 60
        print(f"epoch {epoch + 1} of {trainer.config.epochs}, step {trainer.state.step}, {minutes:.1f} min", flush=True)


def recompute_statistics(trainer: Trainer, model: nn.Module) -> nn.Module:
    """Return a copy whose batch norm statistics are those of its own features on augmented training images."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, GhostBatchNorm2d):
            module.ghost_batch_size = 0
    num_batches = -(-NUM_STATISTICS_IMAGES // trainer.config.batch_size)
    update_bn(itertools.islice(_augmented_images(trainer), num_batches), copied)
    return copied.eval()


def _augmented_images(trainer: Trainer) -> Iterator[Tensor]:
    """Yield the batches of the epoch after the last one: images in an order and augmentation that no step has seen."""
    for images_NCHW, _ in trainer.setup.loader.epoch(trainer.config.epochs, 0):
        yield trainer.setup.device.move(images_NCHW)


def compare(trainer: Trainer, averages: SideBySideAverages, held_out: Split) -> dict[str, Evaluation]:
    """Return the evaluation of each candidate on the held-out images."""
    models: dict[str, nn.Module] = {"last weights": trainer.raw_model}
    for epochs, average in averages.by_epochs.items():
        models[f"average over {epochs:g} epoch{'' if epochs == 1 else 's'}"] = average.model
    models |= {f"{name}, statistics recomputed": recompute_statistics(trainer, model) for name, model in models.items()}
    return {name: trainer.evaluate(held_out, model=model) for name, model in models.items()}


def make_candidate(name: str, evaluation: Evaluation, default: Evaluation) -> Candidate:
    """Compare two networks on the same images; the error is that of the images on which only one is right."""
    correct_N = evaluation.predicted_N == evaluation.labels_N
    gains_N = correct_N.astype(float) - (default.predicted_N == default.labels_N)
    error = float(gains_N.std(ddof=1)) / len(gains_N) ** 0.5
    loss, ece = evaluation.loss, evaluation.calibration.ece
    return Candidate(name, evaluation.accuracy, loss, ece, float(gains_N.mean()), error)


def fit_temperature(evaluation: Evaluation) -> Temperature:
    """Fit the temperature that minimises the loss on every other held-out image, and measure it on the rest.

    Source: Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.
    """
    log_NK = torch.from_numpy(np.log(np.maximum(evaluation.probabilities_NK.astype(np.float64), 1e-30)))
    labels_N = torch.from_numpy(evaluation.labels_N)
    halves = [torch.arange(start, len(labels_N), 2) for start in (0, 1)]
    rows = []
    for fitted, measured in (halves, halves[::-1]):

        def loss(temperature: float, half: Tensor = fitted) -> float:
            return float(nn.functional.cross_entropy(log_NK[half] / temperature, labels_N[half]))

        temperature = float(minimize_scalar(loss, bounds=(1 / MAX_TEMPERATURE, MAX_TEMPERATURE), method="bounded").x)
        names = evaluation.class_names
        before, after, default = (
            compute_metrics(log_NK[measured] / divisor, labels_N[measured], names)
            for divisor in (1.0, temperature, SMOOTHED_TEMPERATURE)
        )
        rows.append(
            (temperature, before.loss, after.loss, before.calibration.ece, after.calibration.ece, default.loss,
             default.calibration.ece)
        )  # fmt: skip
    return Temperature(*(float(value) for value in np.mean(rows, axis=0)))


def candidates_table(candidates: Sequence[Candidate]) -> Table:
    """Return a table with a row per candidate, in percent and points."""
    table = Table("network", "accuracy (%)", "gain (points)", "loss", "calibration error (%)", title="held-out images")
    for row in candidates:
        gain = f"{100 * row.gain:+.2f} ± {100 * row.gain_error:.2f}"
        table.add_row(row.name, f"{100 * row.accuracy:.2f}", gain, f"{row.loss:.4f}", f"{100 * row.ece:.2f}")
    return table


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.held_out", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="archive of lossless CIFAR-10, or other data")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--num-held-out", type=int, default=5_000)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--limit-train", type=int)
    return parser.parse_args()


def main() -> None:
    """Train, compare the candidates, and write and print the result."""
    options = parse_options()
    tune_process()
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_dataset(str(options.data), limit_train=options.limit_train, limit_test=NUM_EPOCH_IMAGES)
    train, held_out = split_holdout(data.train, options.num_held_out)
    data = replace(data, train=train, test=held_out.select(range(NUM_EPOCH_IMAGES)))
    bounds_path = options.out / "lr_bounds.json"
    if not bounds_path.exists():
        append_environment(options.out, ["held-out"])
        test = range_test(data, LrRangeConfig(width=options.width, seed=options.seed, train_epochs=options.epochs))
        bounds_path.write_text(json.dumps({"lr_min": test.lr_min, "lr_max": test.lr_max, "reason": test.reason}) + "\n")
    bounds = json.loads(bounds_path.read_text())
    config = TrainConfig(
        seed=options.seed, width=options.width, epochs=options.epochs, lr_min=bounds["lr_min"], lr_max=bounds["lr_max"],
        temperature=1.0,
    )  # fmt: skip
    trainer = Trainer(data, config)
    averages = SideBySideAverages(trainer)
    fit(trainer, averages, options.out / "state")
    evaluations = compare(trainer, averages, held_out)
    candidates = [make_candidate(name, item, evaluations[DEFAULT]) for name, item in evaluations.items()]
    temperature = fit_temperature(evaluations[DEFAULT])
    result = {
        "config": asdict(config), "num_train": len(train), "num_held_out": len(held_out), **bounds,
        "candidates": [asdict(row) for row in candidates], "temperature": asdict(temperature),
    }  # fmt: skip
    (options.out / "held_out.json").write_text(json.dumps(result, indent=1) + "\n")
    Console(width=120).print(candidates_table(candidates), temperature)


if __name__ == "__main__":
    main()
