"""B: CIFAR-10's files, damaged, foreign or hostile; the md5s that the program knows are those of `trust`, where asked.

Files whose md5 is wrong are refused unread, so most faults are given twice: as they are, and with their md5 made right.
"""

import contextlib
import gzip
import hashlib
import http.server
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.core.dataset.helpers import write_folder, write_tar
from tests.core.dataset.test_unpickle import NAMES, REAL_META, payloads, python2_batch
from tests.faults.case import FaultCase, ScoreRow, check_cases, thin_cases
from tests.faults.sandbox import Sandbox
from tests.tiny_args import ONE_EPOCH_ARGS

FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
ROWS = 10
TORCHVISIONS = "c99cafc152244af753f735de768cd75f"  # the md5 of the real data_batch_1

Files = Mapping[str, bytes | Callable[[Path], None]]  # what is no bytes makes its file itself


def sound() -> dict[str, bytes]:
    """The seven files as Python 2 wrote them, of ten images each."""
    rng = np.random.default_rng(0)
    batches = {name: python2_batch(rng.bytes(ROWS * 3072), ROWS, list(range(ROWS))) for name in BATCHES}
    return {**batches, "batches.meta": REAL_META}


def train(sandbox: Sandbox, data_dir: object) -> list[object]:
    """A training on cifar10, its cache apart: nothing of another case is known."""
    cache = sandbox.path.parent / "cache"
    return ["train", "--data", "cifar10", "--data-dir", data_dir, "--cache-dir", cache, *ONE_EPOCH_ARGS]


def trust(files: Files, archive: bytes = b"") -> None:
    """Make these files' md5s the right ones, and no mirror known."""
    from scsuite.core.dataset import cifar10

    md5s = {name: hashlib.md5(data).hexdigest() for name, data in files.items() if isinstance(data, bytes)}
    cifar10.FILE_MD5S = {**cifar10.FILE_MD5S, **md5s}
    cifar10.ARCHIVE_MD5 = hashlib.md5(archive).hexdigest()
    cifar10.MIRRORS = ("http://127.0.0.1:9/none", "http://127.0.0.1:9/either")


def given(files: Files) -> Callable[[Sandbox], Sequence[object]]:
    """In torchvision's layout."""

    def make(sandbox: Sandbox) -> list[object]:
        folder = sandbox.inputs / FOLDER
        write_folder(folder, {name: data for name, data in files.items() if isinstance(data, bytes)})
        for name, data in files.items():
            if not isinstance(data, bytes):
                data(folder / name)
        return train(sandbox, sandbox.inputs)

    return make


def case(fault: str, name: str, files: Files, *words: str, code: int = 3, trusted: bool = True) -> FaultCase:
    """A training on these files; `trusted`: their md5s are the right ones."""
    before = partial(trust, files if trusted else {})
    return FaultCase(fault, f"{name}{'' if trusted else ', of another md5'}", given(files), code, words, before)


def batch(**changes: Any) -> bytes:
    """A valid batch except for these fields; None removes one."""
    fields = {"data": np.zeros((ROWS, 3072), np.uint8), "labels": list(range(ROWS)), **changes}
    return pickle.dumps({key: value for key, value in fields.items() if value is not None}, protocol=4)


def hostile() -> dict[str, bytes]:
    """Pickles that want something run, or more memory or stack than there is."""
    array = pickle.dumps(np.zeros((1, 3072), np.uint8), protocol=4)
    shape = b"K\x01M\x00\x0c\x86"  # (1, 3072)
    assert shape in array
    return {
        **payloads(Path("canary")),
        "a shape of 10**12": array.replace(shape, b"\x8a\x06" + (10**12).to_bytes(6, "little") + shape[2:]),
        "an array of objects": pickle.dumps({"data": np.array([[object()]], dtype=object)}, protocol=0),
        "a million lists in each other": b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
        "a million tuples in each other": b"\x80\x02}U\x04data)" + b"\x85" * 10**6 + b"s.",
        "40,000 levels as labels": b"\x80\x02}(U\x04data" + array[2:-1] + b"U\x06labels])" + b"\x85" * 40_000
        + b"au.",
        "a memo of 2**31 entries": b"\x80\x02}r\xff\xff\xff\x7f.",
        "a million marks": b"\x80\x02" + b"(" * 10**6 + b".",
        "a list in itself": b"\x80\x02}U\x04data]q\x01h\x01as.",
        "one text for a thousand arrays": b"\x80\x02](" + array[2:-1] * 1000 + b"e.",
    }  # fmt: skip


def broken() -> dict[str, tuple[bytes, str]]:
    """What is no batch, and what the program says it is."""
    whole = python2_batch(bytes(ROWS * 3072), ROWS, list(range(ROWS)))
    return {
        "empty": (b"", "batch"),
        "cut in half": (whole[: len(whole) // 2], "batch"),
        "cut by a byte": (whole[:-1], "batch"),
        "an HTML page": (b"\n<!DOCTYPE html><html>404</html>", "HTML"),
        "gzip": (gzip.compress(whole), "batch"),
        "a number": (pickle.dumps(5), "without fields"),
        "zeros": (bytes(10_000), "batch"),
        "text": (b"data_batch_1\n", "batch"),
    }


def fields() -> dict[str, tuple[bytes, str]]:
    """Batches with a field that cannot be."""
    labels = list(range(ROWS))
    return {
        **{
            f"data of {kind}": (batch(data=np.zeros((ROWS, 3072), kind)), "uint8")
            for kind in ("int8", "uint16", "int64", "float32", "bool")
        },
        "data 3071 wide": (batch(data=np.zeros((ROWS, 3071), np.uint8)), f"({ROWS}, 3071)"),
        "data of one dimension": (batch(data=np.zeros(ROWS * 3072, np.uint8)), f"({ROWS * 3072},)"),
        "data of three dimensions": (batch(data=np.zeros((ROWS, 3, 1024), np.uint8)), f"({ROWS}, 3, 1024)"),
        "data a list": (batch(data=[1, 2]), "data"),
        "data a text": (batch(data="x" * 3072), "data"),
        "no data": (batch(data=None), "data"),
        "no images": (pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}, protocol=4), "no images"),
        "no labels": (batch(labels=None), "labels"),
        "a label less": (batch(labels=labels[:-1]), f"{ROWS - 1} labels for {ROWS} images"),
        "a label more": (batch(labels=[*labels, 0]), f"{ROWS + 1} labels for {ROWS} images"),
        **{
            f"the label {value!r}": (batch(labels=[value, *labels[1:]]), "label")
            for value in (10, -1, 2**70, 1.5, "3", None, True, [0], b"\x01")
        },
        "labels a text": (batch(labels="0123456789"), "labels"),
        "labels by name": (batch(labels=dict.fromkeys("abc", 1)), "labels"),
        "a name less": (batch(filenames=["a"] * (ROWS - 1)), "filenames"),
        "names that are numbers": (batch(filenames=labels), "filenames"),
        "CIFAR-100": (batch(labels=None, fine_labels=labels, coarse_labels=labels), "CIFAR-100"),
    }


def metas() -> dict[str, bytes]:
    """Class names that are not ten."""
    names: list[Any] = list(NAMES)
    values: dict[str, Any] = {
        "nine names": names[:9], "eleven names": [*names, "x"], "a name twice": [*names[:9], "cat"],
        "an empty name": [*names[:9], ""], "a number": [*names[:9], 7], "a text": "airplane", "none": None,
    }  # fmt: skip
    return {name: pickle.dumps({"label_names": value}, protocol=2) for name, value in values.items()}


def content_cases() -> Iterator[FaultCase]:
    """B17 to B22: one of the seven files is not what it should be."""
    good = sound()
    yield case("B0", "nothing wrong", good, code=0)
    yield case("B17", "sound files", good, TORCHVISIONS, trusted=False)
    flipped = bytearray(good["data_batch_3"])
    flipped[5000] ^= 1
    md5s = [hashlib.md5(data).hexdigest() for data in (good["data_batch_3"], bytes(flipped))]
    yield FaultCase(
        "B17", "a flipped bit", given({**good, "data_batch_3": bytes(flipped)}), 3, ("data_batch_3", *md5s),
        partial(trust, good),
    )  # fmt: skip
    for name, data in hostile().items():
        for file in ("data_batch_1", "batches.meta"):
            yield case("B18", f"{name} in {file}", {**good, file: data}, file)
        yield case("B18", name, {**good, "data_batch_1": data}, TORCHVISIONS, trusted=False)
    for name, (data, word) in broken().items():
        for file in ("data_batch_1", "test_batch"):
            yield case("B19", f"{name} as {file}", {**good, file: data}, file, word)
        yield case("B19", name, {**good, "data_batch_1": data}, TORCHVISIONS, trusted=False)
    for name, (data, word) in fields().items():
        yield case("B22" if name == "CIFAR-100" else "B20", name, {**good, "data_batch_4": data}, "data_batch_4", word)
    for missing in good:
        files = {name: data for name, data in good.items() if name != missing}
        yield FaultCase("B21", f"no {missing}", given(files), 3, (f"no {missing}",), partial(trust, good))
    for name, data in metas().items():
        yield case("B21", f"label_names {name}", {**good, "batches.meta": data}, "batches.meta", "label_names")
    one_class = {name: batch(labels=[3] * ROWS) if name in BATCHES else data for name, data in good.items()}
    yield case("B22", "one class only", one_class, "two or more classes")


def place_cases() -> Iterator[FaultCase]:
    """B19, B21: what stands where a file or the folder should be."""
    good = sound()

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(5 * 2**30)

    places: dict[str, Callable[[Path], None]] = {
        "a FIFO": os.mkfifo, "a folder": Path.mkdir, "a link to itself": lambda path: path.symlink_to(path),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"), "5 GB of zeros": sparse,
    }  # fmt: skip
    for name, make in places.items():
        yield case("B19", f"{name} as test_batch", {**good, "test_batch": make}, "test_batch")

        def instead(sandbox: Sandbox, make: Callable[[Path], None] = make) -> list[object]:
            make(sandbox.inputs / FOLDER)
            return train(sandbox, sandbox.inputs)

        def archive(sandbox: Sandbox, make: Callable[[Path], None] = make) -> list[object]:
            make(sandbox.inputs / ARCHIVE)
            return train(sandbox, sandbox.inputs)

        yield FaultCase("B21", f"{name} as the folder", instead, 3, (FOLDER,), partial(trust, {}))
        yield FaultCase("B19", f"{name} as the archive", archive, 3, (ARCHIVE,), partial(trust, {}))


def archive_cases() -> Iterator[FaultCase]:
    """B17, B19, B21: the archive, its md5 known or not."""
    good = sound()

    def tar(files: Mapping[str, bytes]) -> bytes:
        with contextlib.ExitStack() as stack:
            import tempfile

            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            tree = {f"{FOLDER}/{name}": data for name, data in files.items()}
            return write_tar(folder / ARCHIVE, tree, "w:gz").read_bytes()

    def put(data: bytes) -> Callable[[Sandbox], list[object]]:
        def make(sandbox: Sandbox) -> list[object]:
            (sandbox.inputs / ARCHIVE).write_bytes(data)
            return train(sandbox, sandbox.inputs)

        return make

    whole = tar(good)
    less = tar({name: data for name, data in good.items() if name != "data_batch_2"})
    evil = {**good, "data_batch_1": hostile()["os.system"]}
    for fault, name, files, data, code, words in (
        ("B0", "nothing wrong", good, whole, 0, ()),
        ("B17", "with another batch in it", good, tar({**good, "test_batch": b"x"}), 3, ("test_batch", "md5")),
        ("B18", "with os.system in it", evil, tar(evil), 3, ("data_batch_1", "refers to")),
        ("B19", "cut in half", good, whole[: len(whole) // 2], 3, (ARCHIVE,)),
        ("B19", "that is HTML", good, b"<html>404</html>", 3, (ARCHIVE,)),
        ("B19", "that is empty", good, b"", 3, (ARCHIVE,)),
        ("B19", "of gzip alone", good, gzip.compress(b"x" * 10_000), 3, (ARCHIVE,)),
        ("B21", "without a batch", good, less, 3, ("data_batch_2",)),
        ("B21", "with nothing in it", good, tar({}), 3, ("data_batch_2",)),
    ):  # fmt: skip
        yield FaultCase(fault, f"an archive {name}", put(data), code, words, partial(trust, files, data))
        if code:
            yield FaultCase(
                fault,
                f"an archive {name}, of another md5",
                put(data),
                3,
                (ARCHIVE, "md5"),
                partial(trust, files, b"another"),
            )


def mirror_cases(port: int) -> Iterator[FaultCase]:
    """What a mirror may send instead; of it nothing is left but the lock."""

    def missing(sandbox: Sandbox) -> list[object]:
        return train(sandbox, sandbox.path.parent / "place")

    def left(sandbox: Sandbox) -> str:
        names = sorted(path.name for path in (sandbox.path.parent / "place").iterdir())
        return "" if names in ([], [f".{ARCHIVE}.lock"]) else f"it left {names}"

    for what, words in {
        "404": ("404",), "500": ("500",), "html": ("md5",), "cut": ("stopped after",), "redirect": ("mirror",),
        "huge": ("bytes",), "length": ("mirror",), "nonsense": ("mirror",),
    }.items():  # fmt: skip
        before = partial(_mirror, f"http://127.0.0.1:{port}/{what}")
        after = (lambda _sandbox: "") if what == "cut" else left  # a part is kept, to go on from
        yield FaultCase("B19", f"a mirror that sends {what}", missing, 3, ("download", *words), before, after)
    for name, url in {
        "nobody listens": "http://127.0.0.1:9/x", "no address": "x", "a file that is not there": "file:///nowhere/x",
        "another scheme": "ftp://127.0.0.1/x", "a port of letters": "http://127.0.0.1:x/", "a new line": "http://127.0.0.1/\nx",
        "a folder": "file:///tmp", "/dev/zero": "file:///dev/zero",
    }.items():  # fmt: skip
        yield FaultCase("B21", f"no folder, and {name}", missing, 3, ("download",), partial(_mirror, url), left)


def _mirror(url: str) -> None:
    trust({})
    os.environ["SCSUITE_CIFAR10_URL"] = url


class _Mirror(http.server.BaseHTTPRequestHandler):
    """Answers each path in its own wrong way."""

    def do_GET(self) -> None:
        what = self.path.strip("/")
        if what.isdigit():
            self.send_error(int(what))
            return
        if what == "nonsense":
            self.wfile.write(b"\x00\xff\r\n\r\n")
            return
        self.send_response(302 if what == "redirect" else 200)
        headers = {"redirect": ("Location", "file:///etc/passwd"), "huge": ("Content-Length", str(10**15))}
        length = {"cut": "1000000", "length": "-5"}.get(what, "15")
        self.send_header(*headers.get(what, ("Content-Length", length)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"<html>no</html>")

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@contextlib.contextmanager
def mirror() -> Iterator[int]:
    """A server on this machine; its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Mirror)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rows(quick: bool) -> list[ScoreRow]:
    """One row: the cases of B."""
    with mirror() as port:
        cases = [*content_cases(), *place_cases(), *archive_cases(), *mirror_cases(port)]
        return [check_cases("B CIFAR-10 pickles", thin_cases(cases, 4) if quick else cases)]
