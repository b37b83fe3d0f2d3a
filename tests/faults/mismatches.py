"""K: what differs between a training and its later use: data, options, environment, checkpoints. It is said or refused.

In: a good run, and a run that was stopped. Out: one row. Nothing may differ without a word.
"""

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cli import test_mismatches
from tests.faults import injection as inject
from tests.faults.builders import classes, picture, write_tree
from tests.faults.case import FaultCase, ScoreRow, check_cases
from tests.faults.checkpoints import flip_bit
from tests.faults.sandbox import Sandbox, new_sandbox, run
from tests.tiny_args import MODEL_ARGS

TRAIN = ("--bs", "4", "--epochs", "2", "--lr-max", "0.1", *MODEL_ARGS)


@dataclass(frozen=True)
class Runs:
    """A folder with `data/` and the runs that were trained on it: to the end, and stopped in the second epoch."""

    folder: Path
    finished: Path
    stopped: Path

    def copy_to(self, sandbox: Sandbox) -> Path:
        """Copy the data to the sandbox's inputs; it is found there with `--data`."""
        return Path(shutil.copytree(self.folder / "data", sandbox.inputs / "data"))

    def resumable(self, sandbox: Sandbox, name: str) -> Path:
        """A copy of one of the runs, which may be resumed."""
        return Path(shutil.copytree(getattr(self, name), sandbox.runs / getattr(self, name).name))


Change = Callable[[Path], object]


# --- data ---


def _exchange(data: Path, split: str) -> None:
    a, b, other = (data / split / name for name in ("a", "b", "x"))
    a.rename(other)
    b.rename(a)
    other.rename(b)


DATA_CHANGES: dict[str, Change] = {
    "two exchanged test folders": lambda data: _exchange(data, "test"),
    "two exchanged training folders": lambda data: _exchange(data, "train"),
    "one other image": lambda data: (data / "test/a/0.png").write_bytes(picture(200)),
    "one image more": lambda data: (data / "test/a/9.png").write_bytes(picture(201)),
    "one image less": lambda data: (data / "test/b/0.png").unlink(),
    "an image in the other class": lambda data: (data / "test/a/0.png").rename(data / "test/b/9.png"),
}
CHANGED = "is not the training's: its images, labels or names have changed"


def _data_cases(runs: Runs) -> Iterator[FaultCase]:
    """The data of the training changed at its place: each command that reads labels says so, and a resume refuses."""

    def at_its_place(words: Sequence[object], change: Change) -> Callable[[Sandbox], Sequence[object]]:
        def prepare(sandbox: Sandbox) -> Sequence[object]:
            data = runs.copy_to(sandbox)
            run_dir = _trained_on(sandbox, data, to_its_end=words[0] != "train")
            change(data)
            return [*words, run_dir, *(() if words[0] == "train" else ("--device", "cpu"))]

        return prepare

    for name, change in DATA_CHANGES.items():
        for command in ("evaluate", "gradcam"):
            words = (command, "--ckpt")
            yield FaultCase("K1", f"{name}, {command}", at_its_place(words, change), 0, ("warning: ", CHANGED))
        words = ("train", "--resume")
        yield FaultCase("K1", f"{name}, --resume", at_its_place(words, change), 3, ("cannot resume", "the same data"))
    for command in ("evaluate", "gradcam"):
        same = at_its_place((command, "--ckpt"), lambda _data: None)
        yield FaultCase("K1", f"nothing changed, {command}", same, 0, after=_no_word_of_data)


def _trained_on(sandbox: Sandbox, data: Path, *, to_its_end: bool) -> Path:
    """Train on the sandbox's own data, as a run knows its data by its place too; or stop in the second epoch."""
    stop_step = -1 if to_its_end else 2
    before = lambda: inject.after_step(stop_step, inject.send_signal(signal.SIGTERM))  # noqa: E731
    outcome = run(sandbox, "train", "--data", data, *TRAIN, before=before)
    assert outcome.code == (0 if to_its_end else 143), outcome.err
    return Path(shutil.move(sandbox.run_dirs[0], sandbox.path.parent / "trained"))  # outside: it is no new run


def _no_word_of_data(sandbox: Sandbox) -> str:
    output = "".join(path.read_text() for path in sandbox.path.parent.glob("*.out"))
    return "a warning about data that did not change" if CHANGED in output else ""


# --- options ---

MORE_OPTIONS = (
    ("--limit-test", "2", "--limit-test"), ("--val-split", "2", "--val-split"), ("--epochs", "3", "--epochs"),
    ("--peak-epoch", "1", "--peak-epoch"), ("--lr-max", "0.2", "--lr-max"), ("--lr-min", "0.05", "--lr-min"),
    ("--width", "0.1", "--width"), ("--bs", "2", "--bs"), ("--optimizer", "adamw", "--optimizer"),
    ("--weight-decay", "0.1", "--weight-decay"), ("--l1", "0.1", "--l1"), ("--seed", "7", "--seed"),
    ("--label-smoothing", "0.3", "--label-smoothing"), ("--class-weights", "balanced", "--class-weights"),
    ("--dropout", "0.3", "--dropout"), ("--augment-backend", "albumentations", "--augment-backend"),
    ("--ghost-batch-size", "2", "--ghost-batch-size"), ("--ema-epochs", "0.7", "--ema-epochs"),
    ("--deterministic", None, "--deterministic"), ("--data", "shapes", "--data"),
)  # fmt: skip


def _option_cases(runs: Runs) -> Iterator[FaultCase]:
    """A resume refuses each option that it would not obey: as a flag, and in a configuration file."""
    marks = test_mismatches.test_a_resume_refuses_each_option_that_it_would_not_obey.pytestmark  # type: ignore[attr-defined]
    (tested,) = (mark.args[1] for mark in marks if mark.args[0] == ("options", "words"))
    known = [(option, value, option) for (option, value), _words in tested]
    for name in ("finished", "stopped"):
        for option, value, flag in (*known, *MORE_OPTIONS):
            words = [option] if value is None else [option, value]

            def given(sandbox: Sandbox, words: list[str] = words, name: str = name) -> Sequence[object]:
                run_dir = runs.resumable(sandbox, name)
                return ["train", "--resume", run_dir, *(word.replace("RUNS", str(sandbox.path)) for word in words)]

            yield FaultCase("K2", f"{' '.join(words)}, {name}", given, 2, (flag,))
        for key, value in (("epochs", "3"), ("lr_max", "0.2"), ("batch_size", "2"), ("seed", "7"), ("name", "other")):

            def in_file(sandbox: Sandbox, key: str = key, value: str = value, name: str = name) -> Sequence[object]:
                (sandbox.inputs / "c.yaml").write_text(f"{key}: {value}\n")
                return ["train", "--resume", runs.resumable(sandbox, name), "--config", sandbox.inputs / "c.yaml"]

            yield FaultCase("K2", f"{key}: {value} in a file, {name}", in_file, 2)


# --- the environment ---

OTHER_ENVIRONMENTS: dict[str, tuple[dict[str, object], str]] = {
    "torch": ({"versions": {"torch": "1.0"}}, "torch was 1.0 and is "),
    "Python": ({"versions": {"python": "2.7"}}, "python was 2.7 and is "),
    "albumentations": ({"versions": {"albumentations": "0.1"}}, "albumentations was 0.1 and is "),
    "threads": ({"threads": 99}, "threads was 99 and is "), "cores": ({"cores": 999}, "cores was 999 and is "),
    "processor": ({"cpu": "i486"}, "cpu was i486 and is "),
    "platform": ({"platform": "Plan 9"}, "platform was Plan 9 and is "),
    "device": ({"device": "cuda:0"}, "device was cuda:0 and is cpu"),
}  # fmt: skip


def _environment_cases(runs: Runs) -> Iterator[FaultCase]:
    for name, (changes, words) in OTHER_ENVIRONMENTS.items():

        def given(sandbox: Sandbox, changes: dict[str, object] = changes) -> Sequence[object]:
            run_dir = runs.resumable(sandbox, "stopped")
            path = run_dir / "environment.json"
            values = json.loads(path.read_text())
            for key, value in changes.items():
                values[key] = {**values[key], **value} if isinstance(value, dict) else value
            path.write_text(json.dumps(values))
            return ["train", "--resume", run_dir]

        yield FaultCase("K3", f"another {name}", given, 0, ("warning: ", words), after=_one_resume)
    same = lambda sandbox: ["train", "--resume", runs.resumable(sandbox, "stopped")]  # noqa: E731
    yield FaultCase("K3", "the same", same, 0, after=_no_warning)


def _one_resume(sandbox: Sandbox) -> str:
    resumes = json.loads((sandbox.run_dirs[0] / "environment.json").read_text()).get("resumes", [])
    return "" if len(resumes) == 1 else f"{len(resumes)} resumes are recorded, not 1"


def _no_warning(sandbox: Sandbox) -> str:
    result = json.loads((sandbox.run_dirs[0] / "result.json").read_text())
    texts = [text for text in result["warnings"] if " was " in text]
    return _one_resume(sandbox) or ("; ".join(texts))


# --- damaged checkpoints ---

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-1], "empty": lambda _data: b"", "zeros": lambda data: bytes(len(data)),
    "flipped": lambda data: flip_bit(data, len(data) - 9), "longer": lambda data: data + b"x",
    "cut in its header": lambda data: data[:500],
}  # fmt: skip


def _checkpoint_cases(runs: Runs) -> Iterator[FaultCase]:
    """Commands fall back from a damaged newest checkpoint, and name it; with all of them damaged they refuse."""
    commands: dict[str, tuple[object, ...]] = {
        "evaluate": ("--device", "cpu"), "gradcam": ("--device", "cpu"),
        "predict": ("--device", "cpu", runs.folder / "data/test/a/0.png"), "train": (),
    }  # fmt: skip
    for name, damage in DAMAGES.items():
        for command, more in commands.items():
            for count, code in ((1, 0), (2, 3)):

                def given(
                    sandbox: Sandbox, damage: Callable[[bytes], bytes] = damage, command: str = command,
                    more: tuple[object, ...] = more, count: int = count,
                ) -> Sequence[object]:  # fmt: skip
                    run_dir = runs.resumable(sandbox, "stopped")
                    for path in sorted((run_dir / "checkpoints").iterdir(), reverse=True)[:count]:
                        path.write_bytes(damage(path.read_bytes()))
                    return [command, "--resume" if command == "train" else "--ckpt", run_dir, *more]

                words = ("skipped a damaged checkpoint", "step-000003") if count == 1 else ("step-000003",)
                yield FaultCase("K4", f"{name}, {command}, {count} of 2", given, code, words)


# --- size ---


def _size_cases(runs: Runs) -> Iterator[FaultCase]:
    data = ("train", "--data", runs.folder / "data", "--device", "cpu", "--bs", "4")
    for name, more in {
        "with bounds": ("--lr-max", "0.1"), "with a range test": (), "--seeds": ("--seeds", "2", "--lr-max", "0.1"),
        "averaged": ("--lr-max", "0.1", "--ema-epochs", "1"), "adamw": ("--optimizer", "adamw", "--lr-max", "0.001"),
    }.items():  # fmt: skip
        words = [*data, "--width", "8", *more]
        yield FaultCase("K5", f"width 8 {name}", lambda _sandbox, words=words: words, 2, ("--width", "4,295 MB"))  # type: ignore[misc]


def _make_runs(sandbox: Sandbox) -> Runs:
    data = write_tree(sandbox.path / "data", classes())
    outcome = run(sandbox, "train", "--data", data, *TRAIN, "--name", "pets")
    assert outcome.code == 0, outcome.err
    (finished,) = sandbox.run_dirs
    stop = inject.send_signal(signal.SIGTERM)
    outcome = run(sandbox, "train", "--data", data, *TRAIN, "--name", "pets", before=lambda: inject.after_step(2, stop))
    assert outcome.code == 143, outcome.err
    (stopped,) = set(sandbox.run_dirs) - {finished}
    return Runs(sandbox.path, finished, stopped)


def rows(quick: bool) -> list[ScoreRow]:
    """One row: all cases, or few of each kind if `quick`."""
    with new_sandbox() as sandbox:
        runs = _make_runs(sandbox)
        kinds = (_data_cases, _option_cases, _environment_cases, _checkpoint_cases, _size_cases)
        cases = [case for kind in kinds for case in list(kind(runs))[:: 40 if quick else 1]]
        return [check_cases("K silent mismatches", cases)]
