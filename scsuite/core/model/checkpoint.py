"""One safetensors file in, one out: weights alone, or a run's whole state; either rebuilds the network by itself.

In: tensors and facts (plain values). Out: a file that is complete under its name or not there; a model and its facts.
The facts stand as JSON in the file's metadata, with a sha256 over the whole file, its own digits taken as zeros.
"""

import hashlib
import json
import os
import reprlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from scsuite.core.config import PRECISIONS, TrainConfig
from scsuite.core.errors import InputError
from scsuite.core.files import commit, open_regular
from scsuite.core.model import LOGIT_SCALE, ResNet3

FORMAT = 1  # of the facts; a file of another one is refused
HEADER_BYTES_MAX = 1 << 20  # ours are near 10 kB; a larger one only costs its reader time
FILE_BYTES_MAX = 1 << 32
DIMENSION_MAX = 1 << 32  # a tensor without elements may claim any other dimension: no bytes stand for it
WIDTH_MAX = 16  # as --width
MODEL, OPTIMIZER, SCALER = "model.", "optimizer.", "scaler."  # prefixes of tensors; a state file has two or more
AVERAGE = "ema."  # prefix of the averaged weights, where a run keeps an average
NEVER_NEGATIVE = frozenset({"running_var", "num_batches_tracked", "exp_avg_sq", "step", "scale"})  # parts of names
_NO_DIGEST = "0" * 64
_DIGEST_KEY = b'\\"sha256\\": \\"'  # as it stands in the header: JSON within JSON


@dataclass(frozen=True)
class Checkpoint:
    """A file's content: its tensors by name, and its facts."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def network_facts(model: ResNet3) -> dict[str, Any]:
    """What `load_model` needs to build the network again."""
    return {"num_classes": model.num_classes, "width": model.width, "logit_scale": LOGIT_SCALE}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Commit tensors and facts under `path`; raises OutputError where that fails, and the old file stays."""
    # One metadata key: safetensors keeps several in no fixed order, and equal states should give equal files.
    text = json.dumps({"sha256": _NO_DIGEST, "format": FORMAT, **facts}, sort_keys=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = bytearray(bytes_of(plain, metadata={"scsuite": text}))
    place = data.index(_DIGEST_KEY) + len(_DIGEST_KEY)
    data[place : place + 64] = hashlib.sha256(data).hexdigest().encode()
    commit(path, data)


def read_checkpoint(path: Path) -> Checkpoint:
    """A file's tensors and facts, after its length, header, checksum and facts were found right.

    Raises InputError for anything that is not a whole file of ours.
    """
    with open_regular(path, "checkpoint") as file:  # one descriptor: a file that is replaced meanwhile is not ours
        try:
            header, data = _read(path, file)
        except OSError as error:
            raise _refused(path, "a readable file", error.strerror) from None
    text = header.get("__metadata__", {}).get("scsuite")
    if not isinstance(text, str):
        raise _refused(path, "a checkpoint that scsuite wrote", "a safetensors file without our facts")
    place = data.find(_DIGEST_KEY) + len(_DIGEST_KEY)
    digest = bytes(data[place : place + 64])
    data[place : place + 64] = _NO_DIGEST.encode()
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise _refused(path, "the sha256 that it was written with", "another: the file is damaged or was changed")
    try:
        facts, tensors = json.loads(text, object_pairs_hook=_unique), tensors_of(bytes(data))
    except (ValueError, RecursionError, SafetensorError, KeyError) as error:  # KeyError: a type that torch lacks
        raise _refused(path, "a valid safetensors file", _line(error)) from None
    _check_facts(path, facts)
    if strangers := [name for name in tensors if not name.startswith((MODEL, AVERAGE, OPTIMIZER, SCALER))]:
        raise _refused(path, "tensors of a network and its optimizer", f"{reprlib.repr(strangers[0])} among them")
    return Checkpoint(path, tensors, facts)


def _read(path: Path, file: BufferedReader) -> tuple[dict[str, Any], bytearray]:
    """The parsed header, and all bytes: no more is read or parsed than what came before makes likely."""
    size = os.fstat(file.fileno()).st_size
    data = bytearray(file.read(8))
    length = int.from_bytes(data, "little")
    if len(data) < 8:
        raise _refused(path, "a header", f"{size} bytes: truncated")
    if not 2 <= length <= HEADER_BYTES_MAX:
        raise _refused(path, f"a safetensors header of at most {HEADER_BYTES_MAX:,} bytes", f"a claim of {length:,}")
    if 8 + length > size:
        raise _refused(path, f"a header of {length} bytes", f"{size} bytes: truncated")
    data += file.read(length)
    try:
        header = json.loads(bytes(data[8:]).decode(), object_pairs_hook=_unique)
        rest = max((_end(entry) for name, entry in header.items() if name != "__metadata__"), default=0)
        header.get("__metadata__", {}).items()  # a mapping
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise _refused(path, "a safetensors header", _line(error)) from None
    if (promised := 8 + length + rest) != size:
        found = f"{size:,}: truncated" if size < promised else f"{size:,}: something was added"
        raise _refused(path, f"{promised:,} bytes, as its header promises", found)
    if size > FILE_BYTES_MAX:
        raise _refused(path, f"at most {FILE_BYTES_MAX >> 20:,} MB", f"{size >> 20:,} MB")
    data += file.read(rest)
    return header, data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name given twice")
    return dict(pairs)


def _end(entry: dict[str, Any]) -> int:
    """Where a tensor's data end; safetensors itself checks that they fit its shape, without gap or overlap."""
    _, end = entry["data_offsets"]
    if type(end) is not int or end < 0:
        raise ValueError(f"the offset {reprlib.repr(end)}")
    if any(type(count) is not int or not 0 <= count < DIMENSION_MAX for count in entry["shape"]):
        raise ValueError(f"the shape {reprlib.repr(entry['shape'])}")
    return end


def _check_facts(path: Path, facts: Any) -> None:
    """Raises InputError unless the facts are of our format, and those that every file has are of their kinds."""
    if not isinstance(facts, dict):
        raise _refused(path, "facts by name", type(facts).__name__)
    if facts.get("format") != FORMAT:
        found = reprlib.repr(facts.get("format"))
        raise _refused(path, f"format {FORMAT}", f"format {found}, of another version of scsuite")
    for problem in _problems(facts):
        raise _refused(path, "facts of a network", problem)
    config = TrainConfig.from_file(facts["config"], path)
    if "state" in facts and (config.lr_min is None or config.lr_max is None):
        raise _refused(path, "the rates of a run that has begun", "none")


def _problems(facts: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the facts that every file has."""
    names, network = facts.get("class_names"), facts.get("network")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        yield "class_names that are not names"
    elif len(names) < 2 or len(set(names)) < len(names):
        yield f"{len(names)} names of classes, {len(set(names))} of them different"
    elif not isinstance(network, dict):
        yield "no network"
    else:
        classes, width, scale = (network.get(key) for key in ("num_classes", "width", "logit_scale"))
        if type(classes) is not int or classes != len(names):
            yield f"a network of {reprlib.repr(classes)} classes, and {len(names)} names"
        if not is_number(width) or not 0 < width <= WIDTH_MAX:
            yield f"a network of width {reprlib.repr(width)}"
        if not is_number(scale) or scale != LOGIT_SCALE:
            yield f"a network with logits times {reprlib.repr(scale)}, not {LOGIT_SCALE}"
    for key in ("mean", "std"):
        values = facts.get(key)
        if not isinstance(values, list) or len(values) != 3 or not all(map(is_number, values)):
            yield f"{key} that is not of three channels"
        elif key == "std" and min(values) <= 0:
            yield f"a std of {min(values)}"
    if facts.get("precision") not in PRECISIONS or not isinstance(facts.get("config"), dict):
        yield "no configuration or precision"


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a finite number; a truth value, an int to Python, is none."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # so written, NaN is not


def load_checkpoint(path: str | Path) -> tuple[ResNet3, dict[str, Any]]:
    """The network of a checkpoint file, in eval mode on the CPU, and its facts; the averaged one of a run with --ema.

    The facts: class_names, mean and std of the training images, network, config, data, and more; see `Trainer.facts`.
    Raises InputError for a file that is not whole, not ours, or of another network.
    """
    checkpoint = read_checkpoint(Path(path))
    averaged = any(name.startswith(AVERAGE) for name in checkpoint.tensors)
    return load_model(checkpoint, AVERAGE if averaged else MODEL), checkpoint.facts


def load_model(checkpoint: Checkpoint, part: str = MODEL) -> ResNet3:
    """The network with a checkpoint's weights, in eval mode on the CPU: those under the prefix `part`.

    Raises InputError where they do not fit it.
    """
    network = checkpoint.facts["network"]
    with torch.device("meta"):  # costs no memory, whatever width the file claims
        model = ResNet3(network["num_classes"], float(network["width"]))
    tensors = {name.removeprefix(part): t for name, t in checkpoint.tensors.items() if name.startswith(part)}
    check_tensors(checkpoint.path, f"the weights of a network of width {model.width:g}", model.state_dict(), tensors)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def check_tensors(path: Path, what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raises InputError unless the tensors have the names, shapes and types expected, and values that can be."""
    if differences := _differences(expected, found):
        raise _refused(path, what, "; ".join(text[:200] for text in differences[:5]))
    for name, tensor in found.items():
        if bad := int((~tensor.isfinite()).sum()):
            raise _refused(path, "finite weights", f"{bad} of {tensor.numel()} not finite in {name}")
        if NEVER_NEGATIVE.intersection(name.split(".")) and (bad := int((tensor < 0).sum())):
            raise _refused(path, "values of 0 or more", f"{bad} of {tensor.numel()} below 0 in {name}")


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in found]
    extra = [f"{name} is not part of it" for name in found if name not in expected]
    other = [
        f"{name} is {found[name].dtype} {tuple(found[name].shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and (found[name].shape != tensor.shape or found[name].dtype != tensor.dtype)
    ]
    return [text.replace("torch.", "") for text in missing + extra + other]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _refused(path: Path, expected: str, found: object) -> InputError:
    return InputError("checkpoint", path, expected=expected, found=found, hint="Give a run directory or another file.")
