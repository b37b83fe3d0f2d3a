"""A stop in the middle, by signal, and the way on: the same numbers as without it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scsuite.cli.lr_range import run_range_test
from scsuite.cli.train import StopRequest
from scsuite.core.model.checkpoint import read_checkpoint
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.runs.rundir import RunDir
from tests.cli.program import DATA, Answer, child_environment, scsuite

# 100 images in batches of 16: 7 steps an epoch, 28 in all; long enough to be stopped in, short enough to repeat.
LONG = (
    "train", *DATA, "--limit-train", "100", "--width", "0.05", "--bs", "16", "--workers", "0", "--device", "cpu",
    "--epochs", "4", "--lr-max", "0.1", "--dropout", "0.1",
)  # fmt: skip
BY_IMAGE = ("--augment-engine", "albumentations")  # in worker processes, if there are any
CLOCKS = ("images_per_second", "seconds")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """The run that nobody stopped."""
    return scsuite(*LONG, "--runs-dir", tmp_path_factory.mktemp("whole"), "--json")


@pytest.fixture(scope="module")
def whole_by_image(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """The same, augmented image by image."""
    return scsuite(*LONG, *BY_IMAGE, "--runs-dir", tmp_path_factory.mktemp("whole"), "--json")


def numbers(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


def assert_same_run(run: Path, other: Path) -> None:
    """Weights, state and every row, tolerance 0; the clocks aside."""
    for name in ("model.safetensors", "checkpoints/step-000028.safetensors"):
        mine, theirs = read_checkpoint(run / name), read_checkpoint(other / name)
        assert mine.tensors.keys() == theirs.tensors.keys()
        assert all(bool((mine.tensors[key] == theirs.tensors[key]).all()) for key in mine.tensors)
    with RunDir.open(run) as one, RunDir.open(other) as two:
        assert numbers(one.steps()) == numbers(two.steps())
        assert numbers(one.epochs()) == numbers(two.epochs())


@pytest.fixture
def signal_at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """(step, signal) pairs: the signal comes while the row of that step is written."""
    wanted: list[tuple[int, int]] = []
    append = RunDir.append_step

    def append_and_raise(self: RunDir, result: object) -> None:
        append(self, result)  # type: ignore[arg-type]
        for step, signum in wanted:
            if step == result.step:  # type: ignore[attr-defined]
                signal.raise_signal(signum)

    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, here and by the program
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append_step", append_and_raise)
        yield wanted
    signal.signal(signal.SIGHUP, hangup)


@pytest.mark.parametrize(
    ("step", "name", "code"),
    [
        (0, "SIGINT", 130),  # after the first step
        (9, "SIGTERM", 143),  # inside the second epoch
        (13, "SIGHUP", 129),  # after the last step of an epoch, before its evaluation
        (27, "SIGTERM", 143),  # after the very last step
    ],
)
def test_a_stopped_run_says_how_to_go_on_and_then_ends_like_one_that_was_not_stopped(
    step: int, name: str, code: int, whole: Answer, tmp_path: Path, signal_at_step: list[tuple[int, int]]
) -> None:
    signal_at_step.append((step, getattr(signal, name)))
    stopped = scsuite(*LONG, "--runs-dir", tmp_path)
    run = next(tmp_path.iterdir())
    assert stopped.code == code
    assert f"scsuite train --resume {run}" in stopped.out
    assert not (run / "result.json").exists()
    signal_at_step.clear()

    resumed = scsuite("train", "--resume", run, "--json")
    assert resumed.run_dir == run
    assert list(tmp_path.iterdir()) == [run]  # in the same directory, and in no other
    assert resumed.result["final"] == whole.result["final"]
    assert resumed.result["best"] == whole.result["best"]
    assert_same_run(run, whole.run_dir)


def test_a_second_interrupt_ends_the_run_at_once(tmp_path: Path, signal_at_step: list[tuple[int, int]]) -> None:
    signal_at_step += [(3, signal.SIGINT), (3, signal.SIGINT)]
    stopped = scsuite(*LONG, "--runs-dir", tmp_path)
    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    assert "resume with" not in stopped.out  # it did not take the time to save


def test_a_run_whose_signal_came_in_the_range_test_leaves_with_the_signals_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **named: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return run_range_test(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("scsuite.cli.train.run_range_test", interrupted)
    at = LONG.index("--lr-max")
    stopped = scsuite(*LONG[:at], *LONG[at + 2 :], "--runs-dir", tmp_path)
    assert stopped.code == 143
    assert "Traceback" not in stopped.err


@pytest.mark.parametrize(("name", "code", "workers"), [("SIGINT", 130, 1), ("SIGTERM", 143, 1)])
def test_a_signal_to_the_whole_process_group_stops_the_program_in_order(
    name: str, code: int, workers: int, whole_by_image: Answer, tmp_path: Path
) -> None:
    # As a terminal's Ctrl-C or a container's stop does it: worker processes get the signal too.
    command = [sys.executable, "-m", "scsuite", *LONG, *BY_IMAGE, "--workers", str(workers)]
    command += ["--runs-dir", str(tmp_path)]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment(),
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(len(path.read_text().splitlines()) > 4 for path in tmp_path.glob("*/steps.csv")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(child.pid, getattr(signal, name))
    out, err = child.communicate(timeout=60)
    run = next(tmp_path.iterdir())
    assert (child.returncode, err) == (code, "")
    assert f"scsuite train --resume {run}" in out
    assert not (run / "result.json").exists()

    assert scsuite("train", "--resume", run, "--workers", 0, "--json").run_dir == run
    assert_same_run(run, whole_by_image.run_dir)


def test_a_signal_that_comes_while_the_ranks_ask_each_other_counts_at_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signals = iter([signal.SIGTERM])

    def most(_world: World, value: int) -> int:  # of one process: its own, as it was when it asked
        for signum in signals:
            os.kill(os.getpid(), signum)
        return value

    monkeypatch.setattr(World, "most", most)
    with StopRequest(SINGLE_PROCESS) as stop:
        assert not stop.asked()
        assert stop.asked()
        assert stop.signum == signal.SIGTERM
