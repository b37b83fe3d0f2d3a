"""Read a folder or an archive of `train/CLASS/*` and `test/CLASS/*` (or `val/`) images, or of `CLASS/*` alone.

In: a path. Out: a `RawDataset`: all images as uint8 images_NHWC, N sorted by class and name, H = W = 32; or, without
classes, the contents of each image file.

The order of a file system or an archive has no effect. A single top folder is ignored: its content is read as if it
were at the top. Hidden files and those that operating systems create are skipped. Other files that are no images are
counted in a note. Links are followed; pipes and devices are refused.
"""

import hashlib
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset import archive
from scsuite.core.dataset.file_kind import describe_bytes
from scsuite.core.dataset.folder_layout import (
    LabelledFiles,
    Layout,
    LayoutParser,
    drop_repeated_links,
    no_images_error,
    parse_layout,
)
from scsuite.core.dataset.folder_walk import FoundFile, is_hidden, is_image, walk_folder
from scsuite.core.dataset.image_file import CorruptImageError, corrupt_image_error, decode_images
from scsuite.core.dataset.image_notes import ImageChanges, skipped_files_text
from scsuite.core.dataset.split import SIZE, Progress, RawDataset, Split, count_text, train_test_overlap_note
from scsuite.core.errors import InputError
from scsuite.core.files import open_regular_file, read_regular_file

_MAX_CORRUPT_LISTED = 10
_CORRUPT_SEARCH = 2000  # images read after the first corrupt one, so that the error can name several
_PROGRESS_EVERY = 1000  # images
_MAX_SUFFIXES = 5  # of files that are no images, in a note
_HEAD_BYTES = 4096  # of a file, to say what it is

Files = Iterator[tuple[str, bytes]]  # (name, contents)


@dataclass(frozen=True)
class Listing:
    """The relative names in a folder or an archive, sorted, and how to read files of them."""

    where: str
    images: tuple[str, ...]
    non_images: tuple[str, ...]
    folders: frozenset[str]
    broken_links: tuple[str, ...]
    originals: Mapping[str, str]  # of an image that is a link, the file that it leads to
    read_files: Callable[[Collection[str]], Files]
    read_head: Callable[[str], bytes] = lambda _: b""  # the first bytes of a file that is no image, in a folder
    hash_contents: Callable[[], str] = lambda: ""  # of a folder: sha256 over names, inodes, sizes and times
    notes: tuple[str, ...] = ()

    def read(self, fit: str, progress: Progress, parse: LayoutParser = parse_layout) -> RawDataset:
        """Decode the images. Raises InputError for a layout without classes and for corrupt images."""
        self.check_has_images()
        layout = parse(list(self.images), set(self.folders), list(self.non_images), self.where)
        layout = drop_repeated_links(layout, self.images, self.originals, self.where)
        names = sorted({self.images[i] for files in (layout.train, layout.test or []) for i, _ in files})
        collected = _DecodedFiles({})
        _collect_images(collected, self.read_files(names), self.where, fit, progress, len(names))
        return _assemble(collected, list(self.images), layout, self._skipped_notes())

    def check_has_images(self) -> None:
        """Raise InputError, which says what is there, if there are no images."""
        if self.images:
            return
        others = [count_text(len(self.non_images), "other file", "other files")] if self.non_images else []
        if self.broken_links:
            one, many = "link that leads to no file", "links that lead to no file"
            others.append(count_text(len(self.broken_links), one, many))
        first = min(self.non_images or self.broken_links or ("",))
        description = self._describe(first) if self.non_images else ""
        more = ", ..." * (len(self.non_images or self.broken_links) > 1)
        example = f" ({first}{': ' if description else ''}{description}{more})" if first else ""
        raise no_images_error(self.non_images, ", and ".join(["none", *others]) + example, self.where)

    def _skipped_notes(self) -> list[str]:
        """Return notes about files that are no images, with what the first one of each suffix is, and about links."""
        notes = list(self.notes)
        if self.broken_links:
            many = "links that lead to no file, or in a circle, were skipped"
            one = "link that leads to no file, or in a circle, was skipped"
            skipped = count_text(len(self.broken_links), one, many)
            notes.append(f"{skipped} (the first is {self.broken_links[0]})")
        by_suffix: dict[str, list[str]] = {}
        for name in self.non_images:
            by_suffix.setdefault(PurePosixPath(name).suffix.lower() or "no suffix", []).append(name)
        if by_suffix:
            largest = sorted(by_suffix.items(), key=lambda item: (-len(item[1]), item[0]))[:_MAX_SUFFIXES]
            kinds = [(f"{suffix} {len(names):,}", self._describe(names[0])) for suffix, names in largest]
            listed = "; ".join(f"{count}, {kind}" if kind else count for count, kind in kinds)
            text = skipped_files_text(len(self.non_images))
            notes.append(f"{text} ({listed}; the first is {self.non_images[0]})")
        return notes

    def _describe(self, name: str) -> str:
        """Return what a file is that has no name of an image, or "" if its first bytes do not say it."""
        head = self.read_head(name)
        description = describe_bytes(head) if head else ""
        return "" if description.startswith("no image") else description.partition(" with a damaged")[0]


@dataclass
class _DecodedFiles:
    """The images decoded so far, by name, and what was done to them."""

    images: dict[str, NDArray[np.uint8]]
    changes: ImageChanges = field(default_factory=ImageChanges)


# --- folders ---


def list_folder(root: Path, unreadable: list[tuple[str, str]] | None = None) -> Listing:
    """Walk a folder. Raises InputError, or adds to `unreadable`, as `walk_folder` does."""
    walk = walk_folder(root, unreadable)
    images: list[FoundFile] = []
    non_images: list[FoundFile] = []
    for file in walk.files:
        (images if is_image(file.name) else non_images).append(file)
    return Listing(
        where=str(root),
        images=tuple(file.name for file in images),
        non_images=tuple(file.name for file in non_images),
        folders=walk.folders,
        broken_links=walk.broken_links,
        originals=_originals((file.name, file.identity, file.is_linked) for file in images),
        read_files=lambda names: ((name, read_regular_file(root / name, "image")) for name in names),
        read_head=lambda name: _read_head(root / name),
        hash_contents=walk.hash_contents,
    )


def _read_head(path: Path) -> bytes:
    with suppress(InputError, OSError), open_regular_file(path, "file") as file:
        return file.read(_HEAD_BYTES)
    return b""


def _originals(files: Iterable[tuple[str, Hashable, bool]]) -> dict[str, str]:
    """Return of each link the file of the same identity, or the first link to it if no such file is there.

    In: name, identity and whether it is a link.
    """
    by_identity: dict[Hashable, str] = {}
    links = []
    for name, identity, is_link in sorted(files, key=lambda file: file[2]):  # files first; each part in its order
        by_identity.setdefault(identity, name)
        if is_link:
            links.append((name, identity))
    return {name: by_identity[identity] for name, identity in links}


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


def read_archive(
    file: BinaryIO, where: str, fit: str, progress: Progress, parse: LayoutParser = parse_layout
) -> RawDataset:
    """Decode the images of an open archive.

    Raises InputError as `archive.walk_archive` does, for a layout without classes and for corrupt images.
    """
    return _list_archive(file, where).read(fit, progress, parse)


def _list_archive(file: BinaryIO, where: str) -> Listing:
    walk = archive.walk_archive(file, where, is_image)
    files = sorted(name for name in (*walk.positions, *walk.links) if not is_hidden(name))
    if not any(map(is_image, files)):
        archive.check_is_no_document(file, where)
    notes = []
    if names := walk.legacy_names:
        many = "file names are in an unknown encoding and were read as cp437"
        text = count_text(len(names), "file name is in an unknown encoding and was read as cp437", many)
        notes.append(f"{text} (the first is {names[0]})")
    return Listing(
        where=where,
        images=tuple(name for name in files if is_image(name)),
        non_images=tuple(name for name in files if not is_image(name)),
        folders=frozenset(name for name in walk.folders if not is_hidden(name)),
        broken_links=tuple(name for name in walk.other_links if not is_hidden(name)),
        originals=_originals(
            (name, walk.links.get(name, name), name in walk.links and name not in walk.hard_links)
            for name in files
            if is_image(name)
        ),
        read_files=lambda names: archive.read_files(file, where, walk, names),
        notes=tuple(notes),
    )


# --- image files without classes ---


@dataclass
class SkippedFiles:
    """What `iter_image_files` did not yield: files of other kinds, and files that cannot be read, with the reason."""

    non_images: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def iter_image_files(path: str | Path, skipped: SkippedFiles | None = None) -> Files:
    """Yield name and contents of each image file that `path` names, sorted by name; no classes are needed.

    A folder or an archive gives the files in it, at any depth, whose names end as an image's, without hidden files;
    each is called `path/name`. Any other file is taken for an image whatever its name. A link to a file that is
    there too is left out. What is left out is added to `skipped`, if given.

    Raises InputError for a path that does not exist, a folder or archive without images, a damaged archive, and,
    without `skipped`, a file that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        names = _images_once(list_folder(path, None if skipped is None else skipped.unreadable), path, skipped)
        yield from _read_each([f"{path}/{name}" for name in names], skipped)
        return
    if not (is_image(path.name) and path.is_file()):  # thousands of images need not be opened twice
        with open_regular_file(path, "image") as file:
            if archive.is_archive(file, path.name):
                listing = _list_archive(file, str(path))
                names = _images_once(listing, path, skipped)
                yield from ((f"{path}/{name}", data) for name, data in listing.read_files(names))
                return
    yield from _read_each([str(path)], skipped)


def _images_once(listing: Listing, path: Path, skipped: SkippedFiles | None) -> list[str]:
    """Return the names of the images, without links to others of them."""
    if skipped is not None:
        others = [name for name in listing.broken_links if not is_image(name)]
        skipped.non_images += [f"{path}/{name}" for name in (*listing.non_images, *others)]
        broken = sorted(set(listing.broken_links) - set(others))
        skipped.unreadable += [(f"{path}/{name}", "a link that leads to no file") for name in broken]
    listing.check_has_images()
    return [name for name in listing.images if listing.originals.get(name, name) == name]


def _read_each(paths: Iterable[str], skipped: SkippedFiles | None) -> Files:
    for path in paths:
        try:
            data = read_regular_file(path, "image")
        except InputError as error:
            if skipped is None:
                raise
            skipped.unreadable.append((path, str(error.found)))
        else:
            yield path, data


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
            collected.changes.add(decoded)
        if problems and (len(problems) == _MAX_CORRUPT_LISTED or count - first_problem >= _CORRUPT_SEARCH):
            break
        if count % _PROGRESS_EVERY == 0 or count == total:
            progress("Decoding images", count, total)
    if problems:
        raise corrupt_image_error(problems)


def _assemble(collected: _DecodedFiles, names: list[str], layout: Layout, listing_notes: list[str]) -> RawDataset:
    train = _make_split(collected, names, layout.train)
    test = None if layout.test is None else _make_split(collected, names, layout.test)
    notes = [*layout.notes, *listing_notes, *collected.changes.notes()]
    if test is not None:
        notes += train_test_overlap_note(train, test)
    return RawDataset(layout.class_names, train, test, tuple(notes))


def _make_split(collected: _DecodedFiles, names: list[str], files: LabelledFiles) -> Split:
    images_NHWC = np.empty((len(files), SIZE, SIZE, 3), dtype=np.uint8)
    for row, (index, _) in enumerate(files):
        images_NHWC[row] = collected.images.pop(names[index])  # removed one by one: no image is in memory twice
    labels_N = np.array([label for _, label in files], dtype=np.int64)
    return Split(images_NHWC, labels_N, tuple(names[index] for index, _ in files))
