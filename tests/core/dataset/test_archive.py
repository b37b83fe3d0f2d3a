"""Archives: every member is read, nothing over the limits, nothing is written to disk."""

import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from scsuite.core.dataset import archive, archive_limits
from scsuite.core.dataset.archive_limits import Link
from scsuite.core.errors import InputError
from scsuite.core.files import MAX_FILE_BYTES
from tests.core.dataset.helpers import encode, write_tar, write_zip

TREE = {"train/cat/a.png": b"one", "train/dog/b.png": b"x" * 1000, "README.txt": b"text"}


def is_png(name: str) -> bool:
    return name.endswith(".png")


def members(path: Path) -> dict[str, bytes | Link | None]:
    with path.open("rb") as file:
        return dict(archive.read_members(file, str(path), is_png))


def walk_and_read(path: Path) -> tuple[archive.ArchiveWalk, dict[str, bytes]]:
    """Walk the archive, then read all of its images, those behind links too."""
    with path.open("rb") as file:
        walk = archive.walk_archive(file, str(path), is_png)
        names = filter(is_png, [*walk.positions, *walk.links])
        return walk, dict(archive.read_files(file, str(path), walk, list(names)))


def link(member_type: bytes, name: str = "train/cat/l.png", target: str = "a.png") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = member_type, target
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_each_compression_of_a_tar_gives_the_wanted_members(tmp_path: Path, mode: str) -> None:
    assert members(write_tar(tmp_path / "images", TREE, mode)) == {**TREE, "README.txt": None}


def test_a_zip_gives_the_wanted_members(tmp_path: Path) -> None:
    assert members(write_zip(tmp_path / "a.zip", TREE)) == {**TREE, "README.txt": None}


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_in_extended_headers_are_complete(tmp_path: Path, tar_format: int) -> None:
    long_name = "train/" + "ä" * 80 + "/" + "b" * 200 + ".png"
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name in (long_name, "train/cat/a.png"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    assert members(path) == {long_name: b"abc", "train/cat/a.png": b"abc"}


def test_dots_and_folders_are_normalised(tmp_path: Path) -> None:
    folder = tarfile.TarInfo("./train/")
    folder.type = tarfile.DIRTYPE
    result = members(write_tar(tmp_path / "a.tar", {"./train//cat/./a.png": b"1"}, "w", folder))
    assert result == {"train/cat/a.png": b"1", "train/": None}


@pytest.mark.parametrize("name", ["../x.png", "/abs.png", "a/../../x.png", "C:\\x.png", "a\\..\\..\\b.png", "C:x.png"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_names_out_of_the_archive_are_refused(tmp_path: Path, name: str, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "a", {"ok.png": b"1", name: b"2"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="leads out"):
        members(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_nul_in_a_zip_name_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"aXb.png": b"1"})
    path.write_bytes(path.read_bytes().replace(b"aXb", b"a\0b"))
    with pytest.raises(InputError, match="leads out"):
        members(path)


REFUSED_TYPES = [
    (tarfile.FIFOTYPE, "a pipe"),
    (tarfile.CHRTYPE, "a device"),
    (tarfile.BLKTYPE, "a device"),
    (b"Z", "a special file"),
]


@pytest.mark.parametrize(("member_type", "words"), REFUSED_TYPES)
def test_pipes_and_devices_in_a_tar_are_refused_by_name(tmp_path: Path, member_type: bytes, words: str) -> None:
    path = write_tar(tmp_path / "a.tar", TREE, "w", link(member_type))
    with pytest.raises(InputError, match=rf"train/cat/l.png.*found {words}"):
        members(path)


def zip_link(name: str, target: str) -> tuple[zipfile.ZipInfo, str]:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, target


LINKS = [
    ("train/cat/l.png", "a.png"),  # to a member before it
    ("test/cat/l.png", "../../train/cat/a.png"),
    ("train/cat/chain.png", "l.png"),
    ("train/cat/other.png", "../README.txt"),  # the wrong folder
    ("train/cat/loop.png", "loop.png"),
    ("README", "../outside/README.md"),  # no image: nobody asks where it leads
    ("test/dog", "../train/dog"),
]


def links_of_a_tar(path: Path) -> Path:
    return write_tar(path, TREE, "w", *(link(tarfile.SYMTYPE, *names) for names in LINKS))


def links_of_a_zip(path: Path) -> Path:
    with zipfile.ZipFile(write_zip(path, TREE), "a") as file:
        for names in LINKS:
            file.writestr(*zip_link(*names))
    return path


@pytest.mark.parametrize("write", [links_of_a_tar, links_of_a_zip])
def test_links_to_members_give_their_contents_and_others_are_listed(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    walk, files = walk_and_read(write(tmp_path / "a"))
    one = b"one"
    assert files == {
        "train/cat/a.png": one, "train/cat/l.png": one, "test/cat/l.png": one, "train/cat/chain.png": one,
        "train/dog/b.png": b"x" * 1000,
    }  # fmt: skip
    assert walk.other_links == ("README", "test/dog", "train/cat/loop.png", "train/cat/other.png")


def test_a_hard_link_in_a_tar_is_the_file_that_it_names(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", TREE, "w", link(tarfile.LNKTYPE, "test/cat/h.png", "train/cat/a.png"))
    assert walk_and_read(path)[1]["test/cat/h.png"] == b"one"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/x.png", "C:/x.png", "a/../../../../x.png"])
def test_an_image_that_is_a_link_out_of_the_archive_is_refused(tmp_path: Path, target: str) -> None:
    paths = [write_tar(tmp_path / "a.tar", TREE, "w", link(tarfile.SYMTYPE, target=target)), tmp_path / "a.zip"]
    with zipfile.ZipFile(paths[1], "w") as file:
        file.writestr(*zip_link("train/cat/l.png", target))
    for path in paths:
        with pytest.raises(InputError, match=r"train/cat/l\.png: .* found a link out of the archive"):
            walk_and_read(path)
    with pytest.raises(InputError, match="leads out"):
        walk_and_read(write_tar(tmp_path / "b.tar", TREE, "w", link(tarfile.LNKTYPE, target=target)))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(write_zip(tmp_path / "a.zip", {"a.png": b"1"}).read_bytes())
    data[6] |= 1  # bit 0 of the flags in the member's own header ...
    data[data.index(b"PK\x01\x02") + 8] |= 1  # ... and in the directory's entry
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError, match="encrypted"):
        members(tmp_path / "a.zip")


def test_of_a_repeated_member_the_last_one_counts_as_for_tar(tmp_path: Path) -> None:
    extra = {"train/cat/b.png": b"first", "./train/cat/b.png": b"second", "train/cat/B.PNG": b"another", **TREE}
    path = write_tar(tmp_path / "a.tar", extra)
    assert walk_and_read(path)[1] == {**{k: v for k, v in TREE.items() if is_png(k)}, "train/cat/b.png": b"second"}
    with tarfile.open(path, "a") as tar:  # a file takes the place of a link, and a link that of a file
        tar.addfile(link(tarfile.SYMTYPE, "train/cat/b.png", "a.png"))
        tar.addfile(link(tarfile.SYMTYPE, "train/cat/a.png", "/etc/passwd"[1:]))
        info = tarfile.TarInfo("train/cat/a.png")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"newer"))
    assert walk_and_read(path)[1]["train/cat/b.png"] == b"newer"


def test_names_that_differ_in_letter_case_are_two_files(tmp_path: Path) -> None:
    tree = {"a/000.png": b"1", "a/000.PNG": b"2", "A/000.png": b"3"}
    for path in (write_zip(tmp_path / "a.zip", tree), write_tar(tmp_path / "a.tar", tree)):
        assert set(walk_and_read(path)[0].positions) == set(tree)


def test_backslashes_of_windows_programs_are_separators(tmp_path: Path) -> None:
    tree = {name.replace("/", "\\"): data for name, data in TREE.items()}
    for path in (write_zip(tmp_path / "a.zip", {**tree, "train\\emu\\": b""}), write_tar(tmp_path / "a.tar", tree)):
        walk, files = walk_and_read(path)
        assert files == {name: data for name, data in TREE.items() if is_png(name)}
        assert walk.folders == (frozenset({"train/emu"}) if path.suffix == ".zip" else frozenset())


def zip_with_raw_name(path: Path, raw: bytes, extra: bytes = b"") -> Path:
    """A zip with one member whose name has these bytes and no mark of UTF-8."""
    info = zipfile.ZipInfo("X" * len(raw))
    info.extra = extra
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, b"1")
    path.write_bytes(path.read_bytes().replace(b"X" * len(raw), raw))
    return path


def test_names_of_a_zip_without_the_mark_of_utf_8_are_decoded_or_reported(tmp_path: Path) -> None:
    walk, files = walk_and_read(zip_with_raw_name(tmp_path / "utf8.zip", "猫/é.png".encode()))
    assert (list(files), walk.legacy_names) == (["猫/é.png"], ())
    raw = "表/1.png".encode("shift-jis")  # its second byte is a backslash
    walk, files = walk_and_read(zip_with_raw_name(tmp_path / "sjis.zip", raw))
    assert list(files) == [raw.decode("cp437")]
    assert walk.legacy_names == (raw.decode("cp437"),)
    names = ["猫/1.png".encode("gbk"), "狗/2.png".encode("gbk")]  # the first is also an é in UTF-8
    path = write_zip(tmp_path / "gbk.zip", {"XX/1.png": b"1", "YY/2.png": b"2"})
    path.write_bytes(path.read_bytes().replace(b"XX", names[0][:2]).replace(b"YY", names[1][:2]))
    assert walk_and_read(path)[0].legacy_names == tuple(name.decode("cp437") for name in names)
    body = b"\1" + struct.pack("<L", zlib.crc32(raw)) + "表/1.png".encode()
    extra = struct.pack("<HH", 0x7075, len(body)) + body
    walk, files = walk_and_read(zip_with_raw_name(tmp_path / "unicode-path.zip", raw, extra))
    assert (list(files), walk.legacy_names) == (["表/1.png"], ())


def test_a_zip_behind_a_program_with_a_comment_or_with_zip64_is_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", TREE)
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"a comment " * 5000
    path.write_bytes(b"MZ program " * 1000 + path.read_bytes())
    assert members(path) == {**TREE, "README.txt": None}
    with (
        zipfile.ZipFile(tmp_path / "64.zip", "w") as file,
        file.open("train/cat/a.png", "w", force_zip64=True) as member,
    ):
        member.write(b"one")
    assert members(tmp_path / "64.zip") == {"train/cat/a.png": b"one"}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_tar_is_refused(tmp_path: Path, mode: str, fraction: float) -> None:
    tree = {f"{i}.png": bytes((i * 7 + j * j) % 256 for j in range(2000)) for i in range(20)}
    data = write_tar(tmp_path / "a", tree, mode).read_bytes()
    end = int(len(data) * fraction) if mode != "w" else int(20 * 2560 * fraction)  # without the tar's padding of zeros
    (tmp_path / "a").write_bytes(data[:end])
    with pytest.raises(InputError, match=r"early|damaged|empty"):
        members(tmp_path / "a")


def test_a_tar_truncated_between_two_members_is_refused(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "a.tar", {"a.png": b"1", "b.png": b"2"}).read_bytes()
    (tmp_path / "a.tar").write_bytes(data[:1024])  # header and contents of the first member, no end mark
    with pytest.raises(InputError, match="ends too early"):
        members(tmp_path / "a.tar")


def test_a_flipped_bit_is_detected_by_the_checksum(tmp_path: Path) -> None:
    tree = {"a.png": bytes((i * i + i // 7) % 256 for i in range(4000))}
    for path in (
        write_zip(tmp_path / "a.zip", tree),
        write_tar(tmp_path / "a.tar.xz", tree, "w:xz"),
        write_tar(tmp_path / "a.tar.gz", tree, "w:gz"),
        write_tar(tmp_path / "a.tar.bz2", tree, "w:bz2"),
    ):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(InputError, match="damaged"):
            members(path)


def test_a_wrong_size_in_a_header_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    over = f"over {MAX_FILE_BYTES // 2**20} MB"
    for size, words in ((MAX_FILE_BYTES + 1, over), (2**33, over), (-5, "in one member")):
        info = tarfile.TarInfo("a.png")
        info.size = size
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(InputError, match=words):
            members(path)


def test_a_long_name_header_of_gigabytes_is_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**31
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(InputError, match="a header of 2,147,483,648 bytes"):
        members(tmp_path / "a.tar")


def test_limits_count_the_decompressed_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {f"{i}.png": bytes(10_000) for i in range(10)}
    monkeypatch.setattr(archive_limits, "MAX_TOTAL_BYTES", 50_000)
    for path in (write_tar(tmp_path / "a.tar.gz", tree, "w:gz"), write_zip(tmp_path / "a.zip", tree)):
        with pytest.raises(InputError, match="than"):
            members(path)
    monkeypatch.undo()
    monkeypatch.setattr(archive_limits, "MAX_MEMBERS", 9)
    for path in (tmp_path / "a.tar.gz", tmp_path / "a.zip"):
        with pytest.raises(InputError, match="more than 9 members"):
            members(path)


def test_a_zip_directory_of_a_million_members_is_refused_before_parsing(tmp_path: Path) -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 60 * 2**20, 0, 0)
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + end)
    with pytest.raises(InputError, match="more than 300,000 members"):
        members(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"hello, this is a text file " * 40, "a text file"),
        (b"hello", "a text file"),
        (b"<html>" + b"x" * 600, "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer"),
        (encode(Image.new("RGB", (8, 8))), r"found a PNG\. Give"),
        (b"\xfe" * 600, "another kind of file"),
        (b"7z\xbc\xaf\x27\x1c" + b"x" * 600, "a 7-Zip file"),
        (b"Rar!\x1a\x07\0" + b"x" * 600, "a RAR file"),
        (b"\x1f\x8b" + b"x" * 600, "damaged"),
        (b"PK\x03\x04" + b"x" * 600, "ends too early"),
    ],
)
def test_other_files_are_named_by_their_type(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        members(tmp_path / "a.zip")
    assert caught.value.exit_code == 3


PAX_BODIES = [
    b"x path=a\n",
    b"0 path=a\n",
    b"1 path=a\n",
    b"99 path=a\n",
    b"-9 path=a\n",
    b"8 path a",
    b"path=a",
    b"=" * 600,
    b"5 =a\n",
    b"1000011 a=" + b"7" * 1_000_000 + b"\n",  # tarfile searches digits in quadratic time
]


@pytest.mark.parametrize("body", PAX_BODIES)
def test_a_damaged_extended_header_is_refused_at_once(tmp_path: Path, body: bytes) -> None:
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    header = info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)
    member = tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(header + member + bytes(1024))
    with pytest.raises(InputError, match="a damaged header"):  # an early version read "x path=a" for ever
        members(tmp_path / "a.tar")


def test_a_negative_size_in_an_extended_header_is_refused(tmp_path: Path) -> None:
    body = b"11 size=-5\n"
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    header = info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(512 - len(body))
    (tmp_path / "a.tar").write_bytes(header + tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(InputError, match="in one member"):
        members(tmp_path / "a.tar")


def header_block(name: str, size: int = 0, member_type: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, member_type
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)
MEMBER = header_block("a.png", 3) + b"one" + bytes(509)
REFUSED_TARS = {
    "no end mark": (MEMBER, "ends too early"),
    "a truncated header": (MEMBER + header_block("b.png")[:100], "ends too early"),
    "truncated contents": (MEMBER + header_block("b.png", 9) + b"123", "ends too early"),
    "a long name without its member": (MEMBER + header_block("x", 512, tarfile.GNUTYPE_LONGNAME), "ends too early"),
    "a long name and the end": (MEMBER + header_block("x", 512, b"L") + b"a" * 512 + END, "damaged"),
    "garbage for a header": (MEMBER + b"x" * 512 + END, "a damaged header"),
    "a wrong checksum": (MEMBER + MEMBER.replace(b"a.png", b"b.png") + END, "a damaged header"),
    "nine headers in a row": (header_block("x", 0, b"x") * 9 + MEMBER + END, "9 headers in a row"),
    "a GNU sparse file": (header_block("a.png", 0, b"S") + END, "a sparse file"),
    "a pax sparse file": (
        header_block("x", 22, b"x") + b"22 GNU.sparse.major=1\n" + bytes(490) + MEMBER + END,
        "sparse",
    ),
    "a global sparse file": (
        header_block("x", 22, b"g") + b"22 GNU.sparse.minor=0\n" + bytes(490) + MEMBER + END,
        "sparse",
    ),
    "a NUL in a long name": (header_block("x", 9, b"L") + b"../x\0.png" + bytes(503) + MEMBER + END, "leads out"),
    "2**62 bytes": (MEMBER + header_block("a.txt", 2**62) + END, "GB in all"),
}


@pytest.mark.parametrize("name", REFUSED_TARS)
def test_a_tar_that_tarfile_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    data, words = REFUSED_TARS[name]
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match=words):
        members(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "data",
    [
        MEMBER + bytes(512),  # half of an end mark
        MEMBER + END + b"garbage" * 1000,  # nobody reads behind the end
        header_block("x", 16, b"g") + b"16 comment=hash\n" + bytes(496) + MEMBER + END,  # as `git archive` writes it
    ],
)
def test_a_tar_with_an_end_mark_is_complete(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    assert members(tmp_path / "a.tar") == {"a.png": b"one"}


def test_a_zip_member_without_a_name_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"X": b"1"})
    data = path.read_bytes()
    for start, offset in ((b"PK\x03\x04", 26), (b"PK\x01\x02", 28)):
        position = data.index(start) + offset  # of the length of the name
        data = data[:position] + struct.pack("<H", 0) + data[position + 2 :]
    path.write_bytes(data)
    with pytest.raises(InputError, match="archive"):
        members(path)
