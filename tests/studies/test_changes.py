"""What studies do to a trainer before its first step. Run: pytest tests/studies/test_changes.py."""

import numpy as np
import torch
from torch import Tensor

from scsuite.core.config import TrainConfig
from scsuite.core.loop import Trainer
from tests.core import tiny
from tests.studies.changes import alternate_flips


def trainer() -> Trainer:
    return Trainer(tiny.dataset(), TrainConfig(width=0.05, lr_max=0.1, batch_size=10, device="cpu", precision="fp32"))


def test_alternating_flips_show_each_image_and_its_mirror_image_in_turn_half_of_them_mirrored_first() -> None:
    one = trainer()
    twin = one.loader._source.twin  # type: ignore[union-attr]
    alternate_flips(one)
    num = 400
    images_NHWC = torch.from_numpy(tiny.dataset().train.images_NHWC[:1]).repeat(num, 1, 1, 1)
    indices_N = np.arange(num)
    first = mirrored(one, twin, images_NHWC, indices_N, epoch=0)
    assert 160 < sum(first) < 240  # 4 standard deviations
    for epoch in (1, 2, 3):
        expected = [was == (epoch % 2 == 0) for was in first]
        assert mirrored(one, twin, images_NHWC, indices_N, epoch) == expected


def mirrored(one: Trainer, twin: object, images_NHWC: Tensor, indices_N: np.ndarray, epoch: int) -> list[bool]:
    """Of each image, whether it is the mirror image of what the twin without its flip makes of it."""
    shown = one.loader._source.twin(images_NHWC, indices_N, seed=3, epoch=epoch)  # type: ignore[union-attr]
    plain = twin(images_NHWC, indices_N, seed=3, epoch=epoch)  # type: ignore[operator] # its flip was taken out
    as_it_is = (shown == plain).flatten(1).all(dim=1)
    turned = (shown == plain.flip(3)).flatten(1).all(dim=1)
    assert (as_it_is ^ turned).all()
    return [bool(was) for was in turned]
