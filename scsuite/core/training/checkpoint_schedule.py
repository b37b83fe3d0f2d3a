"""When the state of a training is written to its run directory.

In: the end of an epoch, or of the training. Out: checkpoints; best.safetensors if held-out images select an epoch.
"""

import time

from scsuite.core.runs.rundir import RunDir
from scsuite.core.training.trainer import Trainer

MAX_CHECKPOINT_TIME_FRACTION = 0.02  # of the run's time, at most, goes into checkpoints


class CheckpointSchedule:
    """Save after an epoch, unless checkpoints would then take more than their fraction of the time."""

    def __init__(self, run: RunDir, trainer: Trainer) -> None:
        self.run, self.trainer = run, trainer
        self.last_save_seconds, self.last_save_time = 0.0, time.perf_counter()
        self.last_saved: tuple[int, bool] | None = None
        self.best_epoch = trainer.state.best.epoch if trainer.state.best else 0

    def after_epoch(self) -> None:
        """Save if enough time has passed; write best.safetensors if held-out images selected this epoch."""
        best = self.trainer.state.best
        if best is not None and best.selected_on == "val" and best.epoch > self.best_epoch:
            self.best_epoch = best.epoch
            self.trainer.save(self.run.path / "best.safetensors", weights_only=True)
        elapsed = time.perf_counter() - self.last_save_time
        if self.last_save_seconds <= MAX_CHECKPOINT_TIME_FRACTION * elapsed:
            self.save()

    def save(self) -> None:
        """Save the complete state, unless it is saved already."""
        trainer = self.trainer
        position = trainer.state.step, trainer.awaiting_evaluation
        if self.last_saved == position:
            return
        self.last_saved = position
        start_time = time.perf_counter()
        self.run.save_checkpoint(trainer.state.step, trainer.state_tensors(), trainer.metadata())
        self.last_save_time = time.perf_counter()
        self.last_save_seconds = self.last_save_time - start_time
        trainer.checkpoint_seconds += self.last_save_seconds


def checkpoint_bytes(trainer: Trainer) -> int:
    """Return about how many bytes a checkpoint takes on disk: the weights, and the averages next to them."""
    num_averages = (1 if trainer.config.optimizer == "sgd" else 2) + (trainer.ema is not None)
    weight_bytes: int = sum(tensor.nbytes for tensor in trainer.raw_model.state_dict().values())
    return (1 + num_averages) * weight_bytes
