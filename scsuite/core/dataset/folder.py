"""Read a folder or an archive of `train/CLASS/*` and `test/CLASS/*` (or `val/`) images, or of `CLASS/*` alone.

In: a path. Out: a `RawDataset`: all images as uint8 images_NHWC, N sorted by class and name, H = W = 32.

The order of a file system or an archive has no effect. A single top folder is ignored: its content is read as if it
were at the top. Hidden files and those that operating systems create are skipped. Other files that are no images are
counted in a note. Links out of the folder, pipes and devices are refused.
"""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset import archive
from scsuite.core.dataset.folder_layout import LabelledFiles, Layout, parse_layout
from scsuite.core.dataset.image_file import FORMATS, SUFFIXES, CorruptImageError, corrupt_image_error, decode_images
from scsuite.core.dataset.split import SIZE, Progress, RawDataset, Split, train_test_overlap_note
from scsuite.core.errors import InputError
from scsuite.core.files import open_regular_file, read_regular_file

_HIDDEN = re.compile(r"(^|/)(\.|(__MACOSX|Thumbs\.db|desktop\.ini)(/|\Z))")
_MAX_CORRUPT_LISTED = 10
_CORRUPT_SEARCH = 2000  # images read after the first corrupt one, so that the error can name several
_PROGRESS_EVERY = 1000  # images
_MAX_SILENT_CUT = 0.1  # mean fraction of the area that may be cut away without a note


def is_hidden(name: str) -> bool:
    """Return whether any part of this path is hidden from people: .git, .DS_Store, ._x.jpg, __MACOSX."""
    return _HIDDEN.search(name) is not None


def is_image(name: str) -> bool:
    """Return whether a file of this name, in any letter case, is read as an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden(name)  # noqa: PTH122 - called 60,000 times; pathlib is slower


@dataclass
class _DecodedFiles:
    """The images decoded so far, by name, and the names of other files and of folders."""

    images: dict[str, NDArray[np.uint8]]
    non_images: list[str]
    folders: set[str]
    num_resized: int = 0
    cut_fractions: float = 0.0  # the sum over the resized images
    image_notes: Counter[str] = field(default_factory=Counter)


# --- folders ---


@dataclass(frozen=True)
class FolderListing:
    """The relative names in a folder, sorted; no file has been opened."""

    root: Path
    images: tuple[str, ...]
    non_images: tuple[str, ...]
    folders: frozenset[str]
    content_hash: str  # sha256 over names, sizes and modification times

    def read(self, fit: str, progress: Progress) -> RawDataset:
        """Decode the images. Raises InputError for a layout without classes and for corrupt images."""
        layout = parse_layout(list(self.images), set(self.folders), list(self.non_images), str(self.root))
        names = sorted({self.images[i] for files in (layout.train, layout.test or []) for i, _ in files})
        data = ((name, read_regular_file(self.root / name, "image")) for name in names)
        collected = _DecodedFiles({}, list(self.non_images), set(self.folders))
        _collect_images(collected, data, str(self.root), fit, progress, len(names))
        return _assemble(collected, list(self.images), layout)


def list_folder(root: Path) -> FolderListing:
    """Walk a folder.

    Raises InputError for links out of it or to folders, for pipes and devices, and for an unreadable folder.
    """
    digest = hashlib.sha256()
    images: list[str] = []
    non_images: list[str] = []
    folders: set[str] = set()
    for name, size_and_time in sorted(_walk(root, "", os.path.realpath(root))):
        if size_and_time is None:
            folders.add(name)
            continue
        (images if is_image(name) else non_images).append(name)
        digest.update(f"{name}\0{size_and_time[0]}\0{size_and_time[1]}\0".encode("utf-8", "surrogateescape"))
    return FolderListing(root, tuple(images), tuple(non_images), frozenset(folders), digest.hexdigest())


def _walk(root: Path, below: str, real_root: str) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Yield each file's relative name with its size in bytes and time in ns, each folder's with None."""
    try:
        with os.scandir(root / below) as iterator:
            entries = list(iterator)
    except OSError as error:
        where, hint = root / below, "Check its permissions."
        raise InputError("folder", where, expected="a readable one", found=error.strerror, hint=hint) from None
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if is_hidden(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield name, None
            yield from _walk(root, name, real_root)
        else:
            yield name, _size_and_time(entry, real_root)


def _size_and_time(entry: os.DirEntry[str], real_root: str) -> tuple[int, int]:
    hint = "Replace it by a plain copy, or remove it."
    try:
        status = entry.stat()
    except OSError as error:  # a link to nothing or to itself
        raise InputError("file", entry.path, expected="a file", found=error.strerror, hint=hint) from None
    if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(real_root):
        raise InputError("link", entry.path, expected="files within the folder", found="a link out of it", hint=hint)
    if not stat.S_ISREG(status.st_mode):
        found = "a link to a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise InputError("file", entry.path, expected="a regular file", found=found, hint=hint)
    return status.st_size, status.st_mtime_ns


# --- archives ---


def open_archive(path: Path) -> tuple[BufferedReader, str]:
    """Open an archive and return its sha256 too, both of one descriptor, so it cannot change in between."""
    file = open_regular_file(path, "data")
    try:
        return file, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        file.close()
        found, hint = error.strerror, "Check the disk."
        raise InputError("archive", path, expected="a readable file", found=found, hint=hint) from None


def read_archive(file: BinaryIO, where: str, fit: str, progress: Progress) -> RawDataset:
    """Decode the images of an open archive in one pass through it.

    Raises InputError as `archive.read_members` does, for a layout without classes and for corrupt images.
    """
    collected = _DecodedFiles({}, [], set())
    _collect_images(collected, _read_image_members(file, where, collected), where, fit, progress, None)
    names = sorted(collected.images)
    layout = parse_layout(names, collected.folders, sorted(collected.non_images), where)
    return _assemble(collected, names, layout)


def _read_image_members(file: BinaryIO, where: str, collected: _DecodedFiles) -> Iterator[tuple[str, bytes]]:
    for name, data in archive.read_members(file, where, is_image):
        if data is not None:
            yield name, data
        elif not is_hidden(name):
            if name.endswith("/"):
                collected.folders.add(name[:-1])
            else:
                collected.non_images.append(name)


# --- both ---


def _collect_images(
    collected: _DecodedFiles, files: Iterable[tuple[str, bytes]], where: str, fit: str, progress: Progress,
    total: int | None,
) -> None:  # fmt: skip
    """Decode the files. Raises InputError that names up to ten corrupt ones."""
    problems: list[tuple[str, str]] = []
    first_problem = 0
    for count, (name, decoded) in enumerate(decode_images(files, fit), start=1):
        if isinstance(decoded, CorruptImageError):
            first_problem = first_problem or count
            problems.append((name if problems else f"{where}: {name}", str(decoded)))
        else:
            collected.images[name] = decoded.image_HWC
            collected.num_resized += decoded.is_resized
            collected.cut_fractions += decoded.cut_fraction
            collected.image_notes.update([decoded.note] if decoded.note else [])
        if problems and (len(problems) == _MAX_CORRUPT_LISTED or count - first_problem >= _CORRUPT_SEARCH):
            break
        if count % _PROGRESS_EVERY == 0 or count == total:
            progress("Decoding images", count, total)
    if problems:
        raise corrupt_image_error(problems)


def _assemble(collected: _DecodedFiles, names: list[str], layout: Layout) -> RawDataset:
    train = _make_split(collected, names, layout.train)
    test = None if layout.test is None else _make_split(collected, names, layout.test)
    total = len(train) + (0 if test is None else len(test))
    notes = list(layout.notes)
    if collected.num_resized:
        mean_cut = collected.cut_fractions / collected.num_resized
        cut = f"; {100 * mean_cut:.0f} % of their area was cut away on average (--fit pad keeps it)"
        resized = f"{collected.num_resized:,} of {total:,} images were resized to {SIZE} x {SIZE}"
        notes.append(resized + cut * (mean_cut > _MAX_SILENT_CUT))
    notes += [f"{count:,} of {total:,} images: {note}" for note, count in collected.image_notes.most_common()]
    if collected.non_images:
        suffixes = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in collected.non_images)
        counts = ", ".join(f"{suffix} {count:,}" for suffix, count in suffixes.most_common(5))
        notes.append(
            f"{len(collected.non_images):,} files that are not {', '.join(FORMATS)} were skipped"
            f" ({counts}; the first is {collected.non_images[0]})"
        )
    if test is not None:
        notes += train_test_overlap_note(train, test)
    return RawDataset(layout.class_names, train, test, tuple(notes))


def _make_split(collected: _DecodedFiles, names: list[str], files: LabelledFiles) -> Split:
    images_NHWC = np.empty((len(files), SIZE, SIZE, 3), dtype=np.uint8)
    for row, (index, _) in enumerate(files):
        images_NHWC[row] = collected.images.pop(names[index])  # removed one by one: no image is in memory twice
    labels_N = np.array([label for _, label in files], dtype=np.int64)
    return Split(images_NHWC, labels_N, tuple(names[index] for index, _ in files))
