"""Flushing to disk on systems that are not at hand. Each is simulated: what it refuses is refused here.

Run: pytest tests/core/test_flush.py.
"""

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from scsuite.core.errors import OutputError
from scsuite.core.files import write_atomic
from scsuite.core.flush import flush_file, flush_folder
from tests.run_cli import run_cli
from tests.tiny_args import FAULT_TRAIN_ARGS

F_FULLFSYNC = 51  # of macOS


@pytest.fixture(autouse=True)
def no_full_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush as on Linux, on macOS too."""
    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)


def refuse_as_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder can be opened, and no descriptor flushed that is only for reading."""
    os_open, os_fsync = os.open, os.fsync

    def open_file(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return os_open(path, flags, *args, **kwargs)

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        os_fsync(descriptor)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fsync", fsync)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_as_windows(monkeypatch)


@pytest.mark.usefixtures("windows")
def test_runs_are_made_and_checkpoints_written_where_folders_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scsuite.report.figures.save_figure", lambda *_: None)
    answer = run_cli(*FAULT_TRAIN_ARGS, "--runs-dir", tmp_path / "runs", "--json")
    assert answer.code == 0, answer.err
    assert list((answer.run_dir / "checkpoints").iterdir())


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_flushes_no_folders_is_accepted(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    flush_folder(tmp_path)
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match=os.strerror(code)):
        flush_file(tmp_path / "a")


def test_a_disk_that_fails_to_flush_a_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=os.strerror(errno.EIO)):
        write_atomic(tmp_path / "a", b"data")


def test_on_macos_the_disk_is_flushed_too_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_name: list[bool] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", F_FULLFSYNC, raising=False)

    def record(_descriptor: int, command: int) -> None:
        assert command == F_FULLFSYNC
        has_name.append((tmp_path / "a").exists())

    monkeypatch.setattr(fcntl, "fcntl", record)
    write_atomic(tmp_path / "a", b"data")
    assert has_name == [False, True]


def test_without_that_command_of_macos_the_usual_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", F_FULLFSYNC, raising=False)  # which this system refuses
    monkeypatch.setattr(os, "fsync", flushed.append)
    write_atomic(tmp_path / "a", b"data")
    assert len(flushed) == 2
