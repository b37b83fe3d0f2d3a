"""An exponential moving average (EMA) of a network's weights over the last steps of a training.

In: the network after each training step. Out: a second network of the same layers, with the average of the weights.
Without annihilation the LR ends at LRMIN. If LRMIN is high, the weights keep oscillating; their average is closer to
the minimum.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

RUNNING_STATISTICS = ("running_mean", "running_var")  # of batch norm
Place = tuple[Mapping[str, Tensor], str]  # the dictionary of a module, and the name in it


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
        self._places = _Places(self.model)
        self._source, self._source_places = model, _Places(model)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Include the weights after `step`, counted from 0, without synchronizing with the device."""
        if model is not self._source:
            self._source, self._source_places = model, _Places(model)
        weight = 1 / min(self.time_constant_steps, step + 1)
        torch._foreach_lerp_(self._places.averaged(), self._source_places.averaged(), weight)
        if copies := self._places.copied():
            torch._foreach_copy_(copies, self._source_places.copied())


class _Places:
    """Where a network keeps its tensors; found once, since a walk over all modules takes longer than the update.

    Places, not tensors: the forward pass of a user's own network may replace a buffer by a new tensor.
    """

    def __init__(self, model: nn.Module) -> None:
        self._averaged: list[Place] = []
        self._copied: list[Place] = []
        seen: set[int] = set()  # a tensor that several modules share is averaged once
        modules = list(model.modules())
        for module in modules:
            self._averaged += _new_places(module._parameters, seen)
        for module in modules:
            for place in _new_places(module._buffers, seen):
                (self._averaged if place[1].endswith(RUNNING_STATISTICS) else self._copied).append(place)

    def averaged(self) -> list[Tensor]:
        """Return the weights and running statistics."""
        return [tensors[name] for tensors, name in self._averaged]

    def copied(self) -> list[Tensor]:
        """Return the other buffers."""
        return [tensors[name] for tensors, name in self._copied]


def _new_places(tensors: Mapping[str, Tensor | None], seen: set[int]) -> list[Place]:
    places: list[Place] = []
    for name, tensor in tensors.items():
        if tensor is not None and id(tensor) not in seen:
            seen.add(id(tensor))
            places.append((tensors, name))  # type: ignore[arg-type]  # this one is not None
    return places
