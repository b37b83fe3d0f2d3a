"""`python -m tests.bench gpu` without a GPU: its stages measure, and one that fails or hangs stops no other."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import gpu, gpu_stages, gpu_trainings


@pytest.fixture
def job(tmp_path: Path) -> gpu.Job:
    return gpu.Job("cpu", True, "shapes", tmp_path)


def run(job: gpu.Job, stage: str) -> dict[str, Any]:
    gpu.run_here(stage, job)
    values: dict[str, Any] = json.loads((job.out / f"{stage}.json").read_text())
    return values


def test_every_stage_has_a_function_and_a_time_limit_within_the_call() -> None:
    assert list(gpu.STAGES) == list(gpu_stages.STAGE_FUNCTIONS)
    assert max(gpu.STAGES.values()) < gpu.TOTAL_SECONDS <= 8 * 60


def test_the_norm_and_the_recorded_step_are_equal_to_the_loop_and_the_eager_step(job: gpu.Job) -> None:
    norm = run(job, "norm_equality")
    assert norm["status"] == "ok"
    assert norm["worst"]["float32"] < norm["target_float32_at_most"]
    graph = run(job, "graph_equality")
    assert graph["is_bit_equal"] is True
    assert graph["recorded_batch_sizes"] == [8, 32]


def test_the_step_is_profiled_by_operation_and_by_layer(job: gpu.Job) -> None:
    profile = run(job, "profile")
    names = {size: {row["name"] for row in profile[size]["operations_of_a_step"]} for size in ("ghost 16", "ghost 0")}
    assert any("ghost_batch_norm" in name for name in names["ghost 16"])
    assert not any("ghost_batch_norm" in name for name in names["ghost 0"])
    layers = run(job, "layers")
    assert sum(name.endswith("Conv2d") for name in layers) == 8
    assert layers["prep.0 Conv2d"]["forward_tflops"] > 0


def test_a_stage_that_fails_is_recorded_with_what_it_measured_before(
    job: gpu.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job: gpu.Job) -> dict[str, Any]:
        job.record("speed", gpu.PARTIAL, 0.0, first=1.5)
        raise RuntimeError("CUDA error:\n an illegal memory access")

    monkeypatch.setitem(gpu_stages.STAGE_FUNCTIONS, "speed", fail)
    values = run(job, "speed")
    assert (values["status"], values["first"]) == ("failed", 1.5)
    assert values["error"] == "RuntimeError: CUDA error: an illegal memory access"
    assert run(job, "compile")["skipped"] == "needs a GPU"


def test_a_stage_without_time_is_skipped_and_one_over_its_limit_is_ended(
    job: gpu.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.run_in_child("versions", job, 1.0)
    assert json.loads(job.path("versions").read_text())["skipped"] == "no time left"
    monkeypatch.setattr(gpu, "START_SECONDS", 0.0)
    gpu.run_in_child("speed", job, 0.2)  # less than the imports take
    assert json.loads(job.path("speed").read_text())["status"] == "timeout"


def test_a_stopped_training_is_compared_by_its_weights(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    def sha256(**tensors: Any) -> str:
        save_file(tensors, tmp_path / "model.safetensors")
        return gpu_trainings.weights_sha256({"checkpoint": str(tmp_path / "model.safetensors")})

    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert sha256(a=ones, b=zeros) == sha256(b=zeros, a=ones)
    assert sha256(a=ones, b=zeros) != sha256(a=zeros, b=ones)
