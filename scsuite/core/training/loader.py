"""Batches of augmented training images, equal for any number of workers.

In: a split, a policy or its batched version, a seed. Out: the batches of one epoch, from any batch of the epoch on.
"""

import itertools
import math
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from scsuite.core.augment import BatchedPolicy, augment_image
from scsuite.core.augment.pixel_map import to_device
from scsuite.core.dataset import SIZE, Split
from scsuite.core.errors import InputError
from scsuite.core.schedule import num_steps_per_epoch
from scsuite.core.seeding import CounterRng, keyed_seed

if TYPE_CHECKING:
    from albumentations import Compose

FULL_BATCH = slice(None)  # the shard of a single process
CPU = torch.device("cpu")
IMAGES_PER_AUGMENTATION = 4096  # on an accelerator: enough work to be worth the launch of the kernels
HAS_SIGWAITINFO = hasattr(signal, "sigwaitinfo")  # it names a signal's sender; without it, torch handles SIGTERM


class Batch(NamedTuple):
    """Normalised float32 images_NCHW, channels last in memory, and int64 labels_N."""

    images_NCHW: Tensor
    labels_N: Tensor


def flipped_in_epoch(epoch: int, indices_N: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return which images an epoch flips: each image in every other epoch, half of the images in the first epoch.

    Source: alternating flip, https://arxiv.org/abs/2404.00498.
    """
    return CounterRng(keyed_seed(seed, "first flip"), 0, indices_N).bernoulli(0.5) ^ (epoch % 2 == 1)


class _ImageDataset(TorchDataset[Batch | InputError]):
    """Augments image by image. An item is (epoch, index), so an image's random key is known in every worker."""

    def __init__(self, split: Split, policy: "Compose", seed: int, alternate_flips: bool) -> None:
        self.split, self.policy, self.seed, self.alternate_flips = split, policy, seed, alternate_flips

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch | InputError:
        images_NHWC = np.empty((len(items), SIZE, SIZE, 3), np.float32)
        for row, (epoch, index) in enumerate(items):
            image = self.split.images_NHWC[index]
            if self.alternate_flips and flipped_in_epoch(epoch, np.array([index]), self.seed)[0]:
                image = np.ascontiguousarray(image[:, ::-1])
            try:
                image = augment_image(self.policy, image, self.seed, epoch, index)
                if image.shape != images_NHWC.shape[1:] or image.dtype != np.float32:
                    raise ValueError(f"{image.dtype} of shape {image.shape}")
            except Exception as error:  # a rare failure that the dry run of the policy did not show
                # Returned, not raised: torch would pass on only the text of an exception in a worker process.
                return InputError(
                    "augmentation policy", f"image {index} in epoch {epoch + 1}",
                    expected=f"float32 of shape {images_NHWC.shape[1:]}", found=error, hint="Fix the policy.",
                )  # fmt: skip
            images_NHWC[row] = image
        labels = self.split.labels_N[[index for _, index in items]]
        return Batch(torch.from_numpy(images_NHWC).permute(0, 3, 1, 2), torch.from_numpy(labels))

    def __getitem__(self, item: tuple[int, int]) -> Batch | InputError:
        return self.__getitems__([item])

    def fetch(self, epoch: int, indices_N: NDArray[np.int64]) -> Batch | InputError:
        """Augment these images for one epoch."""
        return self.__getitems__([(epoch, index) for index in indices_N.tolist()])


class _EpochBatches:
    """The batch sampler: the shuffled (epoch, index) batches of one epoch, from `first_batch` on."""

    def __init__(self, num_images: int, batch_size: int, seed: int, shard: slice) -> None:
        self.num_images, self.batch_size, self.seed, self.shard = num_images, batch_size, seed, shard
        self.epoch, self.first_batch = 0, 0

    def indices(self) -> Iterator[NDArray[np.int64]]:
        """Yield the image indices of this shard of each remaining batch."""
        order = np.random.default_rng(keyed_seed(self.seed, "shuffle", self.epoch)).permutation(self.num_images)
        for start in range(self.first_batch * self.batch_size, self.num_images, self.batch_size):
            yield order[start : start + self.batch_size][self.shard]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for indices_N in self.indices():
            yield [(self.epoch, index) for index in indices_N.tolist()]

    def __len__(self) -> int:
        return num_steps_per_epoch(self.num_images, self.batch_size) - self.first_batch


class _DeviceBatches:
    """Keeps the uint8 images on the device, and gathers and augments whole batches there, in this process."""

    def __init__(
        self,
        split: Split,
        policy: BatchedPolicy,
        batches: _EpochBatches,
        device: torch.device,
        alternate_flips: bool,
    ) -> None:
        self.policy, self.batches, self.alternate_flips = policy, batches, alternate_flips
        self.images_NHWC = torch.from_numpy(split.images_NHWC).to(device)
        self.labels_N = torch.from_numpy(split.labels_N).to(device)
        is_cpu = device.type == "cpu"
        self.batches_per_augmentation = 1 if is_cpu else math.ceil(IMAGES_PER_AUGMENTATION / batches.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        groups = self._augmented_groups()
        group = next(groups, [])
        while group:
            *first_batches, last_batch = group
            yield from first_batches
            # Before the last batch: after it the caller waits for the device, which would then wait for these images.
            group = next(groups, [])
            yield last_batch

    def _augmented_groups(self) -> Iterator[list[Batch]]:
        batches = self.batches.indices()
        while batch_indices := list(itertools.islice(batches, self.batches_per_augmentation)):
            augmented = self.fetch(self.batches.epoch, np.concatenate(batch_indices))
            sizes = [len(indices_N) for indices_N in batch_indices]
            parts = (torch.split(tensor, sizes) for tensor in augmented)
            yield [Batch(images_NCHW, labels_N) for images_NCHW, labels_N in zip(*parts, strict=True)]

    def fetch(self, epoch: int, indices_N: NDArray[np.int64]) -> Batch:
        """Augment these images for one epoch."""
        device_indices_N = to_device(indices_N, self.images_NHWC.device)
        images_NHWC = self.images_NHWC.index_select(0, device_indices_N)
        if self.alternate_flips:
            is_flipped_N = to_device(flipped_in_epoch(epoch, indices_N, self.batches.seed), images_NHWC.device)
            images_NHWC = torch.where(is_flipped_N[:, None, None, None], images_NHWC.flip(2), images_NHWC)
        images_NCHW = self.policy(images_NHWC, indices_N, seed=self.batches.seed, epoch=epoch)
        return Batch(images_NCHW, self.labels_N.index_select(0, device_indices_N))


class TrainLoader:
    """The training images, augmented, in shuffled batches.

    With `batched_policy`, the images are kept and augmented on `device`. Without it, `policy` augments them one by one
    in worker processes, which live for all epochs, or in this process with `workers=0`.
    An epoch has ceil(N / batch_size) batches with each image once; the last batch may be smaller. `shard` is the slice
    of every batch that this process loads (`World.shard`); it may be empty. With `alternate_flips`, each image is
    flipped in every other epoch, before the policy.
    """

    def __init__(
        self,
        split: Split,
        policy: "Compose",
        *,
        batch_size: int,
        seed: int,
        batched_policy: BatchedPolicy | None = None,
        device: torch.device = CPU,
        workers: int | None = None,
        shard: slice = FULL_BATCH,
        alternate_flips: bool = False,
    ) -> None:
        self.batches = _EpochBatches(len(split), batch_size, seed, shard)
        self._source: _DeviceBatches | _ImageDataset
        self._loader: Iterable[Batch | InputError]
        if batched_policy is not None:
            self._source = _DeviceBatches(split, batched_policy, self.batches, device, alternate_flips)
            self._loader = self._source
            return
        num_workers = default_workers() if workers is None else workers
        self._source = _ImageDataset(split, policy, seed, alternate_flips)
        self._loader = DataLoader(
            self._source,
            batch_sampler=self.batches,
            collate_fn=_identity,  # type: ignore[arg-type]  # `__getitems__` returns a batch, not a list
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=_init_worker_signals,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # without it, each epoch would draw from torch's global generator
        )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in a full epoch."""
        return num_steps_per_epoch(self.batches.num_images, self.batches.batch_size)

    def batch_size_at(self, step: int) -> int:
        """Return the number of images in the batch of a step of the run, over all shards."""
        start = step % self.steps_per_epoch * self.batches.batch_size
        return min(self.batches.batch_size, self.batches.num_images - start)

    def fetch(self, epoch: int, indices_N: NDArray[np.int64]) -> Batch:
        """Augment these images for one epoch. Raises InputError if the policy fails on one of them."""
        batch = self._source.fetch(epoch, indices_N)
        if isinstance(batch, InputError):
            raise batch
        return batch

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` (from 0), from `first_batch` on.

        Raises InputError, which names the image, if the policy fails on one.
        """
        self.batches.epoch, self.batches.first_batch = epoch, first_batch
        with _block_sigterm():  # the workers start here and inherit the signal mask
            batches = iter(self._loader)
        try:
            for batch in batches:
                if isinstance(batch, InputError):
                    try:
                        raise batch
                    finally:
                        del batch  # breaks the cycle of error and frame, which would keep the workers alive
                yield batch
        except (ConnectionError, EOFError) as error:  # the worker was killed while it wrote to its pipe
            raise RuntimeError(f"DataLoader worker is gone: {error}") from None


def _init_worker_signals(_worker: int) -> None:
    """Ignore signals to the process group (Ctrl-C, a container's stop): the parent still needs batches for its step.

    A SIGTERM from the parent ends the worker: torch and multiprocessing send it, then wait for the worker's end.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if HAS_SIGWAITINFO:
        threading.Thread(target=_exit_on_parent_sigterm, args=(os.getppid(),), daemon=True).start()


@contextmanager
def _block_sigterm() -> Iterator[None]:
    """Block SIGTERM while the workers are forked: torch starts threads in them before worker_init_fn runs.

    Any of these threads could receive the signal.
    """
    if not HAS_SIGWAITINFO:
        yield
        return
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def _exit_on_parent_sigterm(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _identity(batch: Batch | InputError) -> Batch | InputError:
    return batch


def default_workers() -> int:
    """Return half of the cores, at most 8: on a small machine one core augments and the other trains."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores // 2)
