"""An exponential moving average of a network's weights over the last steps of a training.

In: a network that is trained, step by step. Out: a second one of the same layers, with the average of its last weights.
No annihilation leaves the rate at LRMIN: where that is high, each step still throws the weights about, and their
average lies in the middle.
"""

import copy

import torch
from torch import nn

from scsuite.core.model.network import ResNet3


class EMA:
    """The averaged network, in eval mode; it takes as much memory as the weights, and no gradients.

    A step counts exp(-age / time_constant_steps), near enough: an exponential moving average of decay 1 - 1 / time_constant_steps. Over the
    first `time_constant_steps` steps (more than one) it is their plain mean, so the initial weights leave no trace. The running
    statistics of batch norm are averaged as the weights are.
    Source: torch.optim.swa_utils.get_ema_multi_avg_fn, whose first steps hold on to the initial weights.
    """

    def __init__(self, model: ResNet3, time_constant_steps: float) -> None:
        self.time_constant_steps = time_constant_steps
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step`, counted from 0; nothing waits for the device."""
        mine, theirs = list(self.model.state_dict().values()), list(model.state_dict().values())
        whole = [i for i, tensor in enumerate(mine) if not tensor.is_floating_point()]  # batches that batch norm saw
        for index in reversed(whole):
            mine.pop(index).copy_(theirs.pop(index))
        torch._foreach_lerp_(mine, theirs, 1 / min(self.time_constant_steps, step + 1))
