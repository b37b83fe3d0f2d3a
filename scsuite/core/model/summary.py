"""A summary of the network's layers: operations, output shapes and parameters.

In: a network. Out: one row per stage.
"""

from dataclasses import dataclass

import torch
from torch import nn

from scsuite.core.model.network import capture_outputs, evaluation_mode

STAGES = ("prep", "layer1.x", "layer1.res", "layer2", "layer3.x", "layer3.res", "pool", "fc")
OPERATION_NAMES = {"Conv2d": "Conv3x3", "GhostBatchNorm2d": "BN", "MaxPool2d": "MaxPool"}  # others: the class name


@dataclass(frozen=True)
class LayerSummary:
    """One stage: its operations, its output shape (without N) and its number of parameters."""

    name: str
    operations: str
    shape: tuple[int, ...]
    num_parameters: int


def model_summary(model: nn.Module) -> list[LayerSummary]:
    """Return the network's stages in order, with the output shape of each for a 3 x 32 x 32 image."""
    parameter = next(model.parameters())
    with evaluation_mode(model), torch.inference_mode(), capture_outputs(model, STAGES) as outputs:
        model(torch.zeros(1, 3, 32, 32, device=parameter.device, dtype=parameter.dtype))
    return [_summarize(name, model.get_submodule(name), tuple(outputs[name].shape[1:])) for name in STAGES]


def _summarize(name: str, stage: nn.Module, shape: tuple[int, ...]) -> LayerSummary:
    operations = []
    for module in stage.modules():
        if not list(module.children()):
            class_name = type(module).__name__
            size = str(module.kernel_size) if isinstance(module, nn.MaxPool2d) else ""
            operations.append(OPERATION_NAMES.get(class_name, class_name) + size)
    return LayerSummary(name, " > ".join(operations), shape, sum(p.numel() for p in stage.parameters()))
