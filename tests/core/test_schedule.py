"""The curves and `OneCycle` against theory, against torch's schedulers and against their docstrings' examples."""

import ast
import doctest
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR

from scsuite.core import schedule
from scsuite.core.schedule import OneCycle

LR_MIN, LR_MAX = 0.02, 0.5


def make_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)


def run_scheduler(scheduler: LRScheduler, num_steps: int) -> Iterator[tuple[float, float]]:
    """Yield learning rate and momentum of each step."""
    for step in range(num_steps):
        group = scheduler.optimizer.param_groups[0]
        yield float(group["lr"]), float(group["momentum"])
        scheduler.optimizer.step()
        if step < num_steps - 1:
            scheduler.step()


Mode = Literal["triangular", "triangular2", "exp_range"]


def assert_cyclic(curve: Callable[..., float], mode: Mode, step_size: int, gamma: float = 1.0) -> None:
    """Compare learning rates with torch's over three and a half cycles, and momenta with the ends exchanged."""
    scheduler = CyclicLR(
        make_optimizer(), LR_MIN, LR_MAX, step_size_up=step_size, mode=mode, gamma=gamma, base_momentum=0.85,
        max_momentum=0.95,
    )  # fmt: skip
    expected = list(run_scheduler(scheduler, 7 * step_size + 3))
    for low, high, values in zip((LR_MIN, 0.95), (LR_MAX, 0.85), zip(*expected, strict=True), strict=True):
        curve_values = [curve(s, lr_min=low, lr_max=high, step_size=step_size) for s, _ in enumerate(values)]
        assert curve_values == pytest.approx(values, abs=1e-9)


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
def test_triangular_equals_cyclic_lr_and_its_momentum(step_size: int) -> None:
    assert_cyclic(schedule.triangular, "triangular", step_size)


@pytest.mark.parametrize("step_size", [1, 2, 7, 490])
def test_triangular2_equals_cyclic_lr_and_its_momentum(step_size: int) -> None:
    assert_cyclic(schedule.triangular2, "triangular2", step_size)


@pytest.mark.parametrize("gamma", [1.0, 0.999, 0.9])
@pytest.mark.parametrize("step_size", [1, 7, 98])
def test_exp_range_equals_cyclic_lr_and_its_momentum(step_size: int, gamma: float) -> None:
    assert_cyclic(functools.partial(schedule.exp_range, gamma=gamma), "exp_range", step_size, gamma)


# Epochs, steps per epoch, peak epoch; the peak is on a whole step, because torch accepts no other.
CYCLES = [(24, 98, 5.0), (24, 98, 2.5), (3, 7, 1.0), (10, 13, 2.0), (8, 20, 2.5), (30, 40, 29.0), (2, 4, 0.5)]


def make_cycle(epochs: int, steps_per_epoch: int, peak_epoch: float | None = None) -> OneCycle:
    return OneCycle.from_epochs(
        lr_min=LR_MIN, lr_max=LR_MAX, epochs=epochs, steps_per_epoch=steps_per_epoch, peak_epoch=peak_epoch,
        momentum_max=0.95, momentum_min=0.85,
    )  # fmt: skip


@pytest.mark.parametrize(("epochs", "steps_per_epoch", "peak_epoch"), CYCLES)
def test_one_cycle_equals_torchs_one_cycle_lr(epochs: int, steps_per_epoch: int, peak_epoch: float) -> None:
    scheduler = OneCycleLR(
        make_optimizer(), LR_MAX, total_steps=epochs * steps_per_epoch, pct_start=peak_epoch / epochs,
        anneal_strategy="linear", div_factor=LR_MAX / LR_MIN, final_div_factor=1, base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    lrs, momenta = zip(*run_scheduler(scheduler, epochs * steps_per_epoch), strict=True)
    cycle = make_cycle(epochs, steps_per_epoch, peak_epoch)
    assert cycle.num_steps == len(lrs)
    assert cycle.lrs() == pytest.approx(lrs, abs=1e-9)
    assert [cycle.momentum_at(step) for step in range(cycle.num_steps)] == pytest.approx(momenta, abs=1e-9)


def make_groups(name: str) -> torch.optim.Optimizer:
    """An optimizer of two parameter groups."""
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))]}, {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 9}]
    momentum = {"momentum": 0.9} if name == "SGD" else {"betas": (0.9, 0.98)}
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(groups, lr=7.0, **momentum)
    return optimizer


def settings(optimizer: torch.optim.Optimizer) -> list[tuple[float, float]]:
    """Learning rate and momentum of each group."""
    return [(group["lr"], group["momentum"] if "momentum" in group else group["betas"][0])
            for group in optimizer.param_groups]  # fmt: skip


@pytest.mark.parametrize("is_cycled", [True, False])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize(("epochs", "steps_per_epoch", "peak_epoch"), CYCLES[1:3])
def test_its_scheduler_equals_torchs_for_every_group(
    epochs: int, steps_per_epoch: int, peak_epoch: float, name: str, is_cycled: bool
) -> None:
    cycle = make_cycle(epochs, steps_per_epoch, peak_epoch)
    cycle = cycle if is_cycled else replace(cycle, momentum_max=0.9, momentum_min=0.9)
    ours, torchs = make_groups(name), make_groups(name)
    scheduler = cycle.scheduler(ours)
    expected = OneCycleLR(
        torchs, LR_MAX, total_steps=cycle.num_steps, pct_start=peak_epoch / epochs, anneal_strategy="linear",
        div_factor=LR_MAX / LR_MIN, final_div_factor=1, base_momentum=0.85, max_momentum=0.95,
        cycle_momentum=is_cycled,
    )  # fmt: skip
    for step in range(cycle.num_steps):
        assert np.allclose(settings(ours), settings(torchs), rtol=0, atol=1e-9), step
        assert scheduler.get_last_lr() == pytest.approx(expected.get_last_lr(), abs=1e-9)
        ours.step()
        torchs.step()
        if step < cycle.num_steps - 1:
            scheduler.step()
            expected.step()


@pytest.mark.parametrize("by_state", [True, False])
def test_its_scheduler_continues_from_a_saved_state_or_a_step(by_state: bool, tmp_path: Path) -> None:
    cycle, optimizer = make_cycle(2, 4, 0.5), make_groups("SGD")
    scheduler = cycle.scheduler(optimizer)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    torch.save(scheduler.state_dict(), tmp_path / "state.pt")
    resumed_optimizer = make_groups("SGD")
    if by_state:
        resumed = make_cycle(9, 9, 3).scheduler(resumed_optimizer)
        resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    else:
        resumed = cycle.scheduler(resumed_optimizer, last_epoch=2)
    for step in range(4, 8):
        for each, its_optimizer in ((scheduler, optimizer), (resumed, resumed_optimizer)):
            its_optimizer.step()
            each.step()
        assert settings(resumed_optimizer) == settings(optimizer) == [(cycle.lr_at(step), cycle.momentum_at(step))] * 2


def test_its_scheduler_stays_at_lr_min_after_the_last_step_and_refuses_more() -> None:
    optimizer = make_groups("SGD")
    scheduler = make_cycle(1, 4).scheduler(optimizer)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([LR_MIN, LR_MIN])
    with pytest.raises(ValueError, match="step 5 is after the end of a cycle of 4 steps"):
        scheduler.step()


def test_a_momentum_is_not_cycled_by_an_optimizer_without_one() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match="Adagrad has no momentum to cycle"):
        make_cycle(2, 4).scheduler(torch.optim.Adagrad(parameters))
    assert replace(make_cycle(2, 4), momentum_min=0.95).scheduler(torch.optim.Adagrad(parameters)).get_last_lr()


@pytest.mark.parametrize(("epochs", "steps_per_epoch", "peak_epoch"), [*CYCLES, (24, 79, 5.0), (7, 11, 7 * 5 / 24)])
def test_one_cycle_starts_and_ends_at_lr_min_and_peaks_at_lr_max(
    epochs: int, steps_per_epoch: int, peak_epoch: float
) -> None:
    lrs = make_cycle(epochs, steps_per_epoch, peak_epoch).lrs()
    assert lrs[0] == pytest.approx(LR_MIN, abs=1e-12)
    assert lrs[round(peak_epoch * steps_per_epoch) - 1] == pytest.approx(LR_MAX, abs=1e-12)
    assert lrs[-1] == pytest.approx(LR_MIN, abs=1e-12)
    assert min(lrs) >= LR_MIN
    assert max(lrs) <= LR_MAX + 1e-15
    assert sum(after > before for before, after in itertools.pairwise(lrs)) == round(peak_epoch * steps_per_epoch) - 1


@pytest.mark.parametrize("peak_epoch", [None, 5])  # by default 5/24 of the epochs
def test_the_assignments_cycle_peaks_at_step_489_of_2352(peak_epoch: float | None) -> None:
    cycle = make_cycle(24, 98, peak_epoch)
    lrs = cycle.lrs()
    assert (cycle.peak_step, cycle.num_steps, len(lrs)) == (489, 2352, 2352)
    assert max(range(2352), key=lrs.__getitem__) == 489
    assert lrs[244] == pytest.approx(LR_MIN + (LR_MAX - LR_MIN) * 244 / 489)  # on the way up
    assert lrs[1000] == pytest.approx(LR_MAX - (LR_MAX - LR_MIN) * (1000 - 489) / (2351 - 489))  # on the way down


def test_momentum_is_constant_by_default() -> None:
    cycle = OneCycle(lr_min=LR_MIN, lr_max=LR_MAX, peak_step=3, num_steps=10, steps_per_epoch=5)
    assert {cycle.momentum_at(step) for step in range(10)} == {0.9}


VALID = OneCycle(lr_min=LR_MIN, lr_max=LR_MAX, peak_step=3, num_steps=10, steps_per_epoch=5)


@pytest.mark.parametrize("value", [0, -0.1, math.inf, math.nan, True, "0.1", None])
@pytest.mark.parametrize("name", ["lr_min", "lr_max", "momentum_max", "momentum_min"])
def test_one_cycle_refuses_values_that_are_not_positive_and_finite(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="learning rate or momentum"):
        replace(VALID, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peak_step", -1), ("peak_step", 10), ("peak_step", 3.0), ("peak_step", True), ("num_steps", 0),
        ("num_steps", 3), ("num_steps", 10.0), ("num_steps", None), ("steps_per_epoch", 0), ("steps_per_epoch", 5.0),
    ],
)  # fmt: skip
def test_one_cycle_refuses_a_peak_outside_the_cycle_and_wrong_counts(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"peak at step|steps per epoch"):
        replace(VALID, **{name: value})


@pytest.mark.parametrize("name", ["triangular", "one_cycle", "OneCycle"])
def test_the_examples_of_the_docstrings_hold(name: str) -> None:
    namespace = vars(schedule).copy()
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(schedule, name), name, globs=namespace)
    assert any(example.want for example in test.examples)
    for example in test.examples:
        if example.want:
            assert eval(example.source, namespace) == pytest.approx(ast.literal_eval(example.want))
        else:
            exec(example.source, namespace)


@pytest.mark.parametrize(
    ("peak_epoch", "steps_per_epoch", "num_steps", "expected"),
    [
        (5, 98, 2352, 489),  # the assignment: 5 * 98 - 1
        (0.5, 98, 98, 48),  # inside the first epoch
        (5 / 24, 3, 3, 1),  # one epoch of three steps: 0.6 of a step rounds to 1 - 1, yet both sides exist
        (0.01, 98, 98, 1),  # a peak before the second step
        (0.999, 100, 100, 98),  # a peak at the last step leaves no step to fall
        (5 / 24, 2, 2, 0),  # too short for two sides
        (5 / 24, 1, 1, 0),
    ],
)
def test_peak_step_leaves_a_rising_and_a_falling_side_from_three_steps_on(
    peak_epoch: float, steps_per_epoch: int, num_steps: int, expected: int
) -> None:
    assert schedule.peak_step(peak_epoch, steps_per_epoch, num_steps) == expected


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5])
def test_the_shortest_cycles_stay_between_their_limits(num_steps: int) -> None:
    lrs = make_cycle(1, num_steps).lrs()
    assert all(LR_MIN <= lr <= LR_MAX + 1e-15 for lr in lrs)
    assert max(lrs) == pytest.approx(LR_MAX)
    assert num_steps == 1 or lrs[-1] == pytest.approx(LR_MIN)


@pytest.mark.parametrize("num_steps", [2, 10, 200])
def test_exponential_has_a_constant_factor_between_steps(num_steps: int) -> None:
    lrs = [schedule.exponential(s, lr_start=1e-3, lr_end=10.0, num_steps=num_steps) for s in range(num_steps)]
    assert lrs == pytest.approx(np.geomspace(1e-3, 10, num_steps).tolist(), rel=1e-12)
    factors = [b / a for a, b in itertools.pairwise(lrs)]
    assert factors == pytest.approx([math.exp(math.log(1e4) / (num_steps - 1))] * (num_steps - 1), rel=1e-12)


@pytest.mark.parametrize("num_steps", [2, 10, 200])
def test_linear_has_a_constant_difference_between_steps(num_steps: int) -> None:
    lrs = [schedule.linear(s, lr_start=1e-3, lr_end=10.0, num_steps=num_steps) for s in range(num_steps)]
    assert lrs == pytest.approx(np.linspace(1e-3, 10, num_steps).tolist(), rel=1e-12)
