"""A table of the network's layers: operations, output shapes and parameters.

In: a network. Out: one row per stage.
"""

from dataclasses import dataclass

import torch
from torch import nn

from scsuite.core.model.network import ResNet3


@dataclass(frozen=True)
class LayerSummary:
    """One line of the layer table: what it does, the shape it gives (N left out) and its parameters."""

    name: str
    operations: str
    shape: tuple[int, ...]
    num_parameters: int


def model_summary(model: ResNet3) -> list[LayerSummary]:
    """The network's stages in order, with the output shape that a 3 x 32 x 32 image gives in each."""
    stages = ["prep", "layer1.x", "layer1.res", "layer2", "layer3.x", "layer3.res", "pool", "fc"]
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:]))
        )
        for name in stages
    ]
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters())
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, 32, 32, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return [_row(name, model.get_submodule(name), shapes[name]) for name in stages]


def _row(name: str, module: nn.Module, shape: tuple[int, ...]) -> LayerSummary:
    names = {"Conv2d": "Conv3x3", "GhostBatchNorm2d": "BN", "MaxPool2d": "MaxPool"}
    operations = []
    for part in module.modules():
        if not list(part.children()):
            kind = type(part).__name__
            size = str(part.kernel_size) if isinstance(part, nn.MaxPool2d) else ""
            operations.append(names.get(kind, kind) + size)
    return LayerSummary(name, " > ".join(operations), shape, sum(p.numel() for p in module.parameters()))
