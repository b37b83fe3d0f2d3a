"""The recipe at full size, on an accelerator: variants of the defaults, held against them on images held out.

    python -m tests.studies.full [VARIANT ... | --factorial] [--data ARCHIVE] [--out FOLDER] [--seeds N] [--minutes M]

All but 10,000 of the training images, width 1, batch 512, 24 epochs, rates by one range test. Seed by seed, so that a
study cut short by `--minutes` has whole seeds. Out: trainings.csv and environments.json, in FOLDER; what each
variant gives over the defaults, seed by seed, on the terminal. What has its row is not run again. `--factorial` trains
all combinations of five changes instead, once each, and tells what each of them gives.
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

from scsuite.cli.begin import device_info
from scsuite.core.loop import resolve_device
from tests.studies.__main__ import ARCHIVE, ROOT
from tests.studies.cells import DEFAULTS_BEFORE, note_environment
from tests.studies.recipes import fitted

OUT = ROOT / "runs" / "reference" / "recipes-full"
DEFAULTS = "defaults of then"
BEFORE: dict[str, Any] = {
    "whitening_init": False, "label_smoothing": 0.1, "weight_decay": 5e-4, "gradient_centralization": True,
    "cycle_momentum": False, **DEFAULTS_BEFORE,
}  # fmt: skip
HORIZONS = (0.5, 1.0, 2.0, 3.0)  # of the averages, in epochs
COLUMNS = ("last", *(f"ema_{epochs:g}" for epochs in HORIZONS))  # accuracies, held out


@dataclass(frozen=True)
class Size:
    """Of all trainings of a study."""

    num_held_out: int = 10_000
    width: float = 1.0
    epochs: int = 24
    limit_train: int | None = None


# What differs from the defaults of then.
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULTS: {},
    "whitened": {"whitening_init": True},  # the defaults since
    "whitened, smoothing 0.2": {"whitening_init": True, "label_smoothing": 0.2},
    "LRMAX 0.8": {"lr_max": 0.8},
    "LRMAX 0.2": {"lr_max": 0.2},
    "weight decay 1e-3": {"weight_decay": 1e-3},
    "label smoothing 0.2": {"label_smoothing": 0.2},
    "identity_init": {"identity_init": True},
    "no decay of batch norm": {"bn_weight_decay": False},
    "ghost batch 32": {"ghost_batch_size": 32},
    "alternating flips": {"alternate_flips": True},
    "LRMIN 0.024": {"lr_min": 0.024},
    "LRMAX 1.6": {"lr_max": 1.6},
    "LRMAX 0.1": {"lr_max": 0.1},
    "cifar10-fast": {"lr_min": 1e-6, "lr_max": 0.4, "label_smoothing": 0.0, "gradient_centralization": False},
}  # fmt: skip


BASE = "whitened"  # of the factorial
FACTORS = ("alternating flips", "ghost batch 32", "no decay of batch norm", "identity_init", "LRMIN 0.024")


def variant_of(name: str) -> dict[str, Any]:
    """The settings of a variant, or of several at once: `whitened, identity_init`. Raises KeyError for an unknown one."""
    parts = [name] if name in VARIANTS else name.split(", ")
    return {key: value for part in parts for key, value in VARIANTS[part].items()}


def factorial() -> list[tuple[str, int]]:
    """All combinations of the factors, each a variant, with a seed of its own.

    In a random order, so that what was trained of a study that was cut short tells of every factor.
    """
    levels = itertools.product((False, True), repeat=len(FACTORS))
    names = [", ".join([BASE, *itertools.compress(FACTORS, chosen)]) for chosen in levels]
    random.Random(0).shuffle(names)
    return [(name, seed) for seed, name in enumerate(names, 1)]


@dataclass(frozen=True)
class Work:
    """One training of a study."""

    variant: str
    seed: int
    archive: str
    size: Size
    rates: tuple[float, float]
    deadline: float  # of time.time(): not begun after it


@functools.cache
def data_of(archive: str, size: Size) -> tuple[Any, Any]:
    """The training images without those held out, and these; no test image is in either."""
    from scsuite.core.dataset import split_holdout, load_dataset

    data = load_dataset(archive, limit_train=size.limit_train, limit_test=10)
    train, held_out = split_holdout(data.train, size.num_held_out)
    return replace(data, train=train, test=held_out.select(range(10))), held_out


def find_rates(archive: str, size: Size) -> tuple[float, float]:
    """LRMIN and LRMAX by the range test."""
    from scsuite.core.config import LrRangeConfig
    from scsuite.core.lr_range.range_test import range_test

    found = range_test(data_of(archive, size)[0], LrRangeConfig(width=size.width, **BEFORE))
    return found.lr_min, found.lr_max


def train(work: Work) -> dict[str, Any] | None:
    """A row: accuracies on the held-out images of the last weights and of their averages."""
    if time.time() > work.deadline:
        return None
    from scsuite.core.model.ema import EMA
    from scsuite.core.config import TrainConfig
    from scsuite.core.errors import DivergedError
    from scsuite.core.loop import Trainer, fit

    begin = time.perf_counter()
    data, held_out = data_of(work.archive, work.size)
    lr_min, lr_max = work.rates
    settings = {**BEFORE, "lr_min": lr_min, "lr_max": lr_max, "ema": 0.0, **variant_of(work.variant)}
    trainer = Trainer(data, TrainConfig(seed=work.seed, width=work.size.width, epochs=work.size.epochs, **settings))
    averages = {epochs: EMA(trainer.model, epochs * trainer.steps_per_epoch) for epochs in HORIZONS}

    steps_done = itertools.count()

    def follow(*_: Any) -> None:  # the optimizer, not `on_step`: on an accelerator that is told some steps later
        step = next(steps_done)
        for average in averages.values():
            average.follow(trainer.model, step)

    trainer.optimizer.register_step_post_hook(follow)
    accuracies = dict.fromkeys(("train", *COLUMNS), 1 / len(data.class_names))  # where it diverges
    with contextlib.suppress(DivergedError):
        *_, last_epoch = fit(trainer)
        models = [trainer.model, *(average.model for average in averages.values())]
        found = [trainer.evaluate(held_out, model=model).accuracy for model in models]
        accuracies = dict(zip(accuracies, (last_epoch.train_accuracy, *found), strict=True))
    return {
        "variant": work.variant, "seed": work.seed, "lr_min": settings["lr_min"], "lr_max": settings["lr_max"],
        **accuracies, "precision": trainer.device.precision, "seconds": time.perf_counter() - begin,
    }  # fmt: skip


def gains(rows: Sequence[Mapping[str, Any]], variant: str, column: str) -> tuple[int, float, float]:
    """Seeds that a variant shares with the defaults, its mean gain over them in points, and the standard error.

    The error is that of paired differences, NaN for fewer than two; the gain is NaN for none.
    """
    of = {(row["variant"], int(row["seed"])): float(row[column]) for row in rows}
    pairs = [
        (value, of[DEFAULTS, seed]) for (name, seed), value in of.items() if name == variant and (DEFAULTS, seed) in of
    ]
    differences = [100 * (value - default) for value, default in pairs]
    error = statistics.stdev(differences) / len(pairs) ** 0.5 if len(pairs) > 1 else float("nan")
    return len(pairs), statistics.fmean(differences) if pairs else float("nan"), error


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line a variant: the defaults' mean accuracies, then gains over them."""
    design = set(factorial())
    rows = [row for row in rows if (row["variant"], int(row["seed"])) not in design]
    out = Table("variant", "seeds", *COLUMNS, title="held-out accuracy (%); below, gains in points")
    for name in dict.fromkeys(row["variant"] for row in rows):
        cells = [gains(rows, name, column) for column in COLUMNS]
        if name == DEFAULTS:
            own = [[100 * float(row[column]) for row in rows if row["variant"] == name] for column in COLUMNS]
            shown = [f"{statistics.fmean(values):.2f}" for values in own]
        else:
            shown = [f"{gain:+.2f} ± {error:.2f}" for _, gain, error in cells]
        out.add_row(name, str(cells[0][0]), *shown)
    return out


def effects_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line a factor: what it gives, in points, by those trainings of the factorial that are among the rows."""
    design = set(factorial())
    trained = [row for row in rows if (row["variant"], int(row["seed"])) in design]
    out = Table("factor", *COLUMNS, title=f"effects in points, n = {len(trained)} of {len(design)}")
    if len(trained) < 2 * len(FACTORS):  # too few to tell so many causes by
        return out
    signs_RC = np.array([[2.0 * (name in row["variant"].split(", ")) - 1 for name in FACTORS] for row in trained])
    accuracies_RA = np.array([[float(row[column]) for column in COLUMNS] for row in trained])
    effects_CA, errors_CA, means_A = fitted(signs_RC, accuracies_RA)
    for name, effect_A, errors_A in zip(FACTORS, effects_CA, errors_CA, strict=True):
        out.add_row(name, *(f"{effect:+.2f} ± {error:.2f}" for effect, error in zip(effect_A, errors_A, strict=True)))
    out.add_section()
    out.add_row("mean of all", *(f"{value:.2f} %" for value in means_A))
    return out


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """trainings.csv; none where there is none."""
    path = folder / "trainings.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append_row(folder: Path, row: Mapping[str, Any]) -> None:
    """Add a training."""
    path = folder / "trainings.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    """Train what has no row yet; a row is written when its training is done."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.full", description=__doc__)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="of them alone, rather than of all")
    parser.add_argument("--factorial", action="store_true", help="rather than variants and seeds")
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="archive of the real images")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="no training is begun later")
    parser.add_argument("--processes", type=int, default=1)
    for name, kind in (("width", float), ("epochs", int), ("num-held-out", int), ("limit-train", int)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(Size(), name.replace("-", "_")))
    options = parser.parse_args()
    if options.factorial and options.variants:
        parser.error("--factorial: expected no variants beside it")
    names = options.variants or list(VARIANTS)
    wanted = factorial() if options.factorial else list(itertools.product(names, range(1, 1 + options.seeds)))
    try:
        for name, _ in wanted:
            variant_of(name)
    except KeyError as unknown:
        parser.error(f"no variant {unknown}: expected some of {', '.join(VARIANTS)}, or several with a comma between")
    wanted.sort(key=lambda one: one[1])
    deadline = time.time() + 60 * options.minutes
    size = Size(options.num_held_out, options.width, options.epochs, options.limit_train)
    options.out.mkdir(parents=True, exist_ok=True)
    note_environment(options.out, sorted({name for name, _ in wanted}), **device_info(resolve_device("auto", "auto")))
    rows = read_rows(options.out)
    known = {(row["variant"], row["seed"]) for row in rows}
    pairs = [(float(row["lr_min"]), float(row["lr_max"])) for row in rows if row["variant"] == DEFAULTS]
    rates = pairs[0] if pairs else find_rates(str(options.data), size)
    todo = [
        Work(name, seed, str(options.data), size, rates, deadline)
        for name, seed in wanted
        if (name, str(seed)) not in known
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for row in pool.imap_unordered(train, todo):
            if row is not None:
                append_row(options.out, row)
                print(json.dumps(row), flush=True)
    console, rows = Console(width=150), read_rows(options.out)
    console.print(table(rows))
    console.print(effects_table(rows))


if __name__ == "__main__":
    main()
