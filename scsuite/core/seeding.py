"""Keyed random numbers: each is a pure function of its key, so workers, ranks and a stop in between change nothing.

In: a seed, a purpose, and an epoch, step or image. Out: a seed for another generator, or the numbers themselves.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

# SplitMix64 (Steele, Lea, Flood, https://doi.org/10.1145/2714064.2660195): its n-th number is mix(n * GOLDEN_GAMMA).
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def keyed_seed(seed: int, purpose: str, *key: int) -> int:
    """Return a 63-bit seed for one draw, a pure function of (seed, purpose, epoch, step or image)."""
    text = ":".join([str(seed), purpose, *map(str, key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class CounterRng:
    """Random numbers for a batch of images; the k-th number of an image does not depend on the batch that it is in.

    The numbers are made on the CPU: a device may lack float64, and then its numbers would differ.
    """

    def __init__(self, seed: int, epoch: int, indices_N: NDArray[np.int64]) -> None:
        key = np.uint64(keyed_seed(seed, "augment", epoch))
        self._states_N = _mix(key + (indices_N.astype(np.uint64) + np.uint64(1)) * GOLDEN_GAMMA)
        self._num_drawn = 0

    def _bits(self, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        """Return 64 random bits for each element of `shape` in each image."""
        count = int(np.prod(shape))
        numbers = np.arange(self._num_drawn + 1, self._num_drawn + count + 1, dtype=np.uint64)
        self._num_drawn += count
        return _mix(self._states_N[:, None] + numbers * GOLDEN_GAMMA).reshape(-1, *shape)

    def uniform(self, low: float, high: float, *shape: int) -> NDArray[np.float64]:
        """Return real numbers in [low, high) with 53 random bits, one row per image."""
        fractions = (self._bits(shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * fractions

    def integers(self, low: int, high: int | NDArray[np.int64], *shape: int) -> NDArray[np.int64]:
        """Return integers from low to high, both included; each probability is off by less than 2^-32."""
        ranges = (np.asarray(high, np.int64) - low + 1).astype(np.uint64)
        offsets = ((self._bits(shape) >> np.uint64(32)) * ranges) >> np.uint64(32)
        return low + offsets.astype(np.int64)

    def bernoulli(self, p: float) -> NDArray[np.bool_]:
        """Return True with probability p, one value per image."""
        return self.uniform(0.0, 1.0) < p


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * MIX_FACTORS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * MIX_FACTORS[1]
    return bits ^ (bits >> np.uint64(31))
