"""Checkpoints: a saved network is loaded unchanged, and any other file is refused."""

import hashlib
import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from scsuite.core.errors import InputError, OutputError
from scsuite.core.model.checkpoint import (
    MODEL_PREFIX,
    OWN_NETWORK,
    load_network,
    network_metadata,
    read_checkpoint,
    save_checkpoint,
)
from scsuite.core.model.network import ResNet3, build_model
from scsuite.core.runs import load_checkpoint


def make_metadata(model: ResNet3) -> dict[str, Any]:
    names = [f"class {i}" for i in range(model.num_classes)]
    network, mean, std = network_metadata(model), [0.5] * 3, [0.2] * 3
    return {"network": network, "class_names": names, "mean": mean, "std": std, "config": {}, "precision": "fp32"}


@pytest.fixture
def model() -> ResNet3:
    return build_model(3, 0.05, seed=0).eval()


@pytest.fixture
def saved(model: ResNet3, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(
        path, {MODEL_PREFIX + name: tensor for name, tensor in model.state_dict().items()}, make_metadata(model)
    )
    return path


def test_a_file_alone_is_enough_to_load_its_network(model: ResNet3, saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    loaded, metadata = load_network(checkpoint), checkpoint.metadata
    assert metadata["class_names"] == ["class 0", "class 1", "class 2"]
    assert not loaded.training
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_equal_states_give_equal_files(model: ResNet3, saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    tensors = {MODEL_PREFIX + name: tensor for name, tensor in model.state_dict().items()}
    save_checkpoint(other, dict(reversed(tensors.items())), make_metadata(model))
    assert other.read_bytes() == saved.read_bytes()


def test_the_checksum_is_sha256_of_the_file_with_its_digits_as_zeros(saved: Path) -> None:
    data = saved.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    digest = json.loads(header["__metadata__"]["scsuite"])["sha256"]
    assert data.count(digest.encode()) == 1
    assert hashlib.sha256(data.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


def test_every_flipped_bit_is_detected(saved: Path) -> None:
    data = saved.read_bytes()
    step = max(1, len(data) // 200)
    for offset in [*range(0, 700, 23), *range(700, len(data), step), len(data) - 1]:
        damaged = bytearray(data)
        damaged[offset] ^= 1 << (offset % 8)
        saved.write_bytes(damaged)
        with pytest.raises(InputError):
            load_network(read_checkpoint(saved))


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_truncated_file_says_so(saved: Path, length: int) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(InputError, match=r"truncated|header"):
        load_network(read_checkpoint(saved))


def test_a_trailing_byte_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(InputError):
        load_network(read_checkpoint(saved))


@pytest.mark.parametrize("header_length", [0, 1 << 40, 100_000_001])
def test_a_header_length_out_of_bounds_is_refused_before_the_header_is_read(saved: Path, header_length: int) -> None:
    saved.write_bytes(struct.pack("<Q", header_length) + saved.read_bytes()[8:])
    with pytest.raises(InputError, match="header"):
        load_network(read_checkpoint(saved))


@pytest.mark.parametrize("is_own", [False, True])
def test_a_sparse_file_is_refused_without_being_held_in_memory(saved: Path, is_own: bool) -> None:
    # The header of a real checkpoint with one more tensor of 64 MB, of which the disk holds nothing.
    data = saved.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if is_own:
        header["__metadata__"]["scsuite"] = header["__metadata__"]["scsuite"].replace("width", OWN_NETWORK)
    start = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    header["model.more"] = {"dtype": "U8", "shape": [2**26], "data_offsets": [start, start + 2**26]}
    text = json.dumps(header).encode()
    with saved.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data[end:])
        file.truncate(8 + len(text) + start + 2**26)
    tracemalloc.start()
    with pytest.raises(InputError, match="sha256" if is_own else "bytes for its network"):
        read_checkpoint(saved)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="that scsuite wrote"):
        load_network(read_checkpoint(tmp_path / "other.safetensors"))


def test_a_pickle_is_refused_and_never_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    for name in ("weights.pt", "weights.safetensors"):
        torch.save(Payload(), tmp_path / name)
        with pytest.raises(InputError):
            load_network(read_checkpoint(tmp_path / name))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device"])
def test_a_path_that_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / kind
    if kind == "directory":
        path.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(InputError):
        load_network(read_checkpoint(path))


def change_shape(tensors: dict[str, Any], _metadata: dict[str, Any]) -> None:
    tensors["model.fc.weight"] = tensors["model.fc.weight"][:, :-1]


def change_dtype(tensors: dict[str, Any], _metadata: dict[str, Any]) -> None:
    tensors["model.fc.weight"] = tensors["model.fc.weight"].double()


def remove_one(tensors: dict[str, Any], _metadata: dict[str, Any]) -> None:
    del tensors["model.fc.weight"]


def add_one(tensors: dict[str, Any], _metadata: dict[str, Any]) -> None:
    tensors["model.fc.bias"] = torch.zeros(3)


def put_nan(tensors: dict[str, Any], _metadata: dict[str, Any]) -> None:
    tensors["model.fc.weight"][0, 0] = float("nan")


def other_width(_tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
    metadata["network"]["width"] = 0.1


def huge_width(_tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
    metadata["network"]["width"] = 1e9


def other_scale(_tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
    metadata["network"]["logit_scale"] = 1.0


def fewer_names(_tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
    metadata["class_names"] = ["one"]


def no_config(_tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
    del metadata["config"]


def odd_precision(_tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
    metadata["precision"] = "fp7"


def no_network(_tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
    del metadata["network"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_shape, r"fc.weight is float32 \(3, 25\), not float32 \(3, 26\)"),
        (change_dtype, "fc.weight is float64"),
        (remove_one, "fc.weight is missing"),
        (add_one, "fc.bias is not part of it"),
        (put_nan, "1 of 78 not finite in fc.weight"),
        (other_width, "width 0.1"),
        (huge_width, "network"),
        (other_scale, "logit_scale 1.0"),
        (fewer_names, "1 class names"),
        (no_network, "network"),
        (no_config, "config"),
        (odd_precision, "no configuration or precision"),
    ],
)
def test_a_complete_file_of_another_network_is_refused_with_the_difference(
    model: ResNet3, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], words: str
) -> None:
    tensors = {MODEL_PREFIX + name: tensor.clone() for name, tensor in model.state_dict().items()}
    metadata = make_metadata(model)
    change(tensors, metadata)
    save_checkpoint(tmp_path / "changed.safetensors", tensors, metadata)
    with pytest.raises(InputError, match=words):
        load_network(read_checkpoint(tmp_path / "changed.safetensors"))


def test_a_save_that_fails_leaves_the_old_file_and_no_other(
    saved: Path, model: ResNet3, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(saved, {"model.fc.weight": torch.ones(2)}, make_metadata(model))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_save_syncs_the_file_before_its_rename_and_the_directory_after(
    saved: Path, model: ResNet3, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(descriptor: int) -> None:
        calls.append("directory" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "file")
        fsync(descriptor)

    def recorded_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    save_checkpoint(saved, {"model.fc.weight": torch.ones(2)}, make_metadata(model))
    assert calls == ["file", "rename", "directory"]


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (1, "found format 1, written by an earlier version of scsuite. Train again, or use that version."),
        (3, "found format 3, of another version of scsuite"),
    ],
)
def test_a_file_of_another_format_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch, model: ResNet3, version: int, words: str
) -> None:
    monkeypatch.setattr("scsuite.core.model.checkpoint.FORMAT", version)
    save_checkpoint(saved, {}, make_metadata(model))
    monkeypatch.undo()
    with pytest.raises(InputError, match=f"expected format 2, {words}"):
        read_checkpoint(saved)


def test_a_run_directory_stands_for_its_weights_or_until_the_end_for_its_newest_checkpoint(
    saved: Path, model: ResNet3
) -> None:
    def class_name(path: Path | str) -> str:
        return str(load_checkpoint(path)[1]["class_names"][0])

    run = saved.parent
    assert class_name(run) == class_name(str(saved)) == "class 0"
    saved.unlink()
    (run / "checkpoints").mkdir()
    tensors = {MODEL_PREFIX + name: tensor for name, tensor in model.state_dict().items()}
    for step in (5, 10):
        metadata = make_metadata(model) | {"class_names": [f"step {step}", "b", "c"]}
        save_checkpoint(run / "checkpoints" / f"step-{step:06d}.safetensors", tensors, metadata)
    assert class_name(run) == "step 10"
    with pytest.raises(InputError, match=r"expected a training run with model\.safetensors or checkpoints/"):
        load_checkpoint(run / "checkpoints")


def test_what_could_not_be_read_is_not_written(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = read_checkpoint(saved)
    metadata = {key: value for key, value in checkpoint.metadata.items() if key not in ("sha256", "format")}
    path = tmp_path / "new.safetensors"
    with pytest.raises(OutputError, match="a header of at most"):  # more classes than the header holds
        save_checkpoint(path, checkpoint.tensors, {**metadata, "class_names": ["x" * 100] * 20_000})
    monkeypatch.setattr("scsuite.core.model.checkpoint.MAX_FILE_BYTES", saved.stat().st_size - 1)
    with pytest.raises(OutputError, match="a file of at most"):
        save_checkpoint(path, checkpoint.tensors, metadata)
    with pytest.raises(InputError, match="at most"):
        read_checkpoint(saved)
    assert not path.exists()
