"""Batches of augmented training images, equal for any number of workers.

In: a split, a policy or its batched version, a seed. Out: the batches of one epoch, from any batch of the epoch on.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from scsuite.core.augment import BatchedPolicy, DefaultPolicy, augment_image
from scsuite.core.augment.draws import make_rng
from scsuite.core.augment.pixel_map import to_device
from scsuite.core.dataset import SIZE, Split
from scsuite.core.errors import InputError, ScsuiteError
from scsuite.core.schedule import num_steps_per_epoch
from scsuite.core.seeding import keyed_seed
from scsuite.core.training.workers import (
    WorkerBatches,
    default_workers,
    init_worker_signals,
    worker_error,
)

if TYPE_CHECKING:
    from albumentations import Compose

FULL_BATCH = slice(None)  # the shard of a single process
CPU = torch.device("cpu")
IMAGES_PER_AUGMENTATION = 4096  # on an accelerator: enough work to be worth the launch of the kernels
AUGMENTATION_BYTES = 32 * 1024  # of an image while it is augmented: the float32 result and all that is made on the way
MAX_MEMORY_FRACTION = 1 / 8  # of a CUDA device's free memory, for augmenting a complete epoch at once


class Batch(NamedTuple):
    """Normalised float32 images_NCHW, channels last in memory, and int64 labels_N."""

    images_NCHW: Tensor
    labels_N: Tensor


def flipped_in_epoch(epoch: int, indices_N: NDArray[np.int64] | Tensor, seed: int) -> Any:
    """Return which images an epoch flips: each image in every other epoch, half of the images in the first epoch.

    With `indices_N` on a device, the result is computed there. Source: alternating flip,
    https://arxiv.org/abs/2404.00498.
    """
    return make_rng(keyed_seed(seed, "first flip"), 0, indices_N).bernoulli(0.5) ^ (epoch % 2 == 1)


def images_per_augmentation(device: torch.device, num_images: int, batch_size: int) -> int:
    """Return how many images are augmented at once: a batch on a CPU, a complete epoch if a CUDA device has memory."""
    if device.type == "cpu":
        return batch_size
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if num_images * AUGMENTATION_BYTES <= MAX_MEMORY_FRACTION * free_bytes:
            return num_images
    return IMAGES_PER_AUGMENTATION


class _ImageDataset(TorchDataset[Batch | ScsuiteError]):
    """Augments image by image. An item is (epoch, index), so an image's random key is known in every worker."""

    def __init__(self, split: Split, policy: "Compose", seed: int, alternate_flips: bool) -> None:
        self.split, self.policy, self.seed, self.alternate_flips = split, policy, seed, alternate_flips

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch | ScsuiteError:
        images_NHWC = np.empty((len(items), SIZE, SIZE, 3), np.float32)
        for row, (epoch, index) in enumerate(items):
            image = self.split.images_NHWC[index]
            if self.alternate_flips and flipped_in_epoch(epoch, np.array([index]), self.seed)[0]:
                image = np.ascontiguousarray(image[:, ::-1])
            try:
                image = augment_image(self.policy, image, self.seed, epoch, index)
                if image.shape != images_NHWC.shape[1:] or image.dtype != np.float32:
                    raise ValueError(f"{image.dtype} of shape {image.shape}")
            except MemoryError:
                raise
            except Exception as error:  # a rare failure that the dry run of the policy did not show
                # Returned, not raised: torch would pass on only the text of an exception in a worker process.
                return InputError(
                    "augmentation policy", f"image {index} in epoch {epoch + 1}",
                    expected=f"float32 of shape {images_NHWC.shape[1:]}", found=error, hint="Fix the policy.",
                )  # fmt: skip
            images_NHWC[row] = image
        labels_N = self.split.labels_N[[index for _, index in items]]
        batch = Batch(torch.from_numpy(images_NHWC).permute(0, 3, 1, 2), torch.from_numpy(labels_N))
        return batch if get_worker_info() is None else _share(batch)

    def __getitem__(self, item: tuple[int, int]) -> Batch | ScsuiteError:
        return self.__getitems__([item])

    def fetch(self, epoch: int, indices_N: NDArray[np.int64]) -> Batch | ScsuiteError:
        """Augment these images for one epoch."""
        return self.__getitems__([(epoch, index) for index in indices_N.tolist()])


def _share(batch: Batch) -> Batch | ScsuiteError:
    """Move a worker's batch to shared memory, as torch does later, where an error would leave the parent waiting."""
    try:
        for tensor in batch:
            tensor.share_memory_()  # type: ignore[no-untyped-call]
        return batch
    except (RuntimeError, OSError) as error:
        return worker_error(error)


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
        num_images = images_per_augmentation(device, len(split), batches.batch_size)
        self.batches_per_augmentation = math.ceil(num_images / batches.batch_size)
        # On a CPU, numpy draws the same numbers.
        self.draws_on_device = device.type != "cpu" and policy.draws_integers

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
        drawn_by = device_indices_N if self.draws_on_device else indices_N
        images_NHWC = self.images_NHWC.index_select(0, device_indices_N)
        if self.alternate_flips:
            is_flipped_N = to_device(flipped_in_epoch(epoch, drawn_by, self.batches.seed), images_NHWC.device)
            images_NHWC = torch.where(is_flipped_N[:, None, None, None], images_NHWC.flip(2), images_NHWC)
        images_NCHW = self.policy(images_NHWC, drawn_by, seed=self.batches.seed, epoch=epoch)
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
        policy: "Compose | DefaultPolicy",
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
        self._loader: Iterable[Batch | ScsuiteError]
        if batched_policy is not None:
            self._source = _DeviceBatches(split, batched_policy, self.batches, device, alternate_flips)
            self._loader = self._source
            return
        num_workers = default_workers() if workers is None else workers
        assert not isinstance(policy, DefaultPolicy)  # it has a batched version
        self._source = _ImageDataset(split, policy, seed, alternate_flips)
        make_loader = partial(
            DataLoader,
            self._source,
            batch_sampler=self.batches,
            collate_fn=_identity,  # type: ignore[arg-type]  # `__getitems__` returns a batch, not a list
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=init_worker_signals,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # without it, each epoch would draw from torch's global generator
        )
        self._loader = WorkerBatches(make_loader) if num_workers else make_loader()

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
        if isinstance(batch, ScsuiteError):
            raise batch
        return batch

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` (from 0), from `first_batch` on.

        Raises InputError, which names the image, if the policy fails on one, and WorkerError if a worker fails.
        """
        self.batches.epoch, self.batches.first_batch = epoch, first_batch
        for batch in self._loader:
            if isinstance(batch, ScsuiteError):
                try:
                    raise batch
                finally:
                    del batch  # breaks the cycle of error and frame, which would keep the workers alive
            yield batch


def _identity(batch: Batch | ScsuiteError) -> Batch | ScsuiteError:
    return batch
