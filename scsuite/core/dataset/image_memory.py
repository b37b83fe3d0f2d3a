"""How much memory the decoding of an image takes, known from its header alone.

In: an image that Pillow opened and did not load yet, and the bytes of its file. Out: bytes.
"""

from PIL import Image, TiffImagePlugin

_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # of Pillow; others have 4
ROW_BYTES = 16  # of each row besides its pixels: a pointer, and padding
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH, _ORIENTATION = 278, 322, 323, 274  # TIFF tags


def decoding_bytes(image: Image.Image, data: bytes) -> int:
    """Return about how many bytes decoding needs; a JPEG is measured at the scale that `draft` has set."""
    pixels = image.width * image.height * _BYTES_PER_PIXEL.get(image.mode, 4) + ROW_BYTES * image.height
    if image.format in ("JPEG", "MPO"):
        return pixels + _coefficient_bytes(data)
    if image.format == "WEBP":
        return 2 * pixels  # Pillow keeps four copies for a moment; two are counted, so that 24 megapixels are read
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return pixels * (2 if image.tag_v2.get(_ORIENTATION, 1) != 1 else 1) + _block_bytes(image)
    tiles = getattr(image, "tile", [])
    if tiles and tiles[0].codec_name == "bmp_rle":
        return 3 * pixels  # decoded in Python, into a list of bytes that is copied twice
    return pixels


def _coefficient_bytes(data: bytes) -> int:
    """Return the size of the coefficients of a whole JPEG, which are kept if it comes in several scans; else 0."""
    frame = _read_frame(data)
    if frame is None:
        return 0
    width, height, samplings, is_in_scans = frame
    if not is_in_scans:
        return 0
    largest_h, largest_v = (max(values) for values in zip(*samplings, strict=True))
    return sum(2 * width * height * h * v // (largest_h * largest_v) for h, v in samplings)


def _read_frame(data: bytes) -> tuple[int, int, list[tuple[int, int]], bool] | None:
    """Return a JPEG's width, height, sampling factors, and whether it is in several scans; None if it has no scan.

    Segments are a marker, a length, and their content: ITU-T T.81, B.1.1.
    """
    frame: tuple[int, int, list[tuple[int, int]]] | None = None
    is_progressive, position = False, 2
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 9:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in (0x00, 0xFF, 0x01) or 0xD0 <= marker <= 0xD8:  # no segment follows
            position += 1
            continue
        body = data[position + 4 : position + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            is_progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
            samplings = [(body[i + 1] >> 4 or 1, body[i + 1] & 15 or 1) for i in range(6, len(body) - 2, 3)]
            frame = int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big"), samplings or [(1, 1)]
        if marker == 0xDA:
            return None if frame is None or not body else (*frame, is_progressive or body[0] < len(frame[2]))
        position += 2 + max(length, 2)
    return None


def _block_bytes(image: TiffImagePlugin.TiffImageFile) -> int:
    """Return the size of a strip or tile of a compressed TIFF, which libtiff decodes as a whole."""
    tags = image.tag_v2
    if not image.use_load_libtiff:
        return 0
    width = tags.get(_TILE_WIDTH, image.width)
    height = tags.get(_TILE_LENGTH, min(tags.get(_ROWS_PER_STRIP, image.height), image.height))
    bits = tags.get(258, (1,))
    return int(width) * int(height) * -(-sum(bits) // 8)
