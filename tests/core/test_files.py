"""Files are complete or not there; YAML is plain or refused, and runs nothing. Run: pytest tests/core/test_files.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scsuite.core.errors import InputError, OutputError
from scsuite.core.files import (
    normalise_name,
    open_regular_file,
    read_regular_file,
    read_yaml,
    read_yaml_texts,
    remove_partial_files,
    write_atomic,
)


def test_a_written_file_holds_exactly_its_bytes_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.bin", b"first")
    write_atomic(tmp_path / "a.bin", b"\x00second\r\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00second\r\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127 + "x"])
def test_a_name_of_the_greatest_length_can_be_written(name: str, tmp_path: Path) -> None:
    write_atomic(tmp_path / name, b"data")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(OutputError, match=r"at most 255 bytes.*Give a shorter name"):
        write_atomic(tmp_path / (name + "y"), b"data")


def test_a_full_disk_is_an_output_error_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "a.bin", b"old")

    def raise_full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", raise_full)
    with pytest.raises(OutputError, match="No space left on device") as error:
        write_atomic(tmp_path / "a.bin", b"new")
    assert error.value.where == tmp_path / "a.bin"
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_name: list[bool] = []
    fsync = os.fsync

    def record_and_fsync(descriptor: int) -> None:
        has_name.append((tmp_path / "a.bin").exists())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record_and_fsync)
    write_atomic(tmp_path / "a.bin", b"data")
    assert has_name == [False, True]  # the file, and after it was renamed its directory


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--runs-dir"):
        write_atomic(tmp_path / "nowhere" / "a.bin", b"data")


def test_no_process_writes_into_the_file_of_another(tmp_path: Path) -> None:
    # The file is complete at each moment, whoever wrote it; with one temporary name half of another's was seen.
    code = (
        "import sys; from pathlib import Path; from scsuite.core.files import write_atomic\n"
        "for _ in range(100): write_atomic(Path(sys.argv[1]), sys.argv[2].encode() * 1_000_000)"
    )
    path = tmp_path / "a.bin"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), letter]) for letter in "ab"]
    contents = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            data = path.read_bytes()
            contents.add((len(data), data[:1] * len(data) == data))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert contents == {(1_000_000, True)}
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_of_the_user_is_neither_used_nor_removed(tmp_path: Path) -> None:
    names = [".a.bin.part", "a.bin.part", ".scsuite-1-notes.part", ".scsuite--0123456789abcdef.part", "a.part"]
    for name in names:
        (tmp_path / name).write_bytes(b"a user's")
    write_atomic(tmp_path / "a.bin", b"data")
    remove_partial_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "a.bin"])
    assert {(tmp_path / name).read_bytes() for name in names} == {b"a user's"}


@pytest.mark.skipif(os.name != "posix", reason="the owner of a file is known by its process there")
def test_only_the_temporary_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, used, old = (
        tmp_path / f".scsuite-{pid}-{digit * 16}.part"
        for pid, digit in ((dead.pid, "0"), (os.getppid(), "1"), (1, "2"))
    )
    for path in (left, used, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))  # its process has ended long ago, and another one has its number
    remove_partial_files(tmp_path)
    assert list(tmp_path.iterdir()) == [used]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_signal_while_a_file_is_written_leaves_no_part_of_it(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_signal(_descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", raise_signal)
    with pytest.raises(error):
        write_atomic(tmp_path / "a.bin", b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_class_has_one_name_in_both_normal_forms_and_the_name_is_valid_text() -> None:
    assert normalise_name("e\u0301clair") == normalise_name("\u00e9clair") == "\u00e9clair"
    assert normalise_name(os.fsdecode(b"caf\xe9")) == r"caf\udce9"
    assert normalise_name("[red] $x_1$ 猫\n") == "[red] $x_1$ 猫\n"
    assert normalise_name(normalise_name(os.fsdecode(b"e\xcc\x81\xff"))) == r"é\udcff"


def test_only_regular_files_of_a_limited_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"data")
    assert read_regular_file(tmp_path / "a.bin", "data", limit=4) == b"data"
    with pytest.raises(InputError, match=r"data: .*a larger file"):
        read_regular_file(tmp_path / "a.bin", "data", limit=3)
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(InputError, match="expected a regular file, found a folder, pipe or device"):
            open_regular_file(tmp_path / name, "data")


def test_a_missing_path_is_reported_with_a_similar_name_or_the_folder_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    words = {
        "photo": f"No such file or directory in {tmp_path}. Did you mean photos?",
        str(tmp_path / "photo"): f"No such file or directory. Did you mean {tmp_path}/photos?",
        "no/where": f"No such file or directory in {tmp_path}. There is no folder no either.",
        "zzz": "Check the path.",
    }
    for path, text in words.items():
        with pytest.raises(InputError) as error:
            open_regular_file(Path(path), "checkpoint")
        assert str(error.value).startswith(f"checkpoint: {path}: expected a readable file, found No such file")
        assert str(error.value).endswith(text)


def write_yaml(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "given.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_a_mapping_is_read_with_the_types_of_yaml(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "epochs: 3\nlr_max: 0.4\nname: a b\nnested: {list: [1, null, true]}\n")
    assert read_yaml(path, "configuration") == {
        "epochs": 3, "lr_max": 0.4, "name": "a b", "nested": {"list": [1, None, True]},
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_that_windows_saved_is_read(encoding: str, tmp_path: Path) -> None:
    assert read_yaml(write_yaml(tmp_path, "name: é\r\nepochs: 3\r\n".encode(encoding)), "configuration") == {
        "name": "é", "epochs": 3,
    }  # fmt: skip


def test_values_come_with_the_text_of_the_file(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "a: no\nb: 010\nc: '010'\nd: [1]\ne:\n")
    texts = {"a": "no", "b": "010", "c": "010", "e": ""}
    assert read_yaml_texts(path, "configuration") == ({"a": False, "b": 8, "c": "010", "d": [1], "e": None}, texts)


BAD_YAML = {
    "empty": ("", "an empty file"),
    "only a comment": ("# epochs: 3\n", "an empty file"),
    "a list": ("- 1\n- 2\n", "a list"),
    "a word": ("hello", "only 'hello'"),
    "an assignment": ("epochs=3\n", "only 'epochs=3'"),
    "a key that is not text": ("1: 2\n", "a key that is not text"),
    "a key that YAML reads as true": ("on: 2\n", "a key that is not text"),
    "a value without its colon": ("a: 1\nb 2\n", "could not find expected ':' (line 3, column 1)"),
    "two documents": ("a: 1\n---\nb: 2\n", "another document"),
    "not yaml": ("a: [1, 2\n", "expected ',' or ']'"),
    "a tab": ("a:\n\tb: 1\n", "cannot start any token"),
    "an alias": ("a: &x [1]\nb: *x\n", "aliases are not allowed"),
    "a merge key": ("a: 1\n<<: {b: 2}\n", "merge"),
    "a duplicate key": ("a: 1\nb: 2\na: 3\n", "given twice: a"),
    "a nested duplicate key": ("a: {p: 1, p: 2}\n", "given twice: p"),
    "a key that is a list": ("? [a]\n: 1\n", "unhashable"),
    "an impossible date": ("a: 2001-99-99\n", "month must be in 1..12"),
    "an endless number": ("a: 1" + "0" * 5000 + "\n", "digits"),
    "an endless number of base 60": ("a: 1" + ":59" * 20_000 + "\n", "more than 300 digits"),
    "an endless fraction of base 60": ("a: 1" + ":59" * 20_000 + ".5\n", "more than 300 digits"),
    "an endless number of base 16": ("a: 0x" + "f" * 20_000 + "\n", "more than 300 digits"),
    "bytes that are not text": (b"a: \xff\xfe\n", "invalid start byte"),
    "a control character": ("a: \x00\n", "special characters"),
    "too deep": ("a: " + "[" * 5000 + "]" * 5000, "recursion"),
    "too large": ("a: " + "x" * 65536, "larger than 65536 bytes"),
    "a python tag": ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
}


@pytest.mark.parametrize(("text", "found"), BAD_YAML.values(), ids=BAD_YAML.keys())
def test_a_file_that_is_not_a_plain_mapping_is_refused_in_one_line(
    tmp_path: Path, text: str | bytes, found: str
) -> None:
    path = write_yaml(tmp_path, text)
    with pytest.raises(InputError) as error:
        read_yaml(path, "configuration")
    message = str(error.value)
    assert message.startswith(f"configuration: {path}: expected ")
    assert found in message
    assert "\n" not in message
    assert len(message) < len(path) + 400


@pytest.mark.parametrize("path", ["nowhere.yaml", "a\0b.yaml", "."])
def test_a_file_that_cannot_be_opened_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="configuration: "):
        read_yaml(path, "configuration")


def test_a_link_to_nothing_is_named_as_one(tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(tmp_path / "gone.yaml")
    with pytest.raises(InputError, match=r"found a link to nothing\. Check the path"):
        read_yaml(str(link), "configuration")


def test_a_python_tag_runs_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for call in ("os.system", "subprocess.check_output", "builtins.eval"):
        text = f"a: !!python/object/apply:{call} ['touch {canary}']\n"
        with pytest.raises(InputError):
            read_yaml(write_yaml(tmp_path, text), "configuration")
    assert not canary.exists()


def test_a_duplicate_among_as_many_keys_as_fit_is_refused(tmp_path: Path) -> None:
    keys = [f"{number:x}" for number in range(4096, 4096 + 11_000)]
    path = write_yaml(tmp_path, "{" + ",".join([*keys, keys[0]]) + "}")
    with pytest.raises(InputError, match="given twice: 1000"):
        read_yaml(path, "configuration")
