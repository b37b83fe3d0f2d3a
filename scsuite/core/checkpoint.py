"""One safetensors file in, one out: weights alone, or a run's whole state; either rebuilds the network by itself.

In: tensors and facts (plain values). Out: a file that is complete under its name or not there; a model and its facts.
The facts stand as JSON in the file's metadata, with a sha256 over the whole file, its own digits taken as zeros.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from scsuite.core.config import PRECISIONS
from scsuite.core.errors import InputError
from scsuite.core.files import commit, read_regular
from scsuite.core.model import LOGIT_SCALE, ResNet3

FORMAT = 1  # of the facts; a file of another one is refused
HEADER_BYTES_MAX = 1 << 20  # ours are near 10 kB; a larger one only costs its reader time
FILE_BYTES_MAX = 1 << 32
MODEL = "model."  # prefix of the network's tensors; a state file has others beside them
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
    """A file's tensors and facts, after its length, header and checksum were found right.

    Raises InputError for anything that is not a whole file of ours.
    """
    data = bytearray(read_regular(path, "checkpoint", FILE_BYTES_MAX))
    header, end = _header(path, data)
    text = header.get("__metadata__", {}).get("scsuite")
    if not isinstance(text, str):
        raise _refused(path, "a checkpoint that scsuite wrote", "a safetensors file without our facts")
    place = data.find(_DIGEST_KEY, 0, end) + len(_DIGEST_KEY)
    digest = bytes(data[place : place + 64])
    data[place : place + 64] = _NO_DIGEST.encode()
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise _refused(path, "the sha256 that it was written with", "another: the file is damaged or was changed")
    try:
        facts, tensors = json.loads(text), tensors_of(bytes(data))
    except (ValueError, RecursionError, SafetensorError) as error:
        raise _refused(path, "a valid safetensors file", " ".join(str(error).split())[:120]) from None
    if facts.get("format") != FORMAT:
        raise _refused(path, f"format {FORMAT}", f"format {facts.get('format')}, of another version of scsuite")
    return Checkpoint(path, tensors, facts)


def _header(path: Path, data: bytearray) -> tuple[dict[str, Any], int]:
    """The parsed header and where it ends; bounds are checked before anything is parsed."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or (8 + length > len(data) and length <= HEADER_BYTES_MAX):
        raise _refused(
            path, f"a header of {length} bytes" if len(data) >= 8 else "a header", f"{len(data)} bytes: truncated"
        )
    if not 2 <= length <= HEADER_BYTES_MAX:
        raise _refused(path, f"a safetensors header of at most {HEADER_BYTES_MAX:,} bytes", f"a claim of {length:,}")
    try:
        header = json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=_unique)
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _refused(path, "a safetensors header", " ".join(str(error).split())[:120] or "none") from None
    if (promised := 8 + length + max(ends, default=0)) > len(data):
        raise _refused(path, f"{promised:,} bytes, as its header promises", f"{len(data):,}: truncated")
    if not isinstance(header.get("__metadata__", {}), dict):
        raise _refused(path, "metadata that maps names to texts", "something else")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name given twice")
    return dict(pairs)


def load_checkpoint(path: str | Path) -> tuple[ResNet3, dict[str, Any]]:
    """The network of a checkpoint file, in eval mode on the CPU, and its facts.

    The facts: class_names, mean and std of the training images, network, config, data, and more; see `Trainer.facts`.
    Raises InputError for a file that is not whole, not ours, or of another network.
    """
    checkpoint = read_checkpoint(Path(path))
    return load_model(checkpoint), checkpoint.facts


def load_model(checkpoint: Checkpoint) -> ResNet3:
    """The network with a checkpoint's weights, in eval mode on the CPU. Raises InputError where they do not fit it."""
    path, facts = checkpoint.path, checkpoint.facts
    try:
        network = facts["network"]
        num_classes, width, scale = int(network["num_classes"]), float(network["width"]), float(network["logit_scale"])
        if num_classes != len(facts["class_names"]) or not 0 < width <= 16:
            raise ValueError(f"{num_classes} classes, width {width}, {len(facts['class_names'])} names")
        if not len(facts["mean"]) == len(facts["std"]) == 3:
            raise ValueError("mean and std are not of three channels")
        if not isinstance(facts["config"], dict) or facts["precision"] not in PRECISIONS:
            raise ValueError("no configuration or precision")
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(path, "facts of a network", f"{type(error).__name__}: {error}") from None
    if scale != LOGIT_SCALE:
        raise _refused(path, f"a network with logits times {LOGIT_SCALE}", f"times {scale}")
    with torch.device("meta"):  # costs no memory, whatever width the file claims
        model = ResNet3(num_classes, width)
    tensors = {name.removeprefix(MODEL): t for name, t in checkpoint.tensors.items() if name.startswith(MODEL)}
    if differences := _differences(model.state_dict(), tensors):
        raise _refused(path, f"the weights of a network of width {width:g}", "; ".join(differences[:5]))
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and (bad := int((~tensor.isfinite()).sum())):
            raise _refused(path, "finite weights", f"{bad} of {tensor.numel()} not finite in {name}")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in found]
    extra = [f"{name} is not part of it" for name in found if name not in expected]
    other = [
        f"{name} is {found[name].dtype} {tuple(found[name].shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and (found[name].shape != tensor.shape or found[name].dtype != tensor.dtype)
    ]
    return [text.replace("torch.", "") for text in missing + extra + other]


def _refused(path: Path, expected: str, found: str) -> InputError:
    return InputError("checkpoint", path, expected=expected, found=found, hint="Give a run directory or another file.")
