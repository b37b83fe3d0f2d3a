"""What the defaults of the recipe were chosen on: factorial designs of trainings, and the effect of each factor.

    python -m tests.studies.recipes short|long [--data ARCHIVE] [--out FOLDER]

Accuracies are on images held out of the training images, of the last weights and of averages with several time
constants. Half of all combinations of the factors is trained: the level of the last factor is the parity of the others.
So with five factors no effect of one or two factors is confounded with another one, and with four none of one factor
with one of two. The variants are trained once each, next to the design. `short` is 400 steps of a narrow network;
`long` is closer to a full training: as many epochs, more images, a wider network.
Out: recipes.csv and environment.json, and tables of the effects. R rows, C factors, A kinds of accuracy.
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
from rich.console import Console
from rich.table import Table

from scsuite.core.config import MOMENTUM, MOMENTUM_MIN
from scsuite.core.files import write_csv
from scsuite.core.model.network import LOGIT_SCALE
from scsuite.core.runs.environment import collect_environment
from tests.studies.__main__ import ARCHIVE, ROOT
from tests.studies.regret import Values
from tests.studies.trainings import OLD_DEFAULTS

OUT = ROOT / "runs" / "reference"
BATCH_SIZE, SEED = 512, 1
OPTIONS = ("cycle_momentum", "weight_decay", "label_smoothing", "lr_min", "lr_max")  # of a Recipe, for TrainConfig


@dataclass(frozen=True)
class Recipe:
    """What can differ between two trainings of the same design."""

    cycle_momentum: bool
    weight_decay: float
    label_smoothing: float
    lr_min: float
    lr_max: float
    logit_scale: float = LOGIT_SCALE
    initial_weights: str = "torch"  # or kaiming: normal, by fan-out, https://arxiv.org/abs/1502.01852

    @property
    def effective_lr(self) -> float:
        """The learning rate over 1 - momentum at the peak, by which the weights move in the long run."""
        return round(self.lr_max / (1 - _peak_momentum(self.cycle_momentum)), 6)


def make_recipe(effective_lr: float, cycle_momentum: bool, **values: Any) -> Recipe:
    """Return a recipe with this effective LR at the peak, and a hundredth of the LR at both ends."""
    lr_max = round(effective_lr * (1 - _peak_momentum(cycle_momentum)), 6)
    return Recipe(cycle_momentum=cycle_momentum, lr_min=round(lr_max / 100, 6), lr_max=lr_max, **values)


def _peak_momentum(cycle_momentum: bool) -> float:
    return MOMENTUM_MIN if cycle_momentum else MOMENTUM


@dataclass(frozen=True)
class Design:
    """A factorial design: the size of its trainings, the low and high level of each factor, and more variants."""

    num_train: int
    num_held_out: int
    width: float
    epochs: int
    time_constants: tuple[float, ...]  # of the averages, in epochs
    levels: Mapping[str, tuple[Any, Any]]
    variants: tuple[Recipe, ...]
    interactions: tuple[tuple[str, str], ...] = ()  # pairs of factors whose joint effect is estimated too
    make: Callable[..., Recipe] = Recipe

    def recipes(self) -> list[Recipe]:
        """Return half of all combinations."""
        recipes = []
        for bits in itertools.product((0, 1), repeat=len(self.levels) - 1):
            levels = zip(self.levels, (*bits, sum(bits) % 2), strict=True)
            recipes.append(self.make(**{name: self.levels[name][bit] for name, bit in levels}))
        return recipes


BASE = Recipe(cycle_momentum=True, weight_decay=5e-4, label_smoothing=0.1, lr_min=0.02, lr_max=1.08)
SHORT = Design(
    10_000, 6_000, width=0.25, epochs=20, time_constants=(0.5, 1.0, 2.0),
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
    20_000, 10_000, width=0.5, epochs=24, time_constants=(0.5, 1.0, 2.0, 3.0),
    levels={
        "cycle_momentum": (True, False),
        "weight_decay": (5e-4, 1e-3),
        "label_smoothing": (0.1, 0.2),
        "effective_lr": (4.0, 8.0),
    },
    variants=(
        make_recipe(4.0, cycle_momentum=False, weight_decay=5e-4, label_smoothing=0.0),  # cifar10-fast's
        make_recipe(4.0, cycle_momentum=False, weight_decay=2e-3, label_smoothing=0.2),
    ),
    # Added after the results, in which both together cost two points. Confounded with that of the other two factors.
    interactions=(("weight_decay", "effective_lr"),),
    make=make_recipe,
)  # fmt: skip
DESIGNS = {"short": SHORT, "long": LONG}


@dataclass(frozen=True, kw_only=True)
class RecipeResult(Recipe):
    """A row of recipes.csv: accuracies of the last weights, and of the averages by time constant in epochs."""

    train_accuracy: float  # of the augmented images of the last epoch, while they were trained on
    last: float
    ema: Mapping[float, float]
    precision: str

    def row(self) -> dict[str, Any]:
        """Return plain values by column."""
        values = asdict(self)
        ema, precision = values.pop("ema"), values.pop("precision")
        return {**values, **{f"ema_{epochs:g}": value for epochs, value in ema.items()}, "precision": precision}


def train(work: tuple[Design, Recipe, str]) -> RecipeResult:
    """Run one training on one thread."""
    import torch

    from scsuite.core.config import TrainConfig
    from scsuite.core.dataset import load_dataset, split_holdout
    from scsuite.core.model import network
    from scsuite.core.model.ema import EMA
    from scsuite.core.runs.results import StepResult
    from scsuite.core.training.trainer import Trainer

    torch.set_num_threads(1)
    design, recipe, archive = work
    network.LOGIT_SCALE = recipe.logit_scale  # only in this process; a checkpoint with another scale is refused
    data = load_dataset(archive, limit_train=design.num_train + design.num_held_out, limit_test=10)
    train, held_out = split_holdout(data.train, design.num_held_out)
    data = replace(data, train=train, test=held_out.select(range(10)))
    config = TrainConfig(
        seed=SEED, batch_size=BATCH_SIZE, width=design.width, epochs=design.epochs, ema_epochs=0, workers=0,
        device="cpu", gradient_centralization=False, **OLD_DEFAULTS,
        **{name: getattr(recipe, name) for name in OPTIONS},
    )  # fmt: skip
    trainer = Trainer(data, config)
    if recipe.initial_weights == "kaiming":
        generator = torch.Generator().manual_seed(SEED)
        for module in trainer.raw_model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    steps_per_epoch = trainer.cycle.steps_per_epoch
    averages = {epochs: EMA(trainer.raw_model, epochs * steps_per_epoch) for epochs in design.time_constants}

    def update_averages(step: StepResult) -> None:
        for average in averages.values():
            average.update(trainer.raw_model, step.step)

    last_epoch = trainer.fit(on_step=update_averages)[-1]
    return RecipeResult(
        **asdict(recipe), train_accuracy=last_epoch.train_accuracy, last=trainer.evaluate(held_out).accuracy,
        ema={epochs: trainer.evaluate(held_out, model=average.model).accuracy for epochs, average in averages.items()},
        precision=trainer.setup.device.precision,
    )  # fmt: skip


def compute_effects(design: Design, rows: Sequence[RecipeResult]) -> tuple[Values, Values, Values]:
    """Return effects_CA, their errors_CA and the means_A of all rows, in points.

    The effect of a factor is the mean at its high level minus that at its low level. Interactions follow: the mean
    where both factors are at the same level minus the mean where they are not.
    """
    levels = design.levels
    signs_RC = np.array([[2 * (getattr(row, name) == levels[name][1]) - 1 for name in levels] for row in rows])
    index = list(levels).index
    products = [signs_RC[:, index(first)] * signs_RC[:, index(second)] for first, second in design.interactions]
    accuracies_RA = np.array([[row.last, *row.ema.values()] for row in rows])
    return fit_effects(np.column_stack([signs_RC, *products]), accuracies_RA)


def fit_effects(signs_RC: Values, accuracies_RA: Values) -> tuple[Values, Values, Values]:
    """Fit by least squares, with each row at +1 or -1 of each factor: effects_CA, errors_CA and means_A, in points."""
    model = np.column_stack([np.ones(len(signs_RC)), signs_RC])
    points_RA = 100 * accuracies_RA
    coefficients: Values = np.asarray(np.linalg.lstsq(model, points_RA, rcond=None)[0], np.float64)
    residuals_RA = points_RA - model @ coefficients
    variance_A = (residuals_RA**2).sum(axis=0) / (len(model) - model.shape[1])
    inverse_C = np.diag(np.linalg.inv(model.T @ model))[1:]
    errors_CA: Values = 2 * np.sqrt(np.outer(inverse_C, variance_A))
    return 2 * coefficients[1:], errors_CA, coefficients[0]


def effects_table(design: Design, rows: Sequence[RecipeResult]) -> Table:
    """Return a table with a row per factor."""
    columns = [f"EMA over {epochs:g} epochs" for epochs in design.time_constants]
    table = Table("factor", "from", "to", "last weights", *columns, title=f"effects in points, n = {len(rows)}")
    effects_CA, errors_CA, means_A = compute_effects(design, rows)
    names = [(name, f"{low:g}", f"{high:g}") for name, (low, high) in design.levels.items()]
    names += [(" x ".join(pair), "different", "same") for pair in design.interactions]
    for name, effect_A, errors_A in zip(names, effects_CA, errors_CA, strict=True):
        table.add_row(*name, *format_effects(effect_A, errors_A))
    table.add_section()
    table.add_row("mean of all", "", "", *(f"{value:.2f} %" for value in means_A))
    return table


def format_effects(effects_A: Values, errors_A: Values) -> list[str]:
    """Return each effect and its standard error, as `+0.12 ± 0.03`."""
    return [f"{effect:+.2f} ± {error:.2f}" for effect, error in zip(effects_A, errors_A, strict=True)]


def variants_table(design: Design, rows: Sequence[RecipeResult]) -> Table:
    """Return a table with a row per variant, accuracies in percent."""
    names = ("cycle_momentum", "weight_decay", "label_smoothing", "lr_max", "logit_scale", "initial_weights")
    table = Table(*names, "last weights", *(f"EMA over {epochs:g} epochs" for epochs in design.time_constants))
    for row in rows:
        values = (f"{100 * value:.2f}" for value in (row.last, *row.ema.values()))
        table.add_row(*(str(getattr(row, name)) for name in names), *values)
    return table


def main() -> None:
    """Train all combinations, one process per core; a row is written when its training is done."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.recipes", description=__doc__)
    parser.add_argument("design", choices=DESIGNS)
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="archive of the real images")
    parser.add_argument("--out", type=Path, help="default: runs/reference/recipes-DESIGN")
    options = parser.parse_args()
    design, out = DESIGNS[options.design], options.out or OUT / f"recipes-{options.design}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "environment.json").write_text(json.dumps(collect_environment(), indent=1) + "\n")
    recipes = list(dict.fromkeys((*design.recipes(), *design.variants)))  # a variant can be one of the combinations
    results: dict[Recipe, RecipeResult] = {}
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        work = [(design, recipe, str(options.data)) for recipe in recipes]
        for recipe, result in zip(recipes, pool.imap(train, work), strict=True):
            results[recipe] = result
            rows = [result.row() for result in results.values()]
            write_csv(out / "recipes.csv", tuple(rows[0]), [tuple(row.values()) for row in rows])
    console = Console(width=150)
    console.print(effects_table(design, [results[recipe] for recipe in design.recipes()]))
    console.print(variants_table(design, [results[recipe] for recipe in design.variants]))


if __name__ == "__main__":
    main()
