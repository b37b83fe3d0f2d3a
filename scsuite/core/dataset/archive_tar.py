"""Read a .tar (.gz, .bz2, .xz) with `tarfile` in streaming mode: forward, in memory, never extracted.

In: an open archive. Out: name and contents of its members, in the archive's order.

`tarfile` trusts a header before its caller sees it. So each header is checked when it is parsed, by the formats of
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html, and `tarfile` reads through a `_CountingReader`:
it never sees the end of a truncated file, which it would take for the end of the archive.
"""

import re
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

from scsuite.core.dataset import decompress
from scsuite.core.dataset.archive_limits import (
    HINT_REPACK,
    SETUID_BITS,
    Link,
    Member,
    archive_error,
    check_name,
    check_size,
    check_total,
    resolve_link,
)

_MAX_HEADER_BYTES = 2**20  # of a long name or a set of extended attributes, which tarfile holds in memory
_MAX_HEADERS = 8  # of these in a row, before the member that they describe
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_HEADER_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX_TYPES)
_FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_REFUSED_TYPES = {
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_LONG_NUMBER = re.compile(rb"\d{100}")


class _CountingReader:
    """The decompressed bytes of an archive, read forward and counted against the limits."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.num_read = 0
        self._file, self._where = file, where
        self._chunks = decompress.read_chunks(file)
        self._buffer, self._position = b"", 0
        self._num_decompressed = 0

    def read(self, size: int) -> bytes:
        """Return exactly the next `size` bytes. Raises InputError if the archive ends before."""
        data = self.peek(size)
        self._position += size
        self.num_read += size
        return data

    def peek(self, size: int) -> bytes:
        """Return what `read` would return, without moving forward."""
        if self._position + size > len(self._buffer):
            parts = [self._buffer[self._position :]]
            missing = size - len(parts[0])
            while missing > 0:
                if not (chunk := self._next_chunk()):
                    found = "one that ends too early" if self._num_decompressed else "an empty file"
                    raise archive_error(self._where, found, HINT_REPACK)
                parts.append(chunk)
                missing -= len(chunk)
            self._buffer, self._position = b"".join(parts), 0
        return self._buffer[self._position : self._position + size]

    def drain(self) -> None:
        """Read to the end of the file: the checksum of a compressed file is there."""
        while self._next_chunk():
            pass

    def _next_chunk(self) -> bytes:
        chunk = next(self._chunks, b"")
        self._num_decompressed += len(chunk)
        check_total(self._num_decompressed, self._file.tell(), self._where)
        return chunk


def read_tar_members(file: BinaryIO, where: str, needs_data: Callable[[str], bool]) -> Iterator[Member]:
    """Yield each member's name and, where `needs_data(name)`, its contents."""
    reader = _CountingReader(file, where)
    headers = _HeaderChecks(reader, where)
    with tarfile.open(  # type: ignore[call-overload]  # of a stream only `read` is used
        fileobj=reader,
        mode="r|",
        bufsize=tarfile.BLOCKSIZE,  # so that the reader is at the end of a header when it is parsed
        tarinfo=headers.tarinfo_type(),
        encoding="utf-8",
        errors="surrogateescape",
    ) as tar:
        while (info := tar.next()) is not None:
            headers.num_in_a_row = 0
            tar.members.clear()  # tarfile keeps every member and every global attribute
            tar.pax_headers.clear()
            name = check_name(info.name.replace("\\", "/"), where, info.isdir())
            if info.issym() or info.islnk():
                yield name, _resolve(info, where, name)
                continue
            _check_type(info, where, name)
            has_data = not info.isdir() and needs_data(name)
            if has_data:
                check_size(info.size, where, name)
            # A claim over the limit is refused before anything of it is decompressed.
            check_total(reader.num_read + info.size, reader.num_read + info.size, where)
            yield name, tar.fileobj.read(info.size) if has_data else None
    if not headers.has_ended:
        raise archive_error(where, "a damaged header", HINT_REPACK)
    reader.drain()


def _resolve(info: tarfile.TarInfo, where: str, name: str) -> Link:
    """Return where a link leads: a hard link's target is a member's name, a symbolic link's a path from its folder."""
    if info.issym():
        return resolve_link(name, info.linkname)
    target = check_name(info.linkname.replace("\\", "/"), f"{where}: {name}", is_folder=False)
    return Link(target, is_hard=True)


def _check_type(info: tarfile.TarInfo, where: str, name: str) -> None:
    if info.type not in (*_FILE_TYPES, tarfile.DIRTYPE):
        raise archive_error(f"{where}: {name}", _REFUSED_TYPES.get(info.type, "a special file"))
    _check_not_negative(info.size, where, name)
    if not info.isdir() and info.mode & SETUID_BITS:  # shared folders have these bits too
        raise archive_error(f"{where}: {name}", f"a setuid or setgid file (mode {info.mode:o})")


def _check_not_negative(size: int, where: str, name: str) -> None:
    if size < 0:
        raise archive_error(f"{where}: {name}", f"{size:,} bytes in one member", HINT_REPACK)


class _HeaderChecks:
    """Checks of each header block as tarfile parses it, and whether the end mark has been read."""

    def __init__(self, reader: _CountingReader, where: str) -> None:
        self.reader, self.where = reader, where
        self.num_in_a_row = 0
        self.has_ended = False

    def tarinfo_type(self) -> type[tarfile.TarInfo]:
        """Return the class for tarfile to parse its headers with."""
        checks = self

        class CheckedTarInfo(tarfile.TarInfo):
            @classmethod
            def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "CheckedTarInfo":
                try:
                    info = super().frombuf(buf, encoding, errors)
                except tarfile.HeaderError:  # tarfile would take a damaged header for the end of the archive
                    checks.check_is_end(buf)
                    raise
                if info.type not in _FILE_TYPES or info.size < 0:
                    checks.check_header(info)
                return info

        return CheckedTarInfo

    def check_is_end(self, block: bytes | bytearray) -> None:
        """Refuse a block that is no header, unless it is the block of zeros that ends an archive."""
        if block == bytes(tarfile.BLOCKSIZE):
            self.has_ended = True
        elif self.reader.num_read == tarfile.BLOCKSIZE:
            hint = "Give a folder, .zip, .tar, .tar.gz or .tar.xz."
            raise archive_error(self.where, "another kind of file, or a damaged one", hint)
        else:
            raise archive_error(self.where, "a damaged header", HINT_REPACK)

    def check_header(self, info: tarfile.TarInfo) -> None:
        """Refuse what tarfile would read without limit: sparse maps, and headers that describe the next member."""
        _check_not_negative(info.size, self.where, info.name)
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise archive_error(f"{self.where}: {info.name}", "a sparse file")
        if info.type not in _HEADER_TYPES:
            return
        self.num_in_a_row += 1
        if self.num_in_a_row > _MAX_HEADERS:
            raise archive_error(self.where, f"{self.num_in_a_row} headers in a row")
        if info.size > _MAX_HEADER_BYTES:
            raise archive_error(self.where, f"a header of {info.size:,} bytes")
        body = self.reader.peek(info.size + -info.size % tarfile.BLOCKSIZE).rstrip(b"\0")
        if info.type in _PAX_TYPES:
            self._check_pax_records(body)
        elif b"\0" in body:
            raise archive_error(self.where, "a name that leads out of the archive")

    def _check_pax_records(self, body: bytes) -> None:
        """Refuse records that are not `LENGTH KEY=VALUE` and a line end; LENGTH counts the complete record."""
        position = 0
        while position < len(body):
            digits = body[position : position + 20].partition(b" ")[0]
            length = int(digits) if digits.isdigit() else 0
            key, equals, _ = body[position + len(digits) + 1 : position + length - 1].partition(b"=")
            if not key or not equals or not len(digits) < length <= len(body) - position:
                raise archive_error(self.where, "a damaged header", HINT_REPACK)
            if key.startswith(b"GNU.sparse"):
                raise archive_error(self.where, "a sparse file")
            position += length
        # tarfile searches the records by a regular expression that takes quadratic time for digits.
        if _LONG_NUMBER.search(body):
            raise archive_error(self.where, "a damaged header", HINT_REPACK)
