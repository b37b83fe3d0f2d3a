"""CIFAR-10 is read from a folder or its archive, every field checked; small files with their own md5s stand in."""

import gzip
import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scsuite.core.dataset import cifar10, load_dataset
from scsuite.core.errors import InputError, OutputError
from tests.core.dataset.helpers import write_folder, write_tar
from tests.core.dataset.test_unpickle import NAMES, REAL_META, python2_batch

ROWS = 4
BATCHES = [name for name in cifar10.FILE_MD5S if name != "batches.meta"]
Install = Callable[[dict[str, bytes]], Path]


def make_images(batch: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(batch).integers(0, 256, (ROWS, 3, 32, 32), dtype=np.uint8)


def lookalike() -> dict[str, bytes]:
    """The seven files, as Python 2 wrote them, of four images each."""
    files = {name: python2_batch(make_images(i).tobytes(), ROWS, [i, 9, 0, i]) for i, name in enumerate(BATCHES)}
    return {**files, "batches.meta": REAL_META}


def put_below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], None]:
    """Make these files' md5s the expected ones."""

    def trust(files: dict[str, bytes]) -> None:
        md5s = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
        monkeypatch.setattr(cifar10, "FILE_MD5S", {**cifar10.FILE_MD5S, **md5s})

    return trust


@pytest.fixture
def install(tmp_path: Path, trusted: Callable[[dict[str, bytes]], None]) -> Install:
    """Put such files into torchvision's layout, and trust them."""

    def write(files: dict[str, bytes]) -> Path:
        trusted(files)
        write_folder(tmp_path / "data", put_below(cifar10.FOLDER, files))
        return tmp_path / "data"

    return write


@pytest.fixture
def archive(tmp_path: Path, trusted: Callable[[dict[str, bytes]], None], monkeypatch: pytest.MonkeyPatch) -> Path:
    files = lookalike()
    trusted(files)
    readme = {f"{cifar10.FOLDER}/readme.html": b"<html>"}
    path = write_tar(tmp_path / cifar10.ARCHIVE, put_below(cifar10.FOLDER, files) | readme, "w:gz")
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def test_the_md5s_are_those_of_torchvision() -> None:
    reference = pytest.importorskip("torchvision.datasets").CIFAR10
    assert (
        dict(
            [
                *reference.train_list,
                *reference.test_list,
                (reference.meta["filename"], reference.meta["md5"]),
            ]
        )
        == cifar10.FILE_MD5S
    )
    assert (reference.base_folder, reference.filename, reference.tgz_md5) == (
        cifar10.FOLDER,
        cifar10.ARCHIVE,
        cifar10.ARCHIVE_MD5,
    )
    assert reference.url in cifar10.MIRRORS


def check(data: Any) -> None:
    assert data.class_names == NAMES
    assert data.name == "cifar10"
    train_NCHW = np.concatenate([make_images(i) for i in range(5)])
    assert np.array_equal(data.train.images_NHWC, train_NCHW.transpose(0, 2, 3, 1))
    assert np.array_equal(data.test.images_NHWC, make_images(5).transpose(0, 2, 3, 1))
    assert data.train.labels_N.tolist() == [label for i in range(5) for label in (i, 9, 0, i)]
    assert data.train.files[4] == "data_batch_2/img_0.png"


def test_torchvisions_folder_is_read_as_torchvision_reads_it(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = install(lookalike())
    data = load_dataset("cifar10", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    check(data)
    reference = pytest.importorskip("torchvision.datasets").CIFAR10
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(reference, name, [[file, cifar10.FILE_MD5S[file]] for file, _ in getattr(reference, name)])
    loaded = reference(folder, train=True)
    assert np.array_equal(loaded.data, data.train.images_NHWC)
    assert loaded.targets == data.train.labels_N.tolist()
    assert loaded.classes == list(data.class_names)


def test_the_archive_is_read_and_never_extracted(archive: Path, tmp_path: Path) -> None:
    check(load_dataset("cifar10", data_dir=str(archive.parent), cache_dir=str(tmp_path / "cache")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", archive.name]


def test_the_inner_folder_may_be_given(install: Install, tmp_path: Path) -> None:
    folder = install(lookalike()) / cifar10.FOLDER
    check(load_dataset("cifar10", data_dir=str(folder), cache_dir=str(tmp_path / "cache")))


def test_once_decoded_neither_files_nor_network_are_needed(install: Install, tmp_path: Path) -> None:
    cache_dir = str(tmp_path / "cache")
    first = load_dataset("cifar10", data_dir=str(install(lookalike())), cache_dir=cache_dir)
    again = load_dataset("cifar10", data_dir=str(tmp_path / "nothing"), cache_dir=cache_dir)
    check(again)
    assert again.fingerprint == first.fingerprint


def test_a_missing_archive_is_downloaded_from_the_given_mirror(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCSUITE_CIFAR10_URL", archive.as_uri())
    monkeypatch.setattr(cifar10, "MIRRORS", ())
    target = tmp_path / "place"
    check(load_dataset("cifar10", data_dir=str(target), cache_dir=str(tmp_path / "cache")))
    assert (target / cifar10.ARCHIVE).read_bytes() == archive.read_bytes()


def test_offline_one_line_names_the_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "MIRRORS", ("http://127.0.0.1:9/x", "http://127.0.0.1:9/y"))
    with pytest.raises(InputError) as caught:
        load_dataset("cifar10", cache_dir=str(tmp_path))
    text = str(caught.value)
    for words in (
        "SCSUITE_CIFAR10_URL",
        "--data-dir",
        cifar10.FOLDER,
        cifar10.ARCHIVE,
        "--data shapes",
        "--data FOLDER",
    ):
        assert words in text
    assert "\n" not in text
    assert caught.value.exit_code == 3


def test_a_folder_that_cannot_be_created_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        load_dataset("cifar10", data_dir=str(tmp_path / "file" / "below"), cache_dir=str(tmp_path))


def test_a_wrong_md5_is_refused_before_reading_and_nothing_is_removed(tmp_path: Path, install: Install) -> None:
    folder = install(lookalike())
    batch = folder / cifar10.FOLDER / "data_batch_3"
    data = bytearray(batch.read_bytes())
    data[3000] ^= 1
    batch.write_bytes(data)
    md5 = hashlib.md5(data).hexdigest()
    with pytest.raises(
        InputError, match=f"data_batch_3: expected md5 {cifar10.FILE_MD5S['data_batch_3']}, found {md5}"
    ):
        load_dataset("cifar10", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    (tmp_path / cifar10.ARCHIVE).write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(InputError, match=f"expected md5 {cifar10.ARCHIVE_MD5}"):
        load_dataset("cifar10", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert (tmp_path / cifar10.ARCHIVE).exists()
    assert batch.exists()


def test_a_missing_file_is_named_in_both_layouts(
    install: Install, tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: data for name, data in lookalike().items() if name not in ("data_batch_4", "batches.meta")}
    with pytest.raises(InputError, match=r"found no batches\.meta, data_batch_4"):
        load_dataset("cifar10", data_dir=str(install(files)), cache_dir=str(tmp_path / "cache"))
    path = write_tar(tmp_path / cifar10.ARCHIVE, put_below(cifar10.FOLDER, files), "w:gz")
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(InputError, match=r"found no batches\.meta, data_batch_4"):
        load_dataset("cifar10", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))


def batch(**changes: Any) -> bytes:
    """A valid batch except for these fields; None removes one."""
    fields = {"data": np.zeros((ROWS, 3072), np.uint8), "labels": [0, 1, 2, 9], "filenames": list("abcd"), **changes}
    return pickle.dumps({key: value for key, value in fields.items() if value is not None}, protocol=4)


WHERE = Path("data_batch_1")


def test_a_batch_without_filenames_numbers_its_images() -> None:
    assert cifar10.read_batch(batch(), WHERE).files[3] == "data_batch_1/d"
    assert cifar10.read_batch(batch(filenames=None), WHERE).files[3] == "data_batch_1/00003"


FAULTS = {
    "empty": (b"", "pickle"),
    "html": (b"\n<!DOCTYPE html><html>", "an HTML page"),
    "gzip": (gzip.compress(b"x" * 100), "expected a CIFAR-10 batch"),
    "truncated": (batch()[:-100], "expected a CIFAR-10 batch"),
    "a list": (pickle.dumps([1]), "a pickle without fields"),
    "no data": (batch(data=None), "no array called data"),
    "data a list": (batch(data=[1, 2]), "no array called data"),
    "int16": (batch(data=np.zeros((ROWS, 3072), np.int16)), "type i2"),
    "3071 wide": (batch(data=np.zeros((ROWS, 3071), np.uint8)), r"\(4, 3071\)"),
    "one dimension": (batch(data=np.zeros(ROWS * 3072, np.uint8)), r"shape \(12288,\)"),
    "no rows": (batch(data=np.zeros((0, 3072), np.uint8), labels=[]), "no images"),
    "no labels": (batch(labels=None), "no list of labels"),
    "one label too few": (batch(labels=[0, 1, 2]), "3 labels for 4 images"),
    "label 10": (batch(labels=[0, 1, 2, 10]), "the label 10"),
    "label -1": (batch(labels=[0, 1, 2, -1]), "the label -1"),
    "label text": (batch(labels=[0, 1, 2, "3"]), "the label '3'"),
    "label true": (batch(labels=[0, 1, 2, True]), "the label True"),
    "label a list": (batch(labels=[0, 1, 2, [[]]]), "of type list"),
    "label of 6,000 digits": (batch(labels=[0, 1, 2, 1 << 20_000]), "of type int"),
    "one name too few": (batch(filenames=list("abc")), "filenames"),
    "a name a number": (batch(filenames=[1, 2, 3, 4]), "filenames"),
    "cifar-100": (batch(labels=None, fine_labels=[0, 1, 2, 3]), "CIFAR-100"),
    "code": (pickle.dumps(io.open), "refers to"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_a_faulty_batch_is_refused_with_field_and_file(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        cifar10.read_batch(data, WHERE)
    assert str(caught.value).startswith("CIFAR-10: data_batch_1: expected a CIFAR-10 batch, found ")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("names", [None, list(NAMES)[:9], [*NAMES[:9], "cat"], [*NAMES[:9], 7], "airplane"])
def test_class_names_that_are_not_ten_names_are_refused(names: object) -> None:
    with pytest.raises(InputError, match="label_names"):
        cifar10.read_class_names(pickle.dumps({"label_names": names}), WHERE)
