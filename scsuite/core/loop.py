"""The training loop and the evaluation.

In: a dataset and a TrainConfig whose rates are set. Out: one EpochResult an epoch, from `fit`; an Evaluation, from
`evaluate`. A Trainer owns weights, momentum and the step counter.
"""

import ctypes
import reprlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite import __version__
from scsuite.core import schedule
from scsuite.core.augment import choose_engine, load_policy, normalisation_of, normalise, policy_facts
from scsuite.core.average import WeightAverage
from scsuite.core.checkpoint import (
    AVERAGE,
    MODEL,
    OPTIMIZER,
    SCALER,
    Checkpoint,
    check_tensors,
    is_number,
    load_model,
    network_facts,
)
from scsuite.core.config import MOMENTUM_FLAT, MOMENTUM_MAX, MOMENTUM_MIN, RecipeConfig, TrainConfig, keyed_seed
from scsuite.core.dataset import Dataset, Split, hold_out
from scsuite.core.distributed import ALONE, World
from scsuite.core.errors import DivergedError, InputError, UsageError
from scsuite.core.files import cpu_name
from scsuite.core.loader import Batch, TrainLoader
from scsuite.core.metrics import Evaluation, evaluation_of
from scsuite.core.model import Dropout, ResNet3, build_model, pass_on, whiten

if TYPE_CHECKING:
    from albumentations import Compose

AVERAGES = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq")}  # of each parameter, by optimizer
WHITENED_ON = 256  # images: 230,400 patches, for 27 components
EVAL_BATCH = 1000  # images; without gradients there is room for more than in a training step
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_KEPT = 32 * 2**20  # bytes; as far as glibc itself raises M_MMAP_THRESHOLD
STEPS_AHEAD = 8  # on an accelerator, where a step of 512 images takes a few milliseconds


@dataclass(frozen=True)
class Arithmetic:
    """Where the network computes, and in which number format."""

    device: torch.device
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16."""
        return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision, or nothing for fp32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def to_device(self, images_NCHW: Tensor) -> Tensor:
        """Channels last: the layout that convolutions are fastest in."""
        return images_NCHW.to(self.device, non_blocking=self.is_cuda, memory_format=torch.channels_last)

    @property
    def steps_ahead(self) -> int:
        """Steps that are given to the device before any is waited for: an accelerator idles while it is asked."""
        return 1 if self.device.type == "cpu" else STEPS_AHEAD

    @property
    def is_cuda(self) -> bool:
        """Only CUDA copies from pinned memory without waiting."""
        return self.device.type == "cuda"


def resolve_arithmetic(device: str, precision: str, world: World = ALONE) -> Arithmetic:
    """What `--device` and `--precision` come to on this machine.

    auto: CUDA, else MPS, else the CPU; bf16 where it is quicker, fp16 on older CUDA devices, else fp32.
    Each rank on a machine takes a CUDA device of its own. On the CPU the process keeps freed memory from then on, and
    takes denormal numbers (below 1.2e-38) for nought in this thread and those that it starts.
    Raises UsageError for a device that is not here or a format that it does not have.
    """
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    available += ["mps"] if torch.backends.mps.is_available() else []
    cuda = f"cuda:{world.local_rank}"
    best = cuda if "cuda:0" in available else available[-1]
    name = {"auto": best, "cuda": cuda}.get(device, device)
    if name not in available:
        alone = world.size == 1
        raise UsageError(
            "option", "--device", expected=f"one of auto, {', '.join(available)}",
            found=repr(device if alone else name),
            hint="Use auto." if alone else "Start a process for each CUDA device, or give --device cpu.",
        )  # fmt: skip
    resolved = torch.device(name)
    if resolved.type == "cpu":
        keep_freed_memory()
        # A network that dies of a rate too high is left with denormals, which Intel cores multiply 100 times slower.
        torch.set_flush_denormal(True)
    if resolved.type == "cuda" and world.size > 1:
        torch.cuda.set_device(resolved)  # what is pinned is pinned for the current device
    formats = {"fp32": torch.float32} | _short_formats(resolved)
    best_format = (
        "bf16" if "bf16" in formats and _bf16_is_quicker(resolved) else "fp16" if "fp16" in formats else "fp32"
    )
    if precision != "auto" and precision not in formats:
        raise UsageError(
            "option",
            "--precision",
            expected=f"one of auto, {', '.join(formats)} on {name}",
            found=repr(precision),
            hint="Use auto.",
        )
    return Arithmetic(resolved, formats[best_format if precision == "auto" else precision])


def keep_freed_memory() -> None:
    """Let glibc give what was freed to the next allocation, rather than back to the system; elsewhere nothing changes.

    By default it returns the end of its heap after every step, and the system then hands it out again page by page,
    filled with zeros. Tensors above 32 MB are still mapped anew each time: kept too, they took up to 1.4 times the
    memory, another share in each process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, -1)


def _short_formats(device: torch.device) -> dict[str, torch.dtype]:
    if device.type == "cuda":
        return {"bf16": torch.bfloat16, "fp16": torch.float16}
    return {"bf16": torch.bfloat16} if device.type == "cpu" else {}


def _bf16_is_quicker(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))

    def has(probe: str) -> bool:
        return bool(getattr(torch.cpu, probe, bool)())

    # Without these instructions a CPU only imitates bf16, several times slower than fp32. By AVX512 alone Intel's does
    # no more products a cycle than in fp32: a step at width 1 takes 1.25 times as long, one at 0.25 1.5 times.
    return has("_is_amx_tile_supported") or (has("_is_avx512_bf16_supported") and "Intel" not in cpu_name())


def make_optimizer(model: nn.Module, config: RecipeConfig, momentum: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; the loop sets the rate and the momentum before each step.

    What has one dimension is batch norm's, a group of its own where it does not decay: fc has no bias.
    Fused: one pass over the weights, which `found_inf` turns into none without asking the device; see `train_step`.
    """
    parameters, decay = list(model.parameters()), config.weight_decay
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not config.norm_decay:
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=True, weight_decay=decay, fused=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999), weight_decay=decay, fused=True)
    if config.gradient_centralization:
        optimizer.register_step_pre_hook(lambda *_: centralize([p.grad for p in parameters if p.grad is not None]))
    return optimizer


def centralize(gradients: Sequence[Tensor]) -> None:
    """Take from each convolution filter's gradient, an OIHW tensor's [o], its mean, in place; leave all other shapes.

    The filters' means then only decay. Source: gradient centralization, https://arxiv.org/abs/2004.01461, for
    convolutions alone.
    """
    for gradient in gradients:
        if gradient.ndim == 4:
            gradient.sub_(gradient.mean(dim=(1, 2, 3), keepdim=True))


def set_rates(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    """Apply a step's learning rate and momentum (AdamW's first beta)."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


@dataclass(frozen=True)
class StepResult:
    """One optimizer update; `seconds` counts the wait for data.

    `loss` is the batch's mean cross entropy, without L1 and label smoothing.
    """

    step: int
    lr: float
    momentum: float
    loss: float
    correct: int
    num_images: int
    seconds: float


@dataclass(frozen=True)
class EpochResult:
    """One epoch, counted from 1; `step` is the number of steps done. `lr` and `momentum` are those of its last step.

    Test and val are those of the averaged weights where there is an average; `raw_test_*` are then, after the last
    epoch, those of the weights as the last step left them.
    """

    epoch: int
    step: int
    lr: float
    momentum: float
    train_loss: float
    train_accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    images_per_second: float
    seconds: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    raw_test_loss: float | None = None
    raw_test_accuracy: float | None = None


@dataclass(frozen=True)
class EpochSums:
    """What an epoch has added up so far; part of the state, so that a stop inside an epoch loses none of it."""

    loss: float = 0.0
    correct: int = 0
    num_images: int = 0
    seconds: float = 0.0

    def plus(self, step: StepResult) -> "EpochSums":
        """With one more step."""
        return EpochSums(
            self.loss + step.loss * step.num_images,
            self.correct + step.correct,
            self.num_images + step.num_images,
            self.seconds + step.seconds,
        )


@dataclass(frozen=True)
class Best:
    """The best epoch so far, and the images that chose it: val, or test, which makes it no honest figure."""

    epoch: int
    accuracy: float
    chosen_on: str


@dataclass
class TrainState:
    """The position of a run: steps done, the current epoch's sums, the best epoch, every step's images per second."""

    step: int = 0
    sums: EpochSums = field(default_factory=EpochSums)
    best: Best | None = None
    speeds: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for a checkpoint; of the speeds only the median goes on, as one value."""
        return {**asdict(self), "speeds": [statistics.median(self.speeds)] if self.speeds else []}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainState":
        """The inverse of `to_dict`. Raises ValueError for what `to_dict` cannot have given."""
        try:
            best = None if values["best"] is None else Best(**values["best"])
            state = cls(values["step"], EpochSums(**values["sums"]), best, list(values["speeds"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if asdict(state.sums) != values["sums"]:  # a field left out has a default
            raise ValueError(f"sums {reprlib.repr(values['sums'])}")
        sums, best = state.sums, state.best or Best(0, 0.0, "")
        counts = {"step": state.step, "correct": sums.correct, "num_images": sums.num_images, "epoch": best.epoch}
        numbers = {"loss": sums.loss, "seconds": sums.seconds, "accuracy": best.accuracy}
        numbers |= {f"speed {index}": speed for index, speed in enumerate(state.speeds)}
        for name, value in (counts | numbers).items():
            if not is_number(value) or value < 0 or (name in counts and type(value) is not int):
                raise ValueError(f"{name} {reprlib.repr(value)}")
        return state


@dataclass(frozen=True)
class Outcome:
    """What one step came to, still on its device: reading it waits for the step."""

    loss: Tensor  # the batch's mean cross entropy, without L1 and label smoothing
    correct: Tensor  # right answers
    broken: Tensor  # 1.0 once a loss or gradient was not finite, in this step or an earlier one; else 0.0


def train_step(
    model: ResNet3,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Batch,
    *,
    arithmetic: Arithmetic,
    label_smoothing: float,
    l1: float,
    world: World = ALONE,
    num_images: int = 0,
) -> Outcome:
    """One forward pass, backward pass and update, without waiting for the device.

    Over several ranks `batch` is this one's part of a batch of `num_images` in all: loss, right answers and gradients
    are those of the whole batch, and the same bits on every rank; so each then does the same update.

    From the first step on whose loss or gradients are not finite, no update reaches weights or momentum: the mask is
    the optimizer's own `found_inf`, which lives on the device.
    """
    images_NCHW = arithmetic.to_device(batch.images_NCHW)
    labels_N = batch.labels_N.to(arithmetic.device, non_blocking=arithmetic.is_cuda)
    model.train()
    optimizer.zero_grad(set_to_none=True)
    with arithmetic.autocast():
        logits_NK = model(images_NCHW).float()
    loss = _mean_loss(logits_NK, labels_N, label_smoothing, world, num_images)
    penalty = l1 / world.size * torch.stack([p.abs().sum() for p in model.parameters()]).sum() if l1 else 0.0
    scaler.scale(loss + penalty).backward()  # type: ignore[no-untyped-call]
    logits_NK = logits_NK.detach()
    # As an evaluation has it, so that the two can be held against each other.
    loss = _mean_loss(logits_NK, labels_N, 0.0, world, num_images) if label_smoothing else loss.detach()
    correct = (logits_NK.argmax(dim=1) == labels_N).sum()
    if world.size > 1:
        loss, correct = _add_up(model, world, len(labels_N) / num_images, loss, correct)
    broken = (~loss.isfinite()).float()
    if scaler.is_enabled():
        # It skips the updates that overflow fp16 and lowers its scale: there only the loss tells of divergence.
        scaler.step(optimizer)
        scaler.update()
    else:
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        before: Tensor = getattr(optimizer, "found_inf", broken)
        broken = torch.stack([broken, (~norm.isfinite()).float(), before]).amax()
        optimizer.found_inf = broken  # type: ignore[attr-defined]
        optimizer.step()
    return Outcome(loss, correct, broken)


def _mean_loss(logits_NK: Tensor, labels_N: Tensor, label_smoothing: float, world: World, num_images: int) -> Tensor:
    """The batch's mean cross entropy; over several ranks this part's share in it, 0 of no images."""
    if world.size == 1:
        return functional.cross_entropy(logits_NK, labels_N, label_smoothing=label_smoothing)
    return functional.cross_entropy(logits_NK, labels_N, label_smoothing=label_smoothing, reduction="sum") / num_images


def _add_up(model: nn.Module, world: World, share: float, loss: Tensor, correct: Tensor) -> list[Tensor]:
    """Sum gradients, loss and right answers over the ranks, in one message; returns the last two.

    `share` is this rank's of the batch's images: it weighs the running statistics of batch norm, which each rank takes
    over its own images, as in torch's DistributedDataParallel; afterwards they too are the same on all ranks.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    statistics_ = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    sent = [*gradients, *torch._foreach_mul(statistics_, share), loss, correct.float()]  # exact up to 2^24 images
    flat = world.sum_(torch.cat([tensor.flatten() for tensor in sent]))
    chunks = torch.split(flat, [tensor.numel() for tensor in sent])
    got = [part.view(old.shape) for part, old in zip(chunks, sent, strict=True)]
    torch._foreach_copy_([*gradients, *statistics_], got[:-2])
    return got[-2:]


def read_outcomes(outcomes: Sequence[Outcome]) -> list[tuple[float, int] | None]:
    """Wait for steps, once for all of them: loss and right answers of each, None from the first broken one on."""
    # fp64 holds fp32 losses and counts of images exactly.
    parts = [torch.stack([o.loss.double(), o.correct.double(), o.broken.double()]) for o in outcomes]
    return [None if broken else (loss, int(correct)) for loss, correct, broken in torch.stack(parts).tolist()]


class Trainer:
    """One training run: data, network, optimizer and position; `fit` moves it.

    What it needs to go on after a stop: the weights and their average, the optimizer's and scaler's state, and `state`.
    Raises UsageError for settings that the data or this machine does not allow, InputError for a bad policy file.
    """

    def __init__(self, data: Dataset, config: TrainConfig, world: World = ALONE) -> None:
        if config.lr_max is None:
            raise UsageError(
                "option",
                "--lr-max",
                expected="a learning rate",
                found="none",
                hint="Run the range test: scsuite lr-range.",
            )
        self.data, self.lr_max, self.world = data, config.lr_max, world
        self.lr_min = config.lr_max / config.div_factor if config.lr_min is None else config.lr_min
        self.config = replace(config, lr_min=self.lr_min)
        self.arithmetic = resolve_arithmetic(config.device, config.precision, world)
        self.train, self.val = split_off_val(data.train, config.val_split)
        policy = policy_of(config, self.train)
        self.mean, self.std = normalisation_of(policy)
        self.policy = policy_facts(policy)
        self.engine = choose_engine(config.augment_engine, policy)
        self.loader = TrainLoader(
            self.train,
            policy,
            batch_size=config.batch_size,
            seed=config.seed,
            twin=self.engine.twin,
            device=self.arithmetic.device,
            workers=config.workers,
            part=world.part,
            alternate_flips=config.flips_alternate,
        )
        self.num_steps = config.epochs * self.steps_per_epoch
        self.peak_step = schedule.peak_step_of(config.peak, self.steps_per_epoch, self.num_steps)
        self.model = fresh_model(len(data.class_names), config, self.arithmetic, some_of(self.train, policy), world)
        horizon = config.ema_epochs * self.steps_per_epoch
        self.average = WeightAverage(self.model, horizon) if horizon > 1 else None  # else it is the last weights
        self.optimizer = make_optimizer(self.model, config, self.momentum_at(0))
        self.scaler = torch.amp.GradScaler(self.arithmetic.device.type, enabled=self.arithmetic.dtype == torch.float16)
        self.state = TrainState()

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch; the last may be a smaller batch."""
        return self.loader.steps_per_epoch

    @property
    def watched(self) -> str:
        """Which images each epoch is evaluated on: val where --val-split holds some out, else test."""
        return "test" if self.val is None else "val"

    @property
    def epoch_is_full(self) -> bool:
        """Whether all steps of an epoch are done, and its evaluation is not."""
        return self.state.sums.num_images == len(self.train)

    @property
    def epochs_done(self) -> int:
        """Epochs whose evaluation is done."""
        return self.state.step // self.steps_per_epoch - self.epoch_is_full

    @property
    def state_bytes(self) -> int:
        """What a checkpoint of this run takes on the disk, near enough: the weights, and the averages beside them."""
        averages = (1 if self.config.optimizer == "sgd" else 2) + (self.average is not None)
        return (1 + averages) * sum(tensor.nbytes for tensor in self.weights().values())

    @property
    def network(self) -> ResNet3:
        """What comes of the run, and is evaluated: the averaged network where there is one, else the trained one."""
        return self.model if self.average is None else self.average.model

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, its evaluation too."""
        return self.state.step >= self.num_steps and not self.epoch_is_full

    def lr_at(self, step: int) -> float:
        """The learning rate of a step of this run."""
        return self._cycle(step, self.lr_min, self.lr_max)

    def momentum_at(self, step: int) -> float:
        """The momentum of a step of this run: against the rate, or flat."""
        return self._cycle(step, MOMENTUM_MAX, MOMENTUM_MIN) if self.config.cycle_momentum else MOMENTUM_FLAT

    def _cycle(self, step: int, ends: float, peak: float) -> float:
        return schedule.one_cycle(step, lr_min=ends, lr_max=peak, peak_step=self.peak_step, num_steps=self.num_steps)

    def plan(self) -> dict[str, Any]:
        """The cycle: the arguments of `schedule.one_cycle`, and the steps of an epoch."""
        return {
            "lr_min": self.lr_min,
            "lr_max": self.lr_max,
            "peak_step": self.peak_step,
            "num_steps": self.num_steps,
            "steps_per_epoch": self.steps_per_epoch,
        }

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says beside its tensors: network, classes, normalisation, data, configuration, position."""
        return {
            "version": __version__,
            "network": network_facts(self.model),
            "class_names": list(self.data.class_names),
            "mean": list(self.mean),
            "std": list(self.std),
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "precision": self.arithmetic.precision,
            "world_size": self.world.size,
            "policy": self.policy,
            "augment_engine": self.engine.name,
            "config": self.config.to_dict(),
            "state": self.state.to_dict(),
        }

    def weights(self) -> dict[str, Tensor]:
        """The tensors of `network`, batch-norm statistics too, as a checkpoint for use names them."""
        return _named(MODEL, self.network)

    def tensors(self) -> dict[str, Tensor]:
        """The weights, their average, the optimizer's and scaler's state: all tensors that the run needs to go on."""
        states = self.optimizer.state_dict()["state"]
        names = list(self._parameters())
        optimizer = {
            f"{OPTIMIZER}{key}.{names[index]}": torch.as_tensor(value)
            for index, values in states.items()
            for key, value in values.items()
            if value is not None
        }
        scaler = {SCALER + key: torch.tensor(value) for key, value in self.scaler.state_dict().items()}
        average = {} if self.average is None else _named(AVERAGE, self.average.model)
        return {**_named(MODEL, self.model), **average, **optimizer, **scaler}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go to where a checkpoint of this run stands.

        Raises InputError for a file without a run's state, or of a run on other data, under other settings.
        """
        if "state" not in checkpoint.facts:
            raise InputError(
                "cannot resume",
                checkpoint.path,
                expected="a run's state",
                found="weights alone",
                hint="Resume from a run directory with checkpoints/.",
            )
        mine, theirs = self.facts(), {"world_size": 1, **checkpoint.facts}
        for name in ("data", "class_names", "network", "policy", "augment_engine", "precision", "world_size"):
            if mine[name] != theirs.get(name):
                raise InputError(
                    "cannot resume",
                    checkpoint.path,
                    expected=f"the same {name}: {reprlib.repr(theirs.get(name))}",
                    found=reprlib.repr(mine[name]),
                    hint="Train anew instead.",
                )
        try:
            state = self._checked(TrainState.from_dict(theirs["state"]))
        except ValueError as error:
            raise InputError(
                "cannot resume", checkpoint.path, expected=f"a position in {self.num_steps} steps", found=error,
                hint="Resume from another directory, or train anew.",
            ) from None  # fmt: skip
        self.model.load_state_dict(load_model(checkpoint).state_dict())
        if self.average is not None:
            self.average.model.load_state_dict(load_model(checkpoint, AVERAGE).state_dict())
        self._restore_optimizer(checkpoint)
        self.state = state

    def _checked(self, state: TrainState) -> TrainState:
        """The state, if this run can stand there; else ValueError."""
        epochs, steps = divmod(state.step, self.steps_per_epoch)
        images, best = state.sums.num_images, state.best
        if not 1 <= state.step <= self.num_steps:
            raise ValueError(f"step {state.step}")
        if images not in ((steps * self.config.batch_size,) if steps else (0, len(self.train))):
            raise ValueError(f"sums over {images} images at step {state.step}")
        if 0 in state.speeds:
            raise ValueError("a speed of 0")
        if state.sums.correct > images or (images and not state.sums.seconds):
            raise ValueError(f"{state.sums.correct} of {images} images correct in {state.sums.seconds} seconds")
        done = epochs - (images > 0 and steps == 0)  # epochs that were evaluated
        if best is None and done:
            raise ValueError(f"no best epoch of {done}")
        if best and not (1 <= best.epoch <= done and best.accuracy <= 1 and best.chosen_on == self.watched):
            raise ValueError(f"best epoch {best.epoch} of {done}, {best.accuracy} on {reprlib.repr(best.chosen_on)}")
        return state

    def _restore_optimizer(self, checkpoint: Checkpoint) -> None:
        parameters, averages = self._parameters(), AVERAGES[self.config.optimizer]
        if self.scaler.is_enabled() and not any(name.startswith(OPTIMIZER) for name in checkpoint.tensors):
            parameters = {}  # the scaler has skipped every update so far
        expected = {
            f"{OPTIMIZER}{key}.{name}": torch.zeros(()) if key == "step" else parameter
            for name, parameter in parameters.items()
            for key in averages
        }
        expected |= {SCALER + key: torch.tensor(value) for key, value in self.scaler.state_dict().items()}
        networks = MODEL if self.average is None else (MODEL, AVERAGE)
        found = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(networks)}
        check_tensors(checkpoint.path, f"the state of {self.config.optimizer}", expected, found)
        # As the weight lies in memory: the fused update goes over both in that order, and does not look.
        laid = {name: torch.empty_like(tensor).copy_(found[name]) for name, tensor in expected.items()}
        states = {
            index: {key: laid[f"{OPTIMIZER}{key}.{name}"] for key in averages} for index, name in enumerate(parameters)
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        scaler = {name.removeprefix(SCALER): found[name].item() for name in found if name.startswith(SCALER)}
        if scaler:
            self.scaler.load_state_dict(scaler)

    def _parameters(self) -> dict[str, Tensor]:
        """By name, in the optimizer's order: group by group."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {names[id(p)]: p for group in self.optimizer.param_groups for p in group["params"]}

    def evaluate(
        self, split: Split, on_batch: Callable[[], None] | None = None, model: ResNet3 | None = None
    ) -> Evaluation:
        """`network` as it is now, or `model`, on these images; see `evaluate`."""
        return evaluate(
            model or self.network,
            split,
            mean=self.mean,
            std=self.std,
            class_names=self.data.class_names,
            arithmetic=self.arithmetic,
            on_batch=on_batch,
            world=self.world,
        )


def _named(prefix: str, model: ResNet3) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def split_off_val(train: Split, num_images: int) -> tuple[Split, Split | None]:
    """The images to train on, and those that --val-split holds out of them, if any."""
    return hold_out(train, num_images) if num_images else (train, None)


def check_batches(num_images: int, batch_size: int, world: World = ALONE) -> None:
    """Raises InputError where not even one batch is whole, UsageError where it has not an image for every rank."""
    if batch_size < world.size:
        raise UsageError(
            "option", "--bs", expected=f"an image or more for each of {world.size} ranks", found=batch_size,
            hint="Raise --bs or start fewer processes.",
        )  # fmt: skip
    if batch_size > num_images:
        raise InputError(
            "too few images", "--bs", expected=f"at least one batch of {batch_size}", found=f"{num_images} images",
            hint="Lower --bs or take more images.",
        )  # fmt: skip


def policy_of(config: RecipeConfig, train: Split) -> "Compose":
    """The policy that these training images are augmented by. Raises InputError as `load_policy` does."""
    return load_policy(config.augment, *train.mean_std(), flip=not config.flips_alternate)


def some_of(split: Split, policy: "Compose") -> Tensor:
    """A few images, spread evenly over a split, normalised as the policy has it: what `fresh_model` looks at."""
    return normalise(split.images_NHWC[:: -(-len(split) // WHITENED_ON)], *normalisation_of(policy))


def fresh_model(
    num_classes: int, config: RecipeConfig, arithmetic: Arithmetic, images_NCHW: Tensor, world: World = ALONE
) -> ResNet3:
    """The network with the initial weights of the configuration's seed, whitened by the images, in place to train."""
    model = build_model(
        num_classes, config.width, dropout=config.dropout, ghost_batch=config.ghost_batch,
        seed=keyed_seed(config.seed, "weights"),
    )  # fmt: skip
    if config.whiten:
        whiten(model, images_NCHW)
    if config.identities:
        pass_on(model)
    model.to(arithmetic.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.whiten and world.size > 1:
        # The leader's: on another machine, or with other threads, the last digits may be others.
        weight = model.get_parameter("prep.0.weight").detach()
        world.sum_(weight if world.leads else weight.zero_())
    return model


def fit(
    trainer: Trainer,
    *,
    on_step: Callable[[StepResult], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[EpochResult]:
    """Train from where the trainer stands to the end; yields after each epoch, its evaluation done.

    `should_stop` is asked after each step, every few on an accelerator, and in evaluation after each batch: True ends
    the iteration there, inside an epoch perhaps, the state complete. Over several ranks it must say the same on all.
    Raises DivergedError when loss or gradients stop being finite; the weights are those of the step before.
    """
    while not trainer.finished:
        if not trainer.epoch_is_full and _train_epoch(trainer, on_step, should_stop):
            return
        try:
            result = _end_epoch(trainer, should_stop)
        except _StoppedError:
            return
        yield result


class _StoppedError(Exception):
    """A stop was asked for while the network was evaluated."""


def _train_epoch(
    trainer: Trainer, on_step: Callable[[StepResult], None] | None, should_stop: Callable[[], bool] | None
) -> bool:
    """The steps that are left of an epoch; True if a stop was asked for."""
    epoch, first_batch = divmod(trainer.state.step, trainer.steps_per_epoch)
    tick = time.perf_counter()
    ahead: list[tuple[Outcome, int]] = []  # steps that the device was given and nobody waited for, and their images
    for batch in trainer.loader.epoch(epoch, first_batch):
        step = trainer.state.step + len(ahead)
        ahead.append((_advance(trainer, batch, step), trainer.loader.images_in(step)))
        ends = trainer.state.step + len(ahead) == (epoch + 1) * trainer.steps_per_epoch
        if len(ahead) < trainer.arithmetic.steps_ahead and not ends:
            continue
        for result in _read(trainer, ahead, tick):
            if on_step is not None:
                on_step(result)
        ahead.clear()
        if should_stop is not None and should_stop():
            return True
        tick = time.perf_counter()
    return False


def _advance(trainer: Trainer, batch: Batch, step: int) -> Outcome:
    """Give the device one step of the trainer."""
    config = trainer.config
    set_rates(trainer.optimizer, trainer.lr_at(step), trainer.momentum_at(step))
    reseed_dropout(trainer.model, config.seed, step, trainer.arithmetic.device, trainer.world)
    outcome = train_step(
        trainer.model,
        trainer.optimizer,
        trainer.scaler,
        batch,
        arithmetic=trainer.arithmetic,
        label_smoothing=config.label_smoothing,
        l1=config.l1,
        world=trainer.world,
        num_images=trainer.loader.images_in(step),
    )
    if trainer.average is not None:
        trainer.average.follow(trainer.model, step)
    return outcome


def _read(trainer: Trainer, ahead: list[tuple[Outcome, int]], tick: float) -> Iterator[StepResult]:
    """Wait for steps and count them; `tick` is when the ones before ended, so that the wait for the data counts."""
    read = read_outcomes([outcome for outcome, _ in ahead])
    state, seconds = trainer.state, (time.perf_counter() - tick) / len(ahead)
    for values, (_, num_images) in zip(read, ahead, strict=True):
        lr = trainer.lr_at(state.step)
        if values is None:
            raise DivergedError(
                "training diverged",
                f"step {state.step}",
                expected="a finite loss and gradient",
                found=f"NaN or infinity at learning rate {lr:.4g}",
                hint="Lower --lr-max, or let the range test find it.",
            )
        result = StepResult(state.step, lr, trainer.momentum_at(state.step), *values, num_images, seconds)
        if state.step > 0:
            state.speeds.append(num_images / seconds)
        state.step += 1
        state.sums = state.sums.plus(result)
        yield result


def reseed_dropout(model: ResNet3, seed: int, step: int, device: torch.device, world: World = ALONE) -> None:
    """Fix the dropout mask of a step: another on each rank."""
    for module in model.modules():
        if isinstance(module, Dropout) and module.share:
            module.reseed(keyed_seed(seed, "dropout", step * world.size + world.rank), device)


def _end_epoch(trainer: Trainer, should_stop: Callable[[], bool] | None) -> EpochResult:
    def go_on() -> None:
        if should_stop is not None and should_stop():
            raise _StoppedError

    state, sums = trainer.state, trainer.state.sums
    epoch = state.step // trainer.steps_per_epoch  # from 1: its last step is done
    tick = time.perf_counter()
    # With --val-split the test images are read once, at the end; without it they are watched, but choose nothing.
    val = None if trainer.val is None else trainer.evaluate(trainer.val, go_on)
    at_end = state.step == trainer.num_steps
    test = trainer.evaluate(trainer.data.test, go_on) if val is None or at_end else None
    raw = trainer.evaluate(trainer.data.test, go_on, trainer.model) if trainer.average and at_end else None
    seen = test if val is None else val
    assert seen is not None
    if state.best is None or seen.accuracy > state.best.accuracy:
        state.best = Best(epoch, seen.accuracy, trainer.watched)
    state.sums = EpochSums()
    return EpochResult(
        epoch=epoch,
        step=state.step,
        lr=trainer.lr_at(state.step - 1),
        momentum=trainer.momentum_at(state.step - 1),
        train_loss=sums.loss / sums.num_images,
        train_accuracy=sums.correct / sums.num_images,
        test_loss=None if test is None else test.loss,
        test_accuracy=None if test is None else test.accuracy,
        images_per_second=sums.num_images / sums.seconds,
        seconds=sums.seconds + time.perf_counter() - tick,
        val_loss=None if val is None else val.loss,
        val_accuracy=None if val is None else val.accuracy,
        raw_test_loss=None if raw is None else raw.loss,
        raw_test_accuracy=None if raw is None else raw.accuracy,
    )


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: tuple[str, ...],
    arithmetic: Arithmetic | None = None,
    tta: str = "none",
    on_batch: Callable[[], None] | None = None,
    world: World = ALONE,
) -> Evaluation:
    """The network's answers to all images of a split, without gradients; its training mode is given back.

    `tta` averages the logits over views: flip is the image and its mirror image; flip-shift has these in place, shifted
    one pixel up and left, and one down and right. `on_batch` is called before each batch; what it raises ends this.
    The ranks of a world take turns by whole batches, those of one process, so that all get its logits, bit for bit.
    """
    arithmetic = arithmetic or Arithmetic(next(model.parameters()).device, torch.float32)
    was_training = model.training
    model.eval()
    logits_NK = torch.zeros(len(split), len(class_names))
    try:
        with torch.inference_mode():
            for first in range(0, len(split), EVAL_BATCH * world.size):
                if on_batch is not None:
                    on_batch()
                mine = slice(start := first + EVAL_BATCH * world.rank, start + EVAL_BATCH)
                if start >= len(split):
                    break  # the last turn was another rank's
                images_NCHW = arithmetic.to_device(normalise(split.images_NHWC[mine], mean, std))
                with arithmetic.autocast():
                    views = [model(view).float() for view in _views(images_NCHW, tta)]
                logits_NK[mine] = torch.stack(views).mean(dim=0).cpu()
    finally:
        model.train(was_training)
    world.sum_(logits_NK)  # each row is one rank's, and 0 on the others
    return evaluation_of(logits_NK, torch.from_numpy(split.labels_N), class_names)


def _views(images_NCHW: Tensor, tta: str) -> list[Tensor]:
    views = [images_NCHW]
    if tta == "flip-shift":
        padded = functional.pad(images_NCHW, (1, 1, 1, 1), mode="reflect")
        height, width = images_NCHW.shape[2:]
        views += [padded[:, :, :height, :width], padded[:, :, 2 : height + 2, 2 : width + 2]]
    return views + [view.flip(3) for view in views] if tta != "none" else views
