"""Two ranks under torchrun train as one process. Run: pytest tests/core/test_distributed.py.

Faults of ranks are in tests/faults/distributed.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scsuite.core.distributed import SINGLE_PROCESS, distributed_world, require_single_process, under_torchrun
from scsuite.core.errors import UsageError
from scsuite.core.runs.results import read_steps
from tests.conftest import REPOSITORY
from tests.core import distributed_worker

# 100 images in batches of 15: 7 steps an epoch, the last on ten images; enough steps to be stopped among them.
EPOCHS = 24
TRAIN_ARGS = (
    "train", "--data", "shapes", "--limit-train", "100", "--limit-test", "100", "--width", "0.05", "--bs", "15",
    "--workers", "0", "--device", "cpu", "--epochs", str(EPOCHS), "--lr-max", "0.1", "--dropout", "0.1",
)  # fmt: skip


def start_torchrun(*arguments: object) -> "subprocess.Popen[str]":
    """Start two processes of a module, as a user does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    return subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The values that `tests.core.distributed_worker` wrote on both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    process = start_torchrun("tests.core.distributed_worker", folder)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


# --- the core ---


def test_without_torchrun_there_is_one_rank_whatever_the_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not under_torchrun()
    require_single_process("evaluate")
    with distributed_world() as world:
        assert world is SINGLE_PROCESS
    assert world.is_main_process
    assert world.all_reduce_max(7) == 7
    assert world.broadcast(lambda: "text") == "text"
    assert list(range(5))[world.shard] == list(range(5))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(UsageError, match="scsuite evaluate: expected one process, found 2"):
        require_single_process("evaluate")


def test_all_ranks_have_the_same_weights_and_losses_after_each_step(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["training"] for rank in ranks)
    assert len(first["weights"]) == 10
    assert len(set(first["weights"])) == 10
    assert first["weights"] == second["weights"]
    assert first["averaged"] == second["averaged"]
    assert first["losses"] == second["losses"]


def test_all_ranks_start_with_the_weights_of_rank_0(ranks: list[dict[str, Any]]) -> None:
    assert len({*ranks[0]["initial_weights"], *ranks[1]["initial_weights"]}) == 1


def test_each_image_is_used_once_an_epoch_by_one_rank(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["training"] for rank in ranks)
    indices = first["image_indices"] + second["image_indices"]
    assert sorted(indices) == list(range(distributed_worker.NUM_TRAIN))
    assert first["batch_sizes"] == [8, 8, 8, 8, 1]
    assert second["batch_sizes"] == [8, 8, 8, 8, 0]


def test_a_step_of_two_ranks_is_the_step_of_one(ranks: list[dict[str, Any]]) -> None:
    # With L1, weight decay and label smoothing; without batch norm, which each rank applies to its own images.
    assert ranks[0]["step"] == ranks[1]["step"]
    assert ranks[0]["step"] == pytest.approx(ranks[0]["single_process_step"], abs=2e-6)
    assert ranks[0]["weighted_step"] == ranks[1]["weighted_step"] != ranks[0]["step"]
    assert ranks[0]["weighted_step"] == pytest.approx(ranks[0]["single_process_weighted_step"], abs=2e-6)


def test_the_loss_of_two_ranks_is_near_that_of_one(ranks: list[dict[str, Any]]) -> None:
    # Not equal, since batch norm is over 8 images, not 16: within a tenth of a nat on 65 images.
    expected = ranks[0]["single_process_training"]["train_losses"]
    assert ranks[0]["training"]["train_losses"] == pytest.approx(expected, abs=0.1)


def test_an_evaluation_over_ranks_is_that_of_one_process_exactly(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["training"]["evaluation"] == rank["training"]["single_process_evaluation"]


def test_a_nan_on_one_rank_stops_all_and_reaches_no_weight(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "step 3" in rank["nan"]["error"]
        assert rank["nan"]["moved"]
        assert rank["nan"]["untouched"]


def test_ranks_exchange_values_and_report_a_difference(ranks: list[dict[str, Any]]) -> None:
    values = [rank["exchange"] for rank in ranks]
    assert [value["max"] for value in values] == [15, 15]
    assert [value["broadcast"] for value in values] == ["from rank 0", "from rank 0"]
    assert [value["main_process_was_first"] for value in values] == [False, True]
    assert all("the same b on all ranks, found another value than on rank 0" in value["difference"] for value in values)


def test_no_thread_of_gloo_outlives_the_world(ranks: list[dict[str, Any]]) -> None:
    # Such a thread can abort a process that exits, and a finished run then counts as failed.
    for rank in ranks:
        assert not [name for name in rank["threads_left"] if "gloo" in name]


# --- the program; two of its runs are compared, bit for bit, in tests/faults/distributed.py ---


def test_a_signal_to_torchrun_stops_all_ranks_at_one_step_and_the_run_resumes(tmp_path: Path) -> None:
    process = start_torchrun("scsuite", *TRAIN_ARGS, "--runs-dir", tmp_path)
    while not any(len(path.read_text().splitlines()) > 4 for path in tmp_path.glob("*/steps.csv")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    (run,) = tmp_path.iterdir()
    assert process.returncode != 0
    assert f"scsuite train --resume {run}" in out, (out, err)
    assert "error: " not in err
    assert json.loads((run / "result.json").read_text())["status"] == "stopped"

    process = start_torchrun("scsuite", "train", "--resume", run, "--json")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert Path(json.loads(out)["run_dir"]) == run  # one object, of one rank
    assert list(tmp_path.iterdir()) == [run]
    assert [row.step for row in read_steps(run)] == list(range(EPOCHS * 7))
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2
