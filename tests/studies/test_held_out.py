"""The study on held-out images: averages that survive a stop, recomputed statistics, temperature, comparisons."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import load_dataset
from scsuite.core.evaluation.metrics import Evaluation, compute_metrics
from scsuite.core.training.trainer import Trainer
from tests.studies.held_out import SideBySideAverages, fit, fit_temperature, make_candidate, recompute_statistics

CONFIG = TrainConfig(width=0.125, epochs=2, batch_size=100, lr_max=0.2, seed=3)


@pytest.fixture(scope="module")
def make_trainer() -> Callable[[], Trainer]:
    data = load_dataset("shapes", limit_train=300, limit_test=50)
    return lambda: Trainer(data, CONFIG)


def test_averages_continue_bit_for_bit_from_the_end_of_an_epoch(
    make_trainer: Callable[[], Trainer], tmp_path: Path
) -> None:
    trainer = make_trainer()
    averages = SideBySideAverages(trainer)
    fit(trainer, averages, tmp_path / "complete")
    first = make_trainer()
    started = SideBySideAverages(first)
    first.fit(should_stop=lambda: first.state.step > first.cycle.steps_per_epoch)
    started.save(tmp_path / "stopped")
    second = make_trainer()
    resumed = SideBySideAverages(second)
    fit(second, resumed, tmp_path / "stopped")
    for epochs, average in averages.by_epochs.items():
        expected, actual = average.model.state_dict(), resumed.by_epochs[epochs].model.state_dict()
        assert all(torch.equal(expected[name], actual[name]) for name in expected)
    # The trainer's own average is over 1/24 of 2 epochs: less than a step, so it has none.
    mean = torch.stack([average.model.get_parameter("fc.weight") for average in averages.by_epochs.values()])
    assert not torch.equal(mean[0], mean[3])


def test_recomputed_statistics_are_those_of_the_features_of_augmented_images(
    make_trainer: Callable[[], Trainer],
) -> None:
    trainer = make_trainer()
    before = copy.deepcopy(trainer.raw_model.state_dict())
    model = recompute_statistics(trainer, trainer.raw_model)
    batches = [images for images, _ in trainer.setup.loader.epoch(CONFIG.epochs, 0)]
    with torch.no_grad():
        means = torch.stack(
            [trainer.raw_model.get_submodule("prep.0")(images).mean(dim=(0, 2, 3)) for images in batches]
        )
    torch.testing.assert_close(model.get_buffer("prep.1.running_mean"), means.mean(dim=0), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.raw_model.state_dict().items())


def make_evaluation(logits_NK: torch.Tensor, labels_N: torch.Tensor) -> Evaluation:
    return compute_metrics(logits_NK, labels_N, tuple(str(k) for k in range(logits_NK.shape[1])))


def test_the_temperature_of_underconfident_logits_is_their_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NK = 3 * torch.randn(20_000, 5, generator=generator)
    labels_N = torch.multinomial(logits_NK.softmax(dim=1), 1, generator=generator).flatten()  # calibrated by definition
    result = fit_temperature(make_evaluation(logits_NK * 0.5, labels_N))
    assert result.temperature == pytest.approx(0.5, abs=0.02)
    assert result.ece_before > 0.05
    assert result.ece < 0.02
    assert result.loss < result.loss_default < result.loss_before
    assert result.ece < result.ece_default < result.ece_before


def test_the_error_of_a_gain_counts_the_images_on_which_only_one_network_is_right() -> None:
    labels_N = torch.zeros(100, dtype=torch.int64)
    default = torch.zeros(100, 2)
    default[:, 0] = 1.0
    other = default.clone()
    other[:4] = torch.tensor([0.0, 1.0])  # wrong on 4 of 100 images
    row = make_candidate("other", make_evaluation(other, labels_N), make_evaluation(default, labels_N))
    assert row.accuracy == pytest.approx(0.96)
    assert row.gain == pytest.approx(-0.04)
    assert row.gain_error == pytest.approx(np.std([-1] * 4 + [0] * 96, ddof=1) / 10)
