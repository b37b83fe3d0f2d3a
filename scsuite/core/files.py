"""Write files atomically, read only regular files, and read JSON and strict YAML. Imports no torch.

In: paths and bytes or text. Out: files that are complete or not there; bytes or plain values.
"""

import contextlib
import difflib
import errno
import itertools
import json
import os
import platform
import re
import secrets
import stat
import time
import unicodedata
from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import Any

from scsuite.core.errors import InputError, OutputError, one_line
from scsuite.core.flush import flush, flush_folder

MAX_FILE_BYTES = 128 * 2**20  # of one image: an uncompressed TIFF of 42 megapixels; an archive takes twice that
_READ_BYTES = 2**24  # at a time, of a file whose size is not known
MAX_NAME_BYTES = 255  # of one part of a path, on all common file systems
MAX_NAMES_COMPARED = 1000  # of a folder, to find one that is similar to a missing name
STALE_SECONDS = 3600  # no file takes longer to write
_PARTIAL = re.compile(r"\.scsuite-(\d{1,9})-[0-9a-f]{16}\.part")  # the temporary files of `write_atomic`
# A few bytes of JSON can become a hundred bytes of memory; an evaluation of 1,000 classes has two million values.
MAX_JSON_BYTES, MAX_JSON_VALUES, MAX_JSON_KEYS = 2**25, 2**21, 2**18
MAX_DIGITS = 300  # of a number; a float has up to 309 before its point, and larger numbers fail where they are used
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
MAX_YAML_BYTES = 64 * 1024  # a configuration or a policy is a page of text, not a data file

# Symbolic links are not followed, so nothing is written outside the named place; opening a pipe does not block.
_WRITE = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_WRITE |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def write_atomic(path: Path, data: bytes | bytearray) -> None:
    """Write a complete file or none: write and fsync a temporary file next to it, rename it, fsync the directory.

    Raises OutputError; the temporary file is removed then, and an older file at `path` stays as it was.
    """
    # A name of its own for each write: with a common one, two processes would write into each other's file.
    partial = path.with_name(f".scsuite-{os.getpid()}-{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(partial, _WRITE | os.O_EXCL, 0o666)  # never a file that was there before
        try:
            try:
                _write(descriptor, data)
                flush(descriptor)
            finally:
                os.close(descriptor)
            partial.replace(path)
        except BaseException:  # a signal too
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)
    except OSError as error:
        raise write_error(path, error, f"space and permission for {len(data):,} bytes") from None


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of `write_atomic` that killed processes left in a folder of ours."""
    for path in folder.glob(".scsuite-*.part"):
        with contextlib.suppress(OSError):
            if (match := _PARTIAL.fullmatch(path.name)) and not _is_written(path, int(match[1])):
                path.unlink()


def _is_written(path: Path, pid: int) -> bool:
    """Return whether another process may be writing a temporary file; the number of a dead one may be in use again."""
    if pid == os.getpid() or time.time() - path.stat().st_mtime > STALE_SECONDS:
        return False
    if os.name != "posix":  # there os.kill would end the process; a file that is open cannot be removed
        return False
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def make_parent(path: Path) -> None:
    """Create the folder of a file. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error, "a folder for the file") from None


def append(path: Path, text: str) -> None:
    """Append text to a file in one write. Raises OutputError."""
    try:
        descriptor = os.open(path, _WRITE | os.O_APPEND, 0o666)
        try:
            _write(descriptor, text.encode(errors="backslashreplace"))  # a file name may not be UTF-8
        finally:
            os.close(descriptor)
    except OSError as error:
        raise write_error(path, error) from None


def _write(descriptor: int, data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_error(path: Path, error: OSError, expected: str = "space and permission") -> OutputError:
    """Return the error for a file or directory that could not be created or written."""
    hint = "Free some space or choose another --runs-dir."
    if error.errno == errno.ENAMETOOLONG:
        expected, hint = f"a name of at most {MAX_NAME_BYTES} bytes", "Give a shorter name."
    return OutputError("cannot write", path, expected=expected, found=error.strerror or error, hint=hint)


def check_name_length(path: str | Path) -> None:
    """Raise the OutputError of `write_atomic` for a name that no file can have, before anything else is written."""
    if len(os.fsencode(Path(path).name)) > MAX_NAME_BYTES:
        raise write_error(Path(path), OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)))


def missing_path_error(what: str, path: str | Path, expected: str, otherwise: str = "Check the path.") -> InputError:
    """Return the error for a path that does not exist; it names a similar one, or the folder that is missing too."""
    folder = Path(path).parent
    found, hint = "No such file or directory", otherwise
    try:
        if not Path(path).is_absolute():
            found += f" in {Path.cwd()}"
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, MAX_NAMES_COMPARED)]
        if os.path.lexists(path):
            return InputError(what, path, expected=expected, found="a link to nothing", hint=otherwise)
        if similar := difflib.get_close_matches(Path(path).name, names, n=1):
            hint = f"Did you mean {folder / similar[0]}?"
    except FileNotFoundError:
        hint = f"There is no folder {folder} either."
    except (OSError, ValueError):  # a file on the way, no permission, a NUL in the name
        pass
    return InputError(what, path, expected=expected, found=found, hint=hint)


def path_exists(path: str | Path) -> bool:
    """Return whether something is at `path`, be it a link to nothing; False for what cannot be a path."""
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in the name
        return False


def check_run_exists(run: Path) -> None:
    """Raise InputError for a run directory that does not exist."""
    if not path_exists(run):
        raise missing_path_error("run", run, "a run directory", "Give a directory that scsuite train made.")


def open_regular_file(path: str | Path, what: str) -> BufferedReader:
    """Open the regular file at `path` for reading.

    Raises InputError if it is missing, unreadable, a folder, a pipe or a device.
    """
    return os.fdopen(_open_descriptor(path, what)[0], "rb")


def _open_descriptor(path: str | Path, what: str) -> tuple[int, int]:
    """Return the descriptor of a regular file and its size in bytes."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        # Opened without blocking and checked through the descriptor, so a pipe never hangs us.
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise missing_path_error(what, path, "a readable file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(what, path, expected="a readable file", found=reason, hint="Check the path.") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        hint = "Give a regular file."
        raise InputError(what, path, expected="a regular file", found="a folder, pipe or device", hint=hint)
    return descriptor, status.st_size


def read_regular_file(path: str | Path, what: str, limit: int = MAX_FILE_BYTES) -> bytes:
    """Return all bytes of the regular file at `path`.

    Raises InputError as `open_regular_file` does, if reading fails, and for more than `limit` bytes.
    """
    descriptor, size = _open_descriptor(path, what)  # a file object takes as long as the reading of a small image
    try:
        data = os.read(descriptor, min(size, limit) + 1)
        while len(data) != size and len(data) <= limit:  # a file that grows, one of /proc, or one of gigabytes
            if not (more := os.read(descriptor, _READ_BYTES)):
                break
            data += more
    except OSError as error:
        raise InputError(what, path, expected="a readable file", found=error.strerror, hint="Check the disk.") from None
    finally:
        os.close(descriptor)
    if len(data) > limit:
        hint = "Make it smaller or remove it."
        raise InputError(what, path, expected=f"at most {limit // 2**20} MB", found="a larger file", hint=hint)
    return data


def load_json(path: Path, what: str) -> Any:
    """Return what a JSON file holds. Raises InputError, ValueError or RecursionError, before it takes much memory."""
    data = read_regular_file(path, what, MAX_JSON_BYTES)
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES or data.count(b":") > MAX_JSON_KEYS:
        raise ValueError("too many values")
    return json.loads(data, parse_int=_parse_int)


def _parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    return int(text)


def normalise_name(name: str) -> str:
    r"""Return the name of a class as text that can be written everywhere: in NFC, with `\udcXX` for a byte XX.

    Names that look alike are equal then: macOS writes e with an accent as two characters, other systems as one. Bytes
    are those of names that are not UTF-8; `escape` writes them in the same way.
    """
    return unicodedata.normalize("NFC", name.encode("utf-8", "backslashreplace").decode())


def read_yaml(path: str, what: str) -> dict[str, Any]:
    """Return the mapping in a YAML file; aliases and duplicate keys are errors.

    Raises InputError if the file is missing, too large, not YAML, or not a mapping.
    """
    return read_yaml_texts(path, what)[0]


def read_yaml_texts(path: str, what: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what `read_yaml` returns, and by key how the file writes each value that is no list and no mapping."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        """A safe loader that also refuses aliases (they allow bombs) and duplicate keys (the last would win)."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("an alias (aliases are not allowed)")
            node = super().compose_node(parent, index)
            if isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_DIGITS and node.tag in _NUMBER_TAGS:
                raise yaml.YAMLError(f"a number of more than {MAX_DIGITS} digits")
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if duplicates := [key for key, count in Counter(map(str, keys)).items() if count > 1]:
                raise yaml.YAMLError(f"a key given twice: {', '.join(sorted(duplicates))}")
            return super().construct_mapping(node, deep=deep)

    try:
        # A pipe is allowed, as in `--config <(command)`; opened without blocking, one that nobody writes to is empty.
        with open(path, "rb", opener=_open_nonblocking) as file:
            text = file.read(MAX_YAML_BYTES + 1)
        if len(text) > MAX_YAML_BYTES:
            raise yaml.YAMLError(f"a file larger than {MAX_YAML_BYTES} bytes")
        loader = StrictLoader(text)
        node = loader.get_single_node()
        values = None if node is None else loader.construct_document(node)
    except FileNotFoundError:
        raise missing_path_error(what, path, "a readable YAML file") from None
    except OSError as error:
        raise InputError(
            what, path, expected="a readable YAML file", found=error.strerror, hint="Check the path."
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(what, path, expected="plain YAML", found=_yaml_problem(error), hint="Fix the file.") from None
    found = "a key that is not text: put it in quotes"
    if not isinstance(values, dict):
        found = {type(None): "an empty file", list: "a list"}.get(type(values), f"only {values!r:.40}")
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        hint = "Write one option a line, as in seed: 1."
        raise InputError(what, path, expected="a mapping (option: value)", found=found, hint=hint)
    assert isinstance(node, yaml.MappingNode)
    return values, {key.value: value.value for key, value in node.value if isinstance(value, yaml.ScalarNode)}


def _open_nonblocking(path: str, flags: int) -> int:
    nonblocking = getattr(os, "O_NONBLOCK", 0)  # Windows has no such pipes
    descriptor = os.open(path, flags | nonblocking)
    if nonblocking:
        os.set_blocking(descriptor, True)  # only the opening does not wait for a writer
    return descriptor


def _yaml_problem(error: Exception) -> str:
    """Return what is wrong with a YAML file, and where."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return one_line(error, max_length=200)
    problem = one_line(re.sub("^(but )?found ", "", getattr(error, "problem", "")), max_length=200)
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})"


def cpu_name() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
