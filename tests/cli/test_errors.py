"""Refusals: one line that says what, where, what was expected and found, and what to do; and nothing is written."""

import json
import math
import os
import re
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from scsuite.core.config import TrainConfig
from tests.run_cli import CliResult, run_cli, run_cli_process
from tests.tiny_args import TINY_AUTO_LR_ARGS, TINY_LR_RANGE_ARGS, TINY_TRAIN_ARGS, without_option

AssertRefused = Callable[..., None]  # the fixture `assert_refused`: arguments, exit code, words of the line
ERROR_LINE = re.compile(r"error: [^:]+: .+: expected .+, found .+\. .+\n")
TRAIN: tuple[str, ...] = TINY_TRAIN_ARGS
LR_RANGE: tuple[str, ...] = TINY_LR_RANGE_ARGS
ZIGZAG: tuple[str, ...] = ("zigzag",)


def check_refusal(answer: CliResult, code: int, *words: str) -> None:
    """One line on stderr, on stdout nothing but the object of --json, the exit code, and these words in the line."""
    assert ERROR_LINE.fullmatch(answer.err), answer.err
    assert answer.code == code
    if answer.out:
        result = json.loads(answer.out)
        assert (result["status"], result["exit_code"], result["run_dir"]) == ("failed", code, None)
    missing = [word for word in words if word not in answer.err]
    assert not missing, answer.err


@pytest.fixture
def assert_refused(tmp_path: Path) -> AssertRefused:
    """Run the program, with and without --json: it must assert_refused, and create no run directory."""

    def run(arguments: tuple[object, ...], code: int, *words: str) -> None:
        runs = tmp_path / "runs"
        place = () if "--resume" in arguments else ("--runs-dir", runs)  # a resume takes no other place than the run's
        for more in ((), ("--json",)):
            answer = run_cli(*arguments, *place, *more)
            assert bool(answer.out) == bool(more)  # one object with --json, and nothing without it
            check_refusal(answer, code, *words)
            assert not runs.exists()

    return run


# --- numbers ---

ABOVE_0 = ("0", "-1", "-0.0", "1e-400")  # in addition to the values that no number may have
NEVER = ("nan", "inf", "-inf", "1_0", "ten", "", "1e999", "0x10", "٣", " 1")
POSITIVE = {
    TRAIN: ("--lr-max", "--div-factor", "--peak-epoch", "--width", "--test-split"),
    LR_RANGE: ("--lr-start", "--lr-end", "--epochs"),
    ZIGZAG: ("--lr-min", "--lr-max", "--peak-epoch"),
}
NOT_NEGATIVE = {TRAIN: ("--weight-decay", "--l1", "--label-smoothing", "--dropout")}
COUNTS = {
    TRAIN: ("--bs", "--epochs", "--limit-train", "--limit-test"),
    LR_RANGE: ("--steps", "--repeats"),
    ZIGZAG: ("--step-size", "--cycles", "--epochs", "--steps-per-epoch"),
}
FROM_0 = {TRAIN: ("--seed", "--workers", "--val-split")}


def options_and_values(
    options: Mapping[tuple[str, ...], tuple[str, ...]], bad: tuple[str, ...]
) -> list[tuple[tuple[str, ...], str, str]]:
    return [(command, flag, value) for command, flags in options.items() for flag in flags for value in bad]


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        *options_and_values(POSITIVE, (*NEVER, *ABOVE_0)),
        *options_and_values(NOT_NEGATIVE, (*NEVER, "-1", "-0.0", "1e-400")),
        *options_and_values(COUNTS, (*NEVER, "0", "-1", "1.5", "1e3")),
        *options_and_values(FROM_0, (*NEVER, "-1", "1.5", "1e3")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else repr(value),
)
def test_numbers_out_of_range_are_refused(command: tuple[str, ...], flag: str, value: str, tmp_path: Path) -> None:
    check_refusal(run_cli(*command, f"{flag}={value}", "--runs-dir", tmp_path / "runs"), 2, flag)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*TRAIN, "--lr-min", "0.5", "--lr-max", "0.1"), ("--lr-min", "--lr-max", "0.5", "0.1")),
        ((*TRAIN, "--lr-min", "0.1", "--lr-max", "0.1"), ("--lr-min", "--lr-max")),
        ((*LR_RANGE, "--lr-start", "1", "--lr-end", "0.1"), ("--lr-start", "--lr-end", "1.0", "0.1")),
        ((*ZIGZAG, "--lr-min", "1", "--lr-max", "0.1"), ("--lr-min", "--lr-max", "1.0", "0.1")),
        ((*TRAIN, "--peak-epoch", "2"), ("--peak-epoch", "--epochs (2)")),
        ((*TRAIN, "--peak-epoch", "7.5"), ("--peak-epoch", "7.5")),
        ((*ZIGZAG, "--policy", "one-cycle", "--epochs", "3", "--peak-epoch", "3"), ("--peak-epoch",)),
        ((*TRAIN, "--epochs", "1000000000"), ("--epochs", "100000")),
        ((*TRAIN, "--dropout", "1"), ("--dropout", "< 1")),
        ((*TRAIN, "--label-smoothing", "1"), ("--label-smoothing",)),
        ((*TRAIN, "--div-factor", "1"), ("--div-factor", "> 1")),
        ((*TRAIN, "--workers", "10000"), ("--workers", "256")),
        ((*TRAIN, "--seed", str(2**64)), ("--seed",)),
        ((*TRAIN, "--width", "17"), ("--width", "16")),
        ((*LR_RANGE, "--steps", "1"), ("--steps", ">= 10")),
        ((*LR_RANGE, "--steps", "9"), ("--steps", ">= 10")),
        ((*LR_RANGE, "--lr-start", "1", "--lr-end", "1"), ("--lr-start", "--lr-end")),
        ((*ZIGZAG, "--lr-min", "0.1", "--lr-max", "0.1"), ("--lr-min", "--lr-max")),
        ((*LR_RANGE, "--steps", "1000000000000"), ("--steps",)),
        ((*ZIGZAG, "--step-size", "1000000000000"), ("--step-size", "1,000,000")),
        ((*ZIGZAG, "--policy", "one-cycle", "--epochs", "90000", "--steps-per-epoch", "9000000"), ("--epochs",)),
        ((*TINY_AUTO_LR_ARGS, "--lr-min", "0.1"), ("--lr-min", "--lr-max")),
        ((*TRAIN, "--lr-from", "somewhere"), ("--lr-from", "--lr-max")),
    ],
)  # fmt: skip
def test_contradictory_and_excessive_values_are_refused(
    arguments: tuple[str, ...], words: tuple[str, ...], assert_refused: AssertRefused
) -> None:
    assert_refused(arguments, 2, *words)


# --- words and options ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trian",), ("trian", "Did you mean train?")),
        (("lr_range",), ("Did you mean lr-range?",)),
        (("nonsense",), ("nonsense", "--help")),
        (("--nonsense",), ("--nonsense",)),
        (("train", "--bacth-size", "3"), ("--bacth-size", "Did you mean --batch-size")),
        (("train", "--json=yes"), ("--json",)),
        (("train", "extra"), ("extra",)),
        (("evaluate",), ("--ckpt",)),
        (("gradcam", "--ckpt", "x", "extra"), ("extra",)),
        (("gradcam", "--ckpt", "x", "--images", "a.png", "--wrong"), ("--wrong",)),
        ((*TRAIN, "--optimizer", "sdg"), ("--optimizer", "Did you mean sgd?")),
        ((*TRAIN, "--precision", "fp8"), ("--precision", "fp8")),
        ((*LR_RANGE, "--curve", "liner"), ("--curve", "Did you mean linear?")),
        ((*ZIGZAG, "--policy", "triangel"), ("--policy", "Did you mean triangular?")),
        ((*ZIGZAG, "--out", "figure.gif"), ("--out", ".svg", "figure.gif")),
        ((*ZIGZAG, "--out", "figure"), ("--out", ".svg")),
        ((*TRAIN, "--device", "cud"), ("--device", "cud", "cpu")),
        ((*TRAIN, "--device", "cuda:9"), ("--device", "cuda:9", "cpu")),
        ((*TRAIN, "--device", "meta"), ("--device", "meta")),
        ((*TRAIN, "--precision", "fp16"), ("--precision", "fp16", "cpu")),
        ((*TRAIN, "--data", ""), ("--data", "empty")),
        ((*TRAIN, "--name", ""), ("--name", "empty")),
        ((*TRAIN, "--config", ""), ("--config", "empty")),
        (("train", "--resume", ""), ("--resume", "empty")),
        (("evaluate", "--ckpt", ""), ("--ckpt", "empty")),
    ],
)
def test_unknown_words_are_refused_and_a_similar_one_is_suggested(
    arguments: tuple[str, ...], words: tuple[str, ...], assert_refused: AssertRefused
) -> None:
    known = arguments[0] in ("train", "lr-range", "evaluate", "gradcam", "zigzag")
    if known:
        assert_refused(arguments, 2, *words)
    else:
        check_refusal(run_cli(*arguments), 2, *words)


def test_an_empty_runs_dir_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_refusal(run_cli("zigzag", "--runs-dir", ""), 2, "--runs-dir", "empty")
    assert list(tmp_path.iterdir()) == []


# --- data ---


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("missing/folder", ("missing/folder", "shapes")),
        ("shape", ("Did you mean shapes?",)),
        ("/dev/zero", ("/dev/zero", "regular file")),
        ("EMPTY", ("EMPTY",)),
        ("text.zip", ("text.zip",)),
        ("line\nbreak", (r"line\nbreak",)),
    ],
)
def test_missing_or_unreadable_data_is_refused(
    spec: str,
    words: tuple[str, ...],
    assert_refused: AssertRefused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "text.zip").write_text("not an archive")
    assert_refused((*TRAIN, "--data", spec), 3, *words)


@pytest.mark.parametrize(
    ("command", "more", "code", "words"),
    [
        (TRAIN, ("--bs", "201"), 3, ("--bs", "201", "200 images")),
        (LR_RANGE, ("--bs", "201"), 3, ("--bs", "201", "200 images")),
        (TRAIN, ("--val-split", "190"), 3, ("--bs", "64", "10 images")),
        (TRAIN, ("--val-split", "200"), 2, ("--val-split", "200")),
        (LR_RANGE, ("--val-split", "500"), 2, ("--val-split", "500")),
    ],
)
def test_more_images_than_the_data_has_are_refused(
    command: tuple[str, ...],
    more: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
    assert_refused: AssertRefused,
) -> None:
    assert_refused((*command, *more), code, *words)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--data", "photo"),
        ("train", "--resume", "photo"),
        ("train", "--lr-from", "photo"),
        ("train", "--augment", "photo"),
        ("train", "--config", "photo"),
        ("evaluate", "--ckpt", "photo"),
        ("zigzag", "--run", "photo"),
    ],
)
def test_a_path_that_does_not_exist_is_reported_as_such(
    arguments: tuple[str, ...], assert_refused: AssertRefused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert_refused(arguments, 3, ": photo: ", f"No such file or directory in {tmp_path}", "Did you mean photos?")


def test_an_image_that_does_not_exist_is_reported_as_such(
    train_run: CliResult, assert_refused: AssertRefused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat1.png").touch()
    words = (": cat.png: ", "No such file", "Did you mean cat1.png?")
    assert_refused(("gradcam", "--ckpt", train_run.run_dir, "--images", "cat.png"), 3, *words)


def test_a_file_that_looks_like_an_option_gets_the_form_that_works(
    train_run: CliResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-cat.png").touch()
    answer = run_cli("predict", "--ckpt", train_run.run_dir, "-cat.png")
    check_refusal(answer, 2, "If -cat.png is a file, write ./-cat.png.")


# --- configuration and policy files ---

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nbs: *b\n"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (None, 3, ("No such file",)),
        ("bs:\t64\n\tepochs: 1\n", 3, ("YAML",)),
        (BOMB, 3, ("alias",)),
        ("bs: 64\nbs: 32\n", 3, ("given twice", "bs")),
        ("- bs\n- 64\n", 3, ("a mapping", "list")),
        ("", 3, ("a mapping",)),
        ("bs: 64\nbatchsize: 3\n", 2, ("batchsize", "train")),
        ("bs: '6_4'\n", 2, ("--bs",)),
        ("bs: yes\n", 2, ("--bs",)),
        ("bs: 64.5\n", 2, ("--bs",)),
        ("bs: 64\nbatch_size: 64\n", 2, ("bs and batch_size",)),
        ("config: other.yaml\n", 2, ("config",)),
        ("bs: [64]\n", 2, ("--bs",)),
        ("lr_max: .nan\n", 2, ("--lr-max",)),
        ("optimizer: 3\n", 2, ("--optimizer",)),
        ("!!python/object/apply:os.system ['touch canary']\n", 3, ("YAML",)),
        ("x" * 70_000, 3, ("65536",)),
        # What YAML reads as something else: the line has the key, the flag, the value as written, the correct form.
        ("name: no\n", 2, ("--name (name in c.yaml)", "found no, which YAML reads as false", 'Write name: "no".')),
        ("name: 2026-11-28\n", 2, ("--name", "a date", 'Write name: "2026-11-28".')),
        ("name: [a]\n", 2, ("--name", "['a']", "Write name: a.")),
        ("name: {a: b}\n", 2, ("--name", "a mapping")),
        ("\ufeffname: off\n", 2, ("--name", "found off")),
        ("optimizer: no\n", 2, ("--optimizer (optimizer in c.yaml)", "one of sgd, adamw", "found no")),
        ("optimizer: sgdd\n", 2, ("--optimizer (optimizer in c.yaml)", "Did you mean sgd?")),
        ("bs: 0x10\n", 2, ("--bs (bs in c.yaml)", "found 0x10", "Write bs: 16.")),
        ("batch-size: 1_000\n", 2, ("--bs (batch-size in c.yaml)", "found 1_000", "Write batch-size: 1000.")),
        ("epochs: 1:30\n", 2, ("--epochs", "found 1:30", "Write epochs: 24, for example.")),
        ("epochs: 2026-11-28\n", 2, ("--epochs", "found 2026-11-28")),
        ("epochs: three\n", 2, ("--epochs (epochs in c.yaml)", "found 'three'")),
        ("epochs: {a: 1}\n", 2, ("--epochs", "a mapping")),
        ("epochs: 0\n", 2, ("--epochs (epochs in c.yaml)", ">= 1", "found 0")),
        ("lr_max: .inf\n", 2, ("--lr-max (lr_max in c.yaml)", "found .inf")),
        ("identity_init: 'yes'\n", 2, ("--identity-init", "true or false", "Write identity_init: true")),
        ("json: 1\n", 2, ("--json", "true or false")),
        ("batchsize: 3\n", 2, ("batchsize", "Did you mean batch_size?")),
        ("train: {epochs: 3}\n", 2, ("found train", "without a section")),
        ("max_lr: 0.1\n", 2, ("found max_lr. Did you mean lr_max?",)),
        ("learning_rate: 0.1\n", 2, ("Did you mean lr_max or lr_min or lr_from?",)),
        ("'': 0.1\n", 2, ("found ''.",)),
        ("optimizer: SGD\n", 2, ("Did you mean sgd?",)),
        ("class_weights: true\n", 2, ("found true. Write class_weights: none",)),
        ("name: !!binary aGVsbG8=\n", 2, ("which YAML reads as binary data",)),
        ("name: ''\n", 2, ("--name (name in c.yaml)", "an empty one")),
        ("val_split: 100000\n", 2, ("--val-split (val_split in c.yaml)", "found 100000")),
        ('runs_dir: "a\\0b"\n', 2, ("--runs-dir (runs_dir in c.yaml)", "NUL")),
        ("# epochs: 3\n", 3, ("an empty file",)),
        ("yes: 3\n", 3, ("a key that is not text",)),
        ("bs=64\n", 3, ("only 'bs=64'",)),
        ("augment: nowhere/p.yaml\n", 3, ("nowhere/p.yaml", "No such file", "There is no folder nowhere")),
    ],
)
def test_a_bad_configuration_file_is_refused(
    text: str | None, code: int, words: tuple[str, ...], assert_refused: AssertRefused, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "c.yaml").write_text(text)
    arguments = without_option(TRAIN, "--bs", "--lr-max", "--epochs")
    assert_refused((*arguments, "--config", "c.yaml"), code, *words)
    assert not (tmp_path / "canary").exists()


def test_a_text_where_a_list_belongs_is_refused(
    train_run: CliResult, assert_refused: AssertRefused, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("images: cat.jpg\n")
    words = ("--images (images in ", "expected a list of texts", "found cat.jpg", "Write images: [cat.jpg].")
    assert_refused(("gradcam", "--ckpt", train_run.run_dir, "--config", tmp_path / "c.yaml"), 2, *words)


def test_a_list_where_a_text_belongs_is_refused_with_the_text(
    train_run: CliResult, assert_refused: AssertRefused, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("select: [3, 14]\n")
    arguments = ("gradcam", "--ckpt", train_run.run_dir, "--config", tmp_path / "c.yaml")
    assert_refused(arguments, 2, "found [3, 14]", 'Write select: "3,14".')


def test_a_pipe_without_a_writer_is_an_empty_file(assert_refused: AssertRefused, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert_refused(("train", "--config", tmp_path / "pipe"), 3, "an empty file")
    assert_refused(("train", "--augment", tmp_path / "pipe"), 3, "an empty file")


def test_a_pipe_is_read_to_its_end() -> None:
    read, write = os.pipe()

    def write_late() -> None:  # as `<(sleep 1; ...)` does
        time.sleep(0.2)
        os.write(write, b"seed: x")
        os.close(write)

    threading.Thread(target=write_late).start()
    check_refusal(run_cli("train", "--config", f"/dev/fd/{read}"), 2, "found 'x'")
    os.close(read)


@pytest.mark.parametrize(
    ("text", "epochs", "lr_max"),
    [("epochs: 010\nlr_max: 1e-3\n", 10, 0.001), ("epochs: '3'\nlr_max: '0.1'\nname: 2024\n", 3, 0.1)],
)
def test_numbers_in_a_file_are_read_as_on_the_command_line(
    text: str, epochs: int, lr_max: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scsuite.cli import train

    (tmp_path / "c.yaml").write_text(text)
    configs: list[TrainConfig] = []
    monkeypatch.setattr(train, "_start_new", lambda config, _session: configs.append(config))
    assert run_cli("train", "--config", tmp_path / "c.yaml").code == 0
    assert (configs[0].epochs, configs[0].lr_max) == (epochs, lr_max)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("No such file",)),
        ("transforms: []\n", ("Compose",)),
        ("transform:\n  __class_fullname__: Compose\n  transforms:\n  - __class_fullname__: Lambda\n", ("Lambda",)),
        (
            "transform:\n  __class_fullname__: Compose\n  transforms:\n"
            "  - __class_fullname__: HorizontalFlip\n    prob: 1\n",
            ("transform.transforms[0].prob", "HorizontalFlip", "It has p."),
        ),
        (
            "transform:\n  __class_fullname__: Compose\n  transforms:\n  - __class_fullname__: HorizontalFlp\n",
            ("transform.transforms[0]", "'HorizontalFlp'", "Did you mean HorizontalFlip?"),
        ),
        (
            "transform:\n  __class_fullname__: Compose\n  transforms:\n"
            "  - __class_fullname__: RandomCrop\n    heigth: 32\n    width: 32\n",
            ("transform.transforms[0].heigth", "RandomCrop", "Did you mean height?"),
        ),
        ("!!python/object/apply:os.system ['touch canary']\n", ("YAML",)),
    ],
)
def test_a_bad_policy_file_is_refused(
    text: str | None, words: tuple[str, ...], assert_refused: AssertRefused, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "p.yaml").write_text(text)
    assert_refused((*TRAIN, "--augment", "p.yaml"), 3, "p.yaml", *words)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("command", [TRAIN, LR_RANGE])
def test_the_batched_backend_is_refused_for_a_policy_without_one(
    command: tuple[str, ...], assert_refused: AssertRefused, tmp_path: Path
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("transform:\n  __class_fullname__: Compose\n  transforms:\n  - {__class_fullname__: GaussNoise}\n")
    words = ("--augment-backend", "GaussNoise has no batched version", "Use auto.")
    assert_refused((*command, "--augment", path, "--augment-backend", "batched"), 2, *words)


# --- checkpoints and runs ---


def damage_checkpoint(kind: str, good: Path, folder: Path) -> Path:
    """A damaged copy of a valid checkpoint."""
    data, path = bytearray(good.read_bytes()), folder / f"{kind.split(maxsplit=1)[0]}.safetensors"
    if kind == "missing":
        return path
    if kind == "cut by a byte":
        data = data[:-1]
    elif kind == "headless":
        data = data[:7]
    elif kind == "grown by a byte":
        data += b"\0"
    elif kind == "bit flipped in a weight":
        data[-5] ^= 4
    elif kind == "metadata changed":
        at = data.index(b"circle")
        data[at : at + 6] = b"cirkel"
    elif kind == "text":
        data = bytearray(b"a text that someone called so\n")
    elif kind == "huge header":
        data[:8] = struct.pack("<Q", 2**40)
    else:
        assert kind == "empty"
        data = bytearray()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", ("No such file",)),
        ("empty", ("truncated",)),
        ("headless", ("truncated",)),
        ("cut by a byte", ("truncated",)),
        ("grown by a byte", ("added",)),
        ("bit flipped in a weight", ("sha256",)),
        ("metadata changed", ("sha256",)),
        ("huge header", ("1,099,511,627,776",)),
        ("text", ("header",)),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "gradcam"])
def test_a_damaged_checkpoint_is_refused(
    command: str,
    kind: str,
    words: tuple[str, ...],
    train_run: CliResult,
    assert_refused: AssertRefused,
    tmp_path: Path,
) -> None:
    path = damage_checkpoint(kind, train_run.run_dir / "model.safetensors", tmp_path)
    assert_refused((command, "--ckpt", path), 3, str(path), *words)


def test_a_checkpoint_that_is_not_a_file_is_refused(assert_refused: AssertRefused, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert_refused(("evaluate", "--ckpt", "/dev/zero"), 3, "/dev/zero", "regular file")
    assert_refused(("evaluate", "--ckpt", tmp_path / "pipe"), 3, "regular file")
    assert_refused(("evaluate", "--ckpt", tmp_path / "folder"), 3, "model.safetensors")
    assert_refused(("evaluate", "--ckpt", tmp_path / "loop"), 3, "loop")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--layer", "layer3.rse"), ("--layer", "Did you mean layer3.res")),
        (("--layer", "fc"), ("--layer", "fc, without height and width")),
        (("--class", "circel"), ("--class", "Did you mean circle?")),
        (("--class", "10"), ("--class", "circle")),
        (("--method", "gradcm"), ("--method", "Did you mean gradcam?")),
        (("--select", "misclasified"), ("--select", "Did you mean misclassified?")),
        (("--select", "1,2,x"), ("--select", "1,2,x")),
        (("--select", "100"), ("--select", "99", "100")),
        (("--select=-1"), ("--select", "-1")),
        (("--select", "1_0"), ("--select", "1_0")),
        (("--select", ","), ("--select",)),
        (("--count", "0"), ("--count",)),
        (("--images", "a.png", "--class", "actual"), ("--class", "--images")),
        (("--device", "cuda:9"), ("--device", "cuda:9")),
        (("--precision", "fp16", "--device", "cpu"), ("--precision", "fp16")),
        (("--limit-test", "0"), ("--limit-test",)),
    ],
)
def test_gradcam_options_without_a_meaning_are_refused(
    more: tuple[str, ...] | str, words: tuple[str, ...], train_run: CliResult, assert_refused: AssertRefused
) -> None:
    options = (more,) if isinstance(more, str) else more
    assert_refused(("gradcam", "--ckpt", train_run.run_dir, *options), 2, *words)


def test_files_that_are_no_images_are_refused_by_name(
    train_run: CliResult, assert_refused: AssertRefused, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for name, words in (("text.png", ("image",)), ("missing.png", ("No such file",))):
        assert_refused(("gradcam", "--ckpt", train_run.run_dir, "--images", tmp_path / name), 3, name, *words)


def test_data_with_other_classes_is_refused(
    train_run: CliResult, assert_refused: AssertRefused, tmp_path: Path
) -> None:
    from PIL import Image

    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "data" / part / name / "a.png")
    assert_refused(("evaluate", "--ckpt", train_run.run_dir, "--data", tmp_path / "data"), 3, "circle", "cat, dog")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--epochs", "3"), ("--epochs", "2", "3")),
        (("--bs", "32"), ("--bs", "64", "32")),
        (("--seed", "5"), ("--seed", "0", "5")),
        (("--lr-max", "0.2"), ("--lr-max", "0.1", "0.2")),
        (("--data", "cifar10"), ("--data", "shapes", "cifar10")),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_run_resumes_only_with_its_own_settings(
    finished: bool, more: tuple[str, ...], words: tuple[str, ...], train_run: CliResult, assert_refused: AssertRefused,
    tmp_path: Path,
) -> None:  # fmt: skip
    import shutil

    run = train_run.run_dir
    if not finished:
        run = tmp_path / "unfinished"
        shutil.copytree(train_run.run_dir, run)
        (run / "result.json").unlink()
    assert_refused(("train", "--resume", run, *more), 2, *words)


def test_only_a_training_can_be_resumed(
    evaluate_run: CliResult, zigzag_run: CliResult, assert_refused: AssertRefused, tmp_path: Path
) -> None:
    assert_refused(("train", "--resume", evaluate_run.run_dir), 3, "train", "evaluate")
    assert_refused(("train", "--resume", zigzag_run.run_dir), 3, "train", "zigzag")
    assert_refused(("train", "--resume", tmp_path / "nothing"), 3, "nothing")
    assert_refused(("train", "--resume", tmp_path), 3, "config.yaml")


def test_lr_from_needs_a_range_test(train_run: CliResult, assert_refused: AssertRefused) -> None:
    assert_refused((*TINY_AUTO_LR_ARGS, "--lr-from", train_run.run_dir), 3, "lr-range", "train")
    assert_refused((*TINY_AUTO_LR_ARGS, "--lr-from", "nowhere"), 3, "nowhere")
    assert_refused(("zigzag", "--run", "nowhere"), 3, "nowhere")


def lr_from_arguments(folder: Path, text: str | None) -> tuple[str, ...]:
    """A training with --lr-from a folder with this result.json."""
    (folder / "swept").mkdir()
    if text is not None:
        (folder / "swept" / "result.json").write_text(text)
    return (*TINY_AUTO_LR_ARGS, "--lr-from", str(folder / "swept"))


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", "{}", "\0", "[" * 100_000])
def test_an_unfinished_or_damaged_range_test_is_refused(
    text: str | None, assert_refused: AssertRefused, tmp_path: Path
) -> None:
    assert_refused(lr_from_arguments(tmp_path, text), 3, "swept", "lr-range" if text is not None else "No such file")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ({"lr_min": math.nan}, "nan"),
        ({"lr_max": math.inf}, "inf"),
        ({"lr_min": 0}, "0 and"),
        ({"lr_min": -0.1}, "-0.1"),
        ({"lr_min": 0.5, "lr_max": 0.1}, "0.5 and 0.1"),
        ({"lr_min": 0.1, "lr_max": 0.1}, "0.1 and 0.1"),
        ({"lr_max": "0.1"}, "'0.1'"),
        ({"lr_max": None}, "None"),
        ({"lr_min": True}, "True"),
        ({"lr_max": [0.1]}, "[0.1]"),
        ({"conditions": None}, "conditions"),
    ],
    ids=str,
)
def test_invalid_lr_bounds_of_a_range_test_are_refused(
    damage: dict[str, object], word: str, lr_range_run: CliResult, assert_refused: AssertRefused, tmp_path: Path
) -> None:
    arguments = lr_from_arguments(tmp_path, json.dumps({**lr_range_run.result, **damage}))
    assert_refused(arguments, 3, "swept", word, "Run scsuite lr-range again.")


def test_a_range_test_with_an_endless_number_is_refused(
    lr_range_run: CliResult, assert_refused: AssertRefused, tmp_path: Path
) -> None:
    arguments = lr_from_arguments(tmp_path, json.dumps({**lr_range_run.result, "lr_max": 10**400}))
    assert_refused(arguments, 3, "swept", "expected a JSON object")


def test_a_run_in_use_by_another_process_is_refused(train_run: CliResult) -> None:
    from filelock import FileLock

    with FileLock(train_run.run_dir / ".lock"):
        check_refusal(run_cli_process("train", "--resume", train_run.run_dir), 6, "in use")


# --- output ---


def test_a_runs_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for runs in (tmp_path / "file", tmp_path / "file" / "below"):
        check_refusal(run_cli("zigzag", "--runs-dir", runs), 4, "cannot write", "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("flag", "name"), [("--out", "a.png"), ("--csv", "a.csv")])
def test_a_file_that_cannot_be_written_is_an_output_error(flag: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    answer = run_cli("zigzag", flag, tmp_path / "file" / name, "--runs-dir", tmp_path / "runs")
    check_refusal(answer, 4, name)


# --- bugs and resources ---


def test_a_bug_is_one_line_and_with_debug_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_bug(*_: object) -> None:
        raise RuntimeError("something\nunforeseen")

    monkeypatch.setattr("scsuite.cli.zigzag._curve_from_options", raise_bug)
    answer = run_cli("zigzag", "--runs-dir", tmp_path / "runs")
    assert (answer.code, answer.out, answer.err.count("\n")) == (1, "", 1)
    assert re.match(r"error: bug in scsuite .+: RuntimeError: something unforeseen\. .+--debug", answer.err)
    debug = run_cli("zigzag", "--runs-dir", tmp_path / "runs", "--debug")
    assert debug.code == 1
    assert "Traceback" in debug.err
    assert debug.err.splitlines()[-1].startswith("error: bug in scsuite")


def test_out_of_memory_is_a_resource_error_and_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_memory_error(*_: object) -> None:
        raise MemoryError("9 GiB")

    monkeypatch.setattr("scsuite.cli.zigzag._curve_from_options", raise_memory_error)
    check_refusal(run_cli("zigzag", "--runs-dir", tmp_path / "runs"), 4, "out of memory", "--bs")


def test_a_diverged_training_has_its_own_exit_code(tmp_path: Path) -> None:
    answer = run_cli(*TINY_TRAIN_ARGS, "--lr-max", "1e30", "--runs-dir", tmp_path, "--quiet")
    check_refusal(answer, 5, "diverged", "--lr-max")
    run = next(tmp_path.iterdir())
    assert not (run / "model.safetensors").exists()
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["exit_code"], result["error"]["what"]) == ("failed", 5, "training diverged")


def test_a_new_process_refuses_with_the_same_line() -> None:
    check_refusal(run_cli_process("train", "--bs", "0"), 2, "--bs")
