"""Ghost batch norm in training as one operation: each chunk of a batch is normalised with its own statistics.

In: features_NCHW, weight_C, bias_C and running statistics. Out: normalised features_NCHW and new running statistics.
Both devices compute the same function. On a CPU the operation goes through the chunks one after the other, because a
chunk fits into the cache. On an accelerator it is a few kernels over all chunks, because each kernel has a fixed cost.
N images in P nearly equal chunks; the first N % P chunks have one image more. M values of a channel in a chunk.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Normalised = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def chunk_sizes(num_images: int, num_chunks: int) -> list[int]:
    """Return the number of images of each chunk."""
    size, remainder = divmod(num_images, num_chunks)
    return [size + 1] * remainder + [size] * (num_chunks - remainder)


@torch.library.custom_op("scsuite::ghost_batch_norm", mutates_args=())
def ghost_batch_norm(
    features_NCHW: Tensor, weight_C: Tensor, bias_C: Tensor, running_mean_C: Tensor, running_var_C: Tensor,
    num_chunks: int, momentum: float, eps: float,
) -> Normalised:  # fmt: skip
    """Return normalised features, new running mean and variance, and each chunk's mean_PC and 1 / std_PC.

    `momentum` is that of one chunk: the running statistics are updated once for each chunk, in order.
    """
    if features_NCHW.device.type == "cpu":
        return _forward_by_chunk(
            features_NCHW, weight_C, bias_C, running_mean_C.clone(), running_var_C.clone(), num_chunks, momentum, eps
        )
    return forward_all_chunks(features_NCHW, weight_C, bias_C, running_mean_C, running_var_C, num_chunks, momentum, eps)


@torch.library.custom_op("scsuite::ghost_batch_norm_backward", mutates_args=())
def ghost_batch_norm_backward(
    grad_NCHW: Tensor, features_NCHW: Tensor, weight_C: Tensor, mean_PC: Tensor, inv_std_PC: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of features, weight and bias."""
    if features_NCHW.device.type == "cpu":
        return _backward_by_chunk(grad_NCHW, features_NCHW, weight_C, mean_PC, inv_std_PC, eps)
    return backward_all_chunks(grad_NCHW, features_NCHW, weight_C, mean_PC, inv_std_PC)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Normalised) -> None:
    features_NCHW, weight_C, *_, eps = inputs
    ctx.set_materialize_grads(False)  # otherwise the outputs after the first get gradients of zeros, four kernels
    ctx.save_for_backward(features_NCHW, weight_C, *output[3:])
    ctx.eps = eps


def _differentiate(ctx: Any, grad_NCHW: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *ghost_batch_norm_backward(grad_NCHW, *ctx.saved_tensors, ctx.eps), None, None, None, None, None


ghost_batch_norm.register_autograd(_differentiate, setup_context=_save_for_backward)


# --- a CPU: one chunk after the other ---


def _forward_by_chunk(
    features_NCHW: Tensor, weight_C: Tensor, bias_C: Tensor, running_mean_C: Tensor, running_var_C: Tensor,
    num_chunks: int, momentum: float, eps: float,
) -> Normalised:  # fmt: skip
    """Normalise with ATen's batch norm, chunk by chunk; the running statistics are updated in place."""
    sizes = chunk_sizes(len(features_NCHW), num_chunks)
    normalised_NCHW = torch.empty_like(features_NCHW)
    mean_PC, inv_std_PC = (weight_C.new_empty(num_chunks, len(weight_C)) for _ in range(2))
    for chunk, out, mean_C, inv_std_C in zip(
        torch.split(features_NCHW, sizes), torch.split(normalised_NCHW, sizes), mean_PC, inv_std_PC, strict=True
    ):
        torch.native_batch_norm(
            chunk, weight_C, bias_C, running_mean_C, running_var_C, True, momentum, eps, out=(out, mean_C, inv_std_C)
        )
    return normalised_NCHW, running_mean_C, running_var_C, mean_PC, inv_std_PC


def _backward_by_chunk(
    grad_NCHW: Tensor, features_NCHW: Tensor, weight_C: Tensor, mean_PC: Tensor, inv_std_PC: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = chunk_sizes(len(features_NCHW), len(mean_PC))
    grad_features_NCHW = torch.empty_like(features_NCHW)
    grad_weight_C, grad_bias_C = torch.zeros_like(weight_C), torch.zeros_like(weight_C)
    parts = (torch.split(images_NCHW, sizes) for images_NCHW in (grad_NCHW, features_NCHW, grad_features_NCHW))
    chunks = list(zip(*parts, mean_PC, inv_std_PC, strict=True))
    for grad, chunk, grad_chunk, mean_C, inv_std_C in reversed(chunks):  # the order in which autograd sums a loop's
        gradient, grad_w, grad_b = torch.ops.aten.native_batch_norm_backward(
            grad, chunk, weight_C, None, None, mean_C, inv_std_C, True, eps, [True, True, True]
        )
        grad_chunk.copy_(gradient)
        grad_weight_C += grad_w
        grad_bias_C += grad_b
    return grad_features_NCHW, grad_weight_C, grad_bias_C


# --- an accelerator: all chunks at once ---
#
# In channels-last memory, consecutive chunks of equal size are a view of shape P, M, C. With the sum S of a channel's
# values in a chunk and their norm Q (the square root of the sum of squares), the variance is -(S^2 - M Q^2) / M^2.


def forward_all_chunks(
    features_NCHW: Tensor, weight_C: Tensor, bias_C: Tensor, running_mean_C: Tensor, running_var_C: Tensor,
    num_chunks: int, momentum: float, eps: float,
) -> Normalised:  # fmt: skip
    """Normalise all chunks of a size at once; the number of kernels does not depend on the number of chunks."""
    groups = []
    for group_NCHW, count in _groups_of_equal_chunks(features_NCHW, num_chunks):
        values_PMC = _view_chunks(group_NCHW, count)
        num_values = values_PMC.shape[1]
        sums_PC = values_PMC.sum(dim=1, dtype=torch.float32)
        norms_PC = torch.linalg.vector_norm(values_PMC, dim=1, dtype=torch.float32)
        differences_PC = torch.addcmul(sums_PC * sums_PC, norms_PC, norms_PC, value=-num_values).clamp_max_(0)
        inv_std_PC = differences_PC.mul(-1 / num_values**2).add_(eps).rsqrt_()
        scale_PC = inv_std_PC * weight_C
        shift_PC = torch.addcmul(bias_C, sums_PC, scale_PC, value=-1 / num_values)
        normalised_PMC = torch.empty_like(values_PMC)
        torch.addcmul(shift_PC[:, None], values_PMC, scale_PC[:, None], out=normalised_PMC)
        groups.append((_restore(normalised_PMC, group_NCHW), sums_PC / num_values, inv_std_PC))
        decay, weight_P = (1 - momentum) ** count, _momentum_weights(count, momentum, values_PMC.device)
        unbiased = 1 / (num_values * (num_values - 1))
        running_mean_C = torch.addmv(running_mean_C, sums_PC.T, weight_P, beta=decay, alpha=1 / num_values)
        running_var_C = torch.addmv(running_var_C, differences_PC.T, weight_P, beta=decay, alpha=-unbiased)
    normalised_NCHW, mean_PC, inv_std_PC = _concatenate(groups)
    return normalised_NCHW, running_mean_C, running_var_C, mean_PC, inv_std_PC


def backward_all_chunks(
    grad_NCHW: Tensor, features_NCHW: Tensor, weight_C: Tensor, mean_PC: Tensor, inv_std_PC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of features, weight and bias, of all chunks of a size at once.

    With normalised values x and their gradients g, the gradient of the features is
    weight / std * (g - mean(g) - x * mean(g * x)), with means over a chunk.
    """
    groups = []
    num_chunks = len(mean_PC)
    grad_NCHW = grad_NCHW.contiguous(memory_format=torch.channels_last)
    of_gradients = _groups_of_equal_chunks(grad_NCHW, num_chunks)
    of_features = _groups_of_equal_chunks(features_NCHW, num_chunks)
    counts = [count for _, count in of_features]
    for (group_NCHW, count), (grad_group_NCHW, _), group_mean_PC, group_inv_std_PC in zip(
        of_features, of_gradients, torch.split(mean_PC, counts), torch.split(inv_std_PC, counts), strict=True
    ):
        values_PMC, grad_PMC = _view_chunks(group_NCHW, count), _view_chunks(grad_group_NCHW, count)
        num_values = values_PMC.shape[1]
        grad_bias_PC = grad_PMC.sum(dim=1, dtype=torch.float32)
        products_PC = (grad_PMC.float() * values_PMC).sum(dim=1)
        grad_weight_PC = torch.addcmul(products_PC, group_mean_PC, grad_bias_PC, value=-1).mul_(group_inv_std_PC)
        scale_PC = group_inv_std_PC * weight_C
        slope_PC = (scale_PC * group_inv_std_PC).mul_(grad_weight_PC).mul_(-1 / num_values)
        offset_PC = torch.addcmul(slope_PC * -group_mean_PC, scale_PC, grad_bias_PC, value=-1 / num_values)
        gradient_PMC = torch.addcmul(offset_PC[:, None], values_PMC, slope_PC[:, None])
        gradient_PMC = torch.addcmul(gradient_PMC, grad_PMC, scale_PC[:, None]).to(features_NCHW.dtype)
        groups.append((_restore(gradient_PMC, group_NCHW), grad_weight_PC, grad_bias_PC))
    grad_features_NCHW, grad_weight_PC, grad_bias_PC = _concatenate(groups)
    return grad_features_NCHW, grad_weight_PC.sum(dim=0), grad_bias_PC.sum(dim=0)


def _groups_of_equal_chunks(features_NCHW: Tensor, num_chunks: int) -> list[tuple[Tensor, int]]:
    """Return the images of the larger chunks and of the smaller ones, each with its number of chunks; one if equal."""
    size, remainder = divmod(len(features_NCHW), num_chunks)
    if not remainder:
        return [(features_NCHW, num_chunks)]
    boundary = remainder * (size + 1)
    return [(features_NCHW[:boundary], remainder), (features_NCHW[boundary:], num_chunks - remainder)]


def _view_chunks(features_NCHW: Tensor, num_chunks: int) -> Tensor:
    """Return values_PMC; without a copy if the features are channels last in memory."""
    return features_NCHW.permute(0, 2, 3, 1).reshape(num_chunks, -1, features_NCHW.shape[1])


def _restore(values_PMC: Tensor, like_NCHW: Tensor) -> Tensor:
    num_images, num_channels, height, width = like_NCHW.shape
    return values_PMC.view(num_images, height, width, num_channels).permute(0, 3, 1, 2)


def _concatenate(groups: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return groups[0] if len(groups) == 1 else tuple(torch.cat(parts) for parts in zip(*groups, strict=True))


@functools.lru_cache(maxsize=64)
def _momentum_weights(num_chunks: int, momentum: float, device: torch.device) -> Tensor:
    """Return the weight of each chunk in the running statistics: m (1 - m)^(P - 1 - p)."""
    exponents_P = torch.arange(num_chunks - 1, -1, -1, dtype=torch.float64)
    return (momentum * (1 - momentum) ** exponents_P).float().to(device)
