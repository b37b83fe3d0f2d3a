"""What each of two ranks does for test_distributed.py.

Run: torchrun --nproc-per-node 2 -m tests.core.distributed_worker FOLDER. Out: one JSON file per rank.
"""

import json
import math
import sys
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from scsuite.core.config import TrainConfig
from scsuite.core.device import resolve_device
from scsuite.core.distributed import SINGLE_PROCESS, World, distributed_world
from scsuite.core.errors import DivergedError, InputError
from scsuite.core.model.network import build_model
from scsuite.core.runs.results import StepResult
from scsuite.core.training import step
from scsuite.core.training.loader import Batch
from scsuite.core.training.optimizer import make_optimizer, set_lr_and_momentum
from scsuite.core.training.setup import init_model
from scsuite.core.training.trainer import Trainer
from tests.core.tiny import dataset

# 65 images in batches of 16: the last batch is one image, of which the second rank has none.
CONFIG = TrainConfig(
    data="tiny", batch_size=16, epochs=2, width=0.05, lr_max=0.1, precision="fp32", device="cpu", workers=0,
    dropout=0.1, label_smoothing=0.1, ema_epochs=1, ghost_batch_size=4, bn_weight_decay=False, flip="alternate",
    temperature=1.0,
)  # fmt: skip
NUM_TRAIN, NUM_TEST = 65, 30
CLASS_WEIGHTS_K = torch.tensor([0.5, 1.5, 3.0])


def digest(module: nn.Module) -> str:
    """Return a hash of all weights and running statistics."""
    hasher = sha256()
    for tensor in module.state_dict().values():
        hasher.update(tensor.contiguous().numpy().tobytes())
    return hasher.hexdigest()


def flat_weights(model: nn.Module) -> list[float]:
    """Return all weights as one list."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).tolist()


def train(world: World) -> dict[str, Any]:
    """Do a complete training; return the weights after each step, the losses, the images used, the evaluations."""
    trainer = Trainer(dataset(NUM_TRAIN, NUM_TEST), CONFIG, world)
    weights: list[str] = []
    losses: list[float] = []

    def on_step(result: StepResult) -> None:
        weights.append(digest(trainer.raw_model))
        losses.append(result.loss)

    epochs = trainer.fit(on_step=on_step)
    trainer.world = SINGLE_PROCESS
    single = trainer.evaluate()
    batches = trainer.setup.loader.batches
    batches.epoch = 0
    return {
        "weights": weights,
        "averaged": digest(trainer.model),
        "losses": losses,
        "train_losses": [epoch.train_loss for epoch in epochs],
        "image_indices": [index for batch in batches for _, index in batch],
        "batch_sizes": [len(batch) for batch in batches],
        "evaluation": [epochs[-1].test_loss, epochs[-1].test_accuracy],
        "single_process_evaluation": [single.loss, single.accuracy],
    }


def step_without_batch_norm(world: World, class_weights_K: Tensor | None = None) -> list[float]:
    """Return loss, correct predictions and weights of a step on 9 images.

    Without batch norm the shards' gradients add up to those of the complete batch, except for rounding.
    """
    model = build_model(3, 0.05, seed=1)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    model.register_buffer("statistic", torch.ones(1))
    optimizer = make_optimizer(model, replace(CONFIG, weight_decay=0.01), 0.9)
    set_lr_and_momentum(optimizer, 0.1, 0.9)
    images_NCHW = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels_N = torch.tensor([0, 0, 0, 0, 0, 1, 0, 1, 2])  # the shards' sums of class weights differ
    output = step.train_step(
        model, optimizer, torch.amp.GradScaler("cpu", enabled=False),
        Batch(images_NCHW[world.shard], labels_N[world.shard]), device=resolve_device("cpu", "fp32"),
        label_smoothing=0.1, l1=0.01, world=world, num_images=9, class_weights_K=class_weights_K,
    )  # fmt: skip
    return [float(output.loss), float(output.num_correct), *flat_weights(model)]


def train_with_nan(world: World) -> dict[str, Any]:
    """Train with a NaN in an image of the second rank, in the fourth step."""
    trainer = Trainer(dataset(NUM_TRAIN, NUM_TEST), CONFIG, world)
    original, weights = step.train_step, list[list[float]]()

    def train_step(model: nn.Module, optimizer: Any, scaler: Any, batch: Batch, **named: Any) -> step.StepOutput:
        if len(weights) == 3 and world.rank == 1:
            batch.images_NCHW[0, 0, 0, 0] = math.nan
        output = original(model, optimizer, scaler, batch, **named)
        weights.append(flat_weights(model))
        return output

    with mock.patch.object(step, "train_step", train_step):
        try:
            trainer.fit()
        except DivergedError as error:
            return {"error": str(error), "untouched": weights[3] == weights[2], "moved": weights[2] != weights[1]}
    return {}


def initial_weights(world: World) -> list[str]:
    """Return the initial weights of ranks with different images, and those of one process with rank 0's images."""
    device, config = resolve_device("cpu", "fp32"), replace(CONFIG, width=1.0)  # a narrow network is not whitened

    def images_NCHW(rank: int) -> torch.Tensor:
        return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(rank))

    of_world = init_model(3, config, device, images_NCHW(world.rank), world)
    return [digest(of_world), digest(init_model(3, config, device, images_NCHW(0), SINGLE_PROCESS))]


def exchange(world: World) -> dict[str, Any]:
    """Return what the ranks exchange."""
    values: dict[str, Any] = {"max": world.all_reduce_max(world.rank * 15)}
    values["broadcast"] = world.broadcast(lambda: f"from rank {world.rank}")
    world.check_equal({"a": 1, "b": "two"})
    try:
        world.check_equal({"a": 1, "b": f"of rank {world.rank}"})
    except InputError as error:
        values["difference"] = str(error)
    path = Path(sys.argv[1]) / "entered"
    with world.main_process_first():
        values["main_process_was_first"] = path.exists()
        path.touch()
    return values


def thread_names() -> list[str]:
    """Return the names of this process's threads, torch's too; none where there is no /proc."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def main() -> None:
    """Do all of it, in this order on every rank."""
    import_module("scsuite.core.evaluation.evaluate").EVAL_BATCH_SIZE = 7  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    with distributed_world() as world:
        values = {
            "training": train(world),
            "initial_weights": initial_weights(world),
            "step": step_without_batch_norm(world),
            "weighted_step": step_without_batch_norm(world, CLASS_WEIGHTS_K),
            "nan": train_with_nan(world),
            "exchange": exchange(world),
        }
        if world.is_main_process:
            values["single_process_training"] = train(SINGLE_PROCESS)
            values["single_process_step"] = step_without_batch_norm(SINGLE_PROCESS)
            values["single_process_weighted_step"] = step_without_batch_norm(SINGLE_PROCESS, CLASS_WEIGHTS_K)
    values["threads_left"] = thread_names()
    (path / f"{world.rank}.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main()
