"""The images of a page, inside it: figures as SVG where that is small, files of a run as they are or smaller.

In: matplotlib figures, PNG files. Out: data URIs, each of a limited size, so that a page stays under 3 MB.
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scsuite.core.errors import InputError
from scsuite.core.files import read_regular_file
from scsuite.report import figures
from scsuite.report.figures.style import render_figure

MAX_SVG_BYTES = 250_000  # a larger figure is embedded as PNG
MAX_BYTES = {  # of the files of a run, by their place on the page; a data URI is a third longer
    "lr_range": 250_000, "augmented": 300_000, "gradcam": 750_000, "misclassified": 400_000, "training": 250_000,
}  # fmt: skip
MAX_FILE_BYTES = 2**26
PNG_START = b"\x89PNG\r\n\x1a\n"
WIDTHS = (2240, 1600, 1280, 960, 640)  # pixels; tried until a file is small enough
MAX_HEIGHT = 12_000  # pixels
JPEG_QUALITY = 80


def vector(figure: Figure) -> str:
    """Return a figure as SVG, or as PNG if that would be large: a curve of very many steps."""
    content = render_figure(figure, ".svg")
    if len(content) <= MAX_SVG_BYTES:
        return _data_uri("image/svg+xml", content)
    return _data_uri("image/png", render_figure(figure, ".png"))


def bitmap(path: Path | None, max_bytes: int) -> str | None:
    """Return a PNG file, made smaller if it is larger than `max_bytes`; None if it is missing or damaged."""
    if path is None:
        return None
    try:
        content = read_regular_file(path, "figure", MAX_FILE_BYTES)
        if not content.startswith(PNG_START):
            return None
        if len(content) <= max_bytes:
            return _data_uri("image/png", content)
        return _data_uri("image/jpeg", _shrink(content, max_bytes))
    except (InputError, OSError, ValueError, SyntaxError):  # SyntaxError: what Pillow raises for a broken PNG
        return None


def confusion_image(evaluation: Mapping[str, Any]) -> str:
    """Return the confusion matrix of an evaluation's result as a figure."""
    view: Any = SimpleNamespace(
        class_names=tuple(row["name"] for row in evaluation["per_class"]),
        confusion_KK=np.array(evaluation["confusion_matrix"], dtype=np.int64),
        confusion_normalized_KK=np.array(evaluation["confusion_normalized"], dtype=np.float64),
    )
    return vector(figures.confusion(view))


def _shrink(content: bytes, max_bytes: int) -> bytes:
    """Return an image as JPEG of at most `max_bytes`, or the smallest that the widths give."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    for width in WIDTHS:
        copy = image.copy()
        copy.thumbnail((width, MAX_HEIGHT))
        encoded = io.BytesIO()
        copy.save(encoded, "JPEG", quality=JPEG_QUALITY, optimize=True)
        if encoded.tell() <= max_bytes:
            break
    return encoded.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
