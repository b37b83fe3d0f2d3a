"""The average of the weights, alone and in a training. Run: pytest tests/core/test_average.py."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scsuite.core.model.ema import EMA
from scsuite.core.model.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.errors import InputError
from scsuite.core.loop import Trainer, evaluate, fit
from scsuite.core.model import ResNet3, build_model

NUM_STEPS = 12


def walk() -> Iterator[ResNet3]:
    """A network whose weights and statistics change from step to step, as in a training."""
    model, generator = build_model(3, 0.05, seed=0), torch.Generator().manual_seed(1)
    for _ in range(NUM_STEPS):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise if tensor.is_floating_point() else 1)
        yield model


def followed(horizon: float) -> tuple[EMA, list[dict[str, torch.Tensor]]]:
    """The average over the walk, and the walk's states."""
    average, states = EMA(build_model(3, 0.05, seed=9), horizon), []
    for step, model in enumerate(walk()):
        average.follow(model, step)
        states.append(copy.deepcopy(model.state_dict()))
    return average, states


def test_the_first_horizon_steps_are_averaged_evenly_and_the_initial_weights_leave_no_trace() -> None:
    average, states = followed(horizon=NUM_STEPS)
    for name, tensor in average.model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, torch.stack([state[name] for state in states]).mean(dim=0), atol=1e-6), name


def test_after_the_first_steps_it_is_torchs_exponential_moving_average() -> None:
    horizon, start = 4.0, 3  # at step 3 the plain mean of four steps has the weights that the decay goes on with
    average = EMA(build_model(3, 0.05, seed=9), horizon)
    torchs = None
    for step, model in enumerate(walk()):
        average.follow(model, step)
        if step == start:
            torchs = AveragedModel(
                average.model,
                multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / horizon),  # type: ignore[no-untyped-call]
            )
            torchs.update_parameters(average.model)  # its first update copies
        elif torchs is not None:
            torchs.update_parameters(model)
    assert torchs is not None
    expected = dict(torchs.module.named_parameters())
    for name, parameter in average.model.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-5), name


def test_the_statistics_of_batch_norm_are_averaged_as_the_weights_are_and_its_counts_are_the_last() -> None:
    average, states = followed(horizon=3)
    expected = {name: tensor for name, tensor in states[0].items() if "running" in name}
    for step, state in enumerate(states[1:], 1):
        expected = {name: old + (state[name] - old) / min(3, step + 1) for name, old in expected.items()}
    for name, tensor in average.model.state_dict().items():
        if "running" in name:
            assert torch.allclose(tensor, expected[name], atol=1e-5), name
        elif "num_batches_tracked" in name:
            assert tensor == NUM_STEPS


@pytest.mark.parametrize(("ema", "averages"), [(0, False), (0.2, False), (0.21, True), (None, False)])
def test_an_average_over_a_step_or_less_is_none(
    tiny_data: Dataset, tiny_config: TrainConfig, ema: float | None, averages: bool
) -> None:
    trainer = Trainer(tiny_data, replace(tiny_config, ema=ema))  # 5 steps an epoch, 3 epochs: by default 0.6 steps
    assert (trainer.average is not None) == averages
    assert (trainer.network is trainer.model) != averages


def test_an_average_changes_nothing_of_the_training(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    plain, averaged = (Trainer(tiny_data, replace(tiny_config, ema=ema)) for ema in (0, 1))
    for trainer in (plain, averaged):
        list(fit(trainer))
    trained = averaged.model.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in plain.model.state_dict().items())
    assert any(not torch.equal(tensor, trained[name]) for name, tensor in averaged.network.state_dict().items())


def test_a_run_reports_the_average_each_epoch_and_the_last_weights_beside_it_at_the_end(
    tiny_data: Dataset, tiny_config: TrainConfig
) -> None:
    plain, averaged = (Trainer(tiny_data, replace(tiny_config, ema=ema)) for ema in (0, 1))
    expected, epochs = list(fit(plain)), list(fit(averaged))
    assert [epoch.test_loss_no_ema for epoch in epochs[:-1]] == [None] * (len(epochs) - 1)
    assert (epochs[-1].test_loss_no_ema, epochs[-1].test_accuracy_no_ema) == (
        expected[-1].test_loss,
        expected[-1].test_accuracy,
    )
    seen = evaluate(
        averaged.network, tiny_data.test, mean=averaged.mean, std=averaged.std, class_names=tiny_data.class_names,
        device=averaged.device,
    )  # fmt: skip
    assert epochs[-1].test_loss == seen.loss != expected[-1].test_loss
    assert all(epoch.test_loss_no_ema is None for epoch in expected)


def test_a_state_file_gives_the_averaged_network_to_use(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_data, replace(tiny_config, ema=1))
    list(fit(trainer, should_stop=lambda: trainer.state.step == 7))
    save_checkpoint(tmp_path / "state.safetensors", trainer.tensors(), trainer.facts())
    save_checkpoint(tmp_path / "weights.safetensors", trainer.weights(), trainer.facts())
    assert trainer.average is not None
    expected = trainer.average.model.state_dict()
    for name in ("state", "weights"):
        model, _ = load_checkpoint(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items()), name


@pytest.mark.parametrize(
    ("wrote", "reads", "words"),
    [(0, 1, "prep.0.weight is missing"), (1, 0, "is not part of it")],
)
def test_a_state_without_the_average_that_the_run_keeps_is_refused_and_one_with_another_too(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path, wrote: float, reads: float, words: str
) -> None:
    trainer = Trainer(tiny_data, replace(tiny_config, ema=wrote))
    list(fit(trainer, should_stop=lambda: True))
    save_checkpoint(tmp_path / "state.safetensors", trainer.tensors(), trainer.facts())
    other = Trainer(tiny_data, replace(tiny_config, ema=reads))
    with pytest.raises(InputError, match=words):
        other.restore(read_checkpoint(tmp_path / "state.safetensors"))


def test_an_average_that_is_not_finite_is_refused(tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(tiny_data, replace(tiny_config, ema=1))
    list(fit(trainer, should_stop=lambda: True))
    tensors = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    tensors["ema.fc.weight"][0, 0] = torch.nan
    save_checkpoint(tmp_path / "state.safetensors", tensors, trainer.facts())
    with pytest.raises(InputError, match=r"not finite in fc\.weight"):
        Trainer(tiny_data, trainer.config).restore(read_checkpoint(tmp_path / "state.safetensors"))
