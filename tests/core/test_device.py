"""Devices, precisions, and the process settings that go with them. Run: pytest tests/core/test_device.py."""

import json
import subprocess
import sys

import pytest
import torch

from scsuite.core.device import deterministic_algorithms, resolve_device
from scsuite.core.errors import UsageError


def test_unavailable_devices_and_precisions_are_refused_with_the_available_ones() -> None:
    with pytest.raises(UsageError, match="one of auto, cpu"):
        resolve_device("cuda:99", "auto")
    with pytest.raises(UsageError, match="bf16 on cpu"):
        resolve_device("cpu", "fp16")
    assert resolve_device("cpu", "bf16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("has_amx", "has_avx512_bf16", "cpu_name", "precision"),
    [
        (False, False, "AMD EPYC", "fp32"),  # bf16 would be emulated
        (False, True, "AMD EPYC", "bf16"),
        (False, True, "Intel(R) Xeon(R) Processor", "fp32"),  # bf16 takes 1.25 to 1.5 times as long
        (True, True, "Intel(R) Xeon(R) Processor", "bf16"),
    ],
)
def test_auto_is_bf16_on_cpus_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, has_amx: bool, has_avx512_bf16: bool, cpu_name: str, precision: str
) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: has_avx512_bf16)
    monkeypatch.setattr("scsuite.core.device.cpu_name", lambda: cpu_name)
    assert resolve_device("cpu", "auto").precision == precision


@pytest.mark.parametrize(("device", "precision"), [("auto", "bf16"), ("cuda:0", "bf16"), ("cuda:1", "fp16")])
def test_a_cuda_device_is_the_current_one_and_asked_for_its_own_formats(
    device: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = [torch.device("cuda:0")]  # of two GPUs, the older one is cuda:1; memory is pinned for the current one
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda chosen: current.append(torch.device(chosen)))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1].index == 0)
    resolved = resolve_device(device, "auto")
    assert resolved.precision == precision
    assert current[-1] == resolved.device


PROCESS_SETTINGS = """
import json, sys
from types import SimpleNamespace
import torch
from scsuite.core import device
from scsuite.core.training.trainer import Trainer
from tests.core import tiny

calls = []
device.ctypes = SimpleNamespace(CDLL=lambda _: SimpleNamespace(mallopt=lambda *values: calls.append(values)))

def num_denormals():
    products = torch.full((2**20,), 1e-30) * 1e-10
    return products.view(torch.int32).count_nonzero().item()

trainer = Trainer(tiny.dataset(72, 30), tiny.CONFIG)
trainer.fit(should_stop=lambda: True)
before = [len(calls), num_denormals()]
device.tune_process()
torch.set_num_threads(2)  # the second thread starts now, and inherits the setting
print(json.dumps([before, calls, num_denormals()]))
"""


def test_only_the_program_sets_malloc_and_denormals_and_then_in_every_thread() -> None:
    completed = subprocess.run([sys.executable, "-c", PROCESS_SETTINGS], check=True, capture_output=True, text=True)
    before_tuning, calls, num_denormals = json.loads(completed.stdout)
    assert before_tuning == [0, 2**20]
    assert num_denormals == 0
    # M_MMAP_THRESHOLD: 32 MB; M_TRIM_THRESHOLD: never.
    assert calls == ([[-3, 32 * 2**20], [-1, -1]] if sys.platform == "linux" else [])


def test_deterministic_algorithms_are_restored_also_after_an_error() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with pytest.raises(KeyError), deterministic_algorithms(enabled=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        with deterministic_algorithms(enabled=False):  # nested: stays deterministic
            assert torch.are_deterministic_algorithms_enabled()
        raise KeyError
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before
    with deterministic_algorithms(enabled=False):
        assert torch.backends.cudnn.benchmark
