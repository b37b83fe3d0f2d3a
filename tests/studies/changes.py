"""What a study may change about a trainer before its first step, beyond the options of a training.

In: a trainer. Out: the same, changed in place. Each can be done after any of the others.
"""

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.augment.batched import Flip, Twin
from scsuite.core.augment.canvas import on_device
from scsuite.core.augment.draws import Draws
from scsuite.core.average import WeightAverage
from scsuite.core.config import keyed_seed

QUICK = 64  # times the rate of all else
SMALL = 64  # images
SHARE = 0.5  # of the loss


def pass_on(trainer: Any) -> None:
    """Let the first filters of each layer's own convolution be the identity. Source: airbench's initial weights."""
    for layer in (trainer.model.layer1.x, trainer.model.layer2, trainer.model.layer3.x):
        weight = layer[0].weight
        nn.init.dirac_(weight.data[: weight.shape[1]])


def spare_norms(trainer: Any) -> None:
    """No weight decay for batch norm's weights and biases."""
    for name in ("weight", "bias"):
        _norms_group(trainer, name)["weight_decay"] = 0.0


def hurry_biases(trainer: Any) -> None:
    """Batch norm's biases learn 64 times as fast, and decay as much as before. Source: "How to train your ResNet 8"."""
    biases = _norms_group(trainer, "bias")
    biases["weight_decay"] /= QUICK

    def hurry(*_: Any) -> None:  # each step sets one rate for all
        biases["lr"] *= QUICK

    trainer.optimizer.register_step_pre_hook(hurry)


def _norms_group(trainer: Any, name: str) -> dict[str, Any]:
    """The optimizer's group of batch norm's weights or biases alone, made where there is none."""
    groups: list[dict[str, Any]] = trainer.optimizer.param_groups
    for group in groups:
        if group.get("norms") == name:
            return group
    chosen = [getattr(module, name) for module in trainer.model.modules() if isinstance(module, nn.BatchNorm2d)]
    rest = groups[0]
    rest["params"] = [parameter for parameter in rest["params"] if all(parameter is not other for other in chosen)]
    trainer.optimizer.add_param_group({**rest, "params": chosen, "norms": name})
    return groups[-1]


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


class _Pull(torch.autograd.Function):
    """The logits as they are; their gradient drawn towards that of the cross entropy with soft targets."""

    @staticmethod
    def forward(context: Any, logits_NK: Tensor, targets_NK: Tensor) -> Tensor:
        context.save_for_backward(logits_NK, targets_NK)
        return logits_NK.view_as(logits_NK)

    @staticmethod
    def backward(context: Any, gradient_NK: Tensor) -> tuple[Tensor, None]:
        logits_NK, targets_NK = context.saved_tensors
        soft_NK = (logits_NK.float().softmax(1) - targets_NK) / len(logits_NK)
        return torch.lerp(gradient_NK.float(), soft_NK, SHARE).to(gradient_NK.dtype), None


def agree(trainer: Any) -> None:
    """After the peak half of the loss is the cross entropy with what the averaged weights say of the mirror image.

    Source: temporal averages as teachers, https://arxiv.org/abs/1703.01780, here with all labels.
    """
    teacher = WeightAverage(trainer.model, trainer.steps_per_epoch)
    steps = itertools.count()
    trainer.optimizer.register_step_post_hook(lambda *_: teacher.follow(trainer.model, next(steps)))

    def pull(model: nn.Module, images: tuple[Tensor], logits_NK: Tensor) -> Tensor | None:
        if not model.training or trainer.state.step <= trainer.peak_step:
            return None
        with torch.no_grad():
            targets_NK = teacher.model(images[0].flip(3)).float().softmax(1)
        pulled: Tensor = _Pull.apply(logits_NK, targets_NK)
        return pulled

    trainer.model.register_forward_hook(pull)
