"""Reading .zip and .tar archives member by member, in memory: nothing is ever extracted, no link ever followed.

In: an open archive. Out: (name, bytes) of its regular members, in the archive's order; names are checked.

Zip's directory and each tar header are parsed by the standard library. The walk from header to header is ours: that of
`tarfile` reads headers of any size into memory, follows negative offsets (CVE-2025-8194) and takes a file that was cut
at a block's edge for a whole one.
"""

import bz2
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from scsuite.core.errors import InputError
from scsuite.core.files import FILE_BYTES_MAX

TOTAL_BYTES_MAX = 4 * 2**30  # of unpacked contents
MEMBERS_MAX = 300_000
_HEADER_BYTES_MAX = 2**20  # a long name or a set of extended attributes
_ZIP_DIRECTORY_BYTES_MAX = 48 * 2**20  # 300,000 members of 46 bytes and a name of 110; the module holds all in memory
_BLOCK = tarfile.BLOCKSIZE  # 512 bytes
_CHUNK = 2**20  # bytes
_DAMAGE: tuple[type[Exception], ...] = (
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
)
_DAMAGE += (lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
_UNREADABLE = {b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}

Member = tuple[str, bytes | None]


def read_members(file: BinaryIO, where: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Each member's name and, where `wanted(name)`, its bytes; a folder's name ends in "/".

    Raises InputError for what is not a .zip or .tar (.gz, .bz2, .xz), for damage, and for whatever an archive of
    pictures never holds: links, devices, encrypted or repeated members, names that leave the archive, more than
    `MEMBERS_MAX` members or `TOTAL_BYTES_MAX` bytes, a wanted one larger than `FILE_BYTES_MAX`.
    """
    file.seek(0)
    magic = file.read(6)
    file.seek(0)
    for start, name in _UNREADABLE.items():
        if magic.startswith(start):
            raise _refusal(where, f"a {name} file", "Pack the images as .zip or .tar.gz.")
    walk = _zip_members if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06") else _tar_members
    seen: set[str] = set()
    with _told_as_damage(where):
        for count, (name, data) in enumerate(walk(file, where, wanted)):
            if count >= MEMBERS_MAX:
                raise _refusal(where, f"more than {MEMBERS_MAX:,} members", "Give a smaller archive, or a folder.")
            if name in seen and not name.endswith("/"):
                raise _refusal(f"{where}: {name}", "a member given twice", "Pack the images again.")
            seen.add(name)
            yield name, data


def _refusal(where: str, found: str, hint: str = "Pack the images again, as plain files.") -> InputError:
    return InputError("archive", where, expected="a .zip or .tar of images", found=found, hint=hint)


@contextmanager
def _told_as_damage(where: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        found = " ".join(str(error).split())[:120] or type(error).__name__
        raise _refusal(where, f"a damaged one ({found})", "Fetch or pack it again.") from None


def _checked_name(name: str, where: str, is_folder: bool) -> str:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name) or set("\0\\") & set(name):
        raise _refusal(f"{where}: {name[:200]}", "a name that leads out of the archive")
    plain = "/".join(part for part in parts if part not in ("", "."))
    if not plain and not is_folder:
        raise _refusal(where, "a file without a name")
    return plain + "/" * is_folder


class _Blocks:
    """A tar's unpacked bytes, taken strictly forward and counted."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        start = file.read(6)
        file.seek(0)
        self.where, self.total = where, 0
        self.file: BinaryIO | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile = file
        if start.startswith(b"\x1f\x8b"):
            self.file = gzip.GzipFile(fileobj=file)
        elif start.startswith(b"BZh"):
            self.file = bz2.BZ2File(file)
        elif start.startswith(b"\xfd7zXZ\0"):
            self.file = lzma.LZMAFile(file)  # noqa: SIM115 - the caller closes what lies under it

    def expect(self, size: int) -> None:
        """Refuse a promise past the cap before one byte of it is unpacked."""
        if size < 0 or self.total + size > TOTAL_BYTES_MAX:
            found = f"{size:,} bytes in one member" if size < 0 else f"more than {TOTAL_BYTES_MAX // 2**30} GB in all"
            raise _refusal(self.where, found, "Give a smaller archive, or a folder.")

    def take(self, size: int) -> bytes:
        self.expect(size)
        data = self.file.read(size)
        self.total += len(data)
        if len(data) < size:
            found = "one that ends too early" if self.total else "an empty file"
            raise _refusal(self.where, found, "Fetch or pack it again.")
        return data

    def skip(self, size: int) -> None:
        self.expect(size)
        for start in range(0, size, _CHUNK):
            self.take(min(_CHUNK, size - start))

    def padded(self, size: int) -> bytes:
        """`size` bytes, and past the rest of their last block."""
        data = self.take(size)
        self.skip(-size % _BLOCK)
        return data

    def finish(self) -> None:
        """To the end of the file, where the checksum of a compressed one stands."""
        while data := self.file.read(_CHUNK):
            self.total += len(data)
            self.expect(0)


def _tar_members(file: BinaryIO, where: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    blocks = _Blocks(file, where)
    name: str | None = None  # from a header of its own, for the member that follows it
    size: int | None = None
    while (block := blocks.take(_BLOCK)) != bytes(_BLOCK):
        info = _tar_header(block, where, first=blocks.total == _BLOCK)
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX):
            if not 0 <= info.size <= _HEADER_BYTES_MAX:
                raise _refusal(where, f"a header of {info.size:,} bytes")
            body = blocks.padded(info.size)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                name = body.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type in _PAX and info.type != tarfile.XGLTYPE:  # the global one holds remarks on the archive
                name, size = _pax_name_size(body, where, name)
            continue
        is_folder = info.type == tarfile.DIRTYPE
        plain = _checked_name(info.name if name is None else name, where, is_folder)
        if info.type not in (*_PLAIN, tarfile.DIRTYPE):
            kind = _KINDS.get(info.type, "a special file")
            raise _refusal(f"{where}: {plain}", kind)
        length = 0 if is_folder else info.size if size is None else size
        name = size = None
        if is_folder or not wanted(plain):
            blocks.skip(length + -length % _BLOCK)
            yield plain, None
            continue
        _check_size(length, where, plain)
        yield plain, blocks.padded(length)
    blocks.finish()


_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def _tar_header(block: bytes, where: str, first: bool) -> tarfile.TarInfo:
    try:
        # Not UTF-8 is no reason to refuse: such bytes go through as Python's file names do.
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        if first:
            raise _refusal(
                where, "another kind of file, or a damaged one", "Give a folder, .zip, .tar, .tar.gz or .tar.xz."
            ) from None
        raise _refusal(where, "a damaged header", "Fetch or pack it again.") from None


def _check_size(size: int, where: str, name: str) -> None:
    if size > FILE_BYTES_MAX:
        found = f"a member of {size:,} bytes, over {FILE_BYTES_MAX // 2**20} MB"
        raise _refusal(f"{where}: {name}", found, "Take it out or make it smaller.")


def _pax_name_size(body: bytes, where: str, name: str | None) -> tuple[str | None, int | None]:
    """Path and size, if given, from lines of the form `LENGTH KEY=VALUE`; LENGTH counts the whole line, its end too."""
    size: int | None = None
    while body.rstrip(b"\0"):
        digits = body[:20].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = body[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or not len(digits) < length <= len(body):  # a length of nothing would be read for ever
            raise _refusal(where, "a damaged header", "Fetch or pack it again.")
        if key.startswith(b"GNU.sparse"):
            raise _refusal(where, "a sparse file")
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            size = int(value[:20])
        body = body[length:]
    return name, size


def _zip_members(file: BinaryIO, where: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    _check_zip_directory(file, where)
    total = 0
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = _checked_name(info.orig_filename, where, info.is_dir())
            mode = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0  # 3: made on Unix
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(f"{where}: {name}", "a symbolic link" if stat.S_ISLNK(mode) else "a special file")
            if info.flag_bits & 0x41:  # bits 0 and 6: encrypted, strongly encrypted
                raise _refusal(f"{where}: {name}", "an encrypted member", "Pack the images without a password.")
            if info.is_dir() or not wanted(name):
                yield name, None
                continue
            _check_size(info.file_size, where, name)
            with archive.open(info) as member:
                data = member.read(info.file_size + 1)  # past its end, where the checksum is looked at
            total += len(data)
            if len(data) != info.file_size or total > TOTAL_BYTES_MAX:
                found = "more bytes in all than it may hold" if total > TOTAL_BYTES_MAX else "a false size"
                raise _refusal(f"{where}: {name}", found, "Give a smaller archive, or a folder.")
            yield name, data


def _check_zip_directory(file: BinaryIO, where: str) -> None:
    """Refuse a directory of millions of members before the standard library reads all of it into memory."""
    length = file.seek(0, 2)
    file.seek(max(0, length - 2**16 - 256))  # the end record, its longest remark, and zip64's two records
    tail = file.read()
    file.seek(0)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise _refusal(where, "one that ends too early", "Fetch or pack it again.")
    (size,) = struct.unpack_from("<L", tail, end + 12)
    zip64 = tail.rfind(b"PK\x06\x06", 0, end)
    if size == 0xFFFFFFFF and zip64 >= 0 and len(tail) >= zip64 + 48:
        (size,) = struct.unpack_from("<Q", tail, zip64 + 40)
    if size > _ZIP_DIRECTORY_BYTES_MAX:
        raise _refusal(where, f"more than {MEMBERS_MAX:,} members", "Give a smaller archive, or a folder.")
