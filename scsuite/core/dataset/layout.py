"""Which picture belongs to which class and split, from names alone; pure functions.

In: relative names ("train/cat/1.jpg"). Out: a `Layout` of indices into them, or an InputError with the nearest fix.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scsuite.core.errors import InputError

_TRAIN = ("train", "training")
_TEST = ("test", "testing")
_VAL = ("val", "valid", "validation")
_LISTED = 5  # names given as examples in a message

Part = list[tuple[int, int]]  # (index of the picture, label), sorted by label and name


@dataclass(frozen=True)
class Layout:
    """Sorted class names and each split's pictures; `test` None: a part of `train` is to be held out."""

    class_names: tuple[str, ...]
    train: Part
    test: Part | None
    notes: tuple[str, ...]


def arrange(names: list[str], folders: set[str], others: list[str], where: str) -> Layout:
    """Find the classes of the pictures `names`, among `folders` and `others` (files that are no pictures).

    Raises InputError where there are no pictures, no classes or one, an empty class, a picture outside any class, or
    where training and test classes differ.
    """
    if not names:
        raise _no_pictures(others, where)
    paths = {name: tuple(name.split("/")) for name in names}
    depth = _top_depth(list(paths.values()))
    below_top = _folders_at(folders, others, paths[names[0]][:depth])
    tops = {path[depth] for path in paths.values() if len(path) > depth + 1}
    tops |= {
        path[depth] for path in below_top if len(path) == depth + 1 and _role(path[depth])
    }  # an empty test/ is one too
    roles = _roles(tops, where)
    groups = {role: _classes(names, paths, depth, top, where) for role, top in roles.items()}
    if "train" not in groups:
        groups = {"train": _classes(names, paths, depth, None, where)}
        _check_empty(groups["train"], {path[depth] for path in below_top if len(path) == depth + 1}, where)
    for role, top in roles.items():
        below = {path[depth + 1] for path in below_top if len(path) == depth + 2 and path[depth] == top}
        _check_empty(groups[role], below, f"{where}: {top}")
    return _layout(names, groups, roles, where)


def _top_depth(paths: list[tuple[str, ...]]) -> int:
    """How many folders all pictures share above the splits or classes."""
    depth = 0
    while (
        all(len(path) >= depth + 3 for path in paths)
        and len({path[depth] for path in paths}) == 1
        and _role(paths[0][depth]) is None
    ):
        depth += 1
    return depth


def _role(folder: str) -> str | None:
    known = {"train": _TRAIN, "test": _TEST, "val": _VAL}
    return next((role for role, words in known.items() if folder.lower() in words), None)


def _folders_at(folders: set[str], others: list[str], top: tuple[str, ...]) -> set[tuple[str, ...]]:
    """All folders below `top`, those too that only a file's name tells of."""
    found: set[tuple[str, ...]] = set()
    parents = {name.rpartition("/")[0] for name in others}
    for folder in folders | parents:
        parts = tuple(folder.split("/")) if folder else ()
        found |= {parts[:end] for end in range(len(top) + 1, len(parts) + 1) if parts[: len(top)] == top}
    return found


def _roles(tops: set[str], where: str) -> dict[str, str]:
    """The folders that are splits: train, and test or else val."""
    roles: dict[str, str] = {}
    for top in sorted(tops):
        role = _role(top)
        if role and role in roles:
            hint = "Keep one of the two."
            raise InputError("data", where, expected=f"one {role} folder", found=f"{roles[role]}, {top}", hint=hint)
        if role:
            roles[role] = top
    if roles and "train" not in roles:
        found = f"{', '.join(sorted(roles.values()))} alone"
        hint = "Put the training images in train/CLASS/."
        raise InputError("data", where, expected="train/CLASS/* images", found=found, hint=hint)
    if "test" in roles:
        roles.pop("val", None)
    return {"test" if role == "val" else role: top for role, top in roles.items()}


def _classes(
    names: list[str], paths: dict[str, tuple[str, ...]], depth: int, top: str | None, where: str
) -> dict[str, list[int]]:
    """The pictures of each class, below the folder `top` or, for None, at the top itself."""
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
        found = f"{len(outside):,} beside the class folders"
        hint = "Move them into class folders, as in train/CLASS/image.jpg, or away."
        raise InputError("data", f"{where}: {outside[0]}", expected=expected, found=found, hint=hint)
    return classes


def _check_empty(classes: dict[str, list[int]], folders: set[str], where: str) -> None:
    if empty := sorted(folders - set(classes)):
        hint = "Put PNG, JPEG, BMP or WebP images in it, or remove it."
        found = f"none in {_some(empty)}"
        raise InputError("data", where, expected="images in each class folder", found=found, hint=hint)


def _layout(names: list[str], groups: dict[str, dict[str, list[int]]], roles: dict[str, str], where: str) -> Layout:
    class_names = sorted(groups["train"])
    if "test" in groups and set(class_names) != set(groups["test"]):
        raise _classes_differ(set(class_names), set(groups["test"]), roles, where)
    if len(class_names) < 2:
        hint = "Give a folder or an archive of train/CLASS/* images, or of CLASS/*."
        raise InputError("data", where, expected="at least 2 classes", found=f"only {class_names[0]}", hint=hint)
    parts = {
        role: [
            (i, label) for label, name in enumerate(class_names) for i in sorted(classes[name], key=names.__getitem__)
        ]
        for role, classes in groups.items()
    }
    used = {index for part in parts.values() for index, _ in part}
    notes = []
    if left := [name for index, name in enumerate(names) if index not in used]:
        read = " and ".join(f"{top}/" for _, top in sorted(roles.items(), reverse=True))
        notes.append(f"{len(left):,} images outside {read} were left out (the first is {min(left)})")
    return Layout(tuple(class_names), parts["train"], parts.get("test"), tuple(notes))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _classes_differ(train: set[str], test: set[str], roles: dict[str, str], where: str) -> InputError:
    sides = [
        f"{_some(sorted(only))} only in {roles[role]}/"
        for role, only in (("train", train - test), ("test", test - train))
        if only
    ]
    same_letters = {name.lower() for name in train} == {name.lower() for name in test}
    hint = "Spell them in the same letter case." if same_letters else "Give both the same class folders."
    return InputError("data", where, expected="the same classes in both", found="; ".join(sides), hint=hint)


def _no_pictures(others: list[str], where: str) -> InputError:
    bases = {name.rpartition("/")[2] for name in others}
    if "data_batch_1" in bases:
        expected, found = "images in class folders", "CIFAR-10's own files"
        hint = "Use --data cifar10 and --data-dir with the folder that holds them."
        return InputError("data", where, expected=expected, found=found, hint=hint)
    found = f"none, and {len(others):,} other files ({_some(sorted(others)[:1])}, ...)" if others else "none"
    hint = "Give a folder or an archive of train/CLASS/* images, or of CLASS/*."
    return InputError("data", where, expected="PNG, JPEG, BMP or WebP images", found=found, hint=hint)


def held_out(
    files: tuple[str, ...], labels_N: NDArray[np.int64], class_names: tuple[str, ...], share: float, where: str
) -> NDArray[np.bool_]:
    """Which of the images are the test images: `share` of each class, rounded, at least one and never all.

    A picture's name alone decides its turn, so the choice is the same for every seed, machine and version of numpy,
    and a picture more or less hardly changes it. Raises InputError for a class of a single image.
    """
    chosen_N = np.zeros(len(labels_N), dtype=np.bool_)
    for label, name in enumerate(class_names):
        members = np.flatnonzero(labels_N == label)
        if len(members) < 2:
            hint = "Add images of it, or give test images in test/CLASS/ beside train/CLASS/."
            raise InputError("data", f"{where}: {name}", expected="at least 2 images in a class", found="1", hint=hint)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        turns = sorted(members, key=lambda i: hashlib.sha256(files[i].encode("utf-8", "surrogateescape")).digest())
        chosen_N[turns[:count]] = True
    return chosen_N
