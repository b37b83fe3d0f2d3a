"""Find and read the image files that a user names, without any classes: files, folders and archives.

In: paths. Out: the name and the bytes of each image, one at a time; what cannot be read is reported, not raised.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scsuite.core.dataset.archive import read_members
from scsuite.core.dataset.folder import is_hidden, is_image, list_folder
from scsuite.core.dataset.image_file import FORMATS
from scsuite.core.errors import InputError, UsageError
from scsuite.core.files import open_regular_file, read_regular_file

OnUnreadable = Callable[[str, str], None]  # (file, what is wrong with it)

_HINT = "Give image files, folders or archives."
# Starts of .zip, .gz, .bz2 and .xz, and of the archives that are refused by name: 7-Zip, RAR, Zstandard.
_ARCHIVE_STARTS = (
    b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!",
    b"\x28\xb5\x2f\xfd",
)  # fmt: skip
_TAR_MAGIC, _TAR_MAGIC_OFFSET = b"ustar", 257


@dataclass(frozen=True)
class _Source:
    """A path that a user gave: its files, or None for an archive, whose members are known when it has been read."""

    path: Path
    files: tuple[str, ...] | None


class ImageFiles:
    """The image files that some paths name, in the order of the paths; in a folder, sorted by name.

    A file that is named itself is taken for an image whatever its name; in folders and archives, the files with an
    image's suffix are. `skipped` names the others. `num_files` is None if there is an archive among the paths.

    Raises InputError for a path that does not exist, is neither file nor folder, or cannot be opened.
    """

    def __init__(self, paths: Sequence[str | Path], on_unreadable: OnUnreadable) -> None:
        self.on_unreadable = on_unreadable
        self.skipped: list[str] = []
        kinds = [(Path(path), _is_folder(path)) for path in paths]  # all are checked before a folder is listed
        self._sources = [self._find(path, is_folder) for path, is_folder in kinds]
        counts = [None if source.files is None else len(source.files) for source in self._sources]
        self.num_files = None if None in counts else sum(count or 0 for count in counts)

    def _find(self, path: Path, is_folder: bool) -> _Source:
        if is_folder:
            listing = list_folder(path)
            self.skipped += [str(path / name) for name in listing.non_images]
            return _Source(path, tuple(str(path / name) for name in listing.images))
        return _Source(path, None if _is_archive(path) else (str(path),))

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the contents of each file; `archive.zip/a.png` is a member of an archive."""
        for source in self._sources:
            is_empty = True
            for item in self._read_archive(source.path) if source.files is None else self._read_files(source.files):
                is_empty = False
                if item is not None:
                    yield item
            if is_empty:
                self.on_unreadable(str(source.path), "no images")

    def _read_files(self, files: Sequence[str]) -> Iterator[tuple[str, bytes] | None]:
        """Yield None for a file that cannot be read."""
        for name in files:
            try:
                yield name, read_regular_file(Path(name), "image")
            except InputError as error:
                self.on_unreadable(name, str(error.found))
                yield None

    def _read_archive(self, path: Path) -> Iterator[tuple[str, bytes] | None]:
        """Yield the images of an archive up to its end, or to where it is damaged."""
        try:
            with open_regular_file(path, "data") as file:
                for name, data in read_members(file, str(path), is_image):
                    if data is not None:
                        yield f"{path}/{name}", data
                    elif not is_hidden(name) and not name.endswith("/"):
                        self.skipped.append(f"{path}/{name}")
        except InputError as error:
            self.on_unreadable(str(error.where), str(error.found))
            yield None

    def notes(self) -> list[str]:
        """Return a line about the files that were skipped, or none."""
        if not self.skipped:
            return []
        files = f"{len(self.skipped):,} file{'s' * (len(self.skipped) > 1)} that are not {', '.join(FORMATS)}"
        return [f"skipped {files}; the first is {self.skipped[0]}"]


def as_path_list(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """Return one path, or several, as a list. Raises UsageError for none at all."""
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not listed:
        raise UsageError("paths", "predict", expected="at least one path", found="none", hint=_HINT)
    return listed


def _is_folder(path: str | Path) -> bool:
    """Return whether a path is a folder; a file if not. Raises InputError for anything else."""
    expected = "a file, folder or archive"
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path(path) would fail for no other reason
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        found = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError("image", path, expected=expected, found=found, hint="Check the path.") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise InputError("image", path, expected=expected, found="a pipe, socket or device", hint=_HINT)
    return stat.S_ISDIR(mode)


def _is_archive(path: Path) -> bool:
    """Return whether a file without an image's suffix is an archive, by its first bytes.

    Raises InputError if it cannot be read.
    """
    if is_image(path.name):  # thousands of images need not be opened twice
        return False
    with open_regular_file(path, "image") as file:
        start = file.read(_TAR_MAGIC_OFFSET + len(_TAR_MAGIC))
    return start.startswith(_ARCHIVE_STARTS) or start[_TAR_MAGIC_OFFSET:] == _TAR_MAGIC or path.suffix.lower() == ".tar"
