"""How much the LR bounds of range tests with different seeds differ, and what the batch size changes.

In: the rows of sweeps.csv. Out: a `SeedVariance` per setting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scsuite.core.lr_range.rules import find_landmarks, geometric_mean
from tests.studies.regret import find_bounds, make_sweeps
from tests.studies.trainings import SETTINGS, VARIANCE_SETTINGS, Cell, Step

NUM_SEEDS = 10
VARIANCE_NAMES = tuple(setting.name for setting in VARIANCE_SETTINGS)


@dataclass(frozen=True)
class SeedVariance:
    """The LR bounds of a setting over its seeds: geometric means, and the largest LRMAX over the smallest.

    `valley_ratio` is the same ratio of the loss valleys, which LRMAX hardly follows; None if noise hides one of them.
    """

    name: str
    batch_size: int
    seeds: int
    lr_min: float
    lr_max: float
    lr_max_ratio: float
    valley_ratio: float | None


def variance_cells(names: Sequence[str]) -> list[Cell]:
    """Return the range tests of these settings."""
    return [Cell(name, seed) for name in names for seed in range(NUM_SEEDS)]


def compute_variance(steps: Sequence[Step], name: str) -> SeedVariance:
    """Compare the first NUM_SEEDS seeds of a setting."""
    sweeps = [sweep for seed, sweep in make_sweeps(steps, name).items() if seed < NUM_SEEDS]
    lr_mins, lr_maxs = zip(*(find_bounds(name, sweep) for sweep in sweeps), strict=True)
    valley_lrs = [lr for sweep in sweeps if (lr := find_landmarks(sweep).valley_lr) is not None]
    valley_ratio = max(valley_lrs) / min(valley_lrs) if len(valley_lrs) == len(sweeps) else None
    return SeedVariance(
        name, SETTINGS[name].batch_size, len(sweeps), geometric_mean(lr_mins), geometric_mean(lr_maxs),
        max(lr_maxs) / min(lr_maxs), valley_ratio,
    )  # fmt: skip
