"""Decode one image file to RGB, for a dataset to 32 x 32.

In: the bytes of an image of one of `FORMATS`, of any size and mode. Out: image_HWC, uint8 in [0, 255], H = W = 32.

The rules, in order: the content decides the format, not the file's name; of several frames or pages the first is
taken; a large JPEG is decoded at a fraction of its size; what would take more than `MAX_DECODING_BYTES` is refused; the
colors become RGB as `image_color` says; the EXIF orientation is applied; an antialiased bicubic filter makes 32 x 32 of
it, by `fit`: crop: of the center square, as wide as the shorter side; pad: of the whole image, its longer side 32, with
gray borders; stretch: of the whole image.
"""

import io
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from scsuite.core.dataset.file_kind import describe_bytes
from scsuite.core.dataset.image_checks import CorruptImageError, check_complete, check_header
from scsuite.core.dataset.image_color import UnsupportedColorError, load_scaled_pnm, mark_depth, rgb_bytes, to_rgb
from scsuite.core.dataset.image_memory import decoding_bytes
from scsuite.core.dataset.image_structure import check_exif, check_structure
from scsuite.core.dataset.jpeg_damage import load_jpeg
from scsuite.core.dataset.split import SIZE
from scsuite.core.errors import InputError, one_line
from scsuite.core.files import read_regular_file

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff",
        ".ppm", ".pgm", ".pbm", ".pnm",
    }
)  # fmt: skip
MAX_DECODING_BYTES = 256 * 2**20  # of one image, and of all that are decoded at a time
PAD_COLOR = (128, 128, 128)  # neutral: close to the mean of photographs, which normalisation makes 0
_DRAFT_SIZE = 4 * SIZE  # pixels; a large JPEG is decoded at 1/2, 1/4 or 1/8 while its sides stay at least this long
_NUM_THREADS = 2  # Pillow releases the GIL while it decodes
_SMALL_FILE_BYTES = 4096  # decoded without threads, which would wait for the GIL longer than they decode
_BATCH_SIZE = 64  # images that a thread takes at a time
_MAX_BATCH_BYTES = 2**22  # so photographs are taken a few at a time
_MAX_PENDING_BYTES = 2**26  # of the files that wait for a thread
_SMALL_IMAGE_BYTES = 2**20  # to decode; a lock would take longer than the image
_ORIENTATION_KEYS = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}  # where Pillow looks for EXIF
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip

__all__ = [
    "FORMATS", "SUFFIXES", "CorruptImageError", "DecodedImage", "corrupt_image_error", "decode_image", "decode_images",
    "padded_region", "read_image_32", "read_image_resized", "seen_region",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
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

    `seen_region` is the part of it that `read_image_32` returns. Raises InputError for the same files.
    """
    image = _read_image(path, max_side)
    image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    return np.asarray(image)


def convert_to_rgb_32(image: Image.Image) -> NDArray[np.uint8]:
    """Return a decoded image as a dataset would: image_HWC of 32 x 32. Raises CorruptImageError for its colors."""
    try:
        return np.asarray(_fit(to_rgb(image)[0], "crop"))
    except UnsupportedColorError as error:
        raise CorruptImageError(str(error)) from None


def _read_image(path: str | Path, min_side: int) -> Image.Image:
    data = read_regular_file(Path(path), "image")
    with _ignore_pillow_warnings():
        try:
            return _decode(data, min_side)[0]
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

    Raises CorruptImageError for anything but a complete image of a known format, and for one that is too large.
    """
    image, is_resized, note = _decode(data, _DRAFT_SIZE)
    cut_fraction = 1 - min(image.size) / max(image.size) if fit == "crop" else 0.0
    # Not by `asarray`: it takes 2 us longer, of the 50 us that a small image takes in all.
    image_HWC = np.frombuffer(_fit(image, fit).tobytes(), np.uint8).reshape(SIZE, SIZE, 3)
    return DecodedImage(image_HWC, is_resized, cut_fraction, note)


def _decode(data: bytes, min_side: int) -> tuple[Image.Image, bool, str | None]:
    """Return the image upright in RGB, whether it is not SIZE x SIZE, and a note about its gray levels.

    A large image may come reduced, a JPEG with sides of at least `min_side` pixels.
    """
    try:
        jpeg_scan = check_structure(data)
        image = _open_file(data)
        width, height = image.size
        is_resized = (width, height) != (SIZE, SIZE)
        check_header(image, data)
        if is_resized and image.format in ("JPEG", "MPO"):
            image.draft(None, (min_side, min_side))
        num_bytes = decoding_bytes(image, data) + rgb_bytes(image)
        if num_bytes > MAX_DECODING_BYTES:
            needs = f"needs {-(-num_bytes >> 20):,} MB to decode, over {MAX_DECODING_BYTES >> 20} MB"
            hint = f"save it as a {'baseline ' * (image.format in ('JPEG', 'MPO'))}JPEG, or make it smaller"
            raise CorruptImageError(f"one of {width} x {height} pixels that {needs}: {hint}")
        mark_depth(image)
        with _memory.reserve(num_bytes):
            image = load_scaled_pnm(image, data) or image
            damage = load_jpeg(image, data, jpeg_scan) if isinstance(image, JpegImageFile) and jpeg_scan else None
            image.load()
            check_complete(image, data)
            rgb, note = to_rgb(image)
        method = _transposition(image)
        return rgb if method is None else rgb.transpose(method), is_resized, note or damage
    except CorruptImageError:
        raise
    except UnidentifiedImageError:
        raise CorruptImageError(describe_bytes(data)) from None
    except UnsupportedColorError as error:
        raise CorruptImageError(str(error)) from None
    except Image.DecompressionBombError:
        raise CorruptImageError("an image of more than 178,956,970 pixels: make it smaller") from None
    except Exception as error:  # a decoder raises nearly anything on corrupt data
        raise CorruptImageError(f"a corrupt one ({one_line(error)})") from None


def _open_file(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        if not data.startswith(b"\xff\xd8"):
            raise
        image = JpegImageFile(io.BytesIO(data))  # decoded at an eighth of its size, it may be small
    return image


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """Return what turns an image upright by its EXIF, or None; Pillow turns a TIFF itself."""
    if image.format != "TIFF" and not _ORIENTATION_KEYS & image.info.keys():
        return None
    try:
        check_exif(image)
        return _TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except CorruptImageError:
        raise
    except Exception:  # unreadable EXIF does not say which way is up
        return None


def _fit(image: Image.Image, fit: str) -> Image.Image:
    if image.size == (SIZE, SIZE):
        return image
    if fit == "pad":
        left, top, right, bottom = padded_region(*image.size)
        padded = Image.new("RGB", (SIZE, SIZE), PAD_COLOR)
        padded.paste(image.resize((right - left, bottom - top), Image.Resampling.BICUBIC), (left, top))
        return padded
    if fit == "crop" and min(image.size) == SIZE:  # whole pixels, none of them resampled
        left, top = ((side - SIZE) // 2 for side in image.size)
        return image.crop((left, top, left + SIZE, top + SIZE))
    # One step for crop and resize: resizing a long thin image first would make it 32 x 16,000,000.
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=seen_region(*image.size, fit))


def seen_region(width: float, height: float, fit: str) -> tuple[float, float, float, float]:
    """Return the region of an image that the network sees: left, top, right and bottom, in its pixels."""
    if fit != "crop":
        return 0, 0, width, height
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def padded_region(width: int, height: int) -> tuple[int, int, int, int]:
    """Return what an image fills of the 32 x 32 pixels of fit pad: left, top, right and bottom."""
    fitted_width, fitted_height = (max(1, round(side * SIZE / max(width, height))) for side in (width, height))
    left, top = (SIZE - fitted_width) // 2, (SIZE - fitted_height) // 2
    return left, top, left + fitted_width, top + fitted_height


@contextmanager
def _ignore_pillow_warnings() -> Iterator[None]:
    """Hide Pillow's warnings about unusual files (size, palettes, EXIF): the serious ones are errors here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _MemoryBudget:
    """Lets threads decode at the same time while the memory that all of them need is within the limit."""

    def __init__(self, num_bytes: int) -> None:
        self._free, self._changed = num_bytes, threading.Condition()

    def reserve(self, num_bytes: int) -> AbstractContextManager[None]:
        """Wait until so much is free; it is at most the limit. Small images are not counted."""
        return nullcontext() if num_bytes < _SMALL_IMAGE_BYTES else self._reserve(num_bytes)

    @contextmanager
    def _reserve(self, num_bytes: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= num_bytes)
            self._free -= num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += num_bytes
                self._changed.notify_all()


_memory = _MemoryBudget(MAX_DECODING_BYTES)
Result = tuple[str, DecodedImage | CorruptImageError]


def decode_images(files: Iterable[tuple[str, bytes]], fit: str = "crop") -> Iterator[Result]:
    """Yield each name with its image or its error in the order given; only a few files are in memory at a time."""
    source = iter(files)
    pending: list[tuple[int, Future[list[Result]]]] = []
    with _ignore_pillow_warnings(), ThreadPoolExecutor(_NUM_THREADS) as pool:
        while batch := _next_batch(source):
            num_bytes = sum(len(data) for _, data in batch)
            if num_bytes < len(batch) * _SMALL_FILE_BYTES:
                for _, future in pending:
                    yield from future.result()
                pending.clear()
                yield from _decode_batch(batch, fit)
                continue
            pending.append((num_bytes, pool.submit(_decode_batch, batch, fit)))
            del batch
            while len(pending) > _NUM_THREADS or sum(num_bytes for num_bytes, _ in pending) > _MAX_PENDING_BYTES:
                yield from pending.pop(0)[1].result()
        for _, future in pending:
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
