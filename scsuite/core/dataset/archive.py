"""Reading .zip and .tar archives member by member, in memory: nothing is ever extracted, no link ever followed.

In: an open archive. Out: (name, bytes) of its regular members, in the archive's order; names are checked.

Zip's directory is parsed by the standard library, once its size and places are known to be sane. Tars are read by code
of our own: `tarfile` reads headers of any size into memory, follows negative offsets (CVE-2025-8194), takes a file that
was cut at a block's edge for a whole one, and needs 15 s for 300,000 members.
"""

import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from scsuite.core.dataset import unpack
from scsuite.core.errors import InputError
from scsuite.core.files import FILE_BYTES_MAX

TOTAL_BYTES_MAX = 4 * 2**30  # of unpacked contents
MEMBERS_MAX = 300_000
_OTHERS_MAX = 100_000  # of them folders, or files that nobody asked for
RATIO_MAX = 200  # unpacked bytes to packed ones; deflate reaches 1032, pictures hardly 2
RATIO_FROM = 64 * 2**20  # unpacked bytes: a small archive of empty files or flat pictures may well be that dense
_NAME_MAX = 4096  # characters of a name, as the longest path
_NAMES_MAX = 48 * 2**20  # characters of all names: 300,000 of 160
_HEADER_BYTES_MAX = 2**20  # a long name or a set of extended attributes
_HEADERS_MAX = 8  # of those in a row, before the member that they tell of
_ZIP_DIRECTORY_BYTES_MAX = 48 * 2**20  # 300,000 members of 46 bytes and a name of 110; the module holds all in memory
_OTHERS_RIGHTS = stat.S_ISUID | stat.S_ISGID
_DRIVE = re.compile("[A-Za-z]:")
_BLOCK = 512  # bytes
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
_DAMAGE += (lzma.LZMAError, zipfile.BadZipFile)
_UNREADABLE = {b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}
_SMALLER = "Give a smaller archive, or a folder."
_AGAIN = "Fetch or pack it again."

Member = tuple[str, bytes | None]


def read_members(file: BinaryIO, where: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Each member's name and, where `wanted(name)`, its bytes; a folder's name ends in "/".

    Raises InputError for what is not a .zip or .tar (.gz, .bz2, .xz), for damage, and for whatever an archive of
    pictures never holds: links, devices, encrypted or repeated members, names that leave the archive or differ in
    letter case alone, more than `MEMBERS_MAX` members, `TOTAL_BYTES_MAX` bytes or `RATIO_MAX` times what they are
    packed in, a wanted one larger than `FILE_BYTES_MAX`.
    """
    file.seek(0)
    magic = file.read(6)
    file.seek(0)
    for start, name in _UNREADABLE.items():
        if magic.startswith(start):
            raise _refusal(where, f"a {name} file", "Pack the images as .zip or .tar.gz.")
    walk = _zip_members if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06") else _tar_members
    seen: dict[str, str] = {}
    num_others = length = 0
    with _told_as_damage(where):
        for count, (name, data) in enumerate(walk(file, where, wanted), start=1):
            num_others += data is None
            length += len(name)
            if count > MEMBERS_MAX:
                raise _refusal(where, f"more than {MEMBERS_MAX:,} members", _SMALLER)
            if num_others > _OTHERS_MAX:
                raise _refusal(where, f"more than {_OTHERS_MAX:,} members that are no pictures", _SMALLER)
            if length > _NAMES_MAX:
                raise _refusal(where, "megabytes of names", _SMALLER)
            if not name.endswith("/"):
                _check_new(name, seen, where)
            yield name, data


def _check_new(name: str, seen: dict[str, str], where: str) -> None:
    folded = name.lower()
    if twin := seen.get(folded):
        found = "a member given twice" if twin == name else f"{twin} as well, the same but for letter case"
        raise _refusal(f"{where}: {name}", found, "Pack the images again.")
    seen[folded] = name


def _refusal(where: str, found: str, hint: str = "Pack the images again, as plain files.") -> InputError:
    return InputError("archive", where, expected="a .zip or .tar of images", found=found, hint=hint)


@contextmanager
def _told_as_damage(where: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        found = " ".join(str(error).split())[:120] or type(error).__name__
        raise _refusal(where, f"a damaged one ({found})", _AGAIN) from None


def _checked_name(name: str, where: str, is_folder: bool) -> str:
    if len(name) > _NAME_MAX:
        raise _refusal(f"{where}: {name[:40]}...", f"a name of {len(name):,} characters")
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or _DRIVE.match(name) or "\0" in name or "\\" in name:
        raise _refusal(f"{where}: {name[:200]}", "a name that leads out of the archive")
    if "" in parts or "." in parts:
        parts = [part for part in parts if part not in ("", ".")]
        if not parts and not is_folder:
            raise _refusal(where, "a file without a name")
        name = "/".join(parts)
    return name + "/" * is_folder


def _check_size(size: int, where: str, name: str) -> None:
    if size > FILE_BYTES_MAX:
        found = f"a member of {size:,} bytes, over {FILE_BYTES_MAX // 2**20} MB"
        raise _refusal(f"{where}: {name}", found, "Take it out or make it smaller.")


def _check_total(total: int, packed: int, where: str) -> None:
    """Refuse more unpacked bytes than there may be, or than `packed` ones can hold of pictures."""
    if total > TOTAL_BYTES_MAX:
        raise _refusal(where, f"more than {TOTAL_BYTES_MAX // 2**30} GB in all", _SMALLER)
    if total > RATIO_FROM and total > RATIO_MAX * packed:
        raise _refusal(where, f"contents packed by more than {RATIO_MAX} to 1", "Pack pictures, as plain files.")


# --- tar ---


class _Blocks:
    """A tar's unpacked bytes, taken strictly forward and counted."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file, self.where, self.total = file, where, 0
        self.pieces = unpack.pieces(file)
        self.piece, self.at = b"", 0  # the newest piece, and how much of it is taken

    def take(self, size: int) -> bytes:
        # A promise past the cap is refused before one byte of it is unpacked.
        _check_total(self.total + size, self.total + size, self.where)
        parts = []
        while size:
            if self.at == len(self.piece):
                self.piece, self.at = next(self.pieces, b""), 0
                _check_total(self.total, self.file.tell(), self.where)
            if not self.piece:
                raise _refusal(self.where, "one that ends too early" if self.total else "an empty file", _AGAIN)
            part = self.piece[self.at : self.at + size]
            self.at += len(part)
            self.total += len(part)
            size -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, size: int) -> None:
        _check_total(self.total + size, self.total + size, self.where)
        for start in range(0, size, _CHUNK):
            self.take(min(_CHUNK, size - start))

    def padded(self, size: int) -> bytes:
        """`size` bytes, and past the rest of their last block."""
        data = self.take(size)
        self.skip(-size % _BLOCK)
        return data

    def finish(self) -> None:
        """To the end of the file, where the checksum of a compressed one stands."""
        for piece in self.pieces:
            self.total += len(piece)
            _check_total(self.total, self.file.tell(), self.where)


class _Header(NamedTuple):
    """What a tar says of a member, https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html."""

    name: str
    mode: int
    size: int
    kind: bytes


_FOLDER, _LONG_NAME, _LONG_LINK, _GLOBAL = b"5", b"L", b"K", b"g"
_PLAIN = (b"0", b"\0", b"7")
_PAX = (b"x", b"X", _GLOBAL)
_KINDS = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe",
    b"S": "a sparse file",
}  # fmt: skip


def _tar_members(file: BinaryIO, where: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    blocks = _Blocks(file, where)
    name: str | None = None  # from a header of its own, for the member that follows it
    size: int | None = None
    num_headers = 0
    while (block := blocks.take(_BLOCK)) != bytes(_BLOCK):
        header = _tar_header(block, where, first=blocks.total == _BLOCK)
        if header.kind in (_LONG_NAME, _LONG_LINK, *_PAX):
            num_headers += 1
            if not 0 <= header.size <= _HEADER_BYTES_MAX or num_headers > _HEADERS_MAX:
                found = f"{num_headers} headers" if num_headers > _HEADERS_MAX else f"a header of {header.size:,} bytes"
                raise _refusal(where, found)
            body = blocks.padded(header.size)
            if header.kind == _LONG_NAME:
                name = _text(body.rstrip(b"\0"))
            elif header.kind in _PAX and header.kind != _GLOBAL:  # the global one holds remarks on the archive
                name, size = _pax_name_size(body, where, name)
            continue
        name, size = header.name if name is None else name, header.size if size is None else size
        # Before there was a kind for folders, the end of the name told of one.
        is_folder = header.kind == _FOLDER or (header.kind == b"\0" and name.endswith("/"))
        name = _checked_name(name, where, is_folder)
        _check_plain(header, size, where, name)
        data = None
        if not is_folder and wanted(name):
            _check_size(size, where, name)
            data = blocks.padded(size)
        elif size and not is_folder:
            blocks.skip(size + -size % _BLOCK)
        yield name, data
        name, size, num_headers = None, None, 0
    blocks.finish()


def _check_plain(header: _Header, size: int, where: str, name: str) -> None:
    if header.kind not in (*_PLAIN, _FOLDER):
        raise _refusal(f"{where}: {name}", _KINDS.get(header.kind, "a special file"))
    if size < 0:
        raise _refusal(f"{where}: {name}", f"{size:,} bytes in one member", _AGAIN)
    if header.kind != _FOLDER and header.mode & _OTHERS_RIGHTS:  # folders of a group have them
        raise _refusal(f"{where}: {name}", f"a file of another's rights (mode {header.mode:o})")


def _tar_header(block: bytes, where: str, first: bool) -> _Header:
    try:
        if _number(block[148:156]) != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]):
            raise ValueError
        name = block[:100].partition(b"\0")[0]
        prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
        name = prefix + b"/" + name if prefix else name
        return _Header(_text(name), _number(block[100:108]), _number(block[124:136]), block[156:157])
    except ValueError:
        if first:
            hint = "Give a folder, .zip, .tar, .tar.gz or .tar.xz."
            raise _refusal(where, "another kind of file, or a damaged one", hint) from None
        raise _refusal(where, "a damaged header", _AGAIN) from None


def _text(name: bytes) -> str:
    """Not UTF-8 is no reason to refuse: such bytes go through as Python's file names do."""
    return name.decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """Octal digits or, as GNU writes what is too large for them, bytes after a first one of 0x80 or, negative, 0xff."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    digits = field.partition(b"\0")[0].strip(b" ") or b"0"
    if not digits.isdigit():
        raise ValueError
    return int(digits, 8)


def _pax_name_size(body: bytes, where: str, name: str | None) -> tuple[str | None, int | None]:
    """Path and size, if given, from lines of the form `LENGTH KEY=VALUE`; LENGTH counts the whole line, its end too."""
    size: int | None = None
    at, end = 0, len(body.rstrip(b"\0"))
    while at < end:
        digits = body[at : at + 20].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = body[at + len(digits) + 1 : at + length - 1].partition(b"=")
        if not equals or not len(digits) < length <= len(body) - at:  # a length of nothing would be read for ever
            raise _refusal(where, "a damaged header", _AGAIN)
        if key.startswith(b"GNU.sparse"):
            raise _refusal(where, "a sparse file")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            size = int(value[:20])
        at += length
    return name, size


# --- zip ---


def _zip_members(file: BinaryIO, where: str, wanted: Callable[[str], bool]) -> Iterator[Member]:
    _check_zip_directory(file, where)
    total = packed = 0
    with zipfile.ZipFile(file) as archive:
        _check_apart(archive.infolist(), where)
        for info in archive.infolist():
            name = _checked_name(info.orig_filename, where, info.is_dir())
            _check_zip_member(info, where, name)
            if info.is_dir() or not wanted(name):
                yield name, None
                continue
            _check_size(info.file_size, where, name)
            with archive.open(info) as member:
                data = member.read(info.file_size + 1)  # past its end, where the checksum is looked at
            total, packed = total + len(data), packed + info.compress_size
            _check_total(total, packed, f"{where}: {name}")
            if len(data) != info.file_size:
                raise _refusal(f"{where}: {name}", "a false size", _AGAIN)
            yield name, data


def _check_zip_member(info: zipfile.ZipInfo, where: str, name: str) -> None:
    mode = info.external_attr >> 16 if info.create_system == 3 else 0  # 3: made on Unix
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refusal(f"{where}: {name}", "a symbolic link" if stat.S_ISLNK(mode) else "a special file")
    if mode & _OTHERS_RIGHTS and not info.is_dir():
        raise _refusal(f"{where}: {name}", f"a file of another's rights (mode {stat.S_IMODE(mode):o})")
    if info.flag_bits & 0x41:  # bits 0 and 6: encrypted, strongly encrypted
        raise _refusal(f"{where}: {name}", "an encrypted member", "Pack the images without a password.")
    # The standard library unpacks the other methods in one go, however much comes out of them.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refusal(f"{where}: {name}", f"packing method {info.compress_type}", "Pack it stored or deflated.")


def _check_apart(infos: list[zipfile.ZipInfo], where: str) -> None:
    """Refuse members that share bytes, by which 10 MB may hold petabytes: https://www.bamsoftware.com/hacks/zipbomb/."""
    for info, following in pairwise(sorted(infos, key=lambda info: info.header_offset)):
        if info.header_offset + 30 + info.compress_size > following.header_offset:
            raise _refusal(f"{where}: {following.orig_filename[:200]}", "a member that overlaps another")


def _check_zip_directory(file: BinaryIO, where: str) -> None:
    """Refuse a directory of millions of members before the standard library makes an object of each."""
    length = file.seek(0, 2)
    file.seek(max(0, length - 2**16 - 256))  # the end record, its longest remark, and zip64's two records
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise _refusal(where, "one that ends too early", _AGAIN)
    (size,) = struct.unpack_from("<L", tail, end + 12)
    if (
        tail[max(0, end - 20) : end].startswith(b"PK\x06\x07") and end >= 76
    ):  # zip64's locator, and its record before it
        end -= 76
        (size,) = struct.unpack_from("<Q", tail, end + 40)
    if size <= _ZIP_DIRECTORY_BYTES_MAX:
        file.seek(max(0, length - len(tail) + end - size))
        if file.read(size).count(b"PK\x01\x02") <= MEMBERS_MAX:
            file.seek(0)
            return
    raise _refusal(where, f"more than {MEMBERS_MAX:,} members", _SMALLER)
