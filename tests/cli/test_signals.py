"""A stop in the middle by a signal, and the resume: the same numbers as without the stop."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scsuite.cli.signals import StopSignal
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.runs.rundir import RunDir
from tests.faults.compare_runs import find_differences
from tests.run_cli import CliResult, child_environment, run_cli
from tests.tiny_args import RESUME_ALBUMENTATIONS_ARGS, RESUME_ARGS, RESUME_AUTO_LR_ARGS, RESUME_WORKER_ARGS


@pytest.fixture(scope="module")
def uninterrupted_run(tmp_path_factory: pytest.TempPathFactory) -> CliResult:
    """The run without a stop."""
    return run_cli(*RESUME_ARGS, "--runs-dir", tmp_path_factory.mktemp("uninterrupted"), "--json")


@pytest.fixture
def signal_at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """(step, signal) pairs: the signal arrives while the row of that step is written."""
    signals: list[tuple[int, int]] = []
    append = RunDir.append_step

    def append_and_raise(self: RunDir, result: object) -> None:
        append(self, result)  # type: ignore[arg-type]
        for step, signum in signals:
            if step == result.step:  # type: ignore[attr-defined]
                signal.raise_signal(signum)

    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup would ignore it, in the program too
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append_step", append_and_raise)
        yield signals
    signal.signal(signal.SIGHUP, hangup)


@pytest.mark.parametrize(
    ("step", "name", "code"),
    [
        (0, "SIGINT", 130),  # after the first step
        (9, "SIGTERM", 143),  # inside the second epoch
        (13, "SIGHUP", 129),  # after the last step of an epoch, before its evaluation
        (20, "SIGTERM", 143),  # after the very last step
    ],
)
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_run(
    step: int, name: str, code: int, uninterrupted_run: CliResult, tmp_path: Path,
    signal_at_step: list[tuple[int, int]],
) -> None:  # fmt: skip
    signal_at_step.append((step, getattr(signal, name)))
    stopped = run_cli(*RESUME_ARGS, "--runs-dir", tmp_path)
    run = next(tmp_path.iterdir())
    assert stopped.code == code
    assert f"scsuite train --resume {run}" in stopped.out
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["signal"], result["exit_code"]) == ("stopped", name, code)
    assert (result["epochs_done"], result["steps_done"]) == ((step + 1) // 7 - (step in (13, 20)), step + 1)
    assert result["checkpoint"] == str(run / "checkpoints" / f"step-{step + 1:06d}.safetensors")
    signal_at_step.clear()

    resumed = run_cli("train", "--resume", run, "--json")
    assert resumed.run_dir == run
    assert list(tmp_path.iterdir()) == [run]  # in the same directory, and in no other
    assert resumed.result["final"] == uninterrupted_run.result["final"]
    assert resumed.result["best"] == uninterrupted_run.result["best"]
    assert find_differences(run, uninterrupted_run.run_dir) == []


def test_a_second_interrupt_ends_the_run_at_once(tmp_path: Path, signal_at_step: list[tuple[int, int]]) -> None:
    signal_at_step += [(3, signal.SIGINT), (3, signal.SIGINT)]
    stopped = run_cli(*RESUME_ARGS, "--runs-dir", tmp_path)
    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    assert "resume with" not in stopped.out  # it did not take the time to save


def test_a_signal_in_the_range_test_ends_the_run_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scsuite.core.lr_range import run_sweep

    launch_step = run_sweep.launch_step  # type: ignore[attr-defined]

    def launch_and_raise(*args: object, **kwargs: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return launch_step(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(run_sweep, "launch_step", launch_and_raise)
    stopped = run_cli(*RESUME_AUTO_LR_ARGS, "--runs-dir", tmp_path)
    assert stopped.code == 143
    assert "Traceback" not in stopped.err


@pytest.fixture(scope="module")
def uninterrupted_albumentations_run(tmp_path_factory: pytest.TempPathFactory) -> CliResult:
    """The same run, augmented image by image."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return run_cli(*RESUME_ALBUMENTATIONS_ARGS, "--runs-dir", folder, "--json")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_to_the_process_group_stops_the_program_in_order(
    name: str, code: int, uninterrupted_albumentations_run: CliResult, tmp_path: Path
) -> None:
    # As a terminal's Ctrl-C or the stop of a container does: worker processes get the signal too.
    process = subprocess.Popen(
        [sys.executable, "-m", "scsuite", *RESUME_WORKER_ARGS, "--runs-dir", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment(), start_new_session=True,
    )  # fmt: skip
    wait_for_steps(process, tmp_path)
    os.killpg(process.pid, getattr(signal, name))
    out, err = process.communicate(timeout=60)
    run = next(tmp_path.iterdir())
    assert (process.returncode, err) == (code, "")
    assert f"scsuite train --resume {run}" in out
    assert json.loads((run / "result.json").read_text())["status"] == "stopped"

    assert run_cli("train", "--resume", run, "--workers", 0, "--json").run_dir == run
    assert find_differences(run, uninterrupted_albumentations_run.run_dir) == []


def wait_for_steps(process: "subprocess.Popen[str]", runs_dir: Path) -> None:
    """Wait until a run has finished some steps."""
    deadline = time.monotonic() + 60
    while not any(len(path.read_text().splitlines()) > 4 for path in runs_dir.glob("*/steps.csv")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_signal_during_the_exchange_between_ranks_counts_at_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = iter([signal.SIGTERM])

    def all_reduce_max(_world: World, value: int) -> int:  # of one process: its own value, as it was before the signal
        for signum in signals:
            os.kill(os.getpid(), signum)
        return value

    monkeypatch.setattr(World, "all_reduce_max", all_reduce_max)
    with StopSignal(SINGLE_PROCESS) as stop:
        assert not stop.is_set()
        assert stop.is_set()
        assert stop.signum == signal.SIGTERM


# --- a signal during an import ---

IMPORTS_SLOW = """
import time
from scsuite.cli.signals import exit_on_signals

def main():
    with exit_on_signals():
        import slow
        time.sleep(300)

main()
"""


@pytest.mark.parametrize(
    ("slow", "code"),
    [
        ("import signal; signal.raise_signal(signal.SIGTERM)", 143),  # wakes up the sleep after the import
        ("import signal, time; [signal.raise_signal(signal.SIGINT) for _ in range(2)]; time.sleep(300)", 130),
    ],
    ids=["one SIGTERM", "two SIGINT"],
)
def test_a_signal_during_an_import_counts_after_it_and_a_second_ctrl_c_at_once(
    slow: str, code: int, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(slow)
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{IMPORTS_SLOW}"
    completed = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=tmp_path, env=child_environment(), check=False, timeout=120,
    )  # fmt: skip
    assert (completed.returncode, completed.stderr) == (code, "")
