"""Find the class and the split of each image from the names of files and folders; all functions are pure.

In: relative names ("train/cat/1.jpg"). Out: a `Layout` of indices into them, or an InputError with a fix.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset.split import format_names
from scsuite.core.errors import InputError

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
}
_MAX_EXAMPLES = 5  # names in a message

NameParts = tuple[str, ...]
LabelledFiles = list[tuple[int, int]]  # (index of the name, label), sorted by label and name


@dataclass(frozen=True)
class Layout:
    """Sorted class names and the files of each split. `test` is None if test images must be split off `train`."""

    class_names: tuple[str, ...]
    train: LabelledFiles
    test: LabelledFiles | None
    notes: tuple[str, ...]


def parse_layout(names: list[str], folders: set[str], non_images: list[str], where: str) -> Layout:
    """Find the classes of the images `names`, which lie among `folders` and the files `non_images`.

    Raises InputError if there are no images, fewer than two classes, an empty class or an image outside of any class,
    and if the classes of the training and the test images differ.
    """
    if not names:
        raise no_images_error(non_images, where)
    paths = {name: tuple(name.split("/")) for name in names}
    depth = _top_depth(list(paths.values()))
    folders_below = _folders_below(folders, non_images, paths[names[0]][:depth])
    top_folders = {path[depth] for path in paths.values() if len(path) > depth + 1}
    # A split's folder counts even if it is empty.
    top_folders |= {path[depth] for path in folders_below if len(path) == depth + 1 and _split_name(path[depth])}
    split_folders = _split_folders(top_folders, where)
    classes = {split: _group_by_class(names, paths, depth, top, where) for split, top in split_folders.items()}
    if "train" not in classes:
        classes = {"train": _group_by_class(names, paths, depth, None, where)}
        _check_not_empty(classes["train"], {path[depth] for path in folders_below if len(path) == depth + 1}, where)
    for split, top in split_folders.items():
        class_folders = {path[depth + 1] for path in folders_below if len(path) == depth + 2 and path[depth] == top}
        _check_not_empty(classes[split], class_folders, f"{where}: {top}")
    return _make_layout(names, classes, split_folders, where)


def _top_depth(paths: list[NameParts]) -> int:
    """Return the number of folders above the splits or classes, which all images share."""
    depth = 0
    while (
        all(len(path) >= depth + 3 for path in paths)
        and len({path[depth] for path in paths}) == 1
        and _split_name(paths[0][depth]) is None
    ):
        depth += 1
    return depth


def _split_name(folder: str) -> str | None:
    return next((split for split, names in _SPLIT_NAMES.items() if folder.lower() in names), None)


def _folders_below(folders: set[str], non_images: list[str], top: NameParts) -> set[NameParts]:
    """Return all folders below `top`, including those that only appear in the name of a file."""
    result: set[NameParts] = set()
    parents = {name.rpartition("/")[0] for name in non_images}
    for folder in folders | parents:
        parts = tuple(folder.split("/")) if folder else ()
        if parts[: len(top)] == top:
            result |= {parts[:end] for end in range(len(top) + 1, len(parts) + 1)}
    return result


def _split_folders(top_folders: set[str], where: str) -> dict[str, str]:
    """Return the folder of each split: train, and test or else val."""
    folders: dict[str, str] = {}
    for top in sorted(top_folders):
        split = _split_name(top)
        if split and split in folders:
            expected, found = f"one {split} folder", f"{folders[split]}, {top}"
            raise InputError("data", where, expected=expected, found=found, hint="Keep one of the two.")
        if split:
            folders[split] = top
    if folders and "train" not in folders:
        found = f"only {', '.join(sorted(folders.values()))}"
        hint = "Put the training images in train/CLASS/."
        raise InputError("data", where, expected="train/CLASS/* images", found=found, hint=hint)
    if "test" in folders:
        folders.pop("val", None)
    return {"test" if split == "val" else split: top for split, top in folders.items()}


def _group_by_class(
    names: list[str], paths: dict[str, NameParts], depth: int, top: str | None, where: str
) -> dict[str, list[int]]:
    """Return the images of each class below the folder `top`, or below the top if there are no split folders (None)."""
    level = depth if top is None else depth + 1
    classes: dict[str, list[int]] = {}
    outside = []
    for index, name in enumerate(names):
        path = paths[name]
        if top is not None and path[depth] != top:
            continue
        if len(path) < level + 2:
            outside.append(name)
        else:
            classes.setdefault(path[level], []).append(index)
    if outside:
        expected = "each image in the folder of its class"
        found = f"{len(outside):,} next to the class folders"
        hint = "Move them into class folders, as in train/CLASS/image.jpg, or remove them."
        raise InputError("data", f"{where}: {outside[0]}", expected=expected, found=found, hint=hint)
    return classes


def _check_not_empty(classes: dict[str, list[int]], folders: set[str], where: str) -> None:
    if empty := sorted(folders - set(classes)):
        hint = "Put PNG, JPEG, BMP or WebP images in it, or remove it."
        found = f"none in {format_names(empty, _MAX_EXAMPLES)}"
        raise InputError("data", where, expected="images in each class folder", found=found, hint=hint)


def _make_layout(
    names: list[str], classes: dict[str, dict[str, list[int]]], split_folders: dict[str, str], where: str
) -> Layout:
    class_names = sorted(classes["train"])
    if "test" in classes and set(class_names) != set(classes["test"]):
        raise _classes_differ_error(set(class_names), set(classes["test"]), split_folders, where)
    if len(class_names) < 2:
        hint = "Give a folder or an archive of train/CLASS/* images, or of CLASS/*."
        raise InputError("data", where, expected="at least 2 classes", found=f"only {class_names[0]}", hint=hint)
    splits = {
        split: [
            (index, label)
            for label, class_name in enumerate(class_names)
            for index in sorted(indices[class_name], key=names.__getitem__)
        ]
        for split, indices in classes.items()
    }
    used = {index for files in splits.values() for index, _ in files}
    notes = []
    if unused := [name for index, name in enumerate(names) if index not in used]:
        tops = " and ".join(f"{top}/" for _, top in sorted(split_folders.items(), reverse=True))
        notes.append(f"{len(unused):,} images outside {tops} were ignored (the first is {min(unused)})")
    return Layout(tuple(class_names), splits["train"], splits.get("test"), tuple(notes))


def drop_repeated_links(layout: Layout, names: Sequence[str], originals: Mapping[str, str], where: str) -> Layout:
    """Count an image once in its class, however many links lead to it.

    `originals` gives of each link the file that it leads to. Raises InputError for an image in two classes of a split.
    """
    if not originals:
        return layout
    dropped: list[str] = []

    def each_once(files: LabelledFiles) -> LabelledFiles:
        first: dict[str, tuple[int, int]] = {}
        for index, label in sorted(files, key=lambda file: names[file[0]] in originals):  # files before links
            name = names[index]
            previous = first.setdefault(originals.get(name, name), (index, label))
            if previous[1] != label:
                expected, found = "an image in one class", f"the same file in {names[previous[0]]}"
                hint = "Remove one of the two links."
                raise InputError("link", f"{where}: {name}", expected=expected, found=found, hint=hint)
            if previous[0] != index:
                dropped.append(name)
        kept = {index for index, _ in first.values()}
        return [file for file in files if file[0] in kept]

    train, test = each_once(layout.train), None if layout.test is None else each_once(layout.test)
    notes = list(layout.notes)
    if dropped:
        text = "links to images of the same class were not counted again"
        notes.append(f"{len(dropped):,} {text} (the first is {min(dropped)})")
    return replace(layout, train=train, test=test, notes=tuple(notes))


def _classes_differ_error(train: set[str], test: set[str], split_folders: dict[str, str], where: str) -> InputError:
    differences = [
        f"{format_names(sorted(only), _MAX_EXAMPLES)} only in {split_folders[split]}/"
        for split, only in (("train", train - test), ("test", test - train))
        if only
    ]
    differ_in_case = {name.lower() for name in train} == {name.lower() for name in test}
    hint = "Spell them in the same letter case." if differ_in_case else "Give both the same class folders."
    return InputError("data", where, expected="the same classes in both", found="; ".join(differences), hint=hint)


def no_images_error(non_images: list[str], where: str) -> InputError:
    """Return the error for a folder or an archive without images."""
    if "data_batch_1" in {name.rpartition("/")[2] for name in non_images}:
        expected, found = "images in class folders", "CIFAR-10's own files"
        hint = "Use --data cifar10 and --data-dir with the folder that has them."
        return InputError("data", where, expected=expected, found=found, hint=hint)
    found = f"none, and {len(non_images):,} other files ({min(non_images)}, ...)" if non_images else "none"
    hint = "Give a folder or an archive of train/CLASS/* images, or of CLASS/*."
    return InputError("data", where, expected="PNG, JPEG, BMP or WebP images", found=found, hint=hint)


def test_split_mask(
    files: tuple[str, ...], labels_N: NDArray[np.int64], class_names: tuple[str, ...], fraction: float, where: str
) -> NDArray[np.bool_]:
    """Return which images are the test images: `fraction` of each class, rounded, at least one and never all.

    The order of selection is a hash of the file's name, so it is the same for every seed, machine and version of
    numpy, and adding an image hardly changes it. Raises InputError for a class of a single image.
    """
    mask_N = np.zeros(len(labels_N), dtype=np.bool_)
    for label, name in enumerate(class_names):
        members = np.flatnonzero(labels_N == label)
        if len(members) < 2:
            hint = "Add images to it, or give test images in test/CLASS/ next to train/CLASS/."
            raise InputError("data", f"{where}: {name}", expected="at least 2 images in a class", found="1", hint=hint)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = sorted(members, key=lambda i: hashlib.sha256(files[i].encode("utf-8", "surrogateescape")).digest())
        mask_N[order[:count]] = True
    return mask_N
