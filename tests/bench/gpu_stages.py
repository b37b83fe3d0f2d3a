"""The stages of `python -m tests.bench gpu` that measure the step: versions, equality, speed, profile, layers, compile.

In: a `Job`. Out: measured values by name. The stages that run whole trainings are in `gpu_trainings`.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scsuite.core.config import TrainConfig
from scsuite.core.device import deterministic_algorithms
from scsuite.core.model.ghost_norm import (
    _backward_by_chunk,
    _forward_by_chunk,
    backward_all_chunks,
    forward_all_chunks,
)
from scsuite.core.model.network import GhostBatchNorm2d
from scsuite.core.runs.results import StepResult
from scsuite.core.training.loader import Batch, _DeviceBatches
from scsuite.core.training.step import launch_step, train_step
from scsuite.core.training.step_graph import CudaGraphs, GraphedStep, Recorder
from scsuite.core.training.trainer import Trainer
from tests.bench import gpu_trainings
from tests.bench.gpu import PARTIAL, Figures, Job
from tests.bench.loops import noise_dataset
from tests.core.training.graph_stand_in import StandInRecorder

WARM_UP_STEPS = 24


def config_of(job: Job, **changes: Any) -> TrainConfig:
    """The default recipe, or a small network in batches of 32."""
    size = {"width": 1 / 16, "batch_size": 32} if job.tiny else {}
    return TrainConfig(**{"lr_max": 0.1, "epochs": 1000, "ema_epochs": 1, "device": job.device, **size, **changes})


def noise_trainer(job: Job, *, graph: bool = False, num_images: int | None = None, **changes: Any) -> Trainer:
    """A training on random images, whose last batch is smaller."""
    num_images = num_images or (72 if job.tiny else 50_000)
    trainer = Trainer(noise_dataset(num_images, 16 if job.tiny else 512), config_of(job, **changes))
    if graph:
        device = trainer.setup.device
        recorder: Recorder = CudaGraphs(device.device) if device.is_cuda else StandInRecorder()
        trainer.graphed_step = GraphedStep(trainer.setup, recorder)
        trainer.graphed_step.on_failure = _raise
    return trainer


def _raise(text: str) -> None:
    raise RuntimeError(text)


def synchronize(job: Job) -> None:
    """Wait for the device."""
    if job.is_cuda:
        torch.cuda.synchronize()


def versions(job: Job) -> Figures:
    """Versions, the machine, and what could compile."""
    from scsuite.core.runs.environment import collect_environment
    from tests.bench.__main__ import machine

    figures = {**collect_environment(), **machine(), "gcc": shutil.which("gcc")}
    figures["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    if job.is_cuda:
        properties = torch.cuda.get_device_properties(0)
        figures |= {"cuda": torch.version.cuda, "memory_gb": properties.total_memory / 1e9}
        figures |= {"capability": list(torch.cuda.get_device_capability()), "sms": properties.multi_processor_count}
        command = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,power.limit", "--format=csv"]
        if shutil.which(command[0]):
            figures["clocks"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return figures


def norm_equality(job: Job) -> Figures:
    """Ghost batch norm in one operation against the loop over chunks, on the device: relative differences."""
    figures: Figures = {}
    num_images, channels, side = (48, 8, 8) if job.tiny else (512, 128, 16)
    for dtype, images in itertools.product((torch.float32, torch.bfloat16), (num_images, num_images - 3)):
        generator = torch.Generator().manual_seed(0)
        features, gradient = (
            torch.randn(images, channels, side, side, generator=generator)
            .to(job.device, dtype)
            .contiguous(memory_format=torch.channels_last)
            for _ in range(2)
        )
        weight, bias, mean, var = (torch.rand(channels, generator=generator).to(job.device) for _ in range(4))
        arguments = (images // 16, 0.01, 1e-5)
        at_once = forward_all_chunks(features, weight, bias, mean, var, *arguments)
        by_chunk = _forward_by_chunk(features, weight, bias, mean.clone(), var.clone(), *arguments)
        ours = at_once + backward_all_chunks(gradient, features, weight, *by_chunk[3:])
        loop = by_chunk + _backward_by_chunk(gradient, features, weight, *by_chunk[3:], 1e-5)
        names = ("output", "running_mean", "running_var", "mean", "inv_std", "grad_input", "grad_weight", "grad_bias")
        figures[f"{dtype}, {images} images"] = {
            name: _relative(*pair) for name, *pair in zip(names, ours, loop, strict=True)
        }
    worst = {dtype: max(v for name, row in figures.items() if dtype in name for v in row.values())
             for dtype in ("float32", "bfloat16")}  # fmt: skip
    return {"worst": worst, "target_float32_at_most": 2e-6, "differences": figures}


def _relative(first: Tensor, second: Tensor) -> float:
    return float((first.float() - second.float()).abs().max() / second.float().abs().max())


def graph_equality(job: Job) -> Figures:
    """The recorded step against the eager one, bit for bit, with both batch sizes; on a CPU by the tests' stand-in."""
    num_steps = 15 if job.tiny else 60
    num_images = 72 if job.tiny else 2 * 512 + 336  # three steps an epoch
    with deterministic_algorithms(True):
        eager, graphed = (
            noise_trainer(job, graph=graph, num_images=num_images, deterministic=True) for graph in (False, True)
        )
        for trainer in (eager, graphed):
            trainer.fit(should_stop=lambda trainer=trainer: trainer.state.step >= num_steps)  # type: ignore[misc]
    differences = different_tensors(eager, graphed)
    losses = [row.loss for row in eager.steps] == [row.loss for row in graphed.steps]
    assert graphed.graphed_step is not None
    return {
        "is_bit_equal": not differences and losses, "equal_losses": losses, "different_tensors": differences,
        "steps": eager.state.step, "recorded_batch_sizes": sorted(graphed.graphed_step._replays),
    }  # fmt: skip


def different_tensors(first: Trainer, second: Trainer) -> Mapping[str, float]:
    """The tensors of the state that differ, with the largest relative difference."""
    others = second.state_tensors()
    pairs = {name: (tensor, others[name]) for name, tensor in first.state_tensors().items()}
    return {name: _relative(*pair) for name, pair in pairs.items() if not torch.equal(*pair)}


def speed(job: Job) -> Figures:
    """Images per second of each variant: the best and the median of three runs of steps."""
    figures: Figures = {"target_images_per_s_at_least": 100_000}
    num_steps = 6 if job.tiny else 150
    for ghost, graph, on_device in itertools.product((16, 0), (False, True), (True, False)):
        trainer = noise_trainer(job, graph=graph, ghost_batch_size=ghost)
        source = trainer.setup.loader._source
        assert isinstance(source, _DeviceBatches)
        source.draws_on_device = on_device
        if not on_device:
            source.batches_per_augmentation = min(8, source.batches_per_augmentation)
        speeds = sorted(_images_per_second(trainer, num_steps) for _ in range(3))
        name = f"ghost {ghost}, {'graph' if graph else 'eager'}, draws {'on the device' if on_device else 'in numpy'}"
        figures[name] = {"best": speeds[-1], "median": speeds[1]}
        job.record("speed", PARTIAL, 0.0, **figures)
    return figures


def _images_per_second(trainer: Trainer, num_steps: int) -> float:
    """The speed of steps after a warm-up, without evaluations."""
    warm_up = 4 if num_steps < WARM_UP_STEPS else WARM_UP_STEPS
    first, steps = trainer.state.step + (warm_up if trainer.state.step == 0 else 0), list[StepResult]()
    trainer.fit(on_step=steps.append, should_stop=lambda: trainer.state.step >= first + num_steps)
    timed = [step for step in steps if step.step >= first]
    return sum(step.num_images for step in timed) / sum(step.seconds for step in timed)


def profile(job: Job) -> Figures:
    """Host and device time of a step, and the operations that take it, with and without ghost batch norm."""
    num_steps = 3 if job.tiny else 30
    return {f"ghost {ghost}": _profile(job, ghost, num_steps) for ghost in (16, 0)}


def _profile(job: Job, ghost: int, num_steps: int) -> Figures:
    trainer = noise_trainer(job, ghost_batch_size=ghost)
    batch = next(iter(trainer.setup.loader.epoch(0)))

    def steps(count: int) -> None:
        for _ in range(count):
            launch_step(trainer.setup, batch, 0, 0.01, 0.9)
            if trainer.ema is not None:
                trainer.ema.update(trainer.raw_model, 100)

    steps(3)
    figures: Figures = {}
    synchronize(job)
    start_time = time.perf_counter()
    if job.is_cuda:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
    steps(num_steps)
    figures["host_ms"] = (time.perf_counter() - start_time) / num_steps * 1e3  # until the last launch
    if job.is_cuda:
        end.record()
    synchronize(job)
    if job.is_cuda:
        figures["device_ms"] = start.elapsed_time(end) / num_steps
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if job.is_cuda else [])]
    with torch.profiler.profile(activities=kinds) as profiler:
        steps(3)
        synchronize(job)
    rows = [
        {"name": event.key, "calls": event.count / 3, "self_host_us": event.self_cpu_time_total / 3,
         "self_device_us": getattr(event, "self_device_time_total", 0) / 3}
        for event in profiler.key_averages()
    ]  # fmt: skip
    figures["calls"] = sum(row["calls"] for row in rows)
    by = "self_device_us" if job.is_cuda else "self_host_us"
    figures["operations_of_a_step"] = sorted(rows, key=lambda row: -float(row[by]))[:40]
    return figures


def layers(job: Job) -> Figures:
    """TFLOP/s of each convolution, and GB/s of each norm, pooling and ReLU, forward and backward."""
    trainer = noise_trainer(job)
    device, inputs = trainer.setup.device, dict[nn.Module, Tensor]()
    kinds = (nn.Conv2d, GhostBatchNorm2d, nn.MaxPool2d, nn.ReLU)
    modules = {name: module for name, module in trainer.raw_model.named_modules() if isinstance(module, kinds)}
    handles = [
        module.register_forward_pre_hook(lambda own, args: inputs.__setitem__(own, args[0].detach()))
        for module in modules.values()
    ]
    batch = next(iter(trainer.setup.loader.epoch(0)))
    trainer.raw_model.train()
    with device.autocast():
        trainer.raw_model(batch.images_NCHW)
    for handle in handles:
        handle.remove()
    figures: Figures = {}
    for name, module in modules.items():
        values = inputs[module].to(device.dtype).requires_grad_()
        with device.autocast():
            output: Tensor = module(values)
        gradient = torch.ones_like(output)

        def forward(module: nn.Module = module, values: Tensor = values) -> None:
            with device.autocast(), torch.no_grad():
                module(values)

        def both(module: nn.Module = module, values: Tensor = values, gradient: Tensor = gradient) -> None:
            with device.autocast():
                module(values).backward(gradient)

        forward_s, both_s = _seconds(job, forward), _seconds(job, both)
        row: Figures = {"input": list(values.shape), "forward_us": forward_s * 1e6}
        row["backward_us"] = max(0.0, both_s - forward_s) * 1e6
        if isinstance(module, nn.Conv2d):
            flops = 2 * output.numel() * module.weight[0].numel()
            row |= {"forward_tflops": flops / forward_s / 1e12, "both_tflops": 3 * flops / both_s / 1e12}
        else:
            num_bytes = (values.numel() + output.numel()) * values.element_size()
            row |= {"forward_gb_per_s": num_bytes / forward_s / 1e9}
        figures[f"{name} {type(module).__name__}"] = row
    return figures


def _seconds(job: Job, run: Callable[[], None]) -> float:
    """Seconds of one call on a busy device."""
    repeats = 2 if job.tiny else 50
    for _ in range(3):
        run()
    synchronize(job)
    start_time = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize(job)
    return (time.perf_counter() - start_time) / repeats


def compile_stage(job: Job) -> Figures:
    """torch.compile of the forward pass with both batch sizes static, in a process with a cold cache and a warm one."""
    if not job.is_cuda:
        return {"skipped": "needs a GPU"}
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "warm"):
            command = [sys.executable, "-c", "from tests.bench.gpu_stages import print_compiled; print_compiled()"]
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}
            start_time = time.perf_counter()
            completed = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
            figures[name] = {"process_s": time.perf_counter() - start_time}
            if completed.returncode:
                figures[name]["error"] = completed.stderr[-1000:]
            else:
                figures[name] |= json.loads(completed.stdout.splitlines()[-1])
            job.record("compile", PARTIAL, 0.0, **figures)
    return figures


def print_compiled() -> None:
    """Print the time of the first steps and the speed of a compiled network, with batch norm over whole batches."""
    from pathlib import Path

    job = Job("cuda", False, "", Path())
    trainer = noise_trainer(job, num_images=1024 + 336, ghost_batch_size=0)
    setup = trainer.setup
    model: Any = torch.compile(trainer.raw_model, dynamic=False)
    batches: list[Batch] = list(setup.loader.epoch(0))

    def step(batch: Batch) -> None:
        train_step(model, setup.optimizer, setup.scaler, batch, device=setup.device, label_smoothing=0.1, l1=0.0)

    start_time = time.perf_counter()
    step(batches[0])
    step(batches[-1])
    torch.cuda.synchronize()
    first_steps_s = time.perf_counter() - start_time
    seconds = _seconds(job, lambda: step(batches[0]))
    print(json.dumps({"first_steps_s": first_steps_s, "images_per_s": 512 / seconds}))


STAGE_FUNCTIONS: Mapping[str, Callable[[Job], Figures]] = {
    "versions": versions,
    "norm_equality": norm_equality,
    "graph_equality": graph_equality,
    "speed": speed,
    "command": gpu_trainings.command,
    "profile": profile,
    "layers": layers,
    "resume": gpu_trainings.resume,
    "seeds": gpu_trainings.seeds,
    "compile": compile_stage,
}
