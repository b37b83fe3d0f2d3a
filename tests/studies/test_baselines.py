"""The baselines and our rules of the literature against the packages themselves, to the same step."""

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

from scsuite.core.lr_range.rules import steepest, valley
from scsuite.core.lr_range.sweep import Float1D, smooth
from tests.studies import baselines

LR_START, LR_END = 1e-3, 10.0
RECORD = Path(__file__).with_name("lightning.json")
FASTAI_RECORD = Path(__file__).with_name("fastai.json")


def make_losses(seed: int, num_steps: int, noise: float, *points: tuple[float, float]) -> list[float]:
    """Return straight lines between (fraction of the sweep, loss) points, with multiplicative noise."""
    fractions, losses = zip(*points, strict=True)
    clean = np.interp(np.linspace(0, 1, num_steps), fractions, losses)
    values: list[float] = (clean * np.exp(noise * np.random.default_rng(seed).normal(size=num_steps))).tolist()
    return values


CURVES = {
    "nearly smooth": make_losses(0, 200, 0.002, (0, 2.3), (0.3, 2.3), (0.7, 1.2), (1, 2.3)),
    "noisy": make_losses(1, 200, 0.1, (0, 2.3), (0.3, 2.3), (0.7, 1.2), (1, 2.3)),
    "very noisy": make_losses(2, 100, 0.4, (0, 2.3), (0.4, 2.1), (0.8, 1.5), (1, 2.0)),
    "diverges": make_losses(3, 200, 0.05, (0, 2.3), (0.3, 2.3), (0.6, 1.0), (0.7, 1.5), (0.75, 200.0), (1, 1e4)),
    "falls again": make_losses(4, 120, 0.05, (0, 2.3), (0.2, 1.4), (0.4, 2.5), (0.9, 0.6), (1, 0.7)),
    "rises": make_losses(5, 60, 0.02, (0, 2.3), (1, 6.0)),
    "short": make_losses(6, 17, 0.1, (0, 2.3), (1, 1.0)),  # the fewest steps that torch-lr-finder accepts
}
# fastai's rule reads smoothed losses; on raw ones, ties and several falls of the same length are more frequent.
FASTAI_CURVES = {
    **CURVES,
    **{f"{name}, smoothed": smooth(np.array(losses), 10.0) for name, losses in CURVES.items()},
    "ties": [3.0, 2.0, 2.0, 1.0, 1.0, 3.0, 2.5, 2.0, 1.5, 0.5, 0.5, 4.0],
    "only falls": np.linspace(2.3, 1.0, 100).tolist(),
    "only rises": np.linspace(1.0, 2.3, 100).tolist(),
    "constant": [2.0] * 20,
    "two falls of the same length": [5.0, 4.0, 3.0, 6.0, 2.5, 7.0, 6.5, 6.2, 6.1, 9.0],
    "a fall of two steps at the start": [2.0, 1.0, 3.0, 4.0, 5.0],
    "one step": [2.0],
}
each_mode = pytest.mark.parametrize("mode", ["exp", "linear"])
each_curve = pytest.mark.parametrize("losses", CURVES.values(), ids=CURVES.keys())


def run_torch_lr_finder(losses: list[float], mode: str, smooth_f: float = 0.05) -> LRFinder:
    """Return torch-lr-finder after a range test with these losses."""
    remaining: Iterator[float] = iter(losses)
    network = torch.nn.Linear(1, 1).double()  # double, so that losses stay exact
    optimizer = torch.optim.SGD(network.parameters(), lr=LR_START)
    finder = LRFinder(network, optimizer, lambda outputs, _: 0 * outputs.sum() + next(remaining), device="cpu")
    data = TensorDataset(torch.zeros(1, 1).double(), torch.zeros(1))
    finder.range_test(
        DataLoader(data), end_lr=LR_END, num_iter=len(losses), step_mode=mode, smooth_f=smooth_f, diverge_th=5
    )
    return finder


def suggested_step(finder: LRFinder, **skips: int) -> int:
    """Return the step that torch-lr-finder suggests."""
    _, lr = finder.plot(ax=Figure().subplots(), **skips)
    return int(finder.history["lr"].index(lr))


def sweep_lrs(mode: str, num_steps: int) -> Float1D:
    space = np.geomspace if mode == "exp" else np.linspace
    return np.asarray(space(LR_START, LR_END, num_steps), dtype=np.float64)


@each_mode
@each_curve
def test_torch_lr_finder_suggests_the_same_step(losses: list[float], mode: str) -> None:
    lrs = sweep_lrs(mode, len(losses))
    expected = suggested_step(run_torch_lr_finder(losses, mode))
    assert lrs.tolist().index(baselines.torch_lr_finder(lrs, np.array(losses))) == expected


@each_mode
@pytest.mark.parametrize("name", CURVES)
def test_lightning_suggests_the_same_step(name: str, mode: str) -> None:
    losses, answer = CURVES[name], json.loads(RECORD.read_text())["answers"][f"{name} {mode}"]
    # Lightning's own LRs, whose first step is twice as long as the others; they end where its sweep ended.
    lrs = np.pad(answer["lrs"], (0, len(losses) - answer["steps"]), constant_values=np.nan)
    assert lrs.tolist().index(baselines.lightning(lrs, np.array(losses))) == answer["step"]


def test_the_curves_cover_early_stops_and_complete_sweeps_of_both() -> None:
    steps = {name: len(run_torch_lr_finder(losses, "exp").history["lr"]) for name, losses in CURVES.items()}
    assert {name for name, losses in CURVES.items() if steps[name] < len(losses)} == {"diverges"}
    answers = json.loads(RECORD.read_text())["answers"]
    assert {name for name, losses in CURVES.items() if answers[f"{name} exp"]["steps"] < len(losses)} == {"diverges"}


@each_curve
def test_our_steepest_rule_equals_torch_lr_finders_on_the_same_losses(losses: list[float]) -> None:
    # Without smoothing there, so that both differentiate the same losses.
    finder = run_torch_lr_finder(losses, "exp", smooth_f=0)
    lrs, losses_L = np.array(finder.history["lr"]), np.array(finder.history["loss"])
    assert lrs.tolist().index(steepest(lrs, losses_L)) == suggested_step(finder, skip_start=0, skip_end=0)


@pytest.mark.parametrize("name", FASTAI_CURVES)
def test_valley_suggests_the_same_step_as_fastai_on_the_same_losses(name: str) -> None:
    losses_L = np.array(FASTAI_CURVES[name])
    step = json.loads(FASTAI_RECORD.read_text())["steps"][name]
    assert valley(np.arange(len(losses_L), dtype=float), losses_L) == step


@pytest.mark.parametrize(("rule", "min_steps"), [(baselines.torch_lr_finder, 17), (baselines.lightning, 13)])
def test_a_sweep_too_short_for_them_is_an_error_as_it_is_there(rule: Any, min_steps: int) -> None:
    losses = np.linspace(2.3, 1.0, min_steps)
    assert rule(sweep_lrs("exp", min_steps), losses) > 0
    with pytest.raises((ValueError, RuntimeError)):
        rule(sweep_lrs("exp", min_steps - 1), losses[:-1])
