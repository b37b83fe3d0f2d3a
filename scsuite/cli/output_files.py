"""The files that options name for output: checked before any work, and named by their option in errors.

In: an option and its value. Out: an error in place of a file that would be lost.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from scsuite.core.errors import OutputError, UsageError
from scsuite.core.files import check_name_length


def check_output_path(flag: str, target: str | None) -> None:
    """Raise UsageError for anything but a file: files are renamed into place, which would replace /dev/stdout."""
    if target is not None and os.path.lexists(target) and (Path(target).is_symlink() or not Path(target).is_file()):
        raise UsageError(
            "option", flag, expected="a new name or a plain file",
            found=f"{target}, a link, directory, pipe or device", hint="Choose another name.",
        )  # fmt: skip
    check_name_length(target or "")
    if target is None:
        return
    folder = next(parent for parent in Path(target).absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):  # now, not after an hour of work
        raise OutputError(
            "cannot write", target, expected="a folder with permission to write", found=folder,
            hint=f"Choose another {flag}.",
        )  # fmt: skip


def check_different_files(flag: str, target: str | None, what: str, others: Iterable[str | Path]) -> None:
    """Raise UsageError if an output is one of these files, by whatever name or link."""
    if target is not None and any(_is_same_file(target, other) for other in others):
        raise UsageError("option", flag, expected=what, found=target, hint="Choose another name.")


def _is_same_file(path: str, other: str | Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(path, other)  # noqa: PTH121 - one that does not exist is an OSError
    return os.path.normcase(os.path.realpath(path)) == os.path.normcase(os.path.realpath(other))


@contextlib.contextmanager
def writing_to(flag: str) -> Iterator[None]:
    """Let the error of a file that cannot be written name the option that gave its name."""
    try:
        yield
    except OutputError as error:
        raise OutputError(
            error.what, error.where, expected=error.expected, found=error.found,
            hint=error.hint.replace("--runs-dir", flag),
        ) from None  # fmt: skip
