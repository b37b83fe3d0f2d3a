"""Decoded images kept in the user's cache folder, so that a data set is decoded once.

In: a key that names the source's contents, and a function that decodes it. Out: the images and their fingerprint.

One safetensors file a data set. It is written beside its place and renamed, so a reader sees all of it or nothing; its
contents are checked by their sha256 whenever they are read, and made again where that fails. The cache is a help, never
a need: where it cannot be written, the images are decoded each time.
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

from scsuite.core.dataset.base import SIZE, Decoded, Split

FORMAT = 1  # of the file, and of the rules by which pictures are decoded: raise it when either changes
_STALE_SECONDS = 3600  # after which another process's unfinished file is one that a kill left behind


@dataclass(frozen=True)
class Source:
    """What is kept under which name: `label` and `identity` say what, `key` says which contents of it."""

    label: str  # for people who look into the folder
    identity: str  # one file for each; a folder that changes takes the place of its older self
    key: str

    @property
    def file_name(self) -> str:
        """Letters, digits and dashes, whatever the source is called."""
        label = "".join(c if c.isascii() and c.isalnum() else "-" for c in self.label)[:40]
        return (
            f"{label}-{hashlib.sha256(self.identity.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.safetensors"
        )


def cache_folder(cache_dir: str | None = None) -> Path | None:
    """`cache_dir`, else $SCSUITE_CACHE, else the place that the system has for such; None where there is no home."""
    if chosen := cache_dir or os.environ.get("SCSUITE_CACHE"):
        return Path(os.path.expanduser(chosen))  # noqa: PTH111 - which leaves ~name alone where there is none
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if Path(xdg).is_absolute():  # the standard says to pass over a relative one
        return Path(xdg) / "scsuite"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "scsuite" / "Cache"
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "scsuite"


def load(folder: Path | None, source: Source, build: Callable[[], Decoded]) -> tuple[Decoded, str]:
    """The images from the cache or, where they are not there, from `build`; and their fingerprint.

    A note tells of a damaged file that was made again and of a folder that could not be written.
    """
    if folder is None:
        decoded = build()
        return decoded, fingerprint(decoded)
    path = folder / source.file_name
    notes = []
    try:
        if found := _read(path, source.key):
            return found
    except Exception as error:  # whatever is wrong with it, it can be made again
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        notes.append(f"the kept images in {path} could not be used ({reason}) and were decoded again")
    decoded = build()
    digest = fingerprint(decoded)
    try:
        _write(path, source.key, decoded, digest)
    except Exception as error:  # a full disk, a read-only home
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        notes.append(f"the decoded images could not be kept in {folder} ({reason})")
    return replace(decoded, notes=(*decoded.notes, *notes)), digest


def fingerprint(decoded: Decoded) -> str:
    """sha256 over class names, images, labels and masks of both splits."""
    digest = hashlib.sha256(json.dumps(decoded.class_names).encode())
    for name, array in sorted(_arrays(decoded).items()):
        digest.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _arrays(decoded: Decoded) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name, split in (("train", decoded.train), ("test", decoded.test)):
        if split is not None:
            arrays |= {f"{name}.images": split.images_NHWC, f"{name}.labels": split.labels_N}
            if split.masks_NHW is not None:
                arrays[f"{name}.masks"] = split.masks_NHW
    return arrays


def _write(path: Path, key: str, decoded: Decoded, digest: str) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    files = {"train": decoded.train.files, "test": decoded.test.files if decoded.test else None}
    facts = json.dumps({"classes": decoded.class_names, "notes": decoded.notes, "files": files, "key": key})
    tensors = _arrays(decoded) | {"facts": np.frombuffer(facts.encode(), np.uint8)}
    metadata = {"format": str(FORMAT), "fingerprint": digest, "facts_sha256": _facts_digest(facts.encode(), digest)}
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        with unfinished.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777  # what the umask leaves; the library would make it 0600
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, unfinished, metadata)
        unfinished.chmod(mode)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _facts_digest(facts: bytes, digest: str) -> str:
    return hashlib.sha256(digest.encode() + facts).hexdigest()


def _sweep(path: Path) -> None:
    for left in path.parent.glob(f"{path.name}.*.tmp"):
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            left.unlink(missing_ok=True)


def _read(path: Path, key: str) -> tuple[Decoded, str] | None:
    """What `_write` wrote; None where there is nothing, or something of another key. Any damage raises."""
    from safetensors import safe_open

    if not path.exists():
        return None
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != str(FORMAT):
            return None
        facts_bytes = file.get_tensor("facts").tobytes()
        facts = json.loads(facts_bytes)
        if facts["key"] != key:
            return None
        arrays = {name: file.get_tensor(name) for name in file.keys() if name != "facts"}  # noqa: SIM118 - not a dict
    splits = {name: _split(name, arrays, files) for name, files in facts["files"].items() if files is not None}
    decoded = Decoded(tuple(facts["classes"]), splits["train"], splits.get("test"), tuple(facts["notes"]))
    digest = fingerprint(decoded)
    if digest != metadata["fingerprint"] or _facts_digest(facts_bytes, digest) != metadata["facts_sha256"]:
        raise ValueError("its checksum is wrong")
    return decoded, digest


def _split(name: str, arrays: dict[str, NDArray[Any]], files: list[str]) -> Split:
    images_NHWC, labels_N = arrays[f"{name}.images"], arrays[f"{name}.labels"]
    if images_NHWC.shape != (len(files), SIZE, SIZE, 3) or labels_N.shape != (len(files),):
        raise ValueError("its shapes are wrong")
    return Split(images_NHWC, labels_N, tuple(files), arrays.get(f"{name}.masks"))
