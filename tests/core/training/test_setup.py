"""What a training builds before its first step. Run: pytest tests/core/training/test_setup.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scsuite.core.augment import DefaultPolicy, normalise, policy_dict, policy_mean_std
from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset, Split
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.errors import InputError, UsageError
from scsuite.core.evaluation import evaluate
from scsuite.core.model.initialization import identity_init, whitening_init
from scsuite.core.model.network import GhostBatchNorm2d, KeyedDropout, ResNet3, build_model
from scsuite.core.seeding import keyed_seed
from scsuite.core.training.setup import (
    TrainSetup,
    check_batch_size,
    check_classes,
    make_policy,
    make_setup,
    split_validation,
    whitening_images,
)
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
    assert not any(is_flipped for epoch in range(3) for is_flipped in flipped(replace(tiny_config, flip="none"), epoch))


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


def test_a_setup_has_the_parts_of_its_configuration(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    setup = setup_of(tiny_data, replace(tiny_config, dropout=0.25, label_smoothing=0.1, seed=5, width=0.1))
    (dropout,) = (module for module in setup.model.modules() if isinstance(module, KeyedDropout))
    assert dropout.p == 0.25
    assert isinstance(setup.model, ResNet3)
    assert (setup.model.num_classes, setup.model.width) == (3, 0.1)
    assert setup.model.training
    assert setup.model.get_parameter("layer1.x.0.weight").is_contiguous(memory_format=torch.channels_last)
    assert setup.loader.batches.seed == 5
    assert setup.loader.batches.batch_size == 16
    assert setup.loader.batches.shard == slice(0, None, 1)
    assert setup.class_names == tiny_data.class_names
    assert setup.class_weights_K is None and setup.val is None
    assert setup.optimizer.param_groups[0]["momentum"] == 0.9
    assert not setup.scaler.is_enabled()
    assert setup.world is SINGLE_PROCESS
    other = setup_of(tiny_data, replace(tiny_config, seed=6, width=0.1))
    assert not torch.equal(other.model.get_parameter("fc.weight"), setup.model.get_parameter("fc.weight"))


def test_albumentations_is_used_where_it_is_asked_for(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    default = make_policy(tiny_config, tiny_data.train)
    assert isinstance(default, DefaultPolicy)
    assert (default.mean, default.std) == tiny_data.train.mean_std()
    assert not default.flip  # the loader alternates the flips
    random_flips = make_policy(replace(tiny_config, flip="random"), tiny_data.train)
    assert isinstance(random_flips, DefaultPolicy) and random_flips.flip
    for flip in ("random", "alternate", "none"):
        config = replace(tiny_config, augment_backend="albumentations", flip=flip)
        policy = make_policy(config, tiny_data.train)
        assert not isinstance(policy, DefaultPolicy)
        assert policy_mean_std(policy) == tiny_data.train.mean_std()
        flips = [part for part in policy_dict(policy)["transforms"] if "Flip" in part["__class_fullname__"]]
        assert len(flips) == (flip == "random")


def test_training_images_of_one_class_are_refused() -> None:
    labels_N = np.array([2, 2, 2])
    split = Split(np.zeros((3, 32, 32, 3), np.uint8), labels_N, ("",) * 3)
    with pytest.raises(InputError, match="images of two or more classes, found one class"):
        check_classes(split)
    check_classes(replace(split, labels_N=np.array([2, 2, 1])))
    check_classes(split.select([]))


def test_a_setup_evaluates_with_its_own_normalisation_and_names(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    setup, calls = setup_of(tiny_data, tiny_config), []
    ours = setup.evaluate(setup.model, tiny_data.test, tta="flip", on_batch=lambda: calls.append(1))
    settings: dict[str, Any] = {"mean": setup.mean, "std": setup.std, "class_names": tiny_data.class_names}
    expected = evaluate(setup.model, tiny_data.test, tta="flip", **settings)
    assert np.array_equal(ours.probabilities_NK, expected.probabilities_NK)
    assert ours.class_names == tiny_data.class_names
    assert calls == [1]


def test_the_workers_of_the_configuration_augment(
    tiny_data: Dataset, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scsuite.core.training.loader.default_workers", lambda: 3)
    loader: Any = setup_of(tiny_data, replace(tiny_config, augment_backend="albumentations", workers=0)).loader
    assert loader._loader.num_workers == 0
