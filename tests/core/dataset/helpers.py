"""Small images and archives for the tests of the data sources."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

Tree = Mapping[str, bytes]


def image_bytes(
    color: int | tuple[int, ...] = (10, 20, 30), *, mode: str = "RGB", size: int = 32, file_format: str = "PNG"
) -> bytes:
    """An image file of one color."""
    return encode(Image.new(mode, (size, size), color), file_format)


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def class_tree(per_class: Mapping[str, int], suffix: str = ".png") -> dict[str, bytes]:
    """`{"train/cat": 2}` gives two images, each of its own color."""
    tree = {}
    for number, (folder, count) in enumerate(per_class.items()):
        for index in range(count):
            tree[f"{folder}/{index:03d}{suffix}"] = image_bytes((number, index, 7))
    return tree


def write_folder(root: Path, tree: Tree) -> Path:
    for name, data in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, tree: Tree) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, tree: Tree, mode: str = "w", *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in tree.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return path
