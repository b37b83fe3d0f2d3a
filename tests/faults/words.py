"""F: command line: numbers, words, where output goes, and what surrounds a process.

The refusals of `tests/cli/test_errors.py` are shown there without a process; here each has one, under all the rules.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.cli import test_errors
from tests.faults.box import TINY, Box, new_box, run
from tests.faults.case import Case, Row, check

TRAIN = (*TINY, "--epochs", "1", "--lr-max", "0.1")
ZIGZAG = ("zigzag", "--cycles", "1")
QUICK_EVERY = 12  # refusals by the parser: one in so many
NOBODY = 65534
ROOT = Path(__file__).resolve().parents[2]


def shown(test: Callable[..., None]) -> list[tuple[Any, ...]]:
    """The parameters of a test."""
    return list(test.pytestmark[0].args[1])  # type: ignore[attr-defined]


def given(*words: object) -> Callable[[Box], Sequence[object]]:
    """A command line that needs nothing prepared; {inputs}, {runs} and {path} stand for the box's folders."""
    return lambda box: [str(w).format(inputs=box.inputs, runs=box.runs, path=box.path) for w in words]


def plain(row: str, words: Sequence[object], code: int, *said: str) -> Case:
    """A command line and what comes of it."""
    return Case(row, " ".join(map(str, words)) or "nothing", lambda _box: words, code, said)


# --- refused by the parser and the configurations: 47 to 52 ---


def _refusals() -> list[Case]:
    cases = [
        plain("F47-51", (*command, f"{flag}={value}"), 2, flag)
        for command, flag, value in shown(test_errors.test_numbers_out_of_reach_are_refused)
    ]
    together = test_errors.test_values_that_contradict_each_other_or_ask_too_much_are_refused
    cases += [plain("F48-51", words, 2, *said) for words, said in shown(together)]
    near = test_errors.test_words_that_mean_nothing_are_refused_and_the_near_one_is_named
    cases += [plain("F52", words, 2, *said) for words, said in shown(near)]
    return cases


SIZES = [
    plain("F50", (*TRAIN, "--bs", "101"), 3, "--bs", "100 images"),
    plain("F50", (*TRAIN, "--val-split", "100"), 2, "--val-split"),
    plain("F50", (*TRAIN, "--bs", "99"), 0, "2 an epoch, batch 99"),  # the last batch is one image
    plain("F49", (*TRAIN, "--peak-epoch", "1e-300"), 0),
    plain("F52", (*ZIGZAG, "--step-size", "9", "--step-size", "7"), 0, "15, 98 an epoch"),  # the last one counts
    plain("F52", (*ZIGZAG, "--csv", "/dev/null"), 2, "--csv", "device"),
    plain("F52", (*ZIGZAG, "--csv", "/proc/self/fd/1"), 2, "--csv"),
    plain("F52", (*ZIGZAG, "--runs-dir", "~nobody-has-this-name/runs"), 2, "--runs-dir"),
    plain("F52", (*TRAIN, "--data", "~nobody-has-this-name/data"), 3, "~nobody-has-this-name"),
    plain("F52", ("zigzag", "--run", "/dev/zero"), 3, "/dev/zero"),
]


def _on_a_run(good: Path) -> list[Case]:
    """What `gradcam` and `train --resume` refuse, and the resume of a run that is complete."""

    def made(command: str, *more: object) -> Callable[[Box], Sequence[object]]:
        def make(box: Box) -> Sequence[object]:
            shutil.copytree(good, box.inputs / "run", copy_function=shutil.copy2)
            (box.path.parent / "times").write_text(json.dumps(_times(box)))
            return [*command.split(), box.inputs / "run", *more]

        return make

    def untouched(box: Box) -> str:
        return "" if _times(box) == json.loads((box.path.parent / "times").read_text()) else "files were rewritten"

    cases = [
        Case("F54", "resume of a complete run", made("train --resume"), 0, ("complete",), after=untouched),
        Case("F54", "and its result", made("train --resume", "--json"), 0, ('"command": "train"',), after=untouched),
        Case("F54", "with its own settings", made("train --resume", "--epochs", 1), 0, ("complete",), after=untouched),
        Case("F54", "with another", made("train --resume", "--epochs", 3), 2, ("--epochs",), after=untouched),
    ]
    for more, said in shown(test_errors.test_what_gradcam_cannot_show_is_refused):
        words = (more,) if isinstance(more, str) else more
        name, last = f"gradcam {' '.join(words)}", "49"  # the last image of our smaller test
        here = tuple(last if word == "99" else word for word in said)
        cases.append(Case("F52", name, made("gradcam --ckpt", *words), 2, here, after=untouched))
    return cases


def _times(box: Box) -> dict[str, int]:
    paths = (path for path in (box.inputs / "run").rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(box.inputs)): path.stat().st_mtime_ns for path in paths}


# --- where runs go: 53 ---


def _pictures(box: Box, *words: object) -> Sequence[object]:
    from PIL import Image

    for name, colour in (("cat", "red"), ("dog", "blue")):
        folder = box.inputs / "data" / name
        folder.mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32), colour).save(folder / f"{i}.png")
    return given(*TRAIN, "--bs", "4", "--data", "{inputs}/data", *words)(box)


def _with_file(*words: object) -> Callable[[Box], Sequence[object]]:
    def make(box: Box) -> Sequence[object]:
        (box.inputs / "file").write_text("mine")
        return given(*words)(box)

    return make


def _with_pipe(box: Box) -> Sequence[object]:
    os.mkfifo(box.inputs / "pipe")
    return given(*ZIGZAG, "--csv", "{inputs}/pipe")(box)


def _not_ours(box: Box) -> Sequence[object]:
    box.runs.mkdir(mode=0o755)
    box.path.parent.chmod(0o755)
    return given(*ZIGZAG)(box)


def _occupied(box: Box) -> Sequence[object]:
    run(box, *ZIGZAG)
    (box.runs / "mine.txt").write_text("mine")
    return given(*ZIGZAG)(box)


def _still_occupied(box: Box) -> str:
    kept = (box.runs / "mine.txt").read_text() == "mine" and len(list(box.runs.glob("*/result.json"))) == 2
    return "" if kept else "what was there before is not there, or not alone"


def _one_run(pattern: str) -> Callable[[Box], str]:
    return lambda box: "" if len(list(box.path.glob(pattern))) == 1 else f"not one {pattern}"


def _as_nobody() -> None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # bytes a file: enough for a text, not for a figure


def _dangling(box: Box) -> Sequence[object]:
    (box.inputs / "link").symlink_to(box.path / "nowhere")
    return given(*ZIGZAG, "--runs-dir", "{inputs}/link")(box)


PLACES = [
    Case("F53", "parents are missing", given(*ZIGZAG, "--runs-dir", "{runs}/a/b"), 0,
         after=_one_run("runs/a/b/*/result.json")),
    Case("F53", "relative", given(*ZIGZAG, "--runs-dir", "runs"), 0, after=_one_run("runs/*/result.json")),
    Case("F53", "a file", _with_file(*ZIGZAG, "--runs-dir", "{inputs}/file"), 4, ("file",)),
    Case("F53", "below a file", _with_file(*ZIGZAG, "--runs-dir", "{inputs}/file/below"), 4, ("file",)),
    Case("F53", "a link to nothing", _dangling, 4, ("link",)),
    Case("F53", "a name too long", given(*ZIGZAG, "--runs-dir", "x" * 300), 4, ("too long",)),
    Case("F53", "/proc", given(*ZIGZAG, "--runs-dir", "/proc/scsuite"), 4, ("/proc/scsuite",)),
    Case("F53", "/sys", given(*ZIGZAG, "--runs-dir", "/sys/scsuite"), 4, ("/sys/scsuite",)),
    Case("F53", "/dev/null", given(*ZIGZAG, "--runs-dir", "/dev/null"), 4, ("/dev/null",)),
    Case("F53", "somebody else's", _not_ours, 4, ("Permission denied",), _as_nobody),
    Case("F53", "no room", given(*ZIGZAG), 4, ("File too large",), _no_room),
    Case("F53", "not empty", _occupied, 0, after=_still_occupied),
    Case("F53", "the data", lambda box: _pictures(box, "--runs-dir", "{inputs}/data"), 2, ("--runs-dir",)),
    Case("F53", "in the data", lambda box: _pictures(box, "--runs-dir", "{inputs}/data/runs"), 2, ("--runs-dir",)),
    Case("F53", "in a class", lambda box: _pictures(box, "--runs-dir", "inputs/../inputs/data/cat"), 2,
         ("--runs-dir",)),
    Case("F53", "--csv a pipe", _with_pipe, 2, ("--csv",)),
    Case("F53", "--out below a file", _with_file(*ZIGZAG, "--out", "{inputs}/file/a.png"), 4, ("a.png",)),
]  # fmt: skip


# --- what surrounds a process: 55 and 56 ---


def environment(**values: str | None) -> Callable[[], None]:
    """Set or, for None, remove variables."""

    def before() -> None:
        for name, value in values.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    return before


def stream(descriptor: int, leads_to: str) -> Callable[[], None]:
    """Let stdin, stdout or stderr lead to a device, to a pipe that nobody reads, or be closed."""

    def before() -> None:
        if leads_to == "closed":
            os.close(descriptor)
            setattr(sys, ("stdin", "stdout", "stderr")[descriptor], None)
            return
        opened = os.pipe() if leads_to == "pipe" else (os.open(leads_to, os.O_WRONLY),)
        os.dup2(opened[-1], descriptor)
        for end in opened:
            os.close(end)
        setattr(sys, ("stdin", "stdout", "stderr")[descriptor], os.fdopen(descriptor, "w", closefd=False))

    return before


def _ascii() -> None:
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(encoding="ascii")  # type: ignore[union-attr]


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def before() -> None:
        first()
        second()

    return before


def _no_folder() -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()


def _hung_up() -> None:
    """As under nohup: SIGHUP is ignored, and comes again and again."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGHUP))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)


def _trained(box: Box) -> Sequence[object]:
    run(box, *TRAIN)
    return TRAIN


def _same_twice(box: Box) -> str:
    """The rows and the weights of two runs."""
    from safetensors.numpy import load_file

    first, second = sorted(box.runs.glob("*-train-*"))
    if (first / "steps.csv").read_bytes() != (second / "steps.csv").read_bytes():
        return "other steps"
    a, b = (load_file(path / "model.safetensors") for path in (first, second))
    return "" if a.keys() == b.keys() and all((a[n] == b[n]).all() for n in a) else "other weights"


def _complete(box: Box) -> str:
    return "" if len(list(box.runs.glob("**/result.json"))) == 1 else "no complete run"


def _around(name: str, before: Callable[[], None], *words: object) -> Case:
    return Case("F56", name, given(*(words or ZIGZAG)), 0, before=before, after=_complete)


def _homeless(name: str, before: Callable[[], None]) -> Case:
    """The cache of decoded pictures goes into the home folder."""
    return Case("F56", f"home {name}", _pictures, 0, before=_both(environment(SCSUITE_CACHE=None), before),
                after=_complete)  # fmt: skip


RANKS = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "1"}
AROUND = [
    Case("F55", "rank 1 of 2", _trained, 0, before=environment(**RANKS), after=_same_twice),
    Case("F55", "rank 0 of x", _trained, 0, before=environment(RANK="0", WORLD_SIZE="x"), after=_same_twice),
    *(_around(f"stdout {to}", stream(1, to)) for to in ("closed", "pipe", "/dev/full")),
    *(_around(f"stderr {to}, --json", stream(2, to), *ZIGZAG, "--json") for to in ("closed", "pipe", "/dev/full")),
    _around("stdout a pipe, --json", stream(1, "pipe"), *ZIGZAG, "--json"),
    _around("stdout a pipe, training", stream(1, "pipe"), *TRAIN),
    _around("both full, training", _both(stream(1, "/dev/full"), stream(2, "/dev/full")), *TRAIN),
    _around("all three closed", _both(_both(stream(0, "closed"), stream(1, "closed")), stream(2, "closed"))),
    _around("stdin closed", stream(0, "closed")),
    Case("F56", "stdout full, --json", given(*ZIGZAG, "--json", "--quiet"), 4, ("stdout",), stream(1, "/dev/full")),
    Case("F56", "stdout full, bad usage", given(*ZIGZAG, "--cycles", "0"), 2, ("--cycles",), stream(1, "/dev/full")),
    Case("F56", "--help into a pipe", given("--help"), 0, before=stream(1, "pipe")),
    Case("F56", "train --help into a closed one", given("train", "--help"), 0, before=stream(1, "closed")),
    *(_around(f"COLUMNS={width}", environment(COLUMNS=width)) for width in ("1", "0", "-3", "x")),
    _around("COLUMNS=20", environment(COLUMNS="20"), *TRAIN),
    _around("NO_COLOR, TERM=dumb", environment(NO_COLOR="1", TERM="dumb")),
    _around("FORCE_COLOR", environment(FORCE_COLOR="1", TERM="xterm-256color")),
    _around("ascii", _ascii, *ZIGZAG, "--runs-dir", "{runs}/é\x1b", "--name", "日本"),
    _around("bytes that are no letters", lambda: None, *TRAIN, "--name", "\udcff", "--runs-dir", "{runs}/\udcff"),
    Case("F56", "ascii, bad usage", given(*ZIGZAG, "--policy", "é\x1b"), 2, (r"\xe9\x1b",), _ascii),
    _homeless("unset", environment(HOME=None)),
    _homeless("missing", environment(HOME="/nonexistent/home")),
    _homeless("read-only", environment(HOME="/proc")),
    _homeless("empty", environment(HOME="")),
    _around("the current folder is gone", _no_folder),
    Case("F56", "and runs go there", given(*ZIGZAG, "--runs-dir", "runs"), 4, ("runs",), _no_folder),
    Case("F56", "and the data is there", given(*TRAIN, "--data", "data"), 3, ("data",), _no_folder),
    _around("nohup, zigzag", _hung_up),
    _around("nohup, train", _hung_up, *TRAIN),
]  # fmt: skip

# A line of shell, and its exit code: what only a process that starts anew shows.
SHELL = [
    ("$scsuite zigzag | head -1; exit ${PIPESTATUS[0]}", 0),
    ("$scsuite --help | head -1; exit ${PIPESTATUS[0]}", 0),
    ("$scsuite zigzag >&- 2>&- <&-", 0),
    ("$scsuite train --bs 0 2>/dev/full", 2),
    ("$scsuite train --bs 0 >&- 2>&-", 2),
    ("$scsuite --version >/dev/full", 4),
    ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $scsuite zigzag --runs-dir $'runs/\\xc3\\xa9' --name é", 0),
    ("LANG=C PYTHONIOENCODING=ascii $scsuite zigzag --runs-dir runs/é", 0),
    ("PYTHONIOENCODING=ascii $scsuite zigzag --policy é", 2),
    ("mkdir gone; cd gone; rmdir ../gone; $scsuite zigzag --runs-dir $OLDPWD/runs", 0),
]


def _check_shell(row: Row, line: str, code: int) -> None:
    with new_box() as box:
        done = subprocess.run(
            ["bash", "-c", line], cwd=box.path, capture_output=True, timeout=60, check=False,
            env={**os.environ, "scsuite": f"{sys.executable} -m scsuite", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        said = (done.stdout + done.stderr).decode(errors="backslashreplace")
        wrong = done.returncode != code or "Traceback" in said or "Exception ignored" in said
        row.count(f"F56 {line}", f"exit {done.returncode}, not {code}: {said[:400]!r}" if wrong else "")


def _check_silenced(row: Row) -> None:
    """Where even the error's line cannot be written, the exit code still says it."""
    for to in ("closed", "pipe", "/dev/full"):
        with new_box() as box:
            code = run(box, *ZIGZAG, "--cycles", "0", before=stream(2, to)).code
            row.count(f"F56 bad usage, stderr {to}", "" if code == 2 else f"exit {code}, not 2")


@contextlib.contextmanager
def _good_run() -> Iterator[Path]:
    """A training run that is complete."""
    with new_box() as box:
        run(box, *TRAIN)
        yield box.run_dirs[0]


def rows(quick: bool) -> list[Row]:
    """One row: the cases of F."""
    target = "all: exit code, message, disk; no traceback, nothing executed, nothing written elsewhere"
    row = Row("F command line", target)
    with _good_run() as good:
        few, some = (QUICK_EVERY, 3) if quick else (1, 1)
        cases = [*_refusals()[::few], *SIZES, *PLACES, *_on_a_run(good)[::some], *AROUND[::some]]
        for case in cases:
            row.count(f"{case.row} {case.name}", check(case, row))
    _check_silenced(row)
    for line, code in SHELL[:: 5 if quick else 1]:
        _check_shell(row, line, code)
    return [row]
