"""When the state of a training is written to its run directory.

In: the end of an epoch, or of the training. Out: checkpoints; best.safetensors if held-out images select an epoch.
"""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from scsuite.core.config import TrainConfig
from scsuite.core.errors import InputError, OutputError, UsageError
from scsuite.core.model.checkpoint import TENSOR_ENTRY_BYTES
from scsuite.core.model.checkpoint_file import MAX_FILE_BYTES, MAX_HEADER_BYTES
from scsuite.core.model.network import ResNet3, build_model
from scsuite.core.runs.checkpoints import NUM_CHECKPOINTS_KEPT, list_checkpoints
from scsuite.core.runs.rundir import RunDir
from scsuite.core.training.trainer import Trainer

METADATA_BYTES = 256 * 1024  # of a checkpoint's header, without tensors and class names: mostly the policy
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


def check_network_size(config: TrainConfig, class_names: Sequence[str]) -> None:
    """Do `check_checkpoint_size` for the network that the command line will train, without its memory."""
    with torch.device("meta"):
        model = build_model(len(class_names), config.width)
    check_checkpoint_size(model, config, class_names)


def check_checkpoint_size(model: nn.Module, config: TrainConfig, class_names: Sequence[str]) -> None:
    """Raise UsageError or InputError if the state of a training could not be read again; nothing is computed."""
    num_copies = 2 + (config.optimizer == "adamw") + (config.resolved_ema_epochs > 0)
    weights = model.state_dict()
    num_bytes = num_copies * sum(tensor.nbytes for tensor in weights.values()) + MAX_HEADER_BYTES
    if num_bytes > MAX_FILE_BYTES:
        is_own = type(model) is not ResNet3
        raise UsageError(
            "network" if is_own else "option", type(model).__name__ if is_own else "--width",
            expected=f"a training whose state has at most {MAX_FILE_BYTES / 1e6:,.0f} MB",
            found=f"{num_bytes / 1e6:,.0f} MB" + ("" if is_own else f" at {config.width:g}"),
            hint="Use a smaller network." if is_own else "Lower --width.",
        )  # fmt: skip
    num_bytes = sum(num_copies * (len(name) + TENSOR_ENTRY_BYTES) for name in weights) + METADATA_BYTES
    num_bytes += len(json.dumps(json.dumps(class_names)))
    if num_bytes > MAX_HEADER_BYTES:
        raise InputError(
            "classes", config.data, expected=f"a checkpoint whose header has at most {MAX_HEADER_BYTES:,} bytes",
            found=f"{num_bytes:,} for {len(class_names):,} classes", hint="Use fewer classes or shorter names.",
        )  # fmt: skip


def check_disk_space(run: Path, num_bytes: int) -> None:
    """Raise OutputError if the disk has no space for the checkpoints still to be written.

    One more than is kept has to fit: the newest is written before the oldest is removed.
    """
    written = sum(path.stat().st_size for path in list_checkpoints(run))
    required = (NUM_CHECKPOINTS_KEPT + 1) * num_bytes - written
    free = shutil.disk_usage(run).free
    if free < required:
        raise OutputError(
            "no space for checkpoints", run, expected=f"{required / 1e6:.1f} MB free", found=f"{free / 1e6:.1f} MB",
            hint="Free some space or choose another --runs-dir.",
        )  # fmt: skip
