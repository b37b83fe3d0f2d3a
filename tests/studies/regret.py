"""How much accuracy a rule's learning rate costs: the regret study behind `lr-range`.

In: the cells' rows (`tests.studies.cells`). Out: for each setting and rule the regret, the best mean accuracy of the
grid minus the mean accuracy at the rule's rate, with a bootstrap interval over the seeds. S seeds, R rates of the grid.

A rule's rate differs from seed to seed, as its range test does. All of a seed's grid has one LRMIN, that of its range
test or the setting's own, so that nothing but LRMAX differs. On the settings that the rule is judged on, the found pair
is trained at; a rival's rate is not, its accuracy is read off the same seed's grid, linear in log rate, a little low
where the course bends. The found LRMAX is read off too: the rivals are held against that, like against like, but where
it is a rate of the grid it has nothing to lose by it. On the settings that the rule was made on it is all there is.

Where the rule is judged, only the first seeds have the whole grid: rates that these show to be none of the best are not
trained under the others, which leaves time for more seeds of those that matter (one step of a race, as of Maron and
Moore, https://proceedings.neurips.cc/paper/1993/hash/02a32ad2669e6fe298e607fe7cc0e1a0-Abstract.html). A rule with a
rate outside of these has the first seeds alone. The best of the grid's means is too high by its own luck, the more so
the fewer the seeds, and more in each resample: every regret, and more so its interval, lies too high, and regrets of
other numbers of seeds are not comparable. What a rule is behind the found pair, of the same seeds, is free of that.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm as normal
from scipy.stats import t as student

from scsuite.core import sweep
from scsuite.core.config import LrRangeConfig
from scsuite.core.lr_range.range_test import Sweep
from tests.studies import rivals
from tests.studies.cells import DESIGN, RACED, SETTINGS, Cell, Step, Training, grid_cells

Values = NDArray[np.float64]
NUM_RESAMPLES = 10_000
LEVEL = 0.95  # of the intervals
MIN_SEEDS = 6  # fewer have no interval: theirs would be too narrow for its name
# The seeds that have the whole grid, and how far behind the best of their means a rate is out of the race. Near the
# best, two rates differ with a standard deviation of 0.6 to 0.8 points over seeds (`missed-real-256`, eight seeds;
# `missed-shapes-128`, twelve), the means of three seeds with one of 0.4 to 0.5.
WHOLE_SEEDS = 3
BEHIND_MAX = 0.02
FOUND = "found pair"
READ_OFF = "found pair, read off the grid"
USUAL_ALONE = "usual LRMAX, no test"
TRAINED_DIVS = (10.0, 30.0)  # the found LRMIN is held against LRMAX over these

RIVALS: dict[str, Callable[[Sweep], float]] = {
    "steepest": lambda s: sweep.steepest(s.lrs_L, s.smooth_loss_L),
    "valley": lambda s: sweep.valley(s.lrs_L, s.smooth_loss_L),
    "minimum/10": lambda s: sweep.minimum_over_10(s.lrs_L, s.smooth_loss_L),
    "torch-lr-finder": lambda s: rivals.torch_lr_finder(s.lrs_L, s.losses_L),
    "Lightning": lambda s: rivals.lightning(s.lrs_L, s.losses_L),
}


@dataclass(frozen=True)
class Regret:
    """In fractions; intervals are the bootstrap's, None of fewer seeds than MIN_SEEDS.

    `rates_S` are the rule's LRMAX, one a seed, `seeds` how many of them have the trainings for accuracy and regret.
    `raw_accuracy` is that of the last step's weights in the same trainings; None where the accuracy is read off.
    `behind_found` is the mean accuracy at the found LRMAX minus this rule's: that of the found pair's trainings where
    this rule's are trained, read off the grid where they are read off.
    """

    setting: str
    rule: str
    seeds: int
    rates_S: tuple[float, ...]
    accuracy: float
    raw_accuracy: float | None
    regret: float
    interval: tuple[float, float] | None
    behind_found: float
    behind_interval: tuple[float, float] | None


def sweeps_of(steps: Iterable[Step], setting: str) -> dict[int, Sweep]:
    """The range tests of a setting by seed, as `lr-range` had them."""
    rows: dict[int, list[Step]] = {}
    for step in steps:
        if step.setting == setting:
            rows.setdefault(step.seed, []).append(step)
    config = LrRangeConfig()
    planned_L = sweep.sweep_lrs(config, 0)
    return {
        seed: sweep.make_sweep(
            seed, planned_L, [(s.loss, s.accuracy) for s in of_seed], len(of_seed) < config.steps
        )
        for seed, of_seed in sorted(rows.items())
    }


def usual_of(setting: str) -> float:
    """LRMAX before any test."""
    of = SETTINGS[setting]
    return sweep.reference_lr_max(LrRangeConfig(batch_size=of.batch_size, width=of.width), of.num_steps)


def pair_of(setting: str, test: Sweep) -> tuple[float, float]:
    """What `lr-range` finds by a sweep of this setting."""
    return sweep.choose(sweep.landmarks(test), usual_of(setting))


def cells_of(setting: str, seed: int, test: Sweep) -> list[Cell]:
    """The trainings of a seed: the grid at the found LRMIN; where the rule is judged, before it those at its pair.

    These are the found pair and the found LRMAX with two usual LRMIN.
    """
    lr_min, lr_max = pair_of(setting, test)
    lows = () if setting in DESIGN else (lr_min, *(lr_max / div for div in TRAINED_DIVS))
    return [*(Cell(setting, seed, low, lr_max) for low in lows), *grid_cells(setting, seed, lr_min)]


def accuracies_of(
    trainings: Sequence[Training], setting: str, sweeps: dict[int, Sweep], seeds: Sequence[int], *, raw: bool = False
) -> Values:
    """Accuracies in the order of `cells_of`, a row a seed; NaN for a training that a race has not.

    KeyError for one that another setting has not: these are whole.
    """
    known = {Cell(t.setting, t.seed, t.lr_min, t.lr_max): t.raw_accuracy if raw else t.accuracy for t in trainings}
    wanted = [cells_of(setting, seed, sweeps[seed]) for seed in seeds]
    if setting not in RACED:
        return np.array([[known[cell] for cell in cells] for cells in wanted])
    return np.array([[known.get(cell, math.nan) for cell in cells] for cells in wanted])


def seeds_of(steps: Iterable[Step], trainings: Iterable[Training], setting: str) -> list[int]:
    """The seeds with a range test, to be told of; none where the first of them have not all of their trainings."""
    sweeps = sweeps_of(steps, setting)
    known = {Cell(t.setting, t.seed, t.lr_min, t.lr_max) for t in trainings}
    first = range(WHOLE_SEEDS if setting in RACED else DESIGN[setting])
    if all(seed in sweeps and known.issuperset(cells_of(setting, seed, sweeps[seed])) for seed in first):
        return list(range(DESIGN[setting]) if setting in DESIGN else sweeps)
    return []


def contenders(grid_SR: Values) -> slice:
    """The rates that may be the best of the grid, by the mean accuracies of the first seeds, and what lies between.

    ValueError where these have not the whole grid.
    """
    means_R = grid_SR[:WHOLE_SEEDS].mean(axis=0)
    if np.isnan(means_R).any():
        raise ValueError(f"the first {WHOLE_SEEDS} seeds have not the whole grid")
    near_R = np.flatnonzero(means_R >= means_R.max() - BEHIND_MAX)
    return slice(int(near_R[0]), int(near_R[-1]) + 1)


def read_off(accuracies_R: Values, rate: float, grid: Sequence[float]) -> float:
    """The grid's accuracy at a rate, linear in log rate; beyond its ends that of the end, which flatters the rate."""
    return float(np.interp(math.log(rate), np.log(grid), accuracies_R))


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], num_seeds: int) -> tuple[float, float] | None:
    """The interval of a statistic of the seeds (a function of their indices), each resample as large as they are.

    Percentiles, further out the fewer the seeds: as far as Student's t lies beyond the normal distribution. Source: the
    expanded percentile interval of Hesterberg, https://arxiv.org/abs/1411.5279
    """
    if num_seeds < MIN_SEEDS:
        return None
    wider = math.sqrt(num_seeds / (num_seeds - 1)) * float(student.ppf((1 - LEVEL) / 2, num_seeds - 1))
    tail = float(normal.cdf(wider))
    rng = np.random.default_rng(0)
    values = [statistic(rng.integers(0, num_seeds, num_seeds)) for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def regrets(steps: Sequence[Step], trainings: Sequence[Training], setting: str, seeds: Sequence[int]) -> list[Regret]:
    """Every rule's, the found pair's first; each of the seeds that have its trainings and the contenders'."""
    sweeps, rates = sweeps_of(steps, setting), SETTINGS[setting].rates
    trained_SC = accuracies_of(trainings, setting, sweeps, seeds)
    raw_SC = accuracies_of(trainings, setting, sweeps, seeds, raw=True)
    grid_SR = trained_SC[:, -len(rates) :]
    race = contenders(grid_SR)
    tops_S = np.array([pair_of(setting, sweeps[seed])[1] for seed in seeds])
    read_S = _read_off_all(grid_SR, race, rates, tops_S)
    names = [] if setting in DESIGN else [FOUND, *(f"found LRMAX, LRMIN = LRMAX/{div:g}" for div in TRAINED_DIVS)]
    out = [
        _regret(setting, name, tops_S, grid_SR[:, race], trained_SC[:, index], trained_SC[:, 0], raw_SC[:, index])
        for index, name in enumerate(names)
    ]
    rules: dict[str, Callable[[Sweep], float]] = {
        READ_OFF: lambda s: pair_of(setting, s)[1], **RIVALS, USUAL_ALONE: lambda _: usual_of(setting),
    }  # fmt: skip
    for name, rule in rules.items():
        rates_S = np.array([rule(sweeps[seed]) for seed in seeds])
        accuracies_S = _read_off_all(grid_SR, race, rates, rates_S)
        out.append(_regret(setting, name, rates_S, grid_SR[:, race], accuracies_S, read_S, None))
    return out


def _read_off_all(grid_SR: Values, race: slice, rates: Sequence[float], rates_S: Values) -> Values:
    """A rule's accuracies; NaN where its seed has not the grid about it, or another's rate leaves the contenders'.

    All or none of the later seeds: those whose rates happen to lie among the contenders' alone would flatter the rule.
    """
    low, high = rates[race][0], rates[race][-1]
    among = bool(((rates_S >= low) & (rates_S <= high)).all())
    out_S = np.full(len(rates_S), math.nan)
    for index, (row_R, rate) in enumerate(zip(grid_SR, rates_S, strict=True)):
        if not np.isnan(row_R).any():
            out_S[index] = read_off(row_R, rate, rates)
        elif among:
            out_S[index] = read_off(row_R[race], rate, rates[race])
    return out_S


def _regret(
    setting: str,
    rule: str,
    rates_S: Values,
    contenders_SR: Values,
    accuracies_S: Values,
    found_S: Values,
    raw_S: Values | None,
) -> Regret:
    there_S = ~np.isnan(contenders_SR).any(axis=1) & ~np.isnan(accuracies_S)
    best_SR, own_S = contenders_SR[there_S], accuracies_S[there_S]
    behind_S = found_S - accuracies_S
    behind_S = behind_S[~np.isnan(behind_S)]

    def regret(chosen: NDArray[np.int64]) -> float:
        return float(best_SR[chosen].mean(axis=0).max() - own_S[chosen].mean())

    def behind(chosen: NDArray[np.int64]) -> float:
        return float(behind_S[chosen].mean())

    num, num_behind = len(own_S), len(behind_S)
    raw = None if raw_S is None else float(raw_S[there_S].mean())
    return Regret(
        setting, rule, num, tuple(rates_S.tolist()), float(own_S.mean()), raw, regret(np.arange(num)),
        bootstrap(regret, num), behind(np.arange(num_behind)), bootstrap(behind, num_behind),
    )  # fmt: skip
