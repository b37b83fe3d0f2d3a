"""Worker processes that fail or hang end an epoch with one line that names the remedies. In place of a full /dev/shm,
the allocation of shared memory fails in the worker; the signals are real."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scsuite.core.augment import augment_image
from scsuite.core.errors import ExitCode
from scsuite.core.training import loader as loader_module
from scsuite.core.training import workers
from scsuite.core.training.loader import TrainLoader
from tests.core import tiny
from tests.core.dataset.helpers import class_tree, write_folder
from tests.core.training.plain_policy import PlainPolicy
from tests.run_cli import run_cli
from tests.tiny_args import MODEL_ARGS

LR_MAX = ("--lr-max", "0.1")  # without it, a range test runs first


class Policy:
    """A policy that does something in its process, and returns the image."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def set_random_state(self, *_generators: object) -> None:
        pass

    def __call__(self, image: np.ndarray[Any, Any]) -> dict[str, Any]:
        self.action()
        return {"image": image.astype(np.float32)}


def make_loader(action: Callable[[], object] = int, num_workers: int = 2, num_images: int = 12) -> TrainLoader:
    policy: Any = Policy(action)
    return TrainLoader(tiny.split(num_images), policy, batch_size=4, seed=0, workers=num_workers)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(workers, "HANG_POLLS", 10)
    monkeypatch.setattr(workers, "BUSY_SECONDS", 0.01)


def check_failure(loader: TrainLoader, *words: str) -> None:
    """The next epoch ends with one line, and no process is left."""
    before = set(multiprocessing.active_children())
    with pytest.raises(workers.WorkerError) as caught:
        list(loader.epoch(0))
    assert caught.value.exit_code == ExitCode.OUTPUT
    assert "\n" not in str(caught.value)
    missing = [word for word in ("/dev/shm", "--workers 0", *words) if word not in str(caught.value)]
    assert not missing, str(caught.value)
    del caught
    assert set(multiprocessing.active_children()) <= before


def test_a_batch_that_finds_no_space_in_shared_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_full(*_arguments: object) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", raise_full)
    check_failure(make_loader(), "No space left on device")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGBUS", "SIGSEGV"])
def test_a_worker_that_a_signal_ends_is_an_error(name: str) -> None:
    check_failure(make_loader(lambda: os.kill(os.getpid(), getattr(signal, name))), "DataLoader worker")


def test_a_worker_that_ends_itself_is_an_error() -> None:
    check_failure(make_loader(lambda: os._exit(3)), "DataLoader worker")


def test_workers_that_cannot_be_started_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_no_process() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    loader = make_loader()
    monkeypatch.setattr(os, "fork", raise_no_process)
    check_failure(loader, "Resource temporarily unavailable")


@pytest.mark.usefixtures("short_waits")
def test_a_worker_that_hangs_at_its_start_is_an_error_and_the_next_epoch_starts_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loader_module, "init_worker_signals", lambda _worker: time.sleep(600))
        loader = make_loader()
    check_failure(loader, "no worker at work")
    loader = make_loader()
    loader_batches = [batch.labels_N.tolist() for batch in loader.epoch(0)]
    assert sum(map(len, loader_batches)) == 12


@pytest.mark.usefixtures("short_waits")
def test_a_slow_worker_that_works_is_waited_for() -> None:
    def work() -> None:
        end = time.process_time() + 0.4  # of the worker: 4 images take 16 polls or more
        while time.process_time() < end:
            pass

    loader = make_loader(work, num_workers=1, num_images=4)
    assert sum(len(batch.labels_N) for batch in loader.epoch(0)) == 4


@pytest.mark.usefixtures("short_waits")
def test_a_worker_that_is_stopped_after_it_announced_a_batch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch then waits without a limit for the worker to hand over the batch's memory.
    def stop(*_arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    monkeypatch.setattr("multiprocessing.connection.deliver_challenge", stop)  # the worker's part
    check_failure(make_loader(), "no worker at work")


@pytest.mark.usefixtures("short_waits")
def test_workers_that_start_an_epoch_late_are_waited_for() -> None:
    others = set(multiprocessing.active_children())
    loader = make_loader(num_workers=1)
    first = list(loader.epoch(0))
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid or 0, signal.SIGSTOP)  # as on a machine that is busy, or that was suspended
    threading.Timer(0.5, os.kill, (worker.pid, signal.SIGCONT)).start()
    assert len(list(loader.epoch(1))) == len(first)


def test_an_epoch_after_a_failure_starts_new_workers(tmp_path: Path) -> None:
    def fail_once() -> None:
        if not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            os._exit(3)

    loader = make_loader(fail_once, num_workers=1)
    check_failure(loader)
    assert sum(len(batch.labels_N) for batch in loader.epoch(0)) == 12


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    ("signum", "code", "options"),
    [(None, 4, LR_MAX), (signal.SIGTERM, 143, LR_MAX), (signal.SIGTERM, 143, ())],
    ids=["no signal", "in the training", "in the range test"],
)
def test_a_training_whose_worker_hangs_ends_with_the_code_of_its_signal(
    signum: signal.Signals | None, code: int, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*arguments: Any) -> Any:
        if arguments[-2] == 1:  # the second epoch
            if signum is not None:
                os.kill(os.getppid(), signum)
            time.sleep(600)
        return augment_image(*arguments)

    monkeypatch.setattr(loader_module, "augment_image", hang)
    data = write_folder(tmp_path / "data", class_tree({"train/a": 8, "train/b": 8, "test/a": 1, "test/b": 1}))
    answer = run_cli(
        "train", "--data", data, *MODEL_ARGS, "--workers", 1, "--bs", 8, "--epochs", 2,
        "--augment-backend", "albumentations", "--runs-dir", tmp_path / "runs", *options,
    )  # fmt: skip
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err
    if signum is None:
        assert answer.err.startswith("error: worker process: ") and answer.err.count("\n") == 1
        assert "/dev/shm" in answer.err and "--workers 0" in answer.err
    elif options:
        assert "stopped   at step 2 of 4; resume with" in answer.out
    else:
        assert answer.err == ""


def send_signals_to_worker() -> None:
    """Send what reaches a whole process group; from another process, since a SIGTERM from the parent ends a worker."""
    (worker,) = multiprocessing.active_children()
    kills = "; ".join(f"kill -{name} {worker.pid}" for name in ("TERM", "INT", "HUP"))
    subprocess.run(["sh", "-c", kills], check=True)


def send_signals_as_soon_as_a_worker_is_there() -> None:
    while not multiprocessing.active_children():
        time.sleep(0.001)
    send_signals_to_worker()


def test_spawned_workers_outlive_signals_to_the_process_group_also_while_they_start() -> None:
    policy: Any = PlainPolicy()
    loader = TrainLoader(tiny.split(12), policy, batch_size=4, seed=0, workers=1)
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)  # as on macOS
    try:
        thread = threading.Thread(target=send_signals_as_soon_as_a_worker_is_there)
        thread.start()
        batches = loader.epoch(0)
        labels = next(batches).labels_N.tolist()
        thread.join()
        send_signals_to_worker()
        labels += [label for batch in batches for label in batch.labels_N.tolist()]
        assert sorted(labels) == sorted(tiny.split(12).labels_N.tolist())
        (worker,) = multiprocessing.active_children()
        worker.terminate()
        worker.join(timeout=5)
        assert worker.exitcode == 0
    finally:
        multiprocessing.set_start_method(method, force=True)


def test_where_no_signal_names_its_sender_workers_leave_the_process_group_and_end_at_a_sigterm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "HAS_SIGWAITINFO", False)  # as on macOS
    loader, others = make_loader(num_workers=1), set(multiprocessing.active_children())
    next(loader.epoch(0))
    (worker,) = set(multiprocessing.active_children()) - others
    assert os.getpgid(worker.pid or 0) == worker.pid
    monkeypatch.setattr(torch.utils.data._utils.signal_handling, "_error_if_any_worker_fails", lambda: None)
    worker.terminate()
    worker.join(timeout=5)
    assert worker.exitcode == -signal.SIGTERM
