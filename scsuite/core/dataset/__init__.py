"""Sources of images: CIFAR-10, a folder or an archive of pictures, generated shapes.

In: what `--data` names. Out: a `Dataset` of uint8 images_NHWC in [0, 255], H = W = 32, and labels_N.
"""

import difflib
import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scsuite.core.config import DATA_SOURCES, DataConfig
from scsuite.core.dataset import cache
from scsuite.core.dataset.base import (
    SIZE,
    Dataset,
    Decoded,
    Progress,
    Split,
    balanced_indices,
    split_holdout,
    shared_note,
)
from scsuite.core.errors import InputError

__all__ = ["SIZE", "Dataset", "Progress", "Split", "balanced_indices", "split_holdout", "load_dataset"]


def load_dataset(
    spec: str = "cifar10",
    *,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    test_split: float = 0.2,
    progress: Progress | None = None,
) -> Dataset:
    """The images that `spec` names: `cifar10`, `shapes`, or the path of a folder or an archive of pictures.

    Args:
        spec: A folder called like a keyword is given as ./cifar10.
        data_dir: Where CIFAR-10's files are or go; default the cache folder.
        cache_dir: Where decoded images are kept; default $SCSUITE_CACHE, else the user's cache folder.
        limit_train: At most so many training images, a class-balanced part, always the same.
        limit_test: The same for the test images.
        test_split: Share of each class held out where the pictures come without test images.
        progress: Called now and then with what is being done, how much is done, and of how much if that is known
            (bytes for "Fetching", images or files for the rest).

    Raises InputError for data that is missing or wrong, UsageError for a number out of range, OutputError where
    CIFAR-10 cannot be written.
    """
    # The configuration's own checks, so that Python callers meet the same bounds as the command line's.
    DataConfig(data=spec, limit_train=limit_train, limit_test=limit_test, test_split=test_split)
    folder = cache.cache_folder(cache_dir)
    report = progress or (lambda _text, _done, _total: None)
    if spec == "cifar10":
        name, (decoded, digest) = spec, _load_cifar10(folder, data_dir, report)
    elif spec == "shapes":
        name, (decoded, digest) = spec, _load_shapes(folder, report)
    else:
        path = Path(os.path.expanduser(spec))  # noqa: PTH111 - which leaves ~name alone where there is none
        _check_exists(path, spec)
        name = path.resolve().name
        decoded, digest = (_load_folder if path.is_dir() else _load_archive)(folder, path, report)
    return _finished(name, decoded, digest, test_split, spec).with_limits(limit_train, limit_test)


def _check_exists(path: Path, spec: str) -> None:
    try:
        found = os.path.lexists(path)
    except ValueError:  # a NUL in the name
        found = False
    if found:
        return
    near = difflib.get_close_matches(spec.lower().replace("-", ""), DATA_SOURCES, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else "Check the path."
    raise InputError("data", spec, expected=f"{', '.join(DATA_SOURCES)}, a folder or an archive", found="none", hint=hint)


def _load_cifar10(folder: Path | None, data_dir: str | None, report: Progress) -> tuple[Decoded, str]:
    from scsuite.core.dataset import cifar10

    place = Path(os.path.expanduser(data_dir)) if data_dir else folder  # noqa: PTH111 - as above
    if place is None:
        hint = "Say with --data-dir where CIFAR-10 is or goes."
        raise InputError("data", "cifar10", expected="a home folder to keep it in", found="none", hint=hint)
    return cache.load(folder, cifar10.cache_key(), lambda: cifar10.load(place, report))


def _load_shapes(folder: Path | None, report: Progress) -> tuple[Decoded, str]:
    from scsuite.core.dataset import shapes

    def build() -> Decoded:
        total = shapes.NUM_TRAIN + shapes.NUM_TEST
        report("Drawing shapes", 0, total)
        train = _named("train", *shapes.generate(shapes.NUM_TRAIN, seed=1))
        report("Drawing shapes", shapes.NUM_TRAIN, total)
        return Decoded(shapes.CLASS_NAMES, train, _named("test", *shapes.generate(shapes.NUM_TEST, seed=2)))

    source = cache.Source("shapes", "shapes", f"{shapes.VERSION} {shapes.NUM_TRAIN} {shapes.NUM_TEST}")
    return cache.load(folder, source, build)


def _named(
    name: str, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], masks_NHW: NDArray[np.bool_]
) -> Split:
    files = tuple(f"{name}/{index:05d}" for index in range(len(labels_N)))
    return Split(images_NHWC, labels_N, files, masks_NHW)


def _load_folder(folder: Path | None, path: Path, report: Progress) -> tuple[Decoded, str]:
    from scsuite.core.dataset.folder import list_folder

    listing = list_folder(path)
    source = cache.Source(path.resolve().name, os.path.realpath(path), listing.key)
    return cache.load(folder, source, lambda: listing.read(report))


def _load_archive(folder: Path | None, path: Path, report: Progress) -> tuple[Decoded, str]:
    from scsuite.core.dataset.folder import open_archive, read_archive

    file, digest = open_archive(path)
    with file:
        source = cache.Source(path.resolve().name.partition(".")[0], digest, digest)
        return cache.load(folder, source, lambda: read_archive(file, str(path), report))


def _finished(name: str, decoded: Decoded, digest: str, test_split: float, spec: str) -> Dataset:
    """Hold test images out where there are none; then the share is a part of the fingerprint too."""
    if decoded.test is not None:
        return Dataset(name, decoded.class_names, decoded.train, decoded.test, digest, decoded.notes)
    from scsuite.core.dataset.layout import held_out

    everything = decoded.train
    chosen_N = held_out(everything.files, everything.labels_N, decoded.class_names, test_split, spec)
    train, test = everything.select(np.flatnonzero(~chosen_N)), everything.select(np.flatnonzero(chosen_N))
    note = f"{len(test):,} of {len(everything):,} images, {test_split:g} of each class, were held out as test images"
    own = hashlib.sha256(f"{digest} {test_split!r}".encode()).hexdigest()
    return Dataset(name, decoded.class_names, train, test, own, (*decoded.notes, note, *shared_note(train, test)))
