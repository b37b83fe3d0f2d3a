"""The recipe at full size, on an accelerator: variants of the defaults, compared with them on held-out images.

    python -m tests.studies.full_size [VARIANT ... | --factorial] [--data ARCHIVE] [--out FOLDER] [--seeds N]
                                      [--minutes M]

All training images except 10,000, width 1, batch 512, 24 epochs, LR bounds from one range test. Seed by seed, so that a
study that `--minutes` stops has complete seeds. `--factorial` trains all combinations of five changes instead, once
each, and reports the effect of each change. A training whose row exists is not run again.
Out: trainings.csv and environments.json in FOLDER, and tables of the gains over the defaults.
R rows, C factors, A kinds of accuracy.
"""

import argparse
import contextlib
import csv
import functools
import itertools
import json
import multiprocessing
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from scsuite.core.device import resolve_device
from scsuite.core.runs.environment import device_info
from tests.studies.__main__ import ARCHIVE, ROOT
from tests.studies.regret import Values
from tests.studies.trainings import OLD_DEFAULTS, append_environment

OUT = ROOT / "runs" / "reference" / "recipes-full"
DEFAULTS = "defaults of then"
DEFAULT_OPTIONS: dict[str, Any] = {
    "whitening_init": False, "label_smoothing": 0.1, "weight_decay": 5e-4, "gradient_centralization": True,
    "cycle_momentum": False, **OLD_DEFAULTS,
}  # fmt: skip
TIME_CONSTANTS = (0.5, 1.0, 2.0, 3.0)  # of the averages, in epochs
COLUMNS = ("last", *(f"ema_{epochs:g}" for epochs in TIME_CONSTANTS))  # held-out accuracies


@dataclass(frozen=True)
class Size:
    """What all trainings of a study share."""

    num_held_out: int = 10_000
    width: float = 1.0
    epochs: int = 24
    limit_train: int | None = None


# The difference of each variant from DEFAULT_OPTIONS. The names are ids in the committed CSV file.
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULTS: {},
    "whitened": {"whitening_init": True},  # a default since
    "whitened, smoothing 0.2": {"whitening_init": True, "label_smoothing": 0.2},
    "LRMAX 0.8": {"lr_max": 0.8},
    "LRMAX 0.2": {"lr_max": 0.2},
    "weight decay 1e-3": {"weight_decay": 1e-3},
    "label smoothing 0.2": {"label_smoothing": 0.2},
    "identities": {"identity_init": True},
    "no decay of batch norm": {"bn_weight_decay": False},
    "ghost batch 32": {"ghost_batch_size": 32},
    "alternating flips": {"flip": "alternate"},
    "LRMIN 0.024": {"lr_min": 0.024},
    "LRMAX 1.6": {"lr_max": 1.6},
    "LRMAX 0.1": {"lr_max": 0.1},
    "cifar10-fast": {"lr_min": 1e-6, "lr_max": 0.4, "label_smoothing": 0.0, "gradient_centralization": False},
}  # fmt: skip


BASE = "whitened"  # of the factorial design
FACTORS = ("alternating flips", "ghost batch 32", "no decay of batch norm", "identities", "LRMIN 0.024")


def variant_options(name: str) -> dict[str, Any]:
    """Return the options of a variant, or of several (`whitened, identities`). Raises KeyError for an unknown one."""
    names = [name] if name in VARIANTS else name.split(", ")
    return {key: value for part in names for key, value in VARIANTS[part].items()}


def factorial_design() -> list[tuple[str, int]]:
    """Return all combinations of the factors, each a variant with its own seed.

    The order is random, so that the trainings of a stopped study cover every factor.
    """
    levels = itertools.product((False, True), repeat=len(FACTORS))
    names = [", ".join([BASE, *itertools.compress(FACTORS, is_high)]) for is_high in levels]
    random.Random(0).shuffle(names)
    return [(name, seed) for seed, name in enumerate(names, 1)]


@dataclass(frozen=True)
class Work:
    """One training of a study; it does not start after `deadline`, a value of time.time()."""

    variant: str
    seed: int
    archive: str
    size: Size
    lr_bounds: tuple[float, float]
    deadline: float


@functools.cache
def load_images(archive: str, size: Size) -> tuple[Any, Any]:
    """Return the remaining training images as a dataset, and the held-out ones; no test image is in either."""
    from scsuite.core.dataset import load_dataset, split_holdout

    data = load_dataset(archive, limit_train=size.limit_train, limit_test=10)
    train, held_out = split_holdout(data.train, size.num_held_out)
    return replace(data, train=train, test=held_out.select(range(10))), held_out


def find_lr_bounds(archive: str, size: Size) -> tuple[float, float]:
    """Return LRMIN and LRMAX by the range test."""
    from scsuite.core.config import LrRangeConfig
    from scsuite.core.lr_range.range_test import range_test

    test = range_test(load_images(archive, size)[0], LrRangeConfig(width=size.width, **DEFAULT_OPTIONS))
    return test.lr_min, test.lr_max


def train(work: Work) -> dict[str, Any] | None:
    """Return a row with the held-out accuracies of the last weights and of their averages; None after the deadline."""
    if time.time() > work.deadline:
        return None
    from scsuite.core.config import TrainConfig
    from scsuite.core.errors import DivergedError
    from scsuite.core.model.ema import EMA
    from scsuite.core.training.trainer import Trainer

    start_time = time.perf_counter()
    data, held_out = load_images(work.archive, work.size)
    lr_min, lr_max = work.lr_bounds
    options = {**DEFAULT_OPTIONS, "lr_min": lr_min, "lr_max": lr_max, **variant_options(work.variant)}
    config = TrainConfig(seed=work.seed, width=work.size.width, epochs=work.size.epochs, ema_epochs=0.0, **options)
    trainer = Trainer(data, config)
    steps_per_epoch = trainer.cycle.steps_per_epoch
    averages = {epochs: EMA(trainer.raw_model, epochs * steps_per_epoch) for epochs in TIME_CONSTANTS}
    steps = itertools.count()

    def update_averages(*_: Any) -> None:
        step = next(steps)
        for average in averages.values():
            average.update(trainer.raw_model, step)

    # Not in `on_step`, which an accelerator calls some steps later.
    trainer.setup.optimizer.register_step_post_hook(update_averages)
    accuracies = dict.fromkeys(("train", *COLUMNS), 1 / len(data.class_names))  # if it diverges
    with contextlib.suppress(DivergedError):
        last_epoch = trainer.fit()[-1]
        models = [trainer.raw_model, *(average.model for average in averages.values())]
        on_held_out = [trainer.evaluate(held_out, model=model).accuracy for model in models]
        accuracies = dict(zip(accuracies, (last_epoch.train_accuracy, *on_held_out), strict=True))
    return {
        "variant": work.variant, "seed": work.seed, "lr_min": config.lr_min, "lr_max": config.lr_max, **accuracies,
        "precision": trainer.setup.device.precision, "seconds": time.perf_counter() - start_time,
    }  # fmt: skip


def compute_gain(rows: Sequence[Mapping[str, Any]], variant: str, column: str) -> tuple[int, float, float]:
    """Return the number of seeds shared with the defaults, the mean gain in points, and its standard error.

    The error is that of paired differences, NaN for fewer than two; the gain is NaN for none.
    """
    accuracies = {(row["variant"], int(row["seed"])): float(row[column]) for row in rows}
    differences = [
        100 * (accuracy - accuracies[DEFAULTS, seed])
        for (name, seed), accuracy in accuracies.items()
        if name == variant and (DEFAULTS, seed) in accuracies
    ]
    num_seeds = len(differences)
    error = statistics.stdev(differences) / num_seeds**0.5 if num_seeds > 1 else float("nan")
    return num_seeds, statistics.fmean(differences) if differences else float("nan"), error


def gains_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a row per variant: the mean accuracies of the defaults, the gains of the others."""
    design = set(factorial_design())
    rows = [row for row in rows if (row["variant"], int(row["seed"])) not in design]
    table = Table("variant", "seeds", *COLUMNS, title="held-out accuracy (%); below, gains in points")
    for name in dict.fromkeys(row["variant"] for row in rows):
        gains = [compute_gain(rows, name, column) for column in COLUMNS]
        if name == DEFAULTS:
            values = [[100 * float(row[column]) for row in rows if row["variant"] == name] for column in COLUMNS]
            cells = [f"{statistics.fmean(column):.2f}" for column in values]
        else:
            cells = [f"{gain:+.2f} ± {error:.2f}" for _, gain, error in gains]
        table.add_row(name, str(gains[0][0]), *cells)
    return table


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


def format_effects(effects_A: Values, errors_A: Values) -> list[str]:
    """Return each effect and its standard error, as `+0.12 ± 0.03`."""
    return [f"{effect:+.2f} ± {error:.2f}" for effect, error in zip(effects_A, errors_A, strict=True)]


def effects_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a row per factor: its effect in points, from the rows of the factorial design."""
    design = set(factorial_design())
    trained = [row for row in rows if (row["variant"], int(row["seed"])) in design]
    table = Table("factor", *COLUMNS, title=f"effects in points, n = {len(trained)} of {len(design)}")
    if len(trained) < 2 * len(FACTORS):  # too few rows for so many factors
        return table
    signs_RC = np.array([[2.0 * (name in row["variant"].split(", ")) - 1 for name in FACTORS] for row in trained])
    accuracies_RA = np.array([[float(row[column]) for column in COLUMNS] for row in trained])
    effects_CA, errors_CA, means_A = fit_effects(signs_RC, accuracies_RA)
    for name, effects_A, errors_A in zip(FACTORS, effects_CA, errors_CA, strict=True):
        table.add_row(name, *format_effects(effects_A, errors_A))
    table.add_section()
    table.add_row("mean of all", *(f"{value:.2f} %" for value in means_A))
    return table


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of trainings.csv, none without the file."""
    path = folder / "trainings.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append_row(folder: Path, row: Mapping[str, Any]) -> None:
    """Append a row to trainings.csv."""
    path = folder / "trainings.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def parse_options() -> tuple[argparse.Namespace, list[tuple[str, int]]]:
    """Return the command line's options, and the variants and seeds to train, seed by seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.full_size", description=__doc__)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="train only these")
    parser.add_argument("--factorial", action="store_true", help="train the factorial design instead")
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="archive of the real images")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="start no training after this time")
    parser.add_argument("--processes", type=int, default=1)
    for name, value_type in (("width", float), ("epochs", int), ("num-held-out", int), ("limit-train", int)):
        parser.add_argument(f"--{name}", type=value_type, default=getattr(Size(), name.replace("-", "_")))
    options = parser.parse_args()
    if options.factorial and options.variants:
        parser.error("--factorial: expected no VARIANT")
    names = options.variants or list(VARIANTS)
    pairs = factorial_design() if options.factorial else list(itertools.product(names, range(1, 1 + options.seeds)))
    try:
        for name, _ in pairs:
            variant_options(name)
    except KeyError as unknown:
        parser.error(f"VARIANT: expected some of {', '.join(VARIANTS)}, or several joined by a comma, found {unknown}")
    return options, sorted(pairs, key=lambda pair: pair[1])


def main() -> None:
    """Train what has no row; a row is written when its training is done. Then print the tables."""
    options, pairs = parse_options()
    deadline = time.time() + 60 * options.minutes
    size = Size(options.num_held_out, options.width, options.epochs, options.limit_train)
    options.out.mkdir(parents=True, exist_ok=True)
    append_environment(options.out, sorted({name for name, _ in pairs}), **device_info(resolve_device("auto", "auto")))
    rows = read_rows(options.out)
    done = {(row["variant"], row["seed"]) for row in rows}
    known_bounds = [(float(row["lr_min"]), float(row["lr_max"])) for row in rows if row["variant"] == DEFAULTS]
    lr_bounds = known_bounds[0] if known_bounds else find_lr_bounds(str(options.data), size)
    todo = [
        Work(name, seed, str(options.data), size, lr_bounds, deadline)
        for name, seed in pairs
        if (name, str(seed)) not in done
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for row in pool.imap_unordered(train, todo):
            if row is not None:
                append_row(options.out, row)
                print(json.dumps(row), flush=True)
    console, rows = Console(width=150), read_rows(options.out)
    console.print(gains_table(rows))
    console.print(effects_table(rows))


if __name__ == "__main__":
    main()
