"""A terminal, pipe or disk behind stdout and stderr that fails changes no run; a signal at the start is no traceback.

The terminals are real (os.openpty): after their other end is closed, each write fails with EIO. The hangup signal,
which the system sends to the owner of a terminal, comes from the test.
"""

import contextlib
import errno
import importlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scsuite.cli.app import main
from scsuite.cli.streams import SafeStream
from scsuite.core.model import checkpoint as checkpoint_module
from scsuite.core.runs.checkpoints import list_checkpoints
from scsuite.core.runs.rundir import RunDir
from scsuite.core.training.trainer import Trainer
from tests.run_cli import CliResult, child_environment, run_cli
from tests.tiny_args import FAULT_ARGS, FAULT_TRAIN_ARGS, STEPS_PER_EPOCH


class PseudoTerminal:
    """A terminal whose output is read until it is closed."""

    def __init__(self, columns: int | None = None) -> None:
        self.master, self.slave = os.openpty()
        if columns is not None:
            self.resize(columns)
        self.shown = b""
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int) -> None:
        import termios

        termios.tcsetwinsize(self.slave, (24, columns))

    def _read(self) -> None:
        while True:
            if select.select([self.master], [], [], 0.01)[0]:
                self.shown += os.read(self.master, 65536)
            elif self._closing.is_set():
                return

    def close(self) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self._reader.join()
            os.close(self.master)

    def close_window(self) -> None:
        """What the system does when a window closes or ssh drops."""
        self.close()
        signal.raise_signal(signal.SIGHUP)

    def run(self, *arguments: object) -> int:
        """Run the program on this terminal."""
        out, err = (os.fdopen(os.dup(self.slave), "w") for _ in range(2))
        with out, err, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return main([str(argument) for argument in arguments])


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[PseudoTerminal]:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup would ignore it, in the program too
    terminal = PseudoTerminal()
    yield terminal
    terminal.close()
    os.close(terminal.slave)
    signal.signal(signal.SIGHUP, hangup)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out: drawing them takes longer than these trainings."""
    monkeypatch.setattr("scsuite.report.figures.save_figure", lambda *_: None)


def call_before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[], None], call: int) -> None:
    """Do something before the call of that number, from 1."""
    original, calls = getattr(owner, name), []

    def replacement(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            action()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, replacement)


def check_stopped(run: Path, steps: int, position: str = "stopped") -> None:
    """The state after that many steps is saved, and result.json says that a hangup stopped the run."""
    assert list_checkpoints(run)[0].name == f"step-{steps:06d}.safetensors"
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["signal"], result["exit_code"]) == ("stopped", "SIGHUP", 129)
    assert position in (run / "log.txt").read_text()


def test_a_terminal_closed_during_training_stops_it_after_a_commit_and_it_resumes(
    terminal: PseudoTerminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        call_before(patch, RunDir, "append_step", terminal.close_window, call=4)
        assert terminal.run(*FAULT_TRAIN_ARGS, "--runs-dir", tmp_path) == 129
    assert b"LRMAX" in terminal.shown  # it was in use
    (run,) = tmp_path.iterdir()
    check_stopped(run, 4, "resume with:\n")
    assert run_cli("train", "--resume", run).code == 0


def test_a_terminal_closed_during_the_evaluation_of_an_epoch(
    terminal: PseudoTerminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_before(monkeypatch, Trainer, "evaluate", terminal.close_window, call=1)
    assert terminal.run(*FAULT_TRAIN_ARGS, "--runs-dir", tmp_path) == 129
    check_stopped(next(tmp_path.iterdir()), STEPS_PER_EPOCH)


def test_a_terminal_closed_during_the_last_commit_gives_the_signals_code_and_a_complete_run(
    terminal: PseudoTerminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_before(monkeypatch, checkpoint_module, "save_checkpoint", terminal.close_window, call=1)
    assert terminal.run(*FAULT_TRAIN_ARGS, "--runs-dir", tmp_path) == 129
    (run,) = tmp_path.iterdir()
    assert list_checkpoints(run)[0].name == f"step-{STEPS_PER_EPOCH:06d}.safetensors"
    assert json.loads((run / "result.json").read_text())["status"] == "ok"
    assert (run / "model.safetensors").exists()


def test_a_terminal_closed_during_the_range_test(
    terminal: PseudoTerminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scsuite.core.lr_range import run_sweep

    call_before(monkeypatch, run_sweep, "launch_step", terminal.close_window, call=5)
    assert terminal.run(*FAULT_ARGS, "--epochs", 1, "--runs-dir", tmp_path) == 129
    (run,) = tmp_path.iterdir()
    assert json.loads((run / "result.json").read_text())["signal"] == "SIGHUP"
    assert "during the range test; restart with:" in (run / "log.txt").read_text()


def test_a_terminal_closed_in_the_second_training_of_seeds(
    terminal: PseudoTerminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_before(monkeypatch, RunDir, "append_step", terminal.close_window, call=STEPS_PER_EPOCH + 3)
    assert terminal.run(*FAULT_TRAIN_ARGS, "--seeds", 2, "--runs-dir", tmp_path) == 129
    (group,) = tmp_path.iterdir()
    first, second = sorted(group.glob("*-seed*"))
    assert json.loads((first / "result.json").read_text())["status"] == "ok"
    check_stopped(second, 3)
    assert json.loads((group / "result.json").read_text())["signal"] == "SIGHUP"


@pytest.mark.parametrize(
    ("command", "module", "function"),
    [
        (("evaluate",), "scsuite.core.evaluation.evaluate", "average_logits"),
        (("gradcam", "--count", "2"), "scsuite.report.figures", "save_figure"),
        (("predict", "photo.png"), "scsuite.core.evaluation.predict", "decode_images"),
    ],
)
def test_a_terminal_closed_during_another_command(
    command: tuple[str, ...], module: str, function: str, terminal: PseudoTerminal, train_run: CliResult,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"")
    monkeypatch.setattr(importlib.import_module(module), function, lambda *_, **__: terminal.close_window())
    assert terminal.run(*command, "--ckpt", train_run.run_dir, "--runs-dir", tmp_path / "runs") == 129


def test_a_terminal_that_is_gone_without_a_signal_changes_nothing(
    terminal: PseudoTerminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    call_before(monkeypatch, RunDir, "append_step", terminal.close_window, call=4)
    assert terminal.run(*FAULT_TRAIN_ARGS, "--json", "--runs-dir", tmp_path) == 0
    assert json.loads(next(tmp_path.glob("*/result.json")).read_text())["status"] == "ok"


def test_a_terminal_of_one_column_that_is_resized_in_between_shows_a_training(
    terminal: PseudoTerminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.resize(1)
    call_before(monkeypatch, RunDir, "append_step", lambda: terminal.resize(200), call=4)
    call_before(monkeypatch, Trainer, "save", lambda: terminal.resize(0), call=1)
    assert terminal.run(*FAULT_TRAIN_ARGS, "--runs-dir", tmp_path) == 0
    terminal.close()
    assert b"next" in terminal.shown


class FailingStream(io.StringIO):
    """Stands in for a stream on which each write fails, and its descriptor cannot be had."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def close(self) -> None:
        """Not flushed."""


ERRORS = {
    "no reader": OSError(errno.EPIPE, "Broken pipe"),
    "no terminal": OSError(errno.EIO, "Input/output error"),
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "closed": ValueError("I/O operation on closed file"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_output_that_fails_is_discarded(error: Exception) -> None:
    stream = FailingStream(error)
    safe = SafeStream(stream)
    print("text", file=safe, flush=True)
    assert safe.error is error
    assert SafeStream.of(safe) is safe


@pytest.mark.parametrize("name", ["no reader", "no terminal", "full"])
def test_a_run_on_streams_that_fail_is_complete_and_only_json_on_a_full_disk_is_an_error(
    name: str, tmp_path: Path
) -> None:
    code = {}
    for options in ((), ("--json",)):
        out, err = (FailingStream(ERRORS[name]) for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code[options] = main(["zigzag", "--step-size", "2", "--runs-dir", str(tmp_path), *options])
    assert code == {(): 0, ("--json",): 4 if name == "full" else 0}
    results = [json.loads(path.read_text())["status"] for path in tmp_path.glob("*/result.json")]
    assert results == ["ok", "ok"]


# --- signals while the program loads ---

SIGNAL_AT_IMPORT = """
import runpy, signal, sys

class SignalAtImport:
    sent = False

    def find_spec(self, name, *_):
        if name == {module!r} and not self.sent:
            self.sent = True
            signal.raise_signal(getattr(signal, {signal!r}))

signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may ignore it
sys.meta_path.insert(0, SignalAtImport())
sys.argv = ["scsuite", "train", "--data", "shapes", "--device", "cpu"]
runpy.run_module("scsuite", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("name", "module", "code"),
    [
        ("SIGINT", "typer", 130),
        ("SIGTERM", "typer", 143),
        ("SIGHUP", "typer", 129),
        ("SIGINT", "numpy._core._multiarray_umath", 130),
        ("SIGTERM", "numpy._core._multiarray_umath", 143),
    ],
)
def test_a_signal_while_the_program_loads_gives_its_code_and_no_traceback(
    name: str, module: str, code: int, tmp_path: Path
) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", SIGNAL_AT_IMPORT.format(module=module, signal=name)],
        capture_output=True, text=True, cwd=tmp_path, env=child_environment(), check=False, timeout=120,
    )  # fmt: skip
    assert (completed.returncode, completed.stdout, completed.stderr.strip()) == (code, "", "")
    assert list(tmp_path.iterdir()) == []
