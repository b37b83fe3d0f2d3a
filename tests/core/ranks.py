"""What each of two ranks does for test_distributed.py: `torchrun -m tests.core.ranks FOLDER`; a JSON file a rank."""

import json
import math
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scsuite.core import loop
from scsuite.core.config import TrainConfig
from scsuite.core.distributed import SINGLE_PROCESS, World, join
from scsuite.core.errors import DivergedError, InputError
from scsuite.core.training.loader import Batch
from scsuite.core.loop import Trainer, fit, train_step
from scsuite.core.model import build_model
from tests.core.tiny import dataset

# 65 images in batches of 16: the last batch is one image, of which the second rank has none.
CONFIG = TrainConfig(
    data="tiny", batch_size=16, epochs=2, width=0.05, lr_max=0.1, precision="fp32", device="cpu", workers=0,
    dropout=0.1, label_smoothing=0.1, ema=1, ghost_batch_size=4, bn_weight_decay=False, alternate_flips=True,
)  # fmt: skip
NUM_TRAIN, NUM_TEST = 65, 30


def digest(module: nn.Module) -> str:
    """Of all weights and running statistics."""
    hasher = sha256()
    for tensor in module.state_dict().values():
        hasher.update(tensor.contiguous().numpy().tobytes())
    return hasher.hexdigest()


def trained(world: World) -> dict[str, Any]:
    """A whole training: the weights after each step, the losses, the images seen, the evaluations."""
    trainer = Trainer(dataset(NUM_TRAIN, NUM_TEST), CONFIG, world)
    weights: list[str] = []
    losses: list[float] = []

    def on_step(step: loop.StepResult) -> None:
        weights.append(digest(trainer.model))
        losses.append(step.loss)

    results = list(fit(trainer, on_step=on_step))
    again = loop.evaluate(
        trainer.network, trainer.data.test, mean=trainer.mean, std=trainer.std, class_names=trainer.data.class_names
    )
    trainer.loader.batches.epoch = 0
    return {
        "weights": weights,
        "averaged": digest(trainer.network),
        "losses": losses,
        "train_losses": [result.train_loss for result in results],
        "seen": [index for batch in trainer.loader.batches for _, index in batch],
        "sizes": [len(batch) for batch in trainer.loader.batches],
        "evaluated": [results[-1].test_loss, results[-1].test_accuracy],
        "evaluated_alone": [again.loss, again.accuracy],
    }


def one_step_without_batch_norm(world: World) -> list[float]:
    """The weights after a step on 9 images: without batch norm the parts add up to the whole, rounding aside."""
    model = build_model(3, 0.05, seed=1)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    model.register_buffer("statistic", torch.ones(1))
    optimizer = loop.make_optimizer(model, replace(CONFIG, weight_decay=0.01), 0.9)
    loop.set_lr_and_momentum(optimizer, 0.1, 0.9)
    images = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(9) % 3
    outcome = train_step(
        model, optimizer, torch.amp.GradScaler("cpu", enabled=False), Batch(images[world.shard], labels[world.shard]),
        device=loop.resolve_device("cpu", "fp32"), label_smoothing=0.1, l1=0.01, world=world, num_images=9,
    )  # fmt: skip
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
    return [float(outcome.loss), float(outcome.correct), *weights]


def poisoned(world: World) -> dict[str, Any]:
    """A NaN among the images of the second rank alone, in the fourth step."""
    trainer = Trainer(dataset(NUM_TRAIN, NUM_TEST), CONFIG, world)
    original, weights = loop.train_step, list[list[float]]()

    def train_step_with_nan(model: Any, optimizer: Any, scaler: Any, batch: Batch, **named: Any) -> Any:
        if len(weights) == 3 and world.rank == 1:
            batch.images_NCHW[0, 0, 0, 0] = math.nan
        outcome = original(model, optimizer, scaler, batch, **named)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]).tolist())
        return outcome

    loop.train_step = train_step_with_nan
    try:
        list(fit(trainer))
    except DivergedError as error:
        return {"said": str(error), "untouched": weights[3] == weights[2], "moved": weights[2] != weights[1]}
    finally:
        loop.train_step = original
    return {}


def begun(world: World) -> list[str]:
    """The initial weights where the ranks look at other images, and of the leader's images alone."""
    device, images = loop.resolve_device("cpu", "fp32"), torch.Generator().manual_seed(world.rank)
    config = replace(CONFIG, width=1.0)  # a narrow network is not whitened
    mine = loop.init_model(3, config, device, torch.randn(4, 3, 32, 32, generator=images), world)
    leaders = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return [digest(mine), digest(loop.init_model(3, config, device, leaders))]


def talked(world: World) -> dict[str, Any]:
    """What the ranks tell each other."""
    answers: dict[str, Any] = {"most": world.all_reduce_max(world.rank * 15)}
    world.check_equal({"a": 1, "b": "two"})
    try:
        world.check_equal({"a": 1, "b": f"of rank {world.rank}"})
    except InputError as error:
        answers["different"] = str(error)
    path = Path(sys.argv[1]) / "turn"
    with world.main_process_first():
        answers["leader_was_there"] = path.exists()
        path.touch()
    return answers


def threads() -> list[str]:
    """The names of this process's threads, torch's own among them; none where there is no /proc."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def main() -> None:
    """All of it, in this order."""
    loop.EVAL_BATCH_SIZE = 7
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    with join() as world:
        answers = {
            "trained": trained(world),
            "begun": begun(world),
            "one_step": one_step_without_batch_norm(world),
            "poisoned": poisoned(world),
            "talked": talked(world),
        }
        if world.is_main_process:
            answers |= {"alone": trained(SINGLE_PROCESS), "one_step_alone": one_step_without_batch_norm(SINGLE_PROCESS)}
    answers["threads_left"] = threads()
    (path / f"{world.rank}.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
