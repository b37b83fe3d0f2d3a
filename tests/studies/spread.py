"""How far range tests that differ only in their seed lie apart, and what the batch size changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scsuite.core.lr_range.range_test import landmarks
from tests.studies.cells import SETTINGS, SPREAD, Cell, Step
from tests.studies.regret import pair_of, sweeps_of

NUM_SEEDS = 10
SPREADS = tuple(setting.name for setting in SPREAD)


@dataclass(frozen=True)
class Spread:
    """The found pairs of a setting over its seeds: geometric means, and the largest LRMAX over the smallest.

    `test_ratio` is that of where the loss stops falling: the test's own word, which LRMAX hardly follows; None
    where for some seed the fall is lost in the noise.
    """

    name: str
    batch_size: int
    seeds: int
    lr_min: float
    lr_max: float
    ratio: float
    test_ratio: float | None


def spread_cells(names: Sequence[str]) -> list[Cell]:
    """Range tests alone."""
    return [Cell(name, seed) for name in names for seed in range(NUM_SEEDS)]


def spreads(steps: Sequence[Step], name: str) -> Spread:
    """Of the first NUM_SEEDS seeds."""
    sweeps = [one for seed, one in sweeps_of(steps, name).items() if seed < NUM_SEEDS]
    lows, highs = zip(*(pair_of(name, one) for one in sweeps), strict=True)
    flats = [flat for one in sweeps if (flat := landmarks(one).flat) is not None]
    test_ratio = max(flats) / min(flats) if len(flats) == len(sweeps) else None
    return Spread(
        name, SETTINGS[name].batch_size, len(sweeps), _mean(lows), _mean(highs), max(highs) / min(highs),
        test_ratio,
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
