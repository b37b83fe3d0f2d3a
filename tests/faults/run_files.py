"""N: files of run directories that other people made: huge, deep, wrong or endless, as `report` and others read them.

In: run directories without weights, one of whose files is hostile. Out: one row. Such a file is skipped or refused
in one line; either way within 5 seconds of processor time and 300 MB.
"""

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.faults.builders import train_on
from tests.faults.case import BoundedCase, ScoreRow, run_bounded
from tests.faults.injection import leave_out_figures
from tests.faults.sandbox import Sandbox
from tests.made_runs import make_evaluation, make_gradcam, make_lr_range, make_training

MB = 2**20
FEW = ("--limit-train", 20, "--limit-test", 10)
Spoil = Callable[[Path], object]  # makes a file


def _sparse(num_bytes: int) -> Spoil:
    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, num_bytes)

    return make


NO_FILES: dict[str, Spoil] = {
    "a pipe": os.mkfifo,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a folder": Path.mkdir,
    "a sparse file of 1 GiB": _sparse(2**30),
    "a sparse file of 100 MB": _sparse(100 * MB),
}


def _write(data: Callable[[], bytes]) -> Spoil:
    return lambda path: path.write_bytes(data())


def _hostile_json() -> dict[str, Spoil]:
    """Texts that take many times their size as Python objects, or a deep stack."""
    texts: dict[str, Callable[[], bytes]] = {
        "60 MB of empty lists": lambda: b'{"a":[' + b"[]," * (20 * MB) + b"[]]}",
        "8 MB of empty objects": lambda: b'{"a":[' + b"{}," * (8 * MB // 3) + b"{}]}",
        "60 MB of one text": lambda: b'{"a":"' + b"x" * (60 * MB) + b'"}',
        "a million keys": ("{" + ",".join(f'"{i}":0' for i in range(10**6)) + "}").encode,
        "lists 100,000 deep": lambda: b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
        "objects 100,000 deep": lambda: b'{"a":' * 10**5 + b"0" + b"}" * 10**5,
        "a number of 5,000 digits": lambda: b'{"a":' + b"9" * 5000 + b"}",
        "1e999": lambda: b'{"final": {"test_accuracy": 1e999}, "command": "train"}',
        "no UTF-8": lambda: b'{"command": "\xff\xfe"}',
        "UTF-16": lambda: '{"command": "train"}'.encode("utf-16"),
        "cut off": lambda: b'{"command": "tra',
        "a list": lambda: b"[]",
    }
    return {name: _write(text) for name, text in texts.items()} | NO_FILES


def _hostile_csv(header: bytes, row: bytes) -> dict[str, Spoil]:
    """Rows without end, cells without end, and texts in place of numbers."""
    texts: dict[str, Callable[[], bytes]] = {
        "60 MB of rows": lambda: header + row * (60 * MB // len(row)),
        "60 MB of line ends": lambda: header + b"\n" * (60 * MB),
        "60 MB of commas": lambda: header + b"," * (60 * MB) + b"\n",
        "60 MB in one cell": lambda: header + row.replace(b"0.5", b"1" * (60 * MB), 1),
        "a header of 8 MB of commas": lambda: b"," * (8 * MB) + b"\n" + row,
        "a number of 5,000 digits": lambda: header + row.replace(b"0", b"9" * 5000, 1),
        "1e999": lambda: header + row.replace(b"0.5", b"1e999", 1),
        "nan": lambda: header + row.replace(b"0.5", b"nan", 1),
        "a step of 10**18": lambda: header + re.sub(rb"^\d+", b"1" + b"0" * 18, row),
        "a text": lambda: header + row.replace(b"0.5", b"=cmd()", 1),
        "a column twice": lambda: header.replace(b"\n", b",lr\n") + row.replace(b"\n", b",0.1\n"),
        "NUL bytes": lambda: header + row.replace(b"0.5", b"\0", 1),
        "no UTF-8": lambda: header + b"\xff\xfe" + row,
        "only a header": lambda: header,
        "empty": lambda: b"",
    }
    return {name: _write(text) for name, text in texts.items()} | NO_FILES


METRICS = b"epoch,step,lr,momentum,train_loss,train_accuracy,test_loss,test_accuracy,images_per_second,seconds\n"
METRICS_ROW = b"1,2,0.04,0.9,0.5,0.8,0.3,0.5,1000,30\n"
STEPS, STEPS_ROW = b"step,lr,momentum,loss\n", b"0,0.1,0.5,1.5\n"


def _report(spoil: Callable[[Path], object], *more: str) -> Callable[[Sandbox], Sequence[object]]:
    """A report of a training beside an evaluation, maps and a range test; `spoil` changes the runs directory."""

    def prepare(sandbox: Sandbox) -> Sequence[object]:
        runs = sandbox.inputs / "runs"
        training = make_training(runs / "training", lr_min=0.04, lr_max=0.4)
        make_evaluation(runs / "evaluation", "training")
        make_gradcam(runs / "maps", "training")
        make_lr_range(runs / "range")
        spoil(runs)
        return ["report", training, "--runs-dir", sandbox.runs, *more]

    return prepare


def _replaced(name: str, spoil: Spoil) -> Callable[[Path], object]:
    def change(runs: Path) -> None:
        path = runs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        spoil(path)

    return change


def _edited(name: str, **changes: Any) -> Callable[[Path], object]:
    """Change values of a JSON file; a name with a dot is that of a nested value."""

    def change(runs: Path) -> None:
        path = runs / name
        values = json.loads(path.read_text())
        for key, value in changes.items():
            *parents, last = key.split("__")
            target = values
            for parent in parents:
                target = target.setdefault(parent, {})
            target[last] = value() if callable(value) else value
        path.write_text(json.dumps(values))

    return change


ROW = {"name": "cat", "precision": 0.9, "recall": 0.9, "recall_ci95": [0.8, 0.9], "f1": 0.9, "support": 10}
ODD_VALUES: dict[str, Any] = {
    "null": None, "a text": "x", "a list": [1], "an object": {"a": 1}, "-1": -1, "1e999": float("inf"),
    "NaN": float("nan"), "10**400": 10**400, "true": True, "a formula": "=cmd()", "markup": "<script>x()</script>[red]",
}  # fmt: skip
EDITED = {
    "training/environment.json": (
        "data", "data__class_names", "data__test_images", "data__fingerprint", "versions", "started", "one_cycle",
        "one_cycle__num_steps", "one_cycle__steps_per_epoch", "one_cycle__lr_max", "one_cycle__peak_step", "resumes",
        "range_test", "num_parameters", "majority_fraction", "device", "command_line", "cpu", "threads",
    ),
    "training/result.json": (
        "command", "status", "final", "final__test_accuracy", "final__train_loss", "best", "best__epoch", "warnings",
        "seconds", "images_per_second", "checkpoint", "run_dir", "seed", "seeds", "target",
    ),
    "evaluation/result.json": (
        "accuracy", "accuracy_ci95", "per_class", "confusion_matrix", "confusion_normalized", "most_confused",
        "num_images", "macro", "misclassified", "ece", "tta", "loss", "num_misclassified", "checkpoint",
    ),
    "maps/result.json": ("images", "faithfulness", "method", "layer", "checkpoint"),
    "range/result.json": ("lr_min", "lr_max", "suggestions", "conditions", "reason"),
}  # fmt: skip
LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "a confusion matrix of 2,000 classes": ("evaluation/result.json", {
        "confusion_matrix": lambda: [[0] * 2000] * 2000, "confusion_normalized": lambda: [[0] * 2000] * 2000,
        "per_class": lambda: [ROW] * 2000,
    }),
    "a ragged confusion matrix": ("evaluation/result.json", {"confusion_matrix": [[1], [1, 2, 3]]}),
    "100,000 classes": ("evaluation/result.json", {"per_class": lambda: [ROW] * 10**5}),
    "100,000 images": ("maps/result.json", {"images": lambda: [{"index": 1, "file": "x", "actual": "a"}] * 10**5}),
    "a class name of 1 MB": ("training/environment.json", {"data__class_names": lambda: ["x" * MB, "y"]}),
    "100,000 suggestions": ("range/result.json", {"suggestions": lambda: {str(i): 0.1 for i in range(10**5)}}),
}  # fmt: skip


def _report_case(name: str, prepare: Callable[[Sandbox], Sequence[object]]) -> BoundedCase:
    return BoundedCase(f"report, {name}", prepare, before=leave_out_figures)


def _report_cases() -> Iterator[BoundedCase]:
    for file in ("result.json", "environment.json"):
        for name, spoil in _hostile_json().items():
            yield _report_case(f"{file}: {name}", _report(_replaced(f"training/{file}", spoil)))
    for name, spoil in _hostile_json().items():
        yield BoundedCase(
            f"report, an evaluation beside it: {name}", _report(_replaced("evaluation/result.json", spoil))
        )
        yield BoundedCase(
            f"report, a range test beside it: {name}", _report(_replaced("range/environment.json", spoil))
        )
    for file, header, row in (("metrics.csv", METRICS, METRICS_ROW), ("steps.csv", STEPS, STEPS_ROW)):
        for name, spoil in _hostile_csv(header, row).items():
            yield _report_case(f"{file}: {name}", _report(_replaced(f"training/{file}", spoil)))
    for name, spoil in NO_FILES.items():
        yield _report_case(f"config.yaml: {name}", _report(_replaced("training/config.yaml", spoil)))
        yield _report_case(f"a figure: {name}", _report(_replaced("maps/figures/gradcam.png", spoil)))
    yield _report_case("3,000 runs beside it", _report(_many_neighbours))
    yield BoundedCase(
        "report, --out a pipe", _report(lambda runs: os.mkfifo(runs / "pipe"), "--out", "inputs/runs/pipe"), codes=(2,)
    )
    for name, (file, changes) in LARGE.items():
        yield _report_case(f"{name}", _report(_edited(file, **changes)))


def _many_neighbours(runs: Path) -> None:
    for number in range(3000):
        (runs / str(number)).mkdir()
        (runs / str(number) / "config.yaml").write_text("a: 1\n")
        (runs / str(number) / "result.json").write_text('{"command": "evaluate"}')


def _edit_cases() -> Iterator[BoundedCase]:
    """Three of the odd values for each key, others for the next one."""
    values = itertools.cycle(ODD_VALUES.items())
    for file, keys in EDITED.items():
        for key in keys:
            for name, value in itertools.islice(values, 3):
                yield _report_case(f"{file}: {key} is {name}", _report(_edited(file, **{key: value})))


def _zigzag_cases() -> Iterator[BoundedCase]:
    def of_run(spoil: Callable[[Path], object]) -> Callable[[Sandbox], Sequence[object]]:
        def prepare(sandbox: Sandbox) -> Sequence[object]:
            training = make_training(sandbox.inputs / "training")
            spoil(sandbox.inputs)
            return ["zigzag", "--run", training]

        return prepare

    for name, spoil in _hostile_csv(STEPS, STEPS_ROW).items():
        yield BoundedCase(f"zigzag --run, steps.csv: {name}", of_run(_replaced("training/steps.csv", spoil)))
    for name, spoil in _hostile_json().items():
        yield BoundedCase(
            f"zigzag --run, environment.json: {name}", of_run(_replaced("training/environment.json", spoil))
        )
    for key in ("num_steps", "steps_per_epoch", "lr_min", "lr_max", "peak_step", "momentum_max"):
        for name, value in (ODD_VALUES | {"10**12": 10**12, "0": 0, "0.5": 0.5}).items():
            change = _edited("training/environment.json", **{f"one_cycle__{key}": value})
            yield BoundedCase(f"zigzag --run, {key} is {name}", of_run(change))


def _lr_from_cases() -> Iterator[BoundedCase]:
    def from_run(spoil: Callable[[Path], object]) -> Callable[[Sandbox], Sequence[object]]:
        def prepare(sandbox: Sandbox) -> Sequence[object]:
            run = make_lr_range(sandbox.inputs / "range")
            spoil(sandbox.inputs)
            arguments = train_on("shapes", *FEW, "--lr-from", run)
            place = arguments.index("--lr-max")
            return arguments[:place] + arguments[place + 2 :]

        return prepare

    for name, spoil in _hostile_json().items():
        yield BoundedCase(f"--lr-from, result.json: {name}", from_run(_replaced("range/result.json", spoil)), (3,))
    bad = {name: value for name, value in ODD_VALUES.items() if name not in ("true",)}
    for key in ("lr_min", "lr_max"):
        for name, value in bad.items():
            yield BoundedCase(
                f"--lr-from, {key} is {name}", from_run(_edited("range/result.json", **{key: value})), (2, 3)
            )


def _resume_cases() -> Iterator[BoundedCase]:
    """Of a run without a checkpoint and with `pets`, data that is not there."""

    def of_run(spoil: Callable[[Path], object], *more: object) -> Callable[[Sandbox], Sequence[object]]:
        def prepare(sandbox: Sandbox) -> Sequence[object]:
            training = make_training(sandbox.runs / "training")
            spoil(sandbox.runs)
            return ["train", "--resume", training, "--json", "--quiet", *more]

        return prepare

    for name, spoil in NO_FILES.items():
        yield BoundedCase(f"--resume, config.yaml: {name}", of_run(_replaced("training/config.yaml", spoil)), (3,))
    for name, spoil in _hostile_json().items():
        yield BoundedCase(f"--resume, result.json: {name}", of_run(_replaced("training/result.json", spoil)))


def rows(quick: bool) -> list[ScoreRow]:
    """Two rows: hostile files, and odd values in readable ones."""
    parts = (_report_cases(), _zigzag_cases(), _lr_from_cases(), _resume_cases())
    files = [case for part in parts for case in part]
    return [
        run_bounded("N hostile files of runs", files[:: 40 if quick else 1]),
        run_bounded("N odd values in files of runs", list(_edit_cases())[:: 60 if quick else 1]),
    ]
