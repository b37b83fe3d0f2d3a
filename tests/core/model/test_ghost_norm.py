"""Ghost batch norm as one operation, held against a loop over chunks with torch's batch norm and against float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from scsuite.core.model.ghost_norm import backward_all_chunks, chunk_sizes, forward_all_chunks
from scsuite.core.model.network import GhostBatchNorm2d

EPS = 1e-5
MOMENTUM = 0.1
CASES = ((128, 16, 8, 8), (131, 24, 4, 8), (336, 8, 4, 21), (32, 5, 1, 2))  # N, C, H, chunks


def make_inputs(num_images: int, channels: int, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(num_images)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    features, grad = draw(num_images, channels, size, size) * 2 + 1, draw(num_images, channels, size, size)
    images = [tensor.to(dtype).to(memory_format=torch.channels_last) for tensor in (features, grad)]
    return *images, draw(channels).abs() + 0.5, draw(channels), draw(channels), draw(channels).abs() + 0.5


def normalise_by_loop(inputs: tuple[Tensor, ...], num_chunks: int) -> tuple[Tensor, ...]:
    """Return output, gradients of features, weight and bias, and running statistics, by torch's batch norm."""
    features, grad, weight, bias, running_mean, running_var = (tensor.clone() for tensor in inputs)
    leaves = [tensor.requires_grad_() for tensor in (features, weight, bias)]
    momentum = 1 - (1 - MOMENTUM) ** (1 / num_chunks)
    chunks = torch.split(features, chunk_sizes(len(features), num_chunks))
    parts = [
        functional.batch_norm(chunk, running_mean, running_var, weight, bias, True, momentum, EPS) for chunk in chunks
    ]
    output = torch.cat(parts)
    gradients = torch.autograd.grad(output, leaves, grad)
    return output.detach(), *gradients, running_mean, running_var


def normalise_by_module(inputs: tuple[Tensor, ...], num_chunks: int) -> tuple[Tensor, ...]:
    features, grad, weight, bias, running_mean, running_var = (tensor.clone() for tensor in inputs)
    norm = GhostBatchNorm2d(features.shape[1], EPS, MOMENTUM)
    norm.load_state_dict(
        {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}, strict=False
    )
    norm.ghost_batch_size = len(features) // num_chunks
    output = norm(features.requires_grad_())
    gradients = torch.autograd.grad(output, [features, norm.weight, norm.bias], grad)
    assert norm.running_mean is not None and norm.running_var is not None
    return output.detach(), *gradients, norm.running_mean, norm.running_var


def normalise_all_chunks(inputs: tuple[Tensor, ...], num_chunks: int) -> tuple[Tensor, ...]:
    features, grad, weight, bias, running_mean, running_var = inputs
    momentum = 1 - (1 - MOMENTUM) ** (1 / num_chunks)
    output, new_mean, new_var, mean, inv_std = forward_all_chunks(
        features, weight, bias, running_mean, running_var, num_chunks, momentum, EPS
    )
    return output, *backward_all_chunks(grad, features, weight, mean, inv_std), new_mean, new_var


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_images", "channels", "size", "num_chunks"), CASES)
def test_on_a_cpu_every_bit_is_that_of_a_loop_over_chunks(
    num_images: int, channels: int, size: int, num_chunks: int, dtype: torch.dtype
) -> None:
    inputs = make_inputs(num_images, channels, size, dtype)
    for actual, expected in zip(
        normalise_by_module(inputs, num_chunks), normalise_by_loop(inputs, num_chunks), strict=True
    ):
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(("num_images", "channels", "size", "num_chunks"), CASES)
def test_all_chunks_at_once_equal_the_loop_within_float32(
    num_images: int, channels: int, size: int, num_chunks: int
) -> None:
    inputs = make_inputs(num_images, channels, size)
    exact = normalise_by_loop(tuple(tensor.double() for tensor in inputs), num_chunks)
    for actual, expected in zip(normalise_all_chunks(inputs, num_chunks), exact, strict=True):
        assert (actual.double() - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize(("num_images", "channels", "size", "num_chunks"), CASES)
def test_all_chunks_at_once_equal_the_loop_within_one_rounding_of_bfloat16(
    num_images: int, channels: int, size: int, num_chunks: int
) -> None:
    inputs = make_inputs(num_images, channels, size, torch.bfloat16)
    outputs = normalise_all_chunks(inputs, num_chunks)
    assert [tensor.dtype for tensor in outputs] == [torch.bfloat16] * 2 + [torch.float32] * 4
    exact = normalise_by_loop(tuple(tensor.double() for tensor in inputs), num_chunks)
    for actual, expected in zip(outputs[:2], exact[:2], strict=True):
        # Half of the distance between neighbours in bfloat16, which has 8 significant bits.
        assert ((actual.double() - expected).abs() <= 2**-8 * expected.abs() + 1e-5).all()
    for actual, expected in zip(outputs[2:], exact[2:], strict=True):
        assert (actual.double() - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("normalise", [normalise_by_module, normalise_all_chunks])
def test_results_stay_channels_last(normalise: Callable[..., tuple[Tensor, ...]]) -> None:
    for tensor in normalise(make_inputs(64, 8, 4), 4)[:2]:
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_features_that_are_not_channels_last_are_normalised_too() -> None:
    inputs = make_inputs(64, 8, 4)
    plain = tuple(tensor.contiguous() for tensor in inputs)
    for actual, expected in zip(normalise_all_chunks(plain, 4), normalise_all_chunks(inputs, 4), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    for actual, expected in zip(normalise_by_module(plain, 4), normalise_by_module(inputs, 4), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_a_constant_channel_has_no_nan() -> None:
    features, grad, *rest = make_inputs(32, 4, 2)
    features[:, 1] = 3.7
    for tensor in normalise_all_chunks((features, grad, *rest), 2):
        assert tensor.isfinite().all()


class CountCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the ATen calls inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_kernels_on_an_accelerator_does_not_depend_on_the_number_of_chunks(dtype: torch.dtype) -> None:
    counts = []
    for num_chunks in (2, 2, 8, 32):  # the first one fills the cache of the chunks' weights
        inputs = make_inputs(16 * num_chunks, 4, 2, dtype)
        normalise_all_chunks(inputs, num_chunks)
        with CountCalls() as calls:
            normalise_all_chunks(inputs, num_chunks)
        counts.append(calls.count)
    assert len(set(counts)) == 1
    assert counts[0] <= 60  # forward and backward, views and allocations included; a loop of 32 chunks has over 160
