"""The position of a training and its checks. Run: pytest tests/core/training/test_state.py."""

import math
from dataclasses import replace
from typing import Any

import pytest

from scsuite.core.runs.results import StepResult
from scsuite.core.training.state import BestEpoch, EpochTotals, TrainState

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
