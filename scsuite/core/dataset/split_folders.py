"""Find the folders of the training and the test images by their names; all functions are pure.

In: the path of each image as parts ("train", "cat", "1.jpg"). Out: `SplitFolders`: what lies above the class folders.

People call these folders train, Training, train_data, seg_train or trainset, and put them into folders of any name.
A name counts only for a folder of class folders: `train/1.jpg` is an image of a class called train.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from scsuite.core.dataset.split import format_names
from scsuite.core.errors import InputError

_WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "test": ("test", "tests", "testing", "tst"),
    "eval": ("eval", "evaluation", "holdout", "heldout"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel"),
}
TEST_SPLITS = ("test", "eval", "val")  # the first one that is there gives the test images
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
# Words that may follow: train_images, testset. Others make it another thing: test_tube, train_station.
_NEUTRAL = "data dataset set sets split image images img imgs picture pictures pic pics photo photos file files folder"
_NEUTRAL += (
    " sample samples full final new original clean small resized cropped augmented aug balanced subset part x px"
)
_TOKEN = re.compile(f"({'|'.join(sorted(_SPLIT_OF_WORD, reverse=True))})({_NEUTRAL.replace(' ', '|')})?")
_MAX_EXAMPLES = 5  # names in a message

NameParts = tuple[str, ...]


@dataclass(frozen=True)
class SplitFolders:
    """The folders whose subfolders are the classes: `folders` of each split, or `top` if there are no splits.

    `is_transposed`: each class has its splits, as in cat/train/1.jpg.
    """

    top: NameParts
    folders: Mapping[str, NameParts]
    is_transposed: bool = False


def split_of(folder: str, any_words: bool = False) -> str | None:
    """Return the split that a folder's name says: train, test, eval or val; None for other names, or if it says two.

    `any_words` allows other words after it, as in train_v1.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", folder).lower()
    tokens = re.findall(r"[^\W\d_]+", re.sub("(?:held|hold)[^a-z]out", "heldout", words))
    matches = [_TOKEN.fullmatch(token) for token in tokens]
    splits = {_SPLIT_OF_WORD[match[1]] for match in matches if match}
    last = max((position for position, match in enumerate(matches) if match), default=-1)
    is_split = len(splits) == 1 and (any_words or set(tokens[last + 1 :]) <= set(_NEUTRAL.split()))
    return splits.pop() if is_split else None


def find_splits(paths: Collection[NameParts], empty_folders: Iterable[NameParts], where: str) -> SplitFolders:
    """Return the folders of the splits. Raises InputError where the names do not say which folder is which."""
    top = _top(paths)
    below = [path[len(top) :] for path in paths if path[: len(top)] == top]
    if _is_transposed(below):
        return SplitFolders(top, {}, is_transposed=True)
    names = _accepted({path[0] for path in below if len(path) > 2}, below, where)
    if not names:
        names = _one_level_down(below)
    _check_flat(below, names, top, where)
    empty = {path[len(top)] for path in empty_folders if path[:-1] == top} - {path[0] for path in below}
    if empty := {name for name in empty if name.lower() in _SPLIT_OF_WORD and split_of(name) not in names}:
        hint = "Put CLASS/ folders with images in it, or remove it."
        raise InputError("data", f"{where}: {min(empty)}", expected="images", found="an empty folder", hint=hint)
    folders = {split: top + folder for split, folder in names.items()}
    return SplitFolders(top, _unwrapped(folders, paths))


def _top(paths: Collection[NameParts]) -> NameParts:
    """Return the folders above the splits or classes, which all images share."""
    first = next(iter(paths))
    depth = 0
    while all(len(path) >= depth + 3 and path[depth] == first[depth] for path in paths):
        inner = {split_of(path[depth + 1]) for path in paths if len(path) >= depth + 4} - {None}
        if split_of(first[depth]) is not None and not inner:
            break
        depth += 1
    return first[:depth]


def _is_transposed(below: list[NameParts]) -> bool:
    """Return whether the splits lie in each class: every image is in CLASS/SPLIT, and two classes have a train."""
    if not all(len(path) > 2 and split_of(path[1]) and split_of(path[0]) is None for path in below):
        return False
    folders = {(path[0], split_of(path[1])) for path in below}
    return len({name for name, split in folders if split == "train"}) > 1 and len({split for _, split in folders}) > 1


def _class_folders(below: list[NameParts], folder: str) -> set[str]:
    return {path[1] for path in below if len(path) > 2 and path[0] == folder}


def _accepted(tops: set[str], below: list[NameParts], where: str) -> dict[str, NameParts]:
    """Return the folder of each split among `tops`, which have subfolders with images."""
    share = _share_classes(tops, below)
    strict = {split_of(name) for name in tops}
    # Folders of the same classes are no classes. So beside train, test_another is a split, unless test is there too.
    any_words = share and not ("train" in strict and strict & set(TEST_SPLITS))
    by_split: dict[str, list[str]] = {}
    for name in sorted(tops):
        if split := split_of(name, any_words):
            by_split.setdefault(split, []).append(name)
    # Beside other folders with images in them, val/ with a subfolder is a class too, unless it is train/ with classes.
    if any(len(path) == 2 and split_of(path[0]) is None for path in below):
        by_split = by_split if any(len(_class_folders(below, name)) > 1 for name in by_split.get("train", [])) else {}
    is_exact = any(name.lower() in _SPLIT_OF_WORD for names in by_split.values() for name in names)
    # A single bullet_train beside other folders can be a class.
    if not (is_exact or share or len(by_split) > 1 or len(tops) == 1):
        return {}
    found: dict[str, NameParts] = {split: (_one_of(split, names, where),) for split, names in by_split.items()}
    others = tops - {name for names in by_split.values() for name in names}
    if share and not found:
        raise _unknown_splits_error(sorted(tops), below, where)
    if found and "train" not in found:
        if not (share and len(others) == 1):
            names = ", ".join(sorted(name for names in by_split.values() for name in names))
            hint = "Put the training images in train/CLASS/."
            raise InputError("data", where, expected="train/CLASS/* images", found=f"only {names}", hint=hint)
        found["train"] = (min(others),)
    return found


def _one_of(split: str, names: list[str], where: str) -> str:
    """Return the folder of a split: of several the one that has just the word for a name."""
    exact = [name for name in names if name.lower() in _SPLIT_OF_WORD] or names
    if len(exact) > 1:
        expected, found = f"one {split} folder", format_names(exact, _MAX_EXAMPLES)
        raise InputError("data", where, expected=expected, found=found, hint="Keep one of them, or rename the others.")
    return exact[0]


def _share_classes(tops: set[str], below: list[NameParts]) -> bool:
    """Return whether two or three folders hold the same class folders, at least two: then they are no classes."""
    if not 2 <= len(tops) <= 3 or any(len(path) < 3 for path in below):
        return False
    counts = Counter(name for top in tops for name in _class_folders(below, top))
    smallest = min(len(_class_folders(below, top)) for top in tops)
    num_shared = sum(count == len(tops) for count in counts.values())
    return num_shared >= 2 and 2 * num_shared >= smallest


def _unknown_splits_error(tops: list[str], below: list[NameParts], where: str) -> InputError:
    classes = format_names(sorted(_class_folders(below, tops[0])), _MAX_EXAMPLES)
    return InputError(
        "data", where, expected="train/CLASS/* and test/CLASS/* images, or CLASS/* images",
        found=f"the same folders ({classes}) in each of {', '.join(tops)}",
        hint="Rename these to train and test; if they are classes, put their images directly into them.",
    )  # fmt: skip


def _one_level_down(below: list[NameParts]) -> dict[str, NameParts]:
    """Return the splits in folders beside each other: a/train/CLASS and b/test/CLASS, one folder for each split."""
    found: dict[str, set[NameParts]] = {}
    for path in below:
        if len(path) > 3 and (split := split_of(path[1])):
            found.setdefault(split, set()).add(path[:2])
    is_clear = "train" in found and len(found) > 1 and all(len(folders) == 1 for folders in found.values())
    return {split: min(folders) for split, folders in found.items()} if is_clear else {}


def _check_flat(below: list[NameParts], names: Mapping[str, NameParts], top: NameParts, where: str) -> None:
    """Refuse splits without class folders: train/1.jpg and test/2.jpg, with no folder of another name beside them."""
    flat = {path[0] for path in below if len(path) == 2}
    is_split = all(split_of(path[0]) for path in below if len(path) > 1)
    if flat and is_split and ("train" not in names or any(split_of(name) == "train" for name in flat)):
        first = min(path for path in below if len(path) == 2)
        folders = ", ".join(f"{name}/" for name in sorted(flat))
        raise InputError(
            "data", f"{where}: {'/'.join((*top, *first))}", expected="each image in the folder of its class",
            found=f"no class folders in {folders}", hint="Move the images into class folders, as in train/CLASS/1.jpg.",
        )  # fmt: skip


def _unwrapped(folders: dict[str, NameParts], paths: Collection[NameParts]) -> dict[str, NameParts]:
    """Return the splits' folders without single folders between them and the classes: seg_train/seg_train/CLASS."""
    result: dict[str, NameParts] = {}
    class_names: set[str] = set()
    for split, start in sorted(folders.items(), key=lambda item: item[0] != "train"):
        folder = start
        while True:
            below = [path[len(folder) :] for path in paths if path[: len(folder)] == folder]
            children = {path[0] for path in below}
            inner = {path[1] for path in below if len(path) > 2}
            is_wrapper = len(children) == 1 and all(len(path) > 2 for path in below) and not children & class_names
            # With a single folder below it, a folder of the training images is the class.
            if not is_wrapper or (split == "train" and len(inner) < 2 and not split_of(min(children))):
                break
            folder = (*folder, min(children))
        result[split] = folder
        class_names = class_names or children
    return result
