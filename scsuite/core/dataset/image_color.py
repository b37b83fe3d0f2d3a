"""Convert an image of any mode of Pillow to RGB.

In: a loaded image. Out: the image in RGB, smaller if it is huge; and a note if its gray levels were scaled.

Transparency is composited on white. Gray of more than 8 bits is scaled by its largest value, the same for every image
with the same largest value: one of at most 255 has 8 bits, and so on by `DEPTHS`. Floating-point gray has the range
[0, 1], or [0, 255], or [0, 65535], by its largest value. Everything else is converted by Pillow.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PpmImagePlugin

from scsuite.core.dataset.image_memory import ROW_BYTES

BACKGROUND = (255, 255, 255)  # behind transparent pixels
DEPTHS = (8, 10, 12, 14, 16)  # bits of gray that cameras and scanners have
FLOAT_RANGES = (1, 255, 65535)
FULL_SIZE_PIXELS = 4096 * 4096  # an image of more is reduced while it is converted, so that it takes less memory
_REDUCED_SIDE = 512  # pixels: the shorter side of a reduced image is at least as long
_BAND_PIXELS = 2**20  # are converted at a time
_DARK_LEVEL = 64  # of 255: a largest value below it means that the values have at most 14 bits
_PHOTOMETRIC, _BITS = 262, 258  # TIFF tags
_DEEP_GRAY_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class UnsupportedColorError(Exception):
    """The values of the image have no agreed meaning; the message says what they are."""


@dataclass(frozen=True)
class _GrayScale:
    """Gray from 0 to `white` is scaled to 8 bits."""

    white: int
    note: str | None
    is_inverted: bool = False  # 0 is white


def to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Return the image in RGB, and how its gray was scaled if it had more than 8 bits.

    Raises UnsupportedColorError for gray that is negative, infinite or larger than 65535.
    """
    scale = _gray_scale(image) if image.mode in (*_DEEP_GRAY_MODES, "F") else None
    note = _dark_note(image) if scale is None else scale.note
    factor = _reduction(image)
    if factor == 1 and _is_rgb(image):
        return image, note
    rows = max(factor, _BAND_PIXELS // image.width // factor * factor)
    if rows >= image.height and factor == 1:
        return _convert(image, scale), note
    rgb = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_convert(band, scale).reduce(factor), (0, top // factor))
    return rgb, note


def rgb_bytes(image: Image.Image) -> int:
    """Return how many bytes `to_rgb` needs besides the image itself."""
    factor = _reduction(image)
    return 0 if factor == 1 and _is_rgb(image) else (4 * image.width + ROW_BYTES) * image.height // factor**2


def _reduction(image: Image.Image) -> int:
    """Return the factor by which the sides become smaller: 1 unless the image is huge."""
    return max(1, min(image.size) // _REDUCED_SIDE) if image.width * image.height > FULL_SIZE_PIXELS else 1


def _is_rgb(image: Image.Image) -> bool:
    return image.mode == "RGB" and "transparency" not in image.info


def mark_depth(image: Image.Image) -> None:
    """Add to `image.info` what loading loses: whether colors have 16 bits, and the largest value of a PNM's header."""
    tile = getattr(image, "tile", [])
    args = tile[0].args if tile else ()
    rawmode, *others = args if isinstance(args, tuple) and args else (args,)
    image.info["is_deep_color"] = ";16" in str(rawmode) and image.mode in ("RGB", "RGBA", "RGBX", "LA", "CMYK")
    if image.format == "PPM":
        maxval = others[0] if others else 65535 if ";16" in str(rawmode) else 255
        image.info["maxval"] = maxval
        image.info["is_deep_color"] = image.mode == "RGB" and maxval == 65535


def _dark_note(image: Image.Image) -> str | None:
    """Return a note for 16-bit colors that use few of their bits: Pillow reads the upper 8 bits."""
    if not image.info.get("is_deep_color"):
        return None
    bands = image.split()[: -1 if image.has_transparency_data else None]
    if max(cast(tuple[int, int], band.getextrema())[1] for band in bands) >= _DARK_LEVEL:
        return None
    return "16-bit color with small values was read as dark: save it with 8 bits per channel"


def load_scaled_pnm(image: Image.Image, data: bytes) -> Image.Image | None:
    """Return a binary PGM or PPM whose largest value is neither 255 nor 65535; None for any other image.

    Pillow scales these pixel by pixel in Python: a minute for a photo.
    """
    if not isinstance(image, PpmImagePlugin.PpmImageFile) or image.tile[0].codec_name != "ppm":
        return None
    _, maxval = cast(tuple[str, int], image.tile[0].args)
    offset, bands = image.tile[0].offset, 3 if image.mode == "RGB" else 1
    count = image.width * image.height * bands
    if (itemsize := 1 if maxval < 256 else 2) * count > len(data) - offset:
        raise ValueError("truncated")
    samples_N = np.frombuffer(data, np.uint8 if itemsize == 1 else ">u2", count, offset)
    levels = ((np.arange(maxval + 1) * 255 + maxval // 2) // maxval).astype(np.uint8)
    scaled_N = np.empty(count, np.uint8)
    for start in range(0, count, _BAND_PIXELS):
        part = slice(start, start + _BAND_PIXELS)
        scaled_N[part] = levels[np.minimum(samples_N[part], maxval)]
    scaled = Image.fromarray(scaled_N.reshape((image.height, image.width, *([3] if bands == 3 else []))))
    scaled.info = image.info
    return scaled


def _convert(image: Image.Image, scale: _GrayScale | None) -> Image.Image:
    if scale is not None:
        gray_HW = np.asarray(image)
        levels_HW = _scale_gray(gray_HW, scale.white)
        if scale.is_inverted:
            levels_HW = 255 - levels_HW
        if (transparent := image.info.get("transparency")) is not None:
            levels_HW[gray_HW == transparent] = BACKGROUND[0]
        return Image.fromarray(levels_HW).convert("RGB")
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image = image.convert("LA") if image.mode == "La" else image
        return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return cast(Image.Image, ImageCms.profileToProfile(image, *profiles, outputMode="RGB"))


def _scale_gray(gray_HW: NDArray[Any], white: int) -> NDArray[np.uint8]:
    if gray_HW.dtype.kind == "f":
        scaled_HW = np.rint(np.clip(gray_HW, 0, white) * (255 / white))
    else:
        scaled_HW = (np.asarray(gray_HW, np.int32) * 255 + white // 2) // white
    levels_HW: NDArray[np.uint8] = scaled_HW.astype(np.uint8)
    return levels_HW


def _gray_scale(image: Image.Image) -> _GrayScale:
    """Return the scale of an image by its largest value."""
    low, high = _extrema(image)
    if low < 0 or not high <= FLOAT_RANGES[-1]:
        raise UnsupportedColorError(f"gray values from {low:g} to {high:g}: scale them to 8 or 16 bits")
    is_inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0  # Pillow inverts only 8 bits
    if image.mode == "F":
        white = next(white for white in FLOAT_RANGES if high <= white)
        return _GrayScale(white, f"floating-point gray, read as 0 to {white} by the largest value", is_inverted)
    if image.info.get("maxval", 65535) != 65535:  # Pillow has scaled it by the largest value that the header allows
        return _GrayScale(65535, None)
    bits = _stored_bits(image) or next(bits for bits in DEPTHS if high < 2**bits)
    return _GrayScale(2**bits - 1, f"16-bit gray, read as {bits}-bit by the largest value", is_inverted)


def _extrema(image: Image.Image) -> tuple[float, float]:
    """Return the extrema of gray; Pillow's own ignore NaN, and it has none of big-endian values."""
    if image.mode in ("I;16", "I"):
        return cast(tuple[float, float], image.getextrema())
    gray_HW = np.asarray(image)
    return float(gray_HW.min()), float(gray_HW.max())


def _stored_bits(image: Image.Image) -> int | None:
    """Return the bits of a TIFF of 9 to 15 bits; None for other images."""
    (bits, *_) = getattr(image, "tag_v2", {}).get(_BITS, (16,))
    return bits if 8 < bits < 16 else None
