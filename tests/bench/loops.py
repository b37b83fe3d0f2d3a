"""Measure training: a step and its memory against a bare loop, an epoch against the usual pipeline, Grad-CAM, a GPU.

In: the network's width and a number of images. Out: measured values by name, with their targets.
"""

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
from scsuite.core.cam import grad_cam
from scsuite.core.cam.maps import CAM_BATCH
from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset, Split
from scsuite.core.device import resolve_device, tune_process
from scsuite.core.distributed import SINGLE_PROCESS
from scsuite.core.model.ema import EMA
from scsuite.core.model.network import build_model
from scsuite.core.training.loader import Batch
from scsuite.core.training.setup import init_model, make_setup
from scsuite.core.training.state import EpochTotals
from scsuite.core.training.step import launch_step
from scsuite.core.training.trainer import Trainer
from scsuite.core.training.workers import default_workers
from tests.bench.reference import AlbumentationsDataset, bare_step, dataloader_epoch, make_sgd, without_tuned_malloc
from tests.bench.timing import alternating

BATCH_SIZE = 512  # the assignment's
NUM_CLASSES = 10
FLOPS_PER_IMAGE = 2.28e9  # forward and backward at width 1: 114 TFLOP in an epoch of 50,000 images
Figures = dict[str, Any]


def noise_dataset(num_images: int, num_test: int = BATCH_SIZE) -> Dataset:
    """Random images: their contents do not change the speed."""
    rng = np.random.default_rng(0)

    def noise_split(size: int) -> Split:
        images_NHWC = rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        return Split(images_NHWC, np.arange(size) % NUM_CLASSES, tuple(map(str, range(size))))

    return Dataset("noise", tuple("abcdefghij"), noise_split(num_images), noise_split(num_test), "0" * 64)


def step(width: float) -> Figures:
    """Our step, the weight average included, and a bare one: same network, precision and memory format, data in place.

    Also the bare step without `tune_malloc`.
    """
    tune_process()
    config = TrainConfig(lr_max=0.1, width=width, batch_size=BATCH_SIZE)
    setup = make_setup(noise_dataset(BATCH_SIZE), config, 0.9, SINGLE_PROCESS)
    device = setup.device
    batch = Batch(
        device.move(torch.randn(BATCH_SIZE, 3, 32, 32)),
        torch.arange(BATCH_SIZE, device=device.device) % NUM_CLASSES,
    )
    ema, steps = EMA(setup.model, 98), itertools.count()

    def our_step() -> None:
        output = launch_step(setup, batch, 0, 0.01, 0.9)
        ema.update(setup.model, next(steps))
        output.non_finite.item()

    bare_model = init_model(NUM_CLASSES, config, device, torch.randn(8, 3, 32, 32), SINGLE_PROCESS)
    run_bare = bare_step(bare_model, make_sgd(bare_model), batch.images_NCHW, batch.labels_N, device.dtype)
    our_seconds, bare_seconds = alternating(our_step, run_bare, 8)
    tuned_seconds, untuned_seconds = alternating(our_step, without_tuned_malloc(run_bare), 8)
    return {
        "precision": device.precision,
        "images_per_s": BATCH_SIZE / our_seconds,
        "bare_images_per_s": BATCH_SIZE / bare_seconds,
        "ratio": bare_seconds / our_seconds,
        "target_ratio_at_least": 0.97,
        "ratio_to_bare_without_tuned_malloc": untuned_seconds / tuned_seconds,
    }


def pipeline(width: float, num_images: int) -> Figures:
    """Our epoch from uint8 images to updated weights, and the assignment's usual pipeline."""
    tune_process()
    data = noise_dataset(num_images)
    trainer = Trainer(data, TrainConfig(lr_max=0.1, width=width, batch_size=BATCH_SIZE, epochs=1000))
    steps_per_epoch, device = trainer.cycle.steps_per_epoch, trainer.setup.device.device

    def our_epoch() -> None:
        last_step = trainer.state.step + steps_per_epoch
        trainer.fit(should_stop=lambda: trainer.state.step >= last_step)  # stops before the epoch's evaluation
        trainer.state.totals = EpochTotals()  # as after the evaluation

    model = build_model(NUM_CLASSES, width).to(device)
    policy = default_policy(trainer.setup.mean, trainer.setup.std)
    images = AlbumentationsDataset(data.train.images_NHWC, data.train.labels_N, policy)
    usual_epoch = dataloader_epoch(
        model, images, batch_size=BATCH_SIZE, workers=default_workers(), device=device, lrs=[0.01] * steps_per_epoch
    )
    our_seconds, usual_seconds = alternating(our_epoch, without_tuned_malloc(usual_epoch), 3)
    return {
        "precision": trainer.setup.device.precision,
        "images_per_s": num_images / our_seconds,
        "usual_images_per_s": num_images / usual_seconds,
        "ratio": usual_seconds / our_seconds,
        "target_ratio_at_least": 2.4,
    }


def memory(width: float, num_images: int) -> Figures:
    """Peak resident memory above the imports, each in its own process: ours, and a bare loop's plus the data."""
    if not Path("/proc/self/status").exists():
        return {"skipped": "the peak is read from Linux's /proc"}
    our_mb, bare_mb = (_peak_in_process(name, width, num_images) for name in ("ours", "bare"))
    data_mb = num_images * 32 * 32 * 3 / 2**20
    return {
        "ours_mb": our_mb, "bare_mb": bare_mb, "data_mb": data_mb, "ratio": (our_mb - data_mb) / bare_mb,
        "target_ratio_at_most": 1.25,
    }  # fmt: skip


def _peak_in_process(name: str, width: float, num_images: int) -> float:
    code = f"from tests.bench.loops import print_peak; print_peak({name!r}, {width}, {num_images})"
    completed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(json.loads(completed.stdout))


def print_peak(name: str, width: float, num_images: int) -> None:
    """Print the peak of two epochs in MB; to be run in a new process."""
    tune_process()
    config = TrainConfig(lr_max=0.1, width=width, batch_size=BATCH_SIZE, epochs=2, workers=0)
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # the first optimizer imports half of torch
    kb_before = _peak_kb()
    if name == "ours":
        Trainer(noise_dataset(num_images), config).fit()
    else:
        device = resolve_device(config.device, config.precision)
        model = init_model(NUM_CLASSES, config, device, torch.randn(8, 3, 32, 32), SINGLE_PROCESS)
        images_NCHW = device.move(torch.randn(BATCH_SIZE, 3, 32, 32))
        labels_N = torch.arange(BATCH_SIZE, device=device.device) % NUM_CLASSES
        run_step = without_tuned_malloc(bare_step(model, make_sgd(model), images_NCHW, labels_N, device.dtype))
        for _ in range(-(-2 * num_images // BATCH_SIZE)):
            run_step()
    print((_peak_kb() - kb_before) / 1024)


def _peak_kb() -> int:
    # getrusage would also count the parent's pages, which a forked process has for a moment.
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def gradcam(width: float) -> Figures:
    """Heatmaps per second of 1,000 images, and of the `grad-cam` package in batches as large as ours and one by one."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    tune_process()
    device = resolve_device("auto", "fp32").device
    model = build_model(NUM_CLASSES, width).to(device).eval()
    images_NCHW, labels_N = torch.randn(1000, 3, 32, 32, device=device), torch.arange(1000) % NUM_CLASSES

    def package_maps(batch_size: int, num_images: int) -> None:
        with GradCAM(model, [model.layer3]) as cam:
            batches = (torch.split(tensor[:num_images], batch_size) for tensor in (images_NCHW, labels_N))
            for images, labels in zip(*batches, strict=True):
                cam(images, [ClassifierOutputTarget(label) for label in labels.tolist()])

    def our_maps() -> None:
        grad_cam(model, images_NCHW, labels_N, method="gradcam", layer="layer3")

    our_seconds, batched_seconds = alternating(our_maps, without_tuned_malloc(lambda: package_maps(CAM_BATCH, 1000)), 3)
    _, single_seconds = alternating(our_maps, without_tuned_malloc(lambda: package_maps(1, 100)), 1)
    return {
        "images_per_s": 1000 / our_seconds,
        "grad_cam_package_batched_images_per_s": 1000 / batched_seconds,
        "grad_cam_package_one_by_one_images_per_s": 100 / single_seconds,
        "times_the_batched_package": batched_seconds / our_seconds,
    }


def gpu() -> Figures:
    """24 epochs of 50,000 images at width 1 on a CUDA device."""
    if not torch.cuda.is_available():
        return {"skipped": "no CUDA device"}
    return trainings(noise_dataset(50_000, 10_000), TrainConfig(lr_max=0.4, batch_size=BATCH_SIZE, epochs=24))


def trainings(data: Dataset, config: TrainConfig) -> Figures:
    """Two complete trainings; the first one is the warm-up."""
    num_images = config.epochs * len(data.train)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        trainer = Trainer(data, config)
        seconds = _training_seconds(trainer)
    peak_mb = torch.cuda.max_memory_allocated() / 2**20
    matmul_flops = _matmul_flops(trainer.setup.device.dtype)
    augmentation_seconds = _augmentation_seconds(trainer)
    flops = num_images * FLOPS_PER_IMAGE / seconds
    return {
        "training_s_of_24_epochs": seconds,
        "target_s_at_most": 10.0,
        "epoch_s": seconds / config.epochs,
        "images_per_s": num_images / seconds,
        "tflops": flops / 1e12,
        "fraction_of_a_matrix_product": flops / matmul_flops,
        "augmentation_fraction": augmentation_seconds / (seconds / config.epochs),
        "peak_mb": peak_mb,
    }


def _training_seconds(trainer: Trainer) -> float:
    """Seconds of a complete training without its evaluations."""
    return sum(len(trainer.data.train) / epoch.images_per_second for epoch in trainer.fit())


def _matmul_flops(dtype: torch.dtype) -> float:
    """Floating-point operations per second of one large matrix product."""
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    start_time = time.perf_counter()
    for _ in range(10):
        a @ b
    torch.cuda.synchronize()
    return 10 * 2 * side**3 / (time.perf_counter() - start_time)


def _augmentation_seconds(trainer: Trainer) -> float:
    """Seconds of an epoch's augmented batches alone."""
    torch.cuda.synchronize()
    start_time = time.perf_counter()
    for batch in trainer.setup.loader.epoch(0):
        del batch
    torch.cuda.synchronize()
    return time.perf_counter() - start_time
