"""The optimizer of a recipe. Run: pytest tests/core/training/test_optimizer.py."""

import pytest
import torch

from scsuite.core.config import TrainConfig
from scsuite.core.model.network import build_model
from scsuite.core.training.optimizer import (
    OPTIMIZER_STATE_KEYS,
    centralize_gradients,
    make_optimizer,
    parameters_by_name,
    set_lr_and_momentum,
)


@pytest.mark.parametrize("bn_weight_decay", [True, False])
@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_weight_decay_reaches_batch_norm_only_if_asked_to(optimizer_name: str, bn_weight_decay: bool) -> None:
    model = build_model(3, 0.05, seed=1)
    config = TrainConfig(lr_max=0.1, optimizer=optimizer_name, weight_decay=0.5, bn_weight_decay=bn_weight_decay)
    optimizer = make_optimizer(model, config, 0.9)
    set_lr_and_momentum(optimizer, 0.1, 0.9)
    for parameter in model.parameters():
        parameter.data += 0.1  # batch norm's biases are 0 at first
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    assert sum(parameter.ndim == 1 for parameter in model.parameters()) == 16
    decay = 0.1 * 0.5 * (1.9 if optimizer_name == "sgd" else 1.0)  # Nesterov's first step is lr * (1 + momentum)
    for name, parameter in model.named_parameters():
        factor = 1.0 if parameter.ndim == 1 and not bn_weight_decay else 1 - decay
        assert torch.allclose(parameter, factor * before[name], rtol=1e-5), name


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_learning_rate_and_momentum_reach_every_group(optimizer_name: str) -> None:
    optimizer = make_optimizer(build_model(3, 0.05, seed=1), TrainConfig(optimizer=optimizer_name), 0.9)
    set_lr_and_momentum(optimizer, 0.25, 0.85)
    assert len(optimizer.param_groups) == 2
    for group in optimizer.param_groups:
        assert group["lr"] == 0.25
        momentum, *_ = group.get("betas", (group.get("momentum"),))
        assert momentum == 0.85


def test_only_gradients_of_convolutions_are_centralized() -> None:
    gradients = [torch.rand(4, 3, 3, 3), torch.rand(5, 7), torch.rand(6)]
    convolution, *others = [gradient.clone() for gradient in gradients]
    centralize_gradients(gradients)
    assert torch.equal(gradients[0], convolution - convolution.mean(dim=(1, 2, 3), keepdim=True))
    assert all(torch.equal(*pair) for pair in zip(gradients[1:], others, strict=True))


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_state_keys_are_those_of_torch(optimizer_name: str) -> None:
    model = build_model(3, 0.05, seed=1)
    optimizer = make_optimizer(model, TrainConfig(optimizer=optimizer_name), 0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(tuple(state) == OPTIMIZER_STATE_KEYS[optimizer_name] for state in optimizer.state.values())
    assert set(parameters_by_name(model, optimizer)) == {name for name, _ in model.named_parameters()}
