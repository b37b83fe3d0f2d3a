"""A power loss at any time: of what a run wrote, only what it fsynced is left.

In: a journal of all operations of a good run on its directory, replayed on a model of a disk. After each operation two
disks are built: one with only what was fsynced, names and contents; one with every name (each creation, rename and
removal) but no contents that were not fsynced. Out: whether a run resumes from either.
"""

import base64
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import injection as inject
from tests.faults.case import ScoreRow
from tests.faults.runtime_faults import resume
from tests.faults.sandbox import Sandbox, new_sandbox, run
from tests.tiny_args import RESUME_ARGS

Disk = dict[str, bytes]  # contents by name, relative to the runs directory


def record_journal(journal: Path, root: Path) -> None:
    """Record every operation below `root`; called in the program's process before it starts."""
    inject.save_every_epoch()
    names: dict[int, str] = {}
    functions = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "unlink", "mkdir")}

    def record(**entry: Any) -> None:
        if any(str(value).startswith(str(root)) for value in entry.values()):
            with journal.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def open_and_record(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        descriptor: int = functions["open"](path, flags, *args, **kwargs)
        names[descriptor] = str(path)
        if flags & os.O_CREAT:
            record(operation="create", path=str(path), truncate=bool(flags & os.O_TRUNC))
        return descriptor

    def write_and_record(descriptor: int, data: Any) -> int:
        count: int = functions["write"](descriptor, data)
        encoded = base64.b64encode(bytes(data)[:count]).decode()
        record(operation="write", path=names.get(descriptor, ""), data=encoded)
        return count

    def fsync_and_record(descriptor: int) -> None:
        functions["fsync"](descriptor)
        record(operation="fsync", path=names.get(descriptor, ""))

    def replace_and_record(old: Any, new: Any, **kwargs: Any) -> None:
        functions["replace"](old, new, **kwargs)
        record(operation="replace", path=str(old), new=str(new))

    def wrap_path_operation(name: str) -> Any:
        def call_and_record(path: Any, *args: Any, **kwargs: Any) -> None:
            functions[name](path, *args, **kwargs)
            record(operation=name, path=str(path))

        return call_and_record

    os.open, os.write, os.fsync = open_and_record, write_and_record, fsync_and_record  # type: ignore[assignment]
    os.replace = replace_and_record  # type: ignore[assignment]
    os.unlink, os.mkdir = wrap_path_operation("unlink"), wrap_path_operation("mkdir")


@dataclass
class _File:
    current: bytes = b""
    synced: bytes = b""


@dataclass
class _Folder:
    current: dict[str, "_File | _Folder"] = field(default_factory=dict)
    synced: dict[str, "_File | _Folder"] = field(default_factory=dict)


class ModelDisk:
    """The current contents of a disk, and what a power loss would leave of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, _Folder()

    def apply(self, entry: dict[str, Any]) -> None:
        """Replay one operation of the journal."""
        folder, name = self._locate(entry["path"])
        item = folder.current.get(name)
        match entry["operation"]:
            case "mkdir" if name:  # not the top itself
                folder.current[name] = _Folder()
            case "create" if item is None or entry["truncate"]:
                folder.current[name] = item = item if isinstance(item, _File) else _File()
                item.current = b""
            case "write" if isinstance(item, _File):
                item.current += base64.b64decode(entry["data"])
            case "fsync" if isinstance(item, _File):
                item.synced = item.current
            case "fsync":
                target = item if isinstance(item, _Folder) else self.top
                target.synced = dict(target.current)
            case "replace":
                new_folder, new_name = self._locate(entry["new"])
                new_folder.current[new_name] = folder.current.pop(name)
            case "unlink":
                folder.current.pop(name, None)

    def _locate(self, path: str) -> tuple[_Folder, str]:
        *folders, name = Path(path).relative_to(self.root).parts or ("",)
        folder = self.top
        for part in folders:
            inner = folder.current[part]
            assert isinstance(inner, _Folder)
            folder = inner
        return folder, name

    def after_power_loss(self, *, all_names: bool) -> Disk:
        """The contents of all files that are left."""
        return dict(_walk(self.top, "", all_names))


def _walk(folder: _Folder, prefix: str, all_names: bool) -> Iterator[tuple[str, bytes]]:
    for name, item in (folder.current if all_names else folder.synced).items():
        if isinstance(item, _Folder):
            yield from _walk(item, f"{prefix}{name}/", all_names)
        else:
            yield prefix + name, item.synced


def possible_disks(journal: Path, root: Path) -> Iterator[tuple[str, str, Disk]]:
    """The two disks after each operation, without repetitions: the operation, the last committed checkpoint, the files.

    A checkpoint is committed when the run has continued with something else.
    """
    disk, seen_hashes = ModelDisk(root), set[int]()
    written = committed = ""
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        disk.apply(entry)
        if entry["operation"] == "replace" and "/checkpoints/" in entry["new"]:
            written = Path(entry["new"]).name
        elif "checkpoints" not in entry["path"]:
            committed = written
        for all_names in (False, True):
            files = disk.after_power_loss(all_names=all_names)
            key = hash((committed, *sorted(files.items())))
            if key not in seen_hashes:
                seen_hashes.add(key)
                which = "all" if all_names else "fsynced"
                yield f"{entry['operation']} {Path(entry['path']).name}, {which} names", committed, files


def power_losses(quick: bool, reference: Path) -> ScoreRow:
    """A run resumes from what each power loss leaves, to the same end."""
    row = ScoreRow("power loss after each operation: only fsynced data is left", "resumed to the same end, tolerance 0")
    with new_sandbox() as journal_sandbox:
        journal, root = journal_sandbox.path.parent / "journal", journal_sandbox.runs
        run(journal_sandbox, *RESUME_ARGS, before=lambda: record_journal(journal, root))
        for name, committed, files in itertools.islice(possible_disks(journal, root), 0, None, 16 if quick else 1):
            is_kept = not committed or any(path.endswith(f"/{committed}") for path in files)
            with new_sandbox() as sandbox:
                problems = [] if is_kept else [f"{committed} is lost"]
                row.count(name, problems + _resume_from(files, sandbox, reference))
    return row


def _resume_from(files: Disk, sandbox: Sandbox, reference: Path) -> list[str]:
    for name, data in files.items():
        path = sandbox.runs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if not any(name.endswith("/config.yaml") for name in files):
        # The run had not started: there must be no checkpoint and no row that could be lost.
        started = [name for name in files if "checkpoints/" in name or name.endswith(".csv")]
        return [f"no config.yaml, but {started}"] if started else []
    return resume(sandbox, reference)
