"""Refuse image files that are incomplete, or that would take minutes, which Pillow accepts.

In: an image that Pillow opened, and the bytes of its file. Out: nothing, or a CorruptImageError.
"""

import ctypes
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from PIL import Image, _imaging

_MAX_SCANS = 100  # of a JPEG; encoders write 10, and a file may have two or three images in it
_MAX_PLAIN_BYTES = 10 * 2**20  # of a PNM with its numbers as text, which Pillow reads one by one
_MAX_COMMENTS = 100  # of one, each of which Pillow removes by copying what follows
_BITS, _SAMPLE_FORMAT, _PLANAR_CONFIGURATION = 258, 339, 284  # TIFF tags
_TIFF_BLOCKS = ((273, 279), (324, 325))  # the tags of offsets and byte counts, of strips and of tiles


class CorruptImageError(Exception):
    """The bytes are not a readable image; the message says what they are."""


def check_header(image: Image.Image, data: bytes) -> None:
    """Refuse an image before it is decoded."""
    if image.format in ("JPEG", "MPO") and (count := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise CorruptImageError(f"a JPEG of {count:,} scans")  # each is a pass over the image
    if image.format == "PPM" and data[1:2] in b"123" and len(data) > _MAX_PLAIN_BYTES:
        raise CorruptImageError(f"a plain-text PNM of {len(data) >> 20:,} MB: save it as a binary one")
    if image.format == "PPM" and data[1:2] in b"123" and (count := data.count(b"#")) > _MAX_COMMENTS:
        raise CorruptImageError(f"a plain-text PNM with {count:,} comments")
    if image.format == "PNG":
        _check_png_chunks(data)
    if image.format == "TIFF":
        _silence_libtiff()
        _check_tiff_samples(getattr(image, "tag_v2", {}))
        if not _has_all_blocks(image, len(data)):
            raise CorruptImageError("a corrupt one (truncated)")


def _check_tiff_samples(tags: Mapping[int, Any]) -> None:
    """Refuse two kinds of samples that Pillow reads as other values."""
    bits, formats, planar = (tags.get(tag, (1,)) for tag in (_BITS, _SAMPLE_FORMAT, _PLANAR_CONFIGURATION))
    if planar == 2 and len(bits) > 1 and max(bits) > 8:
        raise CorruptImageError("a TIFF with planes of more than 8 bits: save it with 8 bits per channel")
    if 2 in formats and max(bits) == 8:
        raise CorruptImageError("a TIFF of signed 8-bit values: save them as 0 to 255")


@cache
def _silence_libtiff() -> None:
    """Stop the messages that libtiff itself prints on stderr, where an error of ours is one line."""
    with suppress(OSError, AttributeError):  # where libtiff is linked in another way, its messages stay
        handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        handler.argtypes, handler.restype = (ctypes.c_void_p,), ctypes.c_void_p
        handler(None)


def check_complete(image: Image.Image, data: bytes) -> None:
    """Refuse a JPEG without its end, after it was decoded; `check_header` has found the end of a PNG."""
    # libjpeg invents a missing end. The end of an embedded preview may hide that from this search, never the reverse.
    if image.format == "JPEG" and data.find(b"\xff\xd9", data.find(b"\xff\xda")) < 0:
        raise CorruptImageError("a corrupt one (truncated)")


def _has_all_blocks(image: Image.Image, num_bytes: int) -> bool:
    """Return whether the strips or tiles of a TIFF lie within the file; libtiff makes up what is missing."""
    tags = getattr(image, "tag_v2", {})
    blocks = [block for pair in _TIFF_BLOCKS for block in zip(*(tags.get(tag, ()) for tag in pair), strict=True)]
    return bool(blocks) and all(offset + length <= num_bytes for offset, length in blocks)


def _check_png_chunks(data: bytes) -> None:
    """Check the chunks of a PNG up to its end chunk, which decoding alone does not; Pillow's `verify` is slower.

    A chunk is its length, its type, as much data, and the CRC-32 of type and data. Source: https://www.w3.org/TR/png-3/
    """
    start, kind, view = 8, b"", memoryview(data)
    while kind != b"IEND":
        kind, end = data[start + 4 : start + 8], start + 8 + int.from_bytes(data[start : start + 4])
        if end + 4 > len(data):
            raise CorruptImageError("a corrupt one (truncated)")
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise CorruptImageError(f"a corrupt one (a wrong checksum in {kind.decode(errors='replace')})")
        start = end + 4
