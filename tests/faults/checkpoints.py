"""A: checkpoint files that are damaged, foreign or hostile, given to evaluate, gradcam and train --resume.

In: a good run of two epochs. Out: one row. Every file whose checksum is not itself the fault has a right one: see
`checkpoint_builder`.
"""

import contextlib
import gzip
import io
import json
import math
import operator
import os
import pickle
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scsuite.core.model.checkpoint import FORMAT
from tests.faults.case import FaultCase, ScoreRow, check_cases, thin_cases
from tests.faults.checkpoint_builder import CheckpointParts, join, seal
from tests.faults.injection import become_nobody
from tests.faults.sandbox import Sandbox, new_sandbox, run
from tests.tiny_args import FAULT_ARGS, STEPS_PER_EPOCH

FC = "model.fc.weight"
VAR = "model.prep.1.running_var"
COUNT = "model.prep.1.num_batches_tracked"
MOMENTUM = "optimizer.momentum_buffer.fc.weight"
QUICK_EVERY = 24  # cases of each fault in the quick scorecard: the first and then every n-th
BATCHES = "cifar-10-batches-py"
NAN, INF = math.nan, math.inf

Words = tuple[str, ...]  # expected in the output
Change = Callable[[CheckpointParts], None]
Command = Callable[[Sandbox, bytes], Sequence[object]]  # writes the file and returns the arguments


class GoodRun:
    """A run of two epochs, and its files: the checkpoints after the first and second epoch, the final weights."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first, self.last = (
            path / "checkpoints" / f"step-{step:06d}.safetensors" for step in (STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH)
        )
        self.state, self.weights = self.first.read_bytes(), (path / "model.safetensors").read_bytes()

    def unfinished(self, sandbox: Sandbox) -> Path:
        """A copy of the run as it was before its result was written."""
        path = sandbox.runs / "run"
        shutil.copytree(self.path, path)
        (path / "result.json").unlink()
        (path / "model.safetensors").unlink()
        return path

    def compare_end(self, sandbox: Sandbox) -> str:
        """What is wrong with a resumed run: its weights must equal those of the uninterrupted run."""
        path = sandbox.runs / "run" / "model.safetensors"
        if not path.exists() or path.read_bytes() != self.weights:
            return "the resumed run ended with other weights"
        return "" if (path.parent / "result.json").exists() else "no result.json"


def change_file(file: bytes, change: Change) -> bytes:
    """The file with a change, and with the checksum that it then has."""
    parts = CheckpointParts.parse(file)
    change(parts)
    return parts.pack()


# --- the commands that read a file ---


def evaluate(sandbox: Sandbox, data: bytes) -> list[object]:
    path = sandbox.inputs / "given.safetensors"
    path.write_bytes(data)
    return ["evaluate", "--ckpt", path, "--device", "cpu"]


def gradcam(sandbox: Sandbox, data: bytes) -> list[object]:
    return ["gradcam", *evaluate(sandbox, data)[1:], "--count", "2"]


def resume_with(good: GoodRun) -> Command:
    """The file becomes the only checkpoint of a run."""

    def resume(sandbox: Sandbox, data: bytes) -> list[object]:
        path = good.unfinished(sandbox)
        shutil.rmtree(path / "checkpoints")
        (path / "checkpoints").mkdir()
        (path / "checkpoints" / good.first.name).write_bytes(data)
        return ["train", "--resume", path]

    return resume


def with_file(command: Command, data: bytes) -> Callable[[Sandbox], Sequence[object]]:
    return lambda sandbox: command(sandbox, data)


# --- A1 to A6: bytes ---


def polyglot(good: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", b"cos\nsystem\n(S'touch canary'\ntR.")
    return good + file.getvalue()


def change_entry(good: bytes, name: str = FC, **values: Any) -> bytes:
    """Change one tensor's entry in the header, and not its data."""
    parts = CheckpointParts.parse(good)
    header = parts.header
    header[name] |= values
    return parts.pack_with_header(json.dumps(header).encode())


def edit_header(good: bytes, edit: Callable[[str], str]) -> bytes:
    parts = CheckpointParts.parse(good)
    return parts.pack_with_header(edit(json.dumps(parts.header)).encode())


def add_empty_tensors(good: bytes, count: int) -> bytes:
    """Add this many empty tensors."""
    parts = CheckpointParts.parse(good)
    return parts.pack_with_header(
        json.dumps(
            parts.header | {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}
        ).encode()
    )


def flip_bit(good: bytes, position: int) -> bytes:
    return good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]


def nest(levels: int) -> str:
    return "[" * levels + "]" * levels


def add_to_header(good: bytes, text: str) -> bytes:
    """Add JSON at the start of the header."""
    return edit_header(good, lambda header: "{" + text + ", " + header[1:])


def header_length(good: bytes) -> int:
    return int.from_bytes(good[:8], "little")


def damaged_files(good: bytes) -> Iterator[tuple[str, str, bytes, Words]]:
    """Files without a right checksum, or inconsistent ones with a right checksum."""
    end = 8 + header_length(good)
    for count in (0, 1, 7):
        yield "A1", f"{count} bytes", good[:count], ("truncated",)
    yield "A1", "a length and nothing else", good[:8], ("truncated",)
    yield "A1", "cut in the header", good[: end - 100], ("truncated",)
    yield "A1", "cut behind the header", good[:end], ("truncated",)
    yield "A1", "cut by one byte", good[:-1], (f"{len(good):,}", f"{len(good) - 1:,}: truncated")
    yield "A2", "a trailing byte", good + b"\0", (f"{len(good):,}", "added")
    yield "A2", "a trailing byte, sealed", seal(good + b"\0"), ("added",)
    yield "A2", "a zip archive behind it", polyglot(good), ("added",)
    yield "A2", "a zip archive behind it, sealed", seal(polyglot(good)), ("added",)
    size = len(CheckpointParts.parse(good).data)
    yield "A2", "a hole", change_entry(good, COUNT, data_offsets=[0, 0]), ("safetensors",)
    yield "A2", "two tensors in one place", change_entry(good, data_offsets=[0, 8]), ("safetensors",)
    for name, offsets in {
        "backwards": [8, 0], "negative": [-8, 0], "fractions": [0.5, 8.5], "texts": ["0", "8"], "one": [8],
        "three": [0, 8, 16], "none": [], "null": None, "past the end": [0, size + 8], "2**70": [0, 2**70],
        "truth values": [False, True],
    }.items():  # fmt: skip
        yield "A2", f"offsets {name}", change_entry(good, data_offsets=offsets), ()
    yield "A2", "an infinite offset", edit_header(good, lambda h: h.replace(f", {size}]", ", 1e999]")), ()
    yield "A3", "a header of 2**40", struct.pack("<Q", 2**40) + good[8:], ("header", f"{2**40:,}")
    for claim in (0, 1, 100_000_001, 2**63, 2**64 - 1):
        yield "A3", f"a header of {claim}", struct.pack("<Q", claim) + good[8:], ("header", f"{claim:,}")
    yield "A4", "200,000 tensors", add_empty_tensors(good, 200_000), ("1,048,576",)
    yield "A4", "5,000 empty tensors", add_empty_tensors(good, 5000), ()
    yield "A4", "a header of 100 MB", join(b" " * 100_000_000, b""), ("1,048,576",)
    yield (
        "A5",
        "a tensor twice",
        add_to_header(good, f'"{FC}": {json.dumps(CheckpointParts.parse(good).header[FC])}'),
        ("twice",),
    )
    yield "A5", "metadata twice", add_to_header(good, '"__metadata__": {"scsuite": "{}"}'), ("twice",)
    yield "A5", "a deep header", add_to_header(good, f'"x": {nest(100_000)}'), ("header",)
    yield "A5", "a header of 200 levels", add_to_header(good, f'"x": {nest(200)}'), ()
    yield "A5", "a header that is not UTF-8", join(good[8:end].replace(b"fc.weight", b"fc.\xff\xfeght"), good[end:]), ()
    yield "A5", "a header in UTF-16", join(good[8:end].decode().encode("utf-16"), good[end:]), ("header",)
    for name, kind in {"unknown": "F7", "of 4 bits": "F4", "a number": 5, "null": None, "a list": ["F32"]}.items():
        yield "A5", f"a type {name}", change_entry(good, dtype=kind), ()
    for shape in (
        [2**40, 2**40], [0, 2**62], [2**62, 0], [2**63, 0], [0, 10**30], [0, -1], [-1, 0], [1.5], [True], [[1]], "ab",
        None, 5, [1] * 70, [0] * 20_000, [2**32 - 1, 2**32 - 1, 0],
    ):  # fmt: skip
        yield "A5", f"a shape {str(shape)[:40]}", change_entry(good, shape=shape), ()
        yield (
            "A5",
            f"one more, of shape {str(shape)[:40]}",
            add_to_header(good, f'"model.x": {json.dumps({"dtype": "F32", "shape": shape, "data_offsets": [0, 0]})}'),
            (),
        )
    yield "A5", "a header that is a list", join(b"[1, 2]", b""), ("header",)
    yield "A5", "a header that is a number", join(b"12345", b""), ("header",)
    yield "A5", "a header that is null", join(b"null", b""), ("header",)
    yield "A5", "a tensor that is a number", add_to_header(good, '"model.x": 5'), ("header",)
    yield "A5", "a number of 5,000 digits", add_to_header(good, f'"model.x": {"9" * 5000}'), ("header",)
    yield (
        "A5",
        "a control character in a name",
        add_to_header(good, '"\\u001b[31mred\\n": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'),
        (),
    )
    yield (
        "A5",
        "a name of 500 kB",
        add_to_header(good, f'"model.{"x" * 500_000}": {{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'),
        (),
    )
    yield "A6", "a flipped bit in the data", flip_bit(good, len(good) - 9), ("sha256",)
    yield "A6", "a flipped bit in the checksum", flip_bit(good, good.index(b'sha256\\": \\"') + 20), ("sha256",)
    yield "A6", "a flipped bit in a class's name", flip_bit(good, good.index(b"circle") + 1), ("sha256",)


def foreign_files() -> Iterator[tuple[str, str, bytes, Words]]:
    """Files of other formats; those that could execute code would create the canary."""

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch canary",)

    for new in (True, False):
        file = io.BytesIO()
        torch.save({"weights": torch.zeros(3), "x": Payload()}, file, _use_new_zipfile_serialization=new)
        yield "A10", f"a .pt that runs os.system, {'zip' if new else 'old'}", file.getvalue(), ()
    for protocol in (0, 2, 4):
        yield "A10", f"a pickle that runs os.system, protocol {protocol}", pickle.dumps(Payload(), protocol), ()
    yield "A10", "plain torch weights", _torch_weights(), ()
    header = b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    yield "A10", "another program's safetensors file", join(header, b"a"), ("scsuite",)
    yield "A10", "an empty safetensors file", join(b"{}", b""), ("scsuite",)
    yield "A10", "an HTML page", b"<!DOCTYPE html><html><body>404</body></html>", ()
    yield "A10", "JSON", b'{"weights": [1, 2, 3]}', ()
    yield "A10", "gzip", gzip.compress(b"weights" * 100), ()
    yield "A10", "a PNG", b"\x89PNG\r\n\x1a\n" + bytes(100), ()
    yield "A10", "zeros", bytes(10_000), ("header",)


def _torch_weights() -> bytes:
    file = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(3)}, file)
    return file.getvalue()


# --- A7 to A9, A12, A15: well-formed files with other contents ---


def set_metadata(*path: str, value: Any) -> Change:
    """Set a value of the metadata; `...` removes it."""

    def change(parts: CheckpointParts) -> None:
        node = parts.metadata
        for key in path[:-1]:
            node = node[key]
        if value is ...:
            del node[path[-1]]
        else:
            node[path[-1]] = value

    return change


def edit_tensor(name: str, edit: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Change:
    """Change the values of a tensor."""
    return lambda parts: parts.put(name, edit(parts.array(name)))


def set_first(value: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def edit(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array.flat[0] = value
        return array

    return edit


def rename_tensor(old: str, new: str) -> Change:
    def change(parts: CheckpointParts) -> None:
        parts.tensors = {new if name == old else name: value for name, value in parts.tensors.items()}

    return change


def remove_tensors(fragment: str) -> Change:
    def change(parts: CheckpointParts) -> None:
        parts.tensors = {name: value for name, value in parts.tensors.items() if fragment not in name}

    return change


def add_tensor(name: str, array: np.ndarray[Any, Any]) -> Change:
    return lambda parts: parts.put(name, array)


def replace_metadata(value: Any) -> Change:
    """Write something else instead of the metadata."""

    def change(parts: CheckpointParts) -> None:
        parts.raw_metadata = value

    return change


def scale_weights(parts: CheckpointParts) -> None:
    """All weights are finite, but no logit is."""
    for name in list(parts.tensors):
        if name.startswith("model.") and name.endswith(".weight"):
            parts.put(name, np.full_like(parts.array(name), 3e38))


EMPTY = np.zeros(0, np.float32)

TENSORS: list[tuple[str, str, Change, Words]] = [
    ("A7", "a wrong shape", edit_tensor(FC, lambda a: a[:, :-1]), ("fc.weight is float32", "not float32")),
    ("A7", "a transposed shape", edit_tensor(FC, lambda a: a.T), ("fc.weight is",)),
    ("A7", "a missing tensor", remove_tensors("fc.weight"), ("fc.weight is missing",)),
    ("A7", "no tensor at all", remove_tensors(""), ("is missing",)),
    ("A7", "an extra tensor", add_tensor("model.fc.bias", np.zeros(10, np.float32)), ("fc.bias is not part",)),
    ("A7", "a tensor without a prefix", add_tensor("fc.bias", np.zeros(10, np.float32)), ("fc.bias",)),
    ("A7", "a tensor without a name", add_tensor("", np.zeros(1, np.float32)), ()),
    ("A7", "a tensor with only a prefix", add_tensor("model.", np.zeros(1, np.float32)), ()),
    ("A7", "another name", rename_tensor(FC, "model.fc.wieght"), ("fc.weight is missing", "fc.wieght is not")),
    *(
        ("A7", f"{kind} weights", edit_tensor(FC, operator.methodcaller("astype", kind)), (f"fc.weight is {kind}",))
        for kind in ("float64", "float16", "int8", "complex64", "bool")
    ),
    (
        "A7",
        "a count of float32",
        edit_tensor(COUNT, lambda a: a.astype(np.float32)),
        ("num_batches_tracked is float32",),
    ),
    ("A9", "NaN in a weight", edit_tensor(FC, set_first(NAN)), ("1 of", "not finite in fc.weight")),
    ("A9", "infinity in a weight", edit_tensor(FC, set_first(INF)), ("1 of", "not finite in fc.weight")),
    ("A9", "NaN everywhere", edit_tensor(FC, lambda a: a * np.float32(NAN)), ("not finite in fc.weight",)),
    ("A9", "a negative variance", edit_tensor(VAR, set_first(-1)), ("running_var",)),
    ("A9", "an infinite variance", edit_tensor(VAR, set_first(INF)), ("running_var",)),
    ("A9", "a negative count", edit_tensor(COUNT, set_first(-5)), ("num_batches_tracked",)),
]

BAD_METADATA: dict[tuple[str, ...], list[Any]] = {
    ("class_names",): [..., None, 5, "circle", {}, [], ["one"], [1] * 10, [""] * 10, ["a"] * 10, [None] * 10,
                       [f"c{i}" for i in range(100)], [["a"]] * 10],
    ("mean",): [..., None, 0.5, "0.5", [0.5, 0.5], [NAN] * 3, [INF] * 3, ["0.5"] * 3, [None] * 3, [True] * 3, [0.5] * 4,
                [[0.5]] * 3, [10**400] * 3],
    ("std",): [..., None, [0.5, 0.5], [0.0, 0.5, 0.5], [-0.5] * 3, [NAN] * 3, ["a"] * 3],
    ("temperature",): [None, 0, -0.59, 1e-308, 1e308, NAN, INF, 1e400, "0.59", True, [0.59], {}, 10**400],
    ("network",): [..., None, [], 5, {}],
    ("network", "num_classes"): [..., None, 7, 0, -1, 10**9, 10.0, "10", True, 10**1000],
    ("network", "width"): [..., None, 0.1, 0, -1, NAN, INF, 1e308, 1e-308, 16.1, "0.05", True, [0.05], 10**400],
    ("network", "logit_scale"): [..., None, 1.0, NAN, "0.125", [0.125]],
    ("precision",): [..., None, "fp7", 5, [], {}],
    ("config",): [..., None, [], "config", 5],
    ("config", "epochs"): [None, 0, -1, 10**9, "2", 2.5, NAN, True, [2]],
    ("config", "batch_size"): [None, 0, -1, "16"],
    ("config", "data"): [None, 5, ["shapes"], "", {}],
    ("config", "seed"): [-1, 2**64, "0", None],
    ("config", "lr_max"): [-1, 0, NAN, INF, "auto"],
    ("config", "augment"): [5, {}, []],
    ("config", "data_dir"): [5, []],
    ("config", "optimizer"): ["sgdd", None, [], {}],
    ("config", "width"): [-1, 1e308, [1]],
    ("config", "test_split"): [2, "half"],
    ("config", "device"): [5, None],
    ("config", "limit_test"): [0, -1, 1.5],
    ("format",): [..., None, 0, FORMAT + 1, "1", [], {}],
}  # fmt: skip

METADATA: list[tuple[str, str, Change, Words]] = [
    *(
        ("A12" if path == ("format",) else "A8", f"{'.'.join(path)} {_name}", set_metadata(*path, value=value), ())
        for path, values in BAD_METADATA.items()
        for value in values
        for _name in ["missing" if value is ... else repr(value)[:40]]
    ),
    ("A15", "metadata that are no JSON", replace_metadata('"sha256": "' + "0" * 64 + '" {'), ()),
    ("A15", "metadata that are a list", replace_metadata(json.dumps([{"sha256": "0" * 64}])), ("metadata",)),
    ("A15", "metadata that are a text", replace_metadata(json.dumps('\\"sha256\\": \\"' + "0" * 64)), ()),
    ("A15", "metadata without a checksum", replace_metadata("{}"), ("sha256",)),
    ("A15", "metadata that are empty", replace_metadata(""), ()),
    ("A15", "metadata that are a number", replace_metadata(5), ()),
    ("A15", "metadata that are an object", replace_metadata({}), ()),
    ("A15", "metadata of 10 MB", set_metadata("note", value="x" * 10_000_000), ("1,048,576",)),
    ("A15", "metadata of 900 kB", replace_metadata(json.dumps({"sha256": "0" * 64, "x": "y" * 900_000})), ("format",)),
    ("A15", "deep metadata", replace_metadata('{"sha256": "' + "0" * 64 + '", "x": ' + nest(100_000) + "}"), ()),
    (
        "A15",
        "a metadata key twice",
        replace_metadata('{"sha256": "' + "0" * 64 + '", "format": 2, "format": 1}'),
        ("twice",),
    ),
]

BAD_RESUME_STATES: dict[tuple[str, ...], list[Any]] = {
    ("state",): [None, [], 5, "7", {}],
    ("state", "step"): [..., None, -1, 0, 2 * STEPS_PER_EPOCH + 1, 10**9, "7", 7.5, 7.0, NAN, True, [7]],
    ("state", "totals"): [..., None, [], "x", {}, {"loss": 0}],
    ("state", "totals", "loss"): [..., None, NAN, INF, -1, "0"],
    ("state", "totals", "num_images"): [..., None, -1, 3, 10**9, 1.5, "0"],
    ("state", "totals", "num_correct"): [1, -1, "0", None],
    ("state", "totals", "seconds"): [NAN, -1, None],
    ("state", "totals", "more"): [1],
    ("state", "best"): [..., None, 5, [], {}, "x"],
    ("state", "best", "epoch"): [..., 0, -1, 2, 10**9, "1", 1.0],
    ("state", "best", "accuracy"): [NAN, 1.5, -1, "1", None],
    ("state", "best", "selected_on"): ["val", "train", 5, None, []],
    ("state", "images_per_second"): [..., None, 5, "abc", [NAN], [0], [-1], ["1"], [None], [[1]]],
    ("config", "lr_max"): [None],
    ("config", "lr_min"): [None],
    ("data",): [..., None, {"name": "cifar10", "fingerprint": "0"}, {"name": "shapes"}],
    ("policy",): [..., None, {}, "x" * 100_000],
    ("augment_backend",): [..., None, "albumentations", 5, []],
}
OTHER_RUNS: dict[tuple[str, ...], Any] = {  # valid metadata of another run
    ("config", "epochs"): 3, ("config", "batch_size"): 32, ("config", "seed"): 5, ("config", "optimizer"): "adamw",
    ("config", "lr_max"): 0.2, ("config", "limit_train"): 50, ("config", "data"): "cifar10",
    ("class_names",): [f"class {i}" for i in range(10)], ("precision",): "bf16",
}  # fmt: skip

RESUME_STATES: list[tuple[str, str, Change, Words]] = [
    *(
        ("A15" if path[0] == "state" else "A12", f"{'.'.join(path)} {_name}", set_metadata(*path, value=value), ())
        for path, values in BAD_RESUME_STATES.items()
        for value in values
        for _name in ["missing" if value is ... else repr(value)[:40]]
    ),
    *(
        ("A12", f"of a run with another {path[-1]}", set_metadata(*path, value=value), ())
        for path, value in OTHER_RUNS.items()
    ),
    ("A11", "a checkpoint without its position", set_metadata("state", value=...), ("weights only",)),
    ("A11", "a checkpoint without its optimizer", remove_tensors("optimizer."), ("momentum_buffer", "missing")),
    ("A7", "a missing momentum", remove_tensors(MOMENTUM), ("momentum_buffer.fc.weight is missing",)),
    ("A7", "an extra momentum", add_tensor("optimizer.momentum_buffer.x", EMPTY), ("x is not part",)),
    ("A7", "an optimizer's tensor without a parameter", add_tensor("optimizer.", EMPTY), ("not part",)),
    ("A7", "a momentum of another shape", edit_tensor(MOMENTUM, lambda a: a[:1]), ("momentum_buffer.fc.weight is",)),
    (
        "A7",
        "a momentum of one number",
        edit_tensor(MOMENTUM, lambda a: a.reshape(-1)[:1]),
        ("momentum_buffer.fc.weight",),
    ),
    ("A7", "a momentum of float64", edit_tensor(MOMENTUM, lambda a: a.astype(np.float64)), ("float64",)),
    ("A7", "a momentum of int64", edit_tensor(MOMENTUM, lambda a: a.astype(np.int64)), ("int64",)),
    ("A7", "the state of another optimizer", rename_tensor(MOMENTUM, "optimizer.exp_avg.fc.weight"), ("exp_avg",)),
    ("A7", "a scaler where there is none", add_tensor("scaler.scale", np.ones((), np.float32)), ("scaler.scale",)),
    ("A9", "NaN in the momentum", edit_tensor(MOMENTUM, set_first(NAN)), ("not finite", "momentum_buffer.fc.weight")),
    ("A9", "infinity in the momentum", edit_tensor(MOMENTUM, set_first(-INF)), ("not finite",)),
]


# --- A13, A14: paths ---


def path_cases(good: GoodRun) -> Iterator[FaultCase]:
    """Paths that are not readable files."""

    def make_with(make: Callable[[Path], None]) -> Callable[[Sandbox], Path]:
        def make_path(sandbox: Sandbox) -> Path:
            make(sandbox.inputs / "given")
            return sandbox.inputs / "given"

        return make_path

    def bind(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as unix_socket, contextlib.chdir(path.parent):  # its path must be short
            unix_socket.bind(path.name)

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(5 * 2**30)

    def sparse_header(path: Path) -> None:
        header = b'{"model.x":{"dtype":"U8","shape":[1048576,5120],"data_offsets":[0,5368709120]}}'
        path.write_bytes(join(header, b""))
        with path.open("ab") as file:
            file.truncate(8 + len(header) + 5 * 2**30)

    paths: dict[str, tuple[Callable[[Sandbox], object], Words]] = {
        "missing": (make_with(lambda path: None), ("No such file",)),
        "a folder": (make_with(Path.mkdir), ()),
        "a FIFO": (make_with(os.mkfifo), ("pipe",)),
        "a socket": (make_with(bind), ()),
        "a link to nowhere": (make_with(lambda path: path.symlink_to("nowhere")), ("a link to nothing",)),
        "a link to itself": (make_with(lambda path: path.symlink_to(path)), ("symbolic links",)),
        "/dev/zero": (lambda sandbox: "/dev/zero", ("device",)),
        "/dev/null": (lambda sandbox: "/dev/null", ("device",)),
        "/dev/stdin": (lambda sandbox: "/dev/stdin", ()),
        "/proc/self/mem": (lambda sandbox: "/proc/self/mem", ()),
        "below a file": (lambda sandbox: good.path / "model.safetensors" / "x", ()),
        "a name of 300 letters": (lambda sandbox: "x" * 300, ("too long",)),
        "a NUL in the name": (lambda sandbox: "a\0b", ("null",)),
        "a home of nobody": (lambda sandbox: "~nobody-here/x", ("No such file",)),
        "a new line and an escape in the name": (lambda sandbox: "a\n\x1b[31mb", ("No such file",)),
        "5 GB of zeros": (make_with(sparse), ("header",)),
        "5 GB under a small header": (make_with(sparse_header), ("4,096 MB",)),
    }
    for name, (make_path, words) in paths.items():
        for command in ("evaluate", "gradcam"):
            yield FaultCase("A13", f"{name}, {command}", _at_path(command, "--ckpt", make_path), 3, words)
        if "GB" not in name:
            yield FaultCase("A13", f"{name}, train", _at_path("train", "--resume", make_path), 3)

    def instead_of_checkpoint(make: Callable[[Path], None]) -> Callable[[Sandbox], list[object]]:
        def given(sandbox: Sandbox) -> list[object]:
            run_path = good.unfinished(sandbox)
            for path in (run_path / "checkpoints").iterdir():
                path.unlink()
            make(run_path / "checkpoints" / good.first.name)
            return ["train", "--resume", run_path]

        return given

    instead: dict[str, Callable[[Path], None]] = {
        "folder": Path.mkdir, "FIFO": os.mkfifo, "link to itself": lambda p: p.symlink_to(p), "5 GB of zeros": sparse,
    }  # fmt: skip
    for name, make in instead.items():
        yield FaultCase("A13", f"a checkpoint that is a {name}", instead_of_checkpoint(make), 3, (good.first.name,))

    def unreadable(sandbox: Sandbox) -> list[object]:
        for folder in (sandbox.path.parent, sandbox.path, sandbox.inputs):
            folder.chmod(0o755)
        arguments = evaluate(sandbox, good.weights)
        Path(str(arguments[2])).chmod(0)
        return arguments

    yield FaultCase("A13", "a file that may not be read", unreadable, 3, ("Permission denied",), before=become_nobody)


def _at_path(command: str, flag: str, make_path: Callable[[Sandbox], object]) -> Callable[[Sandbox], list[object]]:
    return lambda sandbox: [command, flag, make_path(sandbox)]


def race_cases(good: GoodRun) -> Iterator[FaultCase]:
    """The file changes right after it was opened."""

    def given(sandbox: Sandbox) -> list[object]:
        path = sandbox.path.parent / "moving.safetensors"  # not among the inputs, since it changes
        path.write_bytes(good.weights)
        return ["evaluate", "--ckpt", path, "--device", "cpu"]

    def replace(path: Path) -> None:
        path.with_name("other").write_bytes(b"something else")
        path.with_name("other").replace(path)

    def overwrite(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(bytes(50))

    def grow(path: Path) -> None:
        with path.open("ab") as file:
            file.write(bytes(50))

    for name, change, code in (
        ("replaced by another", replace, 0), ("removed", Path.unlink, 0), ("overwritten in part", overwrite, 3),
        ("truncated", lambda path: os.truncate(path, 5000), 3), ("emptied", lambda path: os.truncate(path, 0), 3),
        ("longer", grow, 3),
    ):  # fmt: skip
        yield FaultCase("A14", f"{name} while it is read", given, code, before=_when_opened(change))
    overwritten = _when_opened(overwrite, after_header=True)
    yield FaultCase("A14", "overwritten after its header was read", given, 3, ("sha256",), before=overwritten)


def _when_opened(change: Callable[[Path], None], *, after_header: bool = False) -> Callable[[], None]:
    """Change the file as soon as the program has opened it, or parses its header."""

    def before() -> None:
        original_open, original_loads = os.open, json.loads
        pending = [Path.cwd().parent / "moving.safetensors"]

        def open_and_change(path: Any, *args: Any, **kwargs: Any) -> int:
            descriptor = original_open(path, *args, **kwargs)
            if not after_header and pending and str(path) == str(pending[0]):
                change(pending.pop())
            return descriptor

        def loads_and_change(*args: Any, **kwargs: Any) -> Any:
            if after_header and pending:
                change(pending.pop())
            return original_loads(*args, **kwargs)

        os.open, json.loads = open_and_change, loads_and_change

    return before


# --- A16: runs with damaged files ---


def resume_cases(good: GoodRun) -> Iterator[FaultCase]:
    """Runs that must resume in spite of a damage, and runs that must not resume."""
    last = good.last.read_bytes()
    newer = {
        "cut": last[:-1], "empty": b"", "flipped": flip_bit(last, len(last) - 9), "a pickle": pickle.dumps(5),
        "of a newer format": change_file(last, set_metadata("format", value=FORMAT + 1)),
        "without class names": change_file(last, set_metadata("class_names", value=...)),
    }  # fmt: skip
    for name, data in newer.items():

        def given(sandbox: Sandbox, data: bytes = data) -> list[object]:
            path = good.unfinished(sandbox)
            (path / "checkpoints" / good.last.name).write_bytes(data)
            return ["train", "--resume", path]

        yield FaultCase(
            "A16",
            f"the newest checkpoint {name}",
            given,
            0,
            ("skipped a damaged checkpoint", good.last.name),
            after=good.compare_end,
        )

    def undamaged(sandbox: Sandbox) -> list[object]:
        return ["train", "--resume", good.unfinished(sandbox)]

    def from_the_first(sandbox: Sandbox) -> list[object]:
        path = good.unfinished(sandbox)
        (path / "checkpoints" / good.last.name).unlink()
        return ["train", "--resume", path]

    yield FaultCase("A16", "nothing wrong", undamaged, 0, after=good.compare_end)
    yield FaultCase("A16", "only the older checkpoint", from_the_first, 0, after=good.compare_end)

    def all_damaged(sandbox: Sandbox) -> list[object]:
        path = good.unfinished(sandbox)
        for name in (good.first.name, good.last.name):
            (path / "checkpoints" / name).write_bytes(b"no")
        return ["train", "--resume", path]

    yield FaultCase("A16", "both checkpoints damaged", all_damaged, 3, (good.last.name,))
    for command in ("evaluate", "gradcam"):
        explicit = with_file(evaluate if command == "evaluate" else gradcam, flip_bit(last, len(last) - 9))
        yield FaultCase("A16", f"the damaged one by its name, {command}", explicit, 3, ("sha256",))

        def damaged_run(sandbox: Sandbox, command: str = command) -> list[object]:
            path = sandbox.runs / "run"
            shutil.copytree(good.path, path)
            (path / "model.safetensors").write_bytes(good.weights[:-1])
            return [command, "--ckpt", path]

        yield FaultCase(
            "A16", f"a run whose weights are cut, {command}", damaged_run, 3, ("model.safetensors", "truncated")
        )

    def weights_as_checkpoint(sandbox: Sandbox) -> Sequence[object]:
        return resume_with(good)(sandbox, good.weights)

    yield FaultCase("A11", "weights as a run's only checkpoint", weights_as_checkpoint, 3, ("weights only",))
    yield FaultCase(
        "A11",
        "a file of weights to resume",
        lambda sandbox: ["train", "--resume", evaluate(sandbox, good.weights)[2]],
        3,
    )
    yield from _settings_cases(good)
    yield from _result_cases(good)


OTHER_SETTINGS = (
    ("epochs", "3"),
    ("batch_size", "32"),
    ("data", "cifar10"),
    ("lr_max", "1.5"),
)  # of another run
BAD_SETTINGS = (
    ("epochs", "-1"), ("epochs", "two"), ("epochs", ".nan"), ("batch_size", "0"), ("width", "1e308"),
    ("optimizer", "sgdd"), ("optimizer", "[sgd]"), ("data", "5"), ("lr_max", ".inf"), ("seed", "-1"),
    ("val_split", "-1"), ("augment", "{}"),
    ("cycle_momentum", "5"),
)  # fmt: skip


def bad_configs(config: str) -> dict[str, str]:
    """Texts of config.yaml that scsuite never writes."""
    tag = "epochs: !!python/object/apply:os.system ['touch canary']\n"
    return {
        "empty": "", "a list": "[1, 2]", "a number": "5", "no YAML": "a: [", "binary": "\x00\x01\x02",
        "deep": "a: " + nest(5000), "a name twice": config + "epochs: 2\n", "65 kB": config + "#" * 65_536,
        "one line": "epochs: 2\n",
        "aliases": "a: &a [1, 1]\nb: [*a, *a]\n" + config, "a tag of a tuple": config + "x: !!python/tuple [1]\n",
        "a tag that runs os.system": tag + config.replace("epochs", "x"),
        **{f"{name} {value}": replace_setting(config, name, value) for name, value in BAD_SETTINGS},
    }  # fmt: skip


def replace_setting(config: str, name: str, value: str) -> str:
    lines = (f"{name}: {value}" if line.startswith(f"{name}:") else line for line in config.splitlines())
    return "\n".join(lines) + "\n"


def _settings_cases(good: GoodRun) -> Iterator[FaultCase]:
    text = (good.path / "config.yaml").read_text()
    bad = bad_configs(text)
    # Before the first checkpoint and after the last one, nothing tells these from the original.
    others = {f"{name} {value}": replace_setting(text, name, value) for name, value in OTHER_SETTINGS}
    for position, texts in {"with a checkpoint": bad | others, "before the first": bad, "finished": bad}.items():
        for name, content in texts.items():

            def given(sandbox: Sandbox, content: str = content, position: str = position) -> list[object]:
                path = good.unfinished(sandbox)
                (path / "config.yaml").write_text(content)
                if position == "finished":
                    shutil.copy(good.path / "result.json", path)
                if position == "before the first":
                    shutil.rmtree(path / "checkpoints")
                return ["train", "--resume", path]

            yield FaultCase("A12", f"config.yaml {name}, {position}", given, 3, ("config.yaml",))


def _result_cases(good: GoodRun) -> Iterator[FaultCase]:
    result = (good.path / "result.json").read_bytes()
    for name, content in {
        "empty": b"", "cut": result[:-20], "binary": b"\x00\xff\xfe", "a list": b"[1]", "deep": nest(100_000).encode(),
        "NaN": b"NaN", "null": b"null",
    }.items():  # fmt: skip

        def given(sandbox: Sandbox, content: bytes = content) -> list[object]:
            path = good.unfinished(sandbox)
            (path / "result.json").write_bytes(content)
            return ["train", "--resume", path]

        yield FaultCase("A16", f"result.json {name}", given, 0, after=good.compare_end)

    def of_another_command(sandbox: Sandbox) -> list[object]:
        path = good.unfinished(sandbox)
        (path / "result.json").write_text('{"command": "evaluate"}')
        return ["train", "--resume", path]

    yield FaultCase("A16", "result.json of another command", of_another_command, 3, ("result.json", "evaluate"))


# --- what a foreign file may not decide ---


NO_DATA = ("/dev/zero", "/proc/self/mem", "x" * 300, "~nobody-here/x", "a\0b", "http://127.0.0.1:9/x", "/etc/passwd")


def trust_cases(good: GoodRun) -> Iterator[FaultCase]:
    """Metadata that names places, or that is valid but of no use."""

    def with_config(sandbox: Sandbox, **config: object) -> bytes:
        return change_file(good.weights, lambda parts: parts.metadata["config"].update(config))

    def written_elsewhere(sandbox: Sandbox) -> str:
        return "it wrote to the place that the file names" if (sandbox.path / "stolen").exists() else ""

    for command in (evaluate, gradcam):
        name = command.__name__

        def with_cache(sandbox: Sandbox, command: Command = command) -> Sequence[object]:
            return command(sandbox, with_config(sandbox, cache_dir=str(sandbox.path / "stolen")))

        def with_download(sandbox: Sandbox, command: Command = command) -> Sequence[object]:
            return command(sandbox, with_config(sandbox, data="cifar10", data_dir=str(sandbox.path / "stolen")))

        def foreign_data(sandbox: Sandbox, command: Command = command) -> Sequence[object]:
            (sandbox.inputs / BATCHES).mkdir()
            (sandbox.inputs / BATCHES / "data_batch_1").write_bytes(b"foreign")
            return command(sandbox, with_config(sandbox, data="cifar10", data_dir=str(sandbox.inputs)))

        yield FaultCase("A8", f"a cache folder, {name}", with_cache, 0, after=written_elsewhere)
        yield FaultCase(
            "A8",
            f"a folder to fetch into, {name}",
            with_download,
            3,
            ("download",),
            before=offline,
            after=written_elsewhere,
        )
        yield FaultCase("A8", f"a folder that has the data, {name}", foreign_data, 3, (BATCHES,), before=offline)
        for data in NO_DATA:

            def with_data(sandbox: Sandbox, command: Command = command, data: str = data) -> Sequence[object]:
                return command(sandbox, with_config(sandbox, data=data))

            yield FaultCase("A8", f"data {data[:20]!r}, {name}", with_data, 3)
        names = [f"class {i}" for i in range(10)]
        other = change_file(good.weights, set_metadata("class_names", value=names))
        yield FaultCase("A8", f"classes of other data, {name}", with_file(command, other), 3, ("class 0", "circle"))
        huge = change_file(good.weights, scale_weights)
        yield FaultCase(
            "A9", f"finite weights without finite answers, {name}", with_file(command, huge), 3, ("finite logits",)
        )
        far = change_file(good.weights, set_metadata("mean", value=[1e308] * 3))
        yield FaultCase("A8", f"a mean far from any image, {name}", with_file(command, far), 3, ("finite logits",))
        yield FaultCase("A0", f"weights, {name}", with_file(command, good.weights), 0)
        yield FaultCase(
            "A0",
            f"weights, unpacked and packed again, {name}",
            with_file(command, CheckpointParts.parse(good.weights).pack()),
            0,
        )
        yield FaultCase("A0", f"a checkpoint, {name}", with_file(command, good.state), 0)


def offline() -> None:
    """No mirror answers: nothing is downloaded."""
    from scsuite.core.dataset import cifar10

    cifar10.MIRRORS = ("http://127.0.0.1:9/none", "http://127.0.0.1:9/either")


def content_cases(good: GoodRun) -> Iterator[FaultCase]:
    """Each bad file for each command; gradcam reads files as evaluate does, so it gets every fourth."""
    commands = {"evaluate": evaluate, "train": resume_with(good), "gradcam": gradcam}
    files = [*damaged_files(good.state), *foreign_files()]
    changes = TENSORS + METADATA
    files += [(fault, name, change_file(good.state, change), words) for fault, name, change, words in changes]
    for number, (fault, name, data, words) in enumerate(files):
        for command, command_of in commands.items():
            if command != "gradcam" or number % 4 == 0:
                yield FaultCase(fault, f"{name}, {command}", with_file(command_of, data), 3, words)
    for fault, name, change, words in RESUME_STATES:
        data = change_file(good.state, change)
        yield FaultCase(fault, f"{name}, train", with_file(commands["train"], data), 3, words)


def rows(quick: bool) -> list[ScoreRow]:
    """One row: the cases of A."""
    with new_sandbox() as sandbox:
        outcome = run(sandbox, *FAULT_ARGS, "--epochs", "2", "--lr-max", "0.1")
        if outcome.code:
            raise RuntimeError(outcome.err)
        good = GoodRun(sandbox.run_dirs[0])
        groups = (content_cases, path_cases, race_cases, resume_cases, trust_cases)
        cases = [case for group in groups for case in group(good)]
        return [check_cases("A checkpoint files", thin_cases(cases, QUICK_EVERY) if quick else cases)]
