"""Unpickling: the real files' pickles give their values; a pickle that could run code or claim memory is refused."""

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
from scsuite.core.dataset.unpickle import MAX_OPERATIONS, unpickle

# batches.meta as Python 2 wrote it: PROTO 2, SHORT_BINSTRINGs, memo from 1.
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def short_string(text: str, memo: int) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode() + b"q" + bytes([memo])


REAL_META = (
    b"\x80\x02}q\x01(" + short_string("num_cases_per_batch", 2) + b"M\x10'" + short_string("label_names", 3)
    + b"]q\x04(" + b"".join(short_string(name, 5 + i) for i, name in enumerate(NAMES)) + b"e"
    + short_string("num_vis", 15) + b"M\x00\x0cu."
)  # fmt: skip


def python2_batch(images: bytes, rows: int, labels: list[int], width: int = 3072) -> bytes:
    """A batch with the opcodes of the real ones: cPickle's protocol 2, numpy 1's names, data as a string."""
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        b"\x80\x02}q\x01(" + short_string("batch_label", 2) + short_string("training batch 1 of 5", 3)
        + short_string("labels", 4) + b"]q\x05(" + numbers + b"e" + short_string("data", 6)
        + b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09("
        + b"K\x01J" + struct.pack("<i", rows) + b"M" + struct.pack("<H", width) + b"\x86cnumpy\ndtype\nq\x0a"
        + b"U\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<i", len(images)) + images + b"tb" + short_string("filenames", 12) + b"]q\x0d("
        + b"".join(short_string(f"img_{i}.png", 14 + i) for i in range(rows)) + b"eu."
    )  # fmt: skip


def test_real_batches_meta_is_read() -> None:
    assert hashlib.md5(REAL_META).hexdigest() == FILE_MD5S["batches.meta"]  # these are the very bytes
    assert unpickle(REAL_META) == {"num_cases_per_batch": 10000, "label_names": list(NAMES), "num_vis": 3072}


def test_python_2_batch_is_read_as_pickle_reads_it() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    data = python2_batch(images.tobytes(), 2, [3, 9])
    value, expected = unpickle(data), pickle.loads(data, encoding="latin1")
    assert isinstance(value, dict)
    assert np.array_equal(value["data"], images)
    assert np.array_equal(expected.pop("data"), value.pop("data"))
    assert value == expected


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_protocol_4_keeps_its_memory_order(order: Any) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    value = unpickle(pickle.dumps({"data": np.asarray(array, order=order)}, protocol=4))
    assert isinstance(value, dict)
    assert np.array_equal(value["data"], array)


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
        "codecs.encode": b"\x80\x02c_codecs\nencode\nU\x01aU\x03hex\x86R.",
        "inst": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + touch.encode() + b"'\no.",
        "newobj": b"\x80\x02cos\nsystem\n(\x81.",
        "persistent id": b"Pwhatever\n.",
        "extension": b"\x80\x02\x82\x01.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        "attribute of an allowed name": b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.tofile\x93.",
        "build on a dict": b"\x80\x02}}b.",
        "ndarray called": b"\x80\x02cnumpy\nndarray\n(K\x01\x85tR.",
        "string called": b"\x80\x02U\x01aK\x01\x85R.",
        "newobj of a dtype": b"\x80\x02cnumpy\ndtype\nU\x02u1\x85\x81.",
    }


@pytest.mark.parametrize("name", payloads(Path()))
def test_no_payload_runs(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(ValueError):
        unpickle(payloads(canary)[name])
    assert not canary.exists()


def test_the_refused_name_is_in_the_message() -> None:
    with pytest.raises(ValueError, match=rf"it refers to {os.system.__module__}\.system"):
        unpickle(pickle.dumps(Payload(os.system, "true")))


ARRAY = pickle.dumps(np.zeros((1, 3072), np.uint8), protocol=4)
SHAPE = b"K\x01M\x00\x0c\x86"  # (1, 3072)
assert SHAPE in ARRAY
DEEP_KEY = b"\x80\x02})" + b"\x85" * MAX_OPERATIONS + b"K\x01s."  # its hash would go as deep on the C stack


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ARRAY.replace(SHAPE, b"\x8a\x06" + (10**12).to_bytes(6, "little") + SHAPE[2:]), "match array size"),
        (b"\x80\x02](" + ARRAY[2:-1] * 2 + b"e.", "several arrays"),
        (b"\x80\x02K\x07r\xff\xff\xff\x7f.", "operations"),  # a memo of 2**31 entries
        (DEEP_KEY, "operations"),
        (b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".", "operations"),
        (b"\x80\x02T\xff\xff\xff\x7fabc.", "damaged or foreign"),  # a string of 2 GB with three bytes
        (b"\x80\x02T\xff\xff\xff\xffabc.", "damaged or foreign"),  # of -1 bytes
        (b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.", "damaged or foreign"),  # of 2**64 - 1 bytes
        (pickle.dumps(np.zeros((2, 3072), np.int8), protocol=4), "an array of type i1, not uint8"),
        (pickle.dumps(np.zeros((2, 3072), np.float32), protocol=4), "an array of type f4, not uint8"),
        (pickle.dumps(np.array([[object()]], dtype=object), protocol=4), "an array of type O8, not uint8"),
        (b"", "damaged or foreign"),
        (b".", "."),
        (b"\x80\x02h\x05.", "."),  # nothing in the memo
        (b"\x80\x02}(U\x01au.", "."),  # a key without a value
        (b"\xff\xfe garbage", "damaged or foreign"),
        (b"I12x\n.", "damaged or foreign"),
    ],
)
def test_huge_claims_foreign_arrays_and_damage_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unpickle(data)


def test_every_truncated_batch_is_refused() -> None:
    complete = python2_batch(bytes(12), 1, [1], width=12)
    assert isinstance(unpickle(complete), dict)
    for end in range(len(complete)):
        with pytest.raises(ValueError):
            unpickle(complete[:end])
