"""Read .zip and .tar archives member by member, in memory: nothing is ever extracted, no link leads out of it.

In: an open archive. Out: (name, contents) of its members, in the archive's order, or an `ArchiveWalk`: the names of its
files and folders as an extraction would give them. Names are checked.
"""

import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

from scsuite.core.dataset import archive_limits, archive_zip
from scsuite.core.dataset.archive_limits import HINT_REPACK, HINT_SMALLER, Link, Member, archive_error
from scsuite.core.dataset.archive_tar import read_tar_members
from scsuite.core.dataset.file_kind import UNKNOWN, describe_bytes
from scsuite.core.errors import InputError, one_line

_ARCHIVE_ERRORS: tuple[type[Exception], ...] = (
    LookupError,
    MemoryError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)
_UNSUPPORTED = {
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"\x1f\x9d": "compress (.Z)",
    b"LZIP": "lzip",
    b"MSCF": "cabinet",
    b"\x89HDF": "HDF5",
    b"PAR1": "Parquet",
    b"\x93NUMPY": "NumPy",
}
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zX")
_HEAD_BYTES = 4096  # of a file, to say what it is
_HINT_KINDS = "Give a folder, .zip, .tar, .tar.gz or .tar.xz."
_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 2**16 + 22  # bytes: the record at the end of a zip with the longest comment


@dataclass(frozen=True)
class ArchiveWalk:
    """What an archive holds."""

    positions: dict[str, int]  # of each file; of a name that is repeated the last one counts, as for tar
    links: dict[str, str]  # of a link, the file that it leads to
    hard_links: frozenset[str]  # those of them that an extraction makes to files
    folders: frozenset[str]
    other_links: tuple[str, ...]  # links to folders, to nothing or in a circle; they are not followed
    legacy_names: tuple[str, ...]  # of a zip, in an encoding that nothing names


def walk_archive(file: BinaryIO, where: str, is_image: Callable[[str], bool]) -> ArchiveWalk:
    """Find all members. Raises InputError as `read_members` does, and for an image that is a link out of it."""
    positions: dict[str, int] = {}
    links: dict[str, Link] = {}
    hard_links: set[str] = set()
    folders: set[str] = set()
    num_non_images = 0
    for position, (name, content) in enumerate(read_members(file, where, lambda _: False)):
        num_non_images += not is_image(name)
        if num_non_images > archive_limits.MAX_NON_IMAGES:
            found = f"more than {archive_limits.MAX_NON_IMAGES:,} members that are no images"
            raise archive_error(where, found, HINT_SMALLER)
        if name.endswith("/"):
            folders.add(name[:-1])
            continue
        positions.pop(name, None)
        links.pop(name, None)
        if isinstance(content, Link):
            if content.target is None and is_image(name):
                raise archive_error(f"{where}: {name}", "a link out of the archive")
            links[name] = content
            (hard_links.add if content.is_hard else hard_links.discard)(name)
        else:
            positions[name] = position
    resolved = {name: target for name in links if (target := _target(name, links, positions)) is not None}
    others = tuple(sorted(set(links) - set(resolved)))
    legacy = tuple(archive_zip.legacy_names(file)) if _is_zip(file) else ()
    return ArchiveWalk(positions, resolved, frozenset(hard_links), frozenset(folders), others, legacy)


def _target(name: str, links: dict[str, Link], positions: dict[str, int]) -> str | None:
    """Return the file to which a link leads, over at most 40 links as on Linux; None if there is none."""
    for _ in range(40):
        target = links[name].target
        if target is None or target in positions:
            return target
        if target not in links:
            return None
        name = target
    return None


def read_files(file: BinaryIO, where: str, walk: ArchiveWalk, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and contents of these files of an archive, in its order, each link after the file it leads to."""
    names_of: dict[str, list[str]] = {}
    for name in names:
        names_of.setdefault(walk.links.get(name, name), []).append(name)
    for position, (name, data) in enumerate(read_members(file, where, names_of.__contains__)):
        if isinstance(data, bytes) and walk.positions.get(name) == position:
            yield from ((alias, data) for alias in names_of[name])


def read_members(file: BinaryIO, where: str, needs_data: Callable[[str], bool]) -> Iterator[Member]:
    """Yield each member's name and, where `needs_data(name)`, its contents; a folder's name ends in "/".

    Of a link its target is given, whatever `needs_data` says. Raises InputError for a file that is no .zip or .tar
    (.gz, .bz2, .xz), for a damaged one, and for what an archive of images never has: devices, sparse or encrypted
    members, names out of the archive, and anything over the limits of `archive_limits`.
    """
    file.seek(0)
    magic = file.read(8)
    file.seek(0)
    for start, name in _UNSUPPORTED.items():
        if magic.startswith(start):
            raise archive_error(where, f"a {name} file", "Pack the images as .zip or .tar.gz.")
    read = archive_zip.read_zip_members if _is_zip(file) else read_tar_members
    num_characters = count = 0
    with _name_other_kinds(file, where, lambda: count), _wrap_archive_errors(where):
        for count, (name, data) in enumerate(read(file, where, needs_data), start=1):
            num_characters += len(name)
            if count > archive_limits.MAX_MEMBERS:
                raise archive_error(where, f"more than {archive_limits.MAX_MEMBERS:,} members", HINT_SMALLER)
            if num_characters > archive_limits.MAX_NAME_CHARACTERS:
                raise archive_error(where, "megabytes of names", HINT_SMALLER)
            yield name, data


def is_archive(file: BinaryIO, name: str) -> bool:
    """Return whether a file looks like an archive, also one that `read_members` refuses."""
    file.seek(0)
    start = file.read(512)
    starts = (*_ZIP_STARTS, *_COMPRESSED_STARTS, *_UNSUPPORTED)
    return start.startswith(starts) or start[257:262] == b"ustar" or name.lower().endswith((".zip", ".tar"))


def _is_zip(file: BinaryIO) -> bool:
    """Return whether the file is a zip, at its start or behind another program (a self-extracting one)."""
    file.seek(0)
    magic = file.read(4)
    if not (is_zip := magic in _ZIP_STARTS) and not magic.startswith(_COMPRESSED_STARTS):
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _ZIP_TAIL))
        tail = file.read()
        end = tail.rfind(_ZIP_END)
        # The record and its comment end the file; a zip within a tar does not.
        is_zip = end >= 0 and end + 22 + int.from_bytes(tail[end + 20 : end + 22], "little") == len(tail)
    file.seek(0)
    return is_zip


def check_is_no_document(file: BinaryIO, where: str) -> None:
    """Name a zip without images that is another kind of file: a PyTorch file, a NumPy archive, a Word document."""
    file.seek(0)
    kind = describe_bytes(file.read(_HEAD_BYTES))
    if _is_zip(file) and kind != UNKNOWN and not kind.endswith("archive: unpack it"):
        raise archive_error(where, kind, _HINT_KINDS)


def _is_tar_header(block: bytes) -> bool:
    """Return whether this is a tar's first block; those of old tars have only a checksum."""
    with suppress(tarfile.HeaderError):
        return bool(tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape"))
    return block[257:262] == b"ustar"


@contextmanager
def _name_other_kinds(file: BinaryIO, where: str, num_members: Callable[[], int]) -> Iterator[None]:
    """Name a file that is no archive for what it is: a web page, a Git LFS pointer, a photo."""
    try:
        yield
    except InputError:
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        kind = describe_bytes(head).partition(" with a damaged")[0]
        is_archive = head.startswith((*_ZIP_STARTS, *_COMPRESSED_STARTS)) or _is_tar_header(head[: tarfile.BLOCKSIZE])
        if num_members() or is_archive or not head or kind == UNKNOWN:
            raise
        raise archive_error(where, kind, _HINT_KINDS) from None


@contextmanager
def _wrap_archive_errors(where: str) -> Iterator[None]:
    try:
        yield
    except _ARCHIVE_ERRORS as error:
        raise archive_error(where, f"a damaged archive ({one_line(error)})", HINT_REPACK) from None
