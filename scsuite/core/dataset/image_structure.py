"""Refuse image files whose structure alone costs minutes or gigabytes, before Pillow opens them.

In: the bytes of a file. Out: nothing, or where a JPEG has its image data; or a CorruptImageError.

Pillow reads segments, chunks and blocks one by one in Python: millions of empty ones, a few kB in an archive, take
minutes. The limits are far above what cameras and programs write.
"""

import re
from dataclasses import dataclass

from PIL import Image

from scsuite.core.dataset.image_checks import CorruptImageError

_MAX_SEGMENTS = 1000  # of a JPEG before its image data, and between its scans; an extended XMP of 16 MB has 260
_MAX_METADATA_BYTES = 2**24  # of them together
_MAX_JUNK_BYTES = 2**16  # between segments, among them fill bytes
_MAX_RESTARTS = 2**20  # a restart marker for each 8 x 8 block of 67 megapixels
_MAX_CHUNKS = 2**17  # of a PNG; 128 MB in chunks of 1 kB
_MIN_CHUNK_BYTES = 12  # its length, type and checksum
_MAX_BLOCKS, _MAX_SUB_BLOCKS = 2**17, 2**20  # of a GIF; a sub-block has up to 255 bytes
_MAX_TAG_VALUES = 2**18  # of one TIFF tag; a color map has 3 * 2**16, an image of 65,536 rows as many strips
_MAX_TAGS = 2**16
_MAX_WEBP_BYTES = 2**25  # Pillow and libwebp copy the file six times
_HEADER_BYTES = 2**16  # of a PNM, with its comments
_EXIF, _MPF = b"Exif\0\0", b"MPF\0"  # two kinds of metadata that have the form of a TIFF
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_BYTE_TYPES = (1, 2, 6, 7)  # are kept as one string

_NOT_FILL = re.compile(rb"[^\xff]")
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # any marker but restart markers
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_PNM_TOKEN = rb"(?:\s|#[^\r\n]*[\r\n])+[^\s#]+"
_PNM_HEADER = re.compile(rb"P[^\s#]{1,5}" + 2 * _PNM_TOKEN)


@dataclass(frozen=True)
class JpegScan:
    """The image data of a JPEG: where the data of its first scan ends, and whether only this scan has image data.

    `is_plain` says that it is baseline or extended sequential with Huffman codes.
    """

    end: int
    is_plain: bool


def check_structure(data: bytes) -> JpegScan | None:
    """Refuse a file that would take long to open; return what is known of the scan of a JPEG."""
    if data.startswith(b"\xff\xd8"):
        return _read_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_chunks(data)
    elif data.startswith((b"II", b"MM")):
        check_directory(data, "TIFF")
    elif data.startswith(b"GIF8"):
        _check_blocks(data)
    elif data.startswith(b"RIFF") and len(data) > _MAX_WEBP_BYTES:
        raise CorruptImageError(f"a WebP of {len(data) >> 20:,} MB")
    elif data[:1] == b"P" and len(data) > _HEADER_BYTES and not _PNM_HEADER.match(data, 0, _HEADER_BYTES):
        raise CorruptImageError(f"a PNM with a header of more than {_HEADER_BYTES >> 10} kB")
    return None


def _read_jpeg(data: bytes) -> JpegScan | None:
    """Walk through the segments of a JPEG up to its image data, and through its scans: ITU-T T.81, B.1."""
    position, junk, segments, metadata = 2, 0, 0, 0
    exif: list[bytes] = []
    frame_marker, has_restarts = 0, False
    while match := _NOT_FILL.search(data, data.find(b"\xff", position) + 1 or len(data)):
        marker, start = match[0][0], match.end()
        junk += start - position - 2 + 2 * (marker == 0)
        segments += marker != 0
        if junk > _MAX_JUNK_BYTES:
            raise CorruptImageError(f"a JPEG with more than {_MAX_JUNK_BYTES >> 10} kB between its segments")
        if segments > _MAX_SEGMENTS:
            raise CorruptImageError(f"a JPEG of more than {_MAX_SEGMENTS:,} segments")
        position = start
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # no content follows
            continue
        length = int.from_bytes(data[start : start + 2])
        position += max(length, 2)
        if marker == 0xDA:
            check_directory(b"".join(exif), "JPEG")
            return _read_scans(data, position, frame_marker in (0xC0, 0xC1), has_restarts)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame_marker = marker
        has_restarts |= marker == 0xDD and any(data[start + 2 : position])
        metadata += length * (0xE0 <= marker <= 0xEF or marker == 0xFE)
        if metadata > _MAX_METADATA_BYTES:
            raise CorruptImageError(f"a JPEG with more than {_MAX_METADATA_BYTES >> 20} MB of metadata")
        if marker == 0xE1 and data.startswith(_EXIF, start + 2):
            exif.append(data[start + 2 + len(_EXIF) : position])
        if marker == 0xE2 and data.startswith(_MPF, start + 2):
            check_directory(data[start + 2 + len(_MPF) : position], "JPEG")
    return None


def _read_scans(data: bytes, start: int, is_sequential: bool, has_restarts: bool) -> JpegScan | None:
    """Check the markers in and between the scans; None without the end marker, which `check_complete` reports."""
    first_end, num_scans, segments = None, 1, 0
    position = start
    while match := _SCAN_END.search(data, position):
        marker, end = match[0][1], match.start()
        first_end = first_end or end
        if marker not in (0xC4, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE) and not 0xE0 <= marker <= 0xEF:
            raise CorruptImageError(f"a corrupt one (a marker FF{marker:02X} within its image data)")
        if position == start:
            _check_restarts(data, start, end, has_restarts)
            if data.find(b"\xff" * _MAX_JUNK_BYTES, start, end) >= 0:
                raise CorruptImageError(f"a JPEG with more than {_MAX_JUNK_BYTES >> 10} kB of fill bytes")
        if marker == 0xD9:
            return JpegScan(first_end, is_sequential and num_scans == 1)
        num_scans += marker == 0xDA
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise CorruptImageError(f"a JPEG of more than {_MAX_SEGMENTS:,} scans and segments between them")
        position = end + 2 + max(int.from_bytes(data[end + 2 : end + 4]), 2)
    return None


def _check_restarts(data: bytes, start: int, end: int, has_restarts: bool) -> None:
    """Refuse restart markers that are not in their order, 0 to 7 and again: a part of the image is missing."""
    if data.count(b"\xff\xd0", start, end) > _MAX_RESTARTS // 8:
        raise CorruptImageError(f"a JPEG of more than {_MAX_RESTARTS:,} restart markers")
    for count, match in enumerate(_RESTART.finditer(data, start, end)):
        if not has_restarts or match[1][0] != 0xD0 + count % 8:
            raise CorruptImageError("a corrupt one (its restart markers are not in order)")


def _check_chunks(data: bytes) -> None:
    if len(data) < _MAX_CHUNKS * _MIN_CHUNK_BYTES:
        return
    position = 8
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data) or data.startswith(b"IEND", position + 4):
            return
        position += _MIN_CHUNK_BYTES + int.from_bytes(data[position : position + 4])
    raise CorruptImageError(f"a PNG of more than {_MAX_CHUNKS:,} chunks")


def _check_blocks(data: bytes) -> None:
    """Walk through the blocks of a GIF to its end: GIF89a specification, sections 17 to 27."""
    if len(data) < 13:
        return
    position, num_sub_blocks = 13 + _color_table_bytes(data[10]), 0
    for _ in range(_MAX_BLOCKS):
        if position >= len(data):
            raise CorruptImageError("a corrupt one (truncated)")
        if data[position] == 0x3B:
            return
        if data[position] == 0x2C:  # an image: its descriptor, its color table, and the size of its codes
            position += 11 + _color_table_bytes(data[position + 9]) if position + 9 < len(data) else len(data)
        else:
            position += 2
        while position < len(data) and data[position]:
            position += 1 + data[position]
            num_sub_blocks += 1
            if num_sub_blocks > _MAX_SUB_BLOCKS:
                raise CorruptImageError(f"a GIF of more than {_MAX_SUB_BLOCKS:,} blocks")
        position += 1
    raise CorruptImageError(f"a GIF of more than {_MAX_BLOCKS:,} blocks")


def _color_table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def check_exif(image: Image.Image) -> None:
    """Refuse the EXIF of an opened image that Pillow would take long to read; it may be in hexadecimal digits."""
    exif = image.info.get("exif", b"")
    if (digits := image.info.get("Raw profile type exif")) and not exif:
        exif = bytes.fromhex("".join(digits.split("\n")[3:]))
    check_directory(exif.removeprefix(_EXIF), image.format or "")


def check_directory(tiff: bytes, kind: str) -> None:
    """Refuse a TIFF, or the EXIF of another file, whose tags claim the same bytes many times: Pillow copies each."""
    order = "little" if tiff.startswith(b"II") else "big"

    def number(start: int, size: int) -> int:
        return int.from_bytes(tiff[start : start + size], order)  # type: ignore[arg-type]

    is_big = number(2, 2) == 43
    size = 8 if is_big else 4  # of offsets and counts
    start, count_size = number(8 if is_big else 4, size), 8 if is_big else 2
    if start + count_size > len(tiff):
        return
    num_tags = number(start, count_size)
    if num_tags > _MAX_TAGS:
        raise CorruptImageError(f"a {kind} of {num_tags:,} tags")
    total = 0
    for entry in range(start + count_size, start + count_size + num_tags * (4 + 2 * size), 4 + 2 * size):
        tag_type, count, offset = number(entry + 2, 2), number(entry + 4, size), number(entry + 4 + size, size)
        num_bytes = count * _TYPE_BYTES.get(tag_type, 0)
        if num_bytes > size:
            num_bytes = min(num_bytes, max(len(tiff) - offset, 0))  # what is missing takes no memory
            total += num_bytes
            if tag_type not in _BYTE_TYPES and num_bytes > _MAX_TAG_VALUES * _TYPE_BYTES[tag_type]:
                raise CorruptImageError(f"a {kind} with a tag of {count:,} values")
    if total > 2 * len(tiff):
        raise CorruptImageError(f"a {kind} with tags of {total:,} bytes in {len(tiff):,}")
