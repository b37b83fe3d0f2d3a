"""Batches of augmented training images, the same for any number of workers.

In: a split, a policy or its twin, a seed. Out: Batch after batch of one epoch, from any batch of it on.
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

from scsuite.core.augment import BatchedPolicy, augment
from scsuite.core.augment.canvas import on_device
from scsuite.core.dataset import SIZE, Split
from scsuite.core.errors import InputError
from scsuite.core.schedule import num_steps_per_epoch
from scsuite.core.seeding import CounterRng, keyed_seed

if TYPE_CHECKING:
    from albumentations import Compose

WHOLE = slice(None)  # of a batch
CPU = torch.device("cpu")
IMAGES_AT_ONCE = 4096  # that an accelerator augments ahead: their kernels are then worth starting
SENDERS_KNOWN = hasattr(signal, "sigwaitinfo")  # who sent a signal; elsewhere torch's own handling of SIGTERM stays


class Batch(NamedTuple):
    """Normalised float32 images_NCHW, channels last in memory, and int64 labels_N."""

    images_NCHW: Tensor
    labels_N: Tensor


def mirrored_in(epoch: int, indices_N: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Which of these images an epoch shows mirrored: each in every other one, half of them in the first.

    Source: alternating flip, https://arxiv.org/abs/2404.00498.
    """
    return CounterRng(keyed_seed(seed, "first flip"), 0, indices_N).bernoulli(0.5) ^ (epoch % 2 == 1)


class _Augmented(TorchDataset[Batch | InputError]):
    """Fetches whole batches: an item is (epoch, index), so an image's random key is known wherever it is fetched."""

    def __init__(self, split: Split, policy: "Compose", seed: int, alternate_flips: bool) -> None:
        self.split, self.policy, self.seed, self.alternate_flips = split, policy, seed, alternate_flips

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch | InputError:
        images_NHWC = np.empty((len(items), SIZE, SIZE, 3), np.float32)
        for row, (epoch, index) in enumerate(items):
            image = self.split.images_NHWC[index]
            if self.alternate_flips and mirrored_in(epoch, np.array([index]), self.seed)[0]:
                image = np.ascontiguousarray(image[:, ::-1])
            try:
                image = augment(self.policy, image, self.seed, epoch, index)
                if image.shape != images_NHWC.shape[1:] or image.dtype != np.float32:
                    raise ValueError(f"{image.dtype} of shape {image.shape}")
            except Exception as error:  # what a policy does now and then, its trial on a few images has not shown
                # Returned, not raised: from a worker process torch would hand on its text alone.
                return InputError(
                    "augmentation policy", f"image {index} in epoch {epoch + 1}",
                    expected=f"float32 of shape {images_NHWC.shape[1:]}", found=error, hint="Mend the policy.",
                )  # fmt: skip
            images_NHWC[row] = image
        labels = self.split.labels_N[[index for _, index in items]]
        return Batch(torch.from_numpy(images_NHWC).permute(0, 3, 1, 2), torch.from_numpy(labels))

    def __getitem__(self, item: tuple[int, int]) -> Batch | InputError:
        return self.__getitems__([item])

    def fetch(self, epoch: int, indices_N: NDArray[np.int64]) -> Batch | InputError:
        """These images as an epoch shows them."""
        return self.__getitems__([(epoch, index) for index in indices_N.tolist()])


class _EpochBatches:
    """The batch sampler: one epoch's shuffled (epoch, index) batches, from batch `first` on."""

    def __init__(self, num_images: int, batch_size: int, seed: int, part: slice) -> None:
        self.num_images, self.batch_size, self.seed, self.part = num_images, batch_size, seed, part
        self.epoch, self.first = 0, 0

    def indices(self) -> Iterator[NDArray[np.int64]]:
        """The images of each batch that is left of the epoch: this part of it."""
        order = np.random.default_rng(keyed_seed(self.seed, "shuffle", self.epoch)).permutation(self.num_images)
        for start in range(self.first * self.batch_size, self.num_images, self.batch_size):
            yield order[start : start + self.batch_size][self.part]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for indices_N in self.indices():
            yield [(self.epoch, index) for index in indices_N.tolist()]

    def __len__(self) -> int:
        return num_steps_per_epoch(self.num_images, self.batch_size) - self.first


class _Resident:
    """The images as uint8 on the device, where whole batches of them are gathered and augmented by this process."""

    def __init__(
        self, split: Split, twin: BatchedPolicy, batches: _EpochBatches, device: torch.device, alternate_flips: bool
    ) -> None:
        self.twin, self.batches, self.alternate_flips = twin, batches, alternate_flips
        self.images_NHWC = torch.from_numpy(split.images_NHWC).to(device)
        self.labels_N = torch.from_numpy(split.labels_N).to(device)
        self.batches_at_once = 1 if device.type == "cpu" else math.ceil(IMAGES_AT_ONCE / batches.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        batches = self.batches.indices()
        while some := list(itertools.islice(batches, self.batches_at_once)):
            whole = self.fetch(self.batches.epoch, np.concatenate(some))
            for parts in zip(*(torch.split(tensor, list(map(len, some))) for tensor in whole), strict=True):
                yield Batch(*parts)

    def fetch(self, epoch: int, indices_N: NDArray[np.int64]) -> Batch:
        """These images as an epoch shows them."""
        chosen_N = on_device(indices_N, self.images_NHWC.device)
        images_NHWC = self.images_NHWC.index_select(0, chosen_N)
        if self.alternate_flips:
            mirrored_N = on_device(mirrored_in(epoch, indices_N, self.batches.seed), images_NHWC.device)
            images_NHWC = torch.where(mirrored_N[:, None, None, None], images_NHWC.flip(2), images_NHWC)
        images_NCHW = self.twin(images_NHWC, indices_N, seed=self.batches.seed, epoch=epoch)
        return Batch(images_NCHW, self.labels_N.index_select(0, chosen_N))


class TrainLoader:
    """The training images, augmented, batch by batch.

    With the policy's `twin` they lie on `device` and are augmented there. Without, the policy goes over them one by
    one, in worker processes that live from epoch to epoch, if there are any.
    The last batch of an epoch holds what is left: ceil(N / batch_size) steps an epoch, each image once. `part` is the
    share of every batch that is wanted here, of none an empty one: `World.part`. With `alternate_flips` the policy gets
    each image mirrored in every other epoch.
    """

    def __init__(
        self,
        split: Split,
        policy: "Compose",
        *,
        batch_size: int,
        seed: int,
        batched: BatchedPolicy | None = None,
        device: torch.device = CPU,
        workers: int | None = None,
        shard: slice = WHOLE,
        alternate_flips: bool = False,
    ) -> None:
        self.batches = _EpochBatches(len(split), batch_size, seed, shard)
        self._source: _Resident | _Augmented
        self._loader: Iterable[Batch | InputError]
        if batched is not None:
            self._loader = self._source = _Resident(split, batched, self.batches, device, alternate_flips)
            return
        num_workers = default_workers() if workers is None else workers
        self._source = _Augmented(split, policy, seed, alternate_flips)
        self._loader = DataLoader(
            self._source,
            batch_sampler=self.batches,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # what `__getitems__` returns: a batch, not a list
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=_leave_signals_to_the_parent,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else each epoch would draw from torch's global state
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in a whole epoch."""
        return num_steps_per_epoch(self.batches.num_images, self.batches.batch_size)

    def batch_size_at(self, step: int) -> int:
        """Images in the whole batch of a step of the run, of which this loader gives a part."""
        first = step % self.steps_per_epoch * self.batches.batch_size
        return min(self.batches.batch_size, self.batches.num_images - first)

    def fetch(self, epoch: int, indices_N: NDArray[np.int64]) -> Batch:
        """These images as epoch `epoch` shows them. Raises InputError where the policy fails on one."""
        batch = self._source.fetch(epoch, indices_N)
        if isinstance(batch, InputError):
            raise batch
        return batch

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of epoch `epoch` (from 0), from `first_batch` on.

        Raises InputError, naming the image, where the policy fails on one.
        """
        self.batches.epoch, self.batches.first = epoch, first_batch
        with _sigterm_held():  # the workers start here, and inherit it
            batches = iter(self._loader)
        try:
            for batch in batches:
                if isinstance(batch, InputError):
                    try:
                        raise batch
                    finally:
                        del batch  # else the error holds on to this frame and it to the error, and the workers live on
                yield batch
        except (ConnectionError, EOFError) as error:  # the pipe to a worker that was killed as it wrote
            raise RuntimeError(f"DataLoader worker is gone: {error}") from None


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C and a container's stop reach the whole group; the parent still wants batches to end its step in order.

    A SIGTERM of the parent's own is obeyed: torch and multiprocessing end a worker by it, and wait until it is gone.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if SENDERS_KNOWN:
        threading.Thread(target=_end_on_the_parents_word, args=(os.getppid(),), daemon=True).start()


@contextmanager
def _sigterm_held() -> Iterator[None]:
    """A worker must be born so: torch starts threads in it before it calls us, and each would take the signal."""
    if not SENDERS_KNOWN:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_on_the_parents_word(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _as_it_is(batch: Batch | InputError) -> Batch | InputError:
    return batch


def default_workers() -> int:
    """Half of the cores, 8 at the most: one augments while the other computes on a small machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores // 2)
