"""The device and number format of a run, and the process settings that go with them.

In: --device and --precision. Out: a `Device`. Resolving a device changes no setting of the process but torch's current
CUDA device: `tune_process` does that for the command line program, and `deterministic_algorithms` only while it is
entered.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.errors import UsageError
from scsuite.core.files import cpu_name

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MMAP_THRESHOLD_BYTES = 32 * 2**20  # the highest value that glibc itself sets
STEPS_IN_FLIGHT = 8  # on an accelerator, where a step of 512 images takes a few milliseconds


@dataclass(frozen=True)
class Device:
    """Where the network computes, and in which number format."""

    device: torch.device
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """Return fp32, bf16 or fp16."""
        return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    @property
    def is_cuda(self) -> bool:
        """Return whether the device is a CUDA device: only CUDA copies from pinned memory without waiting."""
        return self.device.type == "cuda"

    @property
    def max_steps_in_flight(self) -> int:
        """Return how many steps are launched before their results are read, which an accelerator would wait for."""
        return 1 if self.device.type == "cpu" else STEPS_IN_FLIGHT

    def check_cuda_graph(self, is_requested: bool) -> None:
        """Raise UsageError for `--cuda-graph` on another device than CUDA."""
        if is_requested and not self.is_cuda:
            raise UsageError(
                "option", "--cuda-graph", expected="a CUDA device", found=self.device, hint="Leave the option out."
            )

    def autocast(self) -> AbstractContextManager[None]:
        """Return torch's mixed precision context; it does nothing in fp32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def move(self, images_NCHW: Tensor) -> Tensor:
        """Copy images to the device in channels-last memory, the fastest layout for convolutions."""
        return images_NCHW.to(self.device, non_blocking=self.is_cuda, memory_format=torch.channels_last)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Return a gradient scaler; it is enabled only in fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


def resolve_device(device: str, precision: str, world: World = SINGLE_PROCESS) -> Device:
    """Resolve --device and --precision to a torch device and dtype.

    The device auto is CUDA, else MPS, else the CPU. The precision auto is bf16 where it is faster than fp32, fp16 on
    older CUDA devices, else fp32. Each rank on a machine uses its own CUDA device. A CUDA device becomes the
    current one of torch.
    Raises UsageError for a device that is not available or a precision that it does not support.
    """
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    available += ["mps"] if torch.backends.mps.is_available() else []
    cuda = f"cuda:{world.local_rank}"
    best = cuda if "cuda:0" in available else available[-1]
    name = {"auto": best, "cuda": cuda}.get(device, device)
    if name not in available:
        is_single = world.size == 1
        raise UsageError(
            "option", "--device", expected=f"one of auto, {', '.join(available)}",
            found=repr(device if is_single else name),
            hint="Use auto." if is_single else "Start one process per CUDA device, or give --device cpu.",
        )  # fmt: skip
    resolved = torch.device(name)
    if resolved.type == "cuda":
        torch.cuda.set_device(resolved)  # memory is pinned for the current device, and formats are asked of it
    dtypes = {"fp32": torch.float32} | _low_precision_dtypes(resolved)
    fastest = "bf16" if "bf16" in dtypes and _bf16_is_faster(resolved) else "fp16" if "fp16" in dtypes else "fp32"
    if precision != "auto" and precision not in dtypes:
        raise UsageError(
            "option", "--precision", expected=f"one of auto, {', '.join(dtypes)} on {name}", found=repr(precision),
            hint="Use auto.",
        )  # fmt: skip
    return Device(resolved, dtypes[fastest if precision == "auto" else precision])


def _low_precision_dtypes(device: torch.device) -> dict[str, torch.dtype]:
    if device.type == "cuda":
        return {"bf16": torch.bfloat16, "fp16": torch.float16}
    return {"bf16": torch.bfloat16} if device.type == "cpu" else {}


def _bf16_is_faster(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))

    def supports(probe: str) -> bool:
        return bool(getattr(torch.cpu, probe, bool)())

    # Without these instructions a CPU emulates bf16, several times slower than fp32. With AVX512 alone an Intel CPU
    # does as many products per cycle as in fp32: a step takes 1.25 times as long at width 1, 1.5 times at width 0.25.
    if supports("_is_amx_tile_supported"):
        return True
    return supports("_is_avx512_bf16_supported") and "Intel" not in cpu_name()


def tune_process() -> None:
    """Set malloc and denormal handling for CPU training: for the command line program, which owns its process.

    Denormals (below 1.2e-38) are flushed to zero in this thread and those that it starts: a network that diverges is
    left with denormals, which Intel cores multiply 100 times slower.
    """
    tune_malloc()
    torch.set_flush_denormal(True)


def tune_malloc() -> None:
    """Let glibc reuse freed memory instead of returning it to the system; does nothing elsewhere.

    By default glibc returns the end of its heap after every step, and the system hands it out again page by page,
    filled with zeros. Tensors above 32 MB are still mapped each time: keeping them needed up to 1.4 times the memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, -1)


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Use deterministic CUDA algorithms while entered; without `enabled`, let cuDNN choose the fastest ones.

    Nested uses inside a deterministic one stay deterministic. On the CPU results are bit-identical in any case.
    Source: https://pytorch.org/docs/stable/notes/randomness.html
    """
    saved = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    deterministic = enabled or saved[0]
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(saved[0])
        torch.backends.cudnn.benchmark = saved[1]
