"""The average of the weights, by itself and in a training."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.errors import InputError
from scsuite.core.model.checkpoint import load_network, read_checkpoint, save_checkpoint
from scsuite.core.model.ema import EMA
from scsuite.core.model.network import ResNet3, build_model
from scsuite.core.training.trainer import Trainer
from tests.core.recorded_calls import RecordedCalls

NUM_STEPS = 12


def changing_models() -> Iterator[ResNet3]:
    """A network whose weights and statistics change from step to step, as in a training."""
    model, generator = build_model(3, 0.05, seed=0), torch.Generator().manual_seed(1)
    for _ in range(NUM_STEPS):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise if tensor.is_floating_point() else 1)
        yield model


def average_models(time_constant_steps: float) -> tuple[EMA, list[dict[str, torch.Tensor]]]:
    """The average of the changing network, and its state after each step."""
    ema, states = EMA(build_model(3, 0.05, seed=9), time_constant_steps), []
    for step, model in enumerate(changing_models()):
        ema.update(model, step)
        states.append(copy.deepcopy(model.state_dict()))
    return ema, states


def test_the_first_steps_are_averaged_evenly_and_the_initial_weights_have_no_influence() -> None:
    ema, states = average_models(time_constant_steps=NUM_STEPS)
    for name, tensor in ema.model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, torch.stack([state[name] for state in states]).mean(dim=0), atol=1e-6), name


def test_after_the_first_steps_it_is_torchs_exponential_moving_average() -> None:
    time_constant_steps, start = 4.0, 3  # at step 3 the plain mean of four steps has the decay's own weights
    ema = EMA(build_model(3, 0.05, seed=9), time_constant_steps)
    reference = None
    for step, model in enumerate(changing_models()):
        ema.update(model, step)
        if step == start:
            reference = AveragedModel(
                ema.model,
                multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / time_constant_steps),  # type: ignore[no-untyped-call]
            )
            reference.update_parameters(ema.model)  # its first update copies
        elif reference is not None:
            reference.update_parameters(model)
    assert reference is not None
    expected = dict(reference.module.named_parameters())
    for name, parameter in ema.model.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-5), name


def test_running_statistics_are_averaged_as_the_weights_are_and_batch_counts_are_copied() -> None:
    ema, states = average_models(time_constant_steps=3)
    expected = {name: tensor for name, tensor in states[0].items() if "running" in name}
    for step, state in enumerate(states[1:], 1):
        expected = {name: old + (state[name] - old) / min(3, step + 1) for name, old in expected.items()}
    for name, tensor in ema.model.state_dict().items():
        if "running" in name:
            assert torch.allclose(tensor, expected[name], atol=1e-5), name
        elif "num_batches_tracked" in name:
            assert tensor == NUM_STEPS


class OwnNetwork(torch.nn.Module):
    """A network that shares a weight, has no bias in one place, and replaces a buffer in its forward pass."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.count = self.count + 1
        output: torch.Tensor = self.second(self.first(values))
        return output


def test_the_average_of_a_users_network_follows_new_buffers_and_loaded_weights() -> None:
    model, loaded = OwnNetwork(), OwnNetwork()
    ema = EMA(model, 2.0)
    first = model.first.weight.detach().clone()
    model(torch.ones(1, 3))
    ema.update(model, 0)
    model(torch.ones(1, 3))
    model.load_state_dict(loaded.state_dict() | {"count": model.count})
    ema.update(model, 1)
    expected = (first + loaded.first.weight.detach()) / 2  # a shared weight is averaged once a step, not twice
    assert torch.allclose(ema.model.get_parameter("first.weight"), expected, atol=1e-7)
    assert ema.model.get_buffer("count") == 2
    ema.model.load_state_dict(loaded.state_dict())
    ema.update(model, 2)
    assert torch.allclose(ema.model.get_parameter("first.weight"), loaded.first.weight.detach(), atol=1e-7)


def test_an_update_visits_no_module_and_makes_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(3, 0.05, seed=0)
    ema = EMA(model, 4.0)

    def fail(*_: object) -> None:
        raise AssertionError("a walk over the modules")

    for name in ("named_modules", "named_parameters", "named_buffers", "state_dict"):
        monkeypatch.setattr(torch.nn.Module, name, fail)
    with RecordedCalls() as calls:
        ema.update(model, 0)
    assert [name for name, _ in calls.calls] == ["_foreach_lerp_", "_foreach_copy_"]


def make_config(ema_epochs: float | None) -> TrainConfig:
    """Three epochs of five steps."""
    return TrainConfig(
        data="tiny", batch_size=16, epochs=3, width=0.05, lr_max=0.1, precision="fp32", device="cpu", workers=0,
        dropout=0.1, ema_epochs=ema_epochs,
    )  # fmt: skip


@pytest.mark.parametrize(("ema_epochs", "averages"), [(0, False), (0.2, False), (0.21, True), (None, False)])
def test_there_is_no_average_over_one_step_or_less(
    tiny_data: Dataset, ema_epochs: float | None, averages: bool
) -> None:
    trainer = Trainer(tiny_data, make_config(ema_epochs))  # the default is 3 / 24 epochs, 0.6 steps
    assert (trainer.ema is not None) == averages
    assert (trainer.model is trainer.raw_model) != averages


@pytest.fixture(scope="module")
def trainings(tiny_data: Dataset) -> tuple[Trainer, Trainer]:
    """Two complete trainings that differ in `ema_epochs` only: 0 and 1."""
    plain, averaged = (Trainer(tiny_data, make_config(ema_epochs)) for ema_epochs in (0, 1))
    plain.fit()
    averaged.fit()
    return plain, averaged


def test_an_average_does_not_change_the_training(trainings: tuple[Trainer, Trainer]) -> None:
    plain, averaged = trainings
    raw = averaged.raw_model.state_dict()
    assert all(torch.equal(tensor, raw[name]) for name, tensor in plain.model.state_dict().items())
    assert any(not torch.equal(tensor, raw[name]) for name, tensor in averaged.model.state_dict().items())


def test_each_epoch_reports_the_average_and_the_last_one_also_the_raw_weights(
    trainings: tuple[Trainer, Trainer],
) -> None:
    plain, averaged = trainings
    expected, epochs = plain.epochs, averaged.epochs
    assert [epoch.test_loss_no_ema for epoch in epochs[:-1]] == [None] * (len(epochs) - 1)
    assert (epochs[-1].test_loss_no_ema, epochs[-1].test_accuracy_no_ema) == (
        expected[-1].test_loss,
        expected[-1].test_accuracy,
    )
    assert epochs[-1].test_loss == averaged.evaluate().loss != expected[-1].test_loss
    assert all(epoch.test_loss_no_ema is None for epoch in expected)


def train_steps(data: Dataset, ema_epochs: float, num_steps: int) -> Trainer:
    trainer = Trainer(data, make_config(ema_epochs))
    trainer.fit(should_stop=lambda: trainer.state.step >= num_steps)
    return trainer


def test_both_kinds_of_file_give_the_averaged_network(tiny_data: Dataset, tmp_path: Path) -> None:
    trainer = train_steps(tiny_data, ema_epochs=1, num_steps=7)
    trainer.save(tmp_path / "state.safetensors")
    trainer.save(tmp_path / "weights.safetensors", weights_only=True)
    assert trainer.ema is not None
    expected = trainer.ema.model.state_dict()
    for name in ("state", "weights"):
        model = load_network(read_checkpoint(tmp_path / f"{name}.safetensors"))
        assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items()), name


@pytest.mark.parametrize(
    ("saved_epochs", "resumed_epochs", "words"),
    [(0, 1, "prep.0.weight is missing"), (1, 0, "is not part of it")],
)
def test_a_state_whose_tensors_do_not_fit_the_average_of_the_run_is_refused(
    tiny_data: Dataset, tmp_path: Path, saved_epochs: float, resumed_epochs: float, words: str
) -> None:
    trainer, path = train_steps(tiny_data, saved_epochs, num_steps=1), tmp_path / "state.safetensors"
    trainer.save(path)
    with pytest.raises(InputError, match="the same ema_epochs"):
        Trainer(tiny_data, make_config(resumed_epochs)).resume(path)
    # Also with equal settings, the tensors are compared.
    metadata = trainer.metadata()
    metadata["config"] |= {"ema_epochs": resumed_epochs}
    save_checkpoint(path, trainer.state_tensors(), metadata)
    with pytest.raises(InputError, match=words):
        Trainer(tiny_data, make_config(resumed_epochs)).resume(path)


def test_an_average_that_is_not_finite_is_refused(tiny_data: Dataset, tmp_path: Path) -> None:
    trainer = train_steps(tiny_data, ema_epochs=1, num_steps=1)
    tensors = {name: tensor.clone() for name, tensor in trainer.state_tensors().items()}
    tensors["ema.fc.weight"][0, 0] = torch.nan
    save_checkpoint(tmp_path / "state.safetensors", tensors, trainer.metadata())
    with pytest.raises(InputError, match=r"not finite in fc\.weight"):
        Trainer(tiny_data, trainer.config).resume(tmp_path / "state.safetensors")
