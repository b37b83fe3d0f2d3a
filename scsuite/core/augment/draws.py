"""Keyed random numbers for a whole batch: a function of (seed, epoch, image, number of the draw) and nothing else.

In: seed, epoch, indices_N of the images. Out: arrays with a row an image, the same on every machine and device.
"""

import numpy as np
from numpy.typing import NDArray

from scsuite.core.config import keyed_seed

# SplitMix64 (Steele, Lea, Flood, https://doi.org/10.1145/2714064.2660195): its n-th number is the mixed n x GOLDEN.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Draws:
    """The draws of a batch, one after the other: the k-th is the same for an image in whatever batch it comes.

    They are made on the CPU, for a device may lack float64, and then differ from device to device.
    """

    def __init__(self, seed: int, epoch: int, indices_N: NDArray[np.int64]) -> None:
        key = np.uint64(keyed_seed(seed, "augment", epoch))
        self._states_N = _mixed(key + (indices_N.astype(np.uint64) + np.uint64(1)) * GOLDEN)
        self._num_drawn = 0

    def _bits(self, shape: tuple[int, ...]) -> NDArray[np.uint64]:
        """64 random bits for each place of `shape` in each image."""
        num = int(np.prod(shape))
        numbers = np.arange(self._num_drawn + 1, self._num_drawn + num + 1, dtype=np.uint64)
        self._num_drawn += num
        return _mixed(self._states_N[:, None] + numbers * GOLDEN).reshape(-1, *shape)

    def uniform(self, low: float, high: float, *shape: int) -> NDArray[np.float64]:
        """Real numbers in [low, high), of 53 bits."""
        shares = (self._bits(shape) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * shares

    def integers(self, low: int, high: int | NDArray[np.int64], *shape: int) -> NDArray[np.int64]:
        """Whole numbers from low to high, both included; the chance of each is off by less than 2^-32."""
        spans = (np.asarray(high, np.int64) - low + 1).astype(np.uint64)
        parts = ((self._bits(shape) >> np.uint64(32)) * spans) >> np.uint64(32)
        return low + parts.astype(np.int64)

    def chance(self, p: float) -> NDArray[np.bool_]:
        """True with probability p."""
        return self.uniform(0.0, 1.0) < p


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * FACTORS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * FACTORS[1]
    return bits ^ (bits >> np.uint64(31))
