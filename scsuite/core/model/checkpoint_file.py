"""The header of a checkpoint file, and the checks of a file before its tensors are in memory.

In: an open file. Out: its header, and all its bytes if they are those that its sha256 is of.
"""

import hashlib
import json
import os
import reprlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

from scsuite.core.config import MAX_WIDTH
from scsuite.core.errors import InputError, one_line
from scsuite.core.model.network import ResNet3

MAX_HEADER_BYTES = 1 << 20  # our headers have about 10 kB; parsing a large one takes long
MAX_FILE_BYTES = 1 << 32  # of a file that is read or written; a training whose state is larger does not start
MAX_COPIES = 6  # of the network's weights: its own, their average, two of the optimizer, and room for small tensors
MAX_DIMENSION = 1 << 32  # the bytes of a file do not limit the dimensions of a tensor without elements
DIGEST_PLACEHOLDER = "0" * 64
DIGEST_KEY = b'\\"sha256\\": \\"'  # as in the header: JSON within JSON


def read_file(path: Path, file: BufferedReader) -> tuple[dict[str, Any], bytearray]:
    """Return the parsed header and all bytes of the file.

    Sizes are checked before anything is read, so a truncated or oversized file costs little.
    """
    size = os.fstat(file.fileno()).st_size
    data = bytearray(file.read(8))
    header_length = int.from_bytes(data, "little")
    if len(data) < 8:
        raise checkpoint_error(path, "a header", f"{size} bytes: truncated")
    if not 2 <= header_length <= MAX_HEADER_BYTES:
        expected = f"a safetensors header of at most {MAX_HEADER_BYTES:,} bytes"
        raise checkpoint_error(path, expected, f"a length of {header_length:,}")
    if 8 + header_length > size:
        raise checkpoint_error(path, f"a header of {header_length} bytes", f"{size} bytes: truncated")
    data += file.read(header_length)
    try:
        header = json.loads(bytes(data[8:]).decode(), object_pairs_hook=reject_duplicates)
        data_length = max((_data_end(entry) for name, entry in header.items() if name != "__metadata__"), default=0)
        header.get("__metadata__", {}).items()  # raises unless it is a mapping
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise checkpoint_error(path, "a safetensors header", one_line(error)) from None
    if (expected_size := 8 + header_length + data_length) != size:
        found = f"{size:,}: truncated" if size < expected_size else f"{size:,}: bytes were added"
        raise checkpoint_error(path, f"{expected_size:,} bytes, as in its header", found)
    if size > MAX_FILE_BYTES:
        raise checkpoint_error(path, f"at most {MAX_FILE_BYTES >> 20:,} MB", f"{size >> 20:,} MB")
    _check_before_reading(path, header, data_length)
    _check_digest(path, file, data)
    data += file.read(data_length)
    return header, data


def _check_before_reading(path: Path, header: dict[str, Any], data_length: int) -> None:
    """Refuse by its header alone a file that scsuite did not write, or one with more data than its network needs."""
    text = header.get("__metadata__", {}).get("scsuite")
    if not isinstance(text, str):
        raise checkpoint_error(path, "a checkpoint that scsuite wrote", "a safetensors file without its metadata")
    try:
        network = json.loads(text)["network"]
        with torch.device("meta"):
            model = ResNet3(int(network["num_classes"]), min(float(network["width"]), MAX_WIDTH))
    except (ValueError, OverflowError, RecursionError, TypeError, KeyError, RuntimeError):
        return  # a user's own network, or metadata that is refused later
    if data_length > (limit := 4 * MAX_COPIES * sum(tensor.numel() for tensor in model.parameters()) + 2**20):
        raise checkpoint_error(path, f"at most {limit:,} bytes for its network", f"{data_length:,}")


def _check_digest(path: Path, file: BufferedReader, header: bytearray) -> None:
    """Check the digest before the file is in memory."""
    start = header.find(DIGEST_KEY) + len(DIGEST_KEY)
    sha256 = hashlib.sha256(header[:start] + DIGEST_PLACEHOLDER.encode() + header[start + 64 :])
    while chunk := file.read(1 << 20):
        sha256.update(chunk)
    file.seek(len(header))
    if sha256.hexdigest().encode() != header[start : start + 64]:
        raise checkpoint_error(path, "the sha256 in its header", "a different one: the file is damaged or was changed")


def reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object. Raises ValueError for a name given twice."""
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name given twice")
    return dict(pairs)


def _data_end(entry: dict[str, Any]) -> int:
    """Return where a tensor's data ends; safetensors checks that the data fits the shape, without gap or overlap."""
    _, end = entry["data_offsets"]
    if type(end) is not int or end < 0:
        raise ValueError(f"the offset {reprlib.repr(end)}")
    if any(type(count) is not int or not 0 <= count < MAX_DIMENSION for count in entry["shape"]):
        raise ValueError(f"the shape {reprlib.repr(entry['shape'])}")
    return end


def checkpoint_error(path: Path, expected: str, found: object) -> InputError:
    """Return the error for a file that is no checkpoint."""
    return InputError("checkpoint", path, expected=expected, found=found, hint="Give a run directory or another file.")
