"""Cache of decoded images in the user's cache folder, so that a dataset is decoded only once.

In: a key that names the source's content, and a function that decodes it. Out: the images and their fingerprint.

There is one safetensors file per dataset. It is written to a temporary file and renamed, so a reader sees all of it or
nothing. Its content is verified by sha256 at each read, and decoded again if that fails. If the cache cannot be
written, the images are decoded each time.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset.split import SIZE, RawDataset, Split
from scsuite.core.errors import one_line

FORMAT = 5  # of the file and of the rules by which images are decoded: raise it when either changes
_METADATA_TENSOR, _METADATA_SHA256 = "metadata", "metadata_sha256"
_STALE_SECONDS = 3600  # an older temporary file was left by a process that was killed


@dataclass(frozen=True)
class CacheKey:
    """The file in which a source is cached, and what must be in it."""

    label: str  # for people who look into the folder
    path: str  # one file per path: a changed folder replaces its older content
    content_hash: str

    @property
    def file_name(self) -> str:
        """A name of letters, digits and dashes for any source."""
        label = "".join(c if c.isascii() and c.isalnum() else "-" for c in self.label)[:40]
        return f"{label}-{hashlib.sha256(self.path.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.safetensors"


def cache_folder(cache_dir: str | None = None) -> Path | None:
    """Return `cache_dir`, or $SCSUITE_CACHE, or the system's folder for caches; None if there is no home directory."""
    if folder := cache_dir or os.environ.get("SCSUITE_CACHE"):
        return Path(os.path.expanduser(folder))  # noqa: PTH111 - Path.expanduser fails for an unknown ~name
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if Path(xdg).is_absolute():  # the standard says to ignore a relative one
        return Path(xdg) / "scsuite"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "scsuite" / "Cache"
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "scsuite"


def load_or_build(folder: Path | None, key: CacheKey, build: Callable[[], RawDataset]) -> tuple[RawDataset, str]:
    """Return the images from the cache, or from `build` if they are not in it, and their fingerprint.

    A note in the dataset reports a damaged file that was built again, or a folder that could not be written.
    """
    if folder is None:
        dataset = build()
        return dataset, fingerprint(dataset)
    path = folder / key.file_name
    notes = []
    try:
        if cached := _read(path, key.content_hash):
            return cached
    except Exception as error:  # the file can be built again after any error
        reason = one_line(error, 100)
        notes.append(f"the cached images in {path} could not be used ({reason}) and were decoded again")
    dataset = build()
    digest = fingerprint(dataset)
    try:
        _write(path, key.content_hash, dataset, digest)
    except Exception as error:  # a full disk, a read-only home
        notes.append(f"the decoded images could not be cached in {folder} ({one_line(error, 100)})")
    return replace(dataset, notes=(*dataset.notes, *notes)), digest


def fingerprint(dataset: RawDataset) -> str:
    """Return a sha256 over class names, images, labels and masks of both splits."""
    digest = hashlib.sha256(json.dumps(dataset.class_names).encode())
    for name, array in sorted(_arrays(dataset).items()):
        digest.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _arrays(dataset: RawDataset) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        if split is not None:
            arrays |= {f"{name}.images": split.images_NHWC, f"{name}.labels": split.labels_N}
            if split.masks_NHW is not None:
                arrays[f"{name}.masks"] = split.masks_NHW
    return arrays


def _write(path: Path, content_hash: str, dataset: RawDataset, digest: str) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    files = {"train": dataset.train.files, "test": dataset.test.files if dataset.test else None}
    fields = {"classes": dataset.class_names, "notes": dataset.notes, "files": files, "key": content_hash}
    metadata = json.dumps(fields).encode()
    tensors = _arrays(dataset) | {_METADATA_TENSOR: np.frombuffer(metadata, np.uint8)}
    header = {"format": str(FORMAT), "fingerprint": digest, _METADATA_SHA256: _metadata_digest(metadata, digest)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        with temporary.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777  # by the umask; safetensors would make it 0600
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, temporary, header)
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _metadata_digest(metadata: bytes, digest: str) -> str:
    return hashlib.sha256(digest.encode() + metadata).hexdigest()


def _remove_stale(path: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for temporary in path.parent.glob(f"{path.name}.*.tmp"):
        if time.time() - temporary.stat().st_mtime > _STALE_SECONDS:
            temporary.unlink(missing_ok=True)


def _read(path: Path, content_hash: str) -> tuple[RawDataset, str] | None:
    """Return what `_write` wrote, or None if there is no file or it has other content. Raises for any damage."""
    from safetensors import safe_open

    if not path.exists():
        return None
    with safe_open(path, framework="numpy") as file:
        header = file.metadata() or {}
        if header.get("format") != str(FORMAT):
            return None
        metadata = file.get_tensor(_METADATA_TENSOR).tobytes()
        fields = json.loads(metadata)
        if fields["key"] != content_hash:
            return None
        names = [name for name in file.keys() if name != _METADATA_TENSOR]  # noqa: SIM118 - not a dict
        arrays = {name: file.get_tensor(name) for name in names}
    splits = {name: _make_split(name, arrays, files) for name, files in fields["files"].items() if files is not None}
    dataset = RawDataset(tuple(fields["classes"]), splits["train"], splits.get("test"), tuple(fields["notes"]))
    digest = fingerprint(dataset)
    if digest != header["fingerprint"] or _metadata_digest(metadata, digest) != header[_METADATA_SHA256]:
        raise ValueError("its checksum is wrong")
    return dataset, digest


def _make_split(name: str, arrays: dict[str, NDArray[Any]], files: list[str]) -> Split:
    images_NHWC, labels_N = arrays[f"{name}.images"], arrays[f"{name}.labels"]
    if images_NHWC.shape != (len(files), SIZE, SIZE, 3) or labels_N.shape != (len(files),):
        raise ValueError("its shapes are wrong")
    return Split(images_NHWC, labels_N, tuple(files), arrays.get(f"{name}.masks"))
