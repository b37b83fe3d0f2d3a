"""`train --seeds` and `--target`: one summary of several trainings, stopped and continued as one; exit code 7."""

import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scsuite.core.errors import DivergedError
from scsuite.core.runs.find_runs import seed_runs
from scsuite.core.runs.rundir import RunDir
from scsuite.core.training import loop
from tests.faults.compare_runs import find_differences
from tests.run_cli import CliResult, child_environment, run_cli

# 48 images: 3 steps an epoch, 6 steps. The range test of each seed comes first.
ARGS = (
    "train", "--data", "shapes", "--limit-train", "48", "--limit-test", "50", "--width", "0.05", "--workers", "0",
    "--device", "cpu", "--bs", "16", "--epochs", "2",
)  # fmt: skip
FIXED_LR = ("--lr-max", "0.1")
CLOCKS = ("seconds", "images_per_second", "reached_at")


def without_clocks_and_paths(result: dict[str, Any], group: Path) -> dict[str, Any]:
    """The values that two equal groups share."""
    text = json.dumps({name: value for name, value in result.items() if name not in CLOCKS})
    for path in (*seed_runs(group).values(), group):
        text = text.replace(str(path), path.name.split("-train-")[1])
    values: dict[str, Any] = json.loads(text)
    values["seeds"] = [{name: value for name, value in row.items() if name != "seconds"} for row in values["seeds"]]
    return values


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    """Leave the figures empty: drawing them takes longer than these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scsuite.report.figures.lr_range", lambda _test: None)
        patch.setattr("scsuite.report.figures.save_figure", lambda _figure, path, *_: path.touch())
        yield


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> CliResult:
    """Three trainings with seeds 5, 6 and 7, which reach a target of 2 %."""
    options = ("--seed", 5, "--seeds", 3, "--target", 2, "--runs-dir", tmp_path_factory.mktemp("group"), "--json")
    return run_cli(*ARGS, *FIXED_LR, *options)


def test_the_summary_has_each_seed_their_mean_standard_deviation_and_minimum(group: CliResult) -> None:
    result, runs = group.result, seed_runs(group.run_dir)
    accuracies = [row["test_accuracy"] for row in result["seeds"]]
    assert [row["seed"] for row in result["seeds"]] == list(runs) == [5, 6, 7]
    assert [row["run_dir"] for row in result["seeds"]] == [str(path) for path in runs.values()]
    assert result["mean"] == pytest.approx(sum(accuracies) / 3)
    assert result["std"] == pytest.approx(statistics.stdev(accuracies))
    assert result["min"] == min(accuracies)
    assert (result["seed"], result["target"], result["reached"]) == (5, 0.02, True)
    for path, accuracy in zip(runs.values(), accuracies, strict=True):
        member = json.loads((path / "result.json").read_text())
        assert (member["final"]["test_accuracy"], member["target"]) == (accuracy, None)
        assert path.name.endswith(f"-seed{member['seed']}")
    assert "seed 2 of 3: --seed 6" in group.err
    assert json.loads((group.run_dir / "result.json").read_text()) == result


def test_the_run_of_a_seed_is_that_of_the_plain_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scsuite.core.lr_range.range_test.MIN_RANGE_TEST_STEPS", 10)  # a tenth of the time
    runs = tmp_path / "runs"
    summary = run_cli(*ARGS, "--seeds", 2, "--runs-dir", runs, "--json")  # each seed has its own range test
    plain = run_cli(*ARGS, "--seed", 1, "--runs-dir", runs, "--json")
    member = seed_runs(summary.run_dir)[1]
    assert find_differences(member, plain.run_dir) == []
    for name in ("model.safetensors", "config.yaml", "history.csv"):
        assert (member / name).read_bytes() == (plain.run_dir / name).read_bytes()


def test_a_group_is_a_checkpoint_its_first_seed(group: CliResult, tmp_path: Path) -> None:
    evaluation = run_cli("evaluate", "--ckpt", group.run_dir, "--runs-dir", tmp_path, "--json").result
    assert evaluation["accuracy"] == group.result["seeds"][0]["test_accuracy"]
    assert evaluation["checkpoint"] == group.result["checkpoint"]
    assert (evaluation["seed"], evaluation["device"]) == (5, "cpu")


def test_the_schedule_of_a_group_is_that_of_its_first_seed(group: CliResult, tmp_path: Path) -> None:
    first = seed_runs(group.run_dir)[5]
    of_group, of_seed = (
        run_cli("zigzag", "--run", path, "--runs-dir", tmp_path, "--json").result for path in (group.run_dir, first)
    )
    assert of_group["num_steps"] == of_seed["num_steps"] == 6
    assert (of_group["lr_min"], of_group["lr_max"]) == (of_seed["lr_min"], of_seed["lr_max"])


def test_a_group_stopped_in_its_second_seed_continues_as_one(
    group: CliResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = RunDir.append_step

    def append_and_stop(self: RunDir, result: Any) -> None:
        append(self, result)
        if self.path.name.endswith("-seed6") and result.step == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append_step", append_and_stop)
        stopped = run_cli(
            *ARGS, *FIXED_LR, "--seed", 5, "--seeds", 3, "--target", 2, "--runs-dir", tmp_path, "--json"
        )  # fmt: skip
    (run,) = tmp_path.iterdir()
    answer = json.loads(stopped.out)
    assert (stopped.code, answer["status"], answer["signal"], answer["run_dir"]) == (
        143,
        "stopped",
        "SIGTERM",
        str(run),
    )
    assert [row["seed"] for row in answer["seeds"]] == [5]
    assert (answer["epochs_done"], answer["steps_done"]) == (1, 4)
    assert f"scsuite train --resume {run}" in stopped.err  # the group, not the one training
    assert Path(answer["checkpoint"]).parents[1] == seed_runs(run)[6]

    assert_resumes_to(group, run)


def test_a_group_killed_in_its_second_seed_continues_as_one(group: CliResult, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from scsuite.cli.app import main\n"
        "from scsuite.core.runs.rundir import RunDir\n"
        "append = RunDir.append_step\n"
        "def append_and_die(self, result):\n"
        "    append(self, result)\n"
        "    if self.path.name.endswith('-seed6') and result.step == 4:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "RunDir.append_step = append_and_die\n"
        "from scsuite.cli import train_display\n"
        "train_display.draw_figures = lambda _run, _trainer, session, _accuracy: session.mark('result') or []\n"
        "main(sys.argv[1:])\n"
    )
    words = [*ARGS, *FIXED_LR, "--seed", "5", "--seeds", "3", "--target", "2", "--runs-dir", str(tmp_path), "--quiet"]
    killed = subprocess.run([sys.executable, "-c", code, *words], env=child_environment(), check=False, timeout=120)
    (run,) = tmp_path.iterdir()
    assert killed.returncode == -signal.SIGKILL
    assert list(seed_runs(run)) == [5, 6]
    assert not (run / "result.json").exists()
    assert_resumes_to(group, run)


def assert_resumes_to(group: CliResult, run: Path) -> None:
    """Refuse another number of seeds, then continue to the summary of the uninterrupted command."""
    refused = run_cli("train", "--resume", run, "--seeds", 4)
    assert refused.code == 2
    assert f"--seeds: expected 3, as in {run}, found 4" in refused.err
    resumed = run_cli("train", "--resume", run, "--json")
    assert resumed.run_dir == run
    assert without_clocks_and_paths(resumed.result, run) == without_clocks_and_paths(group.result, group.run_dir)
    assert list(seed_runs(run)) == [5, 6, 7]
    for seed, path in seed_runs(run).items():
        assert find_differences(path, seed_runs(group.run_dir)[seed]) == []
    again = run_cli("train", "--resume", run, "--json")
    assert "already complete" in again.err
    assert again.result == resumed.result


def test_a_diverged_seed_is_named_and_the_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect = loop._collect_steps

    def diverge(trainer: Any, *arguments: Any) -> Any:
        if trainer.config.seed == 1:
            raise DivergedError("training diverged", "step 0", expected="a finite loss", found="NaN", hint="Stop.")
        return collect(trainer, *arguments)

    monkeypatch.setattr(loop, "_collect_steps", diverge)
    answer = run_cli(*ARGS, *FIXED_LR, "--epochs", 1, "--seeds", 3, "--runs-dir", tmp_path, "--json")
    (run,) = tmp_path.iterdir()
    result = json.loads(answer.out)
    assert (answer.code, result["status"], result["exit_code"]) == (5, "failed", 5)
    assert "found 1 that diverged: seed 1" in answer.err
    assert [row["test_accuracy"] is None for row in result["seeds"]] == [False, True, False]
    assert json.loads((run / "result.json").read_text()) == result
    member = json.loads((seed_runs(run)[1] / "result.json").read_text())
    assert (member["status"], member["error"]["what"]) == ("failed", "training diverged")
    monkeypatch.undo()
    again = run_cli("train", "--resume", run, "--json")  # nothing is trained again
    assert json.loads(again.out)["seeds"] == result["seeds"]
    assert again.code == 5


# --- --target ---


def test_a_missed_target_ends_with_code_7_and_its_results_are_written(tmp_path: Path) -> None:
    missed = run_cli(*ARGS, *FIXED_LR, "--target", 100, "--runs-dir", tmp_path, "--json")
    (run,) = tmp_path.iterdir()
    result = json.loads(missed.out)
    assert missed.code == 7
    assert (result["status"], result["target"], result["reached"], result["reached_at"]) == ("ok", 1.0, False, None)
    assert json.loads((run / "result.json").read_text()) == result
    assert (run / "model.safetensors").exists()
    assert "100.00 % missed" in missed.err
    assert "no epoch reached it" in missed.err
    again = run_cli("train", "--resume", run, "--json")
    assert (again.code, json.loads(again.out)) == (7, result)
    refused = run_cli("train", "--resume", run, "--target", 90)
    assert (refused.code, "--target: expected 100.0" in refused.err) == (2, True)


def test_a_reached_target_names_its_first_epoch_and_time(group: CliResult) -> None:
    at = group.result["reached_at"]
    assert at["epoch"] == 1
    assert at["seconds"] > 0
    assert f"reached: {100 * group.result['mean']:.2f} % after the last epoch" in group.err
    assert "first reached after epoch 1," in group.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", 0.938), "found 0.938. The target is in percent: write 93.8 for 93.8 %."),
        (("--target", 1), "write 100 for 100 %"),
        (("--target", "nan"), "--target: expected a finite number >= 0 and <= 100, found nan"),
        (("--target", 100.1), "--target: expected a finite number >= 0 and <= 100"),
        (("--target", -1), "--target: expected"),
        (("--seeds", 0), "--seeds: expected a whole number >= 1"),
        (("--seeds", 1.5), "--seeds: expected a whole number"),
        (("--seeds", 2, "--seed", 2**63 - 1), "--seed and --seeds: expected a last seed below 2**63"),
    ],
)
def test_seeds_and_targets_that_cannot_be_meant_are_refused(
    options: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    answer = run_cli(*ARGS, *options, "--runs-dir", tmp_path / "runs")
    assert answer.code == 2
    assert message in answer.err
    assert not (tmp_path / "runs").exists()


def test_several_seeds_need_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("scsuite.core.distributed._claim_first_failure", lambda: True)
    answer = run_cli(*ARGS, "--seeds", 2, "--runs-dir", tmp_path / "runs")
    assert answer.code == 2
    assert "scsuite train --seeds: expected one process, found 2" in answer.err


def test_a_group_has_a_page_that_report_gives_again(group: CliResult, tmp_path: Path) -> None:
    result = group.result
    page = Path(result["page"])
    text = page.read_text()
    assert page == group.run_dir / "report.html"
    assert text.index(f"{100 * result['mean']:.2f}") < text.index("Target 2.00\xa0%") < text.index("reached</span>")
    assert all(row["run_dir"].rpartition("/")[2] in text for row in result["seeds"])
    command = text.partition("This command repeats all of them")[2]
    assert all(f'<span class="word">{word}</span>' in command for word in ("--seeds", "3", "--target", "2.0"))
    answer = run_cli("report", group.run_dir, "--runs-dir", tmp_path, "--json").result
    assert Path(answer["page"]).read_bytes() == page.read_bytes()
