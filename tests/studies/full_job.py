"""The full job by the command line alone, on several seeds, and each known recipe for comparison.

    python -m tests.studies.full_job --data ARCHIVE --runs-dir FOLDER [--seeds N] [--other-seeds N] [--minutes M]
                                     [-- OPTION ...]

The default recipe: `lr-range`, then for each seed `train --lr-from`, `evaluate --tta flip`, and `gradcam` for seed 0.
The recipes assignment and cifar10-fast: the same without `gradcam`; cifar10-fast has its own LR bounds. Options after
-- go to lr-range and train, for a trial at a small size. A command whose run is complete is not run again, a training
that was stopped is resumed, so the study can be called again until it is done. After `--minutes` no command starts.
Out: run directories in FOLDER, and a table of the accuracies after the last epoch.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scsuite.core.runs.results import read_epochs
from tests.run_cli import run_or_exit

RECIPES = ("default", "assignment", "cifar10-fast")
OWN_BOUNDS = "cifar10-fast"  # its LR bounds are part of the recipe


@dataclass(frozen=True)
class Study:
    """What all commands share: the images, the folder of the runs, more options of lr-range and train."""

    data: str
    runs_dir: Path
    options: tuple[str, ...]
    num_seeds: dict[str, int]  # by recipe


def find_run(study: Study, command: str, name: str) -> Path | None:
    """Return the newest run of a command with this name."""
    return max(study.runs_dir.glob(f"*-{command}-{name}"), default=None)


def read_result(study: Study, command: str, name: str) -> dict[str, Any] | None:
    """Return the result of a complete run, or None."""
    run = find_run(study, command, name)
    if run is None or not (run / "result.json").exists():
        return None
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    return result if result["status"] == "ok" else None


def range_test_words(study: Study, recipe: str) -> list[str]:
    """Return the words of the range test of a recipe."""
    return ["lr-range", "--data", study.data, "--recipe", recipe, *study.options]


def train_words(study: Study, recipe: str, seed: int) -> list[str]:
    """Return the words of a training: those that resume it, if it was stopped."""
    name = f"{recipe}-{seed}"
    stopped = find_run(study, "train", name)
    if stopped is not None:
        return ["train", "--resume", str(stopped)]
    words = ["train", "--data", study.data, "--recipe", recipe, "--seed", str(seed), *study.options]
    return words if recipe == OWN_BOUNDS else [*words, "--lr-from", str(find_run(study, "lr-range", recipe))]


def commands(study: Study) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the command, the name of its run and its words, each when the runs before it are complete."""
    for recipe, num_seeds in study.num_seeds.items():
        if recipe != OWN_BOUNDS and num_seeds:
            yield "lr-range", recipe, range_test_words(study, recipe)
        for seed in range(num_seeds):
            name = f"{recipe}-{seed}"
            yield "train", name, train_words(study, recipe, seed)
            checkpoint = ["--ckpt", str(find_run(study, "train", name))]
            yield "evaluate", name, ["evaluate", *checkpoint, "--tta", "flip"]
            if recipe == RECIPES[0] and seed == 0:
                yield "gradcam", name, ["gradcam", *checkpoint]


def run_study(study: Study, deadline: float) -> bool:
    """Run the commands that have no complete run; return whether all are complete."""
    for command, name, words in commands(study):
        if read_result(study, command, name) is not None:
            continue
        if time.monotonic() > deadline:
            return False
        resumes = "--resume" in words
        run_or_exit([*words, *([] if resumes else ["--runs-dir", str(study.runs_dir), "--name", name])])
    return True


def training_minutes(study: Study, name: str) -> float:
    """Return the time of all epochs: `seconds` in result.json is the time since the last resume."""
    run = find_run(study, "train", name)
    return 0.0 if run is None else sum(epoch.seconds for epoch in read_epochs(run)) / 60


def accuracy_table(study: Study) -> Table:
    """Return a table with a row per recipe: mean and standard deviation over its complete seeds, in percent."""
    table = Table("recipe", "seeds", "test accuracy", "with flip averaging", "without EMA", "minutes", "each seed")
    for recipe, num_seeds in study.num_seeds.items():
        trained = [read_result(study, "train", f"{recipe}-{seed}") for seed in range(num_seeds)]
        evaluated = [read_result(study, "evaluate", f"{recipe}-{seed}") for seed in range(num_seeds)]
        results = [result for result in trained if result is not None]
        finals = [result["final"] for result in results]
        without_ema = [final["test_accuracy_no_ema"] or final["test_accuracy"] for final in finals]
        averaged = [result["tta"]["accuracy"] for result in evaluated if result is not None]
        accuracies = [final["test_accuracy"] for final in finals]
        minutes = [
            f"{training_minutes(study, f'{recipe}-{seed}'):.1f}" for seed, result in enumerate(trained) if result
        ]
        table.add_row(
            recipe, str(len(results)), format_mean(accuracies), format_mean(averaged), format_mean(without_ema),
            ", ".join(minutes), ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies),
        )  # fmt: skip
    return table


def format_mean(accuracies: Sequence[float]) -> str:
    """Return mean ± standard deviation in percent; of one value the value, of none a dash."""
    if not accuracies:
        return "-"
    mean = f"{100 * statistics.fmean(accuracies):.2f}"
    return mean if len(accuracies) == 1 else f"{mean} ± {100 * statistics.stdev(accuracies):.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.full_job", description=__doc__)
    parser.add_argument("--data", required=True, help="archive of CIFAR-10, or any other data")
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of the default recipe")
    parser.add_argument("--other-seeds", type=int, default=1, help="of the other recipes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no command after this time")
    parser.add_argument("options", nargs="*", metavar="OPTION", help="after --: more options of lr-range and train")
    parsed = parser.parse_args(arguments)
    num_seeds = dict.fromkeys(RECIPES, parsed.other_seeds) | {RECIPES[0]: parsed.seeds}
    study = Study(parsed.data, parsed.runs_dir, tuple(parsed.options), num_seeds)
    is_complete = run_study(study, time.monotonic() + 60 * parsed.minutes)
    Console(width=150).print(accuracy_table(study))
    if not is_complete:
        print("not complete: call it again")


if __name__ == "__main__":
    main()
