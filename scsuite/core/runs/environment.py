"""What environment.json records: versions, machine, device, data and command line of a run.

In: nothing, a `Device` or a `Dataset`. Out: plain values. Importing this module loads no torch.
"""

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
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

# What a resume compares with the process before, by kind: the numbers of a run may depend on each of them.
_COMPARED: Mapping[str, tuple[str, ...]] = {
    "version": ("versions", "git_commit"), "machine": ("platform", "cpu", "cores"), "number of threads": ("threads",),
    "device": ("device", "device_name", "cuda"),
}  # fmt: skip


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


def last_process(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what environment.json says about the process that worked on a run last: its start or its last resume."""
    resumes = environment.get("resumes")
    return resumes[-1] if isinstance(resumes, list) and resumes and isinstance(resumes[-1], dict) else environment


def environment_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a warning for each kind of entry that differs between two processes of a run, and what it was and is."""
    warnings = []
    for kind, names in _COMPARED.items():
        old, new = (_flatten({name: values[name] for name in names if name in values}) for values in (before, now))
        known = {**old, **new} if kind == "version" and old else old  # of an entry that is missing nothing is known
        changes = [
            f"{name} was {old.get(name)} and is {new.get(name)}" for name in known if old.get(name) != new.get(name)
        ]
        if changes:
            warnings.append(f"resumed with another {kind}, so its numbers may differ: {', '.join(changes)}")
    return warnings


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    versions = values.get("versions")
    return {**(versions if isinstance(versions, dict) else {}), **{k: v for k, v in values.items() if k != "versions"}}


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
