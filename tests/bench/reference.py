"""The loops that ours is measured against."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


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
