"""What environment.json records: versions, machine, device, data and command line of a run.

In: nothing, a `Device` or a `Dataset`. Out: plain values. Importing this module loads no torch.
"""

import contextlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsuite import __version__
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.files import cpu_name

if TYPE_CHECKING:  # these modules import torch, which zigzag does not need
    from scsuite.core.dataset import Dataset
    from scsuite.core.device import Device

PACKAGES = ("torch", "torchvision", "albumentations", "numpy", "pillow", "safetensors", "typer", "rich", "matplotlib")


def collect_environment() -> dict[str, Any]:
    """Return versions, machine, git commit and command line."""
    versions = {"scsuite": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "versions": versions,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "git_commit": _git_commit(),
        "command_line": sys.argv,
        "process": process_name(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def process_name() -> str:
    """Return a text that identifies this process on its machine."""
    return f"process {os.getpid()} on {platform.node()}"


def _git_commit() -> str | None:
    """Return the commit of the checkout that this code runs from, or None outside a checkout."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        output = subprocess.run(  # noqa: S603 - a fixed command
            ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
        return output.stdout.strip()
    return None


def device_info(device: "Device", world: World = SINGLE_PROCESS) -> dict[str, Any]:
    """Return device, precision, threads and number of ranks."""
    import torch

    return {
        "device": str(device.device),
        "device_name": torch.cuda.get_device_name(device.device) if device.is_cuda else None,
        "cuda": torch.version.cuda if device.is_cuda else None,
        "precision": device.precision,
        "threads": torch.get_num_threads(),
        "world_size": world.size,
    }


def dataset_info(data: "Dataset") -> dict[str, Any]:
    """Return what identifies the images."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "class_names": list(data.class_names),
    }
