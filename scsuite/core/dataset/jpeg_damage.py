"""Find damage within the data of a JPEG, of which libjpeg only warns where Pillow cannot hear it.

In: an opened JPEG and where its data ends. Out: the loaded image, and a note or a CorruptImageError for damage.

A damaged code changes where all later codes begin, so in most cases too few or too many blocks are read from the data.
Too few: rows are missing when the data ends, and libjpeg would make them up. Too many: all rows are there before the
data ends. Not found: damage after which as many blocks follow as before, or before a restart marker, and damage in a
progressive JPEG; in these the markers alone are checked, by `image_structure`.
"""

import io

from PIL import ImageFile

from scsuite.core.dataset.image_checks import CorruptImageError
from scsuite.core.dataset.image_structure import JpegScan

DAMAGE_NOTE = "more data than its pixels need: a JPEG that may be damaged"
_PADDING_BYTES = 8  # at the end of the data, as some encoders write
_READ_AHEAD = b"\xff\x00" * 8  # libjpeg reads up to eight bytes that it does not need yet


def load_jpeg(image: ImageFile.ImageFile, data: bytes, scan: JpegScan) -> str | None:
    """Load a JPEG; return a note if its data is longer than its image. Raises CorruptImageError if it is shorter."""
    if not scan.is_plain:
        image.load()
        return None
    image.fp = file = _WatchedFile(data, scan.end)
    image.load()
    return DAMAGE_NOTE if file.rest else None


class _WatchedFile(io.BytesIO):
    """Gives a decoder, which stops at the last row, the last bytes of the data only when it has used the others."""

    def __init__(self, data: bytes, end: int) -> None:
        super().__init__(data)
        self.end = end - _PADDING_BYTES
        self.rest = data[self.end : end] + _READ_AHEAD

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes. Raises CorruptImageError after the last ones."""
        left = max(self.end - self.tell(), 0)
        chunk = super().read(left if size is None or size < 0 else min(size, left))
        if not chunk:
            chunk, self.rest = self.rest, b""
            if not chunk:
                raise CorruptImageError("a corrupt one (its image data ends too early)")
        return chunk
