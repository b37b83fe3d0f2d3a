"""How much accuracy the learning rate of a rule costs: the regret study behind `lr-range`.

In: the rows of the cells (`tests.studies.trainings`). Out: the regret of each setting and rule, which is the best mean
accuracy of the grid minus the mean accuracy at the rule's LRMAX, with a bootstrap interval over the seeds.
S seeds, R learning rates of the grid, C cells of a seed, B resamples.

A rule has a different LRMAX for each seed, because each seed has its own range test. The grid of a seed has one LRMIN,
that of its range test or of the setting, so that only LRMAX differs. On the settings that the rule is tested on, our
LR bounds are trained; LRMAX of a baseline is not, its accuracy is interpolated on the grid of the same seed, linearly
in log LR, which is a little low where the curve bends. Our LRMAX is interpolated too, for a fair comparison with the
baselines, except that interpolation costs nothing at an LR of the grid. On the design settings there is nothing else.

On the test settings only the first seeds have the full grid. LRs that these show to be far from the best are not
trained with the others, which leaves time for more seeds (one step of a Hoeffding race, as of Maron and Moore,
https://proceedings.neurips.cc/paper/1993/hash/02a32ad2669e6fe298e607fe7cc0e1a0-Abstract.html). A rule with an LRMAX
outside the remaining LRs has only the first seeds. The best mean of the grid is too high by chance, more so for fewer
seeds and in each resample: every regret, and more so its interval, is too high, and regrets of different numbers of
seeds cannot be compared. The deficit of a rule, its distance from our LR bounds on the same seeds, is free of that.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm as normal
from scipy.stats import t as student

from scsuite.core.config import LrRangeConfig
from scsuite.core.lr_range import rules
from scsuite.core.lr_range.run_sweep import sweep_lrs
from scsuite.core.lr_range.sweep import LrSweep, make_sweep
from tests.studies import baselines
from tests.studies.trainings import NUM_DESIGN_SEEDS, SETTINGS, SUCCESSIVE_HALVING, Cell, Step, Training, grid_cells

Values = NDArray[np.float64]
Indices = NDArray[np.int64]
NUM_RESAMPLES = 10_000
LEVEL = 0.95  # of the intervals
MIN_SEEDS = 6  # fewer have no interval: it would be too narrow
# Seeds with the full grid, and how far below the best of their means an LR is dropped. Near the best, two LRs differ
# with a standard deviation of 0.6 to 0.8 points over seeds (`missed-real-256`, eight seeds; `missed-shapes-128`,
# twelve), the means of three seeds with one of 0.4 to 0.5.
NUM_FULL_GRID_SEEDS = 3
MAX_DISTANCE = 0.02
TRAINED = "LR bounds"
INTERPOLATED = "LRMAX, interpolated"
REFERENCE_ONLY = "reference LRMAX, no test"
TRAINED_DIV_FACTORS = (10.0, 30.0)  # LRMIN is compared with LRMAX over these
DIV_FACTOR_RULES = tuple(f"LRMAX, LRMIN = LRMAX / {div_factor:g}" for div_factor in TRAINED_DIV_FACTORS)

# Rules of the literature on the complete curve, as their authors read it; `lr-range` reads it up to the first turn.
BASELINES: dict[str, Callable[[LrSweep], float]] = {
    "steepest": lambda s: rules.steepest(s.lrs_L, s.smooth_loss_L),
    "valley": lambda s: rules.valley(s.lrs_L, s.smooth_loss_L),
    "minimum_over_10": lambda s: rules.minimum_over_10(s.lrs_L, s.smooth_loss_L),
    "torch-lr-finder": lambda s: baselines.torch_lr_finder(s.lrs_L, s.losses_L),
    "Lightning": lambda s: baselines.lightning(s.lrs_L, s.losses_L),
}


@dataclass(frozen=True)
class Regret:
    """Accuracy and regret of one rule, as fractions; intervals are None for fewer seeds than MIN_SEEDS.

    `lr_max_S` is the LRMAX of each seed; `seeds` counts those with the trainings for accuracy and regret.
    `accuracy_no_ema` is of the same trainings; None where the accuracy is interpolated.
    `deficit` is the mean accuracy at our LRMAX minus that of this rule, trained or interpolated as this rule's.
    """

    setting: str
    rule: str
    seeds: int
    lr_max_S: tuple[float, ...]
    accuracy: float
    accuracy_no_ema: float | None
    regret: float
    interval: tuple[float, float] | None
    deficit: float
    deficit_interval: tuple[float, float] | None


def make_sweeps(steps: Iterable[Step], setting: str) -> dict[int, LrSweep]:
    """Return the range tests of a setting by seed, as `lr-range` had them."""
    steps_by_seed: dict[int, list[Step]] = {}
    for step in steps:
        if step.setting == setting:
            steps_by_seed.setdefault(step.seed, []).append(step)
    config = LrRangeConfig()
    lrs_L = sweep_lrs(config, 0)
    return {
        seed: make_sweep(seed, lrs_L, [(step.loss, step.accuracy) for step in rows], len(rows) < config.steps)
        for seed, rows in sorted(steps_by_seed.items())
    }


def reference_lr(name: str) -> float:
    """Return the reference LR of a setting."""
    setting = SETTINGS[name]
    config = LrRangeConfig(batch_size=setting.batch_size, width=setting.width)
    return rules.reference_lr_max(config, setting.num_steps)


def find_bounds(setting: str, sweep: LrSweep) -> tuple[float, float]:
    """Return the LR bounds that `lr-range` finds with a sweep of this setting."""
    return rules.choose_bounds(rules.find_landmarks(sweep), reference_lr(setting))


def make_cells(setting: str, seed: int, sweep: LrSweep) -> list[Cell]:
    """Return the trainings of a seed: the grid at its LRMIN.

    On a test setting these come first: our LR bounds, and our LRMAX with two common LRMIN.
    """
    lr_min, lr_max = find_bounds(setting, sweep)
    lr_mins = () if setting in NUM_DESIGN_SEEDS else (lr_min, *(lr_max / div for div in TRAINED_DIV_FACTORS))
    return [*(Cell(setting, seed, low, lr_max) for low in lr_mins), *grid_cells(setting, seed, lr_min)]


def accuracy_table(
    trainings: Sequence[Training], setting: str, sweeps: dict[int, LrSweep], seeds: Sequence[int], *, ema: bool = True
) -> Values:
    """Return accuracies in the order of `make_cells`, a row per seed.

    A training that successive halving left out is NaN. A missing training of any other setting is a KeyError.
    """
    accuracies = {
        Cell(row.setting, row.seed, row.lr_min, row.lr_max): row.accuracy if ema else row.accuracy_no_ema
        for row in trainings
    }
    cells = [make_cells(setting, seed, sweeps[seed]) for seed in seeds]
    if setting not in SUCCESSIVE_HALVING:
        return np.array([[accuracies[cell] for cell in row] for row in cells])
    return np.array([[accuracies.get(cell, math.nan) for cell in row] for row in cells])


def complete_seeds(steps: Iterable[Step], trainings: Iterable[Training], setting: str) -> list[int]:
    """Return the seeds to report; none if one of the first seeds lacks a training."""
    sweeps = make_sweeps(steps, setting)
    done = {Cell(row.setting, row.seed, row.lr_min, row.lr_max) for row in trainings}
    first = range(NUM_FULL_GRID_SEEDS if setting in SUCCESSIVE_HALVING else NUM_DESIGN_SEEDS[setting])
    if all(seed in sweeps and done.issuperset(make_cells(setting, seed, sweeps[seed])) for seed in first):
        return list(range(NUM_DESIGN_SEEDS[setting]) if setting in NUM_DESIGN_SEEDS else sweeps)
    return []


def remaining_lrs(grid_SR: Values) -> slice:
    """Return the LRs that can be the best of the grid, by the means of the first seeds, and those between them.

    Raises ValueError if the first seeds do not have the full grid.
    """
    means_R = grid_SR[:NUM_FULL_GRID_SEEDS].mean(axis=0)
    if np.isnan(means_R).any():
        raise ValueError(f"the first {NUM_FULL_GRID_SEEDS} seeds do not have the full grid")
    near_R = np.flatnonzero(means_R >= means_R.max() - MAX_DISTANCE)
    return slice(int(near_R[0]), int(near_R[-1]) + 1)


def interpolate_accuracy(accuracies_R: Values, lr: float, lrs: Sequence[float]) -> float:
    """Return the accuracy at an LR, linear in log LR; outside the grid that of its end, which favours the rule."""
    return float(np.interp(math.log(lr), np.log(lrs), accuracies_R))


def bootstrap_interval(statistic: Callable[[Indices], Values], num_seeds: int) -> tuple[float, float] | None:
    """Return the interval of a statistic of the seeds: a function of indices_BS that returns values_B.

    The percentiles are further out for fewer seeds, as far as Student's t is beyond the normal distribution: the
    expanded percentile interval of Hesterberg, https://arxiv.org/abs/1411.5279
    """
    if num_seeds < MIN_SEEDS:
        return None
    quantile = math.sqrt(num_seeds / (num_seeds - 1)) * float(student.ppf((1 - LEVEL) / 2, num_seeds - 1))
    tail = float(normal.cdf(quantile))
    indices_BS = np.random.default_rng(0).integers(0, num_seeds, (NUM_RESAMPLES, num_seeds))
    low, high = np.quantile(statistic(indices_BS), [tail, 1 - tail])
    return float(low), float(high)


def compute_regrets(
    steps: Sequence[Step], trainings: Sequence[Training], setting: str, seeds: Sequence[int]
) -> list[Regret]:
    """Return the regret of every rule, ours first, each over the seeds that have the trainings it needs."""
    sweeps, lrs = make_sweeps(steps, setting), SETTINGS[setting].lrs
    trained_SC = accuracy_table(trainings, setting, sweeps, seeds)
    no_ema_SC = accuracy_table(trainings, setting, sweeps, seeds, ema=False)
    grid_SR = trained_SC[:, -len(lrs) :]
    remaining = remaining_lrs(grid_SR)
    best_SR = grid_SR[:, remaining]
    lr_max_S = np.array([find_bounds(setting, sweeps[seed])[1] for seed in seeds])
    names = [] if setting in NUM_DESIGN_SEEDS else [TRAINED, *DIV_FACTOR_RULES]
    regrets = [
        _regret(setting, name, lr_max_S, best_SR, trained_SC[:, cell], trained_SC[:, 0], no_ema_SC[:, cell])
        for cell, name in enumerate(names)
    ]
    ours_S = _interpolate_all(grid_SR, remaining, lrs, lr_max_S)
    all_rules: dict[str, Callable[[LrSweep], float]] = {
        INTERPOLATED: lambda s: find_bounds(setting, s)[1],
        **BASELINES,
        REFERENCE_ONLY: lambda _: reference_lr(setting),
    }
    for name, rule in all_rules.items():
        lr_max_S = np.array([rule(sweeps[seed]) for seed in seeds])
        accuracies_S = _interpolate_all(grid_SR, remaining, lrs, lr_max_S)
        regrets.append(_regret(setting, name, lr_max_S, best_SR, accuracies_S, ours_S, None))
    return regrets


def _interpolate_all(grid_SR: Values, remaining: slice, lrs: Sequence[float], lr_max_S: Values) -> Values:
    """Return the accuracies of a rule; NaN for a seed without the grid around its LRMAX.

    Later seeds count only if LRMAX of every seed is among the remaining LRs: a selection of the seeds for which it is
    would favour the rule.
    """
    low, high = lrs[remaining][0], lrs[remaining][-1]
    all_inside = bool(((lr_max_S >= low) & (lr_max_S <= high)).all())
    accuracies_S = np.full(len(lr_max_S), math.nan)
    for index, (row_R, lr) in enumerate(zip(grid_SR, lr_max_S, strict=True)):
        if not np.isnan(row_R).any():
            accuracies_S[index] = interpolate_accuracy(row_R, lr, lrs)
        elif all_inside:
            accuracies_S[index] = interpolate_accuracy(row_R[remaining], lr, lrs[remaining])
    return accuracies_S


def _regret(
    setting: str,
    rule: str,
    lr_max_S: Values,
    remaining_SR: Values,
    accuracies_S: Values,
    ours_S: Values,
    no_ema_S: Values | None,
) -> Regret:
    complete_S = ~np.isnan(remaining_SR).any(axis=1) & ~np.isnan(accuracies_S)
    grid_SR, rule_S = remaining_SR[complete_S], accuracies_S[complete_S]
    deficit_S = ours_S - accuracies_S
    deficit_S = deficit_S[~np.isnan(deficit_S)]

    def regret(indices_BS: Indices) -> Values:
        return np.asarray(grid_SR[indices_BS].mean(axis=1).max(axis=1) - rule_S[indices_BS].mean(axis=1))

    def deficit(indices_BS: Indices) -> Values:
        return np.asarray(deficit_S[indices_BS].mean(axis=1))

    num_seeds, num_deficits = len(rule_S), len(deficit_S)
    return Regret(
        setting, rule, num_seeds, tuple(lr_max_S.tolist()), float(rule_S.mean()),
        None if no_ema_S is None else float(no_ema_S[complete_S].mean()),
        float(regret(np.arange(num_seeds)[None])[0]), bootstrap_interval(regret, num_seeds),
        float(deficit(np.arange(num_deficits)[None])[0]), bootstrap_interval(deficit, num_deficits),
    )  # fmt: skip
