"""A step that two ranks share, in one process: two threads that exchange tensors. tests/core/test_distributed.py has
the same with torchrun, which no mutation test can reach.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.device import resolve_device
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.model.network import KeyedDropout, ResNet3, build_model
from scsuite.core.training.loader import Batch
from scsuite.core.training.setup import init_model
from scsuite.core.training.step import StepOutput, reseed_dropout, train_step
from scsuite.core.training.trainer import Trainer

NUM_IMAGES, LR = 5, 0.5  # shards of three and two images
WEIGHTS_K = torch.tensor([0.2, 1.0, 3.0])
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)


@dataclass
class Exchange:
    """What the two threads wait for."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=20))
    tensors: list[Tensor] = field(default_factory=lambda: [torch.zeros(0)] * 2)


@dataclass(frozen=True)
class ThreadWorld(World):
    """A rank that is a thread."""

    exchange: Exchange = field(default_factory=Exchange)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        self.exchange.tensors[self.rank] = tensor.clone()
        self.exchange.barrier.wait()
        total = torch.stack(self.exchange.tensors).sum(dim=0)
        self.exchange.barrier.wait()
        return tensor.copy_(total)

    def all_reduce_max(self, value: int) -> int:
        return int(self.all_reduce_sum(torch.nn.functional.one_hot(torch.tensor(value), 9)).nonzero().max())


def on_two_ranks(
    make_model: Callable[[], nn.Module], batch: Batch, **settings: float
) -> list[tuple[nn.Module, StepOutput]]:
    """Return each rank's network after one step of plain SGD, and what the step reports."""
    exchange = Exchange()

    def run_rank(rank: int) -> tuple[nn.Module, StepOutput]:
        world, model = ThreadWorld(rank=rank, size=2, exchange=exchange), models[rank]
        shard = Batch(batch.images_NCHW[world.shard], batch.labels_N[world.shard])
        output = train_step(
            model, torch.optim.SGD(model.parameters(), lr=LR, fused=True), NO_SCALER, shard,
            device=resolve_device("cpu", "fp32"), label_smoothing=settings.get("label_smoothing", 0.0),
            l1=settings.get("l1", 0.0), world=world, num_images=len(batch.labels_N),
            class_weights_K=WEIGHTS_K if settings.get("weighted") else None,
        )  # fmt: skip
        return model, output

    models = [make_model(), make_model()]
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(run_rank, range(2)))


def linear_network() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02, generator=generator)
    return model


@pytest.fixture
def batch() -> Batch:
    return Batch(
        torch.randn(NUM_IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2, 0])
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_two_ranks_do_the_update_of_the_complete_batch(batch: Batch, label_smoothing: float, weighted: bool) -> None:
    expected, l1 = linear_network(), 0.01
    logits_NK = expected(batch.images_NCHW)
    loss = functional.cross_entropy(
        logits_NK, batch.labels_N, WEIGHTS_K if weighted else None, label_smoothing=label_smoothing
    )
    penalty = torch.stack([parameter.abs().sum() for parameter in expected.parameters()]).sum()
    (loss + l1 * penalty).backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(expected.parameters(), lr=LR).step()
    plain_loss = functional.cross_entropy(logits_NK.detach(), batch.labels_N)
    num_correct = (logits_NK.argmax(dim=1) == batch.labels_N).sum()
    assert 0 < num_correct < NUM_IMAGES - num_correct  # it is not the number of wrong ones
    ranks = on_two_ranks(linear_network, batch, l1=l1, label_smoothing=label_smoothing, weighted=weighted)
    for model, output in ranks:
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter, expected.get_parameter(name), atol=1e-6), name
        assert output.loss == pytest.approx(float(plain_loss), abs=1e-6)
        assert output.num_correct == num_correct
        assert not output.non_finite
    first, second = (list(model.parameters()) for model, _ in ranks)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_running_statistics_of_two_ranks_are_weighted_by_their_images(batch: Batch) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(3), linear_network())

    images_NCHW = batch.images_NCHW * 3 + 1
    means, variances = zip(
        *((shard.mean(dim=(0, 2, 3)), shard.var(dim=(0, 2, 3))) for shard in (images_NCHW[::2], images_NCHW[1::2])),
        strict=True,
    )
    mean, variance = ((3 * first + 2 * second) / 5 for first, second in (means, variances))
    for model, _ in on_two_ranks(network, Batch(images_NCHW, batch.labels_N)):
        # torch's momentum is 0.1, from a mean of 0 and a variance of 1; the counter of batches is not a sum.
        assert torch.allclose(model.get_buffer("0.running_mean"), 0.1 * mean, atol=1e-5)
        assert torch.allclose(model.get_buffer("0.running_var"), 0.9 + 0.1 * variance, atol=1e-5)
        assert model.get_buffer("0.num_batches_tracked") == 1


def test_each_step_and_each_rank_has_its_own_dropout_mask() -> None:
    model, masks = build_model(3, 0.125, dropout=0.5, seed=0), []
    (dropout,) = (module for module in model.modules() if isinstance(module, KeyedDropout))
    for step in range(3):
        for rank in range(2):
            for _ in range(2):  # the same twice, whatever was drawn before
                reseed_dropout(model, 7, step, torch.device("cpu"), World(rank=rank, size=2))
                masks.append(tuple((dropout(torch.ones(64)) > 0).tolist()))
    assert masks[::2] == masks[1::2]
    assert len(set(masks)) == 6


def test_a_users_network_draws_the_same_numbers_in_a_step_whatever_was_drawn_before() -> None:
    model, drawn = nn.Dropout(), []
    for step in (0, 1, 0):
        reseed_dropout(model, 7, step, torch.device("cpu"))
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[2] != drawn[1]
    own, before = build_model(3, 0.05, dropout=0.5), torch.get_rng_state()
    reseed_dropout(own, 7, 0, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)  # scsuite's own network leaves torch's random state alone


@pytest.mark.filterwarnings("ignore:no effect on your own network")
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_two_ranks_train_a_network_without_batch_norm_as_one_process_does(
    tiny_data: Dataset, tiny_config: TrainConfig, class_weights: str
) -> None:
    # Six images fewer of one class; 66 images in batches of 16, the last of two, one on each rank.
    data = replace(tiny_data, train=tiny_data.train.select(np.delete(np.arange(72), np.arange(0, 18, 3))))
    config = replace(tiny_config, epochs=2, class_weights=class_weights, l1=0.001, label_smoothing=0.1, lr_max=0.01)
    exchange = Exchange()

    def run_rank(trainer: Trainer) -> Trainer:
        trainer.fit()
        return trainer

    single = run_rank(Trainer(data, config, model=linear_network()))
    worlds = [ThreadWorld(rank=rank, size=2, exchange=exchange) for rank in range(2)]
    trainers = [Trainer(data, config, world, model=linear_network()) for world in worlds]
    with ThreadPoolExecutor(2) as threads:
        ranks = list(threads.map(run_rank, trainers))
    for rank in ranks:
        for name, parameter in single.raw_model.named_parameters():
            assert torch.allclose(rank.raw_model.get_parameter(name), parameter, atol=1e-5), name
        assert [row.loss for row in rank.steps] == pytest.approx([row.loss for row in single.steps], abs=1e-4)
        assert [epoch.test_loss for epoch in rank.epochs] == pytest.approx(
            [epoch.test_loss for epoch in single.epochs], abs=1e-4
        )
        assert [epoch.train_accuracy for epoch in rank.epochs] == [epoch.train_accuracy for epoch in single.epochs]


def test_all_ranks_start_with_the_whitening_filters_of_the_first(
    tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, lock = import_module("scsuite.core.training.setup"), threading.Lock()
    build_model = setup.build_model

    def build_alone(*args: Any, **options: Any) -> ResNet3:
        with lock:  # threads, unlike ranks, share torch's random state, from which the weights are drawn
            model: ResNet3 = build_model(*args, **options)
            return model

    monkeypatch.setattr(setup, "build_model", build_alone)
    config, device = replace(tiny_config, width=1.0, identity_init=False), resolve_device("cpu", "fp32")
    images = [torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    exchange = Exchange()

    def filters_of(images_NCHW: Tensor, world: World) -> Tensor:
        return init_model(3, config, device, images_NCHW, world).get_parameter("prep.0.weight").detach()

    def run_rank(rank: int) -> Tensor:
        world = ThreadWorld(rank=rank, size=2, exchange=exchange)
        return filters_of(images[rank], world)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(run_rank, range(2))
    alone, other = (filters_of(images[rank], SINGLE_PROCESS) for rank in range(2))
    assert torch.equal(first, alone)
    assert torch.equal(second, alone)
    assert not torch.equal(other, alone)
