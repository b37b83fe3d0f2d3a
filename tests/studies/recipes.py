"""What the recipe's defaults were chosen on: factorials of trainings, and what each of their factors gives.

    python -m tests.studies.recipes short|long [--data ARCHIVE] [--out FOLDER]

Accuracy is that of images held out of the training images, of the last weights and of averages over some horizons.
Half of all combinations of the factors is trained: the last factor is the parity of the others, so of five no effect of
one or of two is mixed with another's, and of four none of one with one of two. What else is tried, is tried one at a
time beside them. `short` is 400 steps of a narrow network. `long` is nearer to a full training: as many epochs, more
images, a wider network. Out: recipes.csv and environment.json; the effects on the terminal.
"""

import argparse
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from scsuite.core.config import MOMENTUM, MOMENTUM_MIN
from scsuite.core.files import write_csv
from scsuite.core.model import LOGIT_SCALE
from scsuite.core.runs.rundir import environment
from tests.studies.__main__ import ARCHIVE, ROOT
from tests.studies.cells import DEFAULTS_BEFORE

Values = NDArray[np.float64]
OUT = ROOT / "runs" / "reference"
BATCH, SEED = 512, 1
SETTINGS = ("cycle_momentum", "weight_decay", "label_smoothing", "lr_min", "lr_max")  # of a Recipe, for TrainConfig


@dataclass(frozen=True)
class Recipe:
    """What a training may differ in from another of the same design."""

    cycle_momentum: bool
    weight_decay: float
    label_smoothing: float
    lr_min: float
    lr_max: float
    logit_scale: float = LOGIT_SCALE
    initial_weights: str = "torch"  # or kaiming: normal, by the fan out, https://arxiv.org/abs/1502.01852

    @property
    def effective_rate(self) -> float:
        """At the peak: the rate over 1 - momentum, by which the weights move in the long run."""
        return round(self.lr_max / (1 - _peak_momentum(self.cycle_momentum)), 6)


def at_effective_rate(effective_rate: float, cycle_momentum: bool, **values: Any) -> Recipe:
    """That rate at the peak, whatever the momentum; a hundredth of it at both ends."""
    lr_max = round(effective_rate * (1 - _peak_momentum(cycle_momentum)), 6)
    return Recipe(cycle_momentum=cycle_momentum, lr_min=round(lr_max / 100, 6), lr_max=lr_max, **values)


def _peak_momentum(cycle_momentum: bool) -> float:
    return MOMENTUM_MIN if cycle_momentum else MOMENTUM


@dataclass(frozen=True)
class Design:
    """A factorial: the size of its trainings, the low and the high level of each factor, and what is tried beside."""

    num_train: int
    num_held_out: int
    width: float
    epochs: int
    horizons: tuple[float, ...]  # of the averages, in epochs
    levels: Mapping[str, tuple[Any, Any]]
    variants: tuple[Recipe, ...]
    products: tuple[tuple[str, str], ...] = ()  # of factors, whose effect together is told from each alone
    make: Callable[..., Recipe] = Recipe

    def recipes(self) -> list[Recipe]:
        """Half of all combinations."""
        chosen = []
        for bits in itertools.product((0, 1), repeat=len(self.levels) - 1):
            levels = zip(self.levels, (*bits, sum(bits) % 2), strict=True)
            chosen.append(self.make(**{name: self.levels[name][bit] for name, bit in levels}))
        return chosen


BASE = Recipe(cycle_momentum=True, weight_decay=5e-4, label_smoothing=0.1, lr_min=0.02, lr_max=1.08)
SHORT = Design(
    10_000, 6_000, width=0.25, epochs=20, horizons=(0.5, 1.0, 2.0),
    levels={
        "cycle_momentum": (True, False),
        "weight_decay": (5e-4, 1e-3),
        "label_smoothing": (0.0, 0.1),
        "lr_min": (0.02, 0.1),
        "lr_max": (0.5, 1.08),
    },
    variants=(
        BASE, replace(BASE, logit_scale=1 / 16), replace(BASE, logit_scale=1 / 4),
        replace(BASE, initial_weights="kaiming"),
    ),
)  # fmt: skip
LONG = Design(
    20_000, 10_000, width=0.5, epochs=24, horizons=(0.5, 1.0, 2.0, 3.0),
    levels={
        "cycle_momentum": (True, False),
        "weight_decay": (5e-4, 1e-3),
        "label_smoothing": (0.1, 0.2),
        "effective_rate": (4.0, 8.0),
    },
    variants=(
        at_effective_rate(4.0, cycle_momentum=False, weight_decay=5e-4, label_smoothing=0.0),  # cifar10-fast's
        at_effective_rate(4.0, cycle_momentum=False, weight_decay=2e-3, label_smoothing=0.2),
    ),
    # Seen in the results, where both at once cost two points. It is mixed with that of the other two factors.
    products=(("weight_decay", "effective_rate"),),
    make=at_effective_rate,
)  # fmt: skip
DESIGNS = {"short": SHORT, "long": LONG}


@dataclass(frozen=True, kw_only=True)
class Trained(Recipe):
    """A row of recipes.csv: accuracies of the last weights, and of the averages by their horizons in epochs."""

    train_accuracy: float  # of the last epoch's augmented images, as it went along
    last: float
    averaged: Mapping[float, float]
    precision: str

    def row(self) -> dict[str, Any]:
        """Plain values by column."""
        values = asdict(self)
        averaged, precision = values.pop("averaged"), values.pop("precision")
        columns = {f"ema_{epochs:g}": value for epochs, value in averaged.items()}
        return {**values, **columns, "precision": precision}


def train(work: tuple[Design, Recipe, str]) -> Trained:
    """One training, on one thread."""
    import torch

    from scsuite.core import model
    from scsuite.core.model.ema import EMA
    from scsuite.core.config import TrainConfig
    from scsuite.core.dataset import split_holdout, load_dataset
    from scsuite.core.loop import StepResult, Trainer, fit

    torch.set_num_threads(1)
    design, recipe, archive = work
    model.LOGIT_SCALE = recipe.logit_scale  # in this process alone: checkpoints are refused with another
    data = load_dataset(archive, limit_train=design.num_train + design.num_held_out, limit_test=10)
    train, held_out = split_holdout(data.train, design.num_held_out)
    data = replace(data, train=train, test=held_out.select(range(10)))
    config = TrainConfig(
        seed=SEED, batch_size=BATCH, width=design.width, epochs=design.epochs, ema=0, workers=0, device="cpu",
        gradient_centralization=False, **DEFAULTS_BEFORE,  # they came later
        **{name: getattr(recipe, name) for name in SETTINGS},
    )  # fmt: skip
    trainer = Trainer(data, config)
    if recipe.initial_weights == "kaiming":
        generator = torch.Generator().manual_seed(SEED)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    averages = {epochs: EMA(trainer.model, epochs * trainer.steps_per_epoch) for epochs in design.horizons}

    def follow(step: StepResult) -> None:
        for average in averages.values():
            average.follow(trainer.model, step.step)

    *_, last_epoch = fit(trainer, on_step=follow)
    averaged = {epochs: trainer.evaluate(held_out, model=ema.model).accuracy for epochs, ema in averages.items()}
    last = trainer.evaluate(held_out, model=trainer.model).accuracy
    return Trained(
        **asdict(recipe), train_accuracy=last_epoch.train_accuracy, last=last, averaged=averaged,
        precision=trainer.device.precision,
    )  # fmt: skip


def effects(design: Design, rows: Sequence[Trained]) -> tuple[Values, Values, Values]:
    """Of each factor (C) and kind of accuracy (A), in points: the mean at its high level less that at its low one.

    Those of products follow: the mean where both are at the same level less that of the others. Then the standard
    errors, those of a difference of two means of half the rows, from what the effects leave over; and the means of all
    rows, in per cent.
    """
    levels = design.levels
    signs_RC = np.array([[2 * (getattr(row, name) == levels[name][1]) - 1 for name in levels] for row in rows])
    index = list(levels).index
    products = [signs_RC[:, index(one)] * signs_RC[:, index(other)] for one, other in design.products]
    accuracies_RA = np.array([[row.last, *row.averaged.values()] for row in rows])
    return fitted(np.column_stack([signs_RC, *products]), accuracies_RA)


def fitted(signs_RC: Values, accuracies_RA: Values) -> tuple[Values, Values, Values]:
    """By least squares, each row at +1 or -1 of each cause: effects_CA, their errors_CA and the means_A, in points."""
    model = np.column_stack([np.ones(len(signs_RC)), signs_RC])
    points_RA = 100 * accuracies_RA
    found: Values = np.asarray(np.linalg.lstsq(model, points_RA, rcond=None)[0], np.float64)
    left_RA = points_RA - model @ found
    variance_A = (left_RA**2).sum(axis=0) / (len(model) - model.shape[1])
    spread_C = np.diag(np.linalg.inv(model.T @ model))[1:]
    errors_CA: Values = 2 * np.sqrt(np.outer(spread_C, variance_A))
    return 2 * found[1:], errors_CA, found[0]


def effects_table(design: Design, rows: Sequence[Trained]) -> Table:
    """A line a factor."""
    columns = [f"average over {epochs:g} epochs" for epochs in design.horizons]
    out = Table("factor", "from", "to", "last weights", *columns, title=f"effects in points, n = {len(rows)}")
    effects_CA, errors_CA, means_A = effects(design, rows)
    names = [(name, f"{low:g}", f"{high:g}") for name, (low, high) in design.levels.items()]
    names += [(" x ".join(product), "unlike", "alike") for product in design.products]
    for name, effect_A, errors_A in zip(names, effects_CA, errors_CA, strict=True):
        out.add_row(*name, *(f"{effect:+.2f} ± {error:.2f}" for effect, error in zip(effect_A, errors_A, strict=True)))
    out.add_section()
    out.add_row("mean of all", "", "", *(f"{value:.2f} %" for value in means_A))
    return out


def variants_table(design: Design, rows: Sequence[Trained]) -> Table:
    """A line a variant, accuracies in per cent."""
    names = ("cycle_momentum", "weight_decay", "label_smoothing", "lr_max", "logit_scale", "initial_weights")
    out = Table(*names, "last weights", *(f"average over {epochs:g} epochs" for epochs in design.horizons))
    for row in rows:
        values = (f"{100 * value:.2f}" for value in (row.last, *row.averaged.values()))
        out.add_row(*(str(getattr(row, name)) for name in names), *values)
    return out


def main() -> None:
    """Train all combinations, one process a core; a row is written when its training is done."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.recipes", description=__doc__)
    parser.add_argument("design", choices=DESIGNS)
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="archive of the real images")
    parser.add_argument("--out", type=Path, help="default: runs/reference/recipes-DESIGN")
    options = parser.parse_args()
    design, out = DESIGNS[options.design], options.out or OUT / f"recipes-{options.design}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n")
    recipes = list(dict.fromkeys((*design.recipes(), *design.variants)))  # a variant may be one of the combinations
    rows: dict[Recipe, Trained] = {}
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        work = [(design, recipe, str(options.data)) for recipe in recipes]
        for recipe, row in zip(recipes, pool.imap(train, work), strict=True):
            rows[recipe] = row
            values = [row.row() for row in rows.values()]
            write_csv(out / "recipes.csv", tuple(values[0]), [tuple(row.values()) for row in values])
    console = Console(width=150)
    console.print(effects_table(design, [rows[recipe] for recipe in design.recipes()]))
    console.print(variants_table(design, [rows[recipe] for recipe in design.variants]))


if __name__ == "__main__":
    main()
