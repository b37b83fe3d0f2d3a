"""A: checkpoint files that are damaged, foreign or hostile, given to evaluate, gradcam and train --resume.

Every file but those whose damage is the point has a right checksum: see `sealed`.
"""

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

from tests.faults.box import TINY, Box, new_box, run
from tests.faults.case import Case, Row, check_cases, thinned
from tests.faults.sealed import File, join, seal

FC = "model.fc.weight"
VAR = "model.prep.1.running_var"
COUNT = "model.prep.1.num_batches_tracked"
MOMENTUM = "optimizer.momentum_buffer.fc.weight"
STEPS = 7  # of an epoch; the run has two
NAN, INF = math.nan, math.inf

Words = tuple[str, ...]
Change = Callable[[File], None]
Command = Callable[[Box, bytes], Sequence[object]]


class Good:
    """A run of two epochs, and its files: the state after one epoch, that after two, the weights."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first, self.last = (path / "checkpoints" / f"step-{step:06d}.safetensors" for step in (STEPS, 2 * STEPS))
        self.state, self.weights = self.first.read_bytes(), (path / "model.safetensors").read_bytes()

    def unfinished(self, box: Box) -> Path:
        """A copy of the run as it stood before its end was written."""
        path = box.runs / "run"
        shutil.copytree(self.path, path)
        (path / "result.json").unlink()
        (path / "model.safetensors").unlink()
        return path

    def ends_alike(self, box: Box) -> str:
        """What is wrong with a resumed run: its weights must be those of the run that was never stopped."""
        path = box.runs / "run" / "model.safetensors"
        if not path.exists() or path.read_bytes() != self.weights:
            return "the resumed run ended with other weights"
        return "" if (path.parent / "result.json").exists() else "no result.json"


def changed(file: bytes, change: Change) -> bytes:
    """A file with something changed, sealed again."""
    parts = File.of(file)
    change(parts)
    return parts.packed()


# --- what a file is given to ---


def evaluate(box: Box, data: bytes) -> list[object]:
    path = box.inputs / "given.safetensors"
    path.write_bytes(data)
    return ["evaluate", "--ckpt", path, "--device", "cpu"]


def gradcam(box: Box, data: bytes) -> list[object]:
    return ["gradcam", *evaluate(box, data)[1:], "--count", "2"]


def resume_of(good: Good) -> Command:
    """As a run's only state."""

    def resume(box: Box, data: bytes) -> list[object]:
        path = good.unfinished(box)
        shutil.rmtree(path / "checkpoints")
        (path / "checkpoints").mkdir()
        (path / "checkpoints" / good.first.name).write_bytes(data)
        return ["train", "--resume", path]

    return resume


def giving(command: Command, data: bytes) -> Callable[[Box], Sequence[object]]:
    return lambda box: command(box, data)


# --- A1 to A6: bytes ---


def polyglot(good: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", b"cos\nsystem\n(S'touch canary'\ntR.")
    return good + file.getvalue()


def entry(good: bytes, name: str = FC, **values: Any) -> bytes:
    """One tensor's entry in the header with other values, the data as they were."""
    parts = File.of(good)
    header = parts.header
    header[name] |= values
    return parts.under(json.dumps(header).encode())


def header_text(good: bytes, edit: Callable[[str], str]) -> bytes:
    parts = File.of(good)
    return parts.under(edit(json.dumps(parts.header)).encode())


def many(good: bytes, count: int) -> bytes:
    """So many empty tensors beside the others."""
    parts = File.of(good)
    return parts.under(
        json.dumps(
            parts.header | {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}
        ).encode()
    )


def flipped(good: bytes, place: int) -> bytes:
    return good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def extra(good: bytes, text: str) -> bytes:
    """More JSON in front of the header's own."""
    return header_text(good, lambda header: "{" + text + ", " + header[1:])


def length_of(good: bytes) -> int:
    return int.from_bytes(good[:8], "little")


def damaged(good: bytes) -> Iterator[tuple[str, str, bytes, Words]]:
    """Files without a right checksum, or whose bytes do not add up under one."""
    end = 8 + length_of(good)
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
    size = len(File.of(good).data)
    yield "A2", "a hole", entry(good, COUNT, data_offsets=[0, 0]), ("safetensors",)
    yield "A2", "two tensors in one place", entry(good, data_offsets=[0, 8]), ("safetensors",)
    for name, offsets in {
        "backwards": [8, 0], "negative": [-8, 0], "fractions": [0.5, 8.5], "texts": ["0", "8"], "one": [8],
        "three": [0, 8, 16], "none": [], "null": None, "past the end": [0, size + 8], "2**70": [0, 2**70],
        "truth values": [False, True],
    }.items():  # fmt: skip
        yield "A2", f"offsets {name}", entry(good, data_offsets=offsets), ()
    yield "A2", "an infinite offset", header_text(good, lambda h: h.replace(f", {size}]", ", 1e999]")), ()
    yield "A3", "a header of 2**40", struct.pack("<Q", 2**40) + good[8:], ("header", f"{2**40:,}")
    for claim in (0, 1, 100_000_001, 2**63, 2**64 - 1):
        yield "A3", f"a header of {claim}", struct.pack("<Q", claim) + good[8:], ("header", f"{claim:,}")
    yield "A4", "200,000 tensors", many(good, 200_000), ("1,048,576",)
    yield "A4", "5,000 empty tensors", many(good, 5000), ()
    yield "A4", "a header of 100 MB", join(b" " * 100_000_000, b""), ("1,048,576",)
    yield "A5", "a tensor twice", extra(good, f'"{FC}": {json.dumps(File.of(good).header[FC])}'), ("twice",)
    yield "A5", "metadata twice", extra(good, '"__metadata__": {"scsuite": "{}"}'), ("twice",)
    yield "A5", "a deep header", extra(good, f'"x": {deep(100_000)}'), ("header",)
    yield "A5", "a header of 200 levels", extra(good, f'"x": {deep(200)}'), ()
    yield "A5", "a header that is not UTF-8", join(good[8:end].replace(b"fc.weight", b"fc.\xff\xfeght"), good[end:]), ()
    yield "A5", "a header in UTF-16", join(good[8:end].decode().encode("utf-16"), good[end:]), ("header",)
    for name, kind in {"unknown": "F7", "of 4 bits": "F4", "a number": 5, "null": None, "a list": ["F32"]}.items():
        yield "A5", f"a type {name}", entry(good, dtype=kind), ()
    for shape in (
        [2**40, 2**40], [0, 2**62], [2**62, 0], [2**63, 0], [0, 10**30], [0, -1], [-1, 0], [1.5], [True], [[1]], "ab",
        None, 5, [1] * 70, [0] * 20_000, [2**32 - 1, 2**32 - 1, 0],
    ):  # fmt: skip
        yield "A5", f"a shape {str(shape)[:40]}", entry(good, shape=shape), ()
        yield (
            "A5",
            f"one more, of shape {str(shape)[:40]}",
            extra(good, f'"model.x": {json.dumps({"dtype": "F32", "shape": shape, "data_offsets": [0, 0]})}'),
            (),
        )
    yield "A5", "a header that is a list", join(b"[1, 2]", b""), ("header",)
    yield "A5", "a header that is a number", join(b"12345", b""), ("header",)
    yield "A5", "a header that is null", join(b"null", b""), ("header",)
    yield "A5", "a tensor that is a number", extra(good, '"model.x": 5'), ("header",)
    yield "A5", "a number of 5,000 digits", extra(good, f'"model.x": {"9" * 5000}'), ("header",)
    yield (
        "A5",
        "a control character in a name",
        extra(good, '"\\u001b[31mred\\n": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'),
        (),
    )
    yield (
        "A5",
        "a name of 500 kB",
        extra(good, f'"model.{"x" * 500_000}": {{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'),
        (),
    )
    yield "A6", "a flipped bit in the data", flipped(good, len(good) - 9), ("sha256",)
    yield "A6", "a flipped bit in the checksum", flipped(good, good.index(b'sha256\\": \\"') + 20), ("sha256",)
    yield "A6", "a flipped bit in a class's name", flipped(good, good.index(b"circle") + 1), ("sha256",)


def foreign() -> Iterator[tuple[str, str, bytes, Words]]:
    """Files of other kinds; those that could run something would make the canary."""

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


# --- A7 to A9, A12, A15: sound files that say something else ---


def fact(*path: str, value: Any) -> Change:
    """Another value for a fact; `...` takes it out."""

    def change(file: File) -> None:
        place = file.facts
        for key in path[:-1]:
            place = place[key]
        if value is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return change


def tensor(name: str, edit: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Change:
    """Other values for a tensor."""
    return lambda file: file.put(name, edit(file.array(name)))


def with_first(value: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def edit(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array.flat[0] = value
        return array

    return edit


def renamed(old: str, new: str) -> Change:
    def change(file: File) -> None:
        file.tensors = {new if name == old else name: value for name, value in file.tensors.items()}

    return change


def without(part: str) -> Change:
    def change(file: File) -> None:
        file.tensors = {name: value for name, value in file.tensors.items() if part not in name}

    return change


def one_more(name: str, array: np.ndarray[Any, Any]) -> Change:
    return lambda file: file.put(name, array)


def text(value: Any) -> Change:
    """Something else where the facts stand."""

    def change(file: File) -> None:
        file.text = value

    return change


def scaled_weights(file: File) -> None:
    """All finite, but no answer of theirs is."""
    for name in list(file.tensors):
        if name.startswith("model.") and name.endswith(".weight"):
            file.put(name, np.full_like(file.array(name), 3e38))


NOTHING_OF_IT = np.zeros(0, np.float32)

TENSORS: list[tuple[str, str, Change, Words]] = [
    ("A7", "a wrong shape", tensor(FC, lambda a: a[:, :-1]), ("fc.weight is float32", "not float32")),
    ("A7", "a shape turned round", tensor(FC, lambda a: a.T), ("fc.weight is",)),
    ("A7", "a tensor less", without("fc.weight"), ("fc.weight is missing",)),
    ("A7", "no tensor at all", without(""), ("is missing",)),
    ("A7", "a tensor more", one_more("model.fc.bias", np.zeros(10, np.float32)), ("fc.bias is not part",)),
    ("A7", "a tensor of nobody", one_more("fc.bias", np.zeros(10, np.float32)), ("fc.bias",)),
    ("A7", "a tensor without a name", one_more("", np.zeros(1, np.float32)), ()),
    ("A7", "a tensor with only a prefix", one_more("model.", np.zeros(1, np.float32)), ()),
    ("A7", "another name", renamed(FC, "model.fc.wieght"), ("fc.weight is missing", "fc.wieght is not")),
    *(
        ("A7", f"{kind} weights", tensor(FC, operator.methodcaller("astype", kind)), (f"fc.weight is {kind}",))
        for kind in ("float64", "float16", "int8", "complex64", "bool")
    ),
    ("A7", "a count of float32", tensor(COUNT, lambda a: a.astype(np.float32)), ("num_batches_tracked is float32",)),
    ("A9", "NaN in a weight", tensor(FC, with_first(NAN)), ("1 of", "not finite in fc.weight")),
    ("A9", "infinity in a weight", tensor(FC, with_first(INF)), ("1 of", "not finite in fc.weight")),
    ("A9", "NaN everywhere", tensor(FC, lambda a: a * np.float32(NAN)), ("not finite in fc.weight",)),
    ("A9", "a negative variance", tensor(VAR, with_first(-1)), ("running_var",)),
    ("A9", "an infinite variance", tensor(VAR, with_first(INF)), ("running_var",)),
    ("A9", "a negative count", tensor(COUNT, with_first(-5)), ("num_batches_tracked",)),
]  # fmt: skip

BAD_FACTS: dict[tuple[str, ...], list[Any]] = {
    ("class_names",): [..., None, 5, "circle", {}, [], ["one"], [1] * 10, [""] * 10, ["a"] * 10, [None] * 10,
                       [f"c{i}" for i in range(100)], [["a"]] * 10],
    ("mean",): [..., None, 0.5, "0.5", [0.5, 0.5], [NAN] * 3, [INF] * 3, ["0.5"] * 3, [None] * 3, [True] * 3, [0.5] * 4,
                [[0.5]] * 3, [10**400] * 3],
    ("std",): [..., None, [0.5, 0.5], [0.0, 0.5, 0.5], [-0.5] * 3, [NAN] * 3, ["a"] * 3],
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
    ("format",): [..., None, 0, 2, "1", [], {}],
}  # fmt: skip

FACTS: list[tuple[str, str, Change, Words]] = [
    *(
        ("A12" if path == ("format",) else "A8", f"{'.'.join(path)} {_name}", fact(*path, value=value), ())
        for path, values in BAD_FACTS.items()
        for value in values
        for _name in ["missing" if value is ... else repr(value)[:40]]
    ),
    ("A15", "facts that are no JSON", text('"sha256": "' + "0" * 64 + '" {'), ()),
    ("A15", "facts that are a list", text(json.dumps([{"sha256": "0" * 64}])), ("facts",)),
    ("A15", "facts that are a text", text(json.dumps('\\"sha256\\": \\"' + "0" * 64)), ()),
    ("A15", "facts without a checksum", text("{}"), ("sha256",)),
    ("A15", "facts that are empty", text(""), ()),
    ("A15", "facts that are a number", text(5), ()),
    ("A15", "facts that are an object", text({}), ()),
    ("A15", "facts of 10 MB", fact("note", value="x" * 10_000_000), ("1,048,576",)),
    ("A15", "facts of 900 kB", text(json.dumps({"sha256": "0" * 64, "x": "y" * 900_000})), ("format",)),
    ("A15", "deep facts", text('{"sha256": "' + "0" * 64 + '", "x": ' + deep(100_000) + "}"), ()),
    ("A15", "a fact twice", text('{"sha256": "' + "0" * 64 + '", "format": 2, "format": 1}'), ("twice",)),
]  # fmt: skip

BAD_STATES: dict[tuple[str, ...], list[Any]] = {
    ("state",): [None, [], 5, "7", {}],
    ("state", "step"): [..., None, -1, 0, 2 * STEPS + 1, 10**9, "7", 7.5, 7.0, NAN, True, [7]],
    ("state", "sums"): [..., None, [], "x", {}, {"loss": 0}],
    ("state", "sums", "loss"): [..., None, NAN, INF, -1, "0"],
    ("state", "sums", "num_images"): [..., None, -1, 3, 10**9, 1.5, "0"],
    ("state", "sums", "correct"): [1, -1, "0", None],
    ("state", "sums", "seconds"): [NAN, -1, None],
    ("state", "sums", "more"): [1],
    ("state", "best"): [..., None, 5, [], {}, "x"],
    ("state", "best", "epoch"): [..., 0, -1, 2, 10**9, "1", 1.0],
    ("state", "best", "accuracy"): [NAN, 1.5, -1, "1", None],
    ("state", "best", "selected_on"): ["val", "train", 5, None, []],
    ("state", "speeds"): [..., None, 5, "abc", [NAN], [0], [-1], ["1"], [None], [[1]]],
    ("config", "lr_max"): [None],
    ("config", "lr_min"): [None],
    ("data",): [..., None, {"name": "cifar10", "fingerprint": "0"}, {"name": "shapes"}],
    ("policy",): [..., None, {}, "x" * 100_000],
    ("augment_backend",): [..., None, "albumentations", 5, []],
}
OTHER_RUNS: dict[tuple[str, ...], Any] = {  # facts that are sound and not this run's
    ("config", "epochs"): 3, ("config", "batch_size"): 32, ("config", "seed"): 5, ("config", "optimizer"): "adamw",
    ("config", "lr_max"): 0.2, ("config", "limit_train"): 50, ("config", "data"): "cifar10",
    ("class_names",): [f"class {i}" for i in range(10)], ("precision",): "bf16",
}  # fmt: skip

STATES: list[tuple[str, str, Change, Words]] = [
    *(
        ("A15" if path[0] == "state" else "A12", f"{'.'.join(path)} {_name}", fact(*path, value=value), ())
        for path, values in BAD_STATES.items()
        for value in values
        for _name in ["missing" if value is ... else repr(value)[:40]]
    ),
    *(
        ("A12", f"of a run with another {path[-1]}", fact(*path, value=value), ())
        for path, value in OTHER_RUNS.items()
    ),
    ("A11", "a state without its position", fact("state", value=...), ("weights alone",)),
    ("A11", "a state without its optimizer", without("optimizer."), ("momentum_buffer", "missing")),
    ("A7", "a momentum less", without(MOMENTUM), ("momentum_buffer.fc.weight is missing",)),
    ("A7", "a momentum more", one_more("optimizer.momentum_buffer.x", NOTHING_OF_IT), ("x is not part",)),
    ("A7", "an optimizer's tensor without a parameter", one_more("optimizer.", NOTHING_OF_IT), ("not part",)),
    ("A7", "a momentum of another shape", tensor(MOMENTUM, lambda a: a[:1]), ("momentum_buffer.fc.weight is",)),
    ("A7", "a momentum of one number", tensor(MOMENTUM, lambda a: a.reshape(-1)[:1]), ("momentum_buffer.fc.weight",)),
    ("A7", "a momentum of float64", tensor(MOMENTUM, lambda a: a.astype(np.float64)), ("float64",)),
    ("A7", "a momentum of int64", tensor(MOMENTUM, lambda a: a.astype(np.int64)), ("int64",)),
    ("A7", "averages of another optimizer", renamed(MOMENTUM, "optimizer.exp_avg.fc.weight"), ("exp_avg",)),
    ("A7", "a scaler where there is none", one_more("scaler.scale", np.ones((), np.float32)), ("scaler.scale",)),
    ("A9", "NaN in the momentum", tensor(MOMENTUM, with_first(NAN)), ("not finite", "momentum_buffer.fc.weight")),
    ("A9", "infinity in the momentum", tensor(MOMENTUM, with_first(-INF)), ("not finite",)),
]  # fmt: skip


# --- A13, A14: paths ---


def path_cases(good: Good) -> Iterator[Case]:
    """Paths that are no file to read."""

    def at(make: Callable[[Path], None]) -> Callable[[Box], Path]:
        def place(box: Box) -> Path:
            make(box.inputs / "given")
            return box.inputs / "given"

        return place

    def bind(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as it, _inside(path.parent):
            it.bind(path.name)

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(5 * 2**30)

    def sparse_header(path: Path) -> None:
        header = b'{"model.x":{"dtype":"U8","shape":[1048576,5120],"data_offsets":[0,5368709120]}}'
        path.write_bytes(join(header, b""))
        with path.open("ab") as file:
            file.truncate(8 + len(header) + 5 * 2**30)

    places: dict[str, tuple[Callable[[Box], object], Words]] = {
        "missing": (at(lambda path: None), ("No such file",)),
        "a folder": (at(Path.mkdir), ()),
        "a FIFO": (at(os.mkfifo), ("pipe",)),
        "a socket": (at(bind), ()),
        "a link to nowhere": (at(lambda path: path.symlink_to("nowhere")), ("No such file",)),
        "a link to itself": (at(lambda path: path.symlink_to(path)), ("symbolic links",)),
        "/dev/zero": (lambda box: "/dev/zero", ("device",)),
        "/dev/null": (lambda box: "/dev/null", ("device",)),
        "/dev/stdin": (lambda box: "/dev/stdin", ()),
        "/proc/self/mem": (lambda box: "/proc/self/mem", ()),
        "below a file": (lambda box: good.path / "model.safetensors" / "x", ()),
        "a name of 300 letters": (lambda box: "x" * 300, ("too long",)),
        "a NUL in the name": (lambda box: "a\0b", ("null",)),
        "a home of nobody": (lambda box: "~nobody-here/x", ("No such file",)),
        "a new line and an escape in the name": (lambda box: "a\n\x1b[31mb", ("No such file",)),
        "5 GB of zeros": (at(sparse), ("header",)),
        "5 GB under a small header": (at(sparse_header), ("4,096 MB",)),
    }
    for name, (place, words) in places.items():
        for command in ("evaluate", "gradcam"):
            yield Case("A13", f"{name}, {command}", _at_path(command, "--ckpt", place), 3, words)
        if "GB" not in name:
            yield Case("A13", f"{name}, train", _at_path("train", "--resume", place), 3)

    def instead_of_state(make: Callable[[Path], None]) -> Callable[[Box], list[object]]:
        def given(box: Box) -> list[object]:
            run_path = good.unfinished(box)
            for path in (run_path / "checkpoints").iterdir():
                path.unlink()
            make(run_path / "checkpoints" / good.first.name)
            return ["train", "--resume", run_path]

        return given

    instead: dict[str, Callable[[Path], None]] = {
        "folder": Path.mkdir, "FIFO": os.mkfifo, "link to itself": lambda p: p.symlink_to(p), "5 GB of zeros": sparse,
    }  # fmt: skip
    for name, make in instead.items():
        yield Case("A13", f"a state that is a {name}", instead_of_state(make), 3, (good.first.name,))

    def forbidden(box: Box) -> list[object]:
        for folder in (box.path.parent, box.path, box.inputs):
            folder.chmod(0o755)
        arguments = evaluate(box, good.weights)
        Path(str(arguments[2])).chmod(0)
        return arguments

    yield Case("A13", "a file that may not be read", forbidden, 3, ("Permission denied",), before=_become_nobody)


def _at_path(command: str, flag: str, place: Callable[[Box], object]) -> Callable[[Box], list[object]]:
    return lambda box: [command, flag, place(box)]


class _inside:  # noqa: N801 - reads as a word
    """A socket's path may have some hundred letters only."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, Path.cwd()

    def __enter__(self) -> None:
        os.chdir(self.folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self.before)


def _become_nobody() -> None:
    if os.getuid() == 0:  # whom no file refuses itself to
        os.setgid(65534)
        os.setuid(65534)


def race_cases(good: Good) -> Iterator[Case]:
    """The file changes while it is read: right after it was opened."""

    def given(box: Box) -> list[object]:
        path = box.path.parent / "moving.safetensors"  # it changes: not among the inputs
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
        ("cut", lambda path: os.truncate(path, 5000), 3), ("emptied", lambda path: os.truncate(path, 0), 3),
        ("longer", grow, 3),
    ):  # fmt: skip
        yield Case("A14", f"{name} while it is read", given, code, before=_when_opened(change))
    overwritten = _when_opened(overwrite, after_header=True)
    yield Case("A14", "overwritten after its header was read", given, 3, ("sha256",), before=overwritten)


def _when_opened(change: Callable[[Path], None], *, after_header: bool = False) -> Callable[[], None]:
    """Change the file as soon as the program has opened it, or parses its header."""

    def before() -> None:
        opening, parsing = os.open, json.loads
        waiting = [Path.cwd().parent / "moving.safetensors"]

        def opened(path: Any, *more: Any, **options: Any) -> int:
            descriptor = opening(path, *more, **options)
            if not after_header and waiting and str(path) == str(waiting[0]):
                change(waiting.pop())
            return descriptor

        def parsed(*more: Any, **options: Any) -> Any:
            if after_header and waiting:
                change(waiting.pop())
            return parsing(*more, **options)

        os.open, json.loads = opened, parsed

    return before


# --- A16, and what belongs to it ---


def resume_cases(good: Good) -> Iterator[Case]:
    """Runs that a damage must not end, and runs that must not go on."""
    last = good.last.read_bytes()
    newer = {
        "cut": last[:-1], "empty": b"", "flipped": flipped(last, len(last) - 9), "a pickle": pickle.dumps(5),
        "of a newer format": changed(last, fact("format", value=2)),
        "without class names": changed(last, fact("class_names", value=...)),
    }  # fmt: skip
    for name, data in newer.items():

        def given(box: Box, data: bytes = data) -> list[object]:
            path = good.unfinished(box)
            (path / "checkpoints" / good.last.name).write_bytes(data)
            return ["train", "--resume", path]

        yield Case("A16", f"the newest state {name}", given, 0, ("passed over", good.last.name), after=good.ends_alike)

    def sound(box: Box) -> list[object]:
        return ["train", "--resume", good.unfinished(box)]

    def from_the_first(box: Box) -> list[object]:
        path = good.unfinished(box)
        (path / "checkpoints" / good.last.name).unlink()
        return ["train", "--resume", path]

    yield Case("A16", "nothing wrong", sound, 0, after=good.ends_alike)
    yield Case("A16", "only the older state", from_the_first, 0, after=good.ends_alike)

    def all_damaged(box: Box) -> list[object]:
        path = good.unfinished(box)
        for name in (good.first.name, good.last.name):
            (path / "checkpoints" / name).write_bytes(b"no")
        return ["train", "--resume", path]

    yield Case("A16", "both states damaged", all_damaged, 3, (good.last.name,))
    for command in ("evaluate", "gradcam"):
        explicit = giving(evaluate if command == "evaluate" else gradcam, flipped(last, len(last) - 9))
        yield Case("A16", f"the damaged one by its name, {command}", explicit, 3, ("sha256",))

        def whole_run(box: Box, command: str = command) -> list[object]:
            path = box.runs / "run"
            shutil.copytree(good.path, path)
            (path / "model.safetensors").write_bytes(good.weights[:-1])
            return [command, "--ckpt", path]

        yield Case("A16", f"a run whose weights are cut, {command}", whole_run, 3, ("model.safetensors", "truncated"))

    def weights_as_state(box: Box) -> Sequence[object]:
        return resume_of(good)(box, good.weights)

    yield Case("A11", "weights as a run's only state", weights_as_state, 3, ("weights alone",))
    yield Case(
        "A11", "a file of weights to resume", lambda box: ["train", "--resume", evaluate(box, good.weights)[2]], 3
    )
    yield from _settings_cases(good)
    yield from _result_cases(good)


OTHER_SETTINGS = (("epochs", "3"), ("batch_size", "32"), ("data", "cifar10"), ("lr_max", "1.5"))  # sound in themselves
BAD_SETTINGS = (
    ("epochs", "-1"), ("epochs", "two"), ("epochs", ".nan"), ("batch_size", "0"), ("width", "1e308"),
    ("optimizer", "sgdd"), ("optimizer", "[sgd]"), ("data", "5"), ("lr_max", ".inf"), ("seed", "-1"),
    ("val_split", "-1"), ("augment", "{}"),
    ("cycle_momentum", "5"),
)  # fmt: skip


def bad_settings(sound: str) -> dict[str, str]:
    """Texts of config.yaml that no program of ours wrote."""
    tag = "epochs: !!python/object/apply:os.system ['touch canary']\n"
    return {
        "empty": "", "a list": "[1, 2]", "a number": "5", "no YAML": "a: [", "binary": "\x00\x01\x02",
        "deep": "a: " + deep(5000), "a name twice": sound + "epochs: 2\n", "65 kB": sound + "#" * 65_536,
        "one line": "epochs: 2\n",
        "aliases": "a: &a [1, 1]\nb: [*a, *a]\n" + sound, "a tag of a tuple": sound + "x: !!python/tuple [1]\n",
        "a tag that runs os.system": tag + sound.replace("epochs", "x"),
        **{f"{name} {value}": with_setting(sound, name, value) for name, value in BAD_SETTINGS},
    }  # fmt: skip


def with_setting(sound: str, name: str, value: str) -> str:
    lines = (f"{name}: {value}" if line.startswith(f"{name}:") else line for line in sound.splitlines())
    return "\n".join(lines) + "\n"


def _settings_cases(good: Good) -> Iterator[Case]:
    sound = (good.path / "config.yaml").read_text()
    bad = bad_settings(sound)
    # Before the first state, and after the last, nothing says that it was ever otherwise.
    others = {f"{name} {value}": with_setting(sound, name, value) for name, value in OTHER_SETTINGS}
    for state, texts in {"with a state": bad | others, "before the first": bad, "finished": bad}.items():
        for name, content in texts.items():

            def given(box: Box, content: str = content, state: str = state) -> list[object]:
                path = good.unfinished(box)
                (path / "config.yaml").write_text(content)
                if state == "finished":
                    shutil.copy(good.path / "result.json", path)
                if state == "before the first":
                    shutil.rmtree(path / "checkpoints")
                return ["train", "--resume", path]

            yield Case("A12", f"config.yaml {name}, {state}", given, 3, ("config.yaml",))


def _result_cases(good: Good) -> Iterator[Case]:
    sound = (good.path / "result.json").read_bytes()
    for name, content in {
        "empty": b"", "cut": sound[:-20], "binary": b"\x00\xff\xfe", "a list": b"[1]", "deep": deep(100_000).encode(),
        "NaN": b"NaN", "null": b"null",
    }.items():  # fmt: skip

        def given(box: Box, content: bytes = content) -> list[object]:
            path = good.unfinished(box)
            (path / "result.json").write_bytes(content)
            return ["train", "--resume", path]

        yield Case("A16", f"result.json {name}", given, 0, after=good.ends_alike)

    def of_another(box: Box) -> list[object]:
        path = good.unfinished(box)
        (path / "result.json").write_text('{"command": "evaluate"}')
        return ["train", "--resume", path]

    yield Case("A16", "result.json of another command", of_another, 3, ("result.json", "evaluate"))


# --- what a stranger's file may not decide ---


NO_DATA = ("/dev/zero", "/proc/self/mem", "x" * 300, "~nobody-here/x", "a\0b", "http://127.0.0.1:9/x", "/etc/passwd")


def trust_cases(good: Good) -> Iterator[Case]:
    """Facts that name places, or that are sound and lead nowhere."""

    def places(box: Box, **config: object) -> bytes:
        return changed(good.weights, lambda file: file.facts["config"].update(config))

    def stolen(box: Box) -> str:
        return "it wrote where the file said" if (box.path / "stolen").exists() else ""

    for command in (evaluate, gradcam):
        name = command.__name__

        def cache(box: Box, command: Command = command) -> Sequence[object]:
            return command(box, places(box, cache_dir=str(box.path / "stolen")))

        def fetched(box: Box, command: Command = command) -> Sequence[object]:
            return command(box, places(box, data="cifar10", data_dir=str(box.path / "stolen")))

        def theirs(box: Box, command: Command = command) -> Sequence[object]:
            (box.inputs / "cifar-10-batches-py").mkdir()
            (box.inputs / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"theirs")
            return command(box, places(box, data="cifar10", data_dir=str(box.inputs)))

        yield Case("A8", f"a cache folder, {name}", cache, 0, after=stolen)
        yield Case("A8", f"a folder to fetch into, {name}", fetched, 3, ("download",), before=offline, after=stolen)
        yield Case("A8", f"a folder that has the data, {name}", theirs, 3, ("cifar-10-batches-py",), before=offline)
        for data in (
            "/dev/zero",
            "/proc/self/mem",
            "x" * 300,
            "~nobody-here/x",
            "a\0b",
            "http://127.0.0.1:9/x",
            "/etc/passwd",
        ):

            def pointed(box: Box, command: Command = command, data: str = data) -> Sequence[object]:
                return command(box, places(box, data=data))

            yield Case("A8", f"data {data[:20]!r}, {name}", pointed, 3)
        names = [f"class {i}" for i in range(10)]
        other = changed(good.weights, fact("class_names", value=names))
        yield Case("A8", f"classes of other data, {name}", giving(command, other), 3, ("class 0", "circle"))
        huge = changed(good.weights, scaled_weights)
        yield Case(
            "A9", f"finite weights without finite answers, {name}", giving(command, huge), 3, ("finite answers",)
        )
        far = changed(good.weights, fact("mean", value=[1e308] * 3))
        yield Case("A8", f"a mean far from any image, {name}", giving(command, far), 3, ("finite answers",))
        yield Case("A0", f"weights, {name}", giving(command, good.weights), 0)
        yield Case(
            "A0", f"weights, taken apart and put together, {name}", giving(command, File.of(good.weights).packed()), 0
        )
        yield Case("A0", f"a state, {name}", giving(command, good.state), 0)


def offline() -> None:
    """No mirror: nothing is fetched from a network."""
    from scsuite.core.dataset import cifar10

    cifar10.MIRRORS = ("http://127.0.0.1:9/none", "http://127.0.0.1:9/either")


def content_cases(good: Good) -> Iterator[Case]:
    """Each bad file for each command; gradcam reads as evaluate does, so it is given every fourth."""
    commands = {"evaluate": evaluate, "train": resume_of(good), "gradcam": gradcam}
    files = [*damaged(good.state), *foreign()]
    files += [(row, name, changed(good.state, change), words) for row, name, change, words in TENSORS + FACTS]
    for number, (row, name, data, words) in enumerate(files):
        for command, command_of in commands.items():
            if command != "gradcam" or number % 4 == 0:
                yield Case(row, f"{name}, {command}", giving(command_of, data), 3, words)
    for row, name, change, words in STATES:
        yield Case(row, f"{name}, train", giving(commands["train"], changed(good.state, change)), 3, words)


def rows(quick: bool) -> list[Row]:
    """One row: the cases of A."""
    with new_box() as box:
        outcome = run(box, *TINY, "--epochs", "2", "--lr-max", "0.1")
        if outcome.code:
            raise RuntimeError(outcome.err)
        good = Good(box.run_dirs[0])
        groups = (content_cases, path_cases, race_cases, resume_cases, trust_cases)
        cases = [case for group in groups for case in group(good)]
        return [check_cases("A checkpoint files", thinned(cases, 12) if quick else cases)]
