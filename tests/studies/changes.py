"""What a study may change about a trainer before its first step, beyond the options of a training.

In: a trainer. Out: the same, changed in place.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsuite.core.augment.batched import Flip, Twin
from scsuite.core.augment.canvas import on_device
from scsuite.core.augment.draws import Draws
from scsuite.core.config import keyed_seed


class Alternating:
    """A policy's twin without its flip, and after it a flip that each image gets every other epoch, half of them first.

    Source: alternating flip, https://arxiv.org/abs/2404.00498.
    """

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        twin.steps = tuple(step for step in twin.steps if not isinstance(step, Flip))

    def __call__(self, images_NHWC: Tensor, indices_N: NDArray[np.int64], *, seed: int, epoch: int) -> Tensor:
        """As the twin's."""
        images_NCHW = self.twin(images_NHWC, indices_N, seed=seed, epoch=epoch)
        begins_N = Draws(keyed_seed(seed, "first flip"), 0, indices_N).chance(0.5)
        flips_N = on_device(begins_N ^ (epoch % 2 == 1), images_NCHW.device)
        return torch.where(flips_N[:, None, None, None], images_NCHW.flip(3), images_NCHW)


def alternate_flips(trainer: Any) -> None:
    """Flip each image every other epoch, rather than at random."""
    source = trainer.loader._source
    source.twin = Alternating(source.twin)
