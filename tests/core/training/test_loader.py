"""Batches: equal for any number of workers and both backends, each image once an epoch, no side effects."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import albumentations as a
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scsuite.core.augment import augment_image, choose_backend, compile_policy, default_policy
from scsuite.core.dataset import Split
from scsuite.core.errors import InputError
from scsuite.core.training.loader import (
    CPU,
    Batch,
    TrainLoader,
    _DeviceBatches,
    flipped_in_epoch,
    images_per_augmentation,
)
from scsuite.core.training.workers import WorkerError, default_workers
from tests.conftest import REPOSITORY
from tests.core import tiny

NUM_IMAGES, BATCH_SIZE = 22, 5
BACKENDS = ("batched", "albumentations")


def make_loader(
    workers: int = 0,
    *,
    backend: str = "albumentations",
    seed: int = 0,
    split: Split | None = None,
    policy: Any = None,
    **arguments: Any,
) -> TrainLoader:
    policy = default_policy(tiny.MEAN, tiny.STD) if policy is None else policy
    arguments = {"batch_size": BATCH_SIZE, "batched_policy": choose_backend(backend, policy).batched_policy} | arguments
    return TrainLoader(numbered_split() if split is None else split, policy, seed=seed, workers=workers, **arguments)


def numbered_split(num_images: int = NUM_IMAGES) -> Split:
    """Images whose labels are their indices."""
    images = tiny.split(num_images)
    return Split(images.images_NHWC, np.arange(num_images), images.files)


def copies(num_images: int) -> Split:
    """One image many times: equal outputs are equal random parameters."""
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    return Split(np.repeat(image, num_images, axis=0), np.arange(num_images), ("",) * num_images)


def as_bytes(batches: Iterator[Batch]) -> list[tuple[bytes, list[int]]]:
    return [(batch.images_NCHW.numpy().tobytes(), batch.labels_N.tolist()) for batch in batches]


@pytest.fixture(scope="module")
def epochs() -> list[list[tuple[bytes, list[int]]]]:
    """Three epochs without workers."""
    loader = make_loader()
    return [as_bytes(loader.epoch(epoch)) for epoch in range(3)]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_bits(workers: int, epochs: list[Any]) -> None:
    loader = make_loader(workers)
    assert [as_bytes(loader.epoch(epoch)) for epoch in range(3)] == epochs


def test_each_image_comes_once_an_epoch_with_its_label(epochs: list[Any]) -> None:
    for epoch in epochs:
        assert sorted(label for _, labels in epoch for label in labels) == list(range(NUM_IMAGES))
    split, policy = numbered_split(), default_policy(tiny.MEAN, tiny.STD)
    for batch in make_loader().epoch(1):
        for image, label in zip(batch.images_NCHW, batch.labels_N.tolist(), strict=True):
            expected = augment_image(policy, split.images_NHWC[label], 0, 1, label)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_the_smaller_last_batch_is_kept(epochs: list[Any]) -> None:
    assert [len(labels) for _, labels in epochs[0]] == [5, 5, 5, 5, 2]
    loader = make_loader()
    assert loader.steps_per_epoch == 5
    assert [loader.batch_size_at(step) for step in (0, 3, 4, 5, 9)] == [5, 5, 2, 5, 2]


def test_a_batch_size_above_the_number_of_images_gives_one_batch() -> None:
    loader = make_loader(batch_size=100)
    assert [len(batch.labels_N) for batch in loader.epoch(0)] == [NUM_IMAGES]
    assert loader.steps_per_epoch == 1


def test_50_000_images_in_batches_of_512_are_98_steps() -> None:
    images = np.broadcast_to(np.zeros((1, 32, 32, 3), np.uint8), (50_000, 32, 32, 3))
    split = Split(images, np.zeros(50_000, np.int64), ("",) * 50_000)
    assert TrainLoader(split, None, batch_size=512, seed=0, workers=0).steps_per_epoch == 98


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_from_a_later_batch_on_is_the_tail_of_the_epoch(workers: int, epochs: list[Any]) -> None:
    loader = make_loader(workers)
    for first_batch in (0, 1, 4, 5):
        assert as_bytes(loader.epoch(1, first_batch=first_batch)) == epochs[1][first_batch:]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_is_not_finished_changes_no_later_one(workers: int, epochs: list[Any]) -> None:
    loader = make_loader(workers)
    batches = loader.epoch(0)
    next(batches)
    next(batches)
    del batches
    assert as_bytes(loader.epoch(2)) == epochs[2]


def test_epochs_and_seeds_have_different_orders(epochs: list[Any]) -> None:
    orders = [[label for _, labels in epoch for label in labels] for epoch in epochs]
    orders.append([label for batch in make_loader(seed=1).epoch(0) for label in batch.labels_N.tolist()])
    orders.append(list(range(NUM_IMAGES)))
    assert len({tuple(order) for order in orders}) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_no_augmentation_is_repeated_across_images_workers_or_epochs(workers: int) -> None:
    # albumentations 2.0.8 without our seeding fails here: its forked workers copy one generator (AlbumentationsX
    # issue 266). Among 120 draws of 101,250 outcomes, one is repeated with probability 0.07; not with this seed.
    loader = make_loader(workers, split=copies(40))
    images = [image for epoch in range(3) for batch in loader.epoch(epoch) for image in batch.images_NCHW]
    assert len(images) == 120
    assert len({image.numpy().tobytes() for image in images}) == 120


@pytest.mark.parametrize("workers", [0, 1])
def test_iterating_changes_no_global_random_state(workers: int) -> None:
    def states() -> tuple[Any, ...]:
        numpy_state = np.random.get_state(legacy=False)
        return (
            random.getstate(),
            numpy_state["state"]["key"].tolist(),
            numpy_state["state"]["pos"],
            torch.get_rng_state().tolist(),
        )

    before = states()
    assert len(list(make_loader(workers).epoch(0))) == 5
    assert states() == before


def test_global_seeds_change_no_batch(epochs: list[Any]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        random.seed(123)
        np.random.seed(123)
        assert as_bytes(make_loader().epoch(0)) == epochs[0]


def test_batches_are_float32_channels_last_and_int64() -> None:
    batch = next(make_loader().epoch(0))
    assert (batch.images_NCHW.shape, batch.images_NCHW.dtype) == ((5, 3, 32, 32), torch.float32)
    assert batch.images_NCHW.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels_N.dtype == torch.int64


# --- the batched backend ---


def test_both_backends_give_equal_batches_for_a_deterministic_policy() -> None:
    policy = a.Compose([
        a.Pad(2, border_mode=4), a.CenterCrop(32, 32), a.HorizontalFlip(p=1.0), a.ToGray(p=1.0), a.Normalize(),
    ])  # fmt: skip
    loaders = [make_loader(backend=backend, policy=policy) for backend in BACKENDS]
    for batched, by_image in zip(*(loader.epoch(2) for loader in loaders), strict=True):
        assert torch.equal(batched.labels_N, by_image.labels_N)
        assert torch.allclose(batched.images_NCHW, by_image.images_NCHW, rtol=0, atol=1e-6)
        assert batched.images_NCHW.is_contiguous(memory_format=torch.channels_last)


def test_both_backends_shuffle_an_epoch_in_the_same_order() -> None:
    orders = [[batch.labels_N.tolist() for batch in make_loader(backend=b).epoch(3)] for b in BACKENDS]
    assert orders[0] == orders[1]


def test_the_batched_backend_applies_the_policy_and_starts_at_any_batch() -> None:
    split = numbered_split(64)
    policy = compile_policy(default_policy(tiny.MEAN, tiny.STD))
    loader = make_loader(backend="batched", seed=4, split=split, batch_size=10)
    batches = list(loader.epoch(1))
    assert [len(batch.labels_N) for batch in batches] == [10] * 6 + [4]
    labels = torch.cat([batch.labels_N for batch in batches])
    assert sorted(labels.tolist()) == list(range(64))
    expected = policy(torch.from_numpy(split.images_NHWC), np.arange(64), seed=4, epoch=1)
    assert torch.equal(torch.cat([batch.images_NCHW for batch in batches]), expected[labels])
    for first_batch in (0, 3, 6, 7):
        tail = list(loader.epoch(1, first_batch=first_batch))
        assert len(tail) == 7 - first_batch
        for batch, full_epoch_batch in zip(tail, batches[first_batch:], strict=True):
            assert torch.equal(batch.images_NCHW, full_epoch_batch.images_NCHW)
    assert torch.equal(loader.fetch(1, labels.numpy()[:5]).images_NCHW, batches[0].images_NCHW[:5])


def test_several_batches_per_augmentation_give_the_same_batches() -> None:
    loaders = [make_loader(backend="batched") for _ in range(2)]
    loaders[1]._loader.batches_per_augmentation = 3  # type: ignore[attr-defined]
    first, second = (as_bytes(loader.epoch(1, first_batch=1)) for loader in loaders)
    assert first == second


def test_the_next_images_are_augmented_before_the_last_batch_of_a_group_is_given_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader = make_loader(backend="batched")
    source = loader._loader
    source.batches_per_augmentation = 3  # type: ignore[attr-defined]
    num_augmented = 0
    fetch = source.fetch  # type: ignore[attr-defined]

    def count(epoch: int, indices_N: NDArray[np.int64]) -> Batch:
        nonlocal num_augmented
        num_augmented += len(indices_N)
        return fetch(epoch, indices_N)  # type: ignore[no-any-return]

    monkeypatch.setattr(source, "fetch", count)
    seen = [num_augmented for _ in loader.epoch(0)]  # 22 images in 5 batches of 5, in groups of 3 and 2
    assert seen == [15, 15, 22, 22, 22]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_shards_of_a_batch_together_are_the_batch(backend: str) -> None:
    # 64 images in batches of 21: the last batch is one image, and the second shard of it is empty.
    full_batches, *shards = (
        list(make_loader(backend=backend, split=numbered_split(64), batch_size=21, shard=shard).epoch(1))
        for shard in (slice(None), slice(0, None, 2), slice(1, None, 2))
    )
    for batch, first, second in zip(full_batches, *shards, strict=True):
        assert len(first.labels_N) + len(second.labels_N) == len(batch.labels_N)
        for rank, shard_batch in enumerate((first, second)):
            assert torch.equal(shard_batch.labels_N, batch.labels_N[rank::2])
            assert torch.equal(shard_batch.images_NCHW, batch.images_NCHW[rank::2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_alternating_flips_mirror_each_image_in_every_other_epoch(backend: str) -> None:
    policy, num_images = a.Compose([a.ToGray(p=1.0), a.Normalize()]), 400
    plain, alternating = (
        make_loader(backend=backend, seed=3, split=copies(num_images), policy=policy, alternate_flips=is_on)
        for is_on in (False, True)
    )
    original_NCHW = plain.fetch(0, np.arange(num_images)).images_NCHW
    is_flipped = []
    for epoch in range(4):
        images_NCHW = alternating.fetch(epoch, np.arange(num_images)).images_NCHW
        is_flipped.append((images_NCHW == original_NCHW.flip(3)).flatten(1).all(dim=1))
        assert torch.equal((images_NCHW == original_NCHW).flatten(1).all(dim=1), ~is_flipped[-1])
    assert 160 < is_flipped[0].sum() < 240  # 4 standard deviations around half of the images
    assert torch.equal(is_flipped[1], ~is_flipped[0])
    assert torch.equal(is_flipped[2], is_flipped[0])
    assert torch.equal(is_flipped[3], is_flipped[1])
    other = make_loader(backend=backend, seed=4, split=copies(num_images), policy=policy, alternate_flips=True)
    other_flips = (other.fetch(0, np.arange(num_images)).images_NCHW != original_NCHW).flatten(1).any(dim=1)
    assert 160 < (other_flips == is_flipped[0]).sum() < 240  # those of another seed are independent of them


# --- errors and worker processes ---


class FailingPolicy:
    """A policy that fails on black images: it raises, or returns another shape."""

    def __init__(self, shape: tuple[int, ...] | None) -> None:
        self.shape = shape

    def set_random_state(self, *_generators: object) -> None:
        pass

    def __call__(self, image: np.ndarray[Any, Any]) -> dict[str, Any]:
        if image.max() > 0:
            return {"image": image.astype(np.float32)}
        if self.shape is None:
            raise RuntimeError("too dark\nto see")
        return {"image": np.zeros(self.shape, np.float32)}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("shape", "found"), [(None, "too dark"), ((16, 16, 3), "float32 of shape (16, 16, 3)")])
def test_an_image_on_which_the_policy_fails_is_named_even_from_a_worker(
    workers: int, shape: tuple[int, ...] | None, found: str
) -> None:
    split = numbered_split()
    split.images_NHWC[13] = 0
    num_batches = 0
    with pytest.raises(InputError) as caught:
        for _ in make_loader(workers, split=split, policy=FailingPolicy(shape)).epoch(2):
            num_batches += 1
    assert caught.value.where == "image 13 in epoch 3"
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)
    labels = [labels for _, labels in as_bytes(make_loader().epoch(2))]
    assert num_batches == next(i for i, batch in enumerate(labels) if 13 in batch)  # all batches before it


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the sender of a signal is unknown here")
def test_a_worker_ignores_signals_to_the_group_and_exits_on_its_parents_sigterm() -> None:
    # Libraries may start threads in a worker after the fork; these must not receive the signal either.
    start_threads = [True]

    def start_thread() -> None:
        if start_threads[0]:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

    os.register_at_fork(after_in_child=start_thread)
    children_before = set(multiprocessing.active_children())
    loader = make_loader(workers=1)
    batches = loader.epoch(0)
    received = [next(batches)]
    (worker,) = set(multiprocessing.active_children()) - children_before
    for name in ("INT", "TERM", "HUP"):  # sent by another process, as a terminal or a container does
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    start_threads[0] = False
    received += batches
    assert len(received) == 5
    assert worker.is_alive()
    worker.terminate()
    worker.join(timeout=10)
    assert worker.exitcode == 0


def test_an_epoch_that_ends_with_an_error_leaves_no_worker_behind() -> None:
    children_before = set(multiprocessing.active_children())
    split = numbered_split()
    split.images_NHWC[:] = 0
    try:
        list(make_loader(workers=2, split=split, policy=FailingPolicy(None)).epoch(0))
    except InputError:
        pass
    else:
        pytest.fail("the policy fails on every image")
    assert set(multiprocessing.active_children()) <= children_before


def test_a_program_that_exits_inside_an_epoch_has_its_own_exit_code() -> None:
    # The exit handler of multiprocessing would wait forever for workers that ignore SIGTERM.
    program = """
import sys
from scsuite.core.augment import default_policy
from scsuite.core.training.loader import TrainLoader
from tests.core import tiny
loader = TrainLoader(tiny.split(22), default_policy(tiny.MEAN, tiny.STD), batch_size=5, seed=0, workers=2)
batches = loader.epoch(0)
next(batches)
sys.exit(5)
"""
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, timeout=60, check=False, capture_output=True
    )
    assert (process.returncode, process.stderr) == (5, b"")


def test_default_workers_leave_a_core_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in [(1, 0), (2, 1), (5, 2), (64, 8)]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, cores=cores: set(range(cores)), raising=False)
        assert default_workers() == workers


@pytest.mark.parametrize("batches_per_augmentation", [1, 2, 100])
def test_an_epoch_augmented_at_once_by_draws_on_the_device_has_the_bits_of_the_cpus(
    batches_per_augmentation: int,
) -> None:
    by_numpy = make_loader(backend="batched", alternate_flips=True)
    on_device = make_loader(backend="batched", alternate_flips=True)
    assert isinstance(on_device._source, _DeviceBatches)
    assert not on_device._source.draws_on_device
    on_device._source.draws_on_device = True  # as on an accelerator
    on_device._source.batches_per_augmentation = batches_per_augmentation
    for epoch in range(2):
        assert as_bytes(on_device.epoch(epoch)) == as_bytes(by_numpy.epoch(epoch))


@pytest.mark.parametrize(("free_bytes", "expected"), [(2**34, 50_000), (2**33, 4096)])
def test_a_complete_epoch_is_augmented_at_once_only_where_memory_allows(
    monkeypatch: pytest.MonkeyPatch, free_bytes: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free_bytes, 2**37))
    assert images_per_augmentation(torch.device("cuda"), 50_000, 512) == expected  # 50,000 x 32 KiB x 8 = 12.2 GiB
    assert images_per_augmentation(torch.device("mps"), 50_000, 512) == 4096
    assert images_per_augmentation(torch.device("cpu"), 50_000, 512) == 512


def test_an_accelerator_draws_integers_itself_and_augments_4096_images_or_more_at_once() -> None:
    policy, accelerator = default_policy(tiny.MEAN, tiny.STD), torch.device("meta")  # stands in for any of them
    loaders = [make_loader(backend="batched", policy=policy, device=device) for device in (accelerator, CPU)]
    sources = [loader._source for loader in loaders]
    assert all(isinstance(source, _DeviceBatches) for source in sources)
    assert [source.draws_on_device for source in sources] == [True, False]  # type: ignore[union-attr]
    # ceil(4096 / 5) batches; on the CPU one
    assert [source.batches_per_augmentation for source in sources] == [820, 1]  # type: ignore[union-attr]
    assert {source.images_NHWC.device.type for source in sources} == {"meta", "cpu"}  # type: ignore[union-attr]
    assert {source.labels_N.device.type for source in sources} == {"meta", "cpu"}  # type: ignore[union-attr]
    real_numbers = make_loader(
        backend="batched", policy=a.Compose([a.RandomBrightnessContrast(), a.Normalize()]), device=accelerator
    )
    assert not real_numbers._source.draws_on_device  # type: ignore[union-attr]


def test_only_batches_for_cuda_come_in_pinned_memory() -> None:
    for name in ("cpu", "cuda", "mps"):
        loader = make_loader(device=torch.device(name))._loader
        assert isinstance(loader, torch.utils.data.DataLoader)
        assert loader.pin_memory == (name == "cuda")


def test_worker_processes_live_for_all_epochs() -> None:
    loader, before = make_loader(1), set(multiprocessing.active_children())
    workers = []
    for epoch in range(2):
        list(loader.epoch(epoch))
        workers.append(set(multiprocessing.active_children()) - before)
    assert workers[0] == workers[1] != set()


def test_order_and_flips_are_the_recorded_ones_so_that_runs_of_earlier_versions_resume() -> None:
    # Recorded on 2026-11-29: a resume under another version warns, and has to continue with the same images.
    assert flipped_in_epoch(0, np.arange(16), 0).astype(int).tolist() == [
        1,
        1,
        0,
        1,
        1,
        0,
        1,
        1,
        0,
        0,
        0,
        1,
        1,
        0,
        1,
        0,
    ]
    assert flipped_in_epoch(1, np.arange(16), 7).astype(int).tolist() == [
        0,
        1,
        0,
        1,
        0,
        0,
        1,
        1,
        1,
        1,
        1,
        0,
        1,
        0,
        1,
        1,
    ]
    loader = make_loader(seed=3, split=numbered_split(10), batch_size=4)
    assert [batch.labels_N.tolist() for batch in loader.epoch(2)] == [[9, 0, 6, 8], [7, 2, 4, 1], [5, 3]]


def test_only_batches_of_worker_processes_take_shared_memory() -> None:
    images: list[Any] = [next(make_loader(workers).epoch(0)).images_NCHW for workers in (0, 1)]
    assert [images_NCHW.is_shared() for images_NCHW in images] == [False, True]


def test_the_number_of_workers_is_that_of_the_machine_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scsuite.core.training.loader.default_workers", lambda: 0)
    loader: Any = TrainLoader(numbered_split(), default_policy(tiny.MEAN, tiny.STD), batch_size=5, seed=0)
    assert loader._loader.num_workers == 0
    monkeypatch.setattr("scsuite.core.training.loader.default_workers", lambda: 3)
    assert make_loader(0)._loader.num_workers == 0  # type: ignore[attr-defined]


def test_a_worker_that_finds_no_shared_memory_ends_the_epoch_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_tensor: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # in the processes that the loader forks
    with pytest.raises(WorkerError, match="unable to allocate shared memory"):
        list(make_loader(1).epoch(0))
