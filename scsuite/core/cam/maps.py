"""Grad-CAM and its family: where in an image a network found its evidence for a class.

In: a model, normalised images_NCHW, one class per image. Out: heatmaps_NHW, float32, at the images' size, not negative
and not scaled: two classes' maps can be compared, and a map of zeros says that there is no positive evidence.
Shapes: A are the layer's activations, G the gradients of the class score at them, both N C h w.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.config import CAM_METHOD
from scsuite.core.errors import UsageError

CAM_BATCH = 100  # images; of 250 a CPU does a tenth fewer a second, and needs more memory
# Added below the fraction bar where the `grad-cam` package adds them, so that its users find their maps again.
EPS_PLUS_PLUS, EPS_X = 1e-6, 1e-7


def _gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their mean gradient. Selvaraju et al., https://arxiv.org/abs/1610.02391, eq. 1, 2."""
    return (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)


def _gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Pixels weighted so that each with evidence counts. Chattopadhyay et al., https://arxiv.org/abs/1710.11063, eq. 19

    The score is taken through an exponential, whose higher derivatives are powers of the gradient.
    """
    squares, cubes = gradients**2, gradients**3
    below = 2 * squares + activations.sum(dim=(2, 3), keepdim=True) * cubes + EPS_PLUS_PLUS
    alphas = squares / torch.where(below != 0, below, torch.ones_like(below))
    weights = (alphas * gradients.relu()).sum(dim=(2, 3), keepdim=True)
    return (weights * activations).sum(dim=1)


def _hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Each pixel by its own gradient. Draelos and Carin, https://arxiv.org/abs/2011.08891."""
    return (gradients * activations).sum(dim=1)


def _layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Each pixel by its own gradient, where that is positive. Jiang et al., https://doi.org/10.1109/TIP.2021.3089943."""
    return (gradients.relu() * activations).sum(dim=1)


def _xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by gradient, averaged by activation. Fu et al., https://arxiv.org/abs/2008.02312, eq. 7."""
    total = activations.sum(dim=(2, 3), keepdim=True) + EPS_X
    share = activations / torch.where(total != 0, total, torch.ones_like(total))
    return ((share * gradients).sum(dim=(2, 3), keepdim=True) * activations).sum(dim=1)


_MAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "hirescam": _hirescam,
    "layercam": _layercam,
    "xgradcam": _xgradcam,
}


def grad_cam(
    model: nn.Module,
    images_NCHW: Tensor,
    targets: Sequence[int] | Tensor,
    *,
    method: str = CAM_METHOD,
    layer: str | None = None,
) -> Tensor:
    """Heatmaps_NHW on the CPU: one per image, for the class that `targets` names for it.

    In fp32 whatever the precision of the run. The model's mode, gradients and hooks are as they were afterwards, also
    after an error. `layer` is a module's name, or several with commas between, whose maps are averaged; left out, the
    model's own `cam_layer`.
    Raises UsageError for a method or a layer that does not exist, with the nearest name, or a class out of range.
    """
    if method not in _MAPS:
        raise _unknown("--method", method, list(_MAPS))
    layers = find_layers(model, layer)
    targets_N = torch.as_tensor(targets, dtype=torch.int64).cpu()
    if targets_N.shape != images_NCHW.shape[:1]:
        raise UsageError(
            "option", "--class", expected=f"one class for each of {len(images_NCHW)} images",
            found=f"classes of shape {tuple(targets_N.shape)}", hint="Name a class for every image.",
        )  # fmt: skip
    maps = []
    with in_eval_mode(model):
        for images, chosen in zip(torch.split(images_NCHW, CAM_BATCH), torch.split(targets_N, CAM_BATCH), strict=True):
            pairs = _activations_and_gradients(model, layers, images, chosen)
            of_layers = [_upsample(_MAPS[method](*pair).relu(), images.shape[2:]) for pair in pairs]
            maps.append(_average(torch.stack(of_layers)).cpu())
    return torch.cat(maps)


def find_layers(model: nn.Module, layer: str | None) -> dict[str, nn.Module]:
    """The modules of these names (commas between), or the model's own choice.

    Raises UsageError, with the nearest name, where there is none.
    """
    names = (layer or str(getattr(model, "cam_layer", ""))).split(",")
    modules: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if name}
    if unknown := [name for name in names if name not in modules]:
        raise _unknown("--layer", unknown[0], list(modules))
    return {name: modules[name] for name in names}


def map_shapes(model: nn.Module, images_NCHW: Tensor) -> dict[str, tuple[int, ...]]:
    """(channels, height, width) of what each layer that Grad-CAM can look at gives for such images, in their order."""
    modules = {name: module for name, module in model.named_modules() if name}
    with in_eval_mode(model), torch.no_grad(), _watched(modules) as outputs:
        model(_on_device_of(model, images_NCHW))
    return {name: tuple(out.shape[1:]) for name, out in outputs.items() if _is_map(out)}


def laid_over(map_HW: Tensor, height: int, width: int) -> Tensor:
    """The map of a centre square, as large as the picture that the square was cut from, 0 outside of it."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    whole_HW = torch.zeros(height, width)
    whole_HW[top : top + side, left : left + side] = _upsample(map_HW[None], (side, side))[0]
    return whole_HW


def _is_map(output: Tensor) -> bool:
    return output.dim() == 4 and output.shape[2:].numel() > 1  # a single pixel shows no place


def _average(maps_LNHW: Tensor) -> Tensor:
    """Of L layers, in each image: a layer's evidence has a scale of its own, so each counts by its shape alone.

    What is averaged is brought back to the mean of their maxima: two classes' maps can still be compared.
    """
    if len(maps_LNHW) == 1:
        return maps_LNHW[0]
    peaks_LN11 = maps_LNHW.amax(dim=(2, 3), keepdim=True)
    shapes_LNHW = maps_LNHW / torch.where(peaks_LN11 > 0, peaks_LN11, torch.ones_like(peaks_LN11))
    return shapes_LNHW.mean(dim=0) * peaks_LN11.mean(dim=0)


def _upsample(maps_NHW: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(maps_NHW[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _on_device_of(model: nn.Module, images_NCHW: Tensor) -> Tensor:
    parameter = next(model.parameters())
    return images_NCHW.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)


def _activations_and_gradients(
    model: nn.Module, layers: dict[str, nn.Module], images_NCHW: Tensor, targets_N: Tensor
) -> list[tuple[Tensor, Tensor]]:
    with torch.enable_grad(), _watched(layers) as outputs:
        logits_NK = model(_on_device_of(model, images_NCHW).requires_grad_())
        if outside := [k for k in targets_N.tolist() if not 0 <= k < logits_NK.shape[1]]:
            raise UsageError(
                "option", "--class", expected=f"a class from 0 to {logits_NK.shape[1] - 1}",
                found=outside[0], hint="Give a class of the network.",
            )  # fmt: skip
        if flat := [name for name in layers if name not in outputs or not _is_map(outputs[name])]:
            raise UsageError(
                "option", "--layer", expected="a layer whose output is a map",
                found=f"{flat[0]}, without height and width", hint="Choose a convolution or a block of them.",
            )  # fmt: skip
        # An image's logits depend on that image alone in eval mode, so the sum's gradient is each image's own.
        score = logits_NK.gather(1, targets_N[:, None].to(logits_NK.device)).sum()
        activations = [outputs[name] for name in layers]
        gradients = torch.autograd.grad(score, activations)
    return [(a.detach(), g) for a, g in zip(activations, gradients, strict=True)]


@contextmanager
def _watched(layers: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What each of these modules gave when it was last called, by name, while the block runs."""
    outputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _module, _args, out, name=name: outputs.__setitem__(name, out))
        for name, module in layers.items()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode while the block runs, and in its own after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _unknown(flag: str, name: str, names: Sequence[str]) -> UsageError:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]}?" if near else "Choose one of these."
    return UsageError("option", flag, expected=f"one of {', '.join(names[:40])}", found=repr(name), hint=hint)
