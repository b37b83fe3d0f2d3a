"""`make bench`: start-up, speed and memory as ratios, both sides measured in turn within one run; medians.

    python -m tests.bench [--width W] [--images N] [--data ARCHIVE] [--json FILE] [PART ...]

Out: a table, and the JSON of it. Parts that this machine cannot do (a GPU, an archive) say so.
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
    """How much is measured: the network's width, the images of a timed epoch, the archive of the start-up times."""

    width: float
    num_images: int
    data: Path


def start_up(_size: Size) -> Figures:
    """Seconds of `scsuite --help` and of the bare program's; design.md: at most 0.15 s apart."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE_TYPER)

        def run(*arguments: str) -> None:
            subprocess.run([sys.executable, *arguments, "--help"], check=True, stdout=subprocess.DEVNULL)

        ours, theirs = alternating(lambda: run("-m", "scsuite"), lambda: run(str(bare)), 9)
    return {"help_s": ours, "bare_typer_s": theirs, "difference_s": ours - theirs, "target_s_at_most": 0.15}


def starts(size: Size) -> Figures:
    """Seconds of the first and the second loading of the real images; design.md: the second under 2 s."""
    if not size.data.is_file():
        return {"skipped": f"no archive {size.data}"}
    code = (
        "import sys, time; from scsuite.core.dataset import load_dataset; begin = time.perf_counter(); "
        "load_dataset(sys.argv[1], cache_dir=sys.argv[2]); print(time.perf_counter() - begin)"
    )
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            command = [sys.executable, "-c", code, str(size.data), folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds.append(float(done.stdout))
    return {"first_s": seconds[0], "second_s": seconds[1], "target_second_s_at_most": 2.0}


def step(size: Size) -> Figures:
    """Our training step over a bare one; see `tests.bench.loops`."""
    from tests.bench import loops

    return loops.step(size.width)


def pipeline(size: Size) -> Figures:
    """Our epoch over the usual pipeline's."""
    from tests.bench import loops

    return loops.pipeline(size.width, size.num_images)


def augmentation(_size: Size) -> Figures:
    """The speed of the batched backend, as a ratio to albumentations."""
    from tests.bench import augmentation

    return augmentation.augmentation()


def memory(size: Size) -> Figures:
    """Our peak of memory over a bare loop's."""
    from tests.bench import loops

    return loops.memory(size.width, size.num_images)


def gradcam(size: Size) -> Figures:
    """Grad-CAM's images a second, beside those of the grad-cam package."""
    from tests.bench import loops

    return loops.gradcam(size.width)


def gpu(_size: Size) -> Figures:
    """Whole trainings on an accelerator."""
    from tests.bench import loops

    return loops.gpu()


PARTS: dict[str, Callable[[Size], Figures]] = {
    "start_up": start_up,
    "starts": starts,
    "step": step,
    "pipeline": pipeline,
    "augmentation": augmentation,
    "memory": memory,
    "gradcam": gradcam,
    "gpu": gpu,
}


def machine() -> Figures:
    """Where this was measured."""
    import torch

    from scsuite.core.runs.rundir import environment

    facts = environment()
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": facts["cpu"], "cores": facts["cores"], "gpu": device, "threads": torch.get_num_threads(),
        "platform": platform.platform(), "versions": facts["versions"], "git_commit": facts["git_commit"],
    }  # fmt: skip


def show(name: str, figures: Figures) -> None:
    """One part's lines."""
    for key, value in figures.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{name:13}{key:45} {shown}", flush=True)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=1024, help="images of a timed epoch")
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="archive of the start-up times")
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
