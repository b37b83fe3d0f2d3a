"""Checkpoint files: one safetensors file with the weights, or with the complete state of a run.

In: tensors and metadata (plain values), or a path. Out: a file that is complete or absent; a network and its metadata.
The file alone is enough to rebuild scsuite's network; the weights of a user's own are loaded into the module that the
user passes, and nothing that a file names is imported. The metadata is JSON in the safetensors header, and holds a
sha256 of the complete file, computed with zeros in place of the digest itself.
"""

import hashlib
import json
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor, nn

from scsuite.core.config import (
    MAX_TEMPERATURE,
    MAX_WIDTH,
    MIN_TEMPERATURE,
    PRECISIONS,
    TrainConfig,
    is_finite_number,
)
from scsuite.core.errors import InputError, OutputError, one_line
from scsuite.core.files import open_regular_file, write_atomic
from scsuite.core.model.checkpoint_file import (
    DIGEST_KEY,
    DIGEST_PLACEHOLDER,
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    checkpoint_error,
    read_file,
    reject_duplicates,
)
from scsuite.core.model.network import LOGIT_SCALE, ResNet3

FORMAT = 2  # of the metadata; a file of another format is refused
TENSOR_ENTRY_BYTES = 200  # of a tensor in the header, without its name: dtype, shape and two offsets
MODEL_PREFIX, OPTIMIZER_PREFIX, SCALER_PREFIX = "model.", "optimizer.", "scaler."
EMA_PREFIX = "ema."  # the averaged weights, of a run that averages them
# Tensors without negative values: the last part of a network's name, the second of the optimizer's and the scaler's.
NON_NEGATIVE_BUFFERS = frozenset({"running_var", "num_batches_tracked"})
NON_NEGATIVE_STATES = frozenset({"exp_avg_sq", "step", "scale"})
OWN_NETWORK = "own_network"  # key of a user's own network in the metadata; its value, the class name, is only shown


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file: its tensors by name, and its metadata."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def network_metadata(model: ResNet3) -> dict[str, Any]:
    """Return what `load_model` needs to build the network again."""
    return {"num_classes": model.num_classes, "width": model.width, "logit_scale": LOGIT_SCALE}


def own_network_metadata(model: nn.Module, num_classes: int) -> dict[str, Any]:
    """Return what a checkpoint records of a user's own network: only that it is one."""
    return {"num_classes": num_classes, OWN_NETWORK: type(model).__name__}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata to `path` atomically. If that fails, raises OutputError and keeps the old file."""
    # One metadata key: safetensors keeps several in no fixed order, and equal states should give equal files.
    text = json.dumps({"sha256": DIGEST_PLACEHOLDER, "format": FORMAT, **metadata}, sort_keys=False)
    cpu_tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    storages = Counter(tensor.untyped_storage().data_ptr() for tensor in cpu_tensors.values())
    for name, tensor in cpu_tensors.items():  # safetensors refuses shared memory, as of tied weights
        if storages[tensor.untyped_storage().data_ptr()] > 1:
            cpu_tensors[name] = tensor.clone()
    _check_size(path, cpu_tensors, text)
    data = bytearray(serialize(cpu_tensors, metadata={"scsuite": text}))
    start = data.index(DIGEST_KEY) + len(DIGEST_KEY)
    data[start : start + 64] = hashlib.sha256(data).hexdigest().encode()
    write_atomic(path, data)


def _check_size(path: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Raise OutputError for a file that `read_checkpoint` would refuse."""
    header_bytes = len(json.dumps(text)) + sum(len(json.dumps(name)) + TENSOR_ENTRY_BYTES for name in tensors)
    for what, limit, size in (
        ("header", MAX_HEADER_BYTES, header_bytes),
        ("file", MAX_FILE_BYTES, header_bytes + sum(tensor.nbytes for tensor in tensors.values())),
    ):
        if size > limit:
            raise OutputError(
                "cannot write", path, expected=f"a {what} of at most {limit:,} bytes, as can be read",
                found=f"up to {size:,}", hint="Use a smaller network, shorter class names or fewer of them.",
            )  # fmt: skip


def read_checkpoint(path: Path) -> Checkpoint:
    """Return a file's tensors and metadata after checks of its length, header, checksum and metadata.

    Raises InputError for anything that is not a complete checkpoint of scsuite.
    """
    with open_regular_file(path, "checkpoint") as file:  # one descriptor: the file may be replaced while it is read
        try:
            header, data = read_file(path, file)
        except OSError as error:
            raise checkpoint_error(path, "a readable file", error.strerror) from None
    text = header["__metadata__"]["scsuite"]
    try:
        metadata, tensors = json.loads(text, object_pairs_hook=reject_duplicates), deserialize(bytes(data))
    except (ValueError, RecursionError, SafetensorError, KeyError) as error:  # KeyError: a dtype that torch lacks
        raise checkpoint_error(path, "a valid safetensors file", one_line(error)) from None
    _check_metadata(path, metadata)
    metadata.setdefault("temperature", 1.0)  # a file of an earlier version has none
    prefixes = (MODEL_PREFIX, EMA_PREFIX, OPTIMIZER_PREFIX, SCALER_PREFIX)
    if unknown_tensors := [name for name in tensors if not name.startswith(prefixes)]:
        raise checkpoint_error(
            path, "tensors of a network and its optimizer", f"a tensor named {reprlib.repr(unknown_tensors[0])}"
        )
    return Checkpoint(path, tensors, metadata)


def _check_metadata(path: Path, metadata: Any) -> None:
    """Raise InputError unless the metadata has this format, and each value that every file has is valid."""
    if not isinstance(metadata, dict):
        raise checkpoint_error(path, "metadata by name", type(metadata).__name__)
    version = metadata.get("format")
    if type(version) is int and version < FORMAT:
        raise InputError(
            "checkpoint", path, expected=f"format {FORMAT}",
            found=f"format {version}, written by an earlier version of scsuite",
            hint="Train again, or use that version.",
        )  # fmt: skip
    if version != FORMAT:
        found = f"format {reprlib.repr(version)}, of another version of scsuite"
        raise checkpoint_error(path, f"format {FORMAT}", found)
    for problem in _metadata_problems(metadata):
        raise checkpoint_error(path, "metadata of a network", problem)
    config = TrainConfig.from_saved(metadata["config"], path)
    if "state" in metadata and (config.lr_min is None or config.lr_max is None):
        raise checkpoint_error(path, "the LR bounds of a started run", "none")


def _metadata_problems(metadata: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the metadata that every file has."""
    names, network = metadata.get("class_names"), metadata.get("network")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        yield "class_names that are not texts"
    elif len(names) < 2 or len(set(names)) < len(names):
        yield f"{len(names)} class names, {len(set(names))} of them different"
    elif not isinstance(network, dict):
        yield "no network"
    else:
        num_classes, width, scale = (network.get(key) for key in ("num_classes", "width", "logit_scale"))
        if type(num_classes) is not int or num_classes != len(names):
            yield f"a network of {reprlib.repr(num_classes)} classes, and {len(names)} names"
        is_own = OWN_NETWORK in network
        if is_own and not isinstance(network[OWN_NETWORK], str):
            yield f"a network named {reprlib.repr(network[OWN_NETWORK])}"
        if not is_own and (not is_finite_number(width) or not 0 < width <= MAX_WIDTH):
            yield f"a network of width {reprlib.repr(width)}"
        if not is_own and (not is_finite_number(scale) or scale != LOGIT_SCALE):
            yield f"a network with logit_scale {reprlib.repr(scale)}, not {LOGIT_SCALE}"
    yield from _number_problems(metadata)
    if metadata.get("precision") not in PRECISIONS or not isinstance(metadata.get("config"), dict):
        yield "no configuration or precision"


def _number_problems(metadata: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the numbers around the network: mean and std of its inputs, divisor of its logits."""
    for key in ("mean", "std"):
        values = metadata.get(key)
        if not isinstance(values, list) or len(values) != 3 or not all(map(is_finite_number, values)):
            yield f"{key} that is not three numbers"
        elif key == "std" and min(values) <= 0:
            yield f"a std of {min(values)}"
    temperature = metadata.get("temperature", 1.0)
    if not is_finite_number(temperature) or not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        yield f"a temperature of {reprlib.repr(temperature)}"


def load_network(checkpoint: Checkpoint) -> ResNet3:
    """Return the network of a checkpoint, in eval mode on the CPU, with the averaged weights if there are any.

    Raises InputError for a checkpoint of another network.
    """
    return load_model(checkpoint, _best_prefix(checkpoint))


def load_own_network(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Load the weights that `load_network` takes into a network of the user's own, and put it in eval mode.

    Raises InputError for weights that do not fit it.
    """
    load_weights(checkpoint, model, _best_prefix(checkpoint))
    load_temperature(checkpoint, model)
    model.eval()


def _best_prefix(checkpoint: Checkpoint) -> str:
    return EMA_PREFIX if any(name.startswith(EMA_PREFIX) for name in checkpoint.tensors) else MODEL_PREFIX


def load_model(checkpoint: Checkpoint, prefix: str = MODEL_PREFIX) -> ResNet3:
    """Return the network with the checkpoint's tensors under `prefix`, in eval mode on the CPU.

    Raises InputError if the tensors do not fit the network, or are of a user's own network.
    """
    network = checkpoint.metadata["network"]
    if name := network.get(OWN_NETWORK, "")[:60]:
        raise InputError(
            "checkpoint", checkpoint.path, expected="scsuite's network", found=f"the weights of your own, {name}",
            hint=f"Use Python: scsuite.load_checkpoint({str(checkpoint.path)!r}, model={name}()).",
        )  # fmt: skip
    with torch.device("meta"):  # needs no memory for any width in the file
        model = ResNet3(network["num_classes"], float(network["width"]))
    tensors = _tensors_under(checkpoint, prefix)
    check_tensors(checkpoint.path, f"the weights of a network of width {model.width:g}", model.state_dict(), tensors)
    model.load_state_dict(tensors, assign=True)
    load_temperature(checkpoint, model)
    return model.eval()


def load_weights(checkpoint: Checkpoint, model: nn.Module, prefix: str = MODEL_PREFIX) -> None:
    """Load the checkpoint's tensors under `prefix` into a network. Raises InputError if they do not fit it."""
    tensors = _tensors_under(checkpoint, prefix)
    check_tensors(checkpoint.path, f"the weights of {type(model).__name__}", model.state_dict(), tensors)
    model.load_state_dict(tensors)


def load_temperature(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Give scsuite's network the checkpoint's divisor of the logits; a user's own network has none."""
    if isinstance(model, ResNet3):
        model.temperature = float(checkpoint.metadata["temperature"])


def _tensors_under(checkpoint: Checkpoint, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}


def check_tensors(path: Path, what: str, expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> None:
    """Raise InputError unless the tensors have the expected names, shapes and dtypes, and only possible values."""
    if differences := _differences(expected, actual):
        raise checkpoint_error(path, what, "; ".join(text[:200] for text in differences[:5]))
    for name, tensor in actual.items():
        if (num_invalid := int((~tensor.isfinite()).sum())) and not _holds_infinity(expected[name]):
            raise checkpoint_error(path, "finite weights", f"{num_invalid} of {tensor.numel()} not finite in {name}")
        if _is_non_negative(name) and (num_invalid := int((tensor < 0).sum())):
            raise checkpoint_error(path, "values of 0 or more", f"{num_invalid} of {tensor.numel()} below 0 in {name}")


def _holds_infinity(tensor: Tensor) -> bool:
    """Return whether a tensor of the present network holds infinity, as the attention mask of a user's own may."""
    return not tensor.is_meta and bool(tensor.isinf().any())


def _is_non_negative(name: str) -> bool:
    if name.startswith((OPTIMIZER_PREFIX, SCALER_PREFIX)):
        return name.split(".")[1] in NON_NEGATIVE_STATES
    return name.rsplit(".", maxsplit=1)[-1] in NON_NEGATIVE_BUFFERS


def _differences(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in actual]
    extra = [f"{name} is not part of it" for name in actual if name not in expected]
    different = [
        f"{name} is {actual[name].dtype} {tuple(actual[name].shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in actual and (actual[name].shape != tensor.shape or actual[name].dtype != tensor.dtype)
    ]
    return [text.replace("torch.", "") for text in missing + extra + different]
