"""The optimizer of a recipe, and how a step's learning rate and momentum reach it.

In: a model and a recipe. Out: SGD with Nesterov momentum, or AdamW.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scsuite.core.config import RecipeConfig

OPTIMIZER_STATE_KEYS = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq")}  # of each parameter


def make_optimizer(model: nn.Module, config: RecipeConfig, momentum: float) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum, or AdamW; the loop sets learning rate and momentum before each step.

    One-dimensional parameters belong to batch norm (fc has no bias); without bn_weight_decay they form a group with
    weight decay 0. The kernels are fused, so a step can be skipped on the device through `found_inf`.
    """
    parameters, weight_decay = list(model.parameters()), config.weight_decay
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not config.bn_weight_decay:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr=0.0, momentum=momentum, nesterov=True, weight_decay=weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999), weight_decay=weight_decay, fused=True)
    if config.gradient_centralization:
        optimizer.register_step_pre_hook(
            lambda *_: centralize_gradients([p.grad for p in parameters if p.grad is not None])
        )
    return optimizer


def centralize_gradients(gradients: Sequence[Tensor]) -> None:
    """Subtract the mean of each convolution filter's gradient, in place; other shapes are left alone.

    A filter is gradient[o] of an OIHW tensor. The mean of a filter is then changed by weight decay only.
    Source: gradient centralization, https://arxiv.org/abs/2004.01461, applied to convolutions only.
    """
    for gradient in gradients:
        if gradient.ndim == 4:
            gradient.sub_(gradient.mean(dim=(1, 2, 3), keepdim=True))


def set_lr_and_momentum(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    """Set the learning rate and the momentum (AdamW: the first beta) of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def parameters_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the model's parameters in the optimizer's order, group by group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}
