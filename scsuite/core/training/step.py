"""One training step: forward pass, backward pass and update, without waiting for the device.

In: a `TrainSetup`, a batch, a learning rate and a momentum. Out: a `StepOutput` whose values are still on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.device import Device
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.model.network import KeyedDropout, ResNet3, temperature_of
from scsuite.core.seeding import keyed_seed
from scsuite.core.training.loader import Batch
from scsuite.core.training.optimizer import set_lr_and_momentum, start_momentum_at_zero
from scsuite.core.training.setup import TrainSetup

MIN_LOSS_SCALE = 1.0  # of fp16: below it, gradients overflow although they are not enlarged


@dataclass(frozen=True)
class StepOutput:
    """Result of one training step as device tensors; reading a value synchronizes with the device."""

    loss: Tensor  # mean cross entropy of the batch, without L1, label smoothing and class weights
    num_correct: Tensor
    non_finite: Tensor  # 1.0 once a loss or gradient was NaN or infinite, in this step or an earlier one; else 0.0


def launch_step(setup: TrainSetup, batch: Batch, step: int, lr: float, momentum: float) -> StepOutput:
    """Run a step of a training or a range test with this learning rate and momentum."""
    config = setup.config
    if setup.device.is_cuda:
        lr = float(np.float32(lr))  # as a CUDA graph reads it from a tensor
    set_lr_and_momentum(setup.optimizer, lr, momentum)
    reseed_dropout(setup.model, config.seed, step, setup.device.device, setup.world)
    return train_step(
        setup.model, setup.optimizer, setup.scaler, batch,
        device=setup.device, label_smoothing=config.label_smoothing, l1=config.l1, world=setup.world,
        num_images=setup.loader.batch_size_at(step), class_weights_K=setup.class_weights_K,
        temperature=temperature_of(setup.model),
    )  # fmt: skip


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Batch,
    *,
    device: Device,
    label_smoothing: float,
    l1: float,
    world: World = SINGLE_PROCESS,
    num_images: int = 0,
    class_weights_K: Tensor | None = None,
    temperature: float = 1.0,
    is_recorded: bool = False,
) -> StepOutput:
    """Run one forward pass, backward pass and update.

    With several ranks `batch` is this rank's shard of a batch of `num_images`: loss, correct predictions and gradients
    are those of the complete batch, with the same bits on every rank, so each rank does the same update.

    Once a loss or gradient is NaN or infinite, this and every later update is skipped. On CUDA, and in a step that is
    recorded for replays, the flag is the fused optimizer's `found_inf` tensor, so no synchronization is needed;
    elsewhere it is read, as other kernels may ignore it. In fp16 the scaler skips the updates, and `_scale_is_used_up`
    says when that is a divergence.
    """
    images_NCHW = device.move(batch.images_NCHW)
    labels_N = batch.labels_N.to(device.device, non_blocking=device.is_cuda)
    model.train()
    optimizer.zero_grad(set_to_none=True)
    with device.autocast():
        logits_NK = model(images_NCHW).float()
    if class_weights_K is None:
        loss = _batch_loss(logits_NK, labels_N, label_smoothing, world, num_images)
    else:
        loss = _weighted_batch_loss(logits_NK, labels_N, label_smoothing, world, class_weights_K)
    penalty = l1 / world.size * torch.stack([p.abs().sum() for p in model.parameters()]).sum() if l1 else 0.0
    scaler.scale(loss + penalty).backward()  # type: ignore[no-untyped-call]
    logits_NK = logits_NK.detach()
    # Reported without label smoothing and class weights, at the temperature of the test loss, to be compared with it.
    is_plain = not label_smoothing and class_weights_K is None and temperature == 1
    loss = loss.detach() if is_plain else _batch_loss(logits_NK / temperature, labels_N, 0.0, world, num_images)
    num_correct = (logits_NK.argmax(dim=1) == labels_N).sum()
    if world.size > 1:
        loss, num_correct = _all_reduce_step(model, world, len(labels_N) / num_images, loss, num_correct)
    non_finite = (~loss.isfinite()).float()
    if scaler.is_enabled():
        if not optimizer.state:
            start_momentum_at_zero(optimizer)
        scaler.step(optimizer)
        scaler.update()
        non_finite = torch.maximum(non_finite, _scale_is_used_up(scaler, non_finite))
    else:
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        previous: Tensor = getattr(optimizer, "found_inf", non_finite)
        non_finite = torch.stack([non_finite, (~norm.isfinite()).float(), previous]).amax()
        optimizer.found_inf = non_finite  # type: ignore[attr-defined]
        if device.is_cuda or is_recorded or not non_finite:
            optimizer.step()
    return StepOutput(loss, num_correct, non_finite)


def _scale_is_used_up(scaler: torch.amp.GradScaler, like: Tensor) -> Tensor:
    """Return 1.0 where the scaler has gone below MIN_LOSS_SCALE, else 0.0, without waiting for the device.

    The scaler skips an update whose gradients overflow fp16, and halves its scale. Gradients that are NaN under a
    finite loss would be skipped for ever. From torch's first scale, 65,536, it is used up by 17 such steps in a row;
    each doubling, after 2,000 good steps, allows one more. A checkpoint has the scale, so a resume counts on.
    """
    return (scaler.scale(torch.ones_like(like)) < MIN_LOSS_SCALE).float()


def _batch_loss(logits_NK: Tensor, labels_N: Tensor, label_smoothing: float, world: World, num_images: int) -> Tensor:
    """Return the mean cross entropy of the batch; with several ranks, the shard's contribution to it."""
    if world.size == 1:
        return functional.cross_entropy(logits_NK, labels_N, label_smoothing=label_smoothing)
    return functional.cross_entropy(logits_NK, labels_N, label_smoothing=label_smoothing, reduction="sum") / num_images


def _weighted_batch_loss(
    logits_NK: Tensor, labels_N: Tensor, label_smoothing: float, world: World, class_weights_K: Tensor
) -> Tensor:
    """Return the cross entropy of the batch, divided by the sum of the images' weights, as torch does.

    With several ranks, that is the sum over the complete batch, and the result is the shard's contribution.
    """
    total = functional.cross_entropy(
        logits_NK, labels_N, class_weights_K, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / world.all_reduce_sum(class_weights_K[labels_N].sum())


def _all_reduce_step(
    model: nn.Module, world: World, shard_fraction: float, loss: Tensor, num_correct: Tensor
) -> list[Tensor]:
    """Sum gradients, loss and correct predictions over the ranks in one message; return the last two.

    `shard_fraction` is this rank's fraction of the batch. It weights the running statistics of batch norm, which each
    rank takes over its own images, as in torch's DistributedDataParallel; afterwards they are the same on all ranks.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    running_stats = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    weighted_stats = [stats * shard_fraction for stats in running_stats]
    packed = [*gradients, *weighted_stats, loss, num_correct.float()]  # counts are exact up to 2^24
    flat = world.all_reduce_sum(torch.cat([tensor.flatten() for tensor in packed]))
    chunks = torch.split(flat, [tensor.numel() for tensor in packed])
    reduced = [chunk.view(tensor.shape) for chunk, tensor in zip(chunks, packed, strict=True)]
    torch._foreach_copy_([*gradients, *running_stats], reduced[:-2])
    return reduced[-2:]


def read_step_outputs(outputs: Sequence[StepOutput]) -> list[tuple[float, int] | None]:
    """Wait for all steps at once: return loss and correct predictions of each, None from the first non-finite on."""
    # fp32 holds counts up to 2^24 exactly; MPS has no fp64.
    rows = [torch.stack([o.loss.float(), o.num_correct.float(), o.non_finite.float()]) for o in outputs]
    return [
        None if non_finite else (loss, int(num_correct)) for loss, num_correct, non_finite in torch.stack(rows).tolist()
    ]


def reseed_dropout(model: nn.Module, seed: int, step: int, device: torch.device, world: World = SINGLE_PROCESS) -> None:
    """Fix the dropout masks of a step; each rank has its own. A user's own network draws from torch's random state."""
    mask_seed = keyed_seed(seed, "dropout", step * world.size + world.rank)
    if type(model) is not ResNet3:
        torch.manual_seed(mask_seed)
    for module in model.modules():
        if isinstance(module, KeyedDropout) and module.p:
            module.reseed(mask_seed, device)
