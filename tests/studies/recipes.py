"""What the recipe's defaults were chosen on: a factorial of short trainings, and what each of its factors gives.

    python -m tests.studies.recipes [--data ARCHIVE] [--out FOLDER]

Each training is on 10,000 real images, width 0.25, batch 512, 20 epochs; accuracy is that of 6,000 other images held
out of the training images, of the last weights and of averages over three horizons. Sixteen trainings, half of all
combinations of five factors: the fifth is the parity of the others, so no effect of one or of two of them is mixed with
another's. What a recipe may change of the network is tried one at a time beside one of them. Out: recipes.csv and
environment.json; the effects on the terminal.
"""

import argparse
import itertools
import json
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from scsuite.core.files import write_csv
from scsuite.core.model import LOGIT_SCALE
from scsuite.core.rundir import environment
from tests.studies.__main__ import ARCHIVE, ROOT

Values = NDArray[np.float64]
OUT = ROOT / "runs" / "reference" / "recipes"
NUM_TRAIN, NUM_HELD_OUT, WIDTH, BATCH, EPOCHS, SEED = 10_000, 6_000, 0.25, 512, 20, 1
HORIZONS = (0.5, 1.0, 2.0)  # epochs


@dataclass(frozen=True)
class Recipe:
    """One combination of the factors."""

    cycle_momentum: bool
    weight_decay: float
    label_smoothing: float
    lr_min: float
    lr_max: float
    logit_scale: float = LOGIT_SCALE
    initial_weights: str = "torch"  # or kaiming: normal, by the fan out, https://arxiv.org/abs/1502.01852


LEVELS: dict[str, tuple[Any, Any]] = {  # of each factor: the low one, the high one
    "cycle_momentum": (True, False),
    "weight_decay": (5e-4, 1e-3),
    "label_smoothing": (0.0, 0.1),
    "lr_min": (0.02, 0.1),
    "lr_max": (0.5, 1.08),
}


BASE = Recipe(cycle_momentum=True, weight_decay=5e-4, label_smoothing=0.1, lr_min=0.02, lr_max=1.08)
VARIANTS = (
    replace(BASE, logit_scale=1 / 16), replace(BASE, logit_scale=1 / 4), replace(BASE, initial_weights="kaiming")
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Trained(Recipe):
    """A row of recipes.csv: accuracies of the last weights, and of averages over HORIZONS epochs."""

    last: float
    averaged: tuple[float, ...]
    precision: str

    def row(self) -> dict[str, Any]:
        """Plain values by column."""
        values = asdict(self)
        averaged, precision = values.pop("averaged"), values.pop("precision")
        columns = {f"ema_{epochs:g}": value for epochs, value in zip(HORIZONS, averaged, strict=True)}
        return {**values, **columns, "precision": precision}


def recipes() -> list[Recipe]:
    """Half of all combinations: of resolution V."""
    chosen = []
    for bits in itertools.product((0, 1), repeat=len(LEVELS) - 1):
        levels = zip(LEVELS, (*bits, sum(bits) % 2), strict=True)
        chosen.append(Recipe(**{name: LEVELS[name][bit] for name, bit in levels}))
    return chosen


def train(work: tuple[Recipe, str]) -> Trained:
    """One training, on one thread."""
    import torch

    from scsuite.core import model
    from scsuite.core.average import WeightAverage
    from scsuite.core.config import TrainConfig
    from scsuite.core.dataset import hold_out, load_dataset
    from scsuite.core.loop import StepResult, Trainer, fit

    torch.set_num_threads(1)
    recipe, archive = work
    model.LOGIT_SCALE = recipe.logit_scale  # in this process alone: checkpoints are refused with another
    settings = {name: getattr(recipe, name) for name in LEVELS}
    data = load_dataset(archive, limit_train=NUM_TRAIN + NUM_HELD_OUT, limit_test=10)
    train, held_out = hold_out(data.train, NUM_HELD_OUT)
    data = replace(data, train=train, test=held_out.take(range(10)))
    config = TrainConfig(
        seed=SEED, batch_size=BATCH, width=WIDTH, epochs=EPOCHS, ema=0, workers=0, device="cpu", **settings
    )
    trainer = Trainer(data, config)
    if recipe.initial_weights == "kaiming":
        generator = torch.Generator().manual_seed(SEED)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    averages = [WeightAverage(trainer.model, epochs * trainer.steps_per_epoch) for epochs in HORIZONS]

    def follow(step: StepResult) -> None:
        for average in averages:
            average.follow(trainer.model, step.step)

    for _ in fit(trainer, on_step=follow):
        pass
    networks = [trainer.model, *(average.model for average in averages)]
    last, *averaged = (trainer.evaluate(held_out, model=network).accuracy for network in networks)
    return Trained(**asdict(recipe), last=last, averaged=tuple(averaged), precision=trainer.arithmetic.precision)


def effects(rows: Sequence[Trained]) -> tuple[Values, Values, Values]:
    """Of each factor (C) and kind of accuracy (A), in points: the mean at its high level less that at its low one.

    Then the standard errors, those of a difference of two means of half the rows, from what the effects leave over; and
    the means of all rows, in per cent.
    """
    signs_RC = np.array([[2 * (getattr(row, name) == LEVELS[name][1]) - 1 for name in LEVELS] for row in rows])
    design = np.column_stack([np.ones(len(rows)), signs_RC])
    accuracies_RA = 100 * np.array([[row.last, *row.averaged] for row in rows])
    found, *_ = np.linalg.lstsq(design, accuracies_RA, rcond=None)
    left_RA = accuracies_RA - design @ found
    variance_A = (left_RA**2).sum(axis=0) / (len(rows) - design.shape[1])
    return 2 * found[1:], 2 * np.sqrt(variance_A / len(rows)), found[0]


def effects_table(rows: Sequence[Trained]) -> Table:
    """A line a factor."""
    columns = [f"average over {epochs:g} epochs" for epochs in HORIZONS]
    out = Table("factor", "from", "to", "last weights", *columns, title=f"effects in points, n = {len(rows)}")
    effects_CA, errors_A, means_A = effects(rows)
    for (name, (low, high)), effect_A in zip(LEVELS.items(), effects_CA, strict=True):
        cells = (f"{effect:+.2f} ± {error:.2f}" for effect, error in zip(effect_A, errors_A, strict=True))
        out.add_row(name, f"{low:g}", f"{high:g}", *cells)
    out.add_section()
    out.add_row("mean of all", "", "", *(f"{value:.2f} %" for value in means_A))
    return out


def variants(rows: Sequence[Trained]) -> Table:
    """BASE and what differs from it in the network, accuracies in per cent."""
    out = Table("logits times", "initial weights", "last weights", *(f"average over {e:g} epochs" for e in HORIZONS))
    for row in rows:
        if all(getattr(row, name) == getattr(BASE, name) for name in LEVELS):
            values = (f"{100 * value:.2f}" for value in (row.last, *row.averaged))
            out.add_row(f"{row.logit_scale:g}", row.initial_weights, *values)
    return out


def main() -> None:
    """Train all combinations, one process a core."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.recipes", description=__doc__)
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="archive of the real images")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n")
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        rows = pool.map(train, [(recipe, str(options.data)) for recipe in (*recipes(), *VARIANTS)], chunksize=1)
    values = [row.row() for row in rows]
    write_csv(options.out / "recipes.csv", tuple(values[0]), [tuple(row.values()) for row in values])
    console = Console(width=150)
    console.print(
        effects_table([row for row in rows if row.logit_scale == LOGIT_SCALE and row.initial_weights == "torch"])
    )
    console.print(variants(rows))


if __name__ == "__main__":
    main()
