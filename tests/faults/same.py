"""Whether a run that was stopped, killed or starved ended as the one that was not: tolerance 0, clocks aside."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from scsuite.core.model.checkpoint import read_checkpoint
from scsuite.core.errors import InputError

CLOCKS = ("images_per_second", "seconds")


def final_sha256(run: Path) -> str:
    """Of model.safetensors: weights, batch-norm statistics and facts, no clocks."""
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, clocks left out."""
    with path.open(newline="") as file:
        return [{name: v for name, v in row.items() if name not in CLOCKS} for row in csv.DictReader(file)]


def differences(run: Path, reference: Path) -> list[str]:
    """In what a finished run differs from the reference."""
    if not (run / "result.json").exists():
        return ["it has no result.json"]
    try:
        return _differences(run, reference)
    except InputError as error:
        return [str(error)]


def _differences(run: Path, reference: Path) -> list[str]:
    found = []
    mine_model, their_model = (read_checkpoint(path / "model.safetensors") for path in (run, reference))
    if not _equal(mine_model.tensors, their_model.tensors) or _facts(mine_model.facts) != _facts(their_model.facts):
        found.append("model.safetensors differs")
    states = [sorted((path / "checkpoints").iterdir()) for path in (run, reference)]
    if states[0][-1].name != states[1][-1].name:
        found.append(f"the last checkpoint is {states[0][-1].name}")
    else:
        mine, theirs = (read_checkpoint(paths[-1]).tensors for paths in states)
        if not _equal(mine, theirs):
            found.append("the last checkpoint's tensors differ")
    found += [
        f"{name} differs" for name in ("steps.csv", "metrics.csv") if rows_of(run / name) != rows_of(reference / name)
    ]
    mine_result, their_result = (_result(path) for path in (run, reference))
    found += [f"{key} of result.json differs" for key in ("final", "best") if mine_result[key] != their_result[key]]
    left = [path.name for path in run.rglob("*") if path.name.endswith(".part")]
    return found + ([f"left over: {', '.join(left)}"] if left else [])


def _equal(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Without the number of workers, which changes nothing, and the digest that it is a part of."""
    config = {name: value for name, value in facts["config"].items() if name != "workers"}
    return {name: value for name, value in facts.items() if name != "sha256"} | {"config": config}


def _result(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "result.json").read_text())
    return values
