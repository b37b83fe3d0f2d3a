"""How many ATen calls a training step makes: each is a launch on a GPU.

Counted as in a training on an accelerator: augmentation, forward and backward pass, checks, update, weight average and
read-back. Ghost batch norm counts as one call here; tests/core/model/test_ghost_norm.py bounds its own calls.
"""

import pytest

from scsuite.core.config import TrainConfig
from scsuite.core.training.step import launch_step, read_step_outputs
from scsuite.core.training.trainer import Trainer
from tests.core import tiny
from tests.core.recorded_calls import RecordedCalls, count_calls


def calls_of_a_step(batch_size: int, precision: str = "bf16") -> RecordedCalls:
    """Return the calls of the second step of the default recipe: the first one makes the momentum buffers."""
    config = TrainConfig(
        data="tiny", batch_size=batch_size, epochs=2, width=1 / 16, lr_max=0.1, precision=precision, device="cpu",
        ema_epochs=2,
    )  # fmt: skip
    trainer = Trainer(tiny.dataset(batch_size, 3), config)
    trainer.fit(should_stop=lambda: trainer.state.step == 1)
    assert trainer.config.ghost_batch_size == 16
    ema = trainer.ema
    assert ema is not None

    def step() -> None:
        (batch,) = trainer.setup.loader.epoch(1)
        output = launch_step(trainer.setup, batch, 1, 0.1, 0.9)
        ema.update(trainer.raw_model, 1)
        assert read_step_outputs([output]) != [None]

    return count_calls(step)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_step_makes_at_most_420_calls_and_260_without_views_and_allocations(precision: str) -> None:
    calls = calls_of_a_step(64, precision)
    assert len(calls.calls) <= 420
    assert calls.num_kernels <= 260
    assert len(calls.calls) > 150  # the count sees the forward and the backward pass


def test_no_count_grows_with_the_number_of_chunks() -> None:
    names = {size: sorted(name for name, _ in calls_of_a_step(size).calls) for size in (64, 256)}  # 4 and 16 chunks
    assert names[64] == names[256]
    assert names[64].count("ghost_batch_norm") == 8
    assert names[64].count("ghost_batch_norm_backward") == 8
