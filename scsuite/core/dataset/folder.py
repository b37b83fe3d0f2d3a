"""A folder or an archive of `train/CLASS/*` and `test/CLASS/*` (or `val/`) pictures, or of `CLASS/*` alone.

In: a path. Out: a `Decoded`: all pictures as uint8 images_NHWC, N sorted by class and name, H = W = 32.

Nothing depends on the order of a file system or an archive. What lies below one single top folder is read as if it lay
at the top. Hidden files and those that systems leave behind are passed over; other files that are no pictures are
counted in a note; links that lead out, pipes and devices are refused.
"""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset import archive, decode
from scsuite.core.dataset.base import SIZE, Decoded, Progress, Split, shared_note
from scsuite.core.dataset.layout import Layout, arrange
from scsuite.core.errors import InputError
from scsuite.core.files import open_regular_file, read_regular_file

_HIDDEN = re.compile(r"(^|/)(\.|(__MACOSX|Thumbs\.db|desktop\.ini)(/|\Z))")
_BROKEN_LISTED = 10
_BROKEN_WINDOW = 2000  # pictures looked at after the first broken one, to name others along with it
_PROGRESS_EVERY = 1000  # pictures


def is_hidden(name: str) -> bool:
    """Whether any part of this path is one that a person does not see: .git, .DS_Store, ._x.jpg, __MACOSX."""
    return _HIDDEN.search(name) is not None


def is_picture(name: str) -> bool:
    """Whether a file of this name, in any letter case, is read as a picture."""
    return os.path.splitext(name)[1].lower() in decode.SUFFIXES and not is_hidden(name)  # noqa: PTH122 - 60,000 times


@dataclass
class _Pictures:
    """What has been decoded so far, by name."""

    images: dict[str, NDArray[np.uint8]]
    others: list[str]  # files that are no pictures
    folders: set[str]
    num_resized: int = 0


# --- folders ---


@dataclass(frozen=True)
class Listing:
    """What a folder holds, without having opened any of it: relative names, sorted."""

    root: Path
    pictures: tuple[str, ...]
    others: tuple[str, ...]
    folders: frozenset[str]
    key: str  # sha256 over names, sizes and times of change

    def read(self, progress: Progress) -> Decoded:
        """Decode the pictures.

        Raises InputError for a layout that is not one of classes, and for broken pictures.
        """
        layout = arrange(list(self.pictures), set(self.folders), list(self.others), str(self.root))
        chosen = sorted({self.pictures[i] for part in (layout.train, layout.test or []) for i, _ in part})
        data = ((name, read_regular_file(self.root / name, "picture")) for name in chosen)
        found = _Pictures({}, list(self.others), set(self.folders))
        _decode_into(found, data, str(self.root), progress, len(chosen))
        return _assemble(found, list(self.pictures), layout)


def list_folder(root: Path) -> Listing:
    """Walk a folder.

    Raises InputError for links that lead out of it or to folders, for pipes and devices, and for what cannot be read.
    """
    digest = hashlib.sha256()
    pictures: list[str] = []
    others: list[str] = []
    folders: set[str] = set()
    for name, status in sorted(_walk(root, "", os.path.realpath(root))):
        if status is None:
            folders.add(name)
            continue
        (pictures if is_picture(name) else others).append(name)
        digest.update(f"{name}\0{status[0]}\0{status[1]}\0".encode("utf-8", "surrogateescape"))
    return Listing(root, tuple(pictures), tuple(others), frozenset(folders), digest.hexdigest())


def _walk(root: Path, below: str, real_root: str) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Each file's relative name with its size in bytes and time in ns; each folder's with None."""
    try:
        with os.scandir(root / below) as entries:
            found = list(entries)
    except OSError as error:
        where, hint = root / below, "Check its permissions."
        raise InputError("folder", where, expected="a readable one", found=error.strerror, hint=hint) from None
    for entry in found:
        name = f"{below}/{entry.name}" if below else entry.name
        if is_hidden(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield name, None
            yield from _walk(root, name, real_root)
        else:
            yield name, _file_status(entry, real_root)


def _file_status(entry: os.DirEntry[str], real_root: str) -> tuple[int, int]:
    hint = "Put a plain copy in its place, or take it out."
    try:
        status = entry.stat()
    except OSError as error:  # a link to nothing or to itself
        raise InputError("file", entry.path, expected="a file", found=error.strerror, hint=hint) from None
    if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(real_root):
        raise InputError("link", entry.path, expected="files within the folder", found="a link out of it", hint=hint)
    if not stat.S_ISREG(status.st_mode):
        kind = "a link to a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise InputError("file", entry.path, expected="a regular file", found=kind, hint=hint)
    return status.st_size, status.st_mtime_ns


# --- archives ---


def read_archive(file: BinaryIO, where: str, progress: Progress) -> Decoded:
    """Decode the pictures of an open archive, in one pass through it.

    Raises InputError as `archive.read_members` does, for a layout that is not one of classes, for broken pictures.
    """
    found = _Pictures({}, [], set())
    _decode_into(found, _archive_pictures(file, where, found), where, progress, None)
    names = sorted(found.images)
    return _assemble(found, names, arrange(names, found.folders, sorted(found.others), where))


def _archive_pictures(file: BinaryIO, where: str, found: _Pictures) -> Iterator[tuple[str, bytes]]:
    for name, data in archive.read_members(file, where, is_picture):
        if data is not None:
            yield name, data
        elif not is_hidden(name):
            if name.endswith("/"):
                found.folders.add(name[:-1])
            else:
                found.others.append(name)


def open_archive(path: Path) -> tuple[BufferedReader, str]:
    """The opened archive and its sha256; both come from one descriptor, so that it cannot change in between."""
    file = open_regular_file(path, "data")
    try:
        return file, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        file.close()
        raise InputError(
            "archive", path, expected="a readable file", found=error.strerror, hint="Check the disk."
        ) from None


# --- both ---


def _decode_into(
    found: _Pictures, data: Iterable[tuple[str, bytes]], where: str, progress: Progress, total: int | None
) -> None:
    problems: list[tuple[str, str]] = []
    first_problem = 0
    for count, (name, image, resized) in enumerate(decode.decode_all(data), start=1):
        if isinstance(image, decode.BrokenPictureError):
            first_problem = first_problem or count
            problems.append((name if problems else f"{where}: {name}", str(image)))
        else:
            found.images[name] = image
            found.num_resized += resized
        if problems and (len(problems) == _BROKEN_LISTED or count - first_problem >= _BROKEN_WINDOW):
            break
        if count % _PROGRESS_EVERY == 0 or count == total:
            progress("Decoding images", count, total)
    if problems:
        raise decode.broken(problems)


def _assemble(found: _Pictures, names: list[str], layout: Layout) -> Decoded:
    train = _split(found, names, layout.train)
    test = None if layout.test is None else _split(found, names, layout.test)
    total = len(train) + (0 if test is None else len(test))
    notes = list(layout.notes)
    if found.num_resized:
        notes.append(f"{found.num_resized:,} of {total:,} images were resized to {SIZE} x {SIZE}")
    if found.others:
        kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in found.others)
        format_names = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common(5))
        notes.append(
            f"{len(found.others):,} files that are not {', '.join(decode.FORMATS)} were skipped"
            f" ({format_names}; the first is {found.others[0]})"
        )
    if test is not None:
        notes += shared_note(train, test)
    return Decoded(layout.class_names, train, test, tuple(notes))


def _split(found: _Pictures, names: list[str], part: list[tuple[int, int]]) -> Split:
    images_NHWC = np.empty((len(part), SIZE, SIZE, 3), dtype=np.uint8)
    for row, (i, _) in enumerate(part):
        images_NHWC[row] = found.images.pop(names[i])  # let go of one by one: the pictures are in memory once
    labels_N = np.array([label for _, label in part], dtype=np.int64)
    return Split(images_NHWC, labels_N, tuple(names[i] for i, _ in part))
