"""Flush files and folders to disk, on each system as far as it can.

In: paths and descriptors. Out: what was written survives a power cut; OSError for a disk that fails.
"""

import contextlib
import errno
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FOLDER_NOT_FLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # by a file system that flushes files only


def flush(descriptor: int) -> None:
    """Flush to the disk itself: on macOS fsync leaves the data in the disk's own cache, which a power cut empties."""
    if command := getattr(fcntl, "F_FULLFSYNC", None):
        with contextlib.suppress(OSError):  # the file system lacks it
            fcntl.fcntl(descriptor, command)
            return
    os.fsync(descriptor)


def flush_file(path: Path) -> None:
    """Flush a file."""
    # Opened for writing: Windows flushes no other descriptor.
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Flush the names in a folder, where the system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except PermissionError:  # Windows opens no folder; elsewhere a folder can be writable and not readable
        return
    try:
        flush(descriptor)
    except OSError as error:
        if error.errno not in _FOLDER_NOT_FLUSHED:
            raise
    finally:
        os.close(descriptor)
