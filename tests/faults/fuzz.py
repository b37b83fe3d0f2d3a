"""Mutation fuzzing of all that reads files: an input ends in success or in an error of ours, soon and in little memory.

Each input is a function of its loader's name and its number alone, so that a failure can be made again:
`python -m tests.faults.fuzz NAME NUMBER`. Inputs are read in forked batches; each is reported when it is done, so a
batch that dies names the input it died of, and the next batch goes on behind it.
"""

import copy
import hashlib
import io
import json
import os
import pickle
import signal
import struct
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from scsuite.core.errors import InputError, UsageError
from tests.faults.box import TINY, Box, import_heavy, new_box, run
from tests.faults.case import MEGABYTES_MAX, SECONDS_MAX, Row

FULL, QUICK, BATCH = 5000, 300, 200  # inputs of a loader, inputs of a process
FULL_BRIEF = 20_000  # of a loader that reads a thousand a second
EDGE = 400  # bytes: headers and directories stand at the ends of a file
BYTES = (0x00, 0x7F, 0x80, 0xFF)
NUMBERS = [
    struct.pack(order + kind, value)
    for order in "<>"
    for kind, value in (("h", -1), ("i", -1), ("q", -1), ("I", 2**31), ("Q", 2**31), ("Q", 2**63), ("i", 2**31 - 1))
]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -(2**63), 0.5, 1e-308, 1e308, float("nan"), float("inf"), "",
    "x", "\x00", "é", "\udcff", "1e999", "9" * 5000, [], {}, [[]], {"": None}, [0] * 1000, "../x", "/dev/zero",
]  # fmt: skip
WORDS = [
    b"null",
    b"-1",
    b"1e999",
    b"nan",
    b"[]",
    b"{}",
    b"&a",
    b"*a",
    b"!!python/name:os.system",
    b"\x00",
    b"\t",
    b": ",
]
WORDS += [b"9" * 5000, b"[" * 5000, b"\xff\xfe", b"\xc3", b"\n", b"'", b'"', b"<<: ", b"? ", b"%YAML 9", b"---"]

Input = dict[str, bytes]  # files by name


# --- mutations ---


def place(random: Random, size: int) -> int:
    """Anywhere, but often near an end."""
    edge = min(EDGE, size)
    return random.choice((random.randrange(size + 1), random.randrange(edge + 1), size - random.randrange(edge + 1)))


def mutate_bytes(random: Random, data: bytes, other: bytes) -> bytes:
    """One to six changes of the bytes; `other` is what the data may be spliced with."""
    for _ in range(random.randint(1, 6)):
        data = random.choice(CHANGES)(random, data, other)
    return data


def _span(random: Random, data: bytes) -> tuple[int, int]:
    start = place(random, len(data))
    return start, min(len(data), start + random.choice((1, 2, 4, 8, 64, 512, 4096)))


def _flip(random: Random, data: bytes, _: bytes) -> bytes:
    at = min(place(random, len(data)), max(len(data) - 1, 0))
    return data[:at] + bytes(byte ^ 1 << random.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]


def _set(random: Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:start] + bytes([random.choice(BYTES)]) * (end - start) + data[end:]


def _delete(random: Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:start] + data[end:]


def _duplicate(random: Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(random, data)
    return data[:end] + data[start:end] * random.choice((1, 1, 3)) + data[end:]


def _swap(random: Random, data: bytes, _: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(random, data), _span(random, data)))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:] if b <= c else data


def _truncate(random: Random, data: bytes, _: bytes) -> bytes:
    return data[: place(random, len(data))]


def _splice(random: Random, data: bytes, other: bytes) -> bytes:
    return data[: place(random, len(data))] + other[place(random, len(other)) :]


def _number(random: Random, data: bytes, _: bytes) -> bytes:
    at, number = place(random, len(data)), random.choice(NUMBERS)
    return data[:at] + number + data[at + random.choice((0, len(number))) :]


def _word(random: Random, data: bytes, _: bytes) -> bytes:
    at = place(random, len(data))
    return data[:at] + random.choice(WORDS) + data[at + random.choice((0, 1, 4)) :]


CHANGES = (_flip, _flip, _set, _delete, _duplicate, _swap, _truncate, _splice, _number, _word)


def mutate_tree(random: Random, tree: Any) -> Any:
    """One to three changes of a tree of mappings and lists, in place."""
    for _ in range(random.randint(1, 3)):
        holders = [node for node in _nodes(tree) if node]
        if not holders:
            return random.choice(VALUES)
        node = random.choice(holders)
        key = random.choice(list(node) if isinstance(node, dict) else range(len(node)))
        change = random.choice(("set", "set", "delete", "swap", "nest", "number"))
        if change == "delete":
            del node[key]
        elif change == "swap":
            node[key] = copy.deepcopy(random.choice(list(_nodes(tree))))  # a copy: what holds itself is no tree
        elif change == "nest":
            node[key] = [node[key]] * random.choice((1, 2, 9))
        elif change == "number" and type(node[key]) in (int, float):
            node[key] = random.choice((-node[key], node[key] + 1, node[key] * 1000, str(node[key])))
        else:
            node[key] = copy.deepcopy(random.choice(VALUES))
    return tree


def _nodes(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _nodes(value)


# --- the loaders ---


@dataclass(frozen=True)
class Loader:
    """`seeds` are whole inputs; `mutate` makes a bad one of them, `load` reads it from a folder and raises or not."""

    name: str
    seeds: list[Input]
    mutate: Callable[[Random, list[Input]], Input]
    load: Callable[[Path], None]
    full: int = FULL


def _seed_of(random: Random, seeds: list[Input]) -> tuple[str, bytes, bytes]:
    ((name, data),) = random.choice(seeds).items()
    (other,) = random.choice(seeds).values()
    return name, data, other


def mutate_file(random: Random, seeds: list[Input]) -> Input:
    """The bytes of the one file."""
    name, data, other = _seed_of(random, seeds)
    return {name: mutate_bytes(random, data, other)}


def mutate_text(random: Random, seeds: list[Input]) -> Input:
    """The bytes, the lines or the values of a YAML file."""
    import yaml

    name, data, other = _seed_of(random, seeds)
    kind = random.randrange(3)
    if kind == 0:
        return {name: mutate_bytes(random, data, other)}
    if kind == 1:
        tokens = data.split(b" ")
        for _ in range(random.randint(1, 4)):
            tokens[random.randrange(len(tokens))] = random.choice((random.choice(WORDS), random.choice(other.split())))
        return {name: b" ".join(tokens)}
    tree = mutate_tree(random, yaml.safe_load(data))
    return {name: yaml.dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")}


def mutate_pickle(random: Random, seeds: list[Input]) -> Input:
    """The bytes of a batch, or the values in it."""
    name, data, other = _seed_of(random, seeds)
    if random.random() < 0.7:
        return {name: mutate_bytes(random, data, other)}
    batch = pickle.loads(data)
    key = random.choice(list(batch))
    kinds = (random.choice(VALUES), [batch[key]] * 2, batch[random.choice(list(batch))])
    batch[random.choice((key, "labels", "fine_labels", 3))] = random.choice(kinds)
    return {name: pickle.dumps(batch, protocol=random.choice((0, 1, 2, 3, 4, 5)))}


def mutate_checkpoint(random: Random, seeds: list[Input]) -> Input:
    """Header, facts or bytes; every second one sealed anew with the sha256 that it should then have."""
    name, data, other = _seed_of(random, seeds)
    data = _with_other_header(random, data) if random.random() < 0.7 else mutate_bytes(random, data, other)
    return {name: _sealed(data) if random.random() < 0.5 else data}


def _with_other_header(random: Random, data: bytes) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if random.random() < 0.6:
        facts = mutate_tree(random, json.loads(header["__metadata__"]["scsuite"]))
        header["__metadata__"]["scsuite"] = json.dumps(facts)
    else:
        header = mutate_tree(random, header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _sealed(data: bytes) -> bytes:
    key = b'\\"sha256\\": \\"'
    at = data.find(key) + len(key)
    if at < len(key):
        return data
    blank = data[:at] + b"0" * 64 + data[at + 64 :]
    return blank[:at] + hashlib.sha256(blank).hexdigest().encode() + blank[at + 64 :]


def mutate_run(random: Random, seeds: list[Input]) -> Input:
    """One file of a run directory: its values, where it has a tree of them, or its bytes; or names of checkpoints."""
    files = dict(random.choice(seeds))
    name = random.choice(sorted(name for name in files if not name.endswith("safetensors")))
    if name.endswith(".json") and random.random() < 0.6:
        files[name] = json.dumps(mutate_tree(random, json.loads(files[name]))).encode()
    elif name.endswith(".yaml"):
        files |= mutate_text(random, [{name: files[name]}])
    else:
        files[name] = mutate_bytes(random, files[name], files[random.choice(sorted(files))])
    if random.random() < 0.2:
        number = random.choice(("", "-1", "x", "٣", "²", "9" * 30, "0", "000007 ", "7.0"))
        files[f"checkpoints/step-{number}.safetensors"] = b""
    if random.random() < 0.05:
        del files[random.choice(sorted(files))]
    return files


def _checkpoint_loader(good: Path) -> Loader:
    from scsuite.core.model.checkpoint import load_checkpoint, read_checkpoint
    from scsuite.core.config import TrainConfig
    from scsuite.core.dataset import load_dataset
    from scsuite.core.loop import Trainer

    state = next((good / "checkpoints").iterdir())
    config = TrainConfig.from_dict(read_checkpoint(state).facts["config"])
    trainers: list[Trainer] = []

    def load(folder: Path) -> None:
        load_checkpoint(folder / "a.safetensors")
        if not trainers:  # in the forked process, once
            trainers.append(Trainer(load_dataset("shapes", limit_train=100, limit_test=50), config))
        trainers[0].restore(read_checkpoint(folder / "a.safetensors"))

    seeds = [{"a.safetensors": path.read_bytes()} for path in (state, state, good / "model.safetensors")]
    return Loader("checkpoint", seeds, mutate_checkpoint, load)


def _pickle_loader(_good: Path) -> Loader:
    import numpy as np

    from scsuite.core.dataset.cifar10 import read_batch, read_class_names

    def load(folder: Path) -> None:
        data = (folder / "data_batch_1").read_bytes()
        (read_class_names if b"label_names" in data else read_batch)(data, folder / "data_batch_1")

    images = np.arange(2 * 3072, dtype=np.int64).astype(np.uint8).reshape(2, 3072)
    batch = {"data": images, "labels": [3, 7], "batch_label": "batch 1", "filenames": ["a.png", "b.png"]}
    names = {"label_names": [f"n{i}" for i in range(10)], "num_vis": 3072}
    seeds = [{"data_batch_1": pickle.dumps(value, protocol=4)} for value in (batch, batch, names)]
    return Loader("CIFAR pickle", seeds, mutate_pickle, load, FULL_BRIEF)


def _painted(number: int, kind: str, size: tuple[int, int] = (32, 32), mode: str = "RGB", **options: Any) -> bytes:
    from PIL import Image

    pixels = bytes(Random(number).randbytes(size[0] * size[1] * 3))
    buffer = io.BytesIO()
    deep = mode == "I;16"
    image = Image.frombytes(mode if deep else "RGB", size, pixels[: size[0] * size[1] * (2 if deep else 3)])
    (image if deep else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def _picture_loader(_good: Path) -> Loader:
    from scsuite.core.dataset.image_file import read_image_32

    def load(folder: Path) -> None:
        read_image_32(folder / "a.png")

    kinds = [
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("PNG", "LA"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("JPEG", "L"),
    ]
    kinds += [("BMP", "RGB"), ("BMP", "P"), ("BMP", "1"), ("WEBP", "RGB"), ("WEBP", "RGBA")]
    sizes = ((32, 32), (19, 40))
    seeds = [{"a.png": _painted(i, kind, size, mode)} for i, size in enumerate(sizes) for kind, mode in kinds]
    seeds += [
        {"a.png": _painted(9, "PNG", mode="I;16")},
        {"a.png": _painted(9, "JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0")},
    ]
    return Loader("picture", seeds, mutate_file, load, FULL_BRIEF)


def _archive_loader(_good: Path) -> Loader:
    from scsuite.core.dataset.folder import open_archive, read_archive

    def load(folder: Path) -> None:
        file, _ = open_archive(folder / "a.zip")
        with file:
            read_archive(file, "a.zip", lambda _text, _done, _total: None)

    names = [f"{part}/{name}/1.png" for part in ("train", "test") for name in ("cat", "dog")]
    tree = {name: _painted(i, "PNG", (4, 4)) for i, name in enumerate(names)} | {"readme.txt": b"pictures"}
    seeds = [_zip(tree, zipfile.ZIP_STORED), _zip(tree, zipfile.ZIP_DEFLATED)]
    seeds += [
        _tar(tree, mode, form) for mode in ("", "gz", "xz", "bz2") for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    ]
    return Loader("archive", [{"a.zip": seed} for seed in seeds], mutate_file, load, FULL_BRIEF)


def _zip(tree: Mapping[str, bytes], method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _tar(tree: Mapping[str, bytes], mode: str, form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}", format=form) as archive:  # type: ignore[call-overload]
        for name, data in {**tree, "train/dog/" + "é" * 120 + ".png": tree["train/dog/1.png"]}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _yaml_loader(good: Path) -> Loader:
    import yaml

    from scsuite.core.augment import default_policy, load_policy
    from scsuite.core.config import TrainConfig
    from scsuite.core.files import read_yaml

    def load(folder: Path) -> None:
        if (folder / "config.yaml").exists():
            TrainConfig.from_dict(read_yaml(str(folder / "config.yaml"), "configuration"))
        else:
            load_policy(str(folder / "policy.yaml"), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    policy = yaml.safe_dump(json.loads(json.dumps(default_policy((0.5,) * 3, (0.25,) * 3).to_dict())), sort_keys=False)
    group = "transform:\n  __class_fullname__: Compose\n  transforms:\n  - __class_fullname__: OneOf\n    p: 0.5\n"
    group += "    transforms:\n    - {__class_fullname__: Rotate, limit: [-9, 9]}\n"
    group += "    - {__class_fullname__: GaussNoise, p: 1.0}\n"
    configs = [{"config.yaml": (good / "config.yaml").read_bytes()}]
    return Loader(
        "YAML", [*configs, {"policy.yaml": policy.encode()}, {"policy.yaml": group.encode()}], _same_kind, load
    )


def _same_kind(random: Random, seeds: list[Input]) -> Input:
    return mutate_text(random, [random.choice(seeds)] if random.random() < 0.8 else seeds)


def _run_loader(good: Path) -> Loader:
    from scsuite.cli.train import _same_settings
    from scsuite.cli.zigzag import _recorded
    from scsuite.core.config import TrainConfig
    from scsuite.core.runs.rundir import RunDir, latest_checkpoint, read_result, resolve_checkpoint

    def opened(folder: Path) -> None:
        with RunDir.open(folder) as run:
            run.result()
            _same_settings(run.config(), TrainConfig(), frozenset(), run.path)
            run.steps(), run.epochs()
            run.cut_back(7, 1)

    readers: list[Callable[[Path], object]] = [opened, latest_checkpoint]
    readers += [lambda folder: read_result(str(folder), "train"), lambda folder: resolve_checkpoint(str(folder))]
    readers += [lambda folder: _recorded(str(folder))]  # before `opened`, which cuts rows back

    def load(folder: Path) -> None:
        refusals: list[Exception] = []
        for reader in reversed(readers):
            try:
                reader(folder)
            except (InputError, UsageError) as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    names = ("config.yaml", "environment.json", "result.json", "steps.csv", "metrics.csv", "model.safetensors")
    seed = {name: (good / name).read_bytes() for name in names}
    seed |= {f"checkpoints/{path.name}": path.read_bytes() for path in (good / "checkpoints").iterdir()}
    return Loader("run directory", [seed], mutate_run, load)


LOADERS: dict[str, Callable[[Path], Loader]] = {
    "checkpoint": _checkpoint_loader,
    "CIFAR pickle": _pickle_loader,
    "picture": _picture_loader,
    "archive": _archive_loader,
    "YAML": _yaml_loader,
    "run directory": _run_loader,
}


# --- the runs ---


def input_of(loader: Loader, number: int) -> Input:
    """The input of a number."""
    return loader.mutate(Random(f"{loader.name} {number}"), loader.seeds)


def write_input(loader: Loader, number: int, folder: Path) -> None:
    """Put an input's files into the folder, in the place of what is there."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name, data in input_of(loader, number).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def one(loader: Loader, number: int, folder: Path) -> dict[str, Any]:
    """Read an input: how it ended, how long it took, and how much memory."""
    write_input(loader, number, folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    before, begin = _megabytes("VmRSS"), time.monotonic()
    try:
        loader.load(folder)
        end = "accepted"
    except (InputError, UsageError) as error:
        end = "refused" if "\n" not in str(error) else f"an error of several lines: {error}"
    except Exception as error:
        end = f"{type(error).__name__}: {error}"[:200]
    grown = _megabytes("VmHWM") - before
    end = end if grown < MEGABYTES_MAX else f"{grown:.0f} MB"
    return {"number": number, "end": end, "seconds": time.monotonic() - begin, "megabytes": grown}


def _megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _work(loader: Loader, numbers: Sequence[int], folder: Path, pipe: int) -> NoReturn:
    try:
        warnings.simplefilter("ignore")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        for number in numbers:
            signal.setitimer(signal.ITIMER_REAL, SECONDS_MAX)  # its signal ends the process, whatever holds it up
            report = one(loader, number, folder)
            os.write(pipe, json.dumps(report).encode() + b"\n")
    except BaseException as error:  # ours, in a mutation
        report = {"number": number, "end": f"FUZZER: {error!r}", "seconds": 0.0, "megabytes": 0.0}
        os.write(pipe, json.dumps(report).encode() + b"\n")
    finally:
        os._exit(0)


def fuzz(loader: Loader, count: int, folder: Path) -> Row:
    """Read `count` inputs; a row that says how they ended."""
    row = Row(f"fuzz: {loader.name}", "no crash, hang or unclassified exception", facts={"refused": 0, "accepted": 0})
    number = 0
    while number < count:
        end, pipe = os.pipe()
        pid = os.fork()
        if pid == 0:
            _work(loader, range(number, min(count, number + BATCH)), folder, pipe)
        os.close(pipe)
        first = number
        with os.fdopen(end, "rb") as reports:
            for line in reports:
                _count(row, json.loads(line))
                number += 1
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code and number < min(count, first + BATCH):
            why = "a hang" if code == -signal.SIGALRM else f"the process ended with {code}"
            _count(row, {"number": number, "end": why, "seconds": SECONDS_MAX, "megabytes": 0.0})
            number += 1
    row.facts = {"inputs": row.total, **row.facts}
    return row


def _count(row: Row, report: dict[str, Any]) -> None:
    fine = report["end"] in ("refused", "accepted")
    if fine:
        row.facts[report["end"]] = int(row.facts[report["end"]]) + 1
    row.count(f"input {report['number']}", "" if fine else report["end"])
    row.worst("seconds_max", report["seconds"])
    row.worst("megabytes_max", report["megabytes"])


def _good_run(box: Box) -> Path:
    run(box, *TINY, "--epochs", "2", "--lr-max", "0.1")
    return box.run_dirs[0]


def rows(quick: bool) -> list[Row]:
    """One row a loader."""
    with new_box() as box:
        good, folder = _good_run(box), box.path / "input"
        folder.mkdir()
        loaders = [make(good) for make in LOADERS.values()]
        return [fuzz(loader, QUICK if quick else loader.full, folder) for loader in loaders]


def main() -> None:
    """Read one input again, with its traceback."""
    name, number = sys.argv[1], int(sys.argv[2])
    import_heavy()
    with new_box() as box:
        loader, folder = LOADERS[name](_good_run(box)), box.path / "input"
        folder.mkdir()
        write_input(loader, number, folder)
        loader.load(folder)


if __name__ == "__main__":
    main()
