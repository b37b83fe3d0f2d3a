"""A folder and an archive of the same files give the same images; unusual files are named and never block."""

import io
import os
import socket
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scsuite.core.dataset import Dataset, load_dataset
from scsuite.core.dataset.folder import SkippedFiles, iter_image_files
from scsuite.core.dataset.folder_walk import FolderWalk, FoundFile
from scsuite.core.errors import InputError
from tests.core.dataset.helpers import class_tree, encode, image_bytes, write_folder, write_tar, write_zip

TREE = class_tree({"train/cat": 3, "train/dog": 2, "test/cat": 1, "test/dog": 2})


def load(path: Path, **options: Any) -> Dataset:
    return load_dataset(str(path), **options)


def test_every_container_gives_the_same_images_in_the_same_order(tmp_path: Path) -> None:
    backwards = dict(reversed(TREE.items()))
    sources = [
        write_folder(tmp_path / "folder", TREE),
        write_zip(tmp_path / "a.zip", backwards),
        write_tar(tmp_path / "a.tar", {f"./top/{name}": data for name, data in backwards.items()}),
        write_tar(tmp_path / "a.tgz", TREE, "w:gz"),
        write_tar(tmp_path / "a.tar.xz", backwards, "w:xz"),
    ]
    loaded = [load(path) for path in sources]
    assert len({data.fingerprint for data in loaded}) == 1
    first = loaded[0]
    assert first.class_names == ("cat", "dog")
    assert first.train.labels_N.tolist() == [0, 0, 0, 1, 1]
    assert first.test.labels_N.tolist() == [0, 1, 1]
    # class_tree's colors: (number of the folder, index, 7)
    assert first.train.images_NHWC[:, 0, 0].tolist() == [[0, 0, 7], [0, 1, 7], [0, 2, 7], [1, 0, 7], [1, 1, 7]]
    assert first.train.files[0] == "train/cat/000.png"
    assert first.notes == ()


def test_letter_case_hidden_files_and_other_files(tmp_path: Path) -> None:
    extra = {
        "train/cat/LOUD.JPG": image_bytes((250, 0, 0), file_format="JPEG"),
        "train/cat/.hidden.png": b"not an image",
        "train/cat/._000.png": b"not an image",
        "train/.DS_Store": b"x",
        "__MACOSX/train/cat/000.png": b"not an image",
        "train/Thumbs.db": b"x",
        ".git/config": b"x",
        "README.txt": b"hello",
        "train/cat/movie.mp4": b"\0\0\0\x18ftypmp42",
        "train/dog/notes.txt": b"hello",
    }
    sources = {  # an archive is not read again to look into other files
        write_folder(tmp_path / "folder", TREE | extra): ".txt 2, a text file; .mp4 1, a video (MP4 or QuickTime):"
        " extract its frames as images",
        write_zip(tmp_path / "a.zip", TREE | extra): ".txt 2; .mp4 1",
    }
    for path, kinds in sources.items():
        data = load(path)
        assert data.train.files[:2] == ("train/cat/000.png", "train/cat/001.png")
        assert len(data.train) == 6
        assert data.notes == (
            f"3 files that are not images by their names were skipped ({kinds}; the first is README.txt)",
        )


def test_resized_and_overlapping_images_are_counted(tmp_path: Path) -> None:
    tree = TREE | {"train/cat/big.png": image_bytes(size=50), "test/cat/same.png": TREE["train/cat/000.png"]}
    notes = load(write_folder(tmp_path / "folder", tree)).notes
    assert notes == (
        "1 of 10 images were resized to 32 x 32",
        "1 of 4 test images are also among the training images",
    )


def test_the_area_that_is_cut_away_is_reported_where_it_is_more_than_a_tenth(tmp_path: Path) -> None:
    wide, nearly_square = (encode(Image.new("RGB", (width, 40))) for width in (100, 42))
    for tree, words in (
        # Half of the resized images lose 60 of 100 columns, the others 2 of 42: 32 % on average.
        ({"train/cat/a.png": wide, "train/cat/b.png": nearly_square}, "; 32 % of their area was cut away on average"),
        ({"train/cat/b.png": nearly_square, "test/cat/c.png": nearly_square}, ""),
    ):
        path = write_folder(tmp_path / str(len(words)), TREE | tree)
        hint = " (--fit pad keeps it)" if words else ""
        assert f"2 of 10 images were resized to 32 x 32{words}{hint}" in load(path).notes
        assert "2 of 10 images were resized to 32 x 32" in load(path, fit="pad").notes


def test_a_fit_decodes_the_same_folder_anew(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "folder", TREE | {"train/cat/a.png": encode(Image.new("RGB", (64, 32), (9, 9, 9)))})
    corners = {
        fit: load(path, fit=fit, cache_dir=str(tmp_path / "cache")).train.images_NHWC[3, 0, 0].tolist()
        for fit in ("crop", "pad", "stretch")
    }
    assert corners == {"crop": [9, 9, 9], "pad": [128, 128, 128], "stretch": [9, 9, 9]}
    assert load(path).fingerprint != load(path, fit="pad").fingerprint


def test_deep_gray_images_are_counted_by_their_levels(tmp_path: Path) -> None:
    twelve, sixteen = (encode(Image.new("I;16", (32, 32), value)) for value in (4095, 60000))
    tree = {"train/cat/a.png": twelve, "train/cat/b.png": twelve, "test/cat/c.png": sixteen}
    notes = load(write_folder(tmp_path, TREE | tree)).notes
    assert notes == (
        "2 of 11 images: 16-bit gray, read as 12-bit by the largest value",
        "1 of 11 images: 16-bit gray, read as 16-bit by the largest value",
    )


def test_test_images_are_split_off_where_there_are_none(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "folder", class_tree({"cat": 10, "dog": 20}))
    data = load(path)
    assert [int((data.test.labels_N == label).sum()) for label in (0, 1)] == [2, 4]  # 0.2 of each class
    assert sorted(data.train.files + data.test.files) == sorted(class_tree({"cat": 10, "dog": 20}))
    assert data.notes == ("6 of 30 images, 0.2 of each class, were held out as test images",)
    other_fraction = load(path, test_split=0.5)
    assert len(other_fraction.test) == 15
    assert other_fraction.fingerprint != data.fingerprint
    assert load(path).test.files == data.test.files


def test_a_corrupt_image_is_named_with_up_to_nine_others(tmp_path: Path) -> None:
    tree = TREE | {f"train/cat/corrupt{i:02d}.jpg": b"\xff\xd8\xff" for i in range(15)}
    for path in (write_folder(tmp_path / "folder", tree), write_zip(tmp_path / "a.zip", tree)):
        with pytest.raises(InputError, match="Replace or remove them") as caught:
            load(path)
        assert str(caught.value).count("train/cat/corrupt") == 10
        assert f"{path}: train/cat/corrupt00.jpg" in str(caught.value)
    tree = TREE | {"train/dog/half.png": TREE["train/dog/000.png"][:40]}
    with pytest.raises(InputError, match=r"image: .*: train/dog/half\.png: expected a complete image"):
        load(write_folder(tmp_path / "one", tree))


def in_time(action: Callable[[], object], seconds: float = 5) -> BaseException | None:
    """Return the error that `action` raises; fail the test when it hangs."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it blocks"
    return caught[0] if caught else None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_sockets_are_refused_without_blocking(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "f", TREE)
    os.mkfifo(root / "train" / "cat" / "a.png")
    error = in_time(lambda: load(root))
    assert isinstance(error, InputError)
    assert "a.png: expected a regular file, found a pipe, socket or device" in str(error)
    error = in_time(lambda: load(root / "train" / "cat" / "a.png"))  # as the data itself
    assert isinstance(error, InputError)
    (root / "train" / "cat" / "a.png").unlink()
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(os.path.relpath(root / "train" / "cat" / "s.png"))
        assert isinstance(in_time(lambda: load(root)), InputError)


def linked_folder(root: Path) -> Path:
    """TREE as a folder of links: to files elsewhere, and to a folder elsewhere."""
    store = write_folder(root.with_name("store"), {f"{i:02d}": data for i, data in enumerate(TREE.values())})
    for i, name in enumerate(TREE):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(store / f"{i:02d}")
    (root / "test" / "dog").rename(root.with_name("dogs"))
    (root / "test" / "dog").symlink_to("../../dogs")
    return root


def test_a_folder_of_links_is_read_as_the_files_they_lead_to(tmp_path: Path) -> None:
    data = load(linked_folder(tmp_path / "links"))
    assert data.fingerprint == load(write_folder(tmp_path / "files", TREE)).fingerprint
    assert data.train.files[0] == "train/cat/000.png"
    (tmp_path / "alias").symlink_to(tmp_path / "links")
    assert load(tmp_path / "alias").fingerprint == data.fingerprint


def test_links_to_nothing_and_in_circles_are_skipped_and_counted(tmp_path: Path) -> None:
    expected = load(write_folder(tmp_path / "files", TREE)).fingerprint
    root = write_folder(tmp_path / "f", TREE)
    cat = root / "train" / "cat"
    for name, target in {"a.png": "nowhere.png", "b.png": "b.png", "c": ".", "d": "../../..", "e": "/"}.items():
        (cat / name).symlink_to(target)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "back").symlink_to(cat)  # a circle through another folder
    (cat / "f").symlink_to(tmp_path / "elsewhere")
    data = load(root)
    assert data.fingerprint == expected
    assert data.notes == ("6 links that lead to no file, or in a circle, were skipped (the first is train/cat/a.png)",)


def test_a_link_counts_once_in_a_class_and_is_refused_in_two(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "f", TREE)
    (root / "train" / "cat" / "0.png").symlink_to("002.png")
    (root / "train" / "dog" / "x.png").symlink_to(root / "test" / "dog" / "000.png")  # the other split
    data = load(root)
    assert [name for name in data.train.files if "cat" in name] == [f"train/cat/00{i}.png" for i in range(3)]
    assert data.notes == (
        "1 link to an image of the same class was not counted again (the first is train/cat/0.png)",
        "1 of 3 test images are also among the training images",
    )
    (root / "train" / "cat" / "y.png").symlink_to("../dog/000.png")
    with pytest.raises(InputError, match=r"train/cat/y\.png: expected .* found .*train/dog/000\.png"):
        load(root)


def names_and_colors(path: Path, skipped: SkippedFiles | None = None) -> dict[str, tuple[int, ...]]:
    files = iter_image_files(path, skipped)
    return {name: Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0)) for name, data in files}  # type: ignore[misc]


def test_a_pipe_and_an_unreadable_folder_are_listed_and_the_other_images_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path, {"a.png": image_bytes(), "closed/b.png": image_bytes(), "c/d.png": image_bytes()})
    os.mkfifo(root / "pipe.png")
    (root / "latest").symlink_to(root)  # no image, so it is no fault
    scandir = os.scandir

    def refuse(folder: Path) -> Any:
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # chmod does not stop root
    skipped = SkippedFiles()
    assert [Path(name).name for name, _ in iter_image_files(root, skipped)] == ["a.png", "d.png"]
    assert sorted(skipped.unreadable) == [
        (str(root / "closed"), "Permission denied"), (str(root / "pipe.png"), "a pipe, socket or device")
    ]  # fmt: skip
    assert skipped.non_images == [str(root / "latest")]
    with pytest.raises(InputError, match=r"Permission denied|a pipe"):
        list(iter_image_files(root))


def test_hard_links_count_as_files_in_a_tar_as_in_its_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", class_tree({"cat": 3, "dog": 3}))
    (folder / "cat" / "again.png").hardlink_to(folder / "cat" / "000.png")
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(folder, "data")
    datasets = [load_dataset(str(path), cache_dir=str(tmp_path / "c")) for path in (folder, tmp_path / "data.tar")]
    assert [len(data.train) + len(data.test) for data in datasets] == [7, 7]


def test_image_files_of_a_folder_an_archive_and_a_file_need_no_classes(tmp_path: Path) -> None:
    tree = class_tree({"a": 2, "a/deep": 1}) | {"top.JPG": image_bytes((9, 9, 9), file_format="JPEG")}
    extra = {"note.txt": b"x", ".hidden/1.png": b"x", "__MACOSX/a/._000.png": b"x"}
    folder = write_folder(tmp_path / "f", tree | extra)
    (folder / "link.png").symlink_to("a/000.png")  # the same image: not predicted twice
    (folder / "gone.png").symlink_to("nothing")
    expected = {"a/000.png": (0, 0, 7), "a/001.png": (0, 1, 7), "a/deep/000.png": (1, 0, 7), "top.JPG": (9, 9, 9)}
    skipped = SkippedFiles()
    assert names_and_colors(folder, skipped) == {f"{folder}/{name}": color for name, color in expected.items()}
    assert skipped.non_images == [f"{folder}/note.txt"]
    assert skipped.unreadable == [(f"{folder}/gone.png", "a link that leads to no file")]
    for path in (write_zip(tmp_path / "a.zip", tree | extra), write_tar(tmp_path / "a.tgz", tree | extra, "w:gz")):
        assert set(names_and_colors(path)) == {f"{path}/{name}" for name in expected}
    (tmp_path / "photo").write_bytes(tree["a/001.png"])  # given by name, so it needs no suffix
    assert names_and_colors(tmp_path / "photo") == {f"{tmp_path}/photo": (0, 1, 7)}


HEIC = b"\0\0\0\x18ftypheic" + bytes(20)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({}, "expected images, such as PNG or JPEG, found none. Give a folder"),
        ({"cat/1.heic": HEIC, "dog/2.heic": HEIC}, r"none, and 2 other files \(cat/1.heic: a HEIC: convert it to JPEG"),
        ({"model.pth": b"PK\3\4" + b"archive/data.pkl"}, r"1 other file \(model.pth: a PyTorch file"),
        ({"cat/a.dat": image_bytes()}, r"\(cat/a.dat: a PNG\)"),
        (
            {"1.png": image_bytes(), "2.png": image_bytes()},
            "1.png: .* in the folder of its class, found 2 without class",
        ),
    ],
)
def test_a_folder_without_labelled_images_is_said_to_be_what_it_is(
    tree: dict[str, bytes], words: str, tmp_path: Path
) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(InputError, match=words):
        load(write_folder(tmp_path / "f", tree))


def test_links_to_files_that_were_not_fetched_are_counted(tmp_path: Path) -> None:
    """As git-annex leaves them."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").symlink_to(f".git/annex/objects/{name}")
    with pytest.raises(InputError, match=r"found none, and 2 links that lead to no file \(a.jpg, ...\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("nothing.png", None, "nothing.png: expected a readable file, found No such file"),
        ("empty/readme.txt", b"x", r"found none, and 1 other file \(readme.txt: a text file"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99), "found a 7-Zip file"),
    ],
)
def test_a_path_without_images_is_one_clear_error(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    if data is not None:
        write_folder(tmp_path, {name: data})
    with pytest.raises(InputError, match=words):
        list(iter_image_files(tmp_path / name.partition("/")[0]))


def test_names_with_control_characters_stay_on_one_line(tmp_path: Path) -> None:
    name = "train/cat/\x1b[31mred\nline.png"
    with pytest.raises(InputError) as caught:
        load(write_folder(tmp_path / "f", TREE | {name: b"corrupt"}))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    raw = os.fsdecode(b"train/cat/\xff\xfe.png")  # not UTF-8
    data = load(write_folder(tmp_path / "g", TREE | {raw: image_bytes()}))
    assert raw in data.train.files
    assert load(tmp_path / "g").train.files == data.train.files  # through the cache too


def test_a_link_out_of_an_archive_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("train/cat/l.png")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(InputError, match="a link out of the archive"):
        load(write_tar(tmp_path / "a.tar", TREE, "w", info))


def test_progress_is_reported(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []
    load(write_folder(tmp_path / "f", TREE), progress=lambda *call: calls.append(call))
    assert calls == [("Decoding images", 8, 8)]


def test_the_key_of_a_folder_changes_with_each_fact_about_its_files() -> None:
    # Each one alone: on a disk several change together, and which ones depends on the file system.
    def file(name: str, inode: int, *version: int) -> FoundFile:
        return FoundFile(name, (1, inode), (version[0], version[1], version[2]), is_linked=False)

    first, second = file("a/1.png", 7, 100, 5, 5), file("b/1.png", 8, 100, 5, 5)
    walks = [
        FolderWalk((first, second), frozenset("ab"), ()),
        FolderWalk((file("a/2.png", 7, 100, 5, 5), second), frozenset("ab"), ()),  # its name
        FolderWalk((file("a/1.png", 9, 100, 5, 5), second), frozenset("ab"), ()),  # its inode
        FolderWalk((file("a/1.png", 7, 101, 5, 5), second), frozenset("ab"), ()),  # its size
        FolderWalk((file("a/1.png", 7, 100, 6, 5), second), frozenset("ab"), ()),  # the time of its contents
        FolderWalk((file("a/1.png", 7, 100, 5, 6), second), frozenset("ab"), ()),  # the time of its inode
        FolderWalk((file("a/1.png", 7, 100, 5, 5), file("b/1.png", 8, 101, 5, 5)), frozenset("ab"), ()),
        FolderWalk((file("a/1.png", 8, 100, 5, 5), file("b/1.png", 7, 100, 5, 5)), frozenset("ab"), ()),  # exchanged
        FolderWalk((first,), frozenset("ab"), ()),
        FolderWalk((first, second), frozenset("abc"), ()),  # an empty class
        FolderWalk((first, second), frozenset("ab"), ("c.png",)),  # a link that leads to nothing
    ]
    assert len({walk.hash_contents() for walk in walks}) == len(walks)


def test_a_file_replaced_by_one_of_another_size_at_the_same_time_is_read_again(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", TREE)
    path = folder / "train" / "cat" / "000.png"
    before, status = load(folder, cache_dir=str(tmp_path / "cache")), path.stat()
    path.write_bytes(image_bytes((9, 9, 9)) + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = load(folder, cache_dir=str(tmp_path / "cache"))
    assert after.train.images_NHWC[0, 0, 0].tolist() == [9, 9, 9] != before.train.images_NHWC[0, 0, 0].tolist()
    assert after.fingerprint != before.fingerprint
