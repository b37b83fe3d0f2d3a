"""Evidence is small, names no machine and has today's keys. Run: pytest tests/test_evidence.py."""

import csv
import json
import math
import re
import statistics
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from scsuite.core.cam import Faithfulness
from scsuite.core.config import EvaluateConfig, GradcamConfig, LrRangeConfig, TrainCommandConfig, ZigzagConfig
from scsuite.core.evaluation.metrics import ClassMetrics, ConfusedPair
from scsuite.core.runs.results import (
    EvaluateResult,
    FinalMetrics,
    GradcamResult,
    LrRangeResult,
    TrainResult,
    ZigzagResult,
    read_epochs,
    read_json,
)
from scsuite.core.schedule import OneCycle
from tests.evidence import REFERENCE, ROOT, keep_runs, main, shorten_paths
from tests.studies.full_size import read_rows
from tests.studies.rule_check import SEEDS, Regret, compute_regret

CLASSES = {
    "zigzag": (ZigzagResult, ZigzagConfig), "lr-range": (LrRangeResult, LrRangeConfig),
    "train": (TrainResult, TrainCommandConfig), "evaluate": (EvaluateResult, EvaluateConfig),
    "gradcam": (GradcamResult, GradcamConfig),
}  # fmt: skip
# Results kept from before lack these; where they have a seed, it stands elsewhere.
LATER_KEYS = {
    "balanced_accuracy", "device", "evaluated", "page", "reached", "reached_at", "seed", "target", "temperature",
    "test_balanced_accuracy",
}  # fmt: skip
KEPT_RESULTS = sorted(REFERENCE.rglob("result.json"))
README = REFERENCE / "README.md"
MAX_MEGABYTES, MAX_README_LINES, MAX_LINE_LENGTH = 8, 300, 140
REFERENCE_PATH = re.compile(r"runs/reference/([\w.*/-]*\w)")
RELATIVE_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def names_of(dataclass: Any) -> list[str]:
    return [item.name for item in fields(dataclass)]


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """A training and its evaluation, which names the training, and data beside the checkout."""
    train, evaluate = tmp_path / "runs" / "1Z-train-x", tmp_path / "runs" / "2Z-evaluate-x"
    for run in (train, evaluate):
        (run / "figures").mkdir(parents=True)
        (run / "figures" / "a.png").write_bytes(b"\x89PNG")
        (run / "log.txt").write_text(f"see {run}/figures/a.png\n")
        (run / ".lock").touch()
    (train / "checkpoints").mkdir()
    for weights in ("model.safetensors", "best.safetensors", "checkpoints/step-1.safetensors"):
        (train / weights).write_bytes(b"weights")
    (train / "checkpoints" / "note.txt").write_text("in /home/me/scratch\n")
    (train / "result.json").write_text(json.dumps({"run_dir": str(train)}))
    result = {
        "checkpoint": str(train),
        "data": f"{ROOT.parent}/shared/x.tar",
        "url": "https://host.org/a/b",
        "of": "1/2/3",
    }
    (evaluate / "result.json").write_text(json.dumps(result))
    (evaluate / "predictions.csv").write_text("a row per image\n")
    return {"x-train": train, "x-evaluate": evaluate}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_kept_run_has_neither_weights_nor_paths_of_the_machine(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "reference"
    (out / "x-train").mkdir(parents=True)
    for name in ("old.csv", "result.json"):
        (out / "x-train" / name).write_text("{}")
    keep_runs(runs, out)
    assert files(out / "x-train") == files(out / "x-evaluate") == {"figures/a.png", "log.txt", "result.json"}
    assert json.loads((out / "x-evaluate" / "result.json").read_text()) == {
        "checkpoint": "runs/reference/x-train", "data": "../shared/x.tar", "url": "https://host.org/a/b", "of": "1/2/3"
    }  # fmt: skip
    assert (out / "x-train" / "log.txt").read_text() == "see runs/reference/x-train/figures/a.png\n"
    assert {path.name for path in out.iterdir()} == set(runs)


def test_a_run_in_the_checkout_may_be_named_by_its_relative_path(runs: dict[str, Path], tmp_path: Path) -> None:
    (runs["x-evaluate"] / "result.json").write_text("{}")
    (runs["x-evaluate"] / "log.txt").write_text("weights of runs/1Z-train-x and of runs/1Z-train-x-2\n")
    keep_runs(runs, tmp_path / "reference", root=tmp_path)
    log = (tmp_path / "reference" / "x-evaluate" / "log.txt").read_text()
    assert log == "weights of runs/reference/x-train and of runs/1Z-train-x-2\n"


def test_the_home_of_the_user_is_a_tilde(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    (runs["x-train"] / "log.txt").write_text("data of /home/user/.cache/x.tar, run /home/user/runs\n")
    keep_runs({"x-train": runs["x-train"]}, tmp_path / "reference")
    log = (tmp_path / "reference" / "x-train" / "log.txt").read_text()
    assert log == "data of ~/.cache/x.tar, run ~/runs\n"


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
def test_an_unknown_path_is_an_error_and_nothing_is_changed(
    runs: dict[str, Path], tmp_path: Path, text: str, path: str
) -> None:
    out = tmp_path / "reference"
    keep_runs({"x-train": runs["x-train"]}, out)
    before = (out / "x-train" / "log.txt").read_text()
    (runs["x-train"] / "log.txt").write_text("another\n")
    (runs["x-evaluate"] / "log.txt").write_text(text)
    with pytest.raises(ValueError) as error:
        keep_runs(runs, out)
    assert str(error.value) == f"log.txt of x-evaluate: {path} names this machine"
    assert {path.name for path in out.iterdir()} == {"x-train"}
    assert (out / "x-train" / "log.txt").read_text() == before


def test_evidence_is_no_source_and_only_runs_are_replaced(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "reference"
    (out / "regret").mkdir(parents=True)
    (out / "regret" / "trainings.csv").write_text("rows\n")
    with pytest.raises(ValueError, match="regret is not a run"):
        keep_runs({"regret": runs["x-train"]}, out)
    keep_runs(runs, out)
    with pytest.raises(ValueError, match="is evidence itself"):
        keep_runs({"x-train": out / "x-train"}, out)
    assert files(out) >= {"regret/trainings.csv", "x-train/result.json"}


def test_an_unknown_type_of_file_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    (runs["x-train"] / "page.html").write_text("<a href=/home/me>")
    with pytest.raises(ValueError, match=r"page\.html: expected one of \.csv, "):
        keep_runs(runs, tmp_path / "reference")


def test_a_name_that_continues_a_known_one_is_another() -> None:
    assert shorten_paths("/r/a-2/x and /r/a", {"/r/a": "A", "/r/a-2": "B"}) == "B/x and A"
    with pytest.raises(ValueError, match="/r/a-2/x names this machine"):
        shorten_paths("/r/a-2/x", {"/r/a": "A"})
    assert shorten_paths("https://h.org/r/x", {"/r/": "../"}) == "https://h.org/r/x"


@pytest.mark.parametrize("arguments", [[], ["x"], ["a b=."], ["x=nowhere"]])
def test_other_arguments_are_answered_with_the_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"usage: python -m tests\.evidence NAME=RUN"):
        main(arguments)


# --- the evidence that is kept ---


@pytest.mark.parametrize("path", KEPT_RESULTS, ids=lambda path: str(path.parent.relative_to(REFERENCE)))
def test_a_kept_result_has_exactly_the_keys_of_its_class(path: Path) -> None:
    result = json.loads(path.read_text())
    result_class, config_class = CLASSES[result["command"]]
    expected = [name for name in names_of(result_class) if name in result or name not in LATER_KEYS]
    assert list(result) == expected if "device" in result else sorted(result) == sorted(expected)
    assert result["status"] == "ok"
    for figure in result["figures"] if (path.parent / "figures").exists() else []:
        assert (ROOT / figure).is_file(), figure
    if result["command"] == "train":
        final = result["final"]
        assert list(final) == [name for name in names_of(FinalMetrics) if name in final or name not in LATER_KEYS]
        assert list(result["best"]) == ["epoch", f"{result['best']['selected_on']}_accuracy", "selected_on"]
    elif result["command"] == "evaluate":
        assert all(list(row) == names_of(ClassMetrics) for row in result["per_class"])
        assert all(list(row) == names_of(ConfusedPair) for row in result["most_confused"])
        assert result["tta"] is None or "accuracy_ci95" in result["tta"]
    elif result["command"] == "gradcam":
        assert all(list(scores) == names_of(Faithfulness) for scores in result["faithfulness"].values())
        assert all("no_evidence" in row for row in result["images"])
    elif result["command"] == "lr-range":
        keys = [*result["suggestions"], *result["conditions"]]
        assert all(key.isidentifier() for key in keys), keys
    if (path.parent / "config.yaml").exists():  # runs of before have no options that came later
        assert set(yaml.safe_load((path.parent / "config.yaml").read_text())) <= set(names_of(config_class))


@pytest.mark.parametrize(
    "run",
    [path.parent for path in KEPT_RESULTS if (path.parent / "metrics.csv").exists()],
    ids=lambda run: str(run.relative_to(REFERENCE)),
)
def test_the_rows_of_a_kept_training_are_those_of_its_schedule(run: Path) -> None:
    cycle = OneCycle(**read_json(run / "environment.json")["one_cycle"])
    epochs = read_epochs(run)
    assert epochs[-1].step == cycle.num_steps
    assert [row.lr for row in epochs] == pytest.approx([cycle.lr_at(row.step - 1) for row in epochs], abs=1e-12)
    expected = [cycle.momentum_at(row.step - 1) for row in epochs]
    assert [row.momentum for row in epochs] == pytest.approx(expected, abs=1e-12)


# --- what names the evidence ---

in_checkout = pytest.mark.skipif(not README.exists(), reason="the source distribution has no evidence")


def mistakes_of(name: str) -> set[str]:
    """Return the files of the test images that a kept evaluation got wrong."""
    with (REFERENCE / name / "misclassified.csv").open(newline="") as file:
        return {row["file"] for row in csv.DictReader(file)}


def text_of(path: Path = ROOT / "README.md") -> str:
    """Return the text of a file on one line."""
    return " ".join(path.read_text().split())


@in_checkout
@pytest.mark.parametrize(
    ("theirs", "sentence"),
    [
        ("cifar10-fast-evaluate-0", "{} test images are right by the defaults alone, {} by"),
        ("assignment-evaluate-0", "{} images are right by the defaults alone, {} by"),
    ],
)
def test_the_published_lead_over_another_recipe_follows_from_the_kept_mistakes(theirs: str, sentence: str) -> None:
    our_mistakes, their_mistakes = mistakes_of("cifar10-evaluate-0"), mistakes_of(theirs)
    only_theirs, only_ours = len(their_mistakes - our_mistakes), len(our_mistakes - their_mistakes)
    num_images = 10_000
    lead = (only_theirs - only_ours) / num_images
    # the standard error of a difference of paired proportions, as in McNemar's test
    error = math.sqrt(only_theirs + only_ours - num_images * lead**2) / num_images
    low, high = lead - 1.96 * error, lead + 1.96 * error
    published = f"{100 * low:.2f} to {100 * high:.2f} points for their lead of {100 * lead:.2f} over either"
    assert published in text_of()
    assert sentence.format(only_theirs, only_ours) in text_of(README)


@in_checkout
def test_the_published_figures_of_three_seeds_follow_from_the_kept_mistakes() -> None:
    mistakes = [mistakes_of(f"cifar10-evaluate-{seed}") for seed in range(3)]
    accuracies = [100 - len(files) / 100 for files in mistakes]  # of 10,000 images, in percent
    published = text_of()
    assert f"**{statistics.fmean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}**" in published
    first, second, third = (f"{len(files)}" for files in mistakes)
    num_common = len(set.intersection(*mistakes))
    assert f"{first}, {second} and {third} errors; {num_common} images are wrong with each" in published


@in_checkout
def test_the_published_regrets_of_the_lr_max_rule_follow_from_the_kept_trainings() -> None:
    rows, published = read_rows(REFERENCE / "rule-check"), text_of(README)

    def published_regret(setting: str, num_seeds: int) -> tuple[Regret, str]:
        regret = compute_regret(setting, [row for row in rows if int(row["seed"]) < num_seeds])
        assert regret is not None
        assert regret.seeds == num_seeds
        low, high = regret.interval
        return regret, f"{100 * regret.regret:.2f} ({100 * low:.2f} to {100 * high:.2f})"

    _, as_planned = published_regret("cifar10", 3)
    cifar10, of_all = published_regret("cifar10", len(SEEDS))
    digits, _ = published_regret("digits", len(SEEDS))
    accuracies = [", ".join(f"{100 * value:.2f}" for value in regret.accuracies) for regret in (cifar10, digits)]
    assert f"{accuracies[0]}; regret {of_all}" in published
    assert f"they gave {as_planned} on CIFAR-10" in published
    assert f"{accuracies[1]}; regret {100 * digits.regret:.2f}, as the LRMAX found is the best" in published


@in_checkout
def test_the_evidence_is_small() -> None:
    num_bytes = sum(path.stat().st_size for path in REFERENCE.rglob("*") if path.is_file())
    assert num_bytes <= MAX_MEGABYTES * 1e6


def files_that_name_evidence() -> list[Path]:
    """Return the Markdown and Python files of the repository, except the two whose paths are examples."""
    folders = [ROOT / name for name in (".github", "scsuite", "tests")]
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".md", ".py"}]
    examples = {ROOT / "tests" / "evidence.py", Path(__file__).resolve()}
    markdown = [*ROOT.glob("*.md"), *ROOT.glob("runs/*.md"), *REFERENCE.rglob("*.md")]
    return sorted({*paths, *markdown, ROOT / "pyproject.toml"} - examples)


@in_checkout
def test_each_path_of_evidence_in_the_documentation_and_the_code_exists() -> None:
    named = {(path, name) for path in files_that_name_evidence() for name in REFERENCE_PATH.findall(path.read_text())}
    assert len(named) > 5
    missing = sorted(f"{path.relative_to(ROOT)}: {name}" for path, name in named if not list(REFERENCE.glob(name)))
    assert not missing


@in_checkout
def test_the_readme_of_the_evidence_names_each_run_and_links_only_to_what_exists() -> None:
    text = README.read_text()
    links = RELATIVE_LINK.findall(text)
    assert links
    assert [link for link in links if not (REFERENCE / link).exists()] == []
    folders = [path.name for path in REFERENCE.iterdir() if path.is_dir()]
    assert [name for name in folders if not re.search(rf"[`(]{name}[`)]", text)] == []


@in_checkout
def test_the_readme_of_the_evidence_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= MAX_README_LINES
    assert max(map(len, lines)) <= MAX_LINE_LENGTH
