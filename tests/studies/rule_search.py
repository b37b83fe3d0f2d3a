"""How the rule for LRMAX was chosen: what each of 720 candidate rules costs on the design settings.

    python -m tests.studies.rule_search

A candidate is a reference LR that follows powers of batch size, width and number of steps, and moves a fraction of the
way, in log LR, to the loss valley of the range test; none exceeds the upper bound of the test. Its regret is from the
mean accuracies of the grid of each setting, smoothed by a cubic in log LR through those near the best. The mean regret
of a candidate counts each seed once, because the settings differ in their number of seeds. All candidates give the full
network 0.4, in the middle of the LRs that are good there (`tests.studies.full_size`). The chosen one has the smallest
largest regret, and the second smallest mean.
In: the rows of the study. Out: a table.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.polynomial import Polynomial
from rich.console import Console
from rich.table import Table

from scsuite.core.lr_range.rules import (
    REFERENCE_BATCH_SIZE,
    REFERENCE_LR_MAX,
    REFERENCE_STEPS,
    Landmarks,
    find_landmarks,
)
from tests.studies.__main__ import OUT
from tests.studies.regret import Values, accuracy_table, make_sweeps
from tests.studies.trainings import NUM_DESIGN_SEEDS, SETTINGS, Setting, read_steps, read_trainings

TOO_NOISY = "shapes-128"
# The cubic is fitted to accuracies within this of the best, at most MAX_LRS_AWAY grid LRs away.
MAX_DISTANCE = 0.08
MAX_LRS_AWAY = 3


@dataclass(frozen=True)
class Candidate:
    """A candidate rule for LRMAX.

    reference = 0.4 * factor * (batch / 512)**batch_power / width**width_power / (steps / 2352)**step_power
    lr_max = reference**(1 - valley_fraction) * valley_lr**valley_fraction

    The factor is `old_factor` in the settings with the old defaults, `--cycle-momentum --no-gradient-centralization`.
    """

    batch_power: float
    width_power: float
    step_power: float
    old_factor: float
    valley_fraction: float

    def lr_max(self, setting: Setting, test: Landmarks) -> float:
        """Return LRMAX for one range test."""
        size = (setting.batch_size / REFERENCE_BATCH_SIZE) ** self.batch_power
        reference = REFERENCE_LR_MAX["sgd"] * size / setting.width**self.width_power
        reference /= (setting.num_steps / REFERENCE_STEPS) ** self.step_power
        reference *= self.old_factor if setting.cycle_momentum else 1.0
        if test.valley_lr is not None:
            reference = reference ** (1 - self.valley_fraction) * test.valley_lr**self.valley_fraction
        return float(min(reference, test.upper_bound))


BATCH_POWERS = (0.5, 0.75, 1.0)
WIDTH_POWERS = (0.0, 1 / 4, 1 / 3, 1 / 2, 2 / 3)
STEP_POWERS = (0.0, 1 / 4, 1 / 2)
OLD_FACTORS = (0.5, 0.7, 1.0, 1.5)
VALLEY_FRACTIONS = (0.0, 1 / 8, 1 / 4, 3 / 8)
CANDIDATES = tuple(
    itertools.starmap(
        Candidate, itertools.product(BATCH_POWERS, WIDTH_POWERS, STEP_POWERS, OLD_FACTORS, VALLEY_FRACTIONS)
    )
)


@dataclass(frozen=True)
class AccuracyCurve:
    """One setting: its range tests, and the smoothed accuracy over log LRMAX between two ends."""

    setting: Setting
    tests: tuple[Landmarks, ...]
    smooth: Polynomial
    low: float
    high: float
    best: float

    def regret(self, candidate: Candidate) -> float:
        """Return the mean over the range tests, as a fraction; outside the curve that of its end."""
        logs = np.log([candidate.lr_max(self.setting, test) for test in self.tests])
        return self.best - float(self.smooth(np.clip(logs, self.low, self.high)).mean())


def fit_curve(lrs: Sequence[float] | Values, means_R: Values) -> tuple[Polynomial, float, float, float]:
    """Return a cubic in log LR through the means near the best, the log LRs of its ends, and its maximum."""
    logs_R, best = np.log(lrs), int(means_R.argmax())
    near = slice(max(0, best - MAX_LRS_AWAY), best + MAX_LRS_AWAY + 1)
    is_used = means_R[near] > means_R.max() - MAX_DISTANCE
    logs, means = logs_R[near][is_used], means_R[near][is_used]
    cubic = Polynomial.fit(logs, means, min(3, len(logs) - 1))
    return cubic, float(logs[0]), float(logs[-1]), float(cubic(np.linspace(logs[0], logs[-1], 400)).max())


def accuracy_curves(folder: Path) -> list[AccuracyCurve]:
    """Return the curves of the design settings, without the one that is too noisy."""
    steps, trainings = read_steps(folder), read_trainings(folder)
    curves = []
    for name, num_seeds in NUM_DESIGN_SEEDS.items():
        if name == TOO_NOISY:
            continue
        setting, sweeps, seeds = SETTINGS[name], make_sweeps(steps, name), range(num_seeds)
        grid_SR = accuracy_table(trainings, name, sweeps, seeds)[:, -len(setting.lrs) :]
        is_complete_R = ~np.isnan(grid_SR).any(axis=0)  # after successive halving, the LRs that all seeds have
        tests = tuple(find_landmarks(sweeps[seed]) for seed in seeds)
        means_R = grid_SR[:, is_complete_R].mean(axis=0)
        curves.append(AccuracyCurve(setting, tests, *fit_curve(np.array(setting.lrs)[is_complete_R], means_R)))
    return curves


@dataclass(frozen=True)
class Cost:
    """The regrets of a candidate, one per setting, and their mean over all seeds; as fractions."""

    mean: float
    regrets: tuple[float, ...]


def candidate_costs(curves: Sequence[AccuracyCurve]) -> dict[Candidate, Cost]:
    """Return the costs of all candidates, the smallest mean first."""
    num_seeds = [len(curve.tests) for curve in curves]
    costs = {}
    for candidate in CANDIDATES:
        regrets = [curve.regret(candidate) for curve in curves]
        costs[candidate] = Cost(float(np.average(regrets, weights=num_seeds)), tuple(regrets))
    return dict(sorted(costs.items(), key=lambda item: item[1].mean))


def main() -> None:
    """Print the twenty candidates with the smallest mean."""
    curves = accuracy_curves(OUT)
    table = Table(
        "power of the batch", "of the width", "of the steps", "factor of the old defaults", "fraction to the valley",
        "mean over seeds (points)", "largest", *(f"{curve.setting.name} ({len(curve.tests)})" for curve in curves),
    )  # fmt: skip
    for candidate, cost in list(candidate_costs(curves).items())[:20]:
        powers = (candidate.batch_power, -candidate.width_power, -candidate.step_power)
        values = (*powers, candidate.old_factor, candidate.valley_fraction)
        points = (cost.mean, max(cost.regrets), *cost.regrets)
        table.add_row(*(f"{value:.3g}" for value in values), *(f"{100 * value:.2f}" for value in points))
    Console(width=230).print(table)


if __name__ == "__main__":
    main()
