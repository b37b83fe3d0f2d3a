"""Grad-CAM and its family: the places in an image that a network uses as evidence for a class.

In: a model, normalised images_NCHW, one class per image. Out: heatmaps_NHW, float32, at the images' size, not negative
and not scaled: the maps of two classes can be compared, and a map of zeros means no positive evidence.
Shapes: A are the activations of the layer, G the gradients of the class score with respect to them, both N C h w.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.config import CAM_METHOD
from scsuite.core.dataset.image_file import padded_region, seen_region
from scsuite.core.dataset.split import format_names
from scsuite.core.errors import UsageError, did_you_mean
from scsuite.core.model.network import capture_outputs, evaluation_mode

CAM_BATCH = 100  # images; with 250 a CPU is a tenth slower and needs more memory
# Added to denominators as the `grad-cam` package does, so that the maps are equal to its maps.
EPS_PLUS_PLUS, EPS_X = 1e-6, 1e-7


def _gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weight channels by their mean gradient. Selvaraju et al., https://arxiv.org/abs/1610.02391, eq. 1, 2."""
    return (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)


def _gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weight pixels so that each with evidence counts. Chattopadhyay et al., https://arxiv.org/abs/1710.11063, eq. 19.

    The paper applies an exponential to the score, so that its higher derivatives are powers of the gradient.
    """
    squares, cubes = gradients**2, gradients**3
    denominator = 2 * squares + activations.sum(dim=(2, 3), keepdim=True) * cubes + EPS_PLUS_PLUS
    alphas = squares / torch.where(denominator != 0, denominator, torch.ones_like(denominator))
    weights = (alphas * gradients.relu()).sum(dim=(2, 3), keepdim=True)
    return (weights * activations).sum(dim=1)


def _hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weight each pixel by its own gradient. Draelos and Carin, https://arxiv.org/abs/2011.08891."""
    return (gradients * activations).sum(dim=1)


def _layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weight each pixel by its own positive gradient. Jiang et al., https://doi.org/10.1109/TIP.2021.3089943."""
    return (gradients.relu() * activations).sum(dim=1)


def _xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weight channels by gradient, averaged by activation. Fu et al., https://arxiv.org/abs/2008.02312, eq. 7."""
    denominator = activations.sum(dim=(2, 3), keepdim=True) + EPS_X
    fractions = activations / torch.where(denominator != 0, denominator, torch.ones_like(denominator))
    return ((fractions * gradients).sum(dim=(2, 3), keepdim=True) * activations).sum(dim=1)


_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "hirescam": _hirescam,
    "layercam": _layercam,
    "xgradcam": _xgradcam,
}


def grad_cam(
    model: nn.Module,
    images_NCHW: Tensor,
    classes: Sequence[int] | Tensor,
    *,
    method: str = CAM_METHOD,
    layer: str | None = None,
) -> Tensor:
    """Compute class activation maps: how much each pixel of an image is evidence for a class.

    The model computes in the dtype of its weights, which may differ from the precision of the run. Its training mode,
    gradients and hooks are restored, also after an error.

    Args:
        model: A network from normalised images_NCHW to logits_NK.
        images_NCHW: Normalised images.
        classes: One class index per image.
        method: gradcam, gradcam++, hirescam, layercam or xgradcam.
        layer: Name of a submodule, or several separated by commas, whose maps are averaged; None: `model.cam_layer`, or
            else the last convolution, or block with a convolution, whose output has height and width.

    Returns:
        heatmaps_NHW on the CPU at the images' size, 0 or more; zeros where an image has no positive evidence.

    Raises:
        UsageError: For an unknown method or layer, a layer whose output has no height and width, or a class that the
            network does not have.

    Example:
        >>> import torch
        >>> model, images_NCHW = build_model(seed=0), torch.zeros(2, 3, 32, 32)
        >>> grad_cam(model, images_NCHW, classes=[0, 1]).shape
        torch.Size([2, 32, 32])
    """
    if method not in _METHODS:
        raise _unknown_name("--method", method, list(_METHODS))
    if layer is None and not hasattr(model, "cam_layer"):
        layer = _last_convolution(model, images_NCHW[:1])
    layers = resolve_layers(model, layer)
    classes_N = torch.as_tensor(classes, dtype=torch.int64).cpu()
    if classes_N.shape != images_NCHW.shape[:1]:
        raise UsageError(
            "option", "--class", expected=f"one class for each of {len(images_NCHW)} images",
            found=f"classes of shape {tuple(classes_N.shape)}", hint="Give a class for every image.",
        )  # fmt: skip
    batches = zip(torch.split(images_NCHW, CAM_BATCH), torch.split(classes_N, CAM_BATCH), strict=True)
    maps = []
    with evaluation_mode(model):
        for batch_NCHW, batch_classes_N in batches:
            pairs = _activations_and_gradients(model, layers, batch_NCHW, batch_classes_N)
            layer_maps = [_upsample(_METHODS[method](*pair).relu(), batch_NCHW.shape[2:]) for pair in pairs]
            maps.append(_average(torch.stack(layer_maps)).cpu())
    return torch.cat(maps)


def resolve_layers(model: nn.Module, layer: str | None) -> list[str]:
    """Return the names in `layer` (separated by commas), or the model's own `cam_layer` for None.

    Raises UsageError, with the most similar name, if the model has no such submodule.
    """
    names = (layer or str(getattr(model, "cam_layer", ""))).split(",")
    choices = _submodule_names(model)
    if unknown_names := [name for name in names if name not in choices]:
        raise _unknown_name("--layer", unknown_names[0], choices)
    return list(dict.fromkeys(names))


def cam_layer_shapes(model: nn.Module, images_NCHW: Tensor) -> dict[str, tuple[int, ...]]:
    """Return (channels, height, width) of each layer that Grad-CAM can use, for these images, in forward order."""
    with evaluation_mode(model), torch.no_grad(), capture_outputs(model, _submodule_names(model)) as outputs:
        model(_move_to(model, images_NCHW))
    return {name: tuple(output.shape[1:]) for name, output in outputs.items() if _is_feature_map(output)}


def _last_convolution(model: nn.Module, images_NCHW: Tensor) -> str:
    """Return the layer for Grad-CAM of a user's own network: the last feature map that comes from a convolution."""
    convolutions = [
        name
        for name in cam_layer_shapes(model, images_NCHW)
        if any(isinstance(module, nn.Conv2d) for module in model.get_submodule(name).modules())
    ]
    if not convolutions:
        raise UsageError(
            "option", "--layer", expected="a convolution whose output has height and width",
            found=f"none in {type(model).__name__}", hint="Give the name of a layer.",
        )  # fmt: skip
    return convolutions[-1]


def paste_map(map_HW: Tensor, height: int, width: int, fit: str = "crop") -> Tensor:
    """Return the map of an image that was fitted to 32 x 32 at the image's own size; 0 where the network saw nothing.

    `fit` is one of config.FITS.
    """
    if fit == "pad":
        left, top, right, bottom = padded_region(width, height)
        map_HW = map_HW[top:bottom, left:right]
    left, top, right, bottom = (int(side) for side in seen_region(width, height, fit))
    full_HW = torch.zeros(height, width)
    full_HW[top:bottom, left:right] = _upsample(map_HW[None], (bottom - top, right - left))[0]
    return full_HW


def _submodule_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_modules() if name]


def _is_feature_map(output: object) -> bool:
    # A single pixel has no position.
    return isinstance(output, Tensor) and output.dim() == 4 and output.shape[2:].numel() > 1


def _average(maps_LNHW: Tensor) -> Tensor:
    """Return the mean over L layers of each image's maps, each scaled to a maximum of 1: layers differ in scale.

    The mean is multiplied by the mean of their maxima, so that the maps of two classes can still be compared.
    """
    if len(maps_LNHW) == 1:
        return maps_LNHW[0]
    maxima_LN11 = maps_LNHW.amax(dim=(2, 3), keepdim=True)
    scaled_LNHW = maps_LNHW / torch.where(maxima_LN11 > 0, maxima_LN11, torch.ones_like(maxima_LN11))
    return scaled_LNHW.mean(dim=0) * maxima_LN11.mean(dim=0)


def _upsample(maps_NHW: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(maps_NHW[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _move_to(model: nn.Module, images_NCHW: Tensor) -> Tensor:
    parameter = next(model.parameters())
    return images_NCHW.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)


def _activations_and_gradients(
    model: nn.Module, layers: Sequence[str], images_NCHW: Tensor, classes_N: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return A and G of each layer."""
    with torch.enable_grad(), capture_outputs(model, layers) as outputs:
        logits_NK = model(_move_to(model, images_NCHW).requires_grad_())
        if invalid := [k for k in classes_N.tolist() if not 0 <= k < logits_NK.shape[1]]:
            raise UsageError(
                "option", "--class", expected=f"a class from 0 to {logits_NK.shape[1] - 1}",
                found=invalid[0], hint="Give a class of the network.",
            )  # fmt: skip
        if unsuitable := [name for name in layers if name not in outputs or not _is_feature_map(outputs[name])]:
            raise UsageError(
                "option", "--layer", expected="a layer whose output has height and width",
                found=f"{unsuitable[0]}, without height and width", hint="Choose a convolution or a block of them.",
            )  # fmt: skip
        # In eval mode an image's logits depend on that image alone, so the gradient of the sum is each image's own.
        score = logits_NK.gather(1, classes_N[:, None].to(logits_NK.device)).sum()
        activations = [outputs[name] for name in layers]
        gradients = torch.autograd.grad(score, activations)
    return [(a.detach(), g) for a, g in zip(activations, gradients, strict=True)]


def _unknown_name(flag: str, name: str, names: Iterable[str]) -> UsageError:
    names = list(names)
    hint = did_you_mean(name, names, "Choose one of these.")
    return UsageError("option", flag, expected=f"one of {format_names(names, 40)}", found=repr(name), hint=hint)
