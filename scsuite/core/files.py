"""Files that are whole or not there, and configuration files that hold no surprises. Imports no torch."""

import contextlib
import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scsuite.core.errors import InputError, OutputError

YAML_BYTES_MAX = 64 * 1024  # a configuration or a policy is a page of text, not a data file


def commit(path: Path, data: bytes | bytearray) -> None:
    """Write a file whole or not at all: to a sibling, fsynced, renamed over `path`, the directory fsynced.

    Raises OutputError; the sibling is removed, and what was under `path` before is still there.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        if os.name == "posix":  # a directory cannot be opened elsewhere
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(
            "cannot write",
            path,
            expected=f"room and permission for {len(data):,} bytes",
            found=error.strerror or error,
            hint="Free some space or choose another --runs-dir.",
        ) from None


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Commit a CSV file."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    commit(path, buffer.getvalue().encode())


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
