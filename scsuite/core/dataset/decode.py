"""One picture file -> one RGB image of 32 x 32.

In: the bytes of a PNG, JPEG, BMP or WebP of any size and mode. Out: image_HWC, uint8 in [0, 255], H = W = 32, C = 3.

The rules, in order: the contents decide the format, not the file's name; of several frames the first; turned as its
EXIF says; 16-bit grey divided by 257; transparency laid on white; everything else as Pillow converts it to RGB; the
centre square (as wide as the shorter side) resized to 32 x 32 by an antialiased bicubic filter.
"""

import io
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from scsuite.core.dataset.base import SIZE
from scsuite.core.errors import InputError
from scsuite.core.files import read_regular_file

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp"})
PIXELS_MAX = 4096 * 4096  # width times height, looked at in the header
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
_DRAFT = 4 * SIZE  # pixels; a large JPEG is decoded at 1/2, 1/4 or 1/8 while its sides stay at least this long
_SCANS_MAX = 100  # of a JPEG; encoders write 10, and one has two or three pictures in it at times
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_THREADS = 2  # Pillow lets other threads run while it decodes; small pictures gain little, photographs much
_BATCH = 64  # pictures a thread takes at a time
_NAMED_FORMATS = {
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"%!PS": "an EPS",
    b"<svg": "an SVG",
    b"\0\0\1\0": "an ICO",
}


class BrokenPictureError(Exception):
    """These bytes are no picture that can be read; the text says what they are."""


def read_image_32(path: str | Path) -> NDArray[np.uint8]:
    """The picture at `path` as image_HWC, by the rules that a data set's pictures go by.

    Raises InputError for a file that is missing, broken or of another format.
    """
    data = read_regular_file(Path(path), "picture")
    with _quiet():
        try:
            return decode(data)[0]
        except BrokenPictureError as error:
            raise broken([(str(path), str(error))]) from None


def read_image_resized(path: str | Path, side: int) -> NDArray[np.uint8]:
    """The whole picture at `path` by the same rules, but its longer side at most `side` pixels and nothing cut off.

    Its centre square is what `read_image_32` gives. Raises InputError as that does.
    """
    data = read_regular_file(Path(path), "picture")
    with _quiet():
        try:
            picture, _ = _decoded(data, draft=side)
        except BrokenPictureError as error:
            raise broken([(str(path), str(error))]) from None
        picture.thumbnail((side, side), Image.Resampling.BICUBIC)
        return np.asarray(picture)


def broken(problems: list[tuple[str, str]]) -> InputError:
    """The error that names broken pictures: (where, what is wrong)."""
    others = "; ".join(f"{where}: {found}" for where, found in problems[1:])
    found = problems[0][1] + (f"; also {others}" if others else "")
    hint = "Replace or remove it." if len(problems) == 1 else "Replace or remove them."
    expected = f"a whole picture ({', '.join(FORMATS)})"
    return InputError("picture", problems[0][0], expected=expected, found=found, hint=hint)


def decode(data: bytes) -> tuple[NDArray[np.uint8], bool]:
    """image_HWC, and whether its size had to be changed.

    Raises BrokenPictureError for anything but one whole picture of a known format and at most `PIXELS_MAX` pixels.
    """
    picture, resized = _decoded(data, draft=_DRAFT)
    return np.asarray(_square(picture)), resized


def _decoded(data: bytes, draft: int) -> tuple[Image.Image, bool]:
    """The picture upright and in RGB, a large JPEG with sides of `draft` or more, and whether it is not SIZE x SIZE."""
    try:
        picture = _open(data)
        resized = picture.size != (SIZE, SIZE)
        if picture.format in ("JPEG", "MPO"):
            _check_scans(data)
        if resized and picture.format in ("JPEG", "MPO"):
            picture.draft(None, (draft, draft))
        picture.load()
        _check_end(picture, data)
        _turn_upright(picture)
        return _to_rgb(picture), resized
    except BrokenPictureError:
        raise
    except UnidentifiedImageError:
        raise BrokenPictureError(_kind(data)) from None
    except Image.DecompressionBombError:
        raise BrokenPictureError(_TOO_LARGE) from None
    except Exception as error:  # a decoder that meets broken data raises nearly anything
        text = " ".join(str(error).split())[:120]
        raise BrokenPictureError(f"a broken one ({text or type(error).__name__})") from None


_TOO_LARGE = f"more than {PIXELS_MAX:,} pixels"


def _kind(data: bytes) -> str:
    if not data:
        return "an empty file"
    names = (name for start, name in _NAMED_FORMATS.items() if data.startswith(start))
    return next(names, "none, or one cut in its header")


def _open(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    if picture.width * picture.height > PIXELS_MAX:
        raise BrokenPictureError(f"{picture.width} x {picture.height}, {_TOO_LARGE}")
    if picture.format == "PNG":
        picture.verify()  # checksums of all chunks and the end chunk, which decoding alone passes over
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    return picture


def _check_scans(data: bytes) -> None:
    """A progressive JPEG is decoded once for each of its scans: thousands of them would take minutes."""
    if (count := data.count(b"\xff\xda")) > _SCANS_MAX:
        raise BrokenPictureError(f"a JPEG of {count:,} scans")


def _check_end(picture: Image.Image, data: bytes) -> None:
    # libjpeg makes up a missing end; the one of an embedded preview may hide it from this search, never the reverse.
    ends = {"JPEG": data.find(b"\xff\xd9", data.find(b"\xff\xda")), "PNG": data.find(b"IEND\xaeB`\x82")}
    if ends.get(picture.format or "", 0) < 0:
        raise BrokenPictureError("a broken one (cut off at its end)")


def _turn_upright(picture: Image.Image) -> None:
    with suppress(Exception):  # EXIF that cannot be read says nothing about which way is up
        ImageOps.exif_transpose(picture, in_place=True)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode in _SIXTEEN_BIT:
        grey_HW = np.clip(np.asarray(picture, dtype=np.int32), 0, 65535)
        return Image.fromarray(((grey_HW + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


def _square(picture: Image.Image) -> Image.Image:
    if picture.size == (SIZE, SIZE):
        return picture
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    # One step for resize and crop: the same picture, without a long thin one ever growing to 32 x 16,000,000.
    box = (left, top, left + side, top + side)
    return picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow's remarks on odd files (size, palettes, EXIF) stay unsaid: what matters of them is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


Result = tuple[str, NDArray[np.uint8] | BrokenPictureError, bool]


def decode_all(pictures: Iterable[tuple[str, bytes]]) -> Iterator[Result]:
    """(name, image_HWC or what is wrong with it, resized), in the order given; few are held in memory at a time."""
    source = iter(pictures)
    waiting: list[Future[list[Result]]] = []
    with _quiet(), ThreadPoolExecutor(_THREADS) as pool:
        while batch := _next_batch(source):
            waiting.append(pool.submit(_decode_batch, batch))
            if len(waiting) > _THREADS:
                yield from waiting.pop(0).result()
        for future in waiting:
            yield from future.result()


def _next_batch(source: Iterator[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    batch: list[tuple[str, bytes]] = []
    num_bytes = 0
    for picture in islice(source, _BATCH):
        batch.append(picture)
        num_bytes += len(picture[1])
        if num_bytes > 2**22:  # 4 MB: photographs go a few at a time
            break
    return batch


def _decode_batch(batch: list[tuple[str, bytes]]) -> list[Result]:
    results: list[Result] = []
    for name, data in batch:
        try:
            results.append((name, *decode(data)))
        except BrokenPictureError as error:
            # A new one: the traceback of the old would keep the picture's bytes in memory.
            results.append((name, BrokenPictureError(str(error)), False))
    return results
