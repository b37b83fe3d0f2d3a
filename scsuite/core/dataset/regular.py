"""Opening a user's file only where it is a regular one: a FIFO or a device is never waited for.

In: a path. Out: an open file, or its bytes up to a cap.
"""

import os
import stat
from io import BufferedReader
from pathlib import Path

from scsuite.core.errors import InputError

FILE_BYTES_MAX = 64 * 2**20  # one picture or one CIFAR-10 batch (30.7 MB)


def open_regular(path: Path, what: str) -> BufferedReader:
    """The regular file at `path`, opened for reading.

    Raises InputError for one that is missing, unreadable, a folder, a FIFO or a device.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        # Not blocking, and looked at through its descriptor: neither a FIFO nor a swap in between can hang us.
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        found = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(what, path, expected="a readable file", found=found, hint="Check the path.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        hint = "Give a plain file."
        raise InputError(what, path, expected="a regular file", found="a folder, pipe or device", hint=hint)
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, what: str, limit: int = FILE_BYTES_MAX) -> bytes:
    """All bytes of the regular file at `path`.

    Raises InputError as `open_regular` does, for a read that fails, and for more than `limit` bytes.
    """
    with open_regular(path, what) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise InputError(
                what, path, expected="a readable file", found=error.strerror, hint="Check the disk."
            ) from None
    if len(data) > limit:
        hint = "Make it smaller or take it out."
        raise InputError(what, path, expected=f"at most {limit // 2**20} MB", found="a larger file", hint=hint)
    return data
