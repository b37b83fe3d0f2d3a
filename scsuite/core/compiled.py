"""The forward pass of a training: the network itself, or on CUDA its compiled form, once that was tried.

In: the network and the settings of a run. Out: a Forward, which gives logits_NK and says which it is, and why. The
compiled form computes with the network's own weights and statistics: checkpoints and evaluation know nothing of it.
"""

import contextlib
import gc
import logging
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import SIZE
from scsuite.core.distributed import ALONE, World
from scsuite.core.model import ResNet3

# Reasoned, not measured, as no GPU was at hand: compiling takes tens of seconds the first time on a machine, and a step
# becomes a few ms to a few tens of ms shorter.
STEPS_MIN = 10_000
TF32 = 2.0**-10  # what a CUDA convolution rounds fp32 to, relative


@dataclass(frozen=True)
class Forward:
    """What gives logits_NK of images_NCHW in training: the plain network, or its compiled form; and why."""

    name: str
    reason: str
    call: Callable[[Tensor], Tensor]

    def facts(self) -> dict[str, str]:
        """As environment.json keeps it."""
        return {"name": self.name, "reason": self.reason}


def choose_forward(
    model: ResNet3,
    config: TrainConfig,
    batch_sizes: Iterable[int],
    *,
    num_steps: int,
    device: torch.device,
    dtype: torch.dtype,
    autocast: Callable[[], AbstractContextManager[None]],
    world: World = ALONE,
) -> Forward:
    """The compiled form where it may run, is worth its time and passes its trial; the same on all ranks.

    `num_steps` are the whole run's, so that a resumed run goes on with the form that it was begun with.
    """
    if reason := why_plain(config, num_steps, device):
        return Forward("plain", reason, model)
    return tried(model, batch_sizes, device=device, dtype=dtype, autocast=autocast, world=world)


def why_plain(config: TrainConfig, num_steps: int, device: torch.device) -> str | None:
    """Why a run is not even tried to compile, if so."""
    if device.type != "cuda":
        return "compiled on CUDA alone"
    if config.deterministic:
        return "--deterministic: compiled anew, kernels may add in another order"
    if config.dropout:
        return "--dropout draws from a generator of its own, which cannot be compiled"
    if num_steps < STEPS_MIN:
        return f"compiling pays from {STEPS_MIN:,} steps on, and this run has {num_steps:,}"
    return None


def tried(
    model: ResNet3,
    batch_sizes: Iterable[int],
    *,
    device: torch.device,
    dtype: torch.dtype,
    autocast: Callable[[], AbstractContextManager[None]],
    world: World = ALONE,
    backend: str | Callable[..., Any] = "inductor",
) -> Forward:
    """The compiled form, if it agrees with the plain one on made-up batches of these sizes on every rank.

    Each size is compiled for itself, forward and backward. Whatever goes wrong in that, the plain network is there.
    """

    def forward(images_NCHW: Tensor) -> Tensor:
        return model(images_NCHW)  # type: ignore[no-any-return]

    # torch counts what it compiled by code object, and refuses a ninth: each network of a process has its own.
    forward.__code__ = forward.__code__.replace()
    begin = time.perf_counter()
    try:
        # Without graphs of its own (mode="reduce-overhead"), whose gain nobody has measured here.
        compiled = torch.compile(forward, backend=backend, dynamic=False, fullgraph=True)
        with _quietly(device):
            problem = _disagreement(model, compiled, batch_sizes, device, dtype, autocast)
    except Exception as error:
        problem = _first_line(error)
    if problem is not None:
        gc.collect()  # what a failure holds on to: it may have been for want of memory
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if not world.agree(problem is None):
        return Forward("plain", f"compiling failed: {problem or 'on another rank'}", model)

    def as_tried(images_NCHW: Tensor) -> Tensor:
        # Never compiled again within a run: what was not tried, as a rank's empty part of a batch, goes the plain way.
        with torch.compiler.set_stance("eager_on_recompile"):
            logits_NK: Tensor = compiled(images_NCHW)
        return logits_NK

    seconds = time.perf_counter() - begin
    return Forward("compiled", f"agreed with the plain network in a trial of {seconds:.0f} s", as_tried)


def _disagreement(
    model: ResNet3,
    compiled: Callable[[Tensor], Tensor],
    batch_sizes: Iterable[int],
    device: torch.device,
    dtype: torch.dtype,
    autocast: Callable[[], AbstractContextManager[None]],
) -> str | None:
    """What the two forms differ in by more than rounding can make of it, if anything."""
    rounding = max(torch.finfo(dtype).eps, TF32)
    # A maximum or ReLU that tips the other way sends a gradient elsewhere. The share of those that tip grows with the
    # rounding, the norm of what they move with its root. In bf16 on a CPU the worst tensor of the plain network's
    # gradients is 0.35 to 0.51 from fp32's (widths 0.25 and 1), of inductor's 0.20 to 0.33 from the plain one's
    # (width 0.05); tolerated are 0.71, and a missing one is 1 from it.
    tolerances = {"logits": 4 * rounding, "statistics": 4 * rounding, "gradients": 8 * rounding**0.5}
    generator = torch.Generator().manual_seed(0)
    for size in batch_sizes:
        images_NCHW = torch.randn(size, 3, SIZE, SIZE, generator=generator)
        images_NCHW = images_NCHW.to(device, memory_format=torch.channels_last)
        expected, got = (_pass(model, forward, images_NCHW, autocast) for forward in (model, compiled))
        for name, tolerance in tolerances.items():
            difference = _difference(got[name], expected[name])
            if not difference <= tolerance:  # NaN too
                return f"{name} of a batch of {size} differ by {difference:.2g}, tolerated are {tolerance:.2g}"
    return None


def _pass(
    model: ResNet3,
    forward: Callable[[Tensor], Tensor],
    images_NCHW: Tensor,
    autocast: Callable[[], AbstractContextManager[None]],
) -> dict[str, list[Tensor]]:
    """What a training step would compute with one form; afterwards the network is as before."""
    labels_N = torch.arange(len(images_NCHW), device=images_NCHW.device) % model.num_classes
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    was_training = model.training
    try:
        model.train()
        with autocast():
            logits_NK = forward(images_NCHW).float()
        loss = functional.cross_entropy(logits_NK, labels_N, reduction="sum")  # a mean's gradients vanish in fp16
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        statistics = [buffer.clone() for buffer in model.buffers()]
        return {"logits": [logits_NK.detach()], "statistics": statistics, "gradients": list(gradients)}
    finally:
        model.load_state_dict(kept)
        model.train(was_training)


def _difference(got: list[Tensor], expected: list[Tensor]) -> float:
    """The largest over the tensors of |got - expected| / |expected|, by Euclidean norm."""
    pairs = zip(got, expected, strict=True)
    return torch.stack([(a - b).float().norm() / b.float().norm().clamp(min=1e-30) for a, b in pairs]).max().item()


@contextlib.contextmanager
def _quietly(device: torch.device) -> Iterator[None]:
    """Whatever torch says while it compiles is not said, and what it draws is not drawn from the caller's numbers."""
    level = logging.root.manager.disable
    devices = [device] if device.type == "cuda" else []
    with warnings.catch_warnings(), torch.random.fork_rng(devices):
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield
        finally:
            logging.disable(level)


def _first_line(error: Exception) -> str:
    cause = getattr(error, "inner_exception", error)  # torch's own words around it are only "backend=... raised:"
    lines = [*str(cause).strip().splitlines(), ""]
    return textwrap.shorten(f"{type(cause).__name__}: {lines[0]}", 120, placeholder=" ...")
