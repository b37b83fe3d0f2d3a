"""Checkpoints: a saved network is loaded unchanged, and any other file is refused."""

import hashlib
import json
import math
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scsuite.core.errors import InputError, OutputError
from scsuite.core.model.checkpoint import (
    MODEL_PREFIX,
    OWN_NETWORK,
    check_tensors,
    load_network,
    load_own_network,
    network_metadata,
    own_network_metadata,
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


@pytest.mark.parametrize("header_length", [0, 1, 2**20 + 1, 1 << 40, 100_000_001])
def test_a_header_length_out_of_bounds_is_refused_before_the_header_is_read(saved: Path, header_length: int) -> None:
    saved.write_bytes(struct.pack("<Q", header_length) + saved.read_bytes()[8:])
    with pytest.raises(InputError, match=f"header of at most 1,048,576 bytes, found a length of {header_length:,}"):
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
    with pytest.raises(InputError, match=r"^checkpoint: "):
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
    with pytest.raises(InputError, match=rf"checkpoint: .*changed\.safetensors: .*{words}"):
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
    for module in ("checkpoint", "checkpoint_file"):  # the same limit for writing and reading
        monkeypatch.setattr(f"scsuite.core.model.{module}.MAX_FILE_BYTES", saved.stat().st_size - 1)
    with pytest.raises(OutputError, match="a file of at most"):
        save_checkpoint(path, checkpoint.tensors, metadata)
    with pytest.raises(InputError, match="at most"):
        read_checkpoint(saved)
    assert not path.exists()


# --- metadata and headers, one fault each ---


def with_network(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata["network"].update(changes)


def own(name: Any, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.update(network={"num_classes": 3, OWN_NETWORK: name, **changes})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(class_names="abc"), "class_names that are not texts"),
        (lambda m: m.update(class_names=["a", "b", 3]), "class_names that are not texts"),
        (lambda m: m.update(class_names=["a", "b", ""]), "class_names that are not texts"),
        (lambda m: m.update(class_names=["a", "b", "a"]), "3 class names, 2 of them different"),
        (lambda m: (m.update(class_names=["a"]), with_network(num_classes=1)(m)), "1 class names, 1 of them different"),
        (lambda m: m.update(network=[3]), "no network"),
        (with_network(num_classes=4), "a network of 4 classes, and 3 names"),
        (with_network(num_classes=3.0), "a network of 3.0 classes, and 3 names"),
        (with_network(num_classes=None), "a network of None classes, and 3 names"),
        (with_network(width="wide"), "a network of width 'wide'"),
        (with_network(width=0), "a network of width 0"),
        (with_network(width=-0.05), "a network of width -0.05"),
        (with_network(width=1e9), "a network of width 1000000000.0"),
        (with_network(width=True), "a network of width True"),
        (with_network(logit_scale=0.25), "a network with logit_scale 0.25, not 0.125"),
        (with_network(logit_scale=None), "a network with logit_scale None, not 0.125"),
        (own(7), "a network named 7"),
        (own("Net", num_classes=2), "a network of 2 classes, and 3 names"),
        (lambda m: m.update(mean=[0.5, 0.5]), "mean that is not three numbers"),
        (lambda m: m.update(mean=(0.5)), "mean that is not three numbers"),
        (lambda m: m.update(mean=[0.5, 0.5, "0.5"]), "mean that is not three numbers"),
        (lambda m: m.update(std=[0.5, 0.5, 0.5, 0.5]), "std that is not three numbers"),
        (lambda m: m.update(std=[0.5, 0.0, 0.5]), "a std of 0.0"),
        (lambda m: m.update(std=[0.5, 0.5, -1]), "a std of -1"),
        (lambda m: m.update(temperature=0), "a temperature of 0"),
        (lambda m: m.update(temperature=0.0099), "a temperature of 0.0099"),
        (lambda m: m.update(temperature=101), "a temperature of 101"),
        (lambda m: m.update(temperature=-0.5), "a temperature of -0.5"),
        (lambda m: m.update(temperature=math.nan), "a temperature of nan"),
        (lambda m: m.update(temperature="0.59"), "a temperature of '0.59'"),
        (lambda m: m.update(temperature=None), "a temperature of None"),
        (lambda m: m.update(precision=None), "no configuration or precision"),
        (lambda m: m.update(config=[]), "no configuration or precision"),
        (lambda m: m.update(state={}), "expected the LR bounds of a started run, found none"),
        (lambda m: m.update(state={}, config={"lr_max": 0.1}), "expected the LR bounds of a started run, found none"),
    ],
)
def test_each_value_of_the_metadata_is_checked(
    model: ResNet3, tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    metadata, path = make_metadata(model), tmp_path / "a.safetensors"
    change(metadata)
    save_checkpoint(path, {"model.x": torch.zeros(1)}, metadata)
    with pytest.raises(InputError, match=words):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        own("Net"),
        own("Net", width="ignored", logit_scale=None),
        with_network(width=8.0),
        with_network(width=1),
        lambda m: m.update(mean=[-1, 0, 2.5]),
        lambda m: m.update(temperature=100),
        lambda m: m.update(temperature=0.01),
        lambda m: m.update(state={}, config={"lr_min": 0.01, "lr_max": 0.1}),
    ],
)
def test_values_at_their_limits_are_accepted(
    model: ResNet3, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    metadata, path = make_metadata(model), tmp_path / "a.safetensors"
    change(metadata)
    save_checkpoint(path, {"model.x": torch.zeros(1), "optimizer.step.x": torch.ones(1)}, metadata)
    assert read_checkpoint(path).metadata.items() >= metadata.items()


def test_a_network_of_two_classes_is_read(tmp_path: Path) -> None:
    metadata, path = make_metadata(build_model(2, 0.05, seed=0)), tmp_path / "a.safetensors"
    save_checkpoint(path, {"model.x": torch.zeros(1)}, metadata)
    assert read_checkpoint(path).metadata["class_names"] == ["class 0", "class 1"]


def signed(header: bytes, data: bytes = b"") -> bytes:
    """A file with this header and a digest that fits."""
    start = header.index(b'\\"sha256\\": \\"') + len(b'\\"sha256\\": \\"')
    content = struct.pack("<Q", len(header)) + header + data
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[: 8 + start] + digest + content[8 + start + 64 :]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            '{"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}',
            "tensors of a network and its optimizer, found a tensor named 'x'",
        ),
        ('{"dtype": "U8", "shape": [2], "data_offsets": [0, 3]}', "bytes, as in its header, found .*: truncated"),
        (
            '{"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}',
            "bytes, as in its header, found .*: bytes were added",
        ),
        ('{"dtype": "U8", "shape": [2], "data_offsets": [0, -2]}', "the offset -2"),
        ('{"dtype": "U8", "shape": [2], "data_offsets": [0, 2.0]}', "the offset 2.0"),
        ('{"dtype": "U8", "shape": [-2], "data_offsets": [0, 2]}', "the shape"),
        ('{"dtype": "U8", "shape": [4294967296, 0], "data_offsets": [0, 2]}', "the shape"),
        ('{"dtype": "U8", "shape": [2.0], "data_offsets": [0, 2]}', "the shape"),
        ('{"dtype": "U8", "data_offsets": [0, 2]}', "a safetensors header"),
        ('{"dtype": "U8", "shape": [2], "data_offsets": [0, 2], "shape": [2]}', "a name given twice"),
        ('{"dtype": "U9", "shape": [2], "data_offsets": [0, 2]}', "a valid safetensors file"),
        ("7", "a safetensors header"),
    ],
)
def test_each_entry_of_the_header_is_checked(model: ResNet3, tmp_path: Path, entry: str, words: str) -> None:
    text = json.dumps(json.dumps({"sha256": "0" * 64, "format": 2, **make_metadata(model)}))
    path = tmp_path / "a.safetensors"
    header = f'{{"__metadata__": {{"scsuite": {text}}}, "x": {entry}}}'.encode()
    path.write_bytes(signed(header, b"\1\2"))
    with pytest.raises(InputError, match=words):
        read_checkpoint(path)
    good = header.replace(
        b'"x": ' + entry.encode(), b'"model.x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}'
    )
    path.write_bytes(signed(good, b"\1\2"))
    assert read_checkpoint(path).tensors["model.x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("[]", "a safetensors header"),
        ('{"scsuite": 7}', "a safetensors file without its metadata"),
        ('{"other": "x"}', "a safetensors file without its metadata"),
        (json.dumps({"scsuite": json.dumps([1])}), "metadata by name, found list"),
        (json.dumps({"scsuite": "{"}), "a valid safetensors file"),
        (json.dumps({"scsuite": '{"format": 2, "format": 2}'}), "a name given twice"),
        (json.dumps({"scsuite": '{"format": "2"}'}), "expected format 2, found format '2', of another version"),
        (json.dumps({"scsuite": '{"format": true}'}), "expected format 2, found format True, of another version"),
        (json.dumps({"scsuite": "{}"}), "expected format 2, found format None, of another version"),
    ],
)
def test_metadata_of_another_kind_is_refused(tmp_path: Path, metadata: str, words: str) -> None:
    # The digest may stand in any text of the metadata.
    path, digest = tmp_path / "a.safetensors", json.dumps('"sha256": "' + "0" * 64 + '"')
    entries = metadata[:-1] + (f', "digest": {digest}}}' if metadata[0] == "{" else f"{digest}]")
    path.write_bytes(signed(f'{{"__metadata__": {entries}}}'.encode()))
    with pytest.raises(InputError, match=words):
        read_checkpoint(path)


def test_a_file_with_more_data_than_its_network_can_have_is_refused_by_its_header(
    model: ResNet3, tmp_path: Path
) -> None:
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    limit = 6 * 4 * num_weights + 2**20  # six copies of the weights in float32, and a MB
    path, tensors = tmp_path / "a.safetensors", {"model.x": torch.zeros(limit, dtype=torch.uint8)}
    save_checkpoint(path, tensors, make_metadata(model))
    assert len(read_checkpoint(path).tensors["model.x"]) == limit
    save_checkpoint(path, {"model.x": torch.zeros(limit + 1, dtype=torch.uint8)}, make_metadata(model))
    with pytest.raises(InputError, match=f"at most {limit:,} bytes for its network, found {limit + 1:,}"):
        read_checkpoint(path)


def test_tensors_that_share_memory_are_saved_each_in_full(model: ResNet3, tmp_path: Path) -> None:
    weight, path = torch.arange(6.0), tmp_path / "a.safetensors"
    tensors = {"model.a": weight, "model.b": weight, "model.c": weight[2:4], "model.d": torch.ones(3, 2).t()}
    save_checkpoint(path, tensors, make_metadata(model))
    loaded = read_checkpoint(path).tensors
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_differences_are_listed_up_to_five_and_each_is_short() -> None:
    expected = {f"{k}" * 300: torch.zeros(2) for k in range(7)}
    with pytest.raises(InputError) as caught:
        check_tensors(Path("x"), "the weights", expected, {})
    assert [text[:1] for text in str(caught.value.found).split("; ")] == list("01234")
    assert max(map(len, str(caught.value.found).split("; "))) == 200
    check_tensors(Path("x"), "the weights", {"a": torch.zeros(2)}, {"a": torch.ones(2)})
    for actual, words in (
        ({"a": torch.zeros(3)}, r"a is float32 \(3,\), not float32 \(2,\)"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, r"a is int64 \(2,\), not float32 \(2,\)"),
        ({"b": torch.zeros(2)}, "a is missing; b is not part of it"),
        ({"a": torch.tensor([1.0, torch.inf])}, "finite weights, found 1 of 2 not finite in a"),
    ):
        with pytest.raises(InputError, match=words):
            check_tensors(Path("x"), "the weights", {"a": torch.zeros(2)}, actual)


def test_infinity_is_allowed_only_where_the_present_network_has_it() -> None:
    mask = torch.tensor([0.0, -torch.inf])
    check_tensors(Path("x"), "the weights", {"mask": mask}, {"mask": mask.clone()})
    with pytest.raises(InputError, match="1 of 2 not finite in mask"):
        check_tensors(Path("x"), "the weights", {"mask": torch.empty(2, device="meta")}, {"mask": mask})


@pytest.mark.parametrize(
    ("name", "is_refused"),
    [
        ("bn.running_var", True), ("bn.num_batches_tracked", True), ("bn.running_mean", False),
        ("running_var.x", False),
        ("optimizer.exp_avg_sq.fc.weight", True), ("optimizer.step.fc.weight", True), ("scaler.scale", True),
        ("optimizer.exp_avg.running_var", False), ("optimizer.momentum_buffer.step", False), ("scaler.growth", False),
    ],
)  # fmt: skip
def test_values_that_cannot_be_negative_are_refused_below_zero(name: str, is_refused: bool) -> None:
    check_tensors(Path("x"), "a state", {name: torch.ones(2)}, {name: torch.zeros(2)})
    if is_refused:
        with pytest.raises(InputError, match=f"values of 0 or more, found 1 of 2 below 0 in {name}"):
            check_tensors(Path("x"), "a state", {name: torch.ones(2)}, {name: torch.tensor([1.0, -0.5])})
    else:
        check_tensors(Path("x"), "a state", {name: torch.ones(2)}, {name: torch.tensor([1.0, -0.5])})


def test_the_networks_of_others_are_named_with_what_to_do(model: ResNet3, tmp_path: Path) -> None:
    path, metadata = tmp_path / "a.safetensors", make_metadata(model)
    metadata["network"] = own_network_metadata(nn.Linear(2, 3), 3)
    assert metadata["network"] == {"num_classes": 3, OWN_NETWORK: "Linear"}
    save_checkpoint(path, {"model.weight": torch.ones(3, 2), "model.bias": torch.zeros(3)}, metadata)
    with pytest.raises(InputError, match=r"the weights of your own, Linear\. Use Python: .*model=Linear\(\)\)"):
        load_network(read_checkpoint(path))
    linear = nn.Linear(2, 3)
    load_own_network(read_checkpoint(path), linear)
    assert (linear.weight == 1).all() and not linear.training
    metadata["network"][OWN_NETWORK] = "N" * 100
    save_checkpoint(path, {}, metadata)
    with pytest.raises(InputError, match=f"your own, {'N' * 60}\\. "):
        load_network(read_checkpoint(path))
