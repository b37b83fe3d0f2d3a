"""A user's own network: the options that do not apply to it, and its check before the first step.

In: an `nn.Module` from normalised images_NCHW to logits_NK. Out: the configuration of its training; a UsageError that
says what is wrong with the network.
"""

import copy
import warnings
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scsuite.core.config import RecipeConfig, flag_name
from scsuite.core.device import Device
from scsuite.core.errors import UsageError, one_line
from scsuite.core.model.network import evaluation_mode

# Options of scsuite's network, and their value where they have no effect.
NETWORK_OPTIONS: dict[str, Any] = {
    "width": 1.0,
    "dropout": 0.0,
    "whitening_init": False,
    "identity_init": False,
    "ghost_batch_size": 0,
    "temperature": None,
}

C = TypeVar("C", bound=RecipeConfig)


def own_network_config(config: C, stacklevel: int = 3) -> C:
    """Return the configuration of a training of a user's network: without the options of scsuite's network.

    A warning names options that were set and have no effect; `stacklevel` as in `warnings.warn`.
    """
    unused = [
        flag_name(item)
        for item in fields(config)
        if item.name in NETWORK_OPTIONS and getattr(config, item.name) not in (item.default, NETWORK_OPTIONS[item.name])
    ]
    if unused:
        warnings.warn(f"no effect on your own network: {', '.join(unused)}", stacklevel=stacklevel)
    return replace(config, **{name: value for name, value in NETWORK_OPTIONS.items() if hasattr(config, name)})


def prepare_network(model: nn.Module, images_NCHW: Tensor, num_classes: int, device: Device) -> None:
    """Move the network to the device, and check that it has weights to train and gives finite logits_NK.

    Its weights, running statistics and training mode stay as they are. Raises UsageError.
    """
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise _error(repr(model)[:60], "a torch.nn.Module", f"a {name}", "Give a network, as in model=MyNet().")
    model.to(device.device)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise _error(name, "parameters to train", "none that requires a gradient", "Give a network with weights.")
    if not all(isinstance(value, Tensor) for value in model.state_dict().values()):
        raise _error(name, "a state_dict of tensors", "other values in it", "Leave extra state out of the network.")
    images_NCHW = device.move(images_NCHW)
    with torch.no_grad(), torch.random.fork_rng([device.device] if device.is_cuda else []):
        with evaluation_mode(model):
            _check_logits(name, _forward(model, images_NCHW, device), len(images_NCHW), num_classes)
        model.to(memory_format=torch.channels_last)  # not before the forward pass: it makes the weights of lazy layers
        # Some networks return several outputs in training. A copy, whose batch norm may change its running statistics.
        logits_NK = _forward(copy.deepcopy(model).train(), images_NCHW, device)
        _check_logits(name, logits_NK, len(images_NCHW), num_classes)
    if torch.allclose(logits_NK.sum(dim=1), torch.ones(()).to(logits_NK), atol=1e-3) and bool((logits_NK >= 0).all()):
        warnings.warn(
            f"the outputs of {name} look like probabilities: give logits, without a softmax at the end", stacklevel=4
        )


def _forward(model: nn.Module, images_NCHW: Tensor, device: Device) -> Tensor:
    try:
        with device.autocast():
            output = model(images_NCHW)
    except Exception as error:  # the user's code: a layer that expects another size, for example
        name, shape = type(model).__name__, tuple(images_NCHW.shape)
        hint = "Images are normalised float32 of 3 x 32 x 32."
        raise _error(name, f"logits of images of shape {shape}", one_line(error), hint) from error
    return output if not isinstance(output, Tensor) else output.float()


def _check_logits(name: str, logits_NK: object, num_images: int, num_classes: int) -> None:
    expected = f"logits of shape ({num_images}, {num_classes}) for {num_images} images of {num_classes} classes"
    if not isinstance(logits_NK, Tensor):
        raise _error(name, expected, f"a {type(logits_NK).__name__}", "Return the logits alone.")
    if logits_NK.shape != (num_images, num_classes):
        hint = f"Give the network {num_classes} outputs."
        raise _error(name, expected, f"the shape {tuple(logits_NK.shape)}", hint)
    if not logits_NK.isfinite().all():
        raise _error(name, "finite logits", "NaN or infinity", "Check its initial weights.")


def _error(name: str, expected: str, found: str, hint: str) -> UsageError:
    return UsageError("model", name, expected=expected, found=found, hint=hint)
