"""Mutation fuzzing of everything that reads files. In: valid files, changed at random. Out: one row per loader.

Every input must be accepted or refused with one of our errors, quickly and in little memory. An input depends on its
loader's name and its number alone, so that a failure can be repeated: `python -m tests.faults.fuzz NAME NUMBER`. Inputs
are read in forked batches and reported one by one, so a batch that dies names the input, and the next batch continues
after it.
"""

import copy
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
from tests.faults.case import MAX_MEGABYTES, MAX_SECONDS, ScoreRow
from tests.faults.checkpoint_builder import DIGEST_KEY, seal
from tests.faults.sandbox import Sandbox, import_heavy, new_sandbox, run
from tests.tiny_args import FAULT_ARGS

NUM_INPUTS, NUM_QUICK, BATCH_SIZE = 5000, 300, 200  # inputs per loader, in the quick scorecard, per process
NUM_INPUTS_FAST = 20_000  # of a loader that reads a thousand per second
EDGE_BYTES = 400  # headers and directories are at the ends of a file
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


def _position(rng: Random, size: int) -> int:
    """Any position, but often near an end."""
    edge = min(EDGE_BYTES, size)
    return rng.choice((rng.randrange(size + 1), rng.randrange(edge + 1), size - rng.randrange(edge + 1)))


def mutate_bytes(rng: Random, data: bytes, other: bytes) -> bytes:
    """One to six changes of the bytes; `other` may be spliced in."""
    for _ in range(rng.randint(1, 6)):
        data = rng.choice(CHANGES)(rng, data, other)
    return data


def _span(rng: Random, data: bytes) -> tuple[int, int]:
    start = _position(rng, len(data))
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 64, 512, 4096)))


def _flip(rng: Random, data: bytes, _: bytes) -> bytes:
    position = min(_position(rng, len(data)), max(len(data) - 1, 0))
    return (
        data[:position]
        + bytes(byte ^ 1 << rng.randrange(8) for byte in data[position : position + 1])
        + data[position + 1 :]
    )


def _set(rng: Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + bytes([rng.choice(BYTES)]) * (end - start) + data[end:]


def _delete(rng: Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _duplicate(rng: Random, data: bytes, _: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 1, 3)) + data[end:]


def _swap(rng: Random, data: bytes, _: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(rng, data), _span(rng, data)))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:] if b <= c else data


def _truncate(rng: Random, data: bytes, _: bytes) -> bytes:
    return data[: _position(rng, len(data))]


def _splice(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: _position(rng, len(data))] + other[_position(rng, len(other)) :]


def _number(rng: Random, data: bytes, _: bytes) -> bytes:
    position, number = _position(rng, len(data)), rng.choice(NUMBERS)
    return data[:position] + number + data[position + rng.choice((0, len(number))) :]


def _word(rng: Random, data: bytes, _: bytes) -> bytes:
    position = _position(rng, len(data))
    return data[:position] + rng.choice(WORDS) + data[position + rng.choice((0, 1, 4)) :]


CHANGES = (_flip, _flip, _set, _delete, _duplicate, _swap, _truncate, _splice, _number, _word)


def mutate_tree(rng: Random, tree: Any) -> Any:
    """One to three changes of a tree of mappings and lists, in place."""
    for _ in range(rng.randint(1, 3)):
        parents = [node for node in _nodes(tree) if node]
        if not parents:
            return rng.choice(VALUES)
        node = rng.choice(parents)
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        change = rng.choice(("set", "set", "delete", "swap", "nest", "number"))
        if change == "delete":
            del node[key]
        elif change == "swap":
            node[key] = copy.deepcopy(rng.choice(list(_nodes(tree))))  # a copy: a tree must not contain itself
        elif change == "nest":
            node[key] = [node[key]] * rng.choice((1, 2, 9))
        elif change == "number" and type(node[key]) in (int, float):
            node[key] = rng.choice((-node[key], node[key] + 1, node[key] * 1000, str(node[key])))
        else:
            node[key] = copy.deepcopy(rng.choice(VALUES))
    return tree


def _nodes(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _nodes(value)


# --- the loaders ---


@dataclass(frozen=True)
class Loader:
    """`seeds` are valid inputs; `mutate` makes a bad one of them, `load` reads it from a folder and may raise."""

    name: str
    seeds: list[Input]
    mutate: Callable[[Random, list[Input]], Input]
    load: Callable[[Path], None]
    num_inputs: int = NUM_INPUTS


def _choose_seed(rng: Random, seeds: list[Input]) -> tuple[str, bytes, bytes]:
    ((name, data),) = rng.choice(seeds).items()
    (other,) = rng.choice(seeds).values()
    return name, data, other


def mutate_file(rng: Random, seeds: list[Input]) -> Input:
    """Change the bytes of the only file."""
    name, data, other = _choose_seed(rng, seeds)
    return {name: mutate_bytes(rng, data, other)}


def mutate_text(rng: Random, seeds: list[Input]) -> Input:
    """Change the bytes, the words or the values of a YAML file."""
    import yaml

    name, data, other = _choose_seed(rng, seeds)
    kind = rng.randrange(3)
    if kind == 0:
        return {name: mutate_bytes(rng, data, other)}
    if kind == 1:
        tokens = data.split(b" ")
        for _ in range(rng.randint(1, 4)):
            tokens[rng.randrange(len(tokens))] = rng.choice((rng.choice(WORDS), rng.choice(other.split())))
        return {name: b" ".join(tokens)}
    tree = mutate_tree(rng, yaml.safe_load(data))
    return {name: yaml.dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")}


def mutate_pickle(rng: Random, seeds: list[Input]) -> Input:
    """Change the bytes of a batch, or its values."""
    name, data, other = _choose_seed(rng, seeds)
    if rng.random() < 0.7:
        return {name: mutate_bytes(rng, data, other)}
    batch = pickle.loads(data)
    key = rng.choice(list(batch))
    values = (rng.choice(VALUES), [batch[key]] * 2, batch[rng.choice(list(batch))])
    batch[rng.choice((key, "labels", "fine_labels", 3))] = rng.choice(values)
    return {name: pickle.dumps(batch, protocol=rng.choice((0, 1, 2, 3, 4, 5)))}


def mutate_checkpoint(rng: Random, seeds: list[Input]) -> Input:
    """Change header, metadata or bytes; half of the inputs get the sha256 that they should then have."""
    name, data, other = _choose_seed(rng, seeds)
    data = _change_header(rng, data) if rng.random() < 0.7 else mutate_bytes(rng, data, other)
    return {name: _seal_if_possible(data) if rng.random() < 0.5 else data}


def _change_header(rng: Random, data: bytes) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if rng.random() < 0.6:
        metadata = mutate_tree(rng, json.loads(header["__metadata__"]["scsuite"]))
        header["__metadata__"]["scsuite"] = json.dumps(metadata)
    else:
        header = mutate_tree(rng, header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _seal_if_possible(data: bytes) -> bytes:
    return seal(data) if DIGEST_KEY in data else data


def mutate_run(rng: Random, seeds: list[Input]) -> Input:
    """Change the values or the bytes of one file of a run directory, or add checkpoints with bad names."""
    files = dict(rng.choice(seeds))
    name = rng.choice(sorted(name for name in files if not name.endswith("safetensors")))
    if name.endswith(".json") and rng.random() < 0.6:
        files[name] = json.dumps(mutate_tree(rng, json.loads(files[name]))).encode()
    elif name.endswith(".yaml"):
        files |= mutate_text(rng, [{name: files[name]}])
    else:
        files[name] = mutate_bytes(rng, files[name], files[rng.choice(sorted(files))])
    if rng.random() < 0.2:
        number = rng.choice(("", "-1", "x", "٣", "²", "9" * 30, "0", "000007 ", "7.0"))
        files[f"checkpoints/step-{number}.safetensors"] = b""
    if rng.random() < 0.05:
        del files[rng.choice(sorted(files))]
    return files


def _checkpoint_loader(good: Path) -> Loader:
    from scsuite.core.config import TrainConfig
    from scsuite.core.dataset import load_dataset
    from scsuite.core.model.checkpoint import load_network, read_checkpoint
    from scsuite.core.training.resume import load_state
    from scsuite.core.training.trainer import Trainer

    state = next((good / "checkpoints").iterdir())
    config = TrainConfig.from_dict(read_checkpoint(state).metadata["config"])
    trainers: list[Trainer] = []

    def load(folder: Path) -> None:
        load_network(read_checkpoint(folder / "a.safetensors"))
        if not trainers:  # once per forked process
            trainers.append(Trainer(load_dataset("shapes", limit_train=100, limit_test=50), config))
        load_state(trainers[0], read_checkpoint(folder / "a.safetensors"))

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
    return Loader("CIFAR pickle", seeds, mutate_pickle, load, NUM_INPUTS_FAST)


def _random_image(number: int, kind: str, size: tuple[int, int] = (32, 32), mode: str = "RGB", **options: Any) -> bytes:
    from PIL import Image

    pixels = bytes(Random(number).randbytes(size[0] * size[1] * 3))
    buffer = io.BytesIO()
    is_16_bit = mode == "I;16"
    image = Image.frombytes(mode if is_16_bit else "RGB", size, pixels[: size[0] * size[1] * (2 if is_16_bit else 3)])
    (image if is_16_bit else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def _image_loader(_good: Path) -> Loader:
    from scsuite.core.dataset.image_file import read_image_32

    def load(folder: Path) -> None:
        read_image_32(folder / "a.png")

    modes = {
        "PNG": ("RGB", "P", "RGBA", "LA"), "JPEG": ("RGB", "CMYK", "L"), "BMP": ("RGB", "P", "1"),
        "WEBP": ("RGB", "RGBA"),
    }  # fmt: skip
    seeds = [
        {"a.png": _random_image(i, kind, size, mode)}
        for i, size in enumerate(((32, 32), (19, 40)))
        for kind in modes
        for mode in modes[kind]
    ]
    seeds += [
        {"a.png": _random_image(9, "PNG", mode="I;16")},
        {
            "a.png": _random_image(
                9, "JPEG", progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0"
            )
        },
    ]
    return Loader("image", seeds, mutate_file, load, NUM_INPUTS_FAST)


def _archive_loader(_good: Path) -> Loader:
    from scsuite.core.dataset.folder import open_archive, read_archive

    def load(folder: Path) -> None:
        file, _ = open_archive(folder / "a.zip")
        with file:
            read_archive(file, "a.zip", "crop", lambda _text, _done, _total: None)

    names = [f"{split}/{name}/1.png" for split in ("train", "test") for name in ("cat", "dog")]
    tree = {name: _random_image(i, "PNG", (4, 4)) for i, name in enumerate(names)} | {"readme.txt": b"images"}
    seeds = [_zip(tree, zipfile.ZIP_STORED), _zip(tree, zipfile.ZIP_DEFLATED)]
    seeds += [
        _tar(tree, mode, form) for mode in ("", "gz", "xz", "bz2") for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    ]
    return Loader("archive", [{"a.zip": seed} for seed in seeds], mutate_file, load, NUM_INPUTS_FAST)


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


def _same_kind(rng: Random, seeds: list[Input]) -> Input:
    return mutate_text(rng, [rng.choice(seeds)] if rng.random() < 0.8 else seeds)


def _run_loader(good: Path) -> Loader:
    from scsuite.core.config import TrainConfig
    from scsuite.core.runs.checkpoints import latest_checkpoint, open_checkpoint
    from scsuite.core.runs.results import read_epochs, read_result, read_steps
    from scsuite.core.runs.run_schedule import read_run_schedule
    from scsuite.core.runs.rundir import RunDir, truncate_rows
    from scsuite.core.training.resume import merge_resume_settings

    def open_run(folder: Path) -> None:
        with RunDir.open(folder) as run:
            run.result()
            merge_resume_settings(run.config(), TrainConfig(), frozenset(), run.path)
            read_steps(run.path), read_epochs(run.path)
            truncate_rows(run.path, 7, 1)

    readers: list[Callable[[Path], object]] = [
        read_run_schedule, open_checkpoint, lambda folder: read_result(folder, "train"), latest_checkpoint,
        open_run,  # last, since it truncates rows
    ]  # fmt: skip

    def load(folder: Path) -> None:
        refusals: list[Exception] = []
        for reader in readers:
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
    "image": _image_loader,
    "archive": _archive_loader,
    "YAML": _yaml_loader,
    "run directory": _run_loader,
}


# --- reading the inputs ---


def make_input(loader: Loader, number: int) -> Input:
    """The n-th input of a loader."""
    return loader.mutate(Random(f"{loader.name} {number}"), loader.seeds)


def write_input(loader: Loader, number: int, folder: Path) -> None:
    """Replace the contents of the folder by an input's files."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name, data in make_input(loader, number).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def read_input(loader: Loader, number: int, folder: Path) -> dict[str, Any]:
    """Read an input and report its end, its seconds and its memory."""
    write_input(loader, number, folder)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    megabytes_before, start_time = _megabytes("VmRSS"), time.monotonic()
    try:
        loader.load(folder)
        end = "accepted"
    except (InputError, UsageError) as error:
        end = "refused" if "\n" not in str(error) else f"an error of several lines: {error}"
    except Exception as error:
        end = f"{type(error).__name__}: {error}"[:200]
    megabytes = _megabytes("VmHWM") - megabytes_before
    end = end if megabytes < MAX_MEGABYTES else f"{megabytes:.0f} MB"
    return {"number": number, "end": end, "seconds": time.monotonic() - start_time, "megabytes": megabytes}


def _megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _read_batch(loader: Loader, numbers: Sequence[int], folder: Path, pipe: int) -> NoReturn:
    try:
        warnings.simplefilter("ignore")
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        for number in numbers:
            signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)  # its signal ends the process, whatever it waits for
            report = read_input(loader, number, folder)
            os.write(pipe, json.dumps(report).encode() + b"\n")
    except BaseException as error:  # a bug of the fuzzer, in a mutation
        report = {"number": number, "end": f"FUZZER: {error!r}", "seconds": 0.0, "megabytes": 0.0}
        os.write(pipe, json.dumps(report).encode() + b"\n")
    finally:
        os._exit(0)


def fuzz(loader: Loader, count: int, folder: Path) -> ScoreRow:
    """Read `count` inputs and count how they ended."""
    row = ScoreRow(
        f"fuzz: {loader.name}", "no crash, hang or unclassified exception", measured={"refused": 0, "accepted": 0}
    )
    number = 0
    while number < count:
        read_end, pipe = os.pipe()
        pid = os.fork()
        if pid == 0:
            _read_batch(loader, range(number, min(count, number + BATCH_SIZE)), folder, pipe)
        os.close(pipe)
        first = number
        with os.fdopen(read_end, "rb") as reports:
            for line in reports:
                _count(row, json.loads(line))
                number += 1
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code and number < min(count, first + BATCH_SIZE):
            end_text = "a hang" if code == -signal.SIGALRM else f"the process ended with {code}"
            _count(row, {"number": number, "end": end_text, "seconds": MAX_SECONDS, "megabytes": 0.0})
            number += 1
    row.measured = {"inputs": row.total, **row.measured}
    return row


def _count(row: ScoreRow, report: dict[str, Any]) -> None:
    is_good = report["end"] in ("refused", "accepted")
    if is_good:
        row.measured[report["end"]] = int(row.measured[report["end"]]) + 1
    row.count(f"input {report['number']}", "" if is_good else report["end"])
    row.keep_max("seconds_max", report["seconds"])
    row.keep_max("megabytes_max", report["megabytes"])


def _good_run(sandbox: Sandbox) -> Path:
    run(sandbox, *FAULT_ARGS, "--epochs", "2", "--lr-max", "0.1")
    return sandbox.run_dirs[0]


def rows(quick: bool) -> list[ScoreRow]:
    """One row per loader."""
    with new_sandbox() as sandbox:
        good, folder = _good_run(sandbox), sandbox.path / "input"
        folder.mkdir()
        loaders = [make(good) for make in LOADERS.values()]
        return [fuzz(loader, NUM_QUICK if quick else loader.num_inputs, folder) for loader in loaders]


def main() -> None:
    """Read one input again, with its traceback."""
    name, number = sys.argv[1], int(sys.argv[2])
    import_heavy()
    with new_sandbox() as sandbox:
        loader, folder = LOADERS[name](_good_run(sandbox)), sandbox.path / "input"
        folder.mkdir()
        write_input(loader, number, folder)
        loader.load(folder)


if __name__ == "__main__":
    main()
