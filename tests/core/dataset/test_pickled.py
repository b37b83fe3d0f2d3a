"""Pickles are read, not run: what the real files hold comes through, anything that could call something does not."""

import hashlib
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scsuite.core.dataset.cifar10 import FILE_MD5S
from scsuite.core.dataset.pickled import PickledArray, read_pickle

VALUE = {
    "labels": [0, 9, 255, 70_000, 2**40, -1],
    "text": "ä",
    "bytes": b"\x00\xff",
    "flags": (True, None),
    "deep": [[()]],
}

# batches.meta as Python 2 wrote it: PROTO 2, SHORT_BINSTRINGs, memo from 1.
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def short(text: str, memo: int) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode() + b"q" + bytes([memo])


REAL_META = (
    b"\x80\x02}q\x01(" + short("num_cases_per_batch", 2) + b"M\x10'" + short("label_names", 3) + b"]q\x04("
    + b"".join(short(name, 5 + i) for i, name in enumerate(NAMES)) + b"e" + short("num_vis", 15) + b"M\x00\x0cu."
)  # fmt: skip


def python2_batch(images: bytes, rows: int, labels: list[int], width: int = 3072) -> bytes:
    """A batch with the opcodes of the real ones: cPickle's protocol 2, numpy 1's names, data as a string."""
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        b"\x80\x02}q\x01(" + short("batch_label", 2) + short("training batch 1 of 5", 3)
        + short("labels", 4) + b"]q\x05(" + numbers + b"e" + short("data", 6)
        + b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09("
        + b"K\x01J" + struct.pack("<i", rows) + b"M" + struct.pack("<H", width) + b"\x86cnumpy\ndtype\nq\x0a"
        + b"U\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<i", len(images)) + images + b"tb" + short("filenames", 12) + b"]q\x0d("
        + b"".join(short(f"img_{i}.png", 14 + i) for i in range(rows)) + b"eu."
    )  # fmt: skip


def test_the_real_batches_meta_is_read() -> None:
    assert hashlib.md5(REAL_META).hexdigest() == FILE_MD5S["batches.meta"]  # these are the very bytes
    assert read_pickle(REAL_META) == {"num_cases_per_batch": 10000, "label_names": list(NAMES), "num_vis": 3072}


def test_a_batch_as_python_2_wrote_it_is_read() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    data = python2_batch(images.tobytes(), 2, [3, 9])
    assert np.array_equal(pickle.loads(data, encoding="latin1")["data"], images)  # numpy reads the same of it
    value = read_pickle(data)
    assert isinstance(value, dict)
    assert value["labels"] == [3, 9]
    assert value["filenames"] == ["img_0.png", "img_1.png"]
    assert np.array_equal(value["data"].rows(3072), images)


@pytest.mark.parametrize("protocol", range(5))
def test_each_protocol_of_python_3_gives_the_same_values(protocol: int) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for layout in (array, np.asfortranarray(array)):
        value = read_pickle(pickle.dumps({**VALUE, "array": layout}, protocol=protocol))
        assert isinstance(value, dict)
        assert np.array_equal(value.pop("array").rows(4), array)
        assert value == VALUE


class Payload:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def payloads(canary: Path) -> dict[str, bytes]:
    touch = f"touch {canary}"
    return {
        "os.system": pickle.dumps(Payload(os.system, touch)),
        "os.system, protocol 0": pickle.dumps(Payload(os.system, touch), protocol=0),
        "eval": pickle.dumps({"data": Payload(eval, f"open({str(canary)!r}, 'w')")}),
        "numpy.load": pickle.dumps(Payload(np.load, str(canary))),
        "open": pickle.dumps(Payload(io.open, str(canary), "w")),
        "getattr": b"c__builtin__\ngetattr\n.",
        "inst": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + touch.encode() + b"'\no.",
        "newobj": b"\x80\x02cos\nsystem\n(\x81.",
        "persistent id": b"Pwhatever\n.",
        "extension": b"\x80\x02\x82\x01.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        "build on a dict": b"\x80\x02}}b.",
        "ndarray called": b"\x80\x02cnumpy\nndarray\n(K\x01\x85tR.",
        "string called": b"\x80\x02U\x01aK\x01\x85R.",
    }


def test_no_payload_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for name, data in payloads(canary).items():
        with pytest.raises(ValueError, match="pickle"):
            print(name, read_pickle(data))
        assert not canary.exists(), name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02}",
        b"\x80\x02}q\x01(",
        b"\x80\x02h\x05.",  # nothing in the memo
        b"\x80\x02K\x01K\x02.",  # two values left
        b"\x80\x02(K\x01.",  # an open mark
        b"\x80\x02K\x01\x86.",  # a pair of one
        b"\x80\x02}K\x01K\x02s.",  # a key that is no text
        b"\x80\x02}(U\x01ae.",  # appended to a dict
        b"\x80\x02}(U\x01au.",  # a key without a value
        b"\x80\x02T\xff\xff\xff\x7fabc.",  # a string of 2 GB, three bytes of it there
        b"\x80\x02T\xff\xff\xff\xffabc.",  # of -1 bytes
        b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.",  # of 2**64 - 1
        b"\xff\xfe garbage",
        b"I12x\n.",
    ],
)
def test_damaged_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_pickle(data)


def test_a_huge_memo_index_costs_no_memory() -> None:
    assert read_pickle(b"\x80\x02K\x07r\xff\xff\xff\x7f.") == 7


def test_a_hundred_thousand_levels_are_read_or_refused_without_a_crash() -> None:
    assert isinstance(read_pickle(b"\x80\x02" + b"]" + b"\x85" * 150_000 + b"."), tuple)
    with pytest.raises(ValueError, match="damaged"):
        read_pickle(b"\x80\x02})" + b"\x85" * 150_000 + b"K\x01s.")  # as a key: its hash would go as deep


def test_every_cut_of_a_batch_is_refused() -> None:
    whole = python2_batch(bytes(12), 1, [1], width=12)
    assert isinstance(read_pickle(whole), dict)
    for end in range(len(whole)):
        with pytest.raises(ValueError):
            read_pickle(whole[:end])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3071), np.uint8), "shape"),
        (np.zeros((2, 3072), np.int8), "type i1"),
        (np.zeros((2, 3072), np.float32), "type f4"),
        (np.zeros(3072, np.uint8), "two dimensions"),
        (np.array([[object()] * 2], dtype=object)[:, :0], "type O8"),
    ],
)
def test_an_array_of_another_kind_is_refused_by_name(array: np.ndarray[Any, Any], words: str) -> None:
    value = read_pickle(pickle.dumps(array, protocol=2))
    assert isinstance(value, PickledArray)
    with pytest.raises(ValueError, match=words):
        value.rows(3072)


def test_a_shape_beyond_its_bytes_is_refused_without_allocating() -> None:
    data = python2_batch(bytes(3072), 1, [1]).replace(
        b"J" + struct.pack("<i", 1), b"\x8a\x06" + (10**12).to_bytes(6, "little")
    )
    value = read_pickle(data)
    assert isinstance(value, dict)
    with pytest.raises(ValueError, match=r"shape \(1000000000000, 3072\) over 3072 bytes"):
        value["data"].rows(3072)
