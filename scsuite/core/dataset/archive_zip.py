"""Read a .zip with `zipfile`: member by member, in memory, never extracted.

In: an open archive. Out: name and contents of its members, in the order of its directory.

`zipfile` parses the directory and makes an object of each member, so the directory's size is checked before.
"""

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import BinaryIO

from scsuite.core.dataset import archive_limits
from scsuite.core.dataset.archive_limits import (
    HINT_REPACK,
    HINT_SMALLER,
    SETUID_BITS,
    Member,
    archive_error,
    check_link_size,
    check_name,
    check_size,
    check_total,
    resolve_link,
)

_MAX_DIRECTORY_BYTES = 48 * 2**20  # 300,000 members of 46 bytes and a name of 110; zipfile holds all in memory
_UTF8 = 0x800  # bit of the flags of a member whose name is UTF-8
_UNICODE_PATH = 0x7075  # field with a name in UTF-8; https://libzip.org/specifications/appnote_iz.txt
_UNIX = 3  # value of create_system with which a member has a file mode


def read_zip_members(file: BinaryIO, where: str, needs_data: Callable[[str], bool]) -> Iterator[Member]:
    """Yield each member's name and, where `needs_data(name)`, its contents."""
    _check_directory(file, where)
    num_bytes = num_compressed = 0
    with zipfile.ZipFile(file) as archive:
        _check_no_overlap(archive.infolist(), where)
        is_utf8 = _is_utf8(archive.infolist())
        for info in archive.infolist():
            name, is_folder = _name(info, is_utf8, where)
            _check_member(info, where, name)
            if is_link := stat.S_ISLNK(_mode(info)):
                check_link_size(info.file_size, where, name)
            elif is_folder or not needs_data(name):
                yield name, None
                continue
            check_size(info.file_size, where, name)
            with archive.open(info) as member:
                data = member.read(info.file_size + 1)  # past its end, where zipfile verifies the checksum
            num_bytes += len(data)
            num_compressed += info.compress_size
            check_total(num_bytes, num_compressed, f"{where}: {name}")
            if len(data) != info.file_size:
                raise archive_error(f"{where}: {name}", "a wrong size in its header", HINT_REPACK)
            yield name, resolve_link(name, data.decode(errors="surrogateescape")) if is_link else data


def legacy_names(file: BinaryIO) -> list[str]:
    """Return the names that are read as cp437: they are neither UTF-8 nor in the encoding that they are marked with."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        is_utf8 = _is_utf8(archive.infolist())
        return [info.orig_filename for info in archive.infolist() if _decode_name(info, is_utf8)[1]]


def _is_utf8(infos: list[zipfile.ZipInfo]) -> bool:
    """Return whether all names without the mark of UTF-8 are UTF-8: a few of another encoding can look like it."""
    try:
        for info in infos:
            if not info.flag_bits & _UTF8:
                info.orig_filename.encode("cp437").decode()
    except UnicodeDecodeError:
        return False
    return True


def _name(info: zipfile.ZipInfo, is_utf8: bool, where: str) -> tuple[str, bool]:
    """Return a member's name, and whether it is a folder."""
    name, is_legacy = _decode_name(info, is_utf8)
    # Windows programs write backslashes. Among names of an unknown encoding they can be half of a character.
    if not (is_legacy and "/" in name):
        name = name.replace("\\", "/")
    is_folder = info.is_dir() or name.endswith("/")
    return check_name(name, where, is_folder), is_folder


def _decode_name(info: zipfile.ZipInfo, is_utf8: bool) -> tuple[str, bool]:
    """Return a member's name, and whether its encoding is unknown.

    zipfile decodes a name without the mark of UTF-8 as cp437, as the format says. Most programs write UTF-8 all the
    same, or UTF-8 in a field of its own (Info-ZIP's Unicode path).
    """
    name = info.orig_filename
    if info.flag_bits & _UTF8 or name.isascii():
        return name, False
    raw = name.encode("cp437")
    if (unicode_name := raw.decode() if is_utf8 else _unicode_path(info.extra, raw)) is None:
        return name, True
    return unicode_name, False


def _unicode_path(extra: bytes, raw_name: bytes) -> str | None:
    """Return the UTF-8 name in a member's extra fields, if it is there and belongs to this name."""
    while len(extra) >= 4:
        field, size = struct.unpack_from("<HH", extra)
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        if field == _UNICODE_PATH and len(body) > 5 and struct.unpack_from("<L", body, 1)[0] == zlib.crc32(raw_name):
            with suppress(UnicodeDecodeError):
                return body[5:].decode()
    return None


def _mode(info: zipfile.ZipInfo) -> int:
    return info.external_attr >> 16 if info.create_system == _UNIX else 0


def _check_member(info: zipfile.ZipInfo, where: str, name: str) -> None:
    mode = _mode(info)
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise archive_error(f"{where}: {name}", "a special file")
    if mode & SETUID_BITS and not info.is_dir():
        raise archive_error(f"{where}: {name}", f"a setuid or setgid file (mode {stat.S_IMODE(mode):o})")
    if info.flag_bits & 0x41:  # bits 0 and 6: encrypted, strongly encrypted
        raise archive_error(f"{where}: {name}", "an encrypted member", "Pack the images without a password.")
    # zipfile decompresses the other methods in one call, however large the result is.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise archive_error(f"{where}: {name}", f"compression method {info.compress_type}", "Store or deflate it.")


def _check_no_overlap(infos: list[zipfile.ZipInfo], where: str) -> None:
    """Refuse members that share bytes: 10 MB could give petabytes (https://www.bamsoftware.com/hacks/zipbomb/)."""
    for info, following in pairwise(sorted(infos, key=lambda info: info.header_offset)):
        if info.header_offset + 30 + info.compress_size > following.header_offset:
            raise archive_error(f"{where}: {following.orig_filename[:200]}", "a member that overlaps another")


def _check_directory(file: BinaryIO, where: str) -> None:
    """Refuse a directory of millions of members before zipfile makes an object of each."""
    num_bytes = file.seek(0, 2)
    file.seek(max(0, num_bytes - 2**16 - 256))  # the end record, its longest comment, and zip64's two records
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise archive_error(where, "one that ends too early", HINT_REPACK)
    (size,) = struct.unpack_from("<L", tail, end + 12)
    # With zip64, the record with the size and then a locator come directly before the end record.
    if tail[max(0, end - 20) : end].startswith(b"PK\x06\x07") and end >= 76:
        end -= 76
        (size,) = struct.unpack_from("<Q", tail, end + 40)
    if size <= _MAX_DIRECTORY_BYTES:
        file.seek(max(0, num_bytes - len(tail) + end - size))
        if file.read(size).count(b"PK\x01\x02") <= archive_limits.MAX_MEMBERS:
            file.seek(0)
            return
    raise archive_error(where, f"more than {archive_limits.MAX_MEMBERS:,} members", HINT_SMALLER)
