"""The position of a training and its checks. Run: pytest tests/core/training/test_state.py."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from scsuite import __version__
from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.runs.results import StepResult
from scsuite.core.training.state import BestEpoch, EpochTotals, TrainState, optimizer_tensors
from scsuite.core.training.trainer import Trainer
from tests.core.tiny import train_until

# Seven of 15 steps are done: one complete epoch of 72 images in five steps, and two batches of 16.
STATE = TrainState(
    step=7,
    totals=EpochTotals(loss=20.0, num_correct=9, num_images=32, seconds=0.5),
    best=BestEpoch(epoch=1, accuracy=0.5, selected_on="test"),
    images_per_second=[100.0, 300.0, 200.0],
)


def validate(state: TrainState) -> None:
    state.validate(num_steps=15, steps_per_epoch=5, batch_size=16, num_images=72, eval_split="test")


def test_totals_weight_losses_by_images() -> None:
    totals = EpochTotals()
    for num_images, loss in ((16, 2.0), (8, 1.0)):
        totals = totals.add(StepResult(0, 0.1, 0.9, loss, 3, num_images, 0.25))
    assert totals == EpochTotals(loss=40.0, num_correct=6, num_images=24, seconds=0.5)


def test_state_reads_back_with_the_median_speed_alone() -> None:
    validate(STATE)
    saved = STATE.to_dict()
    assert list(saved) == ["step", "totals", "best", "images_per_second"]
    assert TrainState.from_dict(saved) == replace(STATE, images_per_second=[200.0])
    assert TrainState().median_images_per_second is None
    assert TrainState.from_dict(TrainState().to_dict()) == TrainState()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": -1}, "step -1"),
        ({"step": 7.0}, "step 7.0"),
        ({"step": True}, "step True"),
        ({"totals": {"loss": 1.0}}, "totals"),
        ({"totals": {**STATE.to_dict()["totals"], "loss": math.nan}}, "loss nan"),
        ({"totals": {**STATE.to_dict()["totals"], "extra": 1}}, "extra"),
        ({"best": {"epoch": 1}}, "TypeError"),
        ({"best": {"epoch": 1, "accuracy": math.inf, "selected_on": "test"}}, "accuracy inf"),
        ({"images_per_second": [-1.0]}, "images_per_second 0 -1.0"),
        ({"images_per_second": 3}, "TypeError"),
    ],
)
def test_values_that_no_state_can_have_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainState.from_dict({**STATE.to_dict(), **changes})
    with pytest.raises(ValueError, match="KeyError"):
        TrainState.from_dict({name: value for name, value in STATE.to_dict().items() if name not in changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 0}, "step 0"),
        ({"step": 16}, "step 16"),
        ({"step": 8}, "totals over 32 images at step 8"),
        ({"totals": EpochTotals(20.0, 9, 31, 0.5)}, "totals over 31 images at step 7"),
        ({"totals": EpochTotals(20.0, 33, 32, 0.5)}, "33 of 32 images correct"),
        ({"totals": EpochTotals(20.0, 9, 32, 0.0)}, "in 0.0 seconds"),
        ({"images_per_second": [0]}, "a speed of 0"),
        ({"best": None}, "no best epoch of 1"),
        ({"best": BestEpoch(2, 0.5, "test")}, "best epoch 2 of 1"),
        ({"best": BestEpoch(1, 1.5, "test")}, "1.5 on 'test'"),
        ({"best": BestEpoch(1, 0.5, "val")}, "on 'val'"),
    ],
)
def test_positions_that_the_run_cannot_have_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(replace(STATE, **changes))


def test_an_epoch_may_await_its_evaluation() -> None:
    full = EpochTotals(loss=90.0, num_correct=30, num_images=72, seconds=1.0)
    validate(replace(STATE, step=10, totals=full))
    validate(replace(STATE, step=10, totals=EpochTotals()))
    validate(replace(STATE, step=5, totals=full, best=None))
    with pytest.raises(ValueError, match="no best epoch of 1"):
        validate(replace(STATE, step=5, totals=EpochTotals(), best=None))


def test_positions_at_their_limits_are_accepted() -> None:
    validate(replace(STATE, step=6, totals=EpochTotals(20.0, 16, 16, 0.5)))  # all correct
    validate(replace(STATE, best=BestEpoch(1, 1.0, "test")))
    validate(replace(STATE, best=BestEpoch(1, 0.0, "test")))
    validate(replace(STATE, step=1, totals=EpochTotals(20.0, 9, 16, 0.5), best=None))
    validate(replace(STATE, step=15, totals=EpochTotals(), best=BestEpoch(3, 0.5, "test")))
    for totals in (EpochTotals(), EpochTotals(20.0, 9, 16, 0.5)):
        with pytest.raises(ValueError, match=f"totals over {totals.num_images} images at step 7"):
            validate(replace(STATE, totals=totals))
    with pytest.raises(ValueError, match="totals over 16 images at step 10"):
        validate(replace(STATE, step=10, totals=EpochTotals(20.0, 9, 16, 0.5)))
    with pytest.raises(ValueError, match="best epoch 0 of 1"):
        validate(replace(STATE, best=BestEpoch(0, 0.5, "test")))
    with pytest.raises(ValueError, match="best epoch 2 of 1"):  # its evaluation is not done
        validate(replace(STATE, step=10, totals=EpochTotals(90.0, 30, 72, 1.0), best=BestEpoch(2, 0.5, "test")))
    TrainState.from_dict({**STATE.to_dict(), "totals": {**STATE.to_dict()["totals"], "loss": 0.0, "seconds": 0.0}})


@pytest.mark.parametrize("name", ["num_correct", "num_images"])
def test_counts_are_whole_numbers(name: str) -> None:
    for value in (1.0, -1, True, None, "1"):
        with pytest.raises(ValueError, match=name):
            TrainState.from_dict({**STATE.to_dict(), "totals": {**STATE.to_dict()["totals"], name: value}})
    with pytest.raises(ValueError, match=r"epoch 1\.0"):
        TrainState.from_dict({**STATE.to_dict(), "best": {"epoch": 1.0, "accuracy": 0.5, "selected_on": "test"}})
    with pytest.raises(ValueError, match=r"seconds -0\.5"):
        TrainState.from_dict({**STATE.to_dict(), "totals": {**STATE.to_dict()["totals"], "seconds": -0.5}})


def test_a_checkpoint_records_what_is_needed_to_use_and_to_continue_it(
    tiny_data: Dataset, tiny_config: TrainConfig
) -> None:
    trainer = train_until(Trainer(tiny_data, replace(tiny_config, val_split=12)), 2)
    setup = trainer.setup
    expected = {
        "version": __version__, "network": {"num_classes": 3, "width": 0.05, "logit_scale": 0.125},
        "class_names": ["class 0", "class 1", "class 2"], "mean": list(setup.mean), "std": list(setup.std),
        "data": {"name": "tiny", "fingerprint": "0" * 64}, "precision": "fp32", "world_size": 1, "policy": setup.policy,
        "augment_backend": "batched", "config": trainer.config.to_dict(), "temperature": 0.59,
    }  # fmt: skip
    assert trainer.metadata(with_state=False) == expected
    state = trainer.metadata()["state"]
    assert trainer.metadata() == {**expected, "state": state}
    assert (state["step"], state["totals"]["num_images"], state["best"]) == (2, 32, None)
    assert list(state["images_per_second"]) == [trainer.state.median_images_per_second]


def test_a_checkpoint_of_a_training_in_fp16_has_the_scale_and_the_momentum_of_each_weight(
    tiny_data: Dataset, tiny_config: TrainConfig
) -> None:
    trainer = train_until(Trainer(tiny_data, tiny_config), 1)
    tensors = optimizer_tensors(trainer.setup)
    assert tensors.keys() == {f"optimizer.momentum_buffer.{name}" for name, _ in trainer.raw_model.named_parameters()}
    for name, parameter in trainer.raw_model.named_parameters():
        momentum = trainer.setup.optimizer.state[parameter]["momentum_buffer"]
        assert torch.equal(tensors[f"optimizer.momentum_buffer.{name}"], momentum)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(1))
    tensors = optimizer_tensors(replace(trainer.setup, scaler=scaler))
    assert tensors["scaler.scale"] == 1024.0
    assert tensors["scaler.growth_interval"] == 2000
