"""Find the class and the split of each image from the names of files and folders; all functions are pure.

In: relative names ("train/cat/1.jpg"). Out: a `Layout` of indices into them, or an InputError with a fix.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset.split import count_text, format_names
from scsuite.core.dataset.split_folders import TEST_SPLITS, SplitFolders, find_splits
from scsuite.core.errors import InputError
from scsuite.core.files import normalise_name

_ANNOTATIONS = frozenset({"labels", "label", "annotations", "annotation", "masks", "mask", "xmls"})
_MAX_EXAMPLES = 5  # names in a message

NameParts = tuple[str, ...]
LayoutParser = Callable[[list[str], set[str], list[str], str], "Layout"]  # as parse_layout
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

    Raises InputError if there are no images, fewer than two classes, an empty class, an image outside of any class or
    a class of test images without training images, and if the folders of the splits cannot be told apart.
    """
    if not names:
        others = count_text(len(non_images), "other file", "other files")
        more = ", ..." * (len(non_images) > 1)
        found = f"none, and {others} ({min(non_images)}{more})" if non_images else "none"
        raise no_images_error(non_images, found, where)
    paths = {name: tuple(name.split("/")) for name in names}
    all_folders = _all_folders(folders, non_images)
    splits = find_splits(paths.values(), all_folders, where)
    notes = []
    if splits.is_transposed:
        depth = len(splits.top)
        notes.append(f"the folders in each class were read as its splits, as in {names[0]}")
        paths = {name: (*splits.top, path[depth + 1], path[depth], *path[depth + 2 :]) for name, path in paths.items()}
        splits, all_folders = find_splits(paths.values(), [], where), set()
    split_folders = dict(splits.folders) or {"train": splits.top}
    classes = {split: _group_by_class(names, paths, folder, where) for split, folder in split_folders.items()}
    class_names = sort_class_names(classes["train"])
    _check_classes(class_names, all_folders, split_folders["train"], where)
    test = next((split for split in TEST_SPLITS if split in classes), "test")
    labelled = {
        split: _label_files(names, classes[split], class_names) for split in ("train", test) if split in classes
    }
    used = {index for files in labelled.values() for index, _ in files}
    notes += _split_notes(splits, test) + _unused_note(names, used, splits, test)
    if test in classes:
        _check_known(classes[test], class_names, split_folders, test, where)
        if absent := [name for name in class_names if name not in classes[test]]:
            listed = format_names(absent, _MAX_EXAMPLES)
            notes.append(f"there are no test images of {len(absent)} of {len(class_names)} classes: {listed}")
    return Layout(tuple(class_names), labelled["train"], labelled.get(test), tuple(notes))


def sort_class_names(names: Iterable[str]) -> list[str]:
    """Return class names in the order of their labels: as numbers if all are integers, otherwise as texts."""
    names = list(names)
    if all(name.isascii() and name.removeprefix("-").isdigit() and len(name) < 20 for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _all_folders(folders: set[str], non_images: list[str]) -> set[NameParts]:
    """Return all folders, including those that only appear in the name of a file that is no image."""
    result: set[NameParts] = set()
    for folder in folders | {name.rpartition("/")[0] for name in non_images}:
        parts = tuple(folder.split("/")) if folder else ()
        result |= {parts[:end] for end in range(1, len(parts) + 1)}
    return result


def _group_by_class(
    names: list[str], paths: Mapping[str, NameParts], folder: NameParts, where: str
) -> dict[str, list[int]]:
    """Return the images of each class folder in `folder`."""
    level = len(folder)
    classes: dict[str, list[int]] = {}
    outside = []
    for index, name in enumerate(names):
        path = paths[name]
        if path[:level] != folder:
            continue
        if len(path) < level + 2:
            outside.append(name)
        else:
            classes.setdefault(path[level], []).append(index)
    if outside:
        expected = "each image in the folder of its class"
        found = f"{len(outside):,} next to the class folders" if classes else f"{len(outside):,} without class folders"
        hint = "Move them into class folders, as in train/CLASS/image.jpg, or remove them."
        raise InputError("data", f"{where}: {outside[0]}", expected=expected, found=found, hint=hint)
    normalised: dict[str, list[int]] = {}
    for class_name, indices in sorted(classes.items()):
        normalised.setdefault(normalise_name(class_name), []).extend(indices)
    return normalised


def _check_classes(class_names: list[str], folders: set[NameParts], train: NameParts, where: str) -> None:
    """Refuse a class folder of the training images without images, and less than two classes."""
    siblings = {normalise_name(path[-1]) for path in folders if path[:-1] == train}
    empty = sorted(siblings - set(class_names))
    if len(class_names) == 1 and (others := [name for name in empty if name.lower() in _ANNOTATIONS]):
        found = f"{class_names[0]}/ and {others[0]}/, as for object detection or segmentation"
        hint = "Put the images of each class into a folder of their own."
        raise InputError("data", where, expected="a folder for each class", found=found, hint=hint)
    if empty:
        hint = "Put images in it, or remove it."
        found = f"none in {format_names(empty, _MAX_EXAMPLES)}"
        place = ": ".join([where, "/".join(train)]) if train else where
        raise InputError("data", place, expected="images in each class folder", found=found, hint=hint)
    if len(class_names) < 2:
        hint = "Give a folder or an archive of train/CLASS/* images, or of CLASS/*."
        raise InputError("data", where, expected="at least 2 classes", found=f"only {class_names[0]}", hint=hint)


def _label_files(names: list[str], classes: dict[str, list[int]], class_names: list[str]) -> LabelledFiles:
    return [
        (index, label)
        for label, class_name in enumerate(class_names)
        for index in sorted(classes.get(class_name, []), key=names.__getitem__)
    ]


def _check_known(
    classes: Iterable[str], class_names: list[str], split_folders: Mapping[str, NameParts], test: str, where: str
) -> None:
    """Refuse a class of test images without training images."""
    if not (unknown := sort_class_names(set(classes) - set(class_names))):
        return
    is_case = {name.lower() for name in unknown} <= {name.lower() for name in class_names}
    found = f"{format_names(unknown, _MAX_EXAMPLES)} only in {'/'.join(split_folders[test])}/"
    otherwise = f"Put training images of it in {'/'.join(split_folders['train'])}/, or remove it."
    hint = "Spell them in the same letter case." if is_case else otherwise
    raise InputError("data", where, expected="training images of each class", found=found, hint=hint)


def _split_notes(splits: SplitFolders, test: str) -> list[str]:
    """Say which folders are the splits, unless they are train/ and test/."""
    folders = {split: "/".join(path[len(splits.top) :]) for split, path in splits.folders.items()}
    if splits.folders and (folders["train"] != "train" or folders.get(test, "test") != "test"):
        test_text = f", {folders[test]}/ as test images" if test in folders else ""
        return [f"{folders['train']}/ was read as training images{test_text}"]
    return []


def _unused_note(names: list[str], used: set[int], splits: SplitFolders, test: str) -> list[str]:
    if not (unused := [name for index, name in enumerate(names) if index not in used]):
        return []
    folders = [f"{'/'.join(splits.folders[split])}/" for split in ("train", test) if split in splits.folders]
    where = " and ".join(folders)
    text = count_text(len(unused), f"image outside {where} was ignored", f"images outside {where} were ignored")
    return [f"{text} (the first is {min(unused)})"]


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
        one = "link to an image of the same class was not counted again"
        text = count_text(len(dropped), one, "links to images of the same class were not counted again")
        notes.append(f"{text} (the first is {min(dropped)})")
    return replace(layout, train=train, test=test, notes=tuple(notes))


def no_images_error(non_images: Sequence[str], found: str, where: str) -> InputError:
    """Return the error for a folder or an archive without images."""
    if "data_batch_1" in {name.rpartition("/")[2] for name in non_images}:
        expected, found = "images in class folders", "CIFAR-10's own files"
        hint = "Use --data cifar10 and --data-dir with the folder that has them."
        return InputError("data", where, expected=expected, found=found, hint=hint)
    hint = "Give a folder or an archive of train/CLASS/* images, or of CLASS/*."
    return InputError("data", where, expected="images, such as PNG or JPEG", found=found, hint=hint)


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
