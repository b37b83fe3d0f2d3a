"""The rivals' rules against the packages themselves, to the index; our steepest rule against torch-lr-finder's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, TensorDataset
from torch_lr_finder import LRFinder

from scsuite.core import sweep
from tests.studies import rivals

LR_START, LR_END = 1e-3, 10.0
RECORD = Path(__file__).with_name("lightning.json")


def curve(seed: int, num: int, noise: float, *points: tuple[float, float]) -> list[float]:
    """Straight lines between (share of the sweep, loss) under noise."""
    shares, losses = zip(*points, strict=True)
    clean = np.interp(np.linspace(0, 1, num), shares, losses)
    values: list[float] = (clean * np.exp(noise * np.random.default_rng(seed).normal(size=num))).tolist()
    return values


CURVES = {
    "nearly smooth": curve(0, 200, 0.002, (0, 2.3), (0.3, 2.3), (0.7, 1.2), (1, 2.3)),
    "noisy": curve(1, 200, 0.1, (0, 2.3), (0.3, 2.3), (0.7, 1.2), (1, 2.3)),
    "very noisy": curve(2, 100, 0.4, (0, 2.3), (0.4, 2.1), (0.8, 1.5), (1, 2.0)),
    "diverges": curve(3, 200, 0.05, (0, 2.3), (0.3, 2.3), (0.6, 1.0), (0.7, 1.5), (0.75, 200.0), (1, 1e4)),
    "falls again": curve(4, 120, 0.05, (0, 2.3), (0.2, 1.4), (0.4, 2.5), (0.9, 0.6), (1, 0.7)),
    "rises": curve(5, 60, 0.02, (0, 2.3), (1, 6.0)),
    "short": curve(6, 17, 0.1, (0, 2.3), (1, 1.0)),  # the fewest that torch-lr-finder answers for
}
SWEEPS = pytest.mark.parametrize("mode", ["exp", "linear"])
LOSSES = pytest.mark.parametrize("losses", CURVES.values(), ids=CURVES.keys())


def asked(losses: list[float], mode: str, smooth_f: float = 0.05) -> LRFinder:
    """torch-lr-finder after a range test in which its network had these losses."""
    told: Iterator[float] = iter(losses)
    network = torch.nn.Linear(1, 1).double()  # double, so that losses keep their last digits
    optimizer = torch.optim.SGD(network.parameters(), lr=LR_START)
    finder = LRFinder(network, optimizer, lambda outputs, _: 0 * outputs.sum() + next(told), device="cpu")
    data = TensorDataset(torch.zeros(1, 1).double(), torch.zeros(1))
    finder.range_test(
        DataLoader(data), end_lr=LR_END, num_iter=len(losses), step_mode=mode, smooth_f=smooth_f, diverge_th=5
    )
    return finder


def suggested(finder: LRFinder, **skips: int) -> float:
    """The rate that torch-lr-finder suggests."""
    _, lr = finder.plot(ax=Figure().subplots(), **skips)
    return float(lr)


def walked(mode: str, num: int) -> sweep.Curve:
    space = np.geomspace if mode == "exp" else np.linspace
    return np.asarray(space(LR_START, LR_END, num), dtype=np.float64)


@SWEEPS
@LOSSES
def test_torch_lr_finder_would_pick_the_same_step(losses: list[float], mode: str) -> None:
    finder, lrs = asked(losses, mode), walked(mode, len(losses))
    expected = finder.history["lr"].index(suggested(finder))
    assert lrs.tolist().index(rivals.torch_lr_finder(lrs, np.array(losses))) == expected


@SWEEPS
@pytest.mark.parametrize("name", CURVES)
def test_lightning_would_pick_the_same_step(name: str, mode: str) -> None:
    losses, answer = CURVES[name], json.loads(RECORD.read_text())["answers"][f"{name} {mode}"]
    # Its own rates, whose first step is twice as long as the others; a sweep that it cut has no more of them.
    lrs = np.pad(answer["lrs"], (0, len(losses) - answer["steps"]), constant_values=np.nan)
    assert lrs.tolist().index(rivals.lightning(lrs, np.array(losses))) == answer["step"]


def test_the_curves_make_both_stop_early_and_both_go_to_the_end() -> None:
    """What the tests above would else not show."""
    steps = {name: len(asked(losses, "exp").history["lr"]) for name, losses in CURVES.items()}
    cut = {name for name, losses in CURVES.items() if steps[name] < len(losses)}
    assert cut == {"diverges"}
    answers = json.loads(RECORD.read_text())["answers"]
    assert {name for name, losses in CURVES.items() if answers[f"{name} exp"]["steps"] < len(losses)} == {"diverges"}


@LOSSES
def test_our_steepest_rule_is_torch_lr_finders_on_the_same_losses_of_an_exponential_sweep(losses: list[float]) -> None:
    """Without smoothing there, so that what it differentiates is what ours is given; it takes the losses as smooth."""
    finder = asked(losses, "exp", smooth_f=0)
    lrs, smooth = np.array(finder.history["lr"]), np.array(finder.history["loss"])
    expected = finder.history["lr"].index(suggested(finder, skip_start=0, skip_end=0))
    assert lrs.tolist().index(sweep.steepest(lrs, smooth)) == expected


@pytest.mark.parametrize(("rule", "fewest"), [(rivals.torch_lr_finder, 17), (rivals.lightning, 13)])
def test_a_sweep_too_short_for_them_is_an_error_as_it_is_there(rule: Any, fewest: int) -> None:
    losses = np.linspace(2.3, 1.0, fewest)
    assert rule(walked("exp", fewest), losses) > 0
    with pytest.raises((ValueError, RuntimeError)):
        rule(walked("exp", fewest - 1), losses[:-1])
