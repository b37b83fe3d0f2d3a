"""The loops that ours is measured against, written as people write them, and run as Python runs them."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from scsuite.core.loop import MMAP_THRESHOLD_BYTES, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, tune_malloc

if TYPE_CHECKING:
    from albumentations import Compose

# What glibc's own adjustment of these comes to once tensors above 32 MB were freed, and where it begins.
ADJUSTED = {M_MMAP_THRESHOLD: MMAP_THRESHOLD_BYTES, M_TRIM_THRESHOLD: 2 * MMAP_THRESHOLD_BYTES}


def returning_memory(run: Callable[[], object]) -> Callable[[], None]:
    """`run` with what it frees given back to the system, as in a process where nobody asked glibc to keep it."""

    def as_it_comes() -> None:
        if sys.platform == "linux":
            for option, value in ADJUSTED.items():
                ctypes.CDLL(None).mallopt(option, value)
        run()
        tune_malloc()

    return as_it_comes


def bare_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images_NCHW: Tensor, labels_N: Tensor, dtype: torch.dtype
) -> Callable[[], None]:
    """A training step with nothing around it: forward, backward, update, the loss read."""

    def step() -> None:
        with torch.autocast(images_NCHW.device.type, dtype, enabled=dtype != torch.float32):
            logits = model(images_NCHW).float()
        loss = nn.functional.cross_entropy(logits, labels_N)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
        loss.item()

    return step


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images one by one through albumentations, as its documentation shows."""

    def __init__(self, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], policy: "Compose") -> None:
        self.images_NHWC, self.labels_N, self.policy = images_NHWC, labels_N, policy

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.policy(image=self.images_NHWC[index])["image"]
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), int(self.labels_N[index])


def usual_epoch(
    model: nn.Module, data: Dataset[Any], *, batch_size: int, workers: int, device: torch.device, lrs: Sequence[float]
) -> Callable[[], None]:
    """An epoch of the assignment's usual pipeline: a DataLoader over albumentations, fp32, contiguous, torch's SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lrs[0], momentum=0.9, nesterov=True, weight_decay=5e-4)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def epoch() -> None:
        model.train()
        for (images, labels), lr in zip(loader, lrs, strict=False):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()

    return epoch
