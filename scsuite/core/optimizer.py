"""The optimizers: from gradients to an update of the weights.

In: a network and its RecipeConfig. Out: a torch optimizer that holds all parameters in one group, in the network's
order; the loop sets rate and momentum before each step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from scsuite.core.config import RecipeConfig

# Of each parameter, what an optimizer keeps from step to step.
STATES = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq"), "muon": ("momentum_buffer",)}
TURN = 0.25  # of the rate: by so much of its own length a Muon step moves a layer's filters
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of the quintic's x, x^3 and x^5; torch.optim.Muon has the same
NEWTON_SCHULZ_STEPS = 5


def make_optimizer(
    model: nn.Module, config: RecipeConfig, momentum: float, dtype: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, AdamW or Muon; `dtype` is what the network computes in.

    Fused: one pass over the weights, which `found_inf` turns into none without asking the device; see `train_step`.
    """
    parameters, decay = list(model.parameters()), config.weight_decay
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            parameters, lr=0.0, momentum=momentum, nesterov=True, weight_decay=decay, fused=True
        )
    elif config.optimizer == "muon":
        optimizer = Muon(parameters, momentum=momentum, weight_decay=decay, dtype=dtype)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(momentum, 0.999), weight_decay=decay, fused=True)
    if config.gradient_centralization:
        optimizer.register_step_pre_hook(lambda *_: centralize([p.grad for p in parameters if p.grad is not None]))
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    """Apply a step's learning rate and momentum (AdamW's first beta)."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def centralize(gradients: Sequence[Tensor]) -> None:
    """Take from each convolution filter's gradient, an OIHW tensor's [o], its mean, in place; leave all other shapes.

    The filters' means then only decay. Source: gradient centralization, https://arxiv.org/abs/2004.01461, for
    convolutions alone.
    """
    for gradient in gradients:
        if gradient.ndim == 4:
            gradient.sub_(gradient.mean(dim=(1, 2, 3), keepdim=True))


class Muon(torch.optim.Optimizer):
    """Orthogonal steps for the filters of convolutions, SGD with Nesterov momentum for all else.

    A convolution's OIHW weight is a matrix W of O rows. Its step is the Nesterov momentum made orthogonal (all singular
    values near 1), scaled to the length sqrt(O); W itself is kept at that length, batch norm after it takes no notice.
    So a step of rate lr moves it by TURN * lr of its own length, whatever the gradient's size, and a weight decay would
    have no part in it: it acts on the rest, as SGD's L2 penalty. A `found_inf` above 0 turns a step into none.
    Source: https://kellerjordan.github.io/posts/muon, as airbench94_muon.py has it for convolutions.
    """

    def __init__(self, params: Sequence[Tensor], *, momentum: float, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(params, {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay})
        # fp16 would do, but underflows; where the network has bf16 it is the quicker one.
        self.dtype = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; there is no closure to call."""
        assert closure is None
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in moved:
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            for parameter in moved:
                if parameter.ndim == 4:
                    self._turn(parameter, group)
            self._descend([parameter for parameter in moved if parameter.ndim != 4], group)

    def _turn(self, weight: Tensor, group: dict[str, Any]) -> None:
        """A convolution's step."""
        buffer, momentum = self.state[weight]["momentum_buffer"], group["momentum"]
        later = torch.add(_gradient(weight), buffer, alpha=momentum)
        direction = orthogonal(torch.add(_gradient(weight), later, alpha=momentum).flatten(1).to(self.dtype))
        num_rows, num_columns = direction.shape
        reach = TURN * group["lr"] * max(1.0, num_rows / num_columns) ** 0.5  # it is sqrt(the smaller of both) long
        turned = torch.sub(weight, direction.reshape(weight.shape), alpha=reach)
        turned *= num_rows**0.5 / turned.norm()
        broken = getattr(self, "found_inf", None)
        for old, new in ((buffer, later), (weight, turned)):
            old.copy_(new if broken is None else torch.where(broken > 0, old, new))

    def _descend(self, rest: list[Tensor], group: dict[str, Any]) -> None:
        """All others' step."""
        buffers: list[Tensor | None] = [self.state[parameter]["momentum_buffer"] for parameter in rest]
        sgd(
            rest, [_gradient(parameter) for parameter in rest], buffers, fused=True,
            found_inf=getattr(self, "found_inf", None), weight_decay=group["weight_decay"],
            momentum=group["momentum"], lr=group["lr"], dampening=0.0, nesterov=True, maximize=False,
        )  # fmt: skip


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def orthogonal(matrix_ON: Tensor) -> Tensor:
    """Near U V^T of the matrix U S V^T: singular values near 1, between some 0.7 and 1.2, by matrix products alone.

    Newton and Schulz's iteration, by a quintic that does not converge to 1 but lifts small singular values fastest. In
    the matrix's own dtype.
    Source: torch.optim.Muon, https://kellerjordan.github.io/posts/muon.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix_ON.mT if matrix_ON.shape[0] > matrix_ON.shape[1] else matrix_ON
    wide = wide / wide.norm().clamp(min=1e-7)  # no singular value above 1
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = wide @ wide.mT
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if matrix_ON.shape[0] > matrix_ON.shape[1] else wide
