"""One sweep of the range test: its curves, raw and smoothed, their noise, and where the loss first turns.

In: learning rate, loss and accuracy of the L steps of a sweep. Out: an `LrSweep`. All are pure functions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scsuite.core.errors import DivergedError

Float1D = NDArray[np.float64]

SMOOTHING_FRACTION = 0.05  # window of the moving average, as a fraction of the planned steps
TURN_FRACTION = 0.4  # a rise of more than this fraction of the drop so far ends the descent; a smaller one is noise
NUM_WARMUP_STEPS = 10  # the smoothed loss at the last of these steps is the start of the drop
DIVERGENCE_FACTOR = 4.0  # the sweep ends when the smoothed loss exceeds its minimum this many times; fastai, Lightning


@dataclass(frozen=True)
class LrSweep:
    """One repeat: learning rate, loss and accuracy of each step done, raw and smoothed.

    `noise` is the standard deviation of the smoothed loss, in nats; `diverged` says whether the loss ended the sweep.
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
    """Return the sweep of the planned learning rates and the (loss, accuracy) of each step done.

    Raises DivergedError for fewer than NUM_WARMUP_STEPS rows.
    """
    if len(rows) < NUM_WARMUP_STEPS:
        raise DivergedError(
            "range test diverged", f"step {len(rows)}", expected=f"at least {NUM_WARMUP_STEPS} steps before that",
            found=f"divergence at learning rate {lrs_L[len(rows)]:.4g}", hint="Lower --lr-start.",
        )  # fmt: skip
    losses_L, accuracies_L = np.array(rows).T
    window = smoothing_window(len(lrs_L))
    smooth_loss_L, smooth_accuracy_L = smooth(losses_L, window), smooth(accuracies_L, window)
    noise = smoothed_noise(losses_L, window)
    return LrSweep(seed, lrs_L[: len(rows)], losses_L, accuracies_L, smooth_loss_L, smooth_accuracy_L, noise, diverged)


def mean_curves(sweeps: Sequence[LrSweep]) -> tuple[Float1D, Float1D, Float1D]:
    """Return learning rates, mean smoothed loss and mean smoothed accuracy over the steps that all repeats did."""
    num_steps = min(len(sweep.lrs_L) for sweep in sweeps)
    losses = np.mean([sweep.smooth_loss_L[:num_steps] for sweep in sweeps], axis=0)
    accuracies = np.mean([sweep.smooth_accuracy_L[:num_steps] for sweep in sweeps], axis=0)
    return sweeps[0].lrs_L[:num_steps], losses, accuracies


def smoothing_window(num_steps: int) -> float:
    """Return the window of the moving average in steps; it covers the same range of log LR for any number of steps."""
    return max(2.0, SMOOTHING_FRACTION * num_steps)


class ExponentialAverage:
    """Exponential moving average with bias correction, updated one value at a time."""

    def __init__(self, window: float) -> None:
        self.decay, self.num_values, self.biased = 1 - 1 / window, 0, 0.0

    def update(self, value: float) -> float:
        """Add a value and return the average."""
        self.num_values += 1
        self.biased = self.decay * self.biased + (1 - self.decay) * value
        return self.biased / (1 - self.decay**self.num_values)


def smooth(values_L: Float1D, window: float) -> Float1D:
    """Return the exponential moving average of each step; the first equals the first value."""
    average = ExponentialAverage(window)
    return np.array([average.update(float(value)) for value in values_L])


def first_turn(smooth_loss_L: Float1D, noise: float) -> tuple[int, int | None]:
    """Return the step of the lowest loss before the first turn, and the step that confirms the turn, None without one.

    A turn is a rise by more than TURN_FRACTION of the drop so far and more than four times the noise. Later steps are
    ignored: with batch norm the loss often falls again at huge LRs, at which no training works.
    """
    lowest = NUM_WARMUP_STEPS - 1
    start_loss = smooth_loss_L[lowest]
    for step in range(NUM_WARMUP_STEPS, len(smooth_loss_L)):
        loss, lowest_loss = smooth_loss_L[step], smooth_loss_L[lowest]
        if loss < lowest_loss:
            lowest = step
        elif loss - lowest_loss > max(TURN_FRACTION * (start_loss - lowest_loss), 4 * noise):
            return lowest, step
    return lowest, None


def smoothed_noise(losses_L: Float1D, window: float) -> float:
    """Return the standard deviation of the smoothed loss around its trend, from differences of adjacent raw losses.

    For independent normal values with deviation s, the median absolute difference of neighbours is 0.954 s, and the
    average over a window of w steps has the deviation s / sqrt(2 w - 1).
    """
    return float(np.median(np.abs(np.diff(losses_L))) / 0.954 / math.sqrt(2 * window - 1))
