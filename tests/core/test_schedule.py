"""The curves against theory and against torch's own schedulers."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR

from scsuite.core import schedule

LR_MIN, LR_MAX = 0.02, 0.5


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)


def walk(scheduler: LRScheduler, num_steps: int) -> Iterator[tuple[float, float]]:
    """The rate and the momentum of each step."""
    for step in range(num_steps):
        group = scheduler.optimizer.param_groups[0]
        yield float(group["lr"]), float(group["momentum"])
        scheduler.optimizer.step()
        if step < num_steps - 1:
            scheduler.step()


Mode = Literal["triangular", "triangular2", "exp_range"]


def assert_cyclic(curve: Callable[..., float], mode: Mode, step_size: int, gamma: float = 1.0) -> None:
    """That a curve has torch's rates, and the other way round its momenta, over three cycles and a half."""
    torchs = CyclicLR(
        optimizer(), LR_MIN, LR_MAX, step_size_up=step_size, mode=mode, gamma=gamma, base_momentum=0.85,
        max_momentum=0.95,
    )  # fmt: skip
    expected = list(walk(torchs, 7 * step_size + 3))
    for low, high, values in zip((LR_MIN, 0.95), (LR_MAX, 0.85), zip(*expected, strict=True), strict=True):
        ours = [curve(s, lr_min=low, lr_max=high, step_size=step_size) for s, _ in enumerate(values)]
        assert ours == pytest.approx(values, abs=1e-9)


def test_triangular_rises_to_lr_max_at_step_size_and_returns() -> None:
    lrs = [schedule.triangular(step, lr_min=0.1, lr_max=0.5, step_size=2) for step in range(6)]
    assert lrs == pytest.approx([
        0.1,  # step 0: start of the cycle
        0.3,  # step 1: half way up
        0.5,  # step 2: peak, step == step_size
        0.3,  # step 3: half way down
        0.1,  # step 4: the next cycle starts
        0.3,  # step 5: and rises
    ])  # fmt: skip


@pytest.mark.parametrize("step_size", [1, 2, 7, 490])
def test_triangular_is_torchs_cyclic_lr_and_its_momentum(step_size: int) -> None:
    assert_cyclic(schedule.triangular, "triangular", step_size)


@pytest.mark.parametrize("step_size", [1, 2, 7, 490])
def test_triangular2_is_torchs_cyclic_lr_and_its_momentum(step_size: int) -> None:
    assert_cyclic(schedule.triangular2, "triangular2", step_size)


@pytest.mark.parametrize("gamma", [1.0, 0.999, 0.9])
@pytest.mark.parametrize("step_size", [1, 7, 98])
def test_exp_range_is_torchs_cyclic_lr_and_its_momentum(step_size: int, gamma: float) -> None:
    assert_cyclic(functools.partial(schedule.exp_range, gamma=gamma), "exp_range", step_size, gamma)


# Epochs, steps of an epoch, peak in epochs; the peak falls on a whole step, as torch has no other.
CYCLES = [(24, 98, 5.0), (24, 98, 2.5), (3, 7, 1.0), (10, 13, 2.0), (8, 20, 2.5), (30, 40, 29.0), (2, 4, 0.5)]


def one_cycle(epochs: int, steps_per_epoch: int, peak: float, low: float = LR_MIN, high: float = LR_MAX) -> list[float]:
    num_steps = epochs * steps_per_epoch
    peak_step = schedule.peak_step(peak, steps_per_epoch, num_steps)
    return [
        schedule.one_cycle(step, lr_min=low, lr_max=high, peak_step=peak_step, num_steps=num_steps)
        for step in range(num_steps)
    ]


@pytest.mark.parametrize(("epochs", "steps_per_epoch", "peak"), CYCLES)
def test_one_cycle_is_torchs_one_cycle_lr_without_annihilation(epochs: int, steps_per_epoch: int, peak: float) -> None:
    torchs = OneCycleLR(
        optimizer(), LR_MAX, total_steps=epochs * steps_per_epoch, pct_start=peak / epochs, anneal_strategy="linear",
        div_factor=LR_MAX / LR_MIN, final_div_factor=1, base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    expected = list(walk(torchs, epochs * steps_per_epoch))
    assert one_cycle(epochs, steps_per_epoch, peak) == pytest.approx([lr for lr, _ in expected], abs=1e-9)
    momenta = one_cycle(epochs, steps_per_epoch, peak, low=0.95, high=0.85)
    assert momenta == pytest.approx([momentum for _, momentum in expected], abs=1e-9)


@pytest.mark.parametrize(("epochs", "steps_per_epoch", "peak"), [*CYCLES, (24, 79, 5.0), (7, 11, 7 * 5 / 24)])
def test_one_cycle_starts_and_ends_at_lr_min_peaks_at_lr_max_and_never_leaves_them(
    epochs: int, steps_per_epoch: int, peak: float
) -> None:
    lrs = one_cycle(epochs, steps_per_epoch, peak)
    assert lrs[0] == pytest.approx(LR_MIN, abs=1e-12)
    assert lrs[round(peak * steps_per_epoch) - 1] == pytest.approx(LR_MAX, abs=1e-12)
    assert lrs[-1] == pytest.approx(LR_MIN, abs=1e-12)
    assert min(lrs) >= LR_MIN
    assert max(lrs) <= LR_MAX + 1e-15
    assert len([a for a, b in itertools.pairwise(lrs) if b > a]) == round(peak * steps_per_epoch) - 1


def test_the_assignments_cycle_peaks_at_step_489_of_2352() -> None:
    lrs = one_cycle(24, 98, 5)
    assert len(lrs) == 2352
    assert max(range(2352), key=lrs.__getitem__) == 489
    assert lrs[244] == pytest.approx(LR_MIN + (LR_MAX - LR_MIN) * 244 / 489)  # on the way up
    assert lrs[1000] == pytest.approx(LR_MAX - (LR_MAX - LR_MIN) * (1000 - 489) / (2351 - 489))  # on the way down


@pytest.mark.parametrize(
    ("peak_epoch", "steps_per_epoch", "num_steps", "expected"),
    [
        (5, 98, 2352, 489),  # the assignment: 5 * 98 - 1
        (0.5, 98, 98, 48),  # inside the first epoch
        (5 / 24, 3, 3, 1),  # one epoch of three steps: 0.6 of a step rounds to none, yet both sides are there
        (0.01, 98, 98, 1),  # a peak before the second step
        (0.999, 100, 100, 98),  # a peak at the last step leaves none to fall
        (5 / 24, 2, 2, 0),  # too short for two sides
        (5 / 24, 1, 1, 0),
    ],
)
def test_peak_step_leaves_a_rising_and_a_falling_side_where_there_is_room(
    peak_epoch: float, steps_per_epoch: int, num_steps: int, expected: int
) -> None:
    assert schedule.peak_step(peak_epoch, steps_per_epoch, num_steps) == expected


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5])
def test_the_shortest_cycles_stay_between_their_limits(num_steps: int) -> None:
    lrs = one_cycle(1, num_steps, 5 / 24)
    assert all(LR_MIN <= lr <= LR_MAX + 1e-15 for lr in lrs)
    assert max(lrs) == pytest.approx(LR_MAX)
    assert num_steps == 1 or lrs[-1] == pytest.approx(LR_MIN)


@pytest.mark.parametrize("num_steps", [2, 10, 200])
def test_exponential_goes_from_end_to_end_by_a_constant_factor(num_steps: int) -> None:
    lrs = [schedule.exponential(s, lr_start=1e-3, lr_end=10.0, num_steps=num_steps) for s in range(num_steps)]
    assert lrs == pytest.approx(np.geomspace(1e-3, 10, num_steps).tolist(), rel=1e-12)
    factors = [b / a for a, b in itertools.pairwise(lrs)]
    assert factors == pytest.approx([math.exp(math.log(1e4) / (num_steps - 1))] * (num_steps - 1), rel=1e-12)


@pytest.mark.parametrize("num_steps", [2, 10, 200])
def test_linear_goes_from_end_to_end_by_a_constant_difference(num_steps: int) -> None:
    lrs = [schedule.linear(s, lr_start=1e-3, lr_end=10.0, num_steps=num_steps) for s in range(num_steps)]
    assert lrs == pytest.approx(np.linspace(1e-3, 10, num_steps).tolist(), rel=1e-12)
