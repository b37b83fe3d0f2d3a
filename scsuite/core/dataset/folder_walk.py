"""Walk a folder, with symbolic links followed, and tell images from other files by their names.

In: a folder. Out: a `FolderWalk`: the relative names of its files and folders, sorted; no file is opened.

Hidden files and those that operating systems create are skipped. A link to a file or a folder is followed wherever it
leads; one to nothing, or to a folder around it, is listed as broken. Pipes, sockets and devices are refused.
"""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from scsuite.core.dataset.image_file import SUFFIXES
from scsuite.core.errors import InputError

_HIDDEN = re.compile(r"(^|/)(\.|(__MACOSX|Thumbs\.db|desktop\.ini)(/|\Z))")
_MAX_FOLDER_LINKS = 20_000  # links to folders that hold links to folders can multiply without end


def is_hidden(name: str) -> bool:
    """Return whether any part of this path is hidden from people: .git, .DS_Store, ._x.jpg, __MACOSX."""
    return _HIDDEN.search(name) is not None


def is_image(name: str) -> bool:
    """Return whether a file of this name, in any letter case, is read as an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden(name)  # noqa: PTH122 - called 60,000 times; pathlib is slower


class FoundFile(NamedTuple):
    """A regular file below a folder."""

    name: str
    identity: tuple[int, int]  # device and inode: what a file and the links to it have in common
    version: tuple[int, int, int]  # size in bytes; times of the last change of contents and of the inode, in ns
    is_linked: bool  # it was found through a symbolic link


@dataclass(frozen=True)
class FolderWalk:
    """All regular files of a folder, its subfolders, and links that lead to nothing or in a circle; sorted."""

    files: tuple[FoundFile, ...]
    folders: frozenset[str]
    broken_links: tuple[str, ...]

    def hash_contents(self) -> str:
        """Return the sha256 over names, inodes, sizes and times, which changes when a file does."""
        digest = hashlib.sha256()
        for file in self.files:
            # The inode too: exchanged folders may have files of equal names, sizes and times.
            content = "\0".join(map(str, (file.name, file.identity[1], *file.version, "")))
            digest.update(content.encode("utf-8", "surrogateescape"))
        for name in (*sorted(self.folders), "", *self.broken_links):
            digest.update(f"{name}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


class _Folder(NamedTuple):
    """A folder still to be read: its relative name, its real path, and the real paths around the links to it."""

    name: str
    real_path: str
    around: tuple[str, ...]
    is_linked: bool


def walk_folder(root: Path, unreadable: list[tuple[str, str]] | None = None) -> FolderWalk:
    """Find all files.

    Raises InputError for pipes and devices, and for an unreadable folder. With `unreadable`, those below `root` are
    added to it instead, with the reason.
    """
    files: list[FoundFile] = []
    folders: set[str] = set()
    broken: list[str] = []
    pending = [_Folder("", os.path.realpath(root), (), is_linked=False)]
    num_folder_links = 0
    while pending:
        parent = pending.pop()
        entries: list[os.DirEntry[str]] = []
        try:
            entries = _entries(root / parent.name)
        except InputError as error:
            _add_unreadable(error, unreadable if parent.name else None)
        for entry in entries:
            name = f"{parent.name}/{entry.name}" if parent.name else entry.name
            is_link, status = entry.is_symlink(), None
            try:
                if (status := _status(entry, is_link)) is None:
                    broken.append(name)
                elif not stat.S_ISDIR(status.st_mode):
                    files.append(_found_file(name, entry, status, is_link or parent.is_linked))
            except InputError as error:
                _add_unreadable(error, unreadable)
            if status is None or not stat.S_ISDIR(status.st_mode):
                continue
            if not is_link:
                folders.add(name)
                real_path = f"{parent.real_path}/{entry.name}"
                pending.append(_Folder(name, real_path, parent.around, parent.is_linked))
            else:
                linked = _linked_folder(name, entry, parent)
                num_folder_links += 1
                if num_folder_links > _MAX_FOLDER_LINKS:
                    expected = f"at most {_MAX_FOLDER_LINKS:,} links to folders"
                    raise InputError("folder", root, expected=expected, found="more", hint="Replace them by folders.")
                if linked is None:
                    broken.append(name)
                else:
                    folders.add(name)
                    pending.append(linked)
    return FolderWalk(tuple(sorted(files)), frozenset(folders), tuple(sorted(broken)))


def _add_unreadable(error: InputError, unreadable: list[tuple[str, str]] | None) -> None:
    """Add what an error says to `unreadable`; raise it if there is none."""
    if unreadable is None:
        raise error
    unreadable.append((str(error.where), str(error.found)))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, without hidden files."""
    try:
        with os.scandir(folder) as iterator:
            entries = list(iterator)
    except OSError as error:
        hint = "Check its permissions."
        raise InputError("folder", folder, expected="a readable one", found=error.strerror, hint=hint) from None
    return [entry for entry in entries if not is_hidden(entry.name)]


def _status(entry: os.DirEntry[str], is_link: bool) -> os.stat_result | None:
    """Return the status of a file or of what a link leads to; None for a link to nothing or to itself."""
    try:
        return entry.stat()
    except OSError as error:
        if is_link and not isinstance(error, PermissionError):
            return None
        hint = "Check its permissions."
        raise InputError("file", entry.path, expected="a readable one", found=error.strerror, hint=hint) from None


def _found_file(name: str, entry: os.DirEntry[str], status: os.stat_result, is_linked: bool) -> FoundFile:
    if not stat.S_ISREG(status.st_mode):
        found, hint = "a pipe, socket or device", "Replace it by a plain copy, or remove it."
        raise InputError("file", entry.path, expected="a regular file", found=found, hint=hint)
    version = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return FoundFile(name, (status.st_dev, status.st_ino), version, is_linked)


def _linked_folder(name: str, entry: os.DirEntry[str], parent: _Folder) -> _Folder | None:
    """Return the folder that a link leads to, or None if it is one of those around the link: a circle."""
    target = os.path.realpath(entry.path)
    around = (*parent.around, parent.real_path)
    if any(Path(path).is_relative_to(target) for path in around):
        return None
    return _Folder(name, target, around, is_linked=True)
