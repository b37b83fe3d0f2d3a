"""Files whose structure alone would take minutes are refused; each has only a little more than the limit here."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from scsuite.core.dataset.image_file import CorruptImageError, decode_image
from tests.core.dataset.helpers import encode

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
JPEG, PNG, GIF = encode(NOISE, "JPEG"), encode(NOISE), encode(NOISE, "GIF")
TIFF = encode(NOISE, "TIFF")
SCAN = JPEG.index(b"\xff\xda")
GIF_START = 13 + 3 * 2 ** ((GIF[10] & 7) + 1)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def directory(num_tags: int, num_values: int, tag_type: int) -> bytes:
    """Return a TIFF of tags that all claim the same bytes."""
    entries = b"".join(struct.pack("<HHLL", 700 + tag, tag_type, num_values, 8) for tag in range(num_tags))
    return b"II*\0" + struct.pack("<LH", 8, num_tags) + entries + bytes(4)


def tiff_of_strips(count: int) -> bytes:
    tags = [(256, 1), (257, count), (258, 8), (259, 1), (262, 1), (277, 1), (278, 1)]
    entries = [struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags]
    end = 8 + 2 + 9 * 12 + 4
    entries.insert(5, struct.pack("<HHLL", 273, 4, count, end))
    entries.append(struct.pack("<HHLL", 279, 4, count, end + 4 * count))
    return b"II*\0\x08\0\0\0\x09\0" + b"".join(entries) + bytes(4) + struct.pack("<L", 8) * count + b"\1\0\0\0" * count


EXIF_BOMB = b"Exif\0\0" + directory(4000, 40_000, 7)
HOSTILE: dict[str, Callable[[], bytes]] = {
    "jpeg of empty segments": lambda: JPEG[:2] + segment(0xFE, b"") * 1001 + JPEG[2:],
    "jpeg of empty segments of an application": lambda: JPEG[:2] + segment(0xE5, b"") * 1001 + JPEG[2:],
    "jpeg of tables": lambda: JPEG[:2] + segment(0xDB, bytes([0, *[1] * 64])) * 1001 + JPEG[2:],
    "jpeg of fill bytes": lambda: JPEG[:2] + b"\xff" * 70_000 + JPEG[2:],
    "jpeg of fill bytes before its data": lambda: JPEG[:SCAN] + b"\xff" * 70_000 + JPEG[SCAN:],
    "jpeg of fill bytes in its data": lambda: JPEG[:-2] + b"\xff" * 70_000 + JPEG[-2:],
    "jpeg of segments between its scans": lambda: JPEG[:-2] + segment(0xFE, b"") * 1001 + JPEG[-2:],
    "jpeg of zeros between segments": lambda: JPEG[:2] + bytes(70_000) + JPEG[2:],
    "jpeg of repeated EXIF": lambda: JPEG[:2] + segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 260 + JPEG[2:],
    "jpeg of repeated profiles": lambda: (
        JPEG[:2] + segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000)) * 260 + JPEG[2:]
    ),
    "jpeg with EXIF that claims much": lambda: JPEG[:2] + segment(0xE1, EXIF_BOMB) + JPEG[2:],
    "jpeg with an MPF that claims much": lambda: JPEG[:2] + segment(0xE2, b"MPF\0" + EXIF_BOMB[6:]) + JPEG[2:],
    "png of empty chunks": lambda: PNG[:33] + chunk(b"zzZz") * 131_072 + PNG[33:],
    "png of empty data": lambda: PNG[:33] + chunk(b"IDAT") * 131_072 + PNG[33:],
    "png with EXIF that claims much": lambda: PNG[:33] + chunk(b"eXIf", EXIF_BOMB[6:]) + PNG[33:],
    "gif of comments": lambda: GIF[:GIF_START] + b"!\xfe\1a\0" * 131_072 + GIF[GIF_START:],
    "gif of a long comment": lambda: GIF[:GIF_START] + b"!\xfe" + b"\1a" * 2**20 + b"\0" + GIF[GIF_START:],
    "gif of zeros": lambda: GIF[:GIF_START] + bytes(400_000) + GIF[GIF_START:],
    "tiff of tags that claim much": lambda: directory(4000, 40_000, 7),
    "tiff of one long tag": lambda: TIFF[:4] + directory(1, 2**18 + 1, 3)[4:] + bytes(2**20),
    "tiff of strips": lambda: tiff_of_strips(2**18 + 1),
    "pnm of a long comment": lambda: b"P6 #" + b"a" * 70_000 + b"\n2 2 255\n" + bytes(12),
    "pnm of spaces": lambda: b"P6 " + b" " * 70_000 + b"2 2 255\n" + bytes(12),
    "plain pnm of comments": lambda: b"P3 2 2 255 " + b"#\n" * 200 + b"1 " * 12,
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_of_many_parts_is_refused_before_it_is_opened(
    make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make()
    if not data.startswith((b"P3", b"\x89PNG")):  # a chunk with EXIF, and comments in plain numbers, are seen later
        monkeypatch.setattr(Image, "open", lambda *_args, **_kwargs: pytest.fail("Pillow opened it"))
    with pytest.raises(CorruptImageError, match=r"a (JPEG|PNG|GIF|TIFF|PNM|plain-text PNM) (of|with) "):
        decode_image(data)


def test_files_with_as_much_metadata_as_cameras_and_programs_write_are_read() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x927C] = 1, bytes(60_000)  # with a maker note
    jpeg = encode(NOISE, "JPEG", exif=exif, icc_profile=bytes(3_000_000), comment=b"c" * 60_000)
    xmp = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 150  # a depth map of 10 MB
    assert decode_image(jpeg[:2] + xmp + b"\xff" * 100 + jpeg[2:]).note is None
    assert decode_image(PNG[:33] + chunk(b"tEXt", b"a\0b") * 20_000 + PNG[33:]).note is None
    assert decode_image(GIF[:GIF_START] + b"!\xfe\1a\0" * 2000 + GIF[GIF_START:]).note is None
    assert decode_image(b"P6 #" + b"a" * 1000 + b"\n2 2 255\n" + bytes(12)).note is None
    assert decode_image(tiff_of_strips(20_000)).is_resized
