"""An exponential moving average (EMA) of a network's weights over the last steps of a training.

In: the network after each training step. Out: a second network of the same layers, with the average of the weights.
Without annihilation the LR ends at LRMIN. If LRMIN is high, the weights keep oscillating; their average is closer to
the minimum.
"""

import copy

import torch
from torch import Tensor, nn

RUNNING_STATISTICS = ("running_mean", "running_var")  # of batch norm


class EMA:
    """The averaged network, in eval mode and without gradients; it needs as much memory as the weights.

    The weight of a step is exp(-age / time_constant_steps), which is nearly an exponential moving average with decay
    1 - 1 / time_constant_steps. Over the first `time_constant_steps` steps (more than one) it is the plain mean, so the
    initial weights have no influence. The running statistics of batch norm are averaged in the same way; other buffers
    are copied.
    Source: torch.optim.swa_utils.get_ema_multi_avg_fn, whose first steps keep the initial weights.
    """

    def __init__(self, model: nn.Module, time_constant_steps: float) -> None:
        self.time_constant_steps = time_constant_steps
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Include the weights after `step`, counted from 0, without synchronizing with the device."""
        averages: list[Tensor] = list(self.model.parameters())
        weights: list[Tensor] = list(model.parameters())
        for (name, buffer), model_buffer in zip(self.model.named_buffers(), model.buffers(), strict=True):
            if name.endswith(RUNNING_STATISTICS):
                averages.append(buffer)
                weights.append(model_buffer)
            else:
                buffer.copy_(model_buffer)
        torch._foreach_lerp_(averages, weights, 1 / min(self.time_constant_steps, step + 1))
