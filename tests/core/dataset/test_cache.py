"""The cache gives back what was put in, notices damage, and is never needed."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scsuite.core.dataset import cache
from scsuite.core.dataset.base import Decoded, Split
from scsuite.core.dataset.cache import Source, cache_folder, fingerprint

SOURCE = Source("my pictures", "/somewhere", "key 1")


def decoded(seed: int = 0, *, with_test: bool = True) -> Decoded:
    rng = np.random.default_rng(seed)

    def split(count: int) -> Split:
        images_NHWC = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        files = tuple(f"\udcff{i}\n.png" for i in range(count))  # as bad as names come
        return Split(images_NHWC, np.arange(count) % 2, files, rng.random((count, 32, 32)) > 0.5)

    return Decoded(("a", "ü"), split(6), split(2) if with_test else None, ("a note",))


class Builder:
    """Counts how often the images had to be made."""

    def __init__(self, made: Decoded) -> None:
        self.made, self.calls = made, 0

    def __call__(self) -> Decoded:
        self.calls += 1
        return self.made


@pytest.mark.parametrize("with_test", [True, False])
def test_the_second_load_gives_everything_back_without_building(tmp_path: Path, with_test: bool) -> None:
    build = Builder(decoded(with_test=with_test))
    first, first_digest = cache.load(tmp_path, SOURCE, build)
    second, second_digest = cache.load(tmp_path, SOURCE, build)
    assert build.calls == 1
    assert first_digest == second_digest == fingerprint(second)
    assert (second.class_names, second.notes) == (first.class_names, first.notes)
    for one, other in ((first.train, second.train), (first.test, second.test)):
        if one is None or other is None:
            assert one is other
            continue
        assert one.files == other.files
        assert one.masks_NHW is not None
        assert other.masks_NHW is not None
        arrays: list[tuple[NDArray[Any], NDArray[Any]]] = [
            (one.images_NHWC, other.images_NHWC),
            (one.labels_N, other.labels_N),
            (one.masks_NHW, other.masks_NHW),
        ]
        for a, b in arrays:
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


def test_another_key_takes_the_place_of_the_old_file(tmp_path: Path) -> None:
    cache.load(tmp_path, SOURCE, Builder(decoded(0)))
    build = Builder(decoded(1))
    found, _ = cache.load(tmp_path, Source("my pictures", "/somewhere", "key 2"), build)
    assert build.calls == 1
    assert np.array_equal(found.train.images_NHWC, decoded(1).train.images_NHWC)
    assert len(list(tmp_path.iterdir())) == 1


def test_any_flipped_bit_or_cut_is_noticed_and_made_good(tmp_path: Path) -> None:
    expected, digest = cache.load(tmp_path, SOURCE, Builder(decoded()))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    spoilt = [b"", whole[:5], whole[:-1], whole + b"x", b"\0" * len(whole)]
    for position in rng.integers(0, len(whole), 60):
        spoilt.append(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
    for data in spoilt:
        path.write_bytes(data)
        build = Builder(decoded())
        found, found_digest = cache.load(tmp_path, SOURCE, build)
        # A bit of a key's text may make it another key: then it is made again without a word.
        assert build.calls == 1
        assert found_digest == digest
        assert np.array_equal(found.train.images_NHWC, expected.train.images_NHWC)
        assert found.train.files == expected.train.files
        cache.load(tmp_path, SOURCE, build)
        assert build.calls == 1  # it was made good
    path.write_bytes(whole[:-1])
    found, _ = cache.load(tmp_path, SOURCE, Builder(decoded()))
    assert "could not be used" in found.notes[-1]


def test_the_fingerprint_changes_with_every_part() -> None:
    base = decoded()
    pixel = base.train.images_NHWC.copy()
    pixel[3, 2, 1, 0] ^= 1
    labels_N = base.train.labels_N.copy()
    labels_N[0] = 1
    variants = [
        base,
        Decoded(("a", "b"), base.train, base.test),
        Decoded(base.class_names, Split(pixel, base.train.labels_N, base.train.files), base.test),
        Decoded(base.class_names, Split(base.train.images_NHWC, labels_N, base.train.files), base.test),
        Decoded(base.class_names, base.train, None),
        Decoded(base.class_names, base.train, base.train),
    ]
    assert len({fingerprint(variant) for variant in variants}) == len(variants)


def test_a_folder_that_cannot_be_written_is_a_note_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        found, _ = cache.load(folder, SOURCE, Builder(decoded()))
        assert "could not be kept" in found.notes[-1]
    found, digest = cache.load(None, SOURCE, Builder(decoded()))
    assert found.notes == ("a note",)
    assert digest == fingerprint(found)


def test_nothing_unfinished_is_left_and_old_leftovers_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, young = (tmp_path / f"{SOURCE.file_name}.{name}.tmp" for name in ("1-1", "2-2"))
    for path in (old, young):
        path.write_bytes(b"left by a kill")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.load(tmp_path, SOURCE, Builder(decoded()))
    assert {path.name for path in tmp_path.iterdir()} == {young.name, SOURCE.file_name}
    young.unlink()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    found, _ = cache.load(tmp_path, Source("x", "x", "x"), Builder(decoded()))
    assert "No space left" in found.notes[-1]
    assert [path.name for path in tmp_path.iterdir()] == [SOURCE.file_name]


def test_file_names_are_plain_whatever_the_source_is_called() -> None:
    names = [Source(label, label, "").file_name for label in ("../../x", "a b\n", "ü" * 300, "", "x/y")]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.") and len(name) < 80 for name in names)
    assert len(set(names)) == len(names)


def test_the_folder_is_the_named_one_or_else_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
