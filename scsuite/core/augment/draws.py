"""Draws on the device: the numbers of `CounterRng` in integers, and what numpy arrays and tensors have in common.

In: a seed, an epoch and image indices, as an array or as a tensor. Out: random numbers of the same kind, with equal
values. An accelerator then needs no numbers from the CPU. Real numbers need float64, so only `CounterRng` has them.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsuite.core.seeding import GOLDEN_GAMMA, MIX_FACTORS, CounterRng, keyed_seed


def _signed(value: int) -> int:
    """Return the int64 with the lower 64 bits of a number; int64 has the products and sums of uint64, modulo 2^64."""
    return (value + 2**63) % 2**64 - 2**63


GAMMA = int(GOLDEN_GAMMA)
SIGNED_FACTORS = tuple(_signed(int(factor)) for factor in MIX_FACTORS)


class DeviceRng:
    """`CounterRng` on a device, without `uniform`."""

    def __init__(self, seed: int, epoch: int, indices_N: Tensor) -> None:
        key = keyed_seed(seed, "augment", epoch)
        self._states_N = _mix((indices_N + 1) * _signed(GAMMA) + key)
        self._num_drawn = 0

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        """Return 64 random bits for each element of `shape` in each image."""
        count, first = math.prod(shape), self._num_drawn + 1
        self._num_drawn += count
        if not shape:
            return _mix(self._states_N + _signed(first * GAMMA))
        numbers = torch.arange(first, first + count, device=self._states_N.device)
        return _mix(self._states_N[:, None] + numbers * _signed(GAMMA)).reshape(-1, *shape)

    def integers(self, low: int, high: Any, *shape: int) -> Tensor:
        """Return integers from low to high, both included."""
        offsets: Tensor = _shift_right(self._bits(shape), 32) * (high - low + 1)
        numbers: Tensor = low + _shift_right(offsets, 32)
        return numbers

    def bernoulli(self, p: float) -> Tensor:
        """Return True with probability p, one value per image: 53 bits, as an integer, are below p * 2^53."""
        is_drawn_N: Tensor = _shift_right(self._bits(()), 11) < math.ceil(p * 2**53)
        return is_drawn_N


def make_rng(seed: int, epoch: int, indices_N: NDArray[np.int64] | Tensor) -> Any:
    """Return the random numbers of these images, of the kind of their indices."""
    return DeviceRng(seed, epoch, indices_N) if isinstance(indices_N, Tensor) else CounterRng(seed, epoch, indices_N)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Shift as uint64 does: int64 would repeat its sign."""
    shifted: Tensor = (bits >> count) & (2 ** (64 - count) - 1)
    return shifted


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * SIGNED_FACTORS[0]
    bits = (bits ^ _shift_right(bits, 27)) * SIGNED_FACTORS[1]
    return bits ^ _shift_right(bits, 31)


def library(values: NDArray[Any] | Tensor) -> Any:
    """Return numpy or torch, whichever these values are of: `where`, `stack` and `full_like` are the same in both."""
    return torch if isinstance(values, Tensor) else np


def arange(size: int, like: NDArray[Any] | Tensor) -> Any:
    """Return 0, 1, ..., size - 1, of the kind and on the device of other values."""
    return torch.arange(size, device=like.device) if isinstance(like, Tensor) else np.arange(size)
