"""The temperature of the logits: where it applies, where it comes from, and that a checkpoint keeps it."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.config import LrRangeConfig, TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.distributed import SINGLE_PROCESS
from scsuite.core.errors import UsageError
from scsuite.core.model.checkpoint import read_checkpoint, save_checkpoint
from scsuite.core.model.network import ResNet3, build_model
from scsuite.core.runs import load_checkpoint, load_classifier
from scsuite.core.training.setup import make_setup
from scsuite.core.training.trainer import Trainer
from tests.core.tiny import equal_tensors, train, train_until, without_clocks


def make_model(temperature: float, num_classes: int = 10) -> ResNet3:
    model = build_model(num_classes, width=0.05, seed=0)
    model.temperature = temperature
    return model


@pytest.fixture
def images_NCHW() -> Tensor:
    return torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# --- the network ---


def test_the_logits_of_eval_mode_are_divided_by_the_temperature(images_NCHW: Tensor) -> None:
    plain, warm = make_model(1.0).eval(), make_model(0.59).eval()
    torch.testing.assert_close(warm(images_NCHW), plain(images_NCHW) / 0.59, rtol=1e-6, atol=0)


def test_the_logits_of_training_mode_are_not(images_NCHW: Tensor) -> None:
    assert torch.equal(make_model(0.59)(images_NCHW), make_model(1.0)(images_NCHW))


def test_no_predicted_class_changes_in_half_precision_either() -> None:
    model = make_model(0.59).eval()
    for name in ("prep", "layer1", "layer2", "layer3", "pool", "fc"):
        setattr(model, name, nn.Identity())  # the inputs are the logits, but for their scale
    neighbours_N2 = torch.arange(0x3F80, 0x4000, dtype=torch.int16).view(torch.bfloat16).unfold(0, 2, 1)  # 1 to 2
    divided_N2 = neighbours_N2 / 0.59
    assert (divided_N2[:, 0] == divided_N2[:, 1]).any()  # bf16 holds fewer numbers of their size
    assert (model(neighbours_N2).argmax(dim=1) == 1).all()


def test_double_precision_stays_double(images_NCHW: Tensor) -> None:
    warm, plain = (make_model(temperature).double().eval()(images_NCHW.double()) for temperature in (0.59, 1.0))
    assert torch.equal(warm, plain / 0.59)


# --- the configuration ---


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.59),
        ({"label_smoothing": 0.2}, 1.0),  # not measured
        ({"label_smoothing": 0.001}, 1.0),
        ({"label_smoothing": 0.0}, 1.0),
        ({"temperature": 2.0}, 2.0),
        ({"label_smoothing": 0.0, "temperature": 0.5}, 0.5),
        ({"recipe": "assignment"}, 1.0),
        ({"recipe": "cifar10-fast"}, 1.0),
        ({"recipe": "assignment", "label_smoothing": 0.1}, 0.59),
    ],
)
def test_the_default_corrects_for_the_label_smoothing_that_it_was_fitted_to(
    settings: dict[str, Any], expected: float
) -> None:
    assert TrainConfig(**settings).resolved_temperature == expected


# --- the training ---


def softmax(logits_NK: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    exponentials_NK = np.exp(logits_NK.detach().double().numpy())
    return np.asarray(exponentials_NK / exponentials_NK.sum(axis=1, keepdims=True))


def normalised_test_images(trainer: Trainer) -> Tensor:
    mean, std = (np.array(values) for values in (trainer.setup.mean, trainer.setup.std))
    pixels_NHWC = trainer.data.test.images_NHWC / 255
    return torch.from_numpy(((pixels_NHWC - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("ema_epochs", [0, 1])
def test_a_temperature_changes_losses_and_probabilities_and_neither_weights_nor_classes(
    tiny_data: Dataset, tiny_config: TrainConfig, ema_epochs: int
) -> None:
    plain, warm = (
        Trainer(tiny_data, replace(tiny_config, ema_epochs=ema_epochs, temperature=temperature))
        for temperature in (1.0, 0.4)
    )
    train(plain)
    train(warm)
    assert equal_tensors(plain.state_tensors(), warm.state_tensors())
    for name in ("train_accuracy", "test_accuracy", "test_balanced_accuracy"):
        assert [getattr(epoch, name) for epoch in plain.epochs] == [getattr(epoch, name) for epoch in warm.epochs]
    assert plain.evaluate().predicted_N.tolist() == warm.evaluate().predicted_N.tolist()
    with torch.no_grad():
        logits_NK = plain.model.eval()(normalised_test_images(plain))
    assert np.allclose(plain.evaluate().probabilities_NK, softmax(logits_NK), atol=1e-5)
    assert np.allclose(warm.evaluate().probabilities_NK, softmax(logits_NK / 0.4), atol=1e-5)
    expected = functional.cross_entropy(logits_NK / 0.4, torch.from_numpy(tiny_data.test.labels_N)).item()
    assert warm.epochs[-1].test_loss == warm.evaluate().loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_training_loss_is_reported_at_the_temperature_of_the_test_loss(
    tiny_data: Dataset, tiny_config: TrainConfig, label_smoothing: float
) -> None:
    config = replace(tiny_config, label_smoothing=label_smoothing, temperature=0.4, dropout=0.0)
    trainer = Trainer(tiny_data, config)
    model = copy.deepcopy(trainer.raw_model).train()
    images_NCHW, labels_N = next(iter(trainer.setup.loader.epoch(0, 0)))
    expected = functional.cross_entropy(model(images_NCHW) / 0.4, labels_N).item()
    train_until(trainer, 1)
    assert trainer.steps[0].loss == pytest.approx(expected, abs=1e-5)


def test_a_network_of_ones_own_keeps_its_logits(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    own = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    trainer = Trainer(tiny_data, replace(tiny_config, width=1.0, dropout=0.0), model=own)
    expected = softmax(own(normalised_test_images(trainer)))
    assert np.allclose(trainer.evaluate().probabilities_NK, expected, atol=1e-5)
    assert trainer.metadata()["temperature"] == 1


def test_a_built_network_keeps_the_temperature_that_its_user_gave_it(
    tiny_data: Dataset, tiny_config: TrainConfig
) -> None:
    model = make_model(0.8, num_classes=3)
    trainer = Trainer(tiny_data, replace(tiny_config, width=1.0, dropout=0.0), model=model)
    assert (model.temperature, trainer.metadata()["temperature"]) == (0.8, 0.8)


def test_the_range_test_compares_training_and_held_out_losses_without_a_temperature(tiny_data: Dataset) -> None:
    config = LrRangeConfig(width=0.05, batch_size=16, val_split=12, device="cpu")
    model = make_setup(tiny_data, config, 0.9, SINGLE_PROCESS).model
    assert isinstance(model, ResNet3)
    assert model.temperature == 1


# --- checkpoints ---


def test_every_way_to_load_a_checkpoint_gives_the_probabilities_of_the_training(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_data, replace(tiny_config, temperature=0.4))
    train(trainer)
    trainer.save(path := tmp_path / "model.safetensors", weights_only=True)
    expected = trainer.evaluate().probabilities_NK
    images_NCHW = normalised_test_images(trainer)
    for model, _ in (load_checkpoint(path), load_checkpoint(path, model=build_model(3, 0.05))):
        assert np.allclose(softmax(model(images_NCHW)), expected, atol=1e-5)
    pixels_NCHW = torch.from_numpy(tiny_data.test.images_NHWC).permute(0, 3, 1, 2)
    assert np.allclose(load_classifier(path)(pixels_NCHW).detach().numpy(), expected, atol=1e-5)


def test_the_temperature_of_the_evaluated_network_is_saved(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_data, replace(tiny_config, ema_epochs=1))
    assert isinstance(trainer.model, ResNet3)
    assert trainer.model is not trainer.raw_model
    trainer.model.temperature = 0.8  # fitted to other images, for example
    trainer.save(path := tmp_path / "model.safetensors", weights_only=True)
    model, metadata = load_checkpoint(path)
    assert isinstance(model, ResNet3)
    assert (model.temperature, metadata["temperature"]) == (0.8, 0.8)


@pytest.mark.parametrize("value", [0, -0.59, 101, float("nan"), "0.59", np.float32(0.59), torch.tensor(0.59)])
def test_a_value_that_no_checkpoint_may_have_is_refused_before_it_is_saved(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path, value: Any
) -> None:
    trainer = Trainer(tiny_data, tiny_config)
    assert isinstance(trainer.model, ResNet3)
    trainer.model.temperature = value
    with pytest.raises(UsageError, match=r"temperature: model: expected a number from 0\.01 to 100, found"):
        trainer.save(tmp_path / "model.safetensors")


def test_a_run_that_an_earlier_version_began_keeps_its_probabilities(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    plain = replace(tiny_config, ema_epochs=1, temperature=1.0)
    trainer = train_until(Trainer(tiny_data, plain), 7)
    metadata, path = trainer.metadata(), tmp_path / "state.safetensors"
    del metadata["temperature"], metadata["config"]["temperature"]
    save_checkpoint(path, trainer.state_tensors(), metadata)
    model, loaded = load_checkpoint(path)
    assert isinstance(model, ResNet3)
    assert (model.temperature, loaded["temperature"]) == (1, 1)
    resumed = Trainer(tiny_data, replace(tiny_config, ema_epochs=1)).resume(path)
    train(resumed)
    train(trainer)
    assert without_clocks(resumed.epochs) == without_clocks(trainer.epochs[1:])
    resumed.save(path)
    assert read_checkpoint(path).metadata["temperature"] == 1
    again = Trainer(tiny_data, replace(tiny_config, ema_epochs=1)).resume(path)
    assert again.evaluate().loss == trainer.evaluate().loss


def test_a_network_that_an_earlier_version_pickled_has_a_temperature_of_1(images_NCHW: Tensor) -> None:
    model = make_model(1.0).eval()
    model.__dict__.pop("temperature")
    assert torch.equal(model(images_NCHW), make_model(1.0).eval()(images_NCHW))
