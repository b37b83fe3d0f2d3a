"""The optimizer of a recipe, and how a step's learning rate and momentum reach it.

In: a model and a recipe. Out: SGD with Nesterov momentum, or AdamW; a `OneCycle` as torch's kind of scheduler.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from scsuite.core.config import RecipeConfig
from scsuite.core.schedule import OneCycle

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # the first: batch and instance norm
FUSED_DEVICES = ("cpu", "cuda")  # on MPS the fused kernels ignore `found_inf`
OPTIMIZER_STATE_KEYS = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq")}  # of each parameter


def make_optimizer(model: nn.Module, config: RecipeConfig, momentum: float) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum, or AdamW; the loop sets learning rate and momentum before each step.

    Without bn_weight_decay the parameters of norms and the biases form a group with weight decay 0. Frozen parameters
    are left out. The kernels are fused where they can skip a step on the device through `found_inf`.
    """
    parameters, weight_decay = [p for p in model.parameters() if p.requires_grad], config.weight_decay
    fused = True if all(parameter.device.type in FUSED_DEVICES for parameter in parameters) else None
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not config.bn_weight_decay:
        in_norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
        groups = [
            {"params": [p for p in parameters if p.ndim > 1 and id(p) not in in_norms]},
            # One-dimensional: biases, and the gains of norms that are not torch's own.
            {"params": [p for p in parameters if p.ndim <= 1 or id(p) in in_norms], "weight_decay": 0.0},
        ]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr=0.0, momentum=momentum, nesterov=True, weight_decay=weight_decay, fused=fused
        )
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999), weight_decay=weight_decay, fused=fused)
    if config.gradient_centralization:
        filters = [p for module in model.modules() if isinstance(module, nn.Conv2d) for p in module.parameters()]
        optimizer.register_step_pre_hook(
            lambda *_: centralize_gradients([p.grad for p in filters if p.grad is not None])
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
    set_momentum(optimizer, momentum)


def set_momentum(optimizer: torch.optim.Optimizer, momentum: float) -> None:
    """Set the momentum (AdamW: the first beta) of the next step."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def start_momentum_at_zero(optimizer: torch.optim.Optimizer) -> None:
    """Give each parameter of SGD a momentum of zeros, from which the first step has the same bits as without one.

    If the first step is skipped through `found_inf`, torch 2.14 leaves a momentum of uninitialised memory.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if "momentum" in group else ():
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


def parameters_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the model's parameters in the optimizer's order, group by group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}


class OneCycleScheduler(LRScheduler):
    """A `OneCycle` that sets an optimizer's learning rate, and its momentum if that of the cycle is not constant.

    All parameter groups get the same values. Made by `OneCycle.scheduler`.
    """

    def __init__(self, cycle: OneCycle, optimizer: torch.optim.Optimizer, last_epoch: int = -1) -> None:
        self.cycle = cycle
        keys = ("momentum", "betas")
        if self._cycles_momentum and not all(any(key in group for key in keys) for group in optimizer.param_groups):
            raise ValueError(f"{type(optimizer).__name__} has no momentum to cycle")
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", cycle.lr_min)  # torch requires it if last_epoch is given
        super().__init__(optimizer, last_epoch)

    @property
    def _cycles_momentum(self) -> bool:
        return self.cycle.momentum_max != self.cycle.momentum_min

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of the next step for each group, and set its momentum. Called by `step`."""
        if self.last_epoch > self.cycle.num_steps:  # one more call than steps is usual: after the last step
            raise ValueError(f"step {self.last_epoch} is after the end of a cycle of {self.cycle.num_steps} steps")
        step = min(self.last_epoch, self.cycle.num_steps - 1)
        if self._cycles_momentum:
            set_momentum(self.optimizer, self.cycle.momentum_at(step))
        return [self.cycle.lr_at(step)] * len(self.optimizer.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values, which torch.load reads with weights_only."""
        return {**super().state_dict(), "cycle": asdict(self.cycle)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned, with its cycle."""
        super().load_state_dict({**state_dict, "cycle": OneCycle(**state_dict["cycle"])})
