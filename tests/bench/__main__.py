"""`make bench`: start-up and speed as ratios, both sides measured in turn within one run; medians.

In: nothing (SCSUITE_BENCH_WIDTH scales the network, 1 by default). Out: a table, and one JSON object as the last line.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import load_dataset
from scsuite.core.loader import Batch
from scsuite.core.loop import fresh_model, make_optimizer, resolve_arithmetic, set_rates, train_step
from tests.bench.reference import bare_step

BARE_TYPER = """
import typer
app = typer.Typer()
@app.command()
def one() -> None: "One."
@app.command()
def two() -> None: "Two."
app()
"""
BATCH = 128  # images


def alternating(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of both, called in turn so that a noisy machine troubles them alike; one warm-up each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for function, kept in zip((first, second), seconds, strict=True):
            begin = time.perf_counter()
            function()
            if repeat:
                kept.append(time.perf_counter() - begin)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def start_up() -> dict[str, float]:
    """Seconds of `scsuite --help` and of the bare program's; design.md: at most 0.15 s apart."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE_TYPER)

        def run(*arguments: str) -> None:
            subprocess.run([sys.executable, *arguments, "--help"], check=True, stdout=subprocess.DEVNULL)

        ours, theirs = alternating(lambda: run("-m", "scsuite"), lambda: run(str(bare)), 9)
    return {"help_seconds": ours, "bare_typer_seconds": theirs, "difference_seconds": ours - theirs}


def step() -> dict[str, float]:
    """Our training step over a bare one of the same network, precision and format; design.md: at least 0.97."""
    width = float(os.environ.get("SCSUITE_BENCH_WIDTH", "1"))
    config = TrainConfig(lr_max=0.1, width=width, batch_size=BATCH)
    arithmetic = resolve_arithmetic(config.device, config.precision)
    batch = Batch(
        torch.randn(BATCH, 3, 32, 32).to(arithmetic.device, memory_format=torch.channels_last),
        torch.arange(BATCH, device=arithmetic.device) % 10,
    )
    models = [fresh_model(10, config, arithmetic) for _ in range(2)]
    optimizers = [make_optimizer(model, config, 0.9) for model in models]
    scaler = torch.amp.GradScaler(arithmetic.device.type, enabled=False)

    def ours() -> None:
        set_rates(optimizers[0], 0.01, 0.9)
        train_step(models[0], optimizers[0], scaler, batch, arithmetic=arithmetic, label_smoothing=0.0, l1=0.0)

    theirs = bare_step(models[1], optimizers[1], batch.images_NCHW, batch.labels_N, arithmetic.dtype)
    our_seconds, their_seconds = alternating(ours, theirs, 12)
    return {
        "images_per_second": BATCH / our_seconds,
        "bare_images_per_second": BATCH / their_seconds,
        "ratio": their_seconds / our_seconds,
    }


def load() -> dict[str, float]:
    """Seconds of the first and the second loading of the 12,000 embedded images."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            begin = time.perf_counter()
            load_dataset("shapes", cache_dir=folder)
            seconds.append(time.perf_counter() - begin)
    return {"first_seconds": seconds[0], "second_seconds": seconds[1]}


def main() -> None:
    """Measure, print."""
    measured = {"start_up": start_up(), "step": step(), "load_shapes": load()}
    for name, figures in measured.items():
        print(f"{name:12}" + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    print(json.dumps({**measured, "torch": torch.__version__, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
