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

from scsuite.core.errors import UsageError

CAM_BATCH = 250  # images; a backward pass needs about three times the memory of a forward pass


def _gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their mean gradient. Selvaraju et al., https://arxiv.org/abs/1610.02391, eq. 1, 2."""
    return (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)


def _gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Pixels weighted so that each with evidence counts. Chattopadhyay et al., https://arxiv.org/abs/1710.11063, eq. 19

    The score is taken through an exponential, whose higher derivatives are powers of the gradient.
    """
    squares, cubes = gradients**2, gradients**3
    below = 2 * squares + activations.sum(dim=(2, 3), keepdim=True) * cubes
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
    total = activations.sum(dim=(2, 3), keepdim=True)
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
    method: str = "gradcam",
    layer: str | None = None,
) -> Tensor:
    """Heatmaps_NHW on the CPU: one per image, for the class that `targets` names for it.

    In fp32 whatever the precision of the run. The model's mode, gradients and hooks are as they were afterwards, also
    after an error. `layer` is a module's name; left out, the model's own `cam_layer`.
    Raises UsageError for a method or a layer that does not exist, with the nearest name, or a class out of range.
    """
    if method not in _MAPS:
        raise _unknown("--method", method, list(_MAPS))
    module = find_layer(model, layer)
    targets_N = torch.as_tensor(targets, dtype=torch.int64).cpu()
    if targets_N.shape != images_NCHW.shape[:1]:
        raise UsageError(
            "option", "--class", expected=f"one class for each of {len(images_NCHW)} images",
            found=f"classes of shape {tuple(targets_N.shape)}", hint="Name a class for every image.",
        )  # fmt: skip
    maps = []
    with _in_eval_mode(model):
        for images, chosen in zip(torch.split(images_NCHW, CAM_BATCH), torch.split(targets_N, CAM_BATCH), strict=True):
            activations, gradients = _activations_and_gradients(model, module, images, chosen)
            small_NHW = _MAPS[method](activations, gradients).relu()
            maps.append(_upsample(small_NHW, images.shape[2:]).cpu())
    return torch.cat(maps)


def find_layer(model: nn.Module, layer: str | None) -> nn.Module:
    """The module of that name, or the model's own choice; UsageError, with the nearest name, where there is none."""
    name = layer or str(getattr(model, "cam_layer", ""))
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if not name or name not in modules:
        raise _unknown("--layer", name, [n for n in modules if n])
    return modules[name]


def _upsample(maps_NHW: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(maps_NHW[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _activations_and_gradients(
    model: nn.Module, module: nn.Module, images_NCHW: Tensor, targets_N: Tensor
) -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _args, output: kept.append(output))
    parameter = next(model.parameters())
    try:
        with torch.enable_grad():
            logits_NK = model(images_NCHW.to(parameter.device, parameter.dtype).requires_grad_())
            if outside := [k for k in targets_N.tolist() if not 0 <= k < logits_NK.shape[1]]:
                raise UsageError(
                    "option", "--class", expected=f"a class from 0 to {logits_NK.shape[1] - 1}",
                    found=outside[0], hint="Give a class of the network.",
                )  # fmt: skip
            if not kept or kept[-1].dim() != 4 or kept[-1].shape[2:].numel() == 1:
                raise UsageError(
                    "option", "--layer", expected="a layer whose output is a map", found="one without height and width",
                    hint="Choose a convolution or a block of them.",
                )  # fmt: skip
            # An image's logits depend on that image alone in eval mode, so the sum's gradient is each image's own.
            score = logits_NK.gather(1, targets_N[:, None].to(parameter.device)).sum()
            (gradients,) = torch.autograd.grad(score, kept[-1])
    finally:
        handle.remove()
    return kept[-1].detach(), gradients


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
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
