"""A power cut at any time: of what a run wrote, only what it fsynced is left.

A journal of all that a good run does to its directory is replayed on a model of a disk that forgets. After each
operation two disks are built: one that kept nothing but what was fsynced, names and contents; one that kept every name
(each creation, rename and removal) but no contents that were not fsynced. A run must go on from either.
"""

import base64
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import luck
from tests.faults.box import Box, new_box, run
from tests.faults.case import Row
from tests.faults.running import RUN, goes_on

Disk = dict[str, bytes]  # contents by name, relative to the runs directory


def keep_journal(journal: Path, root: Path) -> None:
    """Note every operation below `root`; called in the program's process before it starts."""
    luck.commit_every_epoch()
    names: dict[int, str] = {}
    functions = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "unlink", "mkdir")}

    def note(**entry: Any) -> None:
        if any(str(value).startswith(str(root)) for value in entry.values()):
            with journal.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def opened(path: Any, flags: int, *args: Any, **named: Any) -> int:
        descriptor: int = functions["open"](path, flags, *args, **named)
        names[descriptor] = str(path)
        if flags & os.O_CREAT:
            note(do="create", path=str(path), truncate=bool(flags & os.O_TRUNC))
        return descriptor

    def written(descriptor: int, data: Any) -> int:
        count: int = functions["write"](descriptor, data)
        note(do="write", path=names.get(descriptor, ""), data=base64.b64encode(bytes(data)[:count]).decode())
        return count

    def synced(descriptor: int) -> None:
        functions["fsync"](descriptor)
        note(do="fsync", path=names.get(descriptor, ""))

    def replaced(old: Any, new: Any, **named: Any) -> None:
        functions["replace"](old, new, **named)
        note(do="replace", path=str(old), new=str(new))

    def on_path(name: str) -> Any:
        def noted(path: Any, *args: Any, **named: Any) -> None:
            functions[name](path, *args, **named)
            note(do=name, path=str(path))

        return noted

    os.open, os.write, os.fsync, os.replace = opened, written, synced, replaced  # type: ignore[assignment]
    os.unlink, os.mkdir = on_path("unlink"), on_path("mkdir")


@dataclass
class _File:
    now: bytes = b""
    safe: bytes = b""


@dataclass
class _Folder:
    now: dict[str, "_File | _Folder"] = field(default_factory=dict)
    safe: dict[str, "_File | _Folder"] = field(default_factory=dict)


class ForgetfulDisk:
    """What is there now, and what a power cut would leave."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, _Folder()

    def apply(self, entry: dict[str, Any]) -> None:
        """One operation of the journal."""
        folder, name = self._place(entry["path"])
        there = folder.now.get(name)
        match entry["do"]:
            case "mkdir" if name:  # not the top itself
                folder.now[name] = _Folder()
            case "create" if there is None or entry["truncate"]:
                folder.now[name] = there = there if isinstance(there, _File) else _File()
                there.now = b""
            case "write" if isinstance(there, _File):
                there.now += base64.b64decode(entry["data"])
            case "fsync" if isinstance(there, _File):
                there.safe = there.now
            case "fsync":
                target = there if isinstance(there, _Folder) else self.top
                target.safe = dict(target.now)
            case "replace":
                new_folder, new_name = self._place(entry["new"])
                new_folder.now[new_name] = folder.now.pop(name)
            case "unlink":
                folder.now.pop(name, None)

    def _place(self, path: str) -> tuple[_Folder, str]:
        *folders, name = Path(path).relative_to(self.root).parts or ("",)
        folder = self.top
        for part in folders:
            inner = folder.now[part]
            assert isinstance(inner, _Folder)
            folder = inner
        return folder, name

    def after_a_power_cut(self, *, names_kept: bool) -> Disk:
        """The contents of all files that are left."""
        return dict(_files(self.top, "", names_kept))


def _files(folder: _Folder, above: str, names_kept: bool) -> Iterator[tuple[str, bytes]]:
    for name, item in (folder.now if names_kept else folder.safe).items():
        if isinstance(item, _Folder):
            yield from _files(item, f"{above}{name}/", names_kept)
        else:
            yield above + name, item.safe


def disks(journal: Path, root: Path) -> Iterator[tuple[str, str, Disk]]:
    """The two disks after each operation, each different one once: the operation, the last state that was committed.

    A state is committed when the run has gone on to something else.
    """
    disk, seen = ForgetfulDisk(root), set[int]()
    written = committed = ""
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        disk.apply(entry)
        if entry["do"] == "replace" and "/checkpoints/" in entry["new"]:
            written = Path(entry["new"]).name
        elif "checkpoints" not in entry["path"]:
            committed = written
        for names_kept in (False, True):
            left = disk.after_a_power_cut(names_kept=names_kept)
            key = hash((committed, *sorted(left.items())))
            if key not in seen:
                seen.add(key)
                yield (
                    f"{entry['do']} {Path(entry['path']).name}, {'all' if names_kept else 'fsynced'} names",
                    committed,
                    left,
                )


def power_cuts(quick: bool, reference: Path) -> Row:
    """A run goes on from what each power cut leaves, to the same end."""
    row = Row("power cut after each operation: only what was fsynced is left", "resumed to the same end, tolerance 0")
    with new_box() as whole:
        journal = whole.path.parent / "journal"
        run(whole, *RUN, before=lambda: keep_journal(journal, whole.runs))
        for name, committed, left in itertools.islice(disks(journal, whole.runs), 0, None, 8 if quick else 1):
            there = not committed or any(path.endswith(f"/{committed}") for path in left)
            with new_box() as box:
                row.count(name, ([] if there else [f"{committed} is lost"]) + _goes_on_from(left, box, reference))
    return row


def _goes_on_from(left: Disk, box: Box, reference: Path) -> list[str]:
    for name, data in left.items():
        path = box.runs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if not any(name.endswith("/config.yaml") for name in left):
        # Nothing was begun that could be lost: no state, no row.
        begun = [name for name in left if "checkpoints/" in name or name.endswith(".csv")]
        return [f"without settings, but with {begun}"] if begun else []
    return goes_on(box, reference)
