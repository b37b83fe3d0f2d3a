"""One safetensors file in, one out: weights alone, or a run's whole state; either rebuilds the network by itself.

In: tensors and metadata (plain values). Out: a file that is complete under its name or not there; a model and its metadata.
The metadata stand as JSON in the file's metadata, with a sha256 over the whole file, its own digits taken as zeros.
"""

import hashlib
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from scsuite.core.config import PRECISIONS, TrainConfig, is_finite_number
from scsuite.core.errors import InputError, one_line
from scsuite.core.files import open_regular_file, write_atomic
from scsuite.core.model.network import LOGIT_SCALE, ResNet3

FORMAT = 2  # of the metadata; a file of another one is refused
HEADER_BYTES_MAX = 1 << 20  # ours are near 10 kB; a larger one only costs its reader time
FILE_BYTES_MAX = 1 << 32
DIMENSION_MAX = 1 << 32  # a tensor without elements may claim any other dimension: no bytes stand for it
WIDTH_MAX = 16  # as --width
MODEL_PREFIX, OPTIMIZER_PREFIX, SCALER_PREFIX = "model.", "optimizer.", "scaler."  # prefixes of tensors; a state file has two or more
EMA_PREFIX = "ema."  # prefix of the averaged weights, where a run keeps an average
NON_NEGATIVE_TENSORS = frozenset({"running_var", "num_batches_tracked", "exp_avg_sq", "step", "scale"})  # parts of names
_NO_DIGEST = "0" * 64
_DIGEST_KEY = b'\\"sha256\\": \\"'  # as it stands in the header: JSON within JSON


@dataclass(frozen=True)
class Checkpoint:
    """A file's content: its tensors by name, and its metadata."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def network_metadata(model: ResNet3) -> dict[str, Any]:
    """What `load_model` needs to build the network again."""
    return {"num_classes": model.num_classes, "width": model.width, "logit_scale": LOGIT_SCALE}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Commit tensors and metadata under `path`; raises OutputError where that fails, and the old file stays."""
    # One metadata key: safetensors keeps several in no fixed order, and equal states should give equal files.
    text = json.dumps({"sha256": _NO_DIGEST, "format": FORMAT, **metadata}, sort_keys=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = bytearray(bytes_of(plain, metadata={"scsuite": text}))
    place = data.index(_DIGEST_KEY) + len(_DIGEST_KEY)
    data[place : place + 64] = hashlib.sha256(data).hexdigest().encode()
    write_atomic(path, data)


def read_checkpoint(path: Path) -> Checkpoint:
    """A file's tensors and metadata, after its length, header, checksum and metadata were found right.

    Raises InputError for anything that is not a whole file of ours.
    """
    with open_regular_file(path, "checkpoint") as file:  # one descriptor: a file that is replaced meanwhile is not ours
        try:
            header, data = _read(path, file)
        except OSError as error:
            raise _checkpoint_error(path, "a readable file", error.strerror) from None
    text = header.get("__metadata__", {}).get("scsuite")
    if not isinstance(text, str):
        raise _checkpoint_error(path, "a checkpoint that scsuite wrote", "a safetensors file without our metadata")
    place = data.find(_DIGEST_KEY) + len(_DIGEST_KEY)
    digest = bytes(data[place : place + 64])
    data[place : place + 64] = _NO_DIGEST.encode()
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise _checkpoint_error(path, "the sha256 that it was written with", "another: the file is damaged or was changed")
    try:
        metadata, tensors = json.loads(text, object_pairs_hook=_reject_duplicates), tensors_of(bytes(data))
    except (ValueError, RecursionError, SafetensorError, KeyError) as error:  # KeyError: a type that torch lacks
        raise _checkpoint_error(path, "a valid safetensors file", one_line(error)) from None
    _check_metadata(path, metadata)
    if unknown_tensors := [name for name in tensors if not name.startswith((MODEL_PREFIX, EMA_PREFIX, OPTIMIZER_PREFIX, SCALER_PREFIX))]:
        raise _checkpoint_error(path, "tensors of a network and its optimizer", f"{reprlib.repr(unknown_tensors[0])} among them")
    return Checkpoint(path, tensors, metadata)


def _read(path: Path, file: BufferedReader) -> tuple[dict[str, Any], bytearray]:
    """The parsed header, and all bytes: no more is read or parsed than what came before makes likely."""
    size = os.fstat(file.fileno()).st_size
    data = bytearray(file.read(8))
    length = int.from_bytes(data, "little")
    if len(data) < 8:
        raise _checkpoint_error(path, "a header", f"{size} bytes: truncated")
    if not 2 <= length <= HEADER_BYTES_MAX:
        raise _checkpoint_error(path, f"a safetensors header of at most {HEADER_BYTES_MAX:,} bytes", f"a claim of {length:,}")
    if 8 + length > size:
        raise _checkpoint_error(path, f"a header of {length} bytes", f"{size} bytes: truncated")
    data += file.read(length)
    try:
        header = json.loads(bytes(data[8:]).decode(), object_pairs_hook=_reject_duplicates)
        rest = max((_data_end(entry) for name, entry in header.items() if name != "__metadata__"), default=0)
        header.get("__metadata__", {}).items()  # a mapping
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise _checkpoint_error(path, "a safetensors header", one_line(error)) from None
    if (promised := 8 + length + rest) != size:
        found = f"{size:,}: truncated" if size < promised else f"{size:,}: something was added"
        raise _checkpoint_error(path, f"{promised:,} bytes, as its header promises", found)
    if size > FILE_BYTES_MAX:
        raise _checkpoint_error(path, f"at most {FILE_BYTES_MAX >> 20:,} MB", f"{size >> 20:,} MB")
    data += file.read(rest)
    return header, data


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name given twice")
    return dict(pairs)


def _data_end(entry: dict[str, Any]) -> int:
    """Where a tensor's data end; safetensors itself checks that they fit its shape, without gap or overlap."""
    _, end = entry["data_offsets"]
    if type(end) is not int or end < 0:
        raise ValueError(f"the offset {reprlib.repr(end)}")
    if any(type(count) is not int or not 0 <= count < DIMENSION_MAX for count in entry["shape"]):
        raise ValueError(f"the shape {reprlib.repr(entry['shape'])}")
    return end


def _check_metadata(path: Path, metadata: Any) -> None:
    """Raises InputError unless the metadata are of our format, and those that every file has are of their kinds."""
    if not isinstance(metadata, dict):
        raise _checkpoint_error(path, "metadata by name", type(metadata).__name__)
    if metadata.get("format") != FORMAT:
        found = reprlib.repr(metadata.get("format"))
        raise _checkpoint_error(path, f"format {FORMAT}", f"format {found}, of another version of scsuite")
    for problem in _metadata_problems(metadata):
        raise _checkpoint_error(path, "metadata of a network", problem)
    config = TrainConfig.from_saved(metadata["config"], path)
    if "state" in metadata and (config.lr_min is None or config.lr_max is None):
        raise _checkpoint_error(path, "the rates of a run that has begun", "none")


def _metadata_problems(metadata: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the metadata that every file has."""
    names, network = metadata.get("class_names"), metadata.get("network")
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
        if not is_finite_number(width) or not 0 < width <= WIDTH_MAX:
            yield f"a network of width {reprlib.repr(width)}"
        if not is_finite_number(scale) or scale != LOGIT_SCALE:
            yield f"a network with logits times {reprlib.repr(scale)}, not {LOGIT_SCALE}"
    for key in ("mean", "std"):
        values = metadata.get(key)
        if not isinstance(values, list) or len(values) != 3 or not all(map(is_finite_number, values)):
            yield f"{key} that is not of three channels"
        elif key == "std" and min(values) <= 0:
            yield f"a std of {min(values)}"
    if metadata.get("precision") not in PRECISIONS or not isinstance(metadata.get("config"), dict):
        yield "no configuration or precision"


def load_checkpoint(path: str | Path) -> tuple[ResNet3, dict[str, Any]]:
    """The network of a checkpoint file, in eval mode on the CPU, and its metadata; the averaged one of a run with --ema.

    The metadata: class_names, mean and std of the training images, network, config, data, and more; see `Trainer.metadata`.
    Raises InputError for a file that is not whole, not ours, or of another network.
    """
    checkpoint = read_checkpoint(Path(path))
    averaged = any(name.startswith(EMA_PREFIX) for name in checkpoint.tensors)
    return load_model(checkpoint, EMA_PREFIX if averaged else MODEL_PREFIX), checkpoint.metadata


def load_model(checkpoint: Checkpoint, prefix: str = MODEL_PREFIX) -> ResNet3:
    """The network with a checkpoint's weights, in eval mode on the CPU: those under the prefix `part`.

    Raises InputError where they do not fit it.
    """
    network = checkpoint.metadata["network"]
    with torch.device("meta"):  # costs no memory, whatever width the file claims
        model = ResNet3(network["num_classes"], float(network["width"]))
    tensors = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    check_tensors(checkpoint.path, f"the weights of a network of width {model.width:g}", model.state_dict(), tensors)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def check_tensors(path: Path, what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raises InputError unless the tensors have the names, shapes and types expected, and values that can be."""
    if differences := _differences(expected, found):
        raise _checkpoint_error(path, what, "; ".join(text[:200] for text in differences[:5]))
    for name, tensor in found.items():
        if bad := int((~tensor.isfinite()).sum()):
            raise _checkpoint_error(path, "finite weights", f"{bad} of {tensor.numel()} not finite in {name}")
        if NON_NEGATIVE_TENSORS.intersection(name.split(".")) and (bad := int((tensor < 0).sum())):
            raise _checkpoint_error(path, "values of 0 or more", f"{bad} of {tensor.numel()} below 0 in {name}")


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in found]
    extra = [f"{name} is not part of it" for name in found if name not in expected]
    other = [
        f"{name} is {found[name].dtype} {tuple(found[name].shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and (found[name].shape != tensor.shape or found[name].dtype != tensor.dtype)
    ]
    return [text.replace("torch.", "") for text in missing + extra + other]


def _checkpoint_error(path: Path, expected: str, found: object) -> InputError:
    return InputError("checkpoint", path, expected=expected, found=found, hint="Give a run directory or another file.")
