"""What the study at full size does to a trainer, and its arithmetic. Run: pytest tests/studies/test_full.py."""

import io
import math

import pytest
import torch
from rich.console import Console
from torch.nn import functional

from scsuite.core.config import TrainConfig
from scsuite.core.loop import Trainer
from tests.core import tiny
from tests.studies.full import DEFAULTS, OUT, VARIANTS, gains, hurry_biases, pass_on, read_rows, spare_norms, table

ROWS = [
    {"variant": DEFAULTS, "seed": "1", "last": "0.90"},
    {"variant": DEFAULTS, "seed": "2", "last": "0.80"},
    {"variant": DEFAULTS, "seed": "3", "last": "0.10"},
    {"variant": "better", "seed": "2", "last": "0.82"},
    {"variant": "better", "seed": "1", "last": "0.91"},
    {"variant": "alone", "seed": "1", "last": "0.88"},
]


def trainer() -> Trainer:
    return Trainer(tiny.dataset(), TrainConfig(width=0.05, lr_max=0.1, batch_size=10, device="cpu", precision="fp32"))


def test_a_gain_is_the_mean_over_the_seeds_that_both_have() -> None:
    # Differences of 1 and 2 points: a mean of 1.5, a deviation of 0.5 * sqrt(2), an error of 0.5.
    num, *figures = gains(ROWS, "better", "last")
    assert num == 2
    assert figures == pytest.approx([1.5, 0.5])
    num, gain, error = gains(ROWS, "alone", "last")
    assert num == 1
    assert gain == pytest.approx(-2.0)
    assert math.isnan(error)


def test_without_decay_of_batch_norm_its_weights_stay_where_no_gradient_moves_them() -> None:
    one = trainer()
    spare_norms(one)
    for group in one.optimizer.param_groups:
        group["lr"] = 0.1
    before = {name: tensor.clone() for name, tensor in one.model.named_parameters()}
    for parameter in one.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    one.optimizer.step()
    assert len(before) == 25
    for name, parameter in one.model.named_parameters():
        # The first step of Nesterov momentum 0.9 is 1.9 times rate times gradient, here the decay alone.
        left = 1.0 if parameter.ndim == 1 else 1 - 0.1 * 1.9 * 5e-4
        assert torch.allclose(parameter, left * before[name], rtol=1e-6), name


def test_quick_biases_go_64_times_as_far_by_their_gradient_and_as_far_by_their_decay() -> None:
    one = trainer()
    hurry_biases(one)
    before = {name: tensor.clone() for name, tensor in one.model.named_parameters()}
    for _ in range(2):  # a rate is set anew for each step
        for group in one.optimizer.param_groups:
            group["lr"], group["momentum"], group["nesterov"] = 0.1, 0.0, False
        for parameter in one.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        one.optimizer.step()
    biases = [name for name in before if name.endswith(".bias")]
    assert len(biases) == 8
    for name, parameter in one.model.named_parameters():
        faster = 64 if name in biases else 1
        expected = before[name]
        for _ in range(2):
            expected = (1 - 0.1 * 5e-4) * expected - 0.1 * faster
        if parameter.ndim == 1:  # the others' gradients are centralized
            assert torch.allclose(parameter, expected, rtol=1e-5), name


def test_identities_pass_the_features_on() -> None:
    one = trainer()
    pass_on(one)
    for layer in (one.model.layer1.x, one.model.layer2, one.model.layer3.x):
        weight = layer.state_dict()["0.weight"]
        features_NCHW = torch.randn(2, weight.shape[1], 8, 8)
        passed_NCHW = functional.conv2d(features_NCHW, weight, padding=1)
        assert torch.allclose(passed_NCHW[:, : weight.shape[1]], features_NCHW, atol=1e-6)
        assert weight[weight.shape[1] :].abs().sum() > 0


def test_the_kept_rows_are_those_of_known_variants_and_make_a_table() -> None:
    rows = read_rows(OUT)
    assert {row["variant"] for row in rows} - set(VARIANTS) == {"whitened, by the first images"}
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(table(rows))
    (whitened,) = [line for line in console.export_text().splitlines() if " whitened  " in line]
    # 90.66 less 90.67 and 91.05 less 90.78 of the last weights, 90.86 less 90.78 and 91.17 less 90.98 averaged.
    assert "+0.13 ± 0.14" in whitened
    assert "+0.13 ± 0.05" in whitened
