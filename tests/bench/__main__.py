"""`make bench`: start-up, speed and memory as ratios; both sides are measured in turn, and the median counts.

    python -m tests.bench [--width W] [--images N] [--data ARCHIVE] [--json FILE] [PART ...]
    python -m tests.bench gpu [--device cuda|cpu] [--tiny] [--data SPEC] [--out DIR]    (see gpu.py)

Out: a table, and its JSON. Parts that need what this machine lacks (a GPU, an archive) are reported as skipped.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.timing import alternating

BARE_TYPER = """
import typer
app = typer.Typer()
@app.command()
def one() -> None: "One."
@app.command()
def two() -> None: "Two."
app()
"""
ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg.tar.xz"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The network's width, the number of images of a timed epoch, and the archive of the loading times."""

    width: float
    num_images: int
    data: Path


def start_up(_size: Size) -> Figures:
    """Seconds of `scsuite --help` and of a bare Typer program."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE_TYPER)

        def run(*arguments: str) -> None:
            subprocess.run([sys.executable, *arguments, "--help"], check=True, stdout=subprocess.DEVNULL)

        ours, bare_typer = alternating(lambda: run("-m", "scsuite"), lambda: run(str(bare)), 9)
    return {"help_s": ours, "bare_typer_s": bare_typer, "difference_s": ours - bare_typer, "target_s_at_most": 0.15}


def timeline(_size: Size) -> Figures:
    """Seconds after which the stages of a short training end: imports, data, network, first step, result, figures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "scsuite", "train", "--data", "shapes", "--limit-train", "512", "--json"]
        command += ["--limit-test", "100", "--width", "0.125", "--epochs", "1", "--lr-max", "0.1", "--runs-dir", folder]
        completed = subprocess.run(command, check=True, capture_output=True, text=True)
        environment = Path(json.loads(completed.stdout)["run_dir"]) / "environment.json"
        recorded = json.loads(environment.read_text())["timeline"]
    return {f"{name}_s": value for part in recorded.values() for name, value in part.items()}


def loading(size: Size) -> Figures:
    """Seconds of the first and the second loading of the real images; the second uses the cache."""
    if not size.data.is_file():
        return {"skipped": f"no archive {size.data}"}
    code = (
        "import sys, time; from scsuite.core.dataset import load_dataset; start_time = time.perf_counter(); "
        "load_dataset(sys.argv[1], cache_dir=sys.argv[2]); print(time.perf_counter() - start_time)"
    )
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            command = [sys.executable, "-c", code, str(size.data), folder]
            completed = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds.append(float(completed.stdout))
    return {"first_s": seconds[0], "second_s": seconds[1], "target_second_s_at_most": 2.0}


def step(size: Size) -> Figures:
    """Our training step and a bare one."""
    from tests.bench import loops

    return loops.step(size.width)


def pipeline(size: Size) -> Figures:
    """Our epoch and the usual pipeline's."""
    from tests.bench import loops

    return loops.pipeline(size.width, size.num_images)


def augmentation(_size: Size) -> Figures:
    """The speed of the batched backend, as a ratio to albumentations."""
    from tests.bench import augmentation

    return augmentation.augmentation()


def memory(size: Size) -> Figures:
    """Our peak of memory and a bare loop's."""
    from tests.bench import loops

    return loops.memory(size.width, size.num_images)


def gradcam(size: Size) -> Figures:
    """Grad-CAM's images per second and those of the grad-cam package."""
    from tests.bench import loops

    return loops.gradcam(size.width)


def predict(size: Size) -> Figures:
    """Predictions per second, and the ratio to a plain Pillow loop over the same files."""
    from tests.bench import predict

    return predict.predict(size.width)


def gpu_training(_size: Size) -> Figures:
    """Complete trainings on a CUDA device."""
    from tests.bench import loops

    return loops.gpu()


PARTS: dict[str, Callable[[Size], Figures]] = {
    "start_up": start_up,
    "timeline": timeline,
    "loading": loading,
    "step": step,
    "pipeline": pipeline,
    "augmentation": augmentation,
    "memory": memory,
    "gradcam": gradcam,
    "predict": predict,
    "gpu_training": gpu_training,
}


def machine() -> Figures:
    """The machine and versions of this measurement."""
    import torch

    from scsuite.core.runs.environment import collect_environment

    values = collect_environment()
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": values["cpu"], "cores": values["cores"], "gpu": device, "threads": torch.get_num_threads(),
        "platform": platform.platform(), "versions": values["versions"], "git_commit": values["git_commit"],
    }  # fmt: skip


def show(name: str, figures: Figures) -> None:
    """Print the lines of one part."""
    for key, value in figures.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{name:13}{key:45} {shown}", flush=True)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["gpu"]:
        from tests.bench import gpu

        gpu.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=1024, help="number of images of a timed epoch")
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="archive of the loading times")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}")
    measured = {}
    for name in options.parts or PARTS:
        measured[name] = PARTS[name](Size(options.width, options.images, options.data))
        show(name, measured[name])
    text = json.dumps({"width": options.width, "images": options.images, **machine(), "measured": measured}, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
