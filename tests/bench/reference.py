"""The training loops that ours is compared with, written as people usually write them.

In: a model, data and an optimizer. Out: functions that run one step or one epoch.
"""

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from scsuite.core.device import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, MMAP_THRESHOLD_BYTES, tune_malloc

if TYPE_CHECKING:
    from albumentations import Compose

# glibc starts with other values, and adjusts them to these once tensors above 32 MB were freed.
ADJUSTED_OPTIONS = {M_MMAP_THRESHOLD: MMAP_THRESHOLD_BYTES, M_TRIM_THRESHOLD: 2 * MMAP_THRESHOLD_BYTES}


def without_tuned_malloc(run: Callable[[], object]) -> Callable[[], None]:
    """`run` with freed memory returned to the system, as in a process without `tune_malloc`."""

    def run_untuned() -> None:
        if sys.platform == "linux":
            for option, value in ADJUSTED_OPTIONS.items():
                ctypes.CDLL(None).mallopt(option, value)
        run()
        tune_malloc()

    return run_untuned


def make_sgd(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with the recipe's momentum and weight decay, and torch's defaults otherwise (not fused)."""
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)


def bare_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images_NCHW: Tensor, labels_N: Tensor, dtype: torch.dtype
) -> Callable[[], None]:
    """A minimal training step: forward, backward, update, loss read."""

    def step() -> None:
        with torch.autocast(images_NCHW.device.type, dtype, enabled=dtype != torch.float32):
            logits_NK = model(images_NCHW).float()
        loss = nn.functional.cross_entropy(logits_NK, labels_N)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
        loss.item()

    return step


class AlbumentationsDataset(Dataset[tuple[Tensor, int]]):
    """Images one by one through albumentations, as its documentation shows."""

    def __init__(self, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], policy: "Compose") -> None:
        self.images_NHWC, self.labels_N, self.policy = images_NHWC, labels_N, policy

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.policy(image=self.images_NHWC[index])["image"]
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), int(self.labels_N[index])


def dataloader_epoch(
    model: nn.Module, data: Dataset[Any], *, batch_size: int, workers: int, device: torch.device, lrs: Sequence[float]
) -> Callable[[], None]:
    """An epoch of the usual pipeline: a DataLoader over albumentations, fp32, contiguous tensors, torch's SGD."""
    optimizer = make_sgd(model)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def epoch() -> None:
        model.train()
        for (images_NCHW, labels_N), lr in zip(loader, lrs, strict=False):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images_NCHW.to(device)), labels_N.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()

    return epoch
