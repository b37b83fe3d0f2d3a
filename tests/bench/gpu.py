"""All measurements on a GPU in one call of at most 8 minutes; without one, every stage that needs none.

    python -m tests.bench gpu [--device cuda|cpu] [--tiny] [--data SPEC] [--out DIR] [--stages NAME ...]

Runs offline from a bare checkout: PYTHONPATH=. and torch, numpy, Pillow, PyYAML, safetensors, typer, rich, matplotlib,
jinja2 and filelock are enough. A package that is missing can be unpacked from its wheel into an ignored folder that
PYTHONPATH names too: `pip download --no-deps -d wheels NAME`, `python -m zipfile -e wheels/NAME*.whl packages/`,
`PYTHONPATH=.:packages`. The default policy needs no albumentations. Images: any SPEC of `scsuite train --data`.

Out: DIR/STAGE.json as soon as a stage ends, and a line for each. Each stage is a process with its own time limit: one
that fails or hangs does not stop the others. The stages are in order of importance, and the last may get no time.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scsuite.core.files import write_atomic
from tests.bench.__main__ import ARCHIVE

TOTAL_SECONDS = 470.0
START_SECONDS = 5.0  # of a process
PARTIAL = "partial"  # the status of a stage that goes on
COMMON_KEYS = ("stage", "status", "seconds", "device", "tiny")
Figures = dict[str, Any]
# The stages and their time limits in seconds.
STAGES: Mapping[str, float] = {
    "versions": 30, "norm_equality": 40, "graph_equality": 60, "speed": 90, "command": 100, "profile": 50,
    "layers": 40, "resume": 70, "seeds": 120, "compile": 100,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What all stages share."""

    device: str
    tiny: bool
    data: str
    out: Path

    @property
    def is_cuda(self) -> bool:
        """Whether the stages that need a GPU can run."""
        return self.device.startswith("cuda")

    def record(self, stage: str, status: str, seconds: float, **figures: Any) -> None:
        """Write a stage's JSON, and print a line unless the stage goes on."""
        values = {"stage": stage, "status": status, "seconds": seconds, "device": self.device, "tiny": self.tiny}
        text = json.dumps({**values, **figures}, indent=1, default=str) + "\n"
        write_atomic(self.path(stage), text.encode())
        if status != PARTIAL:
            note = figures.get("error") or figures.get("skipped") or ""
            print(f"{stage:15}{status:9}{seconds:7.1f} s  {note}"[:160].rstrip(), flush=True)

    def known(self, stage: str) -> Figures:
        """What a stage has written so far."""
        if not self.path(stage).exists():
            return {}
        values: Figures = json.loads(self.path(stage).read_text())
        return {name: value for name, value in values.items() if name not in COMMON_KEYS}

    def path(self, stage: str) -> Path:
        """The JSON of a stage."""
        return self.out / f"{stage}.json"


def run_here(stage: str, job: Job) -> None:
    """Run a stage in this process and write its JSON; an error is its result, next to what was measured before."""
    from tests.bench import gpu_stages

    start_time = time.perf_counter()
    try:
        figures = gpu_stages.STAGE_FUNCTIONS[stage](job)
        status = "skipped" if "skipped" in figures else "ok"
    except Exception as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        figures, status = {**job.known(stage), "error": message}, "failed"
    job.record(stage, status, time.perf_counter() - start_time, **figures)


def run_in_child(stage: str, job: Job, limit: float) -> None:
    """Run a stage in a new process, within a time limit in seconds."""
    if limit < START_SECONDS:
        job.record(stage, "skipped", 0.0, skipped="no time left")
        return
    start_time = time.perf_counter()
    command = [sys.executable, "-m", "tests.bench", "gpu", "--here", "--stages", stage, "--device", job.device]
    command += ["--data", job.data, "--out", str(job.out), *(["--tiny"] if job.tiny else [])]
    # A session of its own: at the limit, the stage's own children end too.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        error = f"more than {limit:.0f} s"
        job.record(stage, "timeout", time.perf_counter() - start_time, **{**job.known(stage), "error": error})
        return
    if code:  # the process died before it wrote
        error = f"the process ended with code {code}"
        job.record(stage, "failed", time.perf_counter() - start_time, **{**job.known(stage), "error": error})


def main(arguments: list[str]) -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--tiny", action="store_true", help="a small network and few images")
    parser.add_argument(
        "--data", default=str(ARCHIVE) if ARCHIVE.is_file() else "shapes", help="images of the commands"
    )
    parser.add_argument("--out", type=Path, default=Path("runs") / "gpu", metavar="DIR")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=tuple(STAGES), metavar="NAME")
    parser.add_argument("--here", action="store_true", help="in this process, without time limits")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    job = Job(options.device, options.tiny, options.data, options.out.resolve())
    deadline = time.perf_counter() + TOTAL_SECONDS
    for stage in options.stages:
        job.path(stage).unlink(missing_ok=True)
        if options.here:
            run_here(stage, job)
        else:
            run_in_child(stage, job, min(STAGES[stage], deadline - time.perf_counter()))
