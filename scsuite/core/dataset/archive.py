"""Read .zip and .tar archives member by member, in memory: nothing is ever extracted, no link is ever followed.

In: an open archive. Out: (name, contents) of its regular members, in the archive's order; names are checked.
"""

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from scsuite.core.dataset import archive_limits
from scsuite.core.dataset.archive_limits import HINT_REPACK, HINT_SMALLER, Member, archive_error
from scsuite.core.dataset.archive_tar import read_tar_members
from scsuite.core.dataset.archive_zip import read_zip_members
from scsuite.core.errors import one_line

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
_UNSUPPORTED = {b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}


def read_members(file: BinaryIO, where: str, needs_data: Callable[[str], bool]) -> Iterator[Member]:
    """Yield each member's name and, where `needs_data(name)`, its contents; a folder's name ends in "/".

    Raises InputError for a file that is no .zip or .tar (.gz, .bz2, .xz), for a damaged one, and for what an archive
    of images never has: links, devices, sparse or encrypted members, repeated names, names out of the archive, names
    that differ only in letter case, and anything over the limits of `archive_limits`.
    """
    file.seek(0)
    magic = file.read(6)
    file.seek(0)
    for start, name in _UNSUPPORTED.items():
        if magic.startswith(start):
            raise archive_error(where, f"a {name} file", "Pack the images as .zip or .tar.gz.")
    read = read_zip_members if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06") else read_tar_members
    names: dict[str, str] = {}
    num_non_images = num_characters = 0
    with _wrap_archive_errors(where):
        for count, (name, data) in enumerate(read(file, where, needs_data), start=1):
            num_non_images += data is None
            num_characters += len(name)
            if count > archive_limits.MAX_MEMBERS:
                raise archive_error(where, f"more than {archive_limits.MAX_MEMBERS:,} members", HINT_SMALLER)
            if num_non_images > archive_limits.MAX_NON_IMAGES:
                found = f"more than {archive_limits.MAX_NON_IMAGES:,} members that are no images"
                raise archive_error(where, found, HINT_SMALLER)
            if num_characters > archive_limits.MAX_NAME_CHARACTERS:
                raise archive_error(where, "megabytes of names", HINT_SMALLER)
            if not name.endswith("/"):
                _check_not_repeated(name, names, where)
            yield name, data


def _check_not_repeated(name: str, names: dict[str, str], where: str) -> None:
    lower_case = name.lower()
    if previous := names.get(lower_case):
        found = "a repeated member" if previous == name else f"{previous} as well, which differs in letter case alone"
        raise archive_error(f"{where}: {name}", found, "Pack the images again.")
    names[lower_case] = name


@contextmanager
def _wrap_archive_errors(where: str) -> Iterator[None]:
    try:
        yield
    except _ARCHIVE_ERRORS as error:
        raise archive_error(where, f"a damaged archive ({one_line(error)})", HINT_REPACK) from None
