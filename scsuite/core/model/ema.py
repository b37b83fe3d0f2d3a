"""An exponential moving average (EMA) of a network's weights over the last steps of a training.

In: the network after each training step. Out: a second network of the same layers, with the average of the weights.
Without annihilation the LR ends at LRMIN. If LRMIN is high, the weights keep oscillating; their average is closer to
the minimum.
"""

import copy

import torch
from torch import nn

from scsuite.core.model.network import ResNet3


class EMA:
    """The averaged network, in eval mode and without gradients; it needs as much memory as the weights.

    The weight of a step is exp(-age / time_constant_steps), which is nearly an exponential moving average with decay
    1 - 1 / time_constant_steps. Over the first `time_constant_steps` steps (more than one) it is the plain mean, so the
    initial weights have no influence. The running statistics of batch norm are averaged in the same way.
    Source: torch.optim.swa_utils.get_ema_multi_avg_fn, whose first steps keep the initial weights.
    """

    def __init__(self, model: ResNet3, time_constant_steps: float) -> None:
        self.time_constant_steps = time_constant_steps
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Include the weights after `step`, counted from 0, without synchronizing with the device."""
        ema_tensors, model_tensors = list(self.model.state_dict().values()), list(model.state_dict().values())
        integer_indices = [i for i, tensor in enumerate(ema_tensors) if not tensor.is_floating_point()]
        for index in reversed(integer_indices):  # batch norm's number of batches is copied, not averaged
            ema_tensors.pop(index).copy_(model_tensors.pop(index))
        torch._foreach_lerp_(ema_tensors, model_tensors, 1 / min(self.time_constant_steps, step + 1))
