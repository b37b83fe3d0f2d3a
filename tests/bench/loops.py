"""Training measured: a step against a bare one, an epoch against the usual pipeline, memory, Grad-CAM, a GPU's runs."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scsuite.core.augment import default_policy
from scsuite.core.model.ema import EMA
from scsuite.core.cam import grad_cam
from scsuite.core.cam.maps import CAM_BATCH
from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset, Split
from scsuite.core.training.loader import Batch, default_workers
from scsuite.core.loop import (
    EpochTotals,
    Trainer,
    fit,
    init_model,
    make_optimizer,
    resolve_device,
    set_lr_and_momentum,
    train_step,
)
from scsuite.core.model import build_model
from tests.bench.reference import Pictures, bare_step, returning_memory, usual_epoch
from tests.bench.timing import alternating

BATCH = 512  # images, as the assignment has it
NUM_CLASSES = 10
IMAGE_FLOP = 2.28e9  # forward and backward of one image at width 1: 114 TFLOP in an epoch of 50,000
Figures = dict[str, Any]


def data_of(num_images: int, num_test: int = BATCH) -> Dataset:
    """Noise: for speed one picture is as good as another."""
    rng = np.random.default_rng(0)

    def split(number: int) -> Split:
        images = rng.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
        return Split(images, np.arange(number) % NUM_CLASSES, tuple(map(str, range(number))))

    return Dataset("noise", tuple("abcdefghij"), split(num_images), split(num_test), "0" * 64)


def step(width: float) -> Figures:
    """A step of ours, the average of the weights included, and a bare one: same network, precision and format, data in
    place; at least 0.97. And the bare one where freed memory goes back to the system.
    """
    config = TrainConfig(lr_max=0.1, width=width, batch_size=BATCH)
    device = resolve_device(config.device, config.precision)
    batch = Batch(
        torch.randn(BATCH, 3, 32, 32).to(device.device, memory_format=torch.channels_last),
        torch.arange(BATCH, device=device.device) % NUM_CLASSES,
    )
    models = [init_model(NUM_CLASSES, config, device, torch.randn(8, 3, 32, 32)) for _ in range(2)]
    ours_optimizer = make_optimizer(models[0], config, 0.9)
    # torch's default for the bare loop: the same device, not fused.
    bare_optimizer = torch.optim.SGD(models[1].parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(device.device.type, enabled=False)
    average, steps = EMA(models[0], 98), itertools.count()

    def ours() -> None:
        set_lr_and_momentum(ours_optimizer, 0.01, 0.9)
        outcome = train_step(
            models[0], ours_optimizer, scaler, batch,
            device=device, label_smoothing=config.label_smoothing, l1=0.0,
        )  # fmt: skip
        average.follow(models[0], next(steps))
        outcome.non_finite.item()

    theirs = bare_step(models[1], bare_optimizer, batch.images_NCHW, batch.labels_N, device.dtype)
    our_seconds, their_seconds = alternating(ours, theirs, 8)
    kept_seconds, returned_seconds = alternating(ours, returning_memory(theirs), 8)
    return {
        "precision": device.precision,
        "images_per_s": BATCH / our_seconds,
        "bare_images_per_s": BATCH / their_seconds,
        "ratio": their_seconds / our_seconds,
        "target_ratio_at_least": 0.97,
        "ratio_to_bare_returning_memory": returned_seconds / kept_seconds,
    }


def pipeline(width: float, num_images: int) -> Figures:
    """An epoch from uint8 images to updated weights, ours as it comes, and the assignment's usual pipeline."""
    data = data_of(num_images)
    config = TrainConfig(lr_max=0.1, width=width, batch_size=BATCH, epochs=1000)
    trainer = Trainer(data, config)
    steps = -(-num_images // BATCH)

    def ours() -> None:
        goal = trainer.state.step + steps
        for _ in fit(trainer, should_stop=lambda: trainer.state.step >= goal):  # ends before the epoch's evaluation
            raise AssertionError
        trainer.state.sums = EpochTotals()  # as if it had been done

    model = build_model(NUM_CLASSES, width).to(trainer.device.device)
    policy = default_policy(trainer.mean, trainer.std)
    pictures = Pictures(data.train.images_NHWC, data.train.labels_N, policy)
    theirs = usual_epoch(
        model, pictures, batch_size=BATCH, workers=default_workers(), device=trainer.device.device,
        lrs=[0.01] * steps,
    )  # fmt: skip
    our_seconds, their_seconds = alternating(ours, returning_memory(theirs), 3)
    return {
        "precision": trainer.device.precision,
        "images_per_s": num_images / our_seconds,
        "usual_images_per_s": num_images / their_seconds,
        "ratio": their_seconds / our_seconds,
        "target_ratio_at_least": 2.4,
    }


def memory(width: float, num_images: int) -> Figures:
    """Peak resident memory above the imports, each in a process of its own: ours, and a bare loop's plus the data."""
    if not Path("/proc/self/status").exists():
        return {"skipped": "the peak is read from Linux's /proc"}
    ours, bare = (_peak_of(name, width, num_images) for name in ("ours", "bare"))
    data_mb = num_images * 32 * 32 * 3 / 2**20
    return {
        "ours_mb": ours, "bare_mb": bare, "data_mb": data_mb, "ratio": (ours - data_mb) / bare,
        "target_ratio_at_most": 1.25,
    }  # fmt: skip


def _peak_of(name: str, width: float, num_images: int) -> float:
    code = f"from tests.bench.loops import peak; peak({name!r}, {width}, {num_images})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def peak(name: str, width: float, num_images: int) -> None:
    """Print the peak of two epochs, in MB; run in a process of its own."""
    config = TrainConfig(lr_max=0.1, width=width, batch_size=BATCH, epochs=2, workers=0)
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # imports half of torch
    baseline = _peak_kb()
    if name == "ours":
        for _ in fit(Trainer(data_of(num_images), config)):
            pass
    else:
        device = resolve_device(config.device, config.precision)
        model = init_model(NUM_CLASSES, config, device, torch.randn(8, 3, 32, 32))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
        images = torch.randn(BATCH, 3, 32, 32).to(device.device, memory_format=torch.channels_last)
        labels = torch.arange(BATCH, device=device.device) % NUM_CLASSES
        run = bare_step(model, optimizer, images, labels, device.dtype)
        run = returning_memory(run)
        for _ in range(-(-2 * num_images // BATCH)):
            run()
    print((_peak_kb() - baseline) / 1024)


def _peak_kb() -> int:
    # getrusage would count the parent's pages, which a forked process had for a moment.
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def gradcam(width: float) -> Figures:
    """Heatmaps a second of 1,000 images, and of the `grad-cam` package: in batches as large as ours, and one by one."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    device = resolve_device("auto", "fp32")
    model = build_model(NUM_CLASSES, width).to(device.device).eval()
    images, labels = torch.randn(1000, 3, 32, 32, device=device.device), torch.arange(1000) % NUM_CLASSES

    def theirs(batch: int, num_images: int) -> None:
        with GradCAM(model, [model.layer3]) as rival:
            pairs = [torch.split(part[:num_images], batch) for part in (images, labels)]
            for shown, chosen in zip(*pairs, strict=True):
                rival(shown, [ClassifierOutputTarget(label) for label in chosen.tolist()])

    def ours() -> None:
        grad_cam(model, images, labels, method="gradcam", layer="layer3")

    our_s, batched_s = alternating(ours, returning_memory(lambda: theirs(CAM_BATCH, 1000)), 3)
    _, single_s = alternating(ours, returning_memory(lambda: theirs(1, 100)), 1)
    return {
        "images_per_s": 1000 / our_s,
        "grad_cam_package_batched_images_per_s": 1000 / batched_s,
        "grad_cam_package_one_by_one_images_per_s": 100 / single_s,
        "times_the_batched_package": batched_s / our_s,
    }


def gpu() -> Figures:
    """24 epochs of 50,000 images at width 1 on an accelerator."""
    if not torch.cuda.is_available():
        return {"skipped": "no GPU here"}
    return trainings(data_of(50_000, 10_000), TrainConfig(lr_max=0.4, batch_size=BATCH, epochs=24))


def trainings(data: Dataset, config: TrainConfig) -> Figures:
    """Two whole trainings, the first to warm up."""
    num_images = config.epochs * len(data.train)
    torch.backends.cudnn.benchmark = True  # as `train` has it
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        trainer = Trainer(data, config)
        training = _training_seconds(trainer)
    peak_mb = torch.cuda.max_memory_allocated() / 2**20
    peak_flops = _matmul_flops(trainer.device.dtype)
    augmentation = _augmentation_seconds(trainer)
    achieved = num_images * IMAGE_FLOP / training
    return {
        "training_s_of_24_epochs": training,
        "target_s_at_most": 10.0,
        "epoch_s": training / config.epochs,
        "images_per_s": num_images / training,
        "tflops": achieved / 1e12,
        "share_of_a_matrix_product": achieved / peak_flops,
        "augmentation_share": augmentation / (training / config.epochs),
        "peak_mb": peak_mb,
    }


def _training_seconds(trainer: Trainer) -> float:
    """A whole training's, but for its evaluations."""
    return sum(len(trainer.data.train) / epoch.images_per_second for epoch in fit(trainer))


def _matmul_flops(dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large matrix product."""
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(10):
        a @ b
    torch.cuda.synchronize()
    return 10 * 2 * side**3 / (time.perf_counter() - begin)


def _augmentation_seconds(trainer: Trainer) -> float:
    """An epoch's batches alone."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for batch in trainer.loader.epoch(0):
        del batch
    torch.cuda.synchronize()
    return time.perf_counter() - begin
