"""Other data than a network's training data: all its images that lie in a folder named like a class of the network.

In: names of files, or all images of a source; what a checkpoint records of its training data. Out: a `Layout` or a
`RawDataset`. Splits do not matter here: `CLASS/*`, `test/CLASS/*` alone, `train/CLASS/*` and `test/CLASS/*` together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scsuite.core.config import DataConfig
from scsuite.core.dataset.folder_layout import LabelledFiles, Layout, parse_layout
from scsuite.core.dataset.split import RawDataset, Split, count_text, format_names
from scsuite.core.errors import InputError, did_you_mean
from scsuite.core.files import normalise_name


class TrainingData(NamedTuple):
    """What a checkpoint records of the data that its network was trained on."""

    class_names: tuple[str, ...]
    fingerprint: str
    test_split: float
    fit: str
    is_here: bool = False  # the data at hand has its content, decoded with another fit

    @classmethod
    def from_checkpoint(cls, metadata: Mapping[str, Any]) -> "TrainingData":
        """Return what the metadata of a checkpoint says."""
        data = metadata.get("data")
        fingerprint = str(data.get("fingerprint")) if isinstance(data, Mapping) else ""
        config = DataConfig.from_dict(metadata["config"])
        return cls(tuple(metadata["class_names"]), fingerprint, config.test_split, config.fit)


def match_classes(
    names: list[str], folders: set[str], non_images: list[str], where: str, *, class_names: tuple[str, ...]
) -> Layout:
    """Find the class of each image: the folder, at the level where most images are in folders of these names.

    Raises InputError if there are no images, and for an image next to the class folders or in one of another class.
    """
    if not names:
        return parse_layout(names, folders, non_images, where)  # raises
    labels = {normalise_name(name): label for label, name in enumerate(class_names)}
    paths = [tuple(normalise_name(name).split("/")) for name in names]
    num_matches = [
        sum(len(path) > level + 1 and path[level] in labels for path in paths) for level in range(max(map(len, paths)))
    ]
    if not max(num_matches):
        raise _no_class_error(paths, class_names, where)
    level = num_matches.index(max(num_matches))
    matched = [index for index, path in enumerate(paths) if len(path) > level + 1 and path[level] in labels]
    parents = {paths[index][:level] for index in matched}
    unmatched = sorted(set(range(len(names))) - set(matched), key=names.__getitem__)
    beside = [index for index in unmatched if paths[index][:level] in parents]
    if outside := [names[index] for index in beside if len(paths[index]) == level + 1]:
        raise _outside_error(outside, where)
    if beside:
        raise unknown_classes_error({paths[index][level] for index in beside}, class_names, where)
    notes = []
    if unmatched:  # for example a folder of images without labels next to train/ and test/
        first = names[unmatched[0]]
        one, many = "image outside class folders was ignored", "images outside class folders were ignored"
        notes.append(f"{count_text(len(unmatched), one, many)} (the first is {first})")
    files = sorted(((index, labels[paths[index][level]]) for index in matched), key=lambda f: (f[1], names[f[0]]))
    return Layout(class_names, files, None, tuple(notes))


def _no_class_error(paths: list[tuple[str, ...]], class_names: tuple[str, ...], where: str) -> InputError:
    if folders := {path[-2] for path in paths if len(path) > 1}:
        return unknown_classes_error(folders, class_names, where)
    return _outside_error(["/".join(path) for path in paths], where)


def unknown_classes_error(unknown: set[str], class_names: tuple[str, ...], where: str) -> InputError:
    """Return the error for folders whose names are no classes of the network."""
    names = sorted(unknown)
    is_case = {name.casefold() for name in names} <= {name.casefold() for name in class_names}
    similar = did_you_mean(names[0], class_names, "Evaluate on data with these classes.")
    return InputError(
        "classes", where, expected=f"only classes of the network ({format_names(class_names)})",
        found=format_names(names),
        hint="Spell them in the same letter case." if is_case else similar,
    )  # fmt: skip


def _outside_error(outside: list[str], where: str) -> InputError:
    return InputError(
        "data", f"{where}: {outside[0]}", expected="each image in a folder with the name of its class",
        found=f"{len(outside):,} outside" if len(outside) > 1 else "one outside",
        hint=f"Give the folder above, as in --data {Path(where).parent}, or move them into CLASS/ folders.",
    )  # fmt: skip


def split_as_in_training(raw: RawDataset, where: str) -> RawDataset | None:
    """Return the same images in the splits and under the labels of a training; None if a training would refuse them."""
    try:
        layout = parse_layout(list(raw.train.files), set(), [], where)
    except InputError:
        return None

    def select(files: LabelledFiles) -> Split:
        split = raw.train.select([index for index, _ in files])
        return Split(split.images_NHWC, np.array([label for _, label in files], np.int64), split.files)

    test = None if layout.test is None else select(layout.test)
    return RawDataset(layout.class_names, select(layout.train), test, raw.notes)


def merge_splits(raw: RawDataset) -> Split:
    """Return all images of a source as one split."""
    if raw.test is None:
        return raw.train
    train, test = raw.train, raw.test
    has_masks = train.masks_NHW is not None and test.masks_NHW is not None
    return Split(
        np.concatenate([train.images_NHWC, test.images_NHWC]), np.concatenate([train.labels_N, test.labels_N]),
        (*train.files, *test.files),
        np.concatenate([train.masks_NHW, test.masks_NHW]) if has_masks else None,
    )  # fmt: skip
