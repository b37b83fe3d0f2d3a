"""Files written whole or not at all, read only where they are regular, and YAML without surprises. Imports no torch."""

import contextlib
import csv
import io
import os
import platform
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

from scsuite.core.errors import InputError, OutputError

FILE_BYTES_MAX = 64 * 2**20  # one picture or one CIFAR-10 batch (30.7 MB)
YAML_BYTES_MAX = 64 * 1024  # a configuration or a policy is a page of text, not a data file


# A planted link is not followed, and a pipe not waited for: what is written goes where it is named, or nowhere.
_WRITE = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_WRITE |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def write_atomic(path: Path, data: bytes | bytearray) -> None:
    """Write a file whole or not at all: to a sibling, fsynced, renamed over `path`, the directory fsynced.

    Raises OutputError; the sibling is removed, and what was under `path` before is still there.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        descriptor = os.open(partial, _WRITE | os.O_TRUNC, 0o666)
        try:
            _write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
        if os.name == "posix":  # a directory cannot be opened elsewhere
            fsync_path(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise write_error(path, error, f"room and permission for {len(data):,} bytes") from None


def make_parent(path: Path) -> None:
    """Make the folder that a file will be written into. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error, "a folder to write it into") from None


def append(path: Path, text: str) -> None:
    """Add to the end of a file, in one write. Raises OutputError."""
    try:
        descriptor = os.open(path, _WRITE | os.O_APPEND, 0o666)
        try:
            _write(descriptor, text.encode(errors="backslashreplace"))  # a name that is no UTF-8
        finally:
            os.close(descriptor)
    except OSError as error:
        raise write_error(path, error) from None


def _write(descriptor: int, data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def fsync_path(path: Path) -> None:
    """Wait until the disk has a file, or the names in a directory. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_error(path: Path, error: OSError, expected: str = "room and permission") -> OutputError:
    """The error of a file or directory that could not be made or written."""
    hint = "Free some space or choose another --runs-dir."
    return OutputError("cannot write", path, expected=expected, found=error.strerror or error, hint=hint)


def open_regular_file(path: Path, what: str) -> BufferedReader:
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


def read_regular_file(path: Path, what: str, limit: int = FILE_BYTES_MAX) -> bytes:
    """All bytes of the regular file at `path`.

    Raises InputError as `open_regular_file` does, for a read that fails, and for more than `limit` bytes.
    """
    with open_regular_file(path, what) as file:
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


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Lines of a CSV file."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Commit a CSV file."""
    write_atomic(path, csv_text([header, *rows]).encode())


def read_yaml(path: str, what: str) -> dict[str, Any]:
    """A mapping from a YAML file, by the safe loader, without aliases or repeated keys.

    Raises InputError for a file that is missing, too large, not YAML, or not a mapping.
    """
    import yaml

    class Strict(yaml.SafeLoader):
        """Refuses what the safe loader lets pass: aliases (bombs) and keys given twice (the last would win)."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("aliases are not allowed")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if twice := [key for key, count in Counter(map(str, keys)).items() if count > 1]:
                raise yaml.YAMLError(f"given twice: {', '.join(sorted(twice))}")
            return super().construct_mapping(node, deep=deep)

    try:
        with Path(path).open("rb") as file:
            text = file.read(YAML_BYTES_MAX + 1)
        if len(text) > YAML_BYTES_MAX:
            raise yaml.YAMLError(f"larger than {YAML_BYTES_MAX} bytes")
        values = Strict(text).get_single_data()
    except OSError as error:
        raise InputError(
            what, path, expected="a readable YAML file", found=error.strerror, hint="Check the path."
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        found = " ".join(str(error).split())[:200]
        raise InputError(what, path, expected="plain YAML", found=found, hint="Mend the file.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(what, path, expected="names with values", found=type(values).__name__, hint="See the README.")
    return values


def cpu_name() -> str:
    """The processor, as it names itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
