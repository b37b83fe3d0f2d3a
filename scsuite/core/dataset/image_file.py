"""Decode one image file to RGB, for a dataset to 32 x 32.

In: the bytes of a PNG, JPEG, BMP or WebP of any size and mode. Out: image_HWC, uint8 in [0, 255], H = W = 32, C = 3.

The rules, in order: the content decides the format, not the file's name; of several frames the first is taken; the
EXIF orientation is applied; 16-bit gray is divided by 257; transparency is composited on white; everything else is
converted to RGB by Pillow; an antialiased bicubic filter makes 32 x 32 of it, by `fit`: crop: of the center square, as
wide as the shorter side; pad: of the whole image, its longer side 32, with gray borders; stretch: of the whole image.
"""

import io
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from scsuite.core.dataset.split import SIZE
from scsuite.core.errors import InputError, one_line
from scsuite.core.files import read_regular_file

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp"})
MAX_PIXELS = 4096 * 4096  # width times height, as the header has them
BACKGROUND = (255, 255, 255)  # behind transparent pixels
PAD_COLOR = (128, 128, 128)  # neutral: close to the mean of photographs, which normalisation makes 0
_DRAFT_SIZE = 4 * SIZE  # pixels; a large JPEG is decoded at 1/2, 1/4 or 1/8 while its sides stay at least this long
_MAX_SCANS = 100  # of a JPEG; encoders write 10, and a file may have two or three images in it
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_NUM_THREADS = 2  # Pillow releases the GIL while it decodes: little gain for small images, much for photographs
_BATCH_SIZE = 64  # images that a thread takes at a time
_MAX_BATCH_BYTES = 2**22  # so photographs are taken a few at a time
_TOO_LARGE = f"more than {MAX_PIXELS:,} pixels"
_OTHER_FORMATS = {
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"%!PS": "an EPS",
    b"<svg": "an SVG",
    b"\0\0\1\0": "an ICO",
}


class CorruptImageError(Exception):
    """The bytes are not a readable image; the message says what they are."""


@dataclass(frozen=True)
class DecodedImage:
    """An image of 32 x 32, and what was done to it: the fraction of its area that was cut away, other changes."""

    image_HWC: NDArray[np.uint8]
    is_resized: bool = False
    cut_fraction: float = 0.0
    note: str | None = None


def read_image_32(path: str | Path, fit: str = "crop") -> NDArray[np.uint8]:
    """Read the image at `path` as a dataset would: image_HWC of 32 x 32.

    Raises InputError for a file that is missing, corrupt or of another format.
    """
    return np.asarray(_fit(_read_image(path, _DRAFT_SIZE), fit))


def read_image_resized(path: str | Path, max_side: int) -> NDArray[np.uint8]:
    """Read the image at `path` without cropping it, its longer side reduced to `max_side` pixels.

    Its center square is what `read_image_32` returns. Raises InputError for the same files.
    """
    image = _read_image(path, max_side)
    image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _read_image(path: str | Path, min_side: int) -> Image.Image:
    data = read_regular_file(Path(path), "image")
    with _ignore_pillow_warnings():
        try:
            return _open_image(data, min_side)[0]
        except CorruptImageError as error:
            raise corrupt_image_error([(str(path), str(error))]) from None


def corrupt_image_error(problems: list[tuple[str, str]]) -> InputError:
    """Return the error that names corrupt images, given as (where, what is wrong)."""
    others = "; ".join(f"{where}: {problem}" for where, problem in problems[1:])
    found = problems[0][1] + (f"; also {others}" if others else "")
    hint = "Replace or remove it." if len(problems) == 1 else "Replace or remove them."
    expected = f"a complete image ({', '.join(FORMATS)})"
    return InputError("image", problems[0][0], expected=expected, found=found, hint=hint)


def decode_image(data: bytes, fit: str = "crop") -> DecodedImage:
    """Decode the bytes of an image file; `fit` is one of config.FITS.

    Raises CorruptImageError for anything but a complete image of a known format and at most `MAX_PIXELS` pixels.
    """
    image, is_resized = _open_image(data, min_side=_DRAFT_SIZE)
    cut_fraction = 1 - min(image.size) / max(image.size) if fit == "crop" else 0.0
    return DecodedImage(np.asarray(_fit(image, fit)), is_resized, cut_fraction)


def _open_image(data: bytes, min_side: int) -> tuple[Image.Image, bool]:
    """Return the image upright in RGB, and whether it is not SIZE x SIZE.

    A large JPEG may come reduced, with sides of at least `min_side` pixels.
    """
    try:
        image = _open_file(data)
        is_resized = image.size != (SIZE, SIZE)
        if image.format in ("JPEG", "MPO"):
            _check_scans(data)
        if is_resized and image.format in ("JPEG", "MPO"):
            image.draft(None, (min_side, min_side))
        image.load()
        _check_end(image, data)
        _apply_exif(image)
        return _to_rgb(image), is_resized
    except CorruptImageError:
        raise
    except UnidentifiedImageError:
        raise CorruptImageError(_describe(data)) from None
    except Image.DecompressionBombError:
        raise CorruptImageError(_TOO_LARGE) from None
    except Exception as error:  # a decoder raises nearly anything on corrupt data
        raise CorruptImageError(f"a corrupt one ({one_line(error)})") from None


def _describe(data: bytes) -> str:
    if not data:
        return "an empty file"
    names = (name for start, name in _OTHER_FORMATS.items() if data.startswith(start))
    return next(names, "no image, or a truncated header")


def _open_file(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise CorruptImageError(f"{image.width} x {image.height}, {_TOO_LARGE}")
    if image.format == "PNG":
        image.verify()  # the checksums of all chunks and the end chunk, which decoding alone ignores
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    return image


def _check_scans(data: bytes) -> None:
    """Refuse a progressive JPEG of thousands of scans: each is a pass over the image, so it would take minutes."""
    if (count := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise CorruptImageError(f"a JPEG of {count:,} scans")


def _check_end(image: Image.Image, data: bytes) -> None:
    # libjpeg invents a missing end. The end of an embedded preview may hide that from this search, never the reverse.
    ends = {"JPEG": data.find(b"\xff\xd9", data.find(b"\xff\xda")), "PNG": data.find(b"IEND\xaeB`\x82")}
    if ends.get(image.format or "", 0) < 0:
        raise CorruptImageError("a corrupt one (truncated)")


def _apply_exif(image: Image.Image) -> None:
    with suppress(Exception):  # unreadable EXIF does not say which way is up
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _SIXTEEN_BIT_MODES:
        gray_HW = np.clip(np.asarray(image, dtype=np.int32), 0, 65535)
        return Image.fromarray(((gray_HW + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _fit(image: Image.Image, fit: str) -> Image.Image:
    if image.size == (SIZE, SIZE):
        return image
    if fit == "pad":
        scale = SIZE / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        padded = Image.new("RGB", (SIZE, SIZE), PAD_COLOR)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        padded.paste(resized, ((SIZE - width) // 2, (SIZE - height) // 2))
        return padded
    # One step for crop and resize: resizing a long thin image first would make it 32 x 16,000,000.
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=seen_region(*image.size, fit))


def seen_region(width: float, height: float, fit: str) -> tuple[float, float, float, float]:
    """Return the region of an image that the network sees: left, top, right and bottom, in its pixels."""
    if fit != "crop":
        return 0, 0, width, height
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


@contextmanager
def _ignore_pillow_warnings() -> Iterator[None]:
    """Hide Pillow's warnings about unusual files (size, palettes, EXIF): the serious ones are errors here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


Result = tuple[str, DecodedImage | CorruptImageError]


def decode_images(files: Iterable[tuple[str, bytes]], fit: str = "crop") -> Iterator[Result]:
    """Yield each name with its image or its error in the order given; only a few files are in memory at a time."""
    source = iter(files)
    pending: list[Future[list[Result]]] = []
    with _ignore_pillow_warnings(), ThreadPoolExecutor(_NUM_THREADS) as pool:
        while batch := _next_batch(source):
            pending.append(pool.submit(_decode_batch, batch, fit))
            if len(pending) > _NUM_THREADS:
                yield from pending.pop(0).result()
        for future in pending:
            yield from future.result()


def _next_batch(source: Iterator[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    batch: list[tuple[str, bytes]] = []
    num_bytes = 0
    for name, data in islice(source, _BATCH_SIZE):
        batch.append((name, data))
        num_bytes += len(data)
        if num_bytes > _MAX_BATCH_BYTES:
            break
    return batch


def _decode_batch(batch: list[tuple[str, bytes]], fit: str) -> list[Result]:
    results: list[Result] = []
    for name, data in batch:
        try:
            results.append((name, decode_image(data, fit)))
        except CorruptImageError as error:
            # A new error: the traceback of the first one would keep the file's bytes in memory.
            results.append((name, CorruptImageError(str(error))))
    return results
