"""A check of the LRMAX rule on data that it was not fitted to: lossless CIFAR-10 and scikit-learn's digits.

    python -m tests.studies.rule_check [SETTING ...] --data ARCHIVE [--out FOLDER] [--processes N]

Each seed has its own range test, and trainings at the LRMAX found and at 1/4, 1/2, 2 and 4 times of it; LRMIN is the
one found, at most a third of LRMAX. All other settings are today's defaults, but digits are not flipped. Held-out
training images are read once, after the last epoch; no test image is read. A training that has a row is not run again.
Out: trainings.csv, environments.json and regret.json in FOLDER, and a table of the regrets.
S seeds, R learning rates.
"""

import argparse
import contextlib
import functools
import json
import math
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from scsuite.core.errors import ScsuiteError
from tests.studies.full_size import append_row, read_rows
from tests.studies.regret import LEVEL, Values
from tests.studies.trainings import PRECISION, append_environment

ROOT = Path(__file__).parents[2]
OUT = ROOT / "runs" / "reference" / "rule-check"
SEEDS = (0, 1, 2, 3, 4, 5)  # three were planned; their interval for CIFAR-10 reached 0.74 points, so three more
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the LRMAX found
FOUND = FACTORS.index(1.0)
SIZE = 32  # pixels
MAX_DIGIT_VALUE = 16  # of scikit-learn's digits
NUM_EPOCH_IMAGES = 10  # images that `fit` evaluates after each epoch


@dataclass(frozen=True)
class Setting:
    """A training without its LR bounds."""

    name: str
    num_train: int
    num_held_out: int
    width: float = 0.25
    batch_size: int = 128
    epochs: int = 24
    flip: str = "alternate"


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("cifar10", num_train=12_000, num_held_out=10_000),
        Setting("digits", num_train=1_197, num_held_out=600, flip="none"),
    )
}


@dataclass(frozen=True)
class Work:
    """The range test and the trainings of one seed that have no rows yet, as factors of the LRMAX found."""

    setting: str
    seed: int
    archive: str
    folder: Path
    factors: tuple[float, ...]


@dataclass(frozen=True)
class Regret:
    """The result of one setting: `regret` is the best mean accuracy minus that at the LRMAX found, as a fraction.

    `interval` is that of the paired differences between these two, from Student's t; the best of five means is too high
    by chance, so the regret is too. Where the LRMAX found is the best, the regret and its interval are 0.
    """

    setting: str
    seeds: int
    lr_max_S: tuple[float, ...]
    factors: tuple[float, ...]
    accuracies: tuple[float, ...]
    best_factor: float
    regret: float
    interval: tuple[float, float]


@functools.cache
def load_images(name: str, archive: str) -> tuple[Any, Any]:
    """Return a setting's training images as a dataset, and its held-out images."""
    from scsuite.core.dataset import Dataset, load_dataset, split_holdout

    setting = SETTINGS[name]
    num_images = setting.num_train + setting.num_held_out
    if name == "digits":
        images = read_digits()
        data = Dataset("digits", tuple("0123456789"), images, images, "scikit-learn's digits")
    else:
        data = load_dataset(archive, limit_train=num_images, limit_test=NUM_EPOCH_IMAGES)
    assert len(data.train) == num_images
    train, held_out = split_holdout(data.train, setting.num_held_out)
    return replace(data, train=train, test=held_out.select(range(NUM_EPOCH_IMAGES))), held_out


def read_digits() -> Any:
    """Return scikit-learn's 1,797 digits, enlarged from 8x8 to 32x32 as images of a folder are."""
    from sklearn.datasets import load_digits

    from scsuite.core.dataset import Split

    digits = load_digits()
    gray_NHW = np.round(digits.images * (255 / MAX_DIGIT_VALUE)).astype(np.uint8)
    images = [Image.fromarray(gray_HW).convert("RGB") for gray_HW in gray_NHW]
    images_NHWC = np.stack([np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for image in images])
    files = tuple(f"digits/{index:04d}" for index in range(len(gray_NHW)))
    return Split(images_NHWC, digits.target.astype(np.int64), files)


def run_seed(work: Work) -> None:
    """Run the range test of a seed, and its trainings; each row is written when its training is done."""
    import torch

    from scsuite.core.config import LrRangeConfig
    from scsuite.core.lr_range.range_test import range_test

    torch.set_num_threads(1)
    setting, (data, _) = SETTINGS[work.setting], load_images(work.setting, work.archive)
    test = range_test(data, LrRangeConfig(train_epochs=setting.epochs, **_recipe(work)))
    for factor in work.factors:
        lr_max = test.lr_max * factor
        row = train(work, min(test.lr_min, lr_max / 3), lr_max)
        append_row(work.folder, {"setting": work.setting, "seed": work.seed, "factor": factor, **row})


def train(work: Work, lr_min: float, lr_max: float) -> dict[str, Any]:
    """Train with these LR bounds, and return a row with the accuracy on the held-out images; chance if it diverged."""
    from scsuite.core.config import TrainConfig
    from scsuite.core.errors import DivergedError
    from scsuite.core.training.trainer import Trainer

    start_time = time.perf_counter()
    data, held_out = load_images(work.setting, work.archive)
    config = TrainConfig(epochs=SETTINGS[work.setting].epochs, lr_min=lr_min, lr_max=lr_max, **_recipe(work))
    trainer = Trainer(data, config)
    accuracy, diverged = 1 / len(data.class_names), True
    with contextlib.suppress(DivergedError):
        trainer.fit()
        accuracy, diverged = trainer.evaluate(held_out).accuracy, False
    seconds = time.perf_counter() - start_time
    return {"lr_min": lr_min, "lr_max": lr_max, "accuracy": accuracy, "diverged": diverged, "seconds": seconds}


def _recipe(work: Work) -> dict[str, Any]:
    setting = SETTINGS[work.setting]
    return {
        "seed": work.seed, "width": setting.width, "batch_size": setting.batch_size, "flip": setting.flip, "workers": 0,
        "device": "cpu", "precision": PRECISION,
    }  # fmt: skip


def compute_regret(setting: str, rows: Sequence[Mapping[str, str]]) -> Regret | None:
    """Return the regret over the seeds that have all trainings; None for fewer than two."""
    mine = [row for row in rows if row["setting"] == setting]
    by_cell = {(int(row["seed"]), float(row["factor"])): row for row in mine}
    seeds = [seed for seed in SEEDS if all((seed, factor) in by_cell for factor in FACTORS)]
    if len(seeds) < 2:
        return None
    accuracies_SR: Values = np.array(
        [[float(by_cell[seed, factor]["accuracy"]) for factor in FACTORS] for seed in seeds]
    )
    means_R = accuracies_SR.mean(axis=0)
    best = int(means_R.argmax())
    differences_S = accuracies_SR[:, best] - accuracies_SR[:, FOUND]
    regret = float(differences_S.mean())
    error = float(differences_S.std(ddof=1)) / math.sqrt(len(seeds))
    margin = float(student.ppf((1 + LEVEL) / 2, len(seeds) - 1)) * error
    lr_max_S = tuple(float(by_cell[seed, 1.0]["lr_max"]) for seed in seeds)
    return Regret(
        setting, len(seeds), lr_max_S, FACTORS, tuple(means_R.tolist()), FACTORS[best], regret,
        (regret - margin, regret + margin),
    )  # fmt: skip


def regret_table(regrets: Sequence[Regret]) -> Table:
    """Return a table with a row per setting, in percent and percentage points."""
    factors = [f"x {factor:g}" for factor in FACTORS]
    table = Table("images", "seeds", "LRMAX found", *factors, "best", "regret (points)", title="held-out accuracy (%)")
    for row in regrets:
        lr_max = f"{min(row.lr_max_S):.3g} to {max(row.lr_max_S):.3g}"
        low, high = row.interval
        table.add_row(
            row.setting, str(row.seeds), lr_max, *(f"{100 * value:.2f}" for value in row.accuracies),
            f"x {row.best_factor:g}", f"{100 * row.regret:.2f} ({100 * low:.2f} to {100 * high:.2f})",
        )  # fmt: skip
    return table


def find_work(names: Sequence[str], archive: str, folder: Path) -> list[Work]:
    """Return the trainings that have no row, seed by seed, so that a study that is stopped has complete seeds."""
    done = {(row["setting"], int(row["seed"]), float(row["factor"])) for row in read_rows(folder)}
    todo = [
        Work(name, seed, archive, folder, tuple(factor for factor in FACTORS if (name, seed, factor) not in done))
        for seed in SEEDS
        for name in names
    ]
    return [work for work in todo if work.factors]


def main() -> None:
    """Run the trainings that have no row, then write and print the regrets."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.rule_check", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"run only these of {', '.join(SETTINGS)}")
    parser.add_argument("--data", type=Path, required=True, help="archive of lossless CIFAR-10")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    names = options.settings or list(SETTINGS)
    if unknown := set(names) - set(SETTINGS):
        parser.error(f"SETTING: expected some of {', '.join(SETTINGS)}, found {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    work = find_work(names, str(options.data), options.out)
    settings = sorted({item.setting for item in work})
    try:
        for name in settings:
            load_images(name, str(options.data))
    except ScsuiteError as error:
        parser.error(str(error))
    if work:
        append_environment(options.out, settings)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        pool.map(run_seed, work, chunksize=1)
    rows = read_rows(options.out)
    regrets = [regret for name in SETTINGS if (regret := compute_regret(name, rows)) is not None]
    values = {"settings": {name: asdict(setting) for name, setting in SETTINGS.items()}}
    values["regrets"] = [asdict(regret) for regret in regrets]  # type: ignore[assignment]
    (options.out / "regret.json").write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")
    Console(width=150).print(regret_table(regrets))


if __name__ == "__main__":
    main()
