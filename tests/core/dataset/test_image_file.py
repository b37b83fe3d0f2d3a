"""Images of every mode become the RGB image that a person sees, or are reported as corrupt."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scsuite.core.config import FITS
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
NOISE = Image.fromarray(GRADIENT_HWC)


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


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_gray_of_every_depth_keeps_its_levels(bits: int, file_format: str) -> None:
    white = 2**bits - 1
    ramp_HW = np.linspace(0, white, 1024).astype(np.uint16).reshape(32, 32)
    decoded = decode_image(encode(Image.fromarray(ramp_HW), file_format))
    assert np.abs(decoded.image_HWC[..., 0] - ramp_HW * (255 / white)).max() <= 0.5
    assert len(np.unique(decoded.image_HWC)) == 256
    assert decoded.note == f"16-bit gray, read as {bits}-bit by the largest value"


@pytest.mark.parametrize(("white", "values"), [(1, [0, 0.5, 1]), (255, [0, 51, 254]), (65535, [0, 257, 60_000])])
def test_floating_point_gray_has_the_range_that_its_largest_value_needs(white: int, values: list[float]) -> None:
    image = np.zeros((32, 32), np.float32)
    image[0, :3] = values
    decoded = decode_image(encode(Image.fromarray(image), "TIFF"))
    assert decoded.image_HWC[0, :3, 0].tolist() == [round(255 * value / white) for value in values]
    assert decoded.note == f"floating-point gray, read as 0 to {white} by the largest value"


def test_a_pgm_is_scaled_by_the_white_of_its_header_however_dark_it_is() -> None:
    for white in (100, 255, 1000, 4095):  # 65535 is what programs write for any 16-bit image
        dark = np.arange(1024, dtype=np.uint16).reshape(32, 32) % (white // 4)
        data = b"P5\n# a comment\n32 32\n%d\n" % white + dark.astype(np.uint8 if white < 256 else ">u2").tobytes()
        decoded = decode_image(data)
        assert np.abs(decoded.image_HWC[..., 1] - dark * (255 / white)).max() <= 0.51  # Pillow rounds twice
        assert decoded.note is None
        plain = b"P2\n32 32\n%d\n" % white + b" ".join(b"%d" % value for value in dark.ravel())
        assert np.abs(decode_image(plain).image_HWC[..., 1] - dark * (255 / white)).max() <= 0.51


def tiff_bytes(
    samples: NDArray[np.generic], order: str, *, photometric: int, planar: int = 1, signed: int = 1
) -> bytes:
    """An uncompressed TIFF of gray HW, color HWC or planes CHW; each tag is written as TIFF 6.0 says."""
    planes = samples.reshape(1, -1) if planar == 1 else samples.reshape(len(samples), -1)
    channels = 1 if samples.ndim == 2 else samples.shape[2 if planar == 1 else 0]
    height, width = samples.shape[-2:] if planar == 2 or samples.ndim == 2 else samples.shape[:2]
    values = {
        256: [width], 257: [height], 258: [8 * samples.itemsize] * channels, 259: [1], 262: [photometric], 273: [],
        277: [channels], 278: [height], 279: [planes[0].nbytes] * len(planes), 284: [planar], 339: [signed] * channels,
    }  # fmt: skip
    start = 8 + 2 + 12 * len(values) + 4
    values[273] = [start + 100 + index * planes[0].nbytes for index in range(len(planes))]
    entries, extra = b"", b""
    for tag, items in values.items():
        data = struct.pack(f"{order}{len(items)}I", *items)
        where = data if len(data) == 4 else struct.pack(f"{order}I", start + len(extra))
        entries += struct.pack(f"{order}HHI", tag, 4, len(items)) + where
        extra += b"" if len(data) == 4 else data
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(values))
    pixels = samples.astype(f"{order}{samples.dtype.str[1:]}").tobytes()
    return head + entries + bytes(4) + extra.ljust(100, b"\0") + pixels


RAMP_HW = np.arange(1024, dtype=np.uint16).reshape(32, 32)


@pytest.mark.parametrize(("order", "photometric"), [("<", 1), (">", 1), ("<", 0)])
def test_deep_gray_tiffs_of_both_byte_orders_and_with_white_as_zero_are_read(order: str, photometric: int) -> None:
    decoded = decode_image(tiff_bytes(RAMP_HW * 4, order, photometric=photometric))
    expected_HW = RAMP_HW * (255 * 4 / 4095)
    expected_HW = expected_HW if photometric else 255 - expected_HW
    assert np.abs(decoded.image_HWC[..., 0] - expected_HW).max() <= 0.51
    assert decoded.note == "16-bit gray, read as 12-bit by the largest value"


def test_tiffs_whose_samples_pillow_reads_as_other_values_are_refused() -> None:
    planes_CHW = np.moveaxis(GRADIENT_HWC, 2, 0)
    assert np.array_equal(decode_image(tiff_bytes(planes_CHW, "<", photometric=2, planar=2)).image_HWC, GRADIENT_HWC)
    with pytest.raises(CorruptImageError, match="planes of more than 8 bits: save it with 8 bits"):
        decode_image(tiff_bytes(planes_CHW.astype(np.uint16) * 257, "<", photometric=2, planar=2))
    with pytest.raises(CorruptImageError, match="signed 8-bit values"):
        decode_image(tiff_bytes(GRADIENT_HWC[..., 0], "<", photometric=1, signed=2))


def test_sixteen_bit_color_with_few_bits_has_a_note() -> None:
    for factor, is_dark in ((257, False), (16, True)):
        color_HWC = GRADIENT_HWC.astype(np.uint16) * factor
        ppm = b"P6 32 32 65535\n" + color_HWC.astype(">u2").tobytes()
        for data in (ppm, tiff_bytes(color_HWC, "<", photometric=2)):
            assert ("read as dark" in str(decode_image(data).note)) == is_dark


def test_the_transparent_level_of_sixteen_bit_gray_is_white() -> None:
    assert first_pixel(encode(Image.fromarray(RAMP_HW + 100), transparency=100)) == [255, 255, 255]


@pytest.mark.parametrize(
    ("file_format", "options", "mode"),
    [
        ("GIF", {}, "P"), ("GIF", {"save_all": True, "append_images": [Image.new("L", (32, 32))]}, "P"),
        ("PPM", {}, "RGB"), ("PPM", {}, "L"), ("PPM", {}, "1"),
        ("TIFF", {}, "1"), ("TIFF", {}, "RGB"), ("TIFF", {"compression": "tiff_lzw"}, "RGB"),
        ("TIFF", {"compression": "tiff_deflate"}, "P"), ("TIFF", {"compression": "packbits"}, "L"),
        ("TIFF", {"compression": "group4"}, "1"), ("TIFF", {"compression": "zstd"}, "CMYK"),
        ("TIFF", {"save_all": True, "append_images": [Image.new("L", (99, 99))]}, "RGB"),
    ],
)  # fmt: skip
def test_the_first_image_of_a_lossless_file_is_read_as_pillow_shows_it(
    file_format: str, options: dict[str, object], mode: str
) -> None:
    image = NOISE.convert(mode)
    decoded = decode_image(encode(image, file_format, **options))
    assert np.array_equal(decoded.image_HWC, np.asarray(image.convert("RGB")))
    assert (decoded.is_resized, decoded.note) == (False, None)


def test_a_plain_ppm_and_a_transparent_gif_are_read() -> None:
    assert first_pixel(b"P3 32 32 255\n" + b"9 8 7\n" * 1024) == [9, 8, 7]
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    assert first_pixel(encode(image, "GIF")) == [9, 8, 7]
    assert first_pixel(encode(image, "GIF", transparency=1)) == [255, 255, 255]


# Pillow stores L in [0, 255], and a and b with 128 added; pure red is L 53.2, a 80.1, b 67.2.
@pytest.mark.parametrize(
    ("lab", "expected"),
    [((255, 128, 128), [255, 255, 255]), ((0, 128, 128), [0, 0, 0]), ((136, 208, 195), [255, 0, 0])],
)
def test_lab_becomes_rgb(lab: tuple[int, int, int], expected: list[int]) -> None:
    assert first_pixel(encode(Image.new("LAB", (32, 32), lab), "TIFF")) == pytest.approx(expected, abs=12)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_is_turned_once(orientation: int) -> None:
    data = encode(Image.fromarray(GRADIENT_HWC), "TIFF", tiffinfo={274: orientation})
    expected_HWC = np.rot90(GRADIENT_HWC, {3: 2, 6: -1}[orientation])
    assert np.array_equal(decode_image(data).image_HWC, expected_HWC)


WIDE_HWC = np.zeros((20, 80, 3), np.uint8)  # four squares from left to right
WIDE_HWC[:, :20], WIDE_HWC[:, 20:40], WIDE_HWC[:, 40:60], WIDE_HWC[:, 60:] = 50, 100, 150, 200


@pytest.mark.parametrize("is_tall", [False, True])
def test_each_fit_shows_its_part_of_a_wide_and_of_a_tall_image(is_tall: bool) -> None:
    def fitted(fit: str) -> NDArray[np.uint8]:
        decoded = decode_image(encode(Image.fromarray(WIDE_HWC.swapaxes(0, 1) if is_tall else WIDE_HWC)), fit)
        assert decoded.cut_fraction == (0.75 if fit == "crop" else 0)  # 20 of 80 columns are left
        return decoded.image_HWC.swapaxes(0, 1) if is_tall else decoded.image_HWC

    crop, pad, stretch = (fitted(fit)[..., 0] for fit in FITS)
    assert crop[16, [2, 29]].tolist() == [100, 150]  # the center square
    assert stretch[[0, 16, 31]][:, [4, 12, 20, 28]].tolist() == [[50, 100, 150, 200]] * 3
    assert pad[[12, 19]][:, [4, 12, 20, 28]].tolist() == [[50, 100, 150, 200]] * 2  # 32 x 8 in the middle
    assert (pad[:12] == 128).all() and (pad[20:] == 128).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_an_image_of_32_by_32_is_the_same_under_each_fit(fit: str) -> None:
    assert np.array_equal(decode_image(encode(NOISE), fit).image_HWC, GRADIENT_HWC)
    assert decode_image(encode(Image.new("RGB", (1, 5000), (9, 9, 9))), fit).image_HWC.shape == (32, 32, 3)


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


@pytest.mark.parametrize(("width", "height", "left", "top"), [(33, 32, 0, 0), (32, 35, 0, 1), (61, 32, 14, 0)])
def test_an_image_whose_shorter_side_is_32_is_cropped_to_whole_pixels(
    width: int, height: int, left: int, top: int
) -> None:
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image_HWC = decode_image(encode(Image.fromarray(pixels_HWC))).image_HWC
    np.testing.assert_array_equal(image_HWC, pixels_HWC[top : top + 32, left : left + 32])


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


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (8193, 8193, "8193 x 8193 pixels that needs 25. MB"),  # 4 bytes a pixel are just over 256 MB
        (10_000, 10_000, "10000 x 10000 pixels that needs 38. MB"),
        (1, 20_000_000, "1 x 20000000 pixels"),  # each row has a cost of its own
        (20_000, 20_000, "more than 178,956,970 pixels"),
        (2**31 - 1, 2**31 - 1, "more than 178,956,970 pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_needs_too_much_memory_is_refused_by_the_header_alone(width: int, height: int, words: str) -> None:
    with pytest.raises(CorruptImageError, match=words):
        decode_image(bomb(width, height))


def rle_bmp(width: int, height: int, rows: bytes) -> bytes:
    """A BMP of run-length codes with 256 colors, all black."""
    start = 54 + 1024
    sizes = struct.pack(
        "<LLLLllHHLLllLL", start + len(rows), 0, start, 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0
    )
    return b"BM" + sizes + bytes(1024) + rows


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bmp_of_run_length_codes_takes_three_times_its_pixels() -> None:
    row, end = b"\x20\1\0\0", b"\0\1"  # 32 times color 1, the end of a line; the end
    assert decode_image(rle_bmp(32, 32, row * 32 + end)).image_HWC.max() == 0
    with pytest.raises(CorruptImageError, match=r"12000 x 12000 pixels that needs 4\d\d MB"):
        decode_image(rle_bmp(12_000, 12_000, end))


def test_a_webp_that_would_be_copied_to_over_300_megabytes_is_refused() -> None:
    chunks = b"VP8X" + struct.pack("<L", 10) + bytes(10) + b"EXIF" + struct.pack("<L", 2**26) + bytes(40 * 2**20)
    with pytest.raises(CorruptImageError, match="a WebP of 40 MB"):
        decode_image(b"RIFF" + struct.pack("<L", len(chunks) + 4) + b"WEBP" + chunks)


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The same JPEG with another size in its frame header."""
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_photos_of_any_number_of_pixels_are_read() -> None:
    photo = encode(Image.new("RGB", (6000, 4000), (200, 100, 50)), "JPEG")  # 24 megapixels
    assert decode_image(photo).image_HWC.reshape(-1, 3).mean(axis=0) == pytest.approx([200, 100, 50], abs=2)
    small = encode(Image.new("L", (16, 16), 128), "JPEG")
    start, gray_blocks = small.index(b"\xff\xda") + 10, b"\x28\xa2\x8a"  # four times 00 1010: no change, end of block
    large = with_size(small[:start], 20_000, 10_000) + gray_blocks * (2500 * 1250 // 4) + b"\xff\xd9"
    assert decode_image(large).image_HWC.mean() == 128  # 200 megapixels, decoded as 2500 x 1250
    with pytest.raises(CorruptImageError, match="65500 x 65500 pixels that needs"):
        decode_image(with_size(encode(Image.new("RGB", (16, 16)), "JPEG"), 65_500, 65_500))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("options", [{"progressive": True, "subsampling": 0}, {"progressive": True, "subsampling": 2}])
def test_the_coefficients_of_a_progressive_jpeg_count(options: dict[str, int]) -> None:
    small = encode(Image.new("RGB", (16, 16)), "JPEG", **options)
    bytes_per_pixel = 6 if options["subsampling"] == 0 else 3  # two for each sample of Y, Cb and Cr
    for pixels, is_read in ((10e6, True), (300e6, False)):
        side = int((pixels / bytes_per_pixel) ** 0.5)
        if is_read:
            assert decode_image(with_size(small, side, side)).is_resized
        else:
            with pytest.raises(CorruptImageError, match="save it as a baseline JPEG"):
                decode_image(with_size(small, side, side))


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_a_huge_image_is_the_same_as_a_smaller_one(mode: str) -> None:
    gradient_HW = np.tile(np.linspace(0, 255, 4200).astype(np.uint8), (4000, 1))
    smaller_HW = gradient_HW[::10, ::10]
    huge, small = (
        Image.fromarray(a.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(a).convert(mode)
        for a in (gradient_HW, smaller_HW)
    )
    images = [decode_image(encode(image, compress_level=1)).image_HWC.astype(int) for image in (huge, small)]
    assert np.abs(images[0] - images[1]).max() <= 2


def flipped(data: bytes, where: int) -> bytes:
    return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]


CORRUPT = {
    "nothing": b"",
    "text": b"these are words, not an image",
    "gif truncated": encode(NOISE, "GIF")[:-100],
    "gif without its end": encode(NOISE, "GIF")[:-1],
    "gif with half a second frame": encode(NOISE, "GIF", save_all=True, append_images=[Image.new("RGB", (32, 32))])[
        :-9
    ],
    "gif of a header": b"GIF89a",
    "tiff truncated": encode(NOISE, "TIFF")[:-100],
    "compressed tiff truncated": encode(NOISE, "TIFF", compression="tiff_lzw")[:-100],
    "compressed tiff with half its header": encode(NOISE, "TIFF", compression="tiff_lzw")[:-400],
    "ppm truncated": encode(NOISE, "PPM")[:-1],
    "plain ppm truncated": b"P3 32 32 255 " + b"9 " * (32 * 32 * 3 - 1),
    "deep pgm truncated": b"P5 32 32 4095\n" + bytes(32 * 32 * 2 - 1),
    "negative tiff": encode(Image.fromarray(np.full((32, 32), -1, np.int32)), "TIFF"),
    "tiff of NaN": encode(Image.fromarray(np.full((32, 32), np.nan, np.float32)), "TIFF"),
    "tiff of infinity": encode(Image.fromarray(np.full((32, 32), np.inf, np.float32)), "TIFF"),
    "tiff of large numbers": encode(Image.fromarray(np.full((32, 32), 70_000, np.int32)), "TIFF"),
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


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("data", CORRUPT.values(), ids=CORRUPT.keys())
def test_corrupt_images_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptImageError):
        decode_image(data)


def test_a_pdf_under_another_name_is_reported_as_a_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%PDF-1.7")
    with pytest.raises(InputError, match=r"a\.jpg: expected a complete image .*found a PDF") as caught:
        read_image_32(tmp_path / "a.jpg")
    assert caught.value.exit_code == 3


def test_a_corrupt_tiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    complete = encode(Image.fromarray(GRADIENT_HWC).convert("1"), "TIFF", compression="group4")
    broken = complete.replace(complete[8:60], bytes(52))
    with contextlib.suppress(CorruptImageError):
        decode_image(broken)
    assert capfd.readouterr() == ("", "")


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
