"""The study's settings and its cells: one range test, or one training at one pair of rates, each under a seed.

In: settings and seeds. Out: rows in `sweeps.csv` (a row a step) and `trainings.csv` (a row a training), in one folder.
A cell that has its rows is not run again, so a study that was cut short, or wants more seeds, goes on where it was.
"""

import contextlib
import csv
import functools
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from scsuite.core.runs.rundir import environment
from scsuite.core.schedule import num_steps_per_epoch

NUM_RATES = 9
GRID = tuple(0.025 * 2**k for k in range(NUM_RATES))  # LRMAX
DRAWN_SEED = 3  # of shapes drawn anew: 1 and 2 are those of `shapes` itself
NUM_WATCHED = 10  # images that `fit` evaluates after each epoch; the held-out images are read once, at the end


@dataclass(frozen=True)
class Setting:
    """What a training is, but for its LRMAX; `real` are the archive's images, else `shapes`.

    `lr_min` is that of the grid, if not what each seed's own range test finds. `drawn`: the held-out images are no part
    of `shapes` but drawn for the study. The last two are as the defaults were when the rule was made, or since.
    """

    name: str
    real: bool
    num_train: int
    num_held_out: int
    width: float
    batch_size: int
    epochs: int = 10
    rates: tuple[float, ...] = GRID
    lr_min: float | None = None
    drawn: bool = False
    cycle_momentum: bool = False
    gradient_centralization: bool = True

    @property
    def num_steps(self) -> int:
        """Of a training."""
        return self.epochs * num_steps_per_epoch(self.num_train, self.batch_size)


# What has become another default since; all rows are by these.
DEFAULTS_BEFORE: dict[str, Any] = {"identity_init": False, "ghost_batch_size": 0, "bn_weight_decay": True, "alternate_flips": False}
# The rule was made on these, by what the defaults then were.
MADE_ON_BEFORE = (
    Setting("real-512", real=True, num_train=10_000, num_held_out=10_000, width=0.125, batch_size=512),
    Setting(
        "shapes-128", real=False, num_train=5_000, num_held_out=5_000, width=0.25, batch_size=128,
        lr_min=0.004721826836398874,  # as an earlier form of the rule had found it
    ),
    Setting("real-128", real=True, num_train=8_000, num_held_out=10_000, width=0.1875, batch_size=128),
    Setting("shapes-512", real=False, num_train=6_000, num_held_out=4_000, width=0.1875, batch_size=512, epochs=16),
    Setting(
        "wide-512", real=True, num_train=10_000, num_held_out=5_000, width=0.5, batch_size=512,
        rates=GRID[2:7], lr_min=0.01,
    ),
    Setting("more-real-512", real=True, num_train=12_000, num_held_out=10_000, width=0.1875, batch_size=512),
    Setting(
        "long-shapes-128", real=False, num_train=8_000, num_held_out=2_000, width=0.125, batch_size=128, epochs=24
    ),
    Setting(
        "fresh-real-512", real=True, num_train=14_000, num_held_out=10_000, width=0.125, batch_size=512, epochs=14
    ),
    Setting(
        "fresh-shapes-256", real=False, num_train=10_000, num_held_out=6_000, width=0.125, batch_size=256,
        epochs=24, drawn=True,
    ),
)  # fmt: skip
# The same by the defaults since, those above. Earlier forms of the rule were judged on these; all but two failed.
MADE_ON = (
    Setting("missed-real-256", real=True, num_train=10_000, num_held_out=40_000, width=0.125, batch_size=256),
    Setting(
        "missed-shapes-128", real=False, num_train=10_000, num_held_out=10_000, width=0.125, batch_size=128,
        epochs=20, drawn=True,
    ),
    Setting(
        "fourth-real-128", real=True, num_train=20_000, num_held_out=20_000, width=0.125, batch_size=128, epochs=4
    ),
    Setting("missed-real-512", real=True, num_train=10_000, num_held_out=20_000, width=0.25, batch_size=512),
    Setting(
        "fifth-real-512", real=True, num_train=5_000, num_held_out=20_000, width=0.125, batch_size=512, epochs=24
    ),
    Setting(
        "fifth-shapes-128", real=False, num_train=4_000, num_held_out=10_000, width=0.1875, batch_size=128,
        epochs=24, drawn=True,
    ),
)  # fmt: skip
# A batch size and a width that it was not made on together, and one batch size that it was not made on at all. On the
# first the sixth form was judged, which has the same pairs there. The second is so long that its trainings, by those of
# `missed-shapes-128`, lie closer together than those of `sixth-shapes-64`, where 24 seeds tell no half point. That
# one, where the sixth form missed, is no setting any more: the grids of six of its seeds are at an LRMIN that is found
# no longer, so `sixth-shapes-64.json` alone tells of its rows.
JUDGED_ON = (
    Setting("sixth-real-256", real=True, num_train=12_000, num_held_out=20_000, width=0.1875, batch_size=256, epochs=8),
    Setting(
        "seventh-shapes-96", real=False, num_train=10_000, num_held_out=10_000, width=0.125, batch_size=96,
        epochs=24, drawn=True,
    ),
)  # fmt: skip
# Range tests alone: how far seeds lie apart, and what the batch size changes.
SPREAD = tuple(
    Setting(f"batch-{batch_size}", real=True, num_train=10_000, num_held_out=5_000, width=0.125, batch_size=batch_size)
    for batch_size in (32, 128, 512, 1024)
)
SETTINGS = {
    setting.name: setting
    for setting in (
        *(replace(setting, cycle_momentum=True, gradient_centralization=False) for setting in MADE_ON_BEFORE),
        *MADE_ON,
        *JUDGED_ON,
        *SPREAD,
    )
}
# So many seeds of what it was made on.
DESIGN = {
    "real-512": 2, "shapes-128": 1, "real-128": 2, "shapes-512": 2, "wide-512": 1, "more-real-512": 2,
    "long-shapes-128": 1, "fresh-real-512": 3, "fresh-shapes-256": 3, "missed-real-256": 8,
    "missed-shapes-128": 12, "fourth-real-128": 24, "missed-real-512": 24, "fifth-real-512": 36, "fifth-shapes-128": 24,
}  # fmt: skip
# A setting's rows may come from several machines: the same device on each, which is the faster one this narrow.
PRECISION = "fp32"
JUDGED = tuple(setting.name for setting in JUDGED_ON)
# Their later seeds lack the rates that the first ones show to be far behind.
RACED = (
    *JUDGED, "missed-shapes-128", "fourth-real-128", "missed-real-512", "fifth-real-512", "fifth-shapes-128",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One piece of work; without rates a range test."""

    setting: str
    seed: int
    lr_min: float | None = None
    lr_max: float | None = None


@dataclass(frozen=True)
class Step:
    """A row of sweeps.csv."""

    setting: str
    seed: int
    step: int
    lr: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Training:
    """A row of trainings.csv; a training that diverged counts as chance.

    Both accuracies are on the held-out images: of the network that comes of the run, and of the last step's weights.
    """

    setting: str
    seed: int
    lr_min: float
    lr_max: float
    accuracy: float
    raw_accuracy: float
    diverged: bool
    precision: str
    seconds: float


def grid_cells(name: str, seed: int, lr_min: float) -> list[Cell]:
    """The grid of one seed: all at one LRMIN, at most a third of LRMAX, so that little but LRMAX differs."""
    setting = SETTINGS[name]
    low = lr_min if setting.lr_min is None else setting.lr_min
    return [Cell(name, seed, min(low, lr_max / 3), lr_max) for lr_max in setting.rates]


@functools.cache
def data_of(name: str, archive: str) -> tuple[Any, Any]:
    """A dataset of the setting's training images, and its held-out images; no test image of the source is in either."""
    from scsuite.core.dataset import Split, split_holdout, load_dataset, shapes

    setting = SETTINGS[name]
    num_train = setting.num_train + (0 if setting.drawn else setting.num_held_out)
    data = load_dataset(archive if setting.real else "shapes", limit_train=num_train, limit_test=10)
    if setting.drawn:
        images_NHWC, labels_N, masks_NHW = shapes.generate(setting.num_held_out, seed=DRAWN_SEED)
        files = tuple(f"drawn/{index:05d}" for index in range(setting.num_held_out))
        train, held_out = data.train, Split(images_NHWC, labels_N, files, masks_NHW)
    else:
        train, held_out = split_holdout(data.train, setting.num_held_out)
    return replace(data, train=train, test=held_out.select(range(NUM_WATCHED))), held_out


def run_cell(cell: Cell, archive: str) -> list[Step] | list[Training]:
    """Do it, on one thread."""
    import torch

    torch.set_num_threads(1)
    return _sweep(cell, archive) if cell.lr_max is None else [_train(cell, archive)]


def _sweep(cell: Cell, archive: str) -> list[Step]:
    from scsuite.core.config import LrRangeConfig
    from scsuite.core.lr_range.range_test import range_test

    setting, (data, _) = SETTINGS[cell.setting], data_of(cell.setting, archive)
    config = LrRangeConfig(
        seed=cell.seed, batch_size=setting.batch_size, width=setting.width, workers=0, device="cpu",
        cycle_momentum=setting.cycle_momentum, gradient_centralization=setting.gradient_centralization,
        precision=PRECISION, **DEFAULTS_BEFORE,
    )  # fmt: skip
    (done,) = range_test(data, config).sweeps
    columns = zip(done.lrs_L.tolist(), done.losses_L.tolist(), done.accuracies_L.tolist(), strict=True)
    return [Step(cell.setting, cell.seed, step, *values) for step, values in enumerate(columns)]


def _train(cell: Cell, archive: str) -> Training:
    from scsuite.core.config import TrainConfig
    from scsuite.core.errors import DivergedError
    from scsuite.core.loop import Trainer, fit

    assert cell.lr_min is not None
    assert cell.lr_max is not None
    setting, (data, held_out) = SETTINGS[cell.setting], data_of(cell.setting, archive)
    begin = time.perf_counter()
    trainer = Trainer(
        data,
        TrainConfig(
            seed=cell.seed, batch_size=setting.batch_size, width=setting.width, epochs=setting.epochs,
            lr_min=cell.lr_min, lr_max=cell.lr_max, workers=0, device="cpu",
            cycle_momentum=setting.cycle_momentum, gradient_centralization=setting.gradient_centralization,
            precision=PRECISION, **DEFAULTS_BEFORE,
        ),
    )  # fmt: skip
    accuracy, diverged = 1 / len(data.class_names), True
    raw_accuracy = accuracy
    with contextlib.suppress(DivergedError):
        for _ in fit(trainer):
            pass
        accuracy, diverged = trainer.evaluate(held_out).accuracy, False
        raw_accuracy = trainer.evaluate(held_out, model=trainer.model).accuracy
    seconds, precision = time.perf_counter() - begin, trainer.device.precision
    return Training(
        cell.setting, cell.seed, cell.lr_min, cell.lr_max, accuracy, raw_accuracy, diverged, precision, seconds
    )


# --- rows on disk ---


def read_steps(folder: Path) -> list[Step]:
    """sweeps.csv; none where there is none."""
    return [Step(**row) for row in _read(folder / "sweeps.csv", Step)]


def read_trainings(folder: Path) -> list[Training]:
    """trainings.csv; none where there is none."""
    return [Training(**row) for row in _read(folder / "trainings.csv", Training)]


def _read(path: Path, row_type: type[Step] | type[Training]) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    kinds: dict[str, Any] = {f.name: f.type for f in fields(row_type)}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            yield {name: text == "True" if kinds[name] is bool else kinds[name](text) for name, text in row.items()}


def append_rows(folder: Path, rows: Sequence[Step] | Sequence[Training]) -> None:
    """Add one cell's rows to their file."""
    path = folder / ("sweeps.csv" if isinstance(rows[0], Step) else "trainings.csv")
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(rows[0])], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(map(asdict, rows))


def missing(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """Those without rows, each once. Rates are compared as written: a rule's own, to the last digit."""
    done = {Cell(step.setting, step.seed) for step in read_steps(folder)}
    done |= {Cell(row.setting, row.seed, row.lr_min, row.lr_max) for row in read_trainings(folder)}
    return [cell for cell in dict.fromkeys(cells) if cell not in done]


def note_environment(folder: Path, settings: Sequence[str], **facts: Any) -> None:
    """Add where these settings' rows come from to the file: those of a study may come from several machines."""
    path = folder / "environments.json"
    known = json.loads(path.read_text()) if path.exists() else []
    here = {name: value for name, value in environment().items() if name not in ("command_line", "process")}
    path.write_text(json.dumps([*known, {"settings": list(settings), **here, **facts}], indent=1) + "\n")


def _worker(work: tuple[Cell, str]) -> list[Step] | list[Training]:
    return run_cell(*work)


def run_all(cells: Sequence[Cell], folder: Path, archive: Path) -> None:
    """Run the cells that have no rows, one process a core; each cell's rows are written when it is done."""
    todo = missing(cells, folder)
    if not todo:
        return
    # First, so that the rows of a study cut short say where they come from; trainings name their precision themselves.
    note_environment(folder, list(dict.fromkeys(cell.setting for cell in todo)))
    begin = time.monotonic()
    work = [(cell, str(archive)) for cell in todo]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for number, rows in enumerate(pool.imap_unordered(_worker, work), 1):
            append_rows(folder, rows)
            said = rows[-1]
            minutes = (time.monotonic() - begin) / 60
            print(f"{number} of {len(todo)}, {minutes:.1f} min: {said}", flush=True)
