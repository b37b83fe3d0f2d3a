"""One sweep of a range test: a short training in which the learning rate rises from step to step.

In: a dataset, a `LrRangeConfig`, a network of the user's own if there is one. Out: a `LrSweep` with its curves.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
from torch import nn

from scsuite.core import schedule
from scsuite.core.config import MOMENTUM, MOMENTUM_MIN, LrRangeConfig
from scsuite.core.dataset import Dataset
from scsuite.core.distributed import World
from scsuite.core.errors import UsageError
from scsuite.core.lr_range.sweep import (
    DIVERGENCE_FACTOR,
    NUM_WARMUP_STEPS,
    ExponentialAverage,
    Float1D,
    LrSweep,
    make_sweep,
    smoothing_window,
)
from scsuite.core.runs.results import StepResult
from scsuite.core.training.loader import Batch, TrainLoader
from scsuite.core.training.setup import make_setup
from scsuite.core.training.step import launch_step, read_step_outputs

OnStep = Callable[[StepResult, int], None]


def num_sweep_steps(config: LrRangeConfig, num_images: int) -> int:
    """Return the length of the sweep: `steps`, or `epochs` times the steps of an epoch.

    Raises UsageError if the epochs have fewer than NUM_WARMUP_STEPS steps.
    """
    if config.epochs is None:
        return config.steps
    steps_per_epoch = schedule.num_steps_per_epoch(num_images, config.batch_size)
    num_steps = round(config.epochs * steps_per_epoch)
    if num_steps < NUM_WARMUP_STEPS:
        raise UsageError(
            "option", "--epochs", expected=f"{NUM_WARMUP_STEPS} steps or more, at {steps_per_epoch} per epoch",
            found=f"{config.epochs:g} epochs, {num_steps} steps", hint="Raise --epochs, lower --bs, or give --steps.",
        )  # fmt: skip
    return num_steps


def sweep_lrs(config: LrRangeConfig, num_images: int) -> Float1D:
    """Return the learning rate of each step."""
    num_steps = num_sweep_steps(config, num_images)
    curve = {"exp": schedule.exponential, "linear": schedule.linear}[config.curve]
    return np.array(
        [curve(step, lr_start=config.lr_start, lr_end=config.lr_end, num_steps=num_steps) for step in range(num_steps)]
    )


def run_sweep(
    data: Dataset, config: LrRangeConfig, repeat: int, on_step: OnStep | None, world: World, model: nn.Module | None
) -> LrSweep:
    """Run one repeat until its last learning rate, or until the loss diverges. A user's own `model` is trained."""
    momentum = MOMENTUM_MIN if config.cycle_momentum else MOMENTUM  # as at the peak of the training
    setup = make_setup(data, config, momentum, world, model)
    lrs_L = sweep_lrs(config, len(setup.train))
    rows: list[tuple[float, float]] = []
    average, lowest, diverged = ExponentialAverage(smoothing_window(len(lrs_L))), math.inf, False
    start_time = time.perf_counter()
    for step, (lr, batch) in enumerate(zip(lrs_L.tolist(), _cycle_epochs(setup.loader), strict=False)):
        (values,) = read_step_outputs([launch_step(setup, batch, step, lr, momentum)])
        if values is None:
            diverged = True
            break
        loss, num_correct = values
        num_images = setup.loader.batch_size_at(step)
        if on_step is not None:
            seconds = time.perf_counter() - start_time
            on_step(StepResult(step, lr, momentum, loss, num_correct, num_images, seconds), repeat)
        accuracy = num_correct / num_images
        if setup.val is not None:
            evaluation = setup.evaluate(setup.model, setup.val)
            loss, accuracy = evaluation.loss, evaluation.accuracy
        if not math.isfinite(loss):  # the loss of held-out images can overflow after a finite update
            diverged = True
            break
        rows.append((loss, accuracy))
        smooth_loss = average.update(loss)
        lowest = min(lowest, smooth_loss)
        diverged = smooth_loss > DIVERGENCE_FACTOR * lowest
        if diverged:
            break
        start_time = time.perf_counter()
    return make_sweep(config.seed, lrs_L, rows, diverged)


def _cycle_epochs(loader: TrainLoader) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)
