"""The learning-rate range test: one short training in which the rate rises from step to step.

In: a dataset and a LrRangeConfig. Out: the curves, each rule's suggestion, and the pair (lr_min, lr_max) with a reason.
The rules are pure functions of the curves; they work in log rate. L is the number of steps that a sweep did.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scsuite.core.config import MIN_RANGE_TEST_STEPS, RecipeConfig
from scsuite.core.errors import DivergedError

Float1D = NDArray[np.float64]

SMOOTHING_FRACTION = 0.05  # of the sweep's steps that an exponential moving average looks back on
FALL_START_FRACTION = 0.1  # of the loss's fall, where LRMIN is read off
VALLEY_FRACTION = 0.1  # of the loss's fall: so near its lowest it counts as lowest
TURN_FRACTION = 0.4  # of the loss's fall so far: a rise of so much is the turn, a smaller one a stumble
# Times the noise of the smoothed loss: of a smaller fall or rise nothing is read. The study's losses that are learned
# from fall by 16.8 times it or more; where nothing is learned they fall by up to 13.2 and rise by up to 9.1 times it,
# since an untrained network's first losses lie off those of one guess for all images.
MIN_SIGNAL_TO_NOISE = 15.0
# LRMAX that usually suits this network at width 1, in a training of REFERENCE_STEPS steps of REFERENCE_BATCH_SIZE images; it grows
# with the square root of batch over width, and the fourth root of how much shorter a training is (`tests.studies.forms`
# has what other powers cost). Sgd: cifar10-fast's 0.4 over its 24 epochs of 50,000 images. AdamW: near 0.032 at width
# 0.125 in 200 steps, the best and highest of one grid there (`runs/reference/adamw`), untried at width 1.
REFERENCE_LR_MAX = {"sgd": 0.4, "adamw": 0.006}
REFERENCE_BATCH_SIZE, REFERENCE_STEPS = 512, 24 * 98
# The shortest training of the study; one that is far shorter does better with less again (`runs/reference/short`).
SHORT_TRAINING_STEPS = 192
# Times the rate at which a test's loss stops falling, LRMAX lies between these: about half and twice what was seen. The
# best rates of the study's settings lie at 0.05 to 1.5 times it; at width 1, cifar10-fast's 0.4 at 1.8 times.
MIN_VALLEY_RATIO, MAX_VALLEY_RATIO = 1 / 32, 4.0
NUM_WARMUP_STEPS = 10  # the average of the first so many is where the loss starts from
DIVERGENCE_FACTOR = 4.0  # a smoothed loss of so many times its lowest ends the sweep; as fastai and Lightning do


@dataclass(frozen=True)
class LrSweep:
    """One repeat: rate, loss and accuracy of each step done, as they came and smoothed.

    `noise` is the smoothed loss's standard deviation, in nats; `diverged`: the loss ended the sweep.
    """

    seed: int
    lrs_L: Float1D
    losses_L: Float1D
    accuracies_L: Float1D
    smooth_loss_L: Float1D
    smooth_accuracy_L: Float1D
    noise: float
    diverged: bool


def make_sweep(seed: int, lrs_L: Float1D, rows: list[tuple[float, float]], diverged: bool) -> LrSweep:
    """A sweep of its planned rates and the (loss, accuracy) of each step done.

    Raises DivergedError where these are fewer than NUM_WARMUP_STEPS.
    """
    if len(rows) < NUM_WARMUP_STEPS:
        raise DivergedError(
            "range test diverged", f"step {len(rows)}", expected=f"at least {NUM_WARMUP_STEPS} steps before that",
            found=f"divergence by learning rate {lrs_L[len(rows)]:.4g}", hint="Lower --lr-start.",
        )  # fmt: skip
    losses_L, accuracies_L = np.array(rows).T
    window = smoothing_window(len(lrs_L))
    smooth_loss_L, smooth_accuracy_L = smooth(losses_L, window), smooth(accuracies_L, window)
    noise = smoothed_noise(losses_L, window)
    return LrSweep(seed, lrs_L[: len(rows)], losses_L, accuracies_L, smooth_loss_L, smooth_accuracy_L, noise, diverged)


def mean_curves(sweeps: Sequence[LrSweep]) -> tuple[Float1D, Float1D, Float1D]:
    """Rates, smoothed loss and smoothed accuracy, averaged over the repeats as far as all of them went."""
    num = min(len(sweep.lrs_L) for sweep in sweeps)
    losses = np.mean([sweep.smooth_loss_L[:num] for sweep in sweeps], axis=0)
    accuracies = np.mean([sweep.smooth_accuracy_L[:num] for sweep in sweeps], axis=0)
    return sweeps[0].lrs_L[:num], losses, accuracies


def smoothing_window(num_steps: int) -> float:
    """Steps that the average of a sweep of so many looks back on: the same stretch of log rate for any number."""
    return max(2.0, SMOOTHING_FRACTION * num_steps)


class ExponentialAverage:
    """An exponential moving average as its values come."""

    def __init__(self, window: float) -> None:
        self.decay, self.num_values, self.biased = 1 - 1 / window, 0, 0.0

    def update(self, value: float) -> float:
        """The average with one more value."""
        self.num_values += 1
        self.biased = self.decay * self.biased + (1 - self.decay) * value
        return self.biased / (1 - self.decay**self.num_values)


def smooth(values_L: Float1D, window: float) -> Float1D:
    """Exponential moving average with bias correction: the first value is its own mean, not drawn towards 0."""
    average = ExponentialAverage(window)
    return np.array([average.update(float(value)) for value in values_L])


def steepest(lrs_L: Float1D, smooth_loss_L: Float1D) -> float:
    """Where the loss falls fastest per log rate."""
    return float(lrs_L[np.gradient(smooth_loss_L, np.log(lrs_L)).argmin()])


def valley(lrs_L: Float1D, smooth_loss_L: Float1D) -> float:
    """Two thirds along the longest falling subsequence of the loss; as fastai's valley."""
    num = len(smooth_loss_L)
    lengths, before = np.ones(num, dtype=int), np.full(num, -1)
    for i in range(1, num):
        higher = np.flatnonzero(smooth_loss_L[:i] > smooth_loss_L[i])
        if len(higher):
            before[i] = higher[lengths[higher].argmax()]
            lengths[i] = lengths[before[i]] + 1
    end = start = int(lengths.argmax())
    while before[start] >= 0:
        start = int(before[start])
    return float(lrs_L[round(start + (end - start) * 2 / 3)])


def minimum_over_10(lrs_L: Float1D, smooth_loss_L: Float1D) -> float:
    """A tenth of the rate with the lowest loss."""
    return float(lrs_L[smooth_loss_L.argmin()] / 10)


def accuracy_plateau(lrs_L: Float1D, smooth_accuracy_L: Float1D) -> float:
    """Where the accuracy has made 95 % of its whole rise and slows; Smith's max_lr."""
    low, high = smooth_accuracy_L.min(), smooth_accuracy_L.max()
    return float(lrs_L[(smooth_accuracy_L >= low + 0.95 * (high - low)).argmax()])


def edge_of_divergence(lrs_L: Float1D, smooth_loss_L: Float1D, noise: float) -> float:
    """The rate of the lowest loss before it first rises for good: the edge_of_divergence of divergence."""
    return float(lrs_L[first_turn(smooth_loss_L, noise)[0]])


def first_turn(smooth_loss_L: Float1D, noise: float) -> tuple[int, int | None]:
    """The step of the lowest loss before the loss first rises for good, and the step by which it has, if it does.

    For good: by TURN_FRACTION of its fall so far, and by four times its noise. What comes after does not count: with batch norm
    the loss often falls again at huge rates, where nothing can be trained.
    """
    lowest = NUM_WARMUP_STEPS - 1
    start = smooth_loss_L[lowest]
    for step in range(NUM_WARMUP_STEPS, len(smooth_loss_L)):
        if smooth_loss_L[step] < smooth_loss_L[lowest]:
            lowest = step
        elif smooth_loss_L[step] - smooth_loss_L[lowest] > max(
            TURN_FRACTION * (start - smooth_loss_L[lowest]), 4 * noise
        ):
            return lowest, step
    return lowest, None


def smoothed_noise(losses_L: Float1D, window: float) -> float:
    """Standard deviation of the smoothed loss about its course, from the differences of neighbouring raw losses.

    Of independent normal values with deviation s, neighbours differ by 0.954 s in the median, and the average over a
    window of w steps has the deviation s / sqrt(2 w - 1).
    """
    return float(np.median(np.abs(np.diff(losses_L))) / 0.954 / math.sqrt(2 * window - 1))


RULES: dict[str, Callable[[LrSweep], float]] = {
    "steepest": lambda s: steepest(s.lrs_L, s.smooth_loss_L),
    "valley": lambda s: valley(s.lrs_L, s.smooth_loss_L),
    "minimum_over_10": lambda s: minimum_over_10(s.lrs_L, s.smooth_loss_L),
    "accuracy_plateau": lambda s: accuracy_plateau(s.lrs_L, s.smooth_accuracy_L),
    "edge_of_divergence": lambda s: edge_of_divergence(s.lrs_L, s.smooth_loss_L, s.noise),
}


class Landmarks(NamedTuple):
    """Rates of a sweep: where the loss starts to fall, where it stops falling, and what LRMAX must not exceed, and why.

    `start` and `flat` are None where the fall is lost in the noise; `first` is the sweep's first rate.
    """

    first_lr: float
    fall_start_lr: float | None
    valley_lr: float | None
    upper_bound: float
    upper_bound_reason: str


def find_landmarks(sweep: LrSweep) -> Landmarks:
    """It starts to fall where FALL_START_FRACTION of the fall is made, Smith's lower bound, and stops in the middle of its valley.

    The valley is where the loss lies within VALLEY_FRACTION of its fall from its lowest, before it first turns; its middle in log
    rate varies less from seed to seed than its lowest point, which is noise in a flat.
    Source of the lower bound: section 3.3 of https://arxiv.org/abs/1506.01186
    """
    loss_L, lrs_L = sweep.smooth_loss_L, sweep.lrs_L
    turn, rise = first_turn(loss_L, sweep.noise)
    first = NUM_WARMUP_STEPS - 1  # before, the average is of too few steps
    start, lowest = loss_L[first], loss_L[turn]
    bound, first_lr = _upper_bound(sweep), float(lrs_L[0])
    if start - lowest < MIN_SIGNAL_TO_NOISE * sweep.noise:
        return Landmarks(first_lr, None, None, *bound)
    low = first + int((loss_L[first : turn + 1] <= start - FALL_START_FRACTION * (start - lowest)).argmax())
    valley_L = first + np.flatnonzero(loss_L[first:rise] <= lowest + VALLEY_FRACTION * (start - lowest))
    middle = geometric_mean([float(lrs_L[valley_L[0]]), float(lrs_L[valley_L[-1]])])
    return Landmarks(first_lr, float(lrs_L[low]), middle, *bound)


def _upper_bound(sweep: LrSweep) -> tuple[float, str]:
    """A turn is none: many a loss stumbles and falls on. Half, since the average lags behind the loss."""
    first, last = NUM_WARMUP_STEPS - 1, float(sweep.lrs_L[-1])
    lost_L = np.flatnonzero(sweep.smooth_loss_L > sweep.smooth_loss_L[first] + MIN_SIGNAL_TO_NOISE * sweep.noise)
    after_L = lost_L[lost_L > first]
    if len(after_L):
        return float(sweep.lrs_L[after_L[0]]) / 2, "half the rate at which the loss had risen past its start"
    return (last / 2, "half the rate at which the loss diverged") if sweep.diverged else (last, "the test's last rate")


def reference_lr_max(config: RecipeConfig, num_steps: int) -> float:
    """LRMAX of a training of so many steps, before any test; for a cycled momentum too, whose mean is near 0.9.

    The study's rows with it, and without gradient centralization, want half of this: which of the two does is untold.
    """
    size, length = (
        config.batch_size / REFERENCE_BATCH_SIZE / config.width,
        max(num_steps, SHORT_TRAINING_STEPS) / REFERENCE_STEPS,
    )
    short = min(1.0, num_steps / SHORT_TRAINING_STEPS)
    return REFERENCE_LR_MAX[config.optimizer] * math.sqrt(size * short) / math.pow(length, 1 / 4)


def choose_bounds(found: Landmarks, usual: float) -> tuple[float, float]:
    """The pair (lr_min, lr_max): where the loss starts to fall, and the usual rate as far as the test allows it.

    A few steps from fresh weights do not say what suits a long training: a wide network's loss trips at rates that it
    later bears, a narrow one's still falls at rates that are too noisy for it later. In the settings that the rule was
    made on the best rates follow batch size, width and length, and hardly where the loss stops falling; so that only
    limits them (`tests/studies` holds the pair against other rules on settings that the rule was not made on). Where
    the fall is lost in the noise there is the usual rate alone, and a thirtieth of it or the test's first rate. None
    exceeds the bound.
    """
    lr_max = min(_clamp_to_valley(usual, found.valley_lr), found.upper_bound)
    start = max(lr_max / 30, found.first_lr) if found.fall_start_lr is None else found.fall_start_lr
    return min(start, lr_max / 3), lr_max


def _clamp_to_valley(usual: float, flat: float | None) -> float:
    return usual if flat is None else min(max(usual, MIN_VALLEY_RATIO * flat), MAX_VALLEY_RATIO * flat)


def explain(found: Sequence[Landmarks], usual: float) -> str:
    """Why the pair is what it is, in a sentence; of several repeats, why that of a middle one."""
    one = sorted(found, key=lambda each: choose_bounds(each, usual)[1])[(len(found) - 1) // 2]
    lr_min, lr_max = choose_bounds(one, usual)
    wanted = _clamp_to_valley(usual, one.valley_lr)
    said = f"{usual:.2g}, the usual rate of this network at this width, batch size and length of training"
    if one.valley_lr is None:
        said += ", since the fall of the loss is lost in the noise"
    else:
        valley = f"{one.valley_lr:.2g}, the middle of the valley where the loss stops falling"
        if wanted == usual:
            said += f"; the test allows {MIN_VALLEY_RATIO * one.valley_lr:.2g} to {MAX_VALLEY_RATIO * one.valley_lr:.2g} by {valley}"
        else:
            limit = f"{MAX_VALLEY_RATIO:g} times" if wanted < usual else f"1/{1 / MIN_VALLEY_RATIO:g} of"
            said = f"{limit} {valley}, {'below' if wanted < usual else 'above'} {said}"
    said = f"LRMAX is {said}" if wanted == lr_max else f"LRMAX is {one.upper_bound_reason}, which lies below {said}"
    if one.fall_start_lr is None:
        said += "; LRMIN is a thirtieth of LRMAX, or the test's first rate, at most a third"
    elif lr_min < one.fall_start_lr:
        said += "; LRMIN is a third of LRMAX, no tenth of the loss's fall being seen before that"
    else:
        said += f"; LRMIN is where {100 * FALL_START_FRACTION:.0f} % of its fall is made"
    if len(found) > 1:
        said += f". So it is in one of {len(found)} repeats; the pair is the geometric mean of theirs"
    return f"{said}."


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def make_warnings(
    sweeps: Sequence[LrSweep], found: Sequence[Landmarks], lr_max_values: Sequence[float], num_steps: int
) -> Iterator[str]:
    if num_steps < MIN_RANGE_TEST_STEPS:  # as planned: one that divergence ends early is as fine as it was before
        yield f"only {num_steps} steps: the pair is uncertain; {MIN_RANGE_TEST_STEPS} or more are better"
    if any(one.valley_lr is None for one in found):
        yield "the loss hardly fell beyond its noise, so the pair is the usual one alone; raise --steps or --bs"
    turns = [first_turn(sweep.smooth_loss_L, sweep.noise)[1] for sweep in sweeps]
    if not all(sweep.diverged or turn is not None for sweep, turn in zip(sweeps, turns, strict=True)):
        yield "the loss had not turned at the last rate: the upper limit may lie beyond it; raise --lr-end"
    if any(_turns_immediately(sweep, one) for sweep, one in zip(sweeps, found, strict=True)):
        yield "the loss turned at the first rates: lower --lr-start"
    # LRMAX alone, the usual rate as a rule, would hide how far the tests themselves lie apart.
    flats = [one.valley_lr for one in found if one.valley_lr is not None]
    if any(values and max(values) > 2 * min(values) for values in (flats, lr_max_values)):
        falls = f"the loss stops falling at {min(flats):.3g} to {max(flats):.3g}, " if flats else ""
        tops = f"lr_max {min(lr_max_values):.3g} to {max(lr_max_values):.3g}"
        yield f"the repeats disagree by more than a factor of two: {falls}{tops}"


def _turns_immediately(sweep: LrSweep, found: Landmarks) -> bool:
    end = 2 * found.upper_bound if found.valley_lr is None else found.valley_lr
    return end <= float(sweep.lrs_L[: NUM_WARMUP_STEPS + 1][-1])
