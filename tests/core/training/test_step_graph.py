"""The step as a CUDA graph, without a GPU: recorded and replayed by a stand-in, it has the bits of the eager step.

Run: pytest tests/core/training/test_step_graph.py.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.device import Device
from scsuite.core.distributed import World
from scsuite.core.errors import DivergedError, UsageError
from scsuite.core.runs.results import StepResult
from scsuite.core.training.step_graph import GraphedStep, eager_reason, make_graphed_step
from scsuite.core.training.trainer import Trainer
from tests.core.tiny import equal_tensors, train, train_until, without_clocks
from tests.core.training.graph_stand_in import GraphStandIn, StandInRecorder
from tests.run_cli import run_cli
from tests.tiny_args import TINY_ARGS

NUM_STEPS = 15  # three epochs of four batches of 16 and one of 8


@pytest.fixture
def config(tiny_config: TrainConfig) -> TrainConfig:
    """The default recipe at a tiny size, with several chunks of batch norm and an average of the weights."""
    return replace(tiny_config, dropout=0.0, ghost_batch_size=3, ema_epochs=1)


def graphed(trainer: Trainer, warm_up_steps: int = 1, step_class: type[GraphedStep] = GraphedStep) -> Trainer:
    """Let a trainer record its steps, as `--cuda-graph` does."""
    trainer.graphed_step = step_class(trainer.setup, StandInRecorder(), warm_up_steps)
    return trainer


def recorder(trainer: Trainer) -> StandInRecorder:
    assert trainer.graphed_step is not None
    assert isinstance(trainer.graphed_step.recorder, StandInRecorder)
    return trainer.graphed_step.recorder


def rows(steps: list[StepResult]) -> list[StepResult]:
    return [replace(step, seconds=0.0) for step in steps]


@pytest.mark.parametrize(
    ("max_steps_in_flight", "changes"),
    [
        (1, {}), (8, {}), (8, {"precision": "bf16"}),
        (8, {"l1": 1e-4, "class_weights": "balanced", "label_smoothing": 0.0}),
        (8, {"ghost_batch_size": 0, "gradient_centralization": False, "bn_weight_decay": True}),
    ],
)  # fmt: skip
def test_replayed_steps_of_both_batch_sizes_are_bit_equal_to_eager_ones(
    tiny_data: Dataset, config: TrainConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any],
    max_steps_in_flight: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(Device, "max_steps_in_flight", max_steps_in_flight)
    config = replace(config, **changes)
    eager, replayed = Trainer(tiny_data, config), graphed(Trainer(tiny_data, config))
    assert rows(train(replayed)) == rows(train(eager))
    assert equal_tensors(replayed.state_tensors(), eager.state_tensors())
    assert without_clocks(replayed.epochs) == without_clocks(eager.epochs)
    assert recorder(replayed).num_captures == 2
    assert recorder(replayed).num_replays == NUM_STEPS - 2 - 2  # without a warm-up and a recorded step of each size
    assert len({step.lr for step in eager.steps}) > 8


def test_a_resume_copies_into_the_recorded_memory_and_ends_bit_equal(
    tiny_data: Dataset, config: TrainConfig, tmp_path: Path
) -> None:
    eager = Trainer(tiny_data, config)
    train(eager)
    train_until(Trainer(tiny_data, config), 7).save(tmp_path / "state.safetensors")
    resumed = train_until(graphed(Trainer(tiny_data, config)), 12)  # both sizes are recorded
    addresses = {name: tensor.data_ptr() for name, tensor in resumed.state_tensors().items()}
    assert any(name.startswith("optimizer.momentum_buffer.") for name in addresses)
    resumed.resume(tmp_path / "state.safetensors")
    assert {name: tensor.data_ptr() for name, tensor in resumed.state_tensors().items()} == addresses
    steps = train(resumed)
    assert [step.step for step in steps] == list(range(7, NUM_STEPS))  # 8 steps, all replayed
    assert recorder(resumed).num_captures == 2
    assert equal_tensors(resumed.state_tensors(), eager.state_tensors())
    assert [step.loss for step in steps] == [row.loss for row in eager.steps[7:]]


class NumberAsLr(GraphedStep):
    """A step whose learning rate is a number of the host."""

    def set_lr(self, lr: float) -> None:
        for group in self.setup.optimizer.param_groups:
            group["lr"] = lr


def test_the_stand_in_shows_a_learning_rate_that_is_a_number(tiny_data: Dataset, config: TrainConfig) -> None:
    eager, wrong = Trainer(tiny_data, config), graphed(Trainer(tiny_data, config), step_class=NumberAsLr)
    train_until(eager, 8)
    train_until(wrong, 8)
    assert recorder(wrong).num_replays > 0
    assert not equal_tensors(wrong.state_tensors(), eager.state_tensors())


def test_the_stand_in_refuses_to_read_from_the_device() -> None:
    with pytest.raises(RuntimeError, match="waits for the device"), GraphStandIn():
        float(torch.ones(()) + 1)


def test_a_step_that_is_not_finite_stays_known_over_replays(
    tiny_data: Dataset, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "max_steps_in_flight", 8)
    trainer = graphed(Trainer(tiny_data, config))
    train_until(trainer, 5)
    step = trainer.graphed_step
    assert step is not None
    launch: Callable[..., Any] = step.launch

    def launch_with_nan(batch: Any, lr: float) -> Any:
        is_bad = step.num_launched == 7  # the third step of the second epoch; two more follow before the read-back
        return launch(batch._replace(images_NCHW=batch.images_NCHW * math.nan) if is_bad else batch, lr)

    monkeypatch.setattr(step, "launch", launch_with_nan)
    reported: list[int] = []
    with pytest.raises(DivergedError, match="step 7"):
        trainer.fit(on_step=lambda result: reported.append(result.step))
    assert reported == [5, 6]
    reference = train_until(Trainer(tiny_data, config), 5)
    monkeypatch.setattr(Device, "max_steps_in_flight", 1)
    train_until(reference, 7)
    weights = (dict(t.raw_model.named_parameters()) for t in (trainer, reference))
    assert equal_tensors(*weights)  # type: ignore[arg-type]  # parameters are tensors


class FailingRecorder(StandInRecorder):
    """A recorder that cannot record."""

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")


def test_a_failed_capture_is_said_once_and_the_training_goes_on_eagerly(
    tiny_data: Dataset, config: TrainConfig
) -> None:
    eager, trainer = Trainer(tiny_data, config), Trainer(tiny_data, config)
    trainer.graphed_step = GraphedStep(trainer.setup, FailingRecorder(), 1)
    lines: list[str] = []
    trainer.graphed_step.on_failure = lines.append
    assert rows(train(trainer)) == rows(train(eager))
    assert equal_tensors(trainer.state_tensors(), eager.state_tensors())
    (line,) = lines
    assert line.startswith("--cuda-graph has no effect: the step could not be recorded: CUDA error: operation not")
    assert "\n" not in line


def test_on_a_cpu_the_option_is_refused(tiny_data: Dataset, config: TrainConfig) -> None:
    with pytest.raises(UsageError, match="--cuda-graph: expected a CUDA device, found cpu"):
        Trainer(tiny_data, replace(config, cuda_graph=True))
    refused = run_cli("train", *TINY_ARGS, "--cuda-graph")
    assert refused.code == 2
    line = "error: option: --cuda-graph: expected a CUDA device, found cpu. Leave the option out."
    assert refused.err.strip() == line


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": "adamw"}, "adamw"), ({"cycle_momentum": True}, "momentum"), ({"dropout": 0.1}, "mask"),
    ],
)  # fmt: skip
def test_settings_that_a_graph_cannot_have_are_named(
    tiny_data: Dataset, config: TrainConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    assert eager_reason(Trainer(tiny_data, config).setup) is None
    trainer = Trainer(tiny_data, replace(config, **changes))
    assert reason in str(eager_reason(trainer.setup))
    monkeypatch.setattr(Device, "is_cuda", True)
    with pytest.warns(UserWarning, match=f"--cuda-graph has no effect: .*{reason}"):
        assert make_graphed_step(replace(trainer.config, cuda_graph=True), trainer.setup) is None


def test_fp16_several_ranks_and_a_users_own_network_are_named(tiny_data: Dataset, config: TrainConfig) -> None:
    setup = Trainer(tiny_data, config).setup
    assert "fp16" in str(eager_reason(replace(setup, scaler=torch.amp.GradScaler("cpu", enabled=True))))
    assert "ranks" in str(eager_reason(replace(setup, world=World(0, 2))))
    assert "own network" in str(eager_reason(replace(setup, model=nn.Flatten())))
