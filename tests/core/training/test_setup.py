"""What a training builds before its first step. Run: pytest tests/core/training/test_setup.py."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scsuite.core.augment import normalise
from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset, Split
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.errors import InputError, UsageError
from scsuite.core.model.initialization import identity_init, whitening_init
from scsuite.core.model.network import GhostBatchNorm2d, build_model
from scsuite.core.seeding import keyed_seed
from scsuite.core.training.setup import TrainSetup, check_batch_size, make_setup, split_validation, whitening_images
from tests.core.tiny import equal_tensors


def setup_of(data: Dataset, config: TrainConfig) -> TrainSetup:
    return make_setup(data, config, 0.9, SINGLE_PROCESS)


def test_prep_filters_are_whitened_by_the_training_images(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    config = replace(tiny_config, width=1.0, identity_init=False)
    setup = setup_of(tiny_data, config)
    plain = setup_of(tiny_data, replace(config, whitening_init=False)).model.state_dict()
    expected = build_model(len(tiny_data.class_names), config.width, seed=keyed_seed(config.seed, "weights"))
    assert equal_tensors(plain, expected.state_dict())
    whitening_init(expected, normalise(setup.train.images_NHWC, setup.mean, setup.std))
    assert not torch.equal(plain["prep.0.weight"], expected.state_dict()["prep.0.weight"])
    assert equal_tensors(setup.model.state_dict(), expected.state_dict())


def test_model_has_identity_filters_and_ghost_batch_norm(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    config = replace(tiny_config, identity_init=True, ghost_batch_size=2)
    model = setup_of(tiny_data, config).model
    expected = build_model(len(tiny_data.class_names), config.width, seed=keyed_seed(config.seed, "weights"))
    identity_init(expected)
    assert equal_tensors(model.state_dict(), expected.state_dict())
    norms = [module for module in model.modules() if isinstance(module, GhostBatchNorm2d)]
    assert [norm.ghost_batch_size for norm in norms] == [2] * 8


def test_images_are_flipped_in_every_other_epoch(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    images_NHWC = np.zeros_like(tiny_data.train.images_NHWC)
    images_NHWC[:, :, 16:] = 200  # bright on the right, which neither crop nor hole can hide
    data = replace(tiny_data, train=replace(tiny_data.train, images_NHWC=images_NHWC))

    def flipped(config: TrainConfig, epoch: int) -> list[bool]:
        images_NCHW = setup_of(data, config).loader.fetch(epoch, np.arange(72)).images_NCHW
        left_N, right_N = (half.mean(dim=(1, 2, 3)) for half in images_NCHW.chunk(2, dim=3))
        return [bool(is_flipped) for is_flipped in left_N > right_N]

    first, second, third = (flipped(tiny_config, epoch) for epoch in range(3))
    assert 20 < sum(first) < 52
    assert second == [not is_flipped for is_flipped in first]
    assert third == first
    first, second = (flipped(replace(tiny_config, flip="random"), epoch) for epoch in range(2))
    assert 20 < sum(a == b for a, b in zip(first, second, strict=True)) < 52
    assert not any(flipped(replace(tiny_config, flip="none"), epoch)[i] for epoch in range(3) for i in range(72))


def test_alternating_flips_do_not_apply_to_a_policy_file(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("transform: {__class_fullname__: Compose, transforms: [{__class_fullname__: ToGray, p: 1.0}]}")
    loader = setup_of(tiny_data, replace(tiny_config, augment=str(policy), flip="alternate")).loader
    first, second = (loader.fetch(epoch, np.arange(72)).images_NCHW for epoch in (0, 1))
    assert torch.equal(second, first)


def test_mean_and_std_are_those_of_the_policy(tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "transform:\n  __class_fullname__: Compose\n  transforms:\n"
        "  - {__class_fullname__: Normalize, mean: [0.1, 0.2, 0.3], std: [0.5, 0.6, 0.7]}\n"
    )
    setup = setup_of(tiny_data, replace(tiny_config, augment=str(policy)))
    (batch, *_) = setup.loader.epoch(0)
    images_NCHW = normalise(tiny_data.train.images_NHWC, setup.mean, setup.std)
    assert any(torch.allclose(batch.images_NCHW[0], image, atol=1e-6) for image in images_NCHW)
    assert setup.mean == (0.1, 0.2, 0.3)


def test_whitening_images_are_evenly_spaced_over_all_classes() -> None:
    labels_N = np.arange(5000) // 500  # ten classes, one after the other, as in folders
    images_NHWC = labels_N.astype(np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    split = Split(images_NHWC, labels_N, tuple(map(str, range(5000))))
    images_NCHW = whitening_images(split, (0.0,) * 3, (1 / 255,) * 3)
    assert len(images_NCHW) == 250
    classes, counts = np.unique(images_NCHW[:, 0, 0, 0].round().numpy(), return_counts=True)
    assert classes.tolist() == list(range(10))
    assert set(counts) == {25}


def test_validation_images_are_not_trained_on(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    setup = setup_of(tiny_data, replace(tiny_config, val_split=12))
    assert setup.val is not None
    assert (len(setup.train), len(setup.val)) == (60, 12)
    assert not set(setup.train.files) & set(setup.val.files)
    assert split_validation(tiny_data.train, 0) == (tiny_data.train, None)


@pytest.mark.parametrize("width", [0.05, 0.125, 0.25, 1.0])
def test_neither_held_out_nor_test_images_are_in_mean_std_or_whitening_filters(
    tiny_data: Dataset, tiny_config: TrainConfig, width: float
) -> None:
    config = replace(tiny_config, val_split=12, width=width)
    held_out = split_validation(tiny_data.train, 12)[1]
    assert held_out is not None
    others_NHWC = tiny_data.train.images_NHWC.copy()
    others_NHWC[[tiny_data.train.files.index(file) for file in held_out.files]] = 255
    test = replace(tiny_data.test, images_NHWC=255 - tiny_data.test.images_NHWC)
    others = replace(tiny_data, train=replace(tiny_data.train, images_NHWC=others_NHWC), test=test)
    setup, other = setup_of(tiny_data, config), setup_of(others, config)
    assert (other.mean, other.std) == (setup.mean, setup.std)
    assert equal_tensors(other.model.state_dict(), setup.model.state_dict())
    trained_NHWC = setup.train.images_NHWC / 255
    assert setup.mean == pytest.approx(trained_NHWC.mean(axis=(0, 1, 2)).tolist(), abs=1e-9)
    assert setup.std == pytest.approx(trained_NHWC.std(axis=(0, 1, 2)).tolist(), abs=1e-9)
    (batch, *_) = setup.loader.epoch(0)  # normalised by them: the colors of the holes are the mean
    assert abs(float(batch.images_NCHW.mean())) < 0.2
    assert 0.8 < float(batch.images_NCHW.std()) < 1.2


def test_batches_without_an_image_for_each_rank_or_never_full_are_refused() -> None:
    check_batch_size(16, 16, World(size=2))
    with pytest.raises(UsageError, match="at least one image for each of 2 ranks, found 1"):
        check_batch_size(16, 1, World(size=2))
    with pytest.raises(InputError, match="at least one batch of 17, found 16 images"):
        check_batch_size(16, 17, SINGLE_PROCESS)
