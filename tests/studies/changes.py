"""What a study may change about a trainer before its first step, beyond the options of a training.

In: a trainer. Out: the same, changed in place. Each can be done after any of the others.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.augment.batched import Flip, Twin
from scsuite.core.augment.canvas import on_device
from scsuite.core.augment.draws import Draws
from scsuite.core.config import keyed_seed

SMALL = 64  # images


def pass_on(trainer: Any) -> None:
    """Let the first filters of each layer's own convolution be the identity. Source: airbench's initial weights."""
    for layer in (trainer.model.layer1.x, trainer.model.layer2, trainer.model.layer3.x):
        weight = layer[0].weight
        nn.init.dirac_(weight.data[: weight.shape[1]])


def spare_norms(trainer: Any) -> None:
    """No weight decay for batch norm's weights and biases."""
    (group,) = trainer.optimizer.param_groups
    norms = [parameter for parameter in group["params"] if parameter.ndim == 1]
    group["params"] = [parameter for parameter in group["params"] if parameter.ndim > 1]
    trainer.optimizer.add_param_group({**group, "params": norms, "weight_decay": 0.0})


class SmallNorm(nn.BatchNorm2d):
    """Batch norm over 64 images at a time. Source: ghost batch normalization, https://arxiv.org/abs/1705.08741."""

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """In training each part by its own mean and variance; the running ones follow all, as fast as before."""
        if not self.training:
            return super().forward(features_NCHW)
        assert self.momentum is not None
        parts = torch.split(features_NCHW, SMALL)
        follows = 1 - (1 - self.momentum) ** (1 / len(parts))
        normed = [
            functional.batch_norm(
                part, self.running_mean, self.running_var, self.weight, self.bias, True, follows, self.eps
            )
            for part in parts
        ]
        return torch.cat(normed)


def split_norms(trainer: Any) -> None:
    """Batch norm over 64 images."""
    for module in trainer.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SmallNorm


class Alternating:
    """A policy's twin without its flip, and after it a flip that each image gets every other epoch, half of them first.

    Source: alternating flip, https://arxiv.org/abs/2404.00498.
    """

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        twin.steps = tuple(step for step in twin.steps if not isinstance(step, Flip))

    def __call__(self, images_NHWC: Tensor, indices_N: NDArray[np.int64], *, seed: int, epoch: int) -> Tensor:
        """As the twin's."""
        images_NCHW = self.twin(images_NHWC, indices_N, seed=seed, epoch=epoch)
        begins_N = Draws(keyed_seed(seed, "first flip"), 0, indices_N).chance(0.5)
        flips_N = on_device(begins_N ^ (epoch % 2 == 1), images_NCHW.device)
        return torch.where(flips_N[:, None, None, None], images_NCHW.flip(3), images_NCHW)


def alternate_flips(trainer: Any) -> None:
    """Flip each image every other epoch, rather than at random."""
    source = trainer.loader._source
    source.twin = Alternating(source.twin)
