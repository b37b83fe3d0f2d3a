"""The stages of `python -m tests.bench gpu` that run whole trainings: the command, several seeds, a stop and a resume.

In: a `Job`. Out: measured values by name. The commands run as processes, as users start them.
"""

import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import load_dataset
from scsuite.core.training.trainer import Trainer
from tests.bench.gpu import PARTIAL, Figures, Job

LR_MAX = 0.4  # cifar10-fast's at batch size 512; the same for all trainings, so that a range test adds no time
NUM_SEEDS, NUM_EAGER_SEEDS = 5, 1
CACHE = Path(tempfile.gettempdir()) / "scsuite-bench-cache"  # decoded images: the second command of a stage reads them


def train_arguments(job: Job, folder: str, **options: Any) -> list[str]:
    """The command of a training in `folder`."""
    size = ["--width", "0.0625", "--bs", "32", "--limit-train", "200", "--limit-test", "50"] if job.tiny else []
    words = [word for name, value in options.items() for word in _option(name, value)]
    fixed = ["--data", job.data, "--device", job.device, "--lr-max", str(LR_MAX), "--runs-dir", folder, "--json"]
    return [sys.executable, "-m", "scsuite", "train", *fixed, "--cache-dir", str(CACHE), *size, *words]


def _option(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    return [flag] * bool(value) if isinstance(value, bool) else [flag, str(value)]


def run_json(arguments: list[str]) -> Figures:
    """Run a command and return its JSON object. Raises RuntimeError with the end of what it printed."""
    completed = subprocess.run(arguments, check=False, capture_output=True, text=True)
    if completed.returncode:
        raise RuntimeError(f"exit code {completed.returncode}: {completed.stderr[-400:]}")
    values: Figures = json.loads(completed.stdout)
    return values


def command(job: Job) -> Figures:
    """The whole command, 24 epochs, three times: the first decodes the images, the last launches CUDA graphs."""
    figures: Figures = {"target_s_at_most": 20.0, "target_steps_s_at_most": 12.0}
    variants: dict[str, Figures] = {"first": {}, "second": {}} | (
        {"graph": {"cuda_graph": True}} if job.is_cuda else {}
    )
    for name, options in variants.items():
        with tempfile.TemporaryDirectory() as folder:
            start_time = time.perf_counter()
            result = run_json(train_arguments(job, folder, epochs=2 if job.tiny else 24, **options))
            seconds = time.perf_counter() - start_time
            environment = json.loads((Path(result["run_dir"]) / "environment.json").read_text())
        figures[name] = {
            "process_s": seconds, "command_s": result["seconds"], "images_per_s": result["images_per_second"],
            "final": result["final"], "timeline_s": environment.get("timeline"), "warnings": result["warnings"],
        }  # fmt: skip
        job.record("command", PARTIAL, 0.0, **figures)
    return figures


def seeds(job: Job) -> Figures:
    """Accuracy and time of five trainings on the images that are there: CUDA graphs but for the last seed."""
    limits: Figures = {"limit_train": 200, "limit_test": 50} if job.tiny else {}
    data = load_dataset(job.data, cache_dir=str(CACHE), **limits)
    size: Figures = {"width": 1 / 16, "batch_size": 32, "epochs": 2} if job.tiny else {}
    rows: list[Figures] = []
    figures: Figures = {"data": data.name, "train_images": len(data.train), "trainings": rows}
    for seed in range(NUM_SEEDS):
        graph = job.is_cuda and seed < NUM_SEEDS - NUM_EAGER_SEEDS
        config = TrainConfig(data=job.data, lr_max=LR_MAX, seed=seed, device=job.device, cuda_graph=graph, **size)
        start_time = time.perf_counter()
        trainer = Trainer(data, config)
        epochs = trainer.fit()
        rows.append(
            {
                "seed": seed, "graph": graph, "test_accuracy": epochs[-1].test_accuracy,
                "test_loss": epochs[-1].test_loss, "train_losses": [epoch.train_loss for epoch in epochs],
                "steps_s": sum(len(data.train) / epoch.images_per_second for epoch in epochs),
                "seconds": time.perf_counter() - start_time,
                "images_per_s": trainer.state.median_images_per_second,
            }
        )  # fmt: skip
        accuracies = [row["test_accuracy"] for row in rows]
        figures |= {"mean": statistics.mean(accuracies), "std": statistics.stdev(accuracies) if seed else None}
        job.record("seeds", PARTIAL, 0.0, **figures)
    return figures


def resume(job: Job) -> Figures:
    """A training that SIGTERM stops and --resume continues, against one that was not stopped: sha256 of the weights."""
    figures: Figures = {}
    for graph in (False, True) if job.is_cuda else (False,):
        with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as stopped:
            options: dict[str, Any] = {"epochs": 3 if job.tiny else 4, "deterministic": True, "cuda_graph": graph}
            if not job.tiny:
                options["limit_train"] = 10_000
            expected = weights_sha256(run_json(train_arguments(job, whole, **options)))
            code, num_rows = _stop_after_a_row(train_arguments(job, stopped, **options), Path(stopped))
            (run,) = Path(stopped).iterdir()
            resumed = [sys.executable, "-m", "scsuite", "train", "--resume", str(run), "--json"]
            found = weights_sha256(run_json(resumed))
        name = "graph" if graph else "eager"
        figures[name] = {
            "is_bit_equal": expected == found, "uninterrupted": expected, "resumed": found,
            "exit_code": code, "steps_when_stopped": num_rows,
        }  # fmt: skip
        job.record("resume", PARTIAL, 0.0, **figures)
    return figures


def _stop_after_a_row(arguments: list[str], runs_dir: Path) -> tuple[int, int]:
    """Start a training and send it SIGTERM when its first steps are recorded; return its exit code and its steps."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    while process.poll() is None and _num_rows(runs_dir) < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    return process.wait(), _num_rows(runs_dir)


def _num_rows(runs_dir: Path) -> int:
    return sum(len(path.read_text().splitlines()) - 1 for path in runs_dir.glob("*/steps.csv"))


def weights_sha256(result: Figures) -> str:
    """The sha256 of the weights of a finished training, in the order of their names."""
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, values in sorted(load_file(result["checkpoint"]).items()):
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()
