"""The cache returns what was stored, detects damage, and is optional."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scsuite.core.dataset import cache
from scsuite.core.dataset.cache import CacheKey, cache_folder, fingerprint
from scsuite.core.dataset.split import RawDataset, Split

KEY = CacheKey("my images", "/somewhere", "key 1")


def raw_dataset(seed: int = 0, *, with_test: bool = True) -> RawDataset:
    rng = np.random.default_rng(seed)

    def split(count: int) -> Split:
        images_NHWC = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        files = tuple(f"\udcff{i}\n.png" for i in range(count))  # hard to print, not UTF-8
        return Split(images_NHWC, np.arange(count) % 2, files, rng.random((count, 32, 32)) > 0.5)

    return RawDataset(("a", "ü"), split(6), split(2) if with_test else None, ("a note",))


class Builder:
    """Counts how often the images are built."""

    def __init__(self, dataset: RawDataset) -> None:
        self.dataset, self.calls = dataset, 0

    def __call__(self) -> RawDataset:
        self.calls += 1
        return self.dataset


@pytest.mark.parametrize("with_test", [True, False])
def test_the_second_load_returns_everything_without_building(tmp_path: Path, with_test: bool) -> None:
    build = Builder(raw_dataset(with_test=with_test))
    first, first_digest = cache.load_or_build(tmp_path, KEY, build)
    second, second_digest = cache.load_or_build(tmp_path, KEY, build)
    assert build.calls == 1
    assert first_digest == second_digest == fingerprint(second)
    assert (second.class_names, second.notes) == (first.class_names, first.notes)
    for stored, loaded in ((first.train, second.train), (first.test, second.test)):
        if stored is None or loaded is None:
            assert stored is loaded
            continue
        assert stored.files == loaded.files
        assert stored.masks_NHW is not None
        assert loaded.masks_NHW is not None
        arrays: list[tuple[NDArray[Any], NDArray[Any]]] = [
            (stored.images_NHWC, loaded.images_NHWC),
            (stored.labels_N, loaded.labels_N),
            (stored.masks_NHW, loaded.masks_NHW),
        ]
        for a, b in arrays:
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


def test_another_content_hash_replaces_the_file(tmp_path: Path) -> None:
    cache.load_or_build(tmp_path, KEY, Builder(raw_dataset(0)))
    build = Builder(raw_dataset(1))
    result, _ = cache.load_or_build(tmp_path, CacheKey("my images", "/somewhere", "key 2"), build)
    assert build.calls == 1
    assert np.array_equal(result.train.images_NHWC, raw_dataset(1).train.images_NHWC)
    assert len(list(tmp_path.iterdir())) == 1


def test_any_flipped_bit_or_truncation_is_detected_and_built_again(tmp_path: Path) -> None:
    expected, digest = cache.load_or_build(tmp_path, KEY, Builder(raw_dataset()))
    (path,) = tmp_path.iterdir()
    complete = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", complete[:5], complete[:-1], complete + b"x", b"\0" * len(complete)]
    for position in rng.integers(0, len(complete), 60):
        damaged.append(complete[:position] + bytes([complete[position] ^ 4]) + complete[position + 1 :])
    for data in damaged:
        path.write_bytes(data)
        build = Builder(raw_dataset())
        result, result_digest = cache.load_or_build(tmp_path, KEY, build)
        # A flipped bit in the content hash makes it another one: then the images are built again without a note.
        assert build.calls == 1
        assert result_digest == digest
        assert np.array_equal(result.train.images_NHWC, expected.train.images_NHWC)
        assert result.train.files == expected.train.files
        cache.load_or_build(tmp_path, KEY, build)
        assert build.calls == 1  # the file has been replaced
    path.write_bytes(complete[:-1])
    result, _ = cache.load_or_build(tmp_path, KEY, Builder(raw_dataset()))
    assert "could not be used" in result.notes[-1]


def test_the_fingerprint_changes_with_every_part() -> None:
    base = raw_dataset()
    pixel = base.train.images_NHWC.copy()
    pixel[3, 2, 1, 0] ^= 1
    labels_N = base.train.labels_N.copy()
    labels_N[0] = 1
    variants = [
        base,
        RawDataset(("a", "b"), base.train, base.test),
        RawDataset(base.class_names, Split(pixel, base.train.labels_N, base.train.files), base.test),
        RawDataset(base.class_names, Split(base.train.images_NHWC, labels_N, base.train.files), base.test),
        RawDataset(base.class_names, base.train, None),
        RawDataset(base.class_names, base.train, base.train),
    ]
    assert len({fingerprint(variant) for variant in variants}) == len(variants)


def test_a_folder_that_cannot_be_written_gives_only_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        result, _ = cache.load_or_build(folder, KEY, Builder(raw_dataset()))
        assert "could not be cached" in result.notes[-1]
    result, digest = cache.load_or_build(None, KEY, Builder(raw_dataset()))
    assert result.notes == ("a note",)
    assert digest == fingerprint(result)


def test_no_temporary_file_is_left_and_stale_ones_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale, recent = (tmp_path / f"{KEY.file_name}.{name}.tmp" for name in ("1-1", "2-2"))
    for path in (stale, recent):
        path.write_bytes(b"of a killed process")
    os.utime(stale, (time.time() - 7200,) * 2)
    cache.load_or_build(tmp_path, KEY, Builder(raw_dataset()))
    assert {path.name for path in tmp_path.iterdir()} == {recent.name, KEY.file_name}
    recent.unlink()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    result, _ = cache.load_or_build(tmp_path, CacheKey("x", "x", "x"), Builder(raw_dataset()))
    assert "No space left" in result.notes[-1]
    assert [path.name for path in tmp_path.iterdir()] == [KEY.file_name]


def test_file_names_are_plain_for_any_source() -> None:
    names = [CacheKey(label, label, "").file_name for label in ("../../x", "a b\n", "ü" * 300, "", "x/y")]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") and len(name) < 80 for name in names)
    assert len(set(names)) == len(names)


def test_the_folder_is_the_given_one_or_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSUITE_CACHE", "/from/scsuite")
    monkeypatch.setenv("XDG_CACHE_HOME", "/from/xdg")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("/given") == Path("/given")
    assert cache_folder() == Path("/from/scsuite")
    monkeypatch.delenv("SCSUITE_CACHE")
    assert cache_folder() == Path("/from/xdg/scsuite")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / ".cache" / "scsuite"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "scsuite"
