"""What an archive of images may hold: limits on names, members, sizes and compression ratios, and the error.

In: what an archive claims or has delivered. Out: nothing, or an InputError.
"""

import re
import stat
from dataclasses import dataclass

from scsuite.core.errors import InputError
from scsuite.core.files import MAX_FILE_BYTES


@dataclass(frozen=True)
class Link:
    """What a link in an archive leads to: another name in it, or None for a place outside of it."""

    target: str | None
    is_hard: bool = False  # a second name of the same file


# Name, which ends in "/" for a folder, and contents where they are needed, or where a link leads.
Member = tuple[str, bytes | Link | None]

MAX_TOTAL_BYTES = 4 * 2**30  # of decompressed contents
MAX_MEMBERS = 300_000
MAX_NON_IMAGES = 100_000  # folders, and files that are not read
MAX_NAME_CHARACTERS = 48 * 2**20  # of all names together: 300,000 names of 160 characters
SETUID_BITS = stat.S_ISUID | stat.S_ISGID
HINT_REPACK = "Download or pack it again."
HINT_SMALLER = "Give a smaller archive, or a folder."
_MAX_RATIO = 200  # decompressed to compressed bytes; deflate reaches 1032, images hardly 2
_RATIO_FROM = 64 * 2**20  # decompressed bytes: a small archive of empty files or flat images can have this ratio
_MAX_NAME_LENGTH = 4096  # characters, as of the longest path
_DRIVE = re.compile("[A-Za-z]:")


def archive_error(where: str, found: str, hint: str = "Pack the images again, as plain files.") -> InputError:
    """Return the error for an archive that is not read, or not read further."""
    return InputError("archive", where, expected="a .zip or .tar of images", found=found, hint=hint)


def check_name(name: str, where: str, is_folder: bool) -> str:
    """Return a member's name without empty parts and dots. Raises InputError for a path out of the archive."""
    if len(name) > _MAX_NAME_LENGTH:
        raise archive_error(f"{where}: {name[:40]}...", f"a name of {len(name):,} characters")
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or _DRIVE.match(name) or "\0" in name:
        raise archive_error(f"{where}: {name[:200]}", "a name that leads out of the archive")
    if "" in parts or "." in parts:
        parts = [part for part in parts if part not in ("", ".")]
        if not parts and not is_folder:
            raise archive_error(where, "a file without a name")
        name = "/".join(parts)
    return name + "/" * is_folder


def resolve_link(name: str, target: str) -> Link:
    """Return where a symbolic link called `name` leads. Links on the way to its target are not followed."""
    parts = name.split("/")[:-1]
    if target.startswith(("/", "\\")) or _DRIVE.match(target):
        return Link(None)
    for part in target.replace("\\", "/").split("/"):
        if part == "..":
            if not parts:
                return Link(None)
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return Link("/".join(parts))


def check_link_size(size: int, where: str, name: str) -> None:
    """Refuse a link whose target is longer than any path."""
    if size > _MAX_NAME_LENGTH:
        raise archive_error(f"{where}: {name}", f"a link of {size:,} bytes", HINT_REPACK)


def check_size(size: int, where: str, name: str) -> None:
    """Refuse a member that is too large for one image."""
    if size > MAX_FILE_BYTES:
        found = f"a member of {size:,} bytes, over {MAX_FILE_BYTES // 2**20} MB"
        raise archive_error(f"{where}: {name}", found, "Remove it or make it smaller.")


def check_total(total: int, compressed: int, where: str) -> None:
    """Refuse too many decompressed bytes, in all or for so many compressed ones."""
    if total > MAX_TOTAL_BYTES:
        raise archive_error(where, f"more than {MAX_TOTAL_BYTES // 2**30} GB in all", HINT_SMALLER)
    if total > _RATIO_FROM and total > _MAX_RATIO * compressed:
        hint = "Pack images, as plain files."
        raise archive_error(where, f"contents compressed by more than {_MAX_RATIO} to 1", hint)
