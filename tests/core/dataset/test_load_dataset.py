"""`load_dataset` of every source: what it accepts, its errors, and the real archive."""

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scsuite.core.dataset import load_dataset, shapes
from scsuite.core.errors import InputError, UsageError
from tests.core.dataset.helpers import class_tree, image_bytes, write_folder, write_zip

TREE = class_tree({"train/cat": 6, "train/dog": 4, "test/cat": 2, "test/dog": 2})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("shape", "Did you mean shapes?"),
        ("CIFAR-10", "Did you mean cifar10?"),
        ("cifar", "Did you mean cifar10?"),
        ("/no/such/folder", "There is no folder /no/such either."),
        ("nul\0byte", "Check the path."),
    ],
)
def test_an_unknown_spec_is_refused_with_the_nearest_keyword(spec: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_dataset(spec)
    assert str(caught.value).endswith(words)


def test_a_device_is_refused() -> None:
    with pytest.raises(InputError, match="found a folder, pipe or device"):
        load_dataset("/dev/zero")


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words " * 200)
    with pytest.raises(InputError, match="a text file"):
        load_dataset(str(tmp_path / "a.txt"))
    with pytest.raises(InputError, match=r"found a PyTorch file \(\.pth\)"):
        load_dataset(str(write_zip(tmp_path / "a.pth", {"a/data.pkl": b"", "a/version": b"3"})))


@pytest.mark.parametrize("limits", [{"limit_train": 0}, {"limit_test": -1}, {"test_split": 0.0}, {"test_split": 1.0}])
def test_numbers_out_of_range_are_usage_errors(limits: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_dataset(str(write_folder(tmp_path, TREE)), **limits)  # type: ignore[arg-type]


def test_a_path_object_is_as_good_as_its_text(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", TREE)
    assert load_dataset(Path(path)).fingerprint == load_dataset(str(path)).fingerprint


def test_limits_are_class_balanced_and_keep_the_fingerprint(tmp_path: Path) -> None:
    path = str(write_folder(tmp_path / "f", TREE))
    complete, limited = load_dataset(path), load_dataset(path, limit_train=4, limit_test=100)
    assert np.bincount(limited.train.labels_N).tolist() == [2, 2]
    assert len(limited.test) == 4
    assert limited.fingerprint == complete.fingerprint
    assert set(limited.train.files) < set(complete.train.files)


def test_a_folder_is_decoded_again_only_if_it_changed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "f", TREE)
    calls: list[str] = []

    def load() -> str:
        calls.clear()
        return load_dataset(
            str(root), cache_dir=str(tmp_path / "c"), progress=lambda text, _done, _total: calls.append(text)
        ).fingerprint

    first = load()
    assert calls == ["Decoding images"]
    assert load() == first
    assert calls == []
    (root / "train" / "cat" / "000.png").write_bytes(TREE["train/dog/001.png"])
    assert load() != first
    (root / "train" / "cat" / "000.png").unlink()
    assert load() != first
    assert len(list((tmp_path / "c").iterdir())) == 1  # the old images were replaced


def files_with_equal_stats(root: Path) -> Path:
    """Images of a red and a blue class, with equal names, sizes and times."""
    for name, color in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        write_folder(root, {f"{name}/{i}.bmp": image_bytes(color, file_format="BMP") for i in range(4)})
    for path in root.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))
    return root


def exchange_by_rename(root: Path) -> None:
    (root / "red").rename(root / "x")
    (root / "blue").rename(root / "red")
    (root / "x").rename(root / "blue")


def exchange_by_copy(root: Path) -> None:
    """As `cp -a`, which keeps times and writes into the files that are there."""
    for path in (root / "red").iterdir():
        other = root / "blue" / path.name
        red, blue = path.read_bytes(), other.read_bytes()
        path.write_bytes(blue)
        other.write_bytes(red)
        for changed in (path, other):
            os.utime(changed, ns=(10**18, 10**18))


@pytest.mark.parametrize("exchange", [exchange_by_rename, exchange_by_copy])
def test_exchanged_classes_of_equal_names_sizes_and_times_are_noticed(
    tmp_path: Path, exchange: Callable[[Path], None]
) -> None:
    root = files_with_equal_stats(tmp_path / "f")

    def colors_by_class() -> dict[str, list[int]]:
        data = load_dataset(str(root), cache_dir=str(tmp_path / "c"))
        first = {
            int(label): image[0, 0].tolist()
            for label, image in zip(data.train.labels_N, data.train.images_NHWC, strict=True)
        }
        return {data.class_names[label]: color for label, color in first.items()}

    assert colors_by_class() == {"red": [255, 0, 0], "blue": [0, 0, 255]}
    exchange(root)
    assert colors_by_class() == {"red": [0, 0, 255], "blue": [255, 0, 0]}


def test_a_class_name_is_one_in_nfc_and_in_nfd(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"  # as Linux and as macOS write it
    tree = class_tree({f"train/{composed}": 2, "train/bar": 2, f"test/{decomposed}": 1, "test/bar": 1})
    assert load_dataset(str(write_folder(tmp_path / "f", tree))).class_names == ("bar", composed)


def test_an_archive_of_numbered_classes_is_read_as_its_folder(tmp_path: Path) -> None:
    tree = class_tree({str(number): 2 for number in (10, 9, 0, 100)})
    sources = [write_folder(tmp_path / "f", tree), write_zip(tmp_path / "a.zip", tree)]
    loaded = [load_dataset(str(path)) for path in sources]
    assert [data.class_names for data in loaded] == [("0", "9", "10", "100")] * 2
    assert loaded[0].fingerprint == loaded[1].fingerprint


def test_a_moved_archive_is_recognized_by_its_content(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", TREE)
    first = load_dataset(str(path), cache_dir=str(tmp_path / "c"))
    calls: list[object] = []
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "a.zip")
    again = load_dataset(str(moved), cache_dir=str(tmp_path / "c"), progress=lambda *call: calls.append(call))
    assert again.fingerprint == first.fingerprint
    assert calls == []


def test_shapes_have_masks_and_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "NUM_TRAIN", 20)
    monkeypatch.setattr(shapes, "NUM_TEST", 10)
    first = load_dataset("shapes", cache_dir=str(tmp_path))
    assert first.class_names == shapes.CLASS_NAMES
    images_NHWC, labels_N, masks_NHW = shapes.generate(10, seed=2)
    assert np.array_equal(first.test.images_NHWC, images_NHWC)
    assert np.array_equal(first.test.labels_N, labels_N)
    assert first.test.masks_NHW is not None
    assert np.array_equal(first.test.masks_NHW, masks_NHW)
    monkeypatch.setattr(shapes, "generate", None)
    again = load_dataset("shapes", cache_dir=str(tmp_path))
    assert again.fingerprint == first.fingerprint
    assert again.test.masks_NHW is not None
    assert again.test.masks_NHW.dtype == np.bool_
    monkeypatch.setattr(shapes, "VERSION", shapes.VERSION + 1)
    with pytest.raises(TypeError):  # other images: they have to be drawn
        load_dataset("shapes", cache_dir=str(tmp_path))


def test_the_data_sources_import_no_torch() -> None:
    code = "import scsuite.core.dataset, sys; assert not {'torch', 'albumentations', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.real
def test_the_real_archive_gives_all_of_cifar_10(real_archive: Path) -> None:
    data = load_dataset(str(real_archive))
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert data.class_names == names
    assert np.bincount(data.train.labels_N).tolist() == [5000] * 10
    assert np.bincount(data.test.labels_N).tolist() == [1000] * 10
    assert not any("resized" in note for note in data.notes)
    # CIFAR-10's own mean and deviation, to what JPEG changes: airbench, https://github.com/KellerJordan/cifar10-airbench
    mean, std = data.train.mean_std()
    assert mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=2e-3)
    assert std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-3)
    with tarfile.open(real_archive) as tar:  # the first ones, read by tarfile alone
        members = (member for member in tar if member.isfile())
        for member, _ in zip(members, range(20), strict=False):
            file = tar.extractfile(member)
            assert file is not None
            index = data.train.files.index(member.name)
            expected_HWC = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
            assert np.array_equal(data.train.images_NHWC[index], expected_HWC)


@pytest.mark.real
def test_the_second_load_of_60000_images_takes_under_2_cpu_seconds(real_archive: Path) -> None:
    load_dataset(str(real_archive))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        load_dataset(str(real_archive))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2
