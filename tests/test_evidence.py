"""Evidence is small, names no machine, and never takes the place of what is not a run."""

import json
from pathlib import Path

import pytest

from tests.evidence import ROOT, keep, main, shortened


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """A training and its evaluation, which names it and the data beside the checkout."""
    train, evaluate = tmp_path / "runs" / "1Z-train-x", tmp_path / "runs" / "2Z-evaluate-x"
    for run in (train, evaluate):
        (run / "figures").mkdir(parents=True)
        (run / "figures" / "a.png").write_bytes(b"\x89PNG")
        (run / "log.txt").write_text(f"see {run}/figures/a.png\n")
        (run / ".lock").touch()
    (train / "checkpoints").mkdir()
    for weights in ("model.safetensors", "best.safetensors", "checkpoints/state-1.safetensors"):
        (train / weights).write_bytes(b"weights")
    (train / "checkpoints" / "note.txt").write_text("in /home/me/scratch\n")
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
    for name in ("old.csv", "result.json"):
        (out / "x-train" / name).write_text("{}")
    keep(runs, out)
    assert files(out / "x-train") == files(out / "x-evaluate") == {"figures/a.png", "log.txt", "result.json"}
    assert json.loads((out / "x-evaluate" / "result.json").read_text()) == {
        "checkpoint": "runs/reference/x-train", "data": "../shared/x.tar", "url": "https://host.org/a/b", "of": "1/2/3"
    }  # fmt: skip
    assert (out / "x-train" / "log.txt").read_text() == "see runs/reference/x-train/figures/a.png\n"
    assert {path.name for path in out.iterdir()} == set(runs)


def test_a_run_in_the_checkout_may_be_named_as_the_checkout_sees_it(runs: dict[str, Path], tmp_path: Path) -> None:
    (runs["x-evaluate"] / "result.json").write_text("{}")
    (runs["x-evaluate"] / "log.txt").write_text("weights of runs/1Z-train-x and of runs/1Z-train-x-2\n")
    keep(runs, tmp_path / "reference", root=tmp_path)
    said = (tmp_path / "reference" / "x-evaluate" / "log.txt").read_text()
    assert said == "weights of runs/reference/x-train and of runs/1Z-train-x-2\n"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("cache /home/me/.cache", "/home/me/.cache"),
        ("file:///home/me/x", "/home/me/x"),
        ("PATH=a:/opt/b/c", "/opt/b/c"),
        (json.dumps("two\n/mnt/@d/x"), "/mnt/@d/x"),
        ("in /root", "/root"),
    ],
)
def test_a_path_that_is_not_known_keeps_all_from_being_changed(
    runs: dict[str, Path], tmp_path: Path, text: str, path: str
) -> None:
    out = tmp_path / "reference"
    keep({"x-train": runs["x-train"]}, out)
    before = (out / "x-train" / "log.txt").read_text()
    (runs["x-train"] / "log.txt").write_text("another\n")
    (runs["x-evaluate"] / "log.txt").write_text(text)
    with pytest.raises(ValueError) as caught:
        keep(runs, out)
    assert str(caught.value) == f"log.txt of x-evaluate: {path} names this machine"
    assert {path.name for path in out.iterdir()} == {"x-train"}
    assert (out / "x-train" / "log.txt").read_text() == before


def test_evidence_is_not_made_of_evidence_nor_in_place_of_what_is_no_run(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "reference"
    (out / "regret").mkdir(parents=True)
    (out / "regret" / "trainings.csv").write_text("rows\n")
    with pytest.raises(ValueError, match="regret holds something else than a run"):
        keep({"regret": runs["x-train"]}, out)
    keep(runs, out)
    with pytest.raises(ValueError, match="is evidence itself"):
        keep({"x-train": out / "x-train"}, out)
    assert files(out) >= {"regret/trainings.csv", "x-train/result.json"}


def test_a_kind_of_file_that_is_not_known_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    (runs["x-train"] / "page.html").write_text("<a href=/home/me>")
    with pytest.raises(ValueError, match=r"page\.html: expected one of \.csv, "):
        keep(runs, tmp_path / "reference")


def test_a_run_whose_name_begins_with_anothers_is_not_taken_for_it() -> None:
    assert shortened("/r/a-2/x and /r/a", {"/r/a": "A", "/r/a-2": "B"}) == "B/x and A"
    with pytest.raises(ValueError, match="/r/a-2/x names this machine"):
        shortened("/r/a-2/x", {"/r/a": "A"})
    assert shortened("https://h.org/r/x", {"/r/": "../"}) == "https://h.org/r/x"


@pytest.mark.parametrize("arguments", [[], ["x"], ["a b=."], ["x=nowhere"]])
def test_other_arguments_are_answered_with_the_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"usage: python -m tests\.evidence NAME=RUN"):
        main(arguments)
