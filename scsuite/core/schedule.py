"""The learning-rate curves: pure functions `f(step) -> value`; the loop owns the counter and applies the value.

In: a step, from 0, and the curve's parameters. Out: a learning rate (or a momentum).
`zigzag` draws these, `lr-range` walks them and `train` follows them.
"""

import math


def triangular(step: int, *, lr_min: float, lr_max: float, step_size: int) -> float:
    """Learning rate at `step` of the triangular policy; one cycle is 2 * step_size steps.

    Rises linearly from lr_min (step 0) to lr_max (step == step_size), falls back, repeats.
    Source: Smith, Cyclical Learning Rates, https://arxiv.org/abs/1506.01186
    """
    return lr_min + (lr_max - lr_min) * _height(step, step_size)


def triangular2(step: int, *, lr_min: float, lr_max: float, step_size: int) -> float:
    """Like `triangular`, its height halved after each cycle. Source: as `triangular`."""
    cycle = step // (2 * step_size)  # from 0
    return lr_min + (lr_max - lr_min) * _height(step, step_size) * 0.5**cycle


def exp_range(step: int, *, lr_min: float, lr_max: float, step_size: int, gamma: float) -> float:
    """Like `triangular`, its height times gamma**step. Source: as `triangular`."""
    return lr_min + (lr_max - lr_min) * _height(step, step_size) * gamma**step


def _height(step: int, step_size: int) -> float:
    position = step % (2 * step_size) / step_size  # [0, 2): below 1 rising, above 1 falling
    return 1 - abs(position - 1)


def one_cycle(step: int, *, lr_min: float, lr_max: float, peak_step: int, num_steps: int) -> float:
    """Learning rate at `step` of one cycle over `num_steps` steps, without annihilation.

    lr_min at step 0, lr_max at `peak_step`, lr_min again at step num_steps - 1, linear between, and never below lr_min.
    Momentum cycles the other way when lr_min and lr_max are its high and low ends.
    Source: Smith, Super-Convergence, https://arxiv.org/abs/1708.07120; the same as torch's OneCycleLR
    with anneal_strategy="linear" and final_div_factor=1.
    """
    if step <= peak_step:
        share = step / peak_step if peak_step else 1.0
    else:
        share = (num_steps - 1 - step) / (num_steps - 1 - peak_step)
    return lr_min + (lr_max - lr_min) * share


def steps_per_epoch_of(num_images: int, batch_size: int) -> int:
    """Batches that hold each image once: the last one holds what is left."""
    return math.ceil(num_images / batch_size)


def peak_step_of(peak_epoch: float, steps_per_epoch: int, num_steps: int) -> int:
    """The last step of the epochs up to the peak: round(peak_epoch * steps_per_epoch) - 1.

    A run of three steps or more has a rising and a falling side however short it is.
    """
    last = round(peak_epoch * steps_per_epoch) - 1
    return min(max(last, 1), num_steps - 2) if num_steps >= 3 else 0


def exponential(step: int, *, lr_start: float, lr_end: float, num_steps: int) -> float:
    """Learning rate at `step` of a sweep with a constant factor from step to step; lr_end at step num_steps - 1."""
    return float(lr_start * (lr_end / lr_start) ** (step / (num_steps - 1)))


def linear(step: int, *, lr_start: float, lr_end: float, num_steps: int) -> float:
    """Learning rate at `step` of a sweep with a constant difference from step to step; lr_end at step num_steps - 1."""
    return lr_start + (lr_end - lr_start) * step / (num_steps - 1)
