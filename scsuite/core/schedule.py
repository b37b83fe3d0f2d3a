"""Learning-rate curves: pure functions `f(step) -> value`, and `OneCycle`, the schedule of a training.

In: a step, counted from 0, and the parameters of the curve. Out: a learning rate or a momentum.
The training loop owns the step counter and applies the value; `zigzag` draws the same curves.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scsuite.core.config import MOMENTUM, is_finite_number, resolve_peak_epoch

if TYPE_CHECKING:  # zigzag needs no torch
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


def triangular(step: int, *, lr_min: float, lr_max: float, step_size: int) -> float:
    """Return the learning rate of the triangular policy at `step`.

    The learning rate rises linearly from lr_min at step 0 to lr_max at step `step_size`, falls back to lr_min
    in the same number of steps, and repeats.

    Args:
        step: Step, from 0.
        lr_min: Learning rate at the ends of a cycle.
        lr_max: Learning rate in the middle of a cycle.
        step_size: Half the length of a cycle, in steps.

    Returns:
        The learning rate.

    Raises:
        ZeroDivisionError: For a step_size of 0.

    Example:
        >>> [triangular(step, lr_min=0.1, lr_max=0.3, step_size=2) for step in range(4)]
        [0.1, 0.2, 0.3, 0.2]

    Source: Smith, Cyclical Learning Rates, https://arxiv.org/abs/1506.01186
    """
    return lr_min + (lr_max - lr_min) * _triangle(step, step_size)


def triangular2(step: int, *, lr_min: float, lr_max: float, step_size: int) -> float:
    """Return `triangular` with its height halved after each cycle. Source: see `triangular`."""
    cycle = step // (2 * step_size)  # from 0
    return lr_min + (lr_max - lr_min) * _triangle(step, step_size) * 0.5**cycle


def exp_range(step: int, *, lr_min: float, lr_max: float, step_size: int, gamma: float) -> float:
    """Return `triangular` with its height multiplied by gamma**step. Source: see `triangular`."""
    return lr_min + (lr_max - lr_min) * _triangle(step, step_size) * gamma**step


def _triangle(step: int, step_size: int) -> float:
    position = step % (2 * step_size) / step_size  # in [0, 2): rising below 1, falling above 1
    return 1 - abs(position - 1)


def one_cycle(step: int, *, lr_min: float, lr_max: float, peak_step: int, num_steps: int) -> float:
    """Return the learning rate of one cycle over `num_steps` steps at `step`, without annihilation.

    The learning rate is lr_min at step 0, lr_max at `peak_step` and lr_min again at step num_steps - 1; it is linear
    between them and never below lr_min. For a momentum, which cycles the other way, give its high end as lr_min and its
    low end as lr_max.

    Args:
        step: Step, from 0.
        lr_min: Learning rate of the first and the last step.
        lr_max: Learning rate at the peak.
        peak_step: Step of the peak.
        num_steps: Length of the cycle.

    Returns:
        The learning rate.

    Raises:
        ZeroDivisionError: For a step after a peak in the last step.

    Example:
        >>> [one_cycle(step, lr_min=0.1, lr_max=0.3, peak_step=2, num_steps=5) for step in range(5)]
        [0.1, 0.2, 0.3, 0.2, 0.1]

    Source: Smith, Super-Convergence, https://arxiv.org/abs/1708.07120; equal to torch's OneCycleLR with
    anneal_strategy="linear" and final_div_factor=1.
    """
    if step <= peak_step:
        progress = step / peak_step if peak_step else 1.0
    else:
        progress = (num_steps - 1 - step) / (num_steps - 1 - peak_step)
    return lr_min + (lr_max - lr_min) * progress


def num_steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Return the number of batches of an epoch, which has each image once; the last batch may be smaller."""
    return math.ceil(num_images / batch_size)


def peak_step(peak_epoch: float, steps_per_epoch: int, num_steps: int) -> int:
    """Return the last step of the epochs up to the peak: round(peak_epoch * steps_per_epoch) - 1.

    A cycle of at least three steps always has a rising and a falling side.
    """
    last_step = round(peak_epoch * steps_per_epoch) - 1
    return min(max(last_step, 1), num_steps - 2) if num_steps >= 3 else 0


@dataclass(frozen=True)
class OneCycle:
    """The One Cycle schedule of a training: learning rate and momentum of each step.

    Args:
        lr_min: Learning rate of the first and the last step.
        lr_max: Learning rate of step `peak_step`.
        peak_step: Step of the peak, from 0.
        num_steps: Steps of the cycle.
        steps_per_epoch: Steps of an epoch.
        momentum_max: Momentum of the first and the last step.
        momentum_min: Momentum at the peak; equal to `momentum_max` for a constant momentum.

    Raises:
        ValueError: For learning rates that are not positive and finite, or a peak outside the cycle.

    Example:
        >>> cycle = OneCycle.from_epochs(lr_min=0.04, lr_max=0.4, epochs=24, steps_per_epoch=98)
        >>> cycle.peak_step, cycle.lr_at(0), cycle.lr_at(489), cycle.lr_at(2351)
        (489, 0.04, 0.4, 0.04)
    """

    lr_min: float
    lr_max: float
    peak_step: int
    num_steps: int
    steps_per_epoch: int
    momentum_max: float = MOMENTUM
    momentum_min: float = MOMENTUM

    def __post_init__(self) -> None:
        counts = (self.peak_step, self.num_steps, self.steps_per_epoch)
        if not all(type(count) is int for count in counts) or not 0 <= self.peak_step < self.num_steps:
            raise ValueError(f"peak at step {self.peak_step!r:.40} is outside a cycle of {self.num_steps!r:.40} steps")
        if self.steps_per_epoch < 1:
            raise ValueError(f"{self.steps_per_epoch} steps per epoch are not 1 or more")
        for value in (self.lr_min, self.lr_max, self.momentum_max, self.momentum_min):
            if not is_finite_number(value) or value <= 0:
                raise ValueError(f"learning rate or momentum {value!r:.40} is not positive and finite")

    @classmethod
    def from_epochs(
        cls,
        *,
        lr_min: float,
        lr_max: float,
        epochs: int,
        steps_per_epoch: int,
        peak_epoch: float | None = None,
        momentum_max: float = MOMENTUM,
        momentum_min: float = MOMENTUM,
    ) -> "OneCycle":
        """Return the cycle over `epochs`, with its peak at the end of `peak_epoch` (default: 5/24 of the epochs)."""
        num_steps = epochs * steps_per_epoch
        peak = peak_step(resolve_peak_epoch(peak_epoch, epochs), steps_per_epoch, num_steps)
        return cls(lr_min, lr_max, peak, num_steps, steps_per_epoch, momentum_max, momentum_min)

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self._value_at(step, self.lr_min, self.lr_max)

    def momentum_at(self, step: int) -> float:
        """Return the momentum of a step; it cycles against the learning rate."""
        return self._value_at(step, self.momentum_max, self.momentum_min)

    def _value_at(self, step: int, ends: float, peak: float) -> float:
        return one_cycle(step, lr_min=ends, lr_max=peak, peak_step=self.peak_step, num_steps=self.num_steps)

    def lrs(self) -> list[float]:
        """Return the learning rate of every step."""
        return [self.lr_at(step) for step in range(self.num_steps)]

    def scheduler(self, optimizer: "Optimizer", last_epoch: int = -1) -> "LRScheduler":
        """Return the cycle as a torch scheduler for a training loop of your own; call its `step` after each step.

        Args:
            optimizer: All of its parameter groups get the cycle's learning rate. They get the cycle's momentum (Adam:
                the first beta) only if `momentum_max` and `momentum_min` differ; else theirs stays as it is.
            last_epoch: Number of the last step done, from 0, to continue from there; -1: start.

        Returns:
            A `torch.optim.lr_scheduler.LRScheduler`. After the last step it stays at `lr_min`.

        Raises:
            ValueError: For a momentum to cycle and an optimizer without one; from `step`, beyond the end of the cycle.

        Example:
            >>> import torch
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.04, momentum=0.9, nesterov=True)
            >>> scheduler = cycle.scheduler(optimizer)
        """
        from scsuite.core.training.optimizer import OneCycleScheduler

        return OneCycleScheduler(self, optimizer, last_epoch)


def exponential(step: int, *, lr_start: float, lr_end: float, num_steps: int) -> float:
    """Return the learning rate of a sweep with a constant factor between steps; lr_end at step num_steps - 1."""
    return float(lr_start * (lr_end / lr_start) ** (step / (num_steps - 1)))


def linear(step: int, *, lr_start: float, lr_end: float, num_steps: int) -> float:
    """Return the learning rate of a sweep with a constant difference between steps; lr_end at step num_steps - 1."""
    return lr_start + (lr_end - lr_start) * step / (num_steps - 1)
