"""The optimizers, held against torch's and the singular value decomposition."""

from typing import Any

import pytest
import torch
from torch import Tensor

from scsuite.core.config import TrainConfig
from scsuite.core.model import build_model
from scsuite.core.optimizer import STATES, TURN, Muon, make_optimizer, orthogonal, set_rates

SHAPES = [(16, 8, 3, 3), (8, 16, 3, 3), (64, 3, 3, 3)]  # the last has more rows than columns, as prep's at width 1


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network_with_gradients() -> torch.nn.Module:
    model = build_model(3, 0.05, seed=1)
    for seed, parameter in enumerate(model.parameters()):
        parameter.grad = noise(*parameter.shape, seed=seed)
    return model


def held(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Copies of weights and state."""
    parameters = optimizer.param_groups[0]["params"]
    return [
        tensor.detach().clone()
        for p in parameters
        for tensor in (p, *map(torch.as_tensor, optimizer.state[p].values()))
    ]


@pytest.mark.parametrize("shape", [(16, 72), (64, 27), (40, 40)])
def test_orthogonal_keeps_the_singular_vectors_and_brings_the_values_near_1(shape: tuple[int, int]) -> None:
    matrix = noise(*shape) / 1000  # its size does not matter
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.mT @ orthogonal(matrix) @ vh.mT
    values = inside.diagonal()
    assert (inside - values.diag()).abs().max() < 1e-4
    kept = values[:-1] if shape[0] == shape[1] else values  # a square one's smallest is too near nought to be lifted
    assert kept.min() > 0.6
    assert values.max() < 1.25


def test_orthogonal_makes_nothing_of_nothing() -> None:
    assert not orthogonal(torch.zeros(4, 9)).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_convolutions_step_is_torchs_muon_on_the_flat_weight_brought_back_to_its_length(
    shape: tuple[int, ...],
) -> None:
    first = noise(*shape)
    first *= shape[0] ** 0.5 / first.norm()
    ours, theirs = torch.nn.Parameter(first.clone()), torch.nn.Parameter(first.flatten(1).clone())
    our_optimizer = Muon([ours], momentum=0.9, weight_decay=0.1, dtype=torch.bfloat16)
    set_rates(our_optimizer, 0.2, 0.9)
    their_optimizer = torch.optim.Muon([theirs], lr=TURN * 0.2, momentum=0.9, weight_decay=0.0)
    for seed in range(1, 6):
        ours.grad = noise(*shape, seed=seed)
        theirs.grad = ours.grad.flatten(1).clone()
        our_optimizer.step()
        their_optimizer.step()  # type: ignore[no-untyped-call]
        theirs.data *= shape[0] ** 0.5 / theirs.data.norm()
    moved = (theirs - first.flatten(1)).norm()
    assert moved > 0.1 * first.norm()
    assert (ours.flatten(1) - theirs).norm() < 0.02 * moved  # both are in bf16, of momenta that differ by a factor


@pytest.mark.parametrize("shape", SHAPES)
def test_a_convolution_keeps_its_length_and_moves_by_its_rate_whatever_the_gradients_size(
    shape: tuple[int, ...],
) -> None:
    first = noise(*shape)
    first *= shape[0] ** 0.5 / first.norm()
    moves = []
    for size in (1e-6, 1.0, 1e6):
        weight = torch.nn.Parameter(first.clone())
        weight.grad = noise(*shape, seed=1) * size
        optimizer = Muon([weight], momentum=0.9, weight_decay=0.0, dtype=torch.float32)
        set_rates(optimizer, 0.2, 0.9)
        optimizer.step()
        assert weight.detach().norm().item() == pytest.approx(shape[0] ** 0.5, rel=1e-5)
        moves.append(((weight - first).norm() / first.norm()).item())
    assert moves == pytest.approx([moves[1]] * 3, rel=1e-3)
    # The singular values are between 0.7 and 1.2 of what a rotation by TURN * rate would have.
    assert 0.6 * TURN * 0.2 < moves[0] < 1.25 * TURN * 0.2


def test_muon_moves_all_but_convolutions_as_sgd_does() -> None:
    after = []
    for name in ("muon", "sgd"):
        model = network_with_gradients()
        optimizer = make_optimizer(model, TrainConfig(optimizer=name, weight_decay=0.01), 0.9)
        for momentum in (0.9, 0.8):
            set_rates(optimizer, 0.1, momentum)
            optimizer.step()
        after.append(dict(model.named_parameters()))
    others = [name for name, parameter in after[0].items() if parameter.ndim != 4]
    assert "fc.weight" in others
    assert len(others) == 17  # and eight batch norms' weights and biases
    for name in others:
        assert torch.equal(after[0][name], after[1][name]), name


@pytest.mark.parametrize("name", STATES)
def test_a_step_that_is_found_broken_leaves_weights_and_state_alone(name: str) -> None:
    model = network_with_gradients()
    optimizer = make_optimizer(model, TrainConfig(optimizer=name), 0.9)
    set_rates(optimizer, 0.01, 0.9)
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    optimizer.step()
    before = held(optimizer)
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.step()
    assert all(map(torch.equal, before, held(optimizer)))
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not any(map(torch.equal, before, held(optimizer)))
