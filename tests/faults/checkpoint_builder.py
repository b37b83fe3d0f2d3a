"""Build checkpoint files by hand. In: any header, bytes or metadata. Out: a file whose checksum is right all the same.

Our own code for writing checkpoints is not used: a bad file must be recognized although its checksum is right.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

DIGEST_KEY = b'\\"sha256\\": \\"'
NO_DIGEST = b"0" * 64
DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "i1", "BOOL": "?", "C64": "<c8"}


def seal(file: bytes) -> bytes:
    """Write the sha256 of the complete file, computed with zeros for its own digits, to its place in the metadata."""
    start = file.index(DIGEST_KEY) + len(DIGEST_KEY)
    digest = hashlib.sha256(file[:start] + NO_DIGEST + file[start + 64 :]).hexdigest()
    return file[:start] + digest.encode() + file[start + 64 :]


def join(header: bytes, data: bytes) -> bytes:
    """A safetensors file: the header's length, the header, the data."""
    return len(header).to_bytes(8, "little") + header + data


@dataclass
class CheckpointParts:
    """The parts of a checkpoint file, to be changed and packed again."""

    tensors: dict[str, tuple[str, Any, bytes]]  # dtype, shape and bytes by name
    metadata: dict[str, Any]
    raw_metadata: Any = None  # written instead of `metadata`, if given

    @classmethod
    def parse(cls, file: bytes) -> "CheckpointParts":
        """The parts of a valid file."""
        end = 8 + int.from_bytes(file[:8], "little")
        header = json.loads(file[8:end])
        metadata = json.loads(header.pop("__metadata__")["scsuite"])
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        tensors = {name: (e["dtype"], e["shape"], file[end:][slice(*e["data_offsets"])]) for name, e in entries}
        return cls(tensors, metadata)

    @property
    def header(self) -> dict[str, Any]:
        """The safetensors header."""
        text = json.dumps({**self.metadata, "sha256": NO_DIGEST.decode()})
        header, end = {"__metadata__": {"scsuite": text if self.raw_metadata is None else self.raw_metadata}}, 0
        for name, (dtype, shape, data) in self.tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
            end += len(data)
        return header

    @property
    def data(self) -> bytes:
        """The bytes of all tensors in order."""
        return b"".join(data for _, _, data in self.tensors.values())

    def pack(self) -> bytes:
        """The file, with a right checksum if the metadata has a place for one."""
        return self.pack_with_header(json.dumps(self.header).encode())

    def pack_with_header(self, header: bytes) -> bytes:
        """The data with another header."""
        file = join(header, self.data)
        return seal(file) if DIGEST_KEY in file else file

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """A tensor's values."""
        dtype, shape, data = self.tensors[name]
        return np.frombuffer(data, DTYPES[dtype]).reshape(shape).copy()

    def put(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Set a tensor's values, dtype and shape."""
        dtype = next(name for name, code in DTYPES.items() if np.dtype(code) == array.dtype)
        self.tensors[name] = (dtype, list(array.shape), array.tobytes())
