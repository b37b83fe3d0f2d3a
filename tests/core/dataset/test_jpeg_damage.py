"""Damage within the data of JPEGs, which Pillow does not report. The files are damaged here, in known ways."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from scsuite.core.dataset.image_file import CorruptImageError, decode_image
from scsuite.core.dataset.jpeg_damage import DAMAGE_NOTE
from tests.core.dataset.helpers import encode

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8))
JPEG = encode(NOISE, "JPEG")
START = JPEG.index(b"\xff\xda") + 14  # of the data of the only scan
MIDDLE = (START + len(JPEG)) // 2


def is_found(jpeg: bytes) -> bool:
    try:
        return decode_image(jpeg).note == DAMAGE_NOTE
    except CorruptImageError:
        return True


@pytest.mark.parametrize("file_size", [(8, 8), (32, 32), (97, 61), (400, 300)])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"quality": 1}, {"quality": 100, "subsampling": 0}, {"optimize": True}, {"progressive": True},
        {"restart_marker_rows": 1}, {"restart_marker_blocks": 1}, {"subsampling": "4:1:1"},
    ],
)  # fmt: skip
def test_undamaged_jpegs_have_no_note(options: dict[str, Any], file_size: tuple[int, int]) -> None:
    for mode in ("RGB", "L", "CMYK"):
        assert decode_image(encode(NOISE.resize(file_size).convert(mode), "JPEG", **options)).note is None


def test_the_pixels_are_those_of_pillow() -> None:
    small = NOISE.crop((0, 0, 32, 32))
    for quality in (10, 75, 100):
        jpeg = encode(small, "JPEG", quality=quality)
        (expected := Image.new("RGB", (32, 32))).paste(_opened(jpeg))
        np.testing.assert_array_equal(decode_image(jpeg).image_HWC, np.asarray(expected))


def _opened(jpeg: bytes) -> Image.Image:
    import io

    return Image.open(io.BytesIO(jpeg))


def test_data_that_is_missing_in_the_middle_is_refused() -> None:
    with pytest.raises(CorruptImageError, match="ends too early"):
        decode_image(JPEG[:MIDDLE] + JPEG[MIDDLE + 300 :])


def test_data_that_is_there_twice_is_reported() -> None:
    assert decode_image(JPEG[:MIDDLE] + JPEG[MIDDLE - 300 :]).note == DAMAGE_NOTE


def test_most_overwritten_blocks_are_found() -> None:
    draw = np.random.default_rng(1)
    starts = draw.integers(START, MIDDLE, 60)
    damaged = [JPEG[:at] + draw.integers(0, 255, 64, dtype=np.uint8).tobytes() + JPEG[at + 64 :] for at in starts]
    assert sum(map(is_found, damaged)) >= 50  # by chance, some have as many blocks after the damage as before


def test_a_few_bytes_of_padding_are_allowed() -> None:
    for padding in (b"\x7f", bytes(4), bytes(8), b"\xff" * 8):
        assert decode_image(JPEG[:-2] + padding + JPEG[-2:]).note is None


def test_a_marker_within_the_data_is_refused() -> None:
    for marker in (b"\xff\x02", b"\xff\xc0", b"\xff\xd8", b"\xff\xf7", b"\xff\xd0"):
        with pytest.raises(CorruptImageError, match="corrupt"):
            decode_image(JPEG[:MIDDLE] + marker + JPEG[MIDDLE + 2 :])


def test_a_part_between_restart_markers_that_is_missing_or_exchanged_is_refused() -> None:
    jpeg = encode(NOISE, "JPEG", restart_marker_rows=1)
    first, second, third = (jpeg.index(bytes([0xFF, 0xD0 + i])) for i in range(3))
    for damaged in (
        jpeg[:first] + jpeg[second:],
        jpeg[:first] + jpeg[second:third] + jpeg[first:second] + jpeg[third:],
    ):
        with pytest.raises(CorruptImageError, match="restart markers are not in order"):
            decode_image(damaged)
