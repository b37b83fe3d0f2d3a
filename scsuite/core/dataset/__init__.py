"""Sources of images: CIFAR-10, a folder or an archive of images, generated shapes.

In: what `--data` names. Out: a `Dataset` of uint8 images_NHWC in [0, 255], H = W = 32, and labels_N.
"""

import contextlib
import hashlib
import os
import posixpath
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scsuite.core.config import DATA_SOURCES, DataConfig
from scsuite.core.dataset import cache
from scsuite.core.dataset.folder_layout import LayoutParser, parse_layout
from scsuite.core.dataset.labelled import TrainingData, match_classes, merge_splits, split_as_in_training
from scsuite.core.dataset.split import (
    SIZE,
    Dataset,
    Progress,
    RawDataset,
    Split,
    balanced_indices,
    split_holdout,
    train_test_overlap_note,
)
from scsuite.core.errors import InputError, did_you_mean
from scsuite.core.files import missing_path_error, path_exists

__all__ = ["SIZE", "Dataset", "Progress", "Split", "balanced_indices", "load_dataset", "split_holdout"]


def load_dataset(
    spec: str | os.PathLike[str] = "cifar10",
    *,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
    test_split: float = 0.2,
    fit: str | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load the images that `spec` names, from the cache if they have been decoded before.

    Args:
        spec: `cifar10`, `shapes`, or the path of a folder or an archive of `train/CLASS/*` and `test/CLASS/*` images,
            or of `CLASS/*` alone. Other usual names of train/ and test/ are found, and named in `notes`. A folder with
            the name of a keyword is given as ./cifar10.
        data_dir: The folder of CIFAR-10's files, which are downloaded into it if missing; default: the cache folder.
        cache_dir: The folder for decoded images; default: $SCSUITE_CACHE, or else the user's cache folder.
        limit_train: Maximum number of training images; they are balanced by class and always the same.
        limit_test: Maximum number of test images, chosen in the same way.
        test_split: The fraction of each class that is split off as test images if the source has none.
        fit: How an image of a folder or archive becomes 32 x 32. crop: its center square (default without a
            checkpoint); pad: the whole image with gray borders; stretch: the whole image, each side scaled by itself.
        checkpoint: The metadata of a checkpoint, to evaluate its network: the images get its labels, by class names.
            The training's data is split as in the training. Of other data, every labelled image is a test image.
        progress: A function that is called with an activity, the number done, and the total number or None: bytes
            while downloading, otherwise images or files.

    Returns:
        The training and test images, class names, and a fingerprint that does not depend on the limits.

    Raises:
        InputError: The data is missing or wrong.
        UsageError: A number is out of range.
        OutputError: CIFAR-10 cannot be written to `data_dir`.

    Example:
        >>> data = load_dataset("shapes", limit_train=1000, limit_test=200)
        >>> data.train.images_NHWC.shape, data.class_names[0]
        ((1000, 32, 32, 3), 'circle')
        >>> new_photos = load_dataset("new_photos", checkpoint=load_checkpoint("runs/RUN")[1]).test
    """
    trained = None if checkpoint is None else TrainingData.from_checkpoint(checkpoint)
    spec, fit = os.fspath(spec), fit or (trained.fit if trained else "crop")
    DataConfig(data=spec, limit_train=limit_train, limit_test=limit_test, test_split=test_split, fit=fit)  # checks
    folder, report = cache.cache_folder(cache_dir), progress or (lambda _activity, _done, _total: None)
    if trained is not None and fit != trained.fit:  # the fingerprint is that of the training's fit
        same_fit = load_dataset(spec, data_dir=data_dir, cache_dir=cache_dir, checkpoint=checkpoint, progress=progress)
        trained = trained._replace(is_here=len(same_fit.train) > 0)
    if spec == "cifar10":
        name, (raw, fingerprint) = spec, _load_cifar10(folder, data_dir, report)
    elif spec == "shapes":
        name, (raw, fingerprint) = spec, _load_shapes(folder, report)
    else:
        path = _existing_path(spec)
        name = path.resolve().name
        raw, fingerprint = (_load_folder if path.is_dir() else _load_archive)(folder, path, fit, report, trained)
    return _make_dataset(name, raw, fingerprint, trained or test_split, spec).with_limits(limit_train, limit_test)


def _existing_path(spec: str) -> Path:
    path = Path(os.path.expanduser(spec))  # noqa: PTH111 - Path.expanduser fails for an unknown ~name
    if not path_exists(path):
        hint = did_you_mean(spec.lower().replace("-", ""), DATA_SOURCES, "Check the path.", cutoff=0.5)
        raise missing_path_error("data", path, f"{', '.join(DATA_SOURCES)}, a folder or an archive", hint)
    return path


def _load_cifar10(folder: Path | None, data_dir: str | None, report: Progress) -> tuple[RawDataset, str]:
    from scsuite.core.dataset import cifar10

    data_folder = Path(os.path.expanduser(data_dir)) if data_dir else folder  # noqa: PTH111 - as above
    if data_folder is None:
        hint = "Give the folder of CIFAR-10 with --data-dir."
        raise InputError("data", "cifar10", expected="a home folder for its files", found="none", hint=hint)
    return cache.load_or_build(folder, cifar10.cache_key(), lambda: cifar10.load(data_folder, report))


def _load_shapes(folder: Path | None, report: Progress) -> tuple[RawDataset, str]:
    from scsuite.core.dataset import shapes

    def build() -> RawDataset:
        total = shapes.NUM_TRAIN + shapes.NUM_TEST
        report("Drawing shapes", 0, total)
        train = _draw_split("train", shapes.NUM_TRAIN, seed=1)
        report("Drawing shapes", shapes.NUM_TRAIN, total)
        return RawDataset(shapes.CLASS_NAMES, train, _draw_split("test", shapes.NUM_TEST, seed=2))

    key = cache.CacheKey("shapes", "shapes", f"{shapes.VERSION} {shapes.NUM_TRAIN} {shapes.NUM_TEST}")
    return cache.load_or_build(folder, key, build)


def _draw_split(name: str, num_images: int, seed: int) -> Split:
    from scsuite.core.dataset import shapes

    images_NHWC, labels_N, masks_NHW = shapes.generate(num_images, seed=seed)
    files = tuple(f"{name}/{index:05d}" for index in range(num_images))
    return Split(images_NHWC, labels_N, files, masks_NHW)


def _load_folder(
    folder: Path | None, path: Path, fit: str, report: Progress, trained: TrainingData | None
) -> tuple[RawDataset, str]:
    from scsuite.core.dataset.folder import list_folder

    listing = list_folder(path)
    suffix, parse = _layout_parser(trained)
    content = f"{listing.hash_contents()} {fit}{suffix}"
    key = cache.CacheKey(path.resolve().name, os.path.realpath(path) + suffix, content)
    return cache.load_or_build(folder, key, lambda: listing.read(fit, report, parse))


def _load_archive(
    folder: Path | None, path: Path, fit: str, report: Progress, trained: TrainingData | None
) -> tuple[RawDataset, str]:
    from scsuite.core.dataset.folder import open_archive, read_archive

    file, digest = open_archive(path)
    suffix, parse = _layout_parser(trained)
    with file:
        key = cache.CacheKey(path.resolve().name.partition(".")[0], digest + suffix, f"{digest} {fit}{suffix}")
        return cache.load_or_build(folder, key, lambda: read_archive(file, str(path), fit, report, parse))


def _layout_parser(trained: TrainingData | None) -> tuple[str, LayoutParser]:
    """Return how labels are found, and what tells its images apart in the cache."""
    if trained is None:
        return "", parse_layout
    suffix = hashlib.sha256(repr(trained.class_names).encode("utf-8", "surrogateescape")).hexdigest()
    return f" labelled by {suffix}", partial(match_classes, class_names=trained.class_names)


def _make_dataset(name: str, raw: RawDataset, fingerprint: str, test_split: float | TrainingData, spec: str) -> Dataset:
    """Make the dataset of a training, or the one to evaluate a trained network on.

    Without test images, some are split off; the fingerprint then includes which ones.
    """
    if isinstance(test_split, TrainingData):
        return _make_evaluation_data(name, raw, fingerprint, test_split, spec)
    if raw.test is not None:
        return Dataset(name, raw.class_names, raw.train, raw.test, fingerprint, raw.notes)
    from scsuite.core.dataset.folder_layout import test_split_mask

    images = raw.train
    is_test_N = test_split_mask(_below_top(images.files), images.labels_N, raw.class_names, test_split, spec)
    train, test = images.select(np.flatnonzero(~is_test_N)), images.select(np.flatnonzero(is_test_N))
    note = f"{len(test):,} of {len(images):,} images, {test_split:g} of each class, were held out as test images"
    notes = (*raw.notes, note, *train_test_overlap_note(train, test))
    # The names of files decide which images are held out, and are not part of the fingerprint of all images.
    split_fingerprint = hashlib.sha256(f"{fingerprint} {test_split!r} ".encode() + is_test_N.tobytes()).hexdigest()
    return Dataset(name, raw.class_names, train, test, split_fingerprint, notes)


def _below_top(files: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names below the folders that all files share: an archive may have one more than its folder."""
    top = posixpath.commonpath([min(files), max(files)])
    return tuple(name[len(top) :].lstrip("/") for name in files)


def _make_evaluation_data(name: str, raw: RawDataset, fingerprint: str, trained: TrainingData, spec: str) -> Dataset:
    """Make the dataset that a network is evaluated on: the training's own, or all images of another as test images."""
    own = raw if raw.test is not None else split_as_in_training(raw, spec)
    if own is not None:
        with contextlib.suppress(InputError):  # a class of a single image, which no training has
            own_fingerprint = fingerprint if own is raw else cache.fingerprint(own)
            data = _make_dataset(name, own, own_fingerprint, trained.test_split, spec)
            if trained.is_here or data.fingerprint == trained.fingerprint:
                return data.relabelled(trained.class_names, spec)
    images = merge_splits(raw)
    data = Dataset(name, raw.class_names, images.select([]), images, fingerprint, raw.notes)
    return data.relabelled(trained.class_names, spec)
