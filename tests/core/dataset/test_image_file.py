"""Images of every mode become the RGB image that a person sees, or are reported as corrupt."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scsuite.core.dataset.image_file import (
    CorruptImageError,
    DecodedImage,
    decode_image,
    decode_images,
    read_image_32,
    read_image_resized,
)
from scsuite.core.errors import InputError
from tests.core.dataset.helpers import encode, image_bytes

GRADIENT_HWC = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def first_pixel(data: bytes) -> list[int]:
    return [int(value) for value in decode_image(data).image_HWC[0, 0]]


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_a_lossless_image_of_32_by_32_is_unchanged(file_format: str, options: dict[str, bool]) -> None:
    decoded = decode_image(encode(Image.fromarray(GRADIENT_HWC), file_format, **options))
    image_HWC, is_resized = decoded.image_HWC, decoded.is_resized
    assert np.array_equal(image_HWC, GRADIENT_HWC)
    assert image_HWC.dtype == np.uint8
    assert not is_resized


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGB", (10, 20, 30), [10, 20, 30]),
        ("L", 77, [77, 77, 77]),
        ("1", 1, [255, 255, 255]),
        ("RGBA", (200, 0, 0, 255), [200, 0, 0]),
        ("RGBA", (200, 0, 0, 0), [255, 255, 255]),  # fully transparent: the white background, not the red
        ("RGBA", (200, 0, 100, 51), [244, 204, 224]),  # 51 is a fifth: 0.2 x color + 0.8 x 255
        ("LA", (0, 51), [204, 204, 204]),
        ("I;16", 65535, [255, 255, 255]),
        ("I;16", 257 * 100, [100, 100, 100]),
        ("I;16", 257 * 100 + 129, [101, 101, 101]),  # rounded, not truncated
    ],
)
def test_each_mode_becomes_the_color_that_a_person_sees(mode: str, color: int, expected: list[int]) -> None:
    assert first_pixel(image_bytes(color, mode=mode)) == pytest.approx(expected, abs=1)


def test_a_sixteen_bit_ramp_keeps_its_steps() -> None:
    ramp_HW = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    image_HWC = decode_image(encode(Image.fromarray(ramp_HW))).image_HWC
    assert np.array_equal(image_HWC[..., 0], np.floor(ramp_HW / 257 + 0.5))


def test_palettes_and_their_transparent_entry_are_applied() -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    assert first_pixel(encode(image)) == [9, 8, 7]
    assert first_pixel(encode(image, transparency=1)) == [255, 255, 255]


def test_cmyk_jpegs_become_rgb() -> None:
    cyan = encode(Image.new("CMYK", (32, 32), (255, 0, 0, 0)), "JPEG", quality=100)
    assert first_pixel(cyan) == pytest.approx([0, 255, 255], abs=3)


@pytest.mark.parametrize(
    ("orientation", "rotate"),
    [(1, lambda a: a), (3, lambda a: np.rot90(a, 2)), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)],
)
def test_exif_orientation_is_applied(orientation: int, rotate: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6: stored turned left, to be shown turned by 90 degrees to the right
    image_HWC = decode_image(encode(Image.fromarray(GRADIENT_HWC), "PNG", exif=exif)).image_HWC
    assert callable(rotate)
    assert np.array_equal(image_HWC, rotate(GRADIENT_HWC))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_leaves_the_image_unchanged() -> None:
    data = encode(Image.fromarray(GRADIENT_HWC), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert np.array_equal(decode_image(data).image_HWC, GRADIENT_HWC)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 200), (40, 100), (33, 32), (20, 17)])
def test_resizing_equals_the_shorter_side_to_32_and_then_the_center(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    image = small.resize(size, Image.Resampling.BICUBIC)  # smooth, as photographs are
    scale = 32 / min(size)
    width, height = round(size[0] * scale), round(size[1] * scale)
    expected_HWC = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    top, left = (height - 32) // 2, (width - 32) // 2
    decoded = decode_image(encode(image))
    image_HWC, is_resized = decoded.image_HWC, decoded.is_resized
    assert is_resized
    difference = np.abs(image_HWC - expected_HWC[top : top + 32, left : left + 32])
    assert difference.mean() < 6  # at most half a pixel of shift, where the sizes are odd


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    stripes_HW = np.tile(np.array([0, 255], dtype=np.uint8), (320, 160))  # every other column white
    image_HWC = decode_image(encode(Image.fromarray(stripes_HW))).image_HWC
    assert image_HWC[8:24, 8:24].mean() == pytest.approx(127.5, abs=1)
    assert image_HWC[8:24, 8:24].std() < 3


def test_a_large_jpeg_decoded_at_an_eighth_is_the_same_image() -> None:
    smooth = Image.fromarray(GRADIENT_HWC[:4, :4]).resize((1024, 768), Image.Resampling.BICUBIC)
    as_jpeg = decode_image(encode(smooth, "JPEG", quality=95)).image_HWC  # decoded at an eighth of its size
    as_png = decode_image(encode(smooth)).image_HWC
    assert np.abs(as_jpeg.astype(int) - as_png).mean() < 2


def test_one_pixel_and_one_long_line_become_32_by_32() -> None:
    for size in ((1, 1), (1, 5000), (5000, 1)):
        decoded = decode_image(encode(Image.new("RGB", size, (9, 9, 9))))
        image_HWC, is_resized = decoded.image_HWC, decoded.is_resized
        assert image_HWC.shape == (32, 32, 3)
        assert is_resized
        assert (image_HWC == 9).all()


def test_a_wrong_suffix_does_not_matter_and_mpo_is_a_jpeg(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image_bytes((200, 100, 50), file_format="JPEG"))
    assert read_image_32(tmp_path / "a.png")[0, 0] == pytest.approx([200, 100, 50], abs=3)
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    two_frames = encode(image, "MPO", save_all=True, append_images=[image])  # what some cameras write as .jpg
    assert first_pixel(two_frames) == pytest.approx([200, 100, 50], abs=3)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, without pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))

    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [4097, 10_000, 20_000, 2**31 - 1])
def test_more_pixels_than_the_limit_are_refused_by_the_header_alone(side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CorruptImageError, match="more than 16,777,216 pixels"):
            decode_image(bomb(side, side))


def flipped(data: bytes, where: int) -> bytes:
    return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]


NOISE = Image.fromarray(GRADIENT_HWC)
CORRUPT = {
    "nothing": b"",
    "text": b"these are words, not an image",
    "gif": encode(NOISE, "GIF"),
    "tiff": encode(NOISE, "TIFF"),
    "png truncated to half": encode(NOISE)[:1500],
    "png without its end chunk": encode(NOISE)[:-12],
    "png without its last byte": encode(NOISE)[:-1],
    "png with a flipped bit": flipped(encode(NOISE), 1000),
    "jpeg truncated to half": encode(NOISE, "JPEG")[:900],
    "jpeg without its end": encode(NOISE, "JPEG")[:-2],
    "jpeg header only": encode(NOISE, "JPEG")[:20],
    "bmp truncated": encode(NOISE, "BMP")[:-100],
    "webp truncated": encode(NOISE, "WEBP", lossless=True)[:-100],
    "empty png": bomb(8, 8),
}


@pytest.mark.parametrize("data", CORRUPT.values(), ids=CORRUPT.keys())
def test_corrupt_images_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptImageError):
        decode_image(data)


def test_a_gif_under_another_name_is_reported_as_a_gif(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(CORRUPT["gif"])
    with pytest.raises(InputError, match=r"a\.jpg: expected a complete image .*found a GIF") as caught:
        read_image_32(tmp_path / "a.jpg")
    assert caught.value.exit_code == 3


def test_a_corrupt_image_gives_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "a.png").write_bytes(bomb(10_000, 10_000))  # Pillow itself warns of this one
    with pytest.raises(InputError):
        read_image_32(tmp_path / "a.png")
    assert not recwarn.list


def test_many_images_come_in_the_order_given() -> None:
    source = [(str(i), image_bytes((i, 0, 0)) if i % 50 else b"") for i in range(200)]
    results = list(decode_images(source))
    assert [name for name, _ in results] == [name for name, _ in source]
    for i, (_, decoded) in enumerate(results):
        if i % 50:
            assert isinstance(decoded, DecodedImage)
            assert decoded.image_HWC[0, 0, 0] == i
        else:
            assert isinstance(decoded, CorruptImageError)


def test_a_truncated_progressive_jpeg_is_refused() -> None:
    complete = io.BytesIO(encode(NOISE, "JPEG", progressive=True)).getvalue()
    with pytest.raises(CorruptImageError):
        decode_image(complete[: len(complete) // 2])


@pytest.mark.parametrize(("width", "height"), [(100, 60), (60, 100), (1000, 300), (20, 20)])
def test_the_center_of_a_resized_image_is_the_networks_image(width: int, height: int, tmp_path: Path) -> None:
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([columns * 255 // width, rows * 255 // height, 0 * rows], axis=-1).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    complete = read_image_resized(tmp_path / "a.png", 512)
    assert complete.shape == ((154, 512, 3) if width == 1000 else (height, width, 3))
    side = min(complete.shape[:2])
    top, left = ((n - side) // 2 for n in complete.shape[:2])
    square = Image.fromarray(complete[top : top + side, left : left + side]).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(square).astype(int) - read_image_32(tmp_path / "a.png")).max() <= 6


def test_a_resized_image_follows_the_same_rules(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    Image.new("RGB", (80, 40), (200, 100, 50)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image_resized(tmp_path / "a.jpg", 512).shape == (80, 40, 3)
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(InputError, match="image"):
        read_image_resized(tmp_path / "a.jpg", 512)
