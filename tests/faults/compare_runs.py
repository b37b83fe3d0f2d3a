"""Compare a run that was stopped, killed or starved with an uninterrupted one: tolerance 0, except for clocks.

In: two run directories. Out: their differences in words.
"""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from scsuite.core.errors import InputError
from scsuite.core.model.checkpoint import read_checkpoint

CLOCK_COLUMNS = ("images_per_second", "seconds")


def final_sha256(run: Path) -> str:
    """Digest of model.safetensors: weights, batch-norm statistics and metadata; it contains no clocks."""
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, without the clock columns."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in CLOCK_COLUMNS} for row in csv.DictReader(file)]


def find_differences(run: Path, reference: Path) -> list[str]:
    """What differs between a finished run and the reference."""
    if not is_complete(run):
        return ["it has no result of a complete run"]
    try:
        return [*_checkpoint_differences(run, reference), *_row_differences(run, reference), *find_partial_files(run)]
    except InputError as error:
        return [str(error)]


def is_complete(run: Path) -> bool:
    """Whether a run has a result; one that was stopped or failed has a result.json with that status."""
    path = run / "result.json"
    return path.exists() and json.loads(path.read_text())["status"] == "ok"


def find_partial_files(folder: Path) -> list[str]:
    """Temporary files that were left behind."""
    return [f"left over: {path}" for path in folder.rglob("*.part")]


def _checkpoint_differences(run: Path, reference: Path) -> list[str]:
    differences = []
    model, reference_model = (read_checkpoint(path / "model.safetensors") for path in (run, reference))
    metadata, reference_metadata = _comparable(model.metadata), _comparable(reference_model.metadata)
    if not _equal(model.tensors, reference_model.tensors) or metadata != reference_metadata:
        differences.append("model.safetensors differs")
    last, reference_last = (sorted((path / "checkpoints").iterdir())[-1] for path in (run, reference))
    if last.name != reference_last.name:
        differences.append(f"the last checkpoint is {last.name}, not {reference_last.name}")
    elif not _equal(read_checkpoint(last).tensors, read_checkpoint(reference_last).tensors):
        differences.append("the tensors of the last checkpoint differ")
    return differences


def _row_differences(run: Path, reference: Path) -> list[str]:
    names = ("steps.csv", "metrics.csv")
    differences = [f"{name} differs" for name in names if read_rows(run / name) != read_rows(reference / name)]
    result, reference_result = (json.loads((path / "result.json").read_text()) for path in (run, reference))
    keys = ("final", "best")
    return differences + [f"{key} of result.json differs" for key in keys if result[key] != reference_result[key]]


def _equal(tensors: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == reference.keys() and all(torch.equal(tensors[name], reference[name]) for name in tensors)


def _comparable(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata without the number of workers, which changes nothing, and without the digest that covers it."""
    config = {name: value for name, value in metadata["config"].items() if name != "workers"}
    return {name: value for name, value in metadata.items() if name != "sha256"} | {"config": config}
