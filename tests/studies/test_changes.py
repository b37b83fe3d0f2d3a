"""What studies do to a trainer before its first step. Run: pytest tests/studies/test_changes.py."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.config import TrainConfig
from scsuite.core.loop import Trainer
from tests.core import tiny
from tests.studies.changes import SmallNorm, alternate_flips, pass_on, spare_norms, split_norms


def trainer() -> Trainer:
    return Trainer(tiny.dataset(), TrainConfig(width=0.05, lr_max=0.1, batch_size=10, device="cpu", precision="fp32"))


def test_without_decay_of_batch_norm_its_weights_stay_where_no_gradient_moves_them() -> None:
    one = trainer()
    spare_norms(one)
    for group in one.optimizer.param_groups:
        group["lr"] = 0.1
    before = {name: tensor.clone() for name, tensor in one.model.named_parameters()}
    for parameter in one.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    one.optimizer.step()
    assert len(before) == 25
    for name, parameter in one.model.named_parameters():
        # The first step of Nesterov momentum 0.9 is 1.9 times rate times gradient, here the decay alone.
        left = 1.0 if parameter.ndim == 1 else 1 - 0.1 * 1.9 * 5e-4
        assert torch.allclose(parameter, left * before[name], rtol=1e-6), name


def test_identities_pass_the_features_on() -> None:
    one = trainer()
    pass_on(one)
    for layer in (one.model.layer1.x, one.model.layer2, one.model.layer3.x):
        weight = layer.state_dict()["0.weight"]
        features_NCHW = torch.randn(2, weight.shape[1], 8, 8)
        passed_NCHW = functional.conv2d(features_NCHW, weight, padding=1)
        assert torch.allclose(passed_NCHW[:, : weight.shape[1]], features_NCHW, atol=1e-6)
        assert weight[weight.shape[1] :].abs().sum() > 0


def test_norms_over_64_images_norm_each_part_as_batch_norm_does_and_follow_all_as_fast() -> None:
    features_NCHW = torch.randn(3 * 64, 5, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    small, plain = SmallNorm(5).train(), nn.BatchNorm2d(5).train()
    for part, normed in zip(torch.split(features_NCHW, 64), torch.split(small(features_NCHW), 64), strict=True):
        assert torch.allclose(normed, copy.deepcopy(plain)(part), atol=1e-5)
    # After one batch of the same images thrice over, nine tenths of the initial statistics are left in both.
    same, once = SmallNorm(5).train(), nn.BatchNorm2d(5).train()
    same(features_NCHW[:64].repeat(3, 1, 1, 1))
    once(features_NCHW[:64])
    for name in ("running_mean", "running_var"):
        assert torch.allclose(getattr(same, name), getattr(once, name), rtol=1e-5)
    assert torch.equal(same.eval()(features_NCHW), nn.BatchNorm2d.forward(same, features_NCHW))
    one = trainer()
    split_norms(one)
    assert sum(isinstance(module, SmallNorm) for module in one.model.modules()) == 8


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
