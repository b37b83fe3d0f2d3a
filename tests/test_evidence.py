"""Evidence is small, names no machine, and is not half written."""

import json
from pathlib import Path

import pytest

from tests.evidence import ROOT, keep, shortened


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """A training and its evaluation, which names it and the data beside the checkout."""
    train, evaluate = tmp_path / "runs" / "1Z-train-x", tmp_path / "runs" / "2Z-evaluate-x"
    for run in (train, evaluate):
        (run / "figures").mkdir(parents=True)
        (run / "figures" / "a.png").write_bytes(b"\x89PNG")
        (run / "log.txt").write_text(f"see {run}/figures/a.png\n")
    (train / "checkpoints").mkdir()
    for weights in ("model.safetensors", "checkpoints/state-1.safetensors"):
        (train / weights).write_bytes(b"weights")
    (train / "result.json").write_text(json.dumps({"run_dir": str(train)}))
    said = {
        "checkpoint": str(train),
        "data": f"{ROOT.parent}/shared/x.tar",
        "url": "https://host.org/a/b",
        "of": "1/2/3",
    }
    (evaluate / "result.json").write_text(json.dumps(said))
    (evaluate / "predictions.csv").write_text("a row an image\n")
    return {"x-train": train, "x-evaluate": evaluate}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_kept_run_has_neither_weights_nor_the_machines_paths(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "reference"
    (out / "x-train").mkdir(parents=True)
    (out / "x-train" / "old.csv").write_text("of the run that was here\n")
    keep(runs, out)
    assert files(out / "x-train") == files(out / "x-evaluate") == {"figures/a.png", "log.txt", "result.json"}
    assert json.loads((out / "x-evaluate" / "result.json").read_text()) == {
        "checkpoint": "runs/reference/x-train", "data": "../shared/x.tar", "url": "https://host.org/a/b", "of": "1/2/3"
    }  # fmt: skip
    assert (out / "x-train" / "log.txt").read_text() == "see runs/reference/x-train/figures/a.png\n"


def test_a_path_that_is_not_known_keeps_all_from_being_written(runs: dict[str, Path], tmp_path: Path) -> None:
    (runs["x-train"] / "log.txt").write_text("cache /home/me/.cache/scsuite\n")
    with pytest.raises(ValueError, match=r"log\.txt: /home/me/\.cache/scsuite names this machine"):
        keep(runs, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_a_run_whose_name_begins_with_anothers_is_not_taken_for_it() -> None:
    assert shortened("/r/a-2/x and /r/a", {"/r/a": "A", "/r/a-2": "B"}) == "B/x and A"
