"""F: the command line: numbers, words, output places, and the environment of the process.

In: the refusals of tests/cli/test_errors.py and others. Out: one row; here each case has its own process and is checked
against all rules.
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
from tests.conftest import REPOSITORY
from tests.faults.case import FaultCase, ScoreRow, SkipCaseError, check_case
from tests.faults.injection import become_nobody
from tests.faults.sandbox import Sandbox, new_sandbox, run
from tests.tiny_args import FAULT_TRAIN_ARGS as TRAIN

ZIGZAG = ("zigzag", "--cycles", "1")
QUICK_EVERY = 24  # refusals by the parser: every n-th one
Prepare = Callable[[Sandbox], Sequence[object]]


def parameters(test: Callable[..., None]) -> list[tuple[Any, ...]]:
    """The parameters of a parametrized test."""
    return list(test.pytestmark[0].args[1])  # type: ignore[attr-defined]


def arguments(*words: object) -> Prepare:
    """A command line without prepared inputs; {inputs}, {runs} and {path} become the sandbox's folders."""
    return lambda sandbox: [str(w).format(inputs=sandbox.inputs, runs=sandbox.runs, path=sandbox.path) for w in words]


def plain_case(fault: str, words: Sequence[object], code: int, *expected: str) -> FaultCase:
    """A command line, its exit code and words of its output."""
    return FaultCase(fault, " ".join(map(str, words)) or "no arguments", lambda _sandbox: words, code, expected)


# --- refused by the parser and the configurations: 47 to 52 ---


def _refusals() -> list[FaultCase]:
    cases = [
        plain_case("F47-51", (*command, f"{flag}={value}"), 2, flag)
        for command, flag, value in parameters(test_errors.test_numbers_out_of_range_are_refused)
    ]
    for fault, test in (
        ("F48-51", test_errors.test_contradictory_and_excessive_values_are_refused),
        ("F52", test_errors.test_unknown_words_are_refused_and_a_similar_one_is_suggested),
    ):
        cases += [plain_case(fault, words, 2, *expected) for words, expected in parameters(test)]
    return cases


SIZES = [
    plain_case("F50", (*TRAIN, "--bs", "101"), 3, "--bs", "100 images"),
    plain_case("F50", (*TRAIN, "--val-split", "100"), 2, "--val-split"),
    plain_case("F50", (*TRAIN, "--bs", "99"), 0, "2 per epoch, batch size 99"),  # the last batch is one image
    plain_case("F49", (*TRAIN, "--peak-epoch", "1e-300"), 0),
    plain_case("F52", (*ZIGZAG, "--step-size", "9", "--step-size", "7"), 0, "15, 98 per epoch"),
    plain_case("F52", (*ZIGZAG, "--csv", "/dev/null"), 2, "--csv", "device"),
    plain_case("F52", (*ZIGZAG, "--csv", "/proc/self/fd/1"), 2, "--csv"),
    plain_case("F52", (*ZIGZAG, "--runs-dir", "~nobody-has-this-name/runs"), 2, "--runs-dir"),
    plain_case("F52", (*TRAIN, "--data", "~nobody-has-this-name/data"), 3, "~nobody-has-this-name"),
    plain_case("F52", ("zigzag", "--run", "/dev/zero"), 3, "/dev/zero"),
]


def _cases_of_a_run(good: Path) -> list[FaultCase]:
    """What `gradcam` and `train --resume` refuse, and the resume of a complete run."""

    def with_run(command: str, *more: object) -> Prepare:
        def prepare(sandbox: Sandbox) -> Sequence[object]:
            shutil.copytree(good, sandbox.inputs / "run", copy_function=shutil.copy2)
            (sandbox.path.parent / "times").write_text(json.dumps(_times(sandbox)))
            return [*command.split(), sandbox.inputs / "run", *more]

        return prepare

    def untouched(sandbox: Sandbox) -> str:
        is_unchanged = _times(sandbox) == json.loads((sandbox.path.parent / "times").read_text())
        return "" if is_unchanged else "files were rewritten"

    cases = [
        FaultCase("F54", "resume of a complete run", with_run("train --resume"), 0, ("complete",), after=untouched),
        FaultCase(
            "F54", "and its result", with_run("train --resume", "--json"), 0, ('"command": "train"',), after=untouched
        ),
        FaultCase(
            "F54", "with its own settings", with_run("train --resume", "--epochs", 1), 0, ("complete",), after=untouched
        ),
        FaultCase("F54", "with another", with_run("train --resume", "--epochs", 3), 2, ("--epochs",), after=untouched),
    ]
    last_index = "49"  # of this run's test images, fewer than in test_errors
    for more, words in parameters(test_errors.test_gradcam_options_without_a_meaning_are_refused):
        options = (more,) if isinstance(more, str) else more
        expected = tuple(last_index if word == "99" else word for word in words)
        name, prepare = f"gradcam {' '.join(options)}", with_run("gradcam --ckpt", *options)
        cases.append(FaultCase("F52", name, prepare, 2, expected, after=untouched))
    return cases


def _times(sandbox: Sandbox) -> dict[str, int]:
    paths = (path for path in (sandbox.inputs / "run").rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(sandbox.inputs)): path.stat().st_mtime_ns for path in paths}


# --- where runs go: 53 ---


def _images(sandbox: Sandbox, *words: object) -> Sequence[object]:
    from PIL import Image

    for name, color in (("cat", "red"), ("dog", "blue")):
        folder = sandbox.inputs / "data" / name
        folder.mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32), color).save(folder / f"{i}.png")
    return arguments(*TRAIN, "--bs", "4", "--data", "{inputs}/data", *words)(sandbox)


def _with_file(*words: object) -> Prepare:
    def prepare(sandbox: Sandbox) -> Sequence[object]:
        (sandbox.inputs / "file").write_text("mine")
        return arguments(*words)(sandbox)

    return prepare


def _with_pipe(sandbox: Sandbox) -> Sequence[object]:
    os.mkfifo(sandbox.inputs / "pipe")
    return arguments(*ZIGZAG, "--csv", "{inputs}/pipe")(sandbox)


def _owned_by_root(sandbox: Sandbox) -> Sequence[object]:
    if os.getuid() != 0:
        raise SkipCaseError("only root can make a folder that belongs to another user")
    sandbox.runs.mkdir(mode=0o755)
    sandbox.path.parent.chmod(0o755)
    return arguments(*ZIGZAG)(sandbox)


def _occupied(sandbox: Sandbox) -> Sequence[object]:
    run(sandbox, *ZIGZAG)
    (sandbox.runs / "mine.txt").write_text("mine")
    return arguments(*ZIGZAG)(sandbox)


def _still_occupied(sandbox: Sandbox) -> str:
    is_kept = (sandbox.runs / "mine.txt").read_text() == "mine"
    return "" if is_kept and len(list(sandbox.runs.glob("*/result.json"))) == 2 else "files of before are missing"


def _one_run(pattern: str) -> Callable[[Sandbox], str]:
    return lambda sandbox: "" if len(list(sandbox.path.glob(pattern))) == 1 else f"not one {pattern}"


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # bytes a file: enough for a text, not for a figure


def _dangling_link(sandbox: Sandbox) -> Sequence[object]:
    (sandbox.inputs / "link").symlink_to(sandbox.path / "nowhere")
    return arguments(*ZIGZAG, "--runs-dir", "{inputs}/link")(sandbox)


PLACES = [
    FaultCase(
        "F53",
        "parents are missing",
        arguments(*ZIGZAG, "--runs-dir", "{runs}/a/b"),
        0,
        after=_one_run("runs/a/b/*/result.json"),
    ),
    FaultCase("F53", "relative", arguments(*ZIGZAG, "--runs-dir", "runs"), 0, after=_one_run("runs/*/result.json")),
    FaultCase("F53", "a file", _with_file(*ZIGZAG, "--runs-dir", "{inputs}/file"), 4, ("file",)),
    FaultCase("F53", "below a file", _with_file(*ZIGZAG, "--runs-dir", "{inputs}/file/below"), 4, ("file",)),
    FaultCase("F53", "a link to nothing", _dangling_link, 4, ("link",)),
    FaultCase("F53", "a name too long", arguments(*ZIGZAG, "--runs-dir", "x" * 300), 4, ("too long",)),
    FaultCase("F53", "/proc", arguments(*ZIGZAG, "--runs-dir", "/proc/scsuite"), 4, ("/proc/scsuite",)),
    FaultCase("F53", "/sys", arguments(*ZIGZAG, "--runs-dir", "/sys/scsuite"), 4, ("/sys/scsuite",)),
    FaultCase("F53", "/dev/null", arguments(*ZIGZAG, "--runs-dir", "/dev/null"), 4, ("/dev/null",)),
    FaultCase("F53", "somebody else's", _owned_by_root, 4, ("Permission denied",), become_nobody),
    FaultCase("F53", "no room", arguments(*ZIGZAG), 4, ("File too large",), _limit_file_size),
    FaultCase("F53", "not empty", _occupied, 0, after=_still_occupied),
    FaultCase("F53", "the data", lambda sandbox: _images(sandbox, "--runs-dir", "{inputs}/data"), 2, ("--runs-dir",)),
    FaultCase(
        "F53", "in the data", lambda sandbox: _images(sandbox, "--runs-dir", "{inputs}/data/runs"), 2, ("--runs-dir",)
    ),
    FaultCase(
        "F53",
        "in a class",
        lambda sandbox: _images(sandbox, "--runs-dir", "inputs/../inputs/data/cat"),
        2,
        ("--runs-dir",),
    ),
    FaultCase("F53", "--csv a pipe", _with_pipe, 2, ("--csv",)),
    FaultCase("F53", "--out below a file", _with_file(*ZIGZAG, "--out", "{inputs}/file/a.png"), 4, ("a.png",)),
]


# --- the environment of the process: 55 and 56 ---


def environment(**values: str | None) -> Callable[[], None]:
    """Set variables, or remove those that are None."""

    def before() -> None:
        for name, value in values.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    return before


def redirect(descriptor: int, target: str) -> Callable[[], None]:
    """Close stdin, stdout or stderr, or redirect it to a device or to a pipe that nobody reads."""

    def before() -> None:
        if target == "closed":
            os.close(descriptor)
            setattr(sys, ("stdin", "stdout", "stderr")[descriptor], None)
            return
        opened = os.pipe() if target == "pipe" else (os.open(target, os.O_WRONLY),)
        os.dup2(opened[-1], descriptor)
        for end in opened:
            os.close(end)
        setattr(sys, ("stdin", "stdout", "stderr")[descriptor], os.fdopen(descriptor, "w", closefd=False))

    return before


def _use_ascii() -> None:
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(encoding="ascii")  # type: ignore[union-attr]


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def before() -> None:
        first()
        second()

    return before


def _remove_cwd() -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()


def _hang_up() -> None:
    """As under nohup: SIGHUP is ignored, and arrives again and again."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGHUP))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)


def _after_a_training(sandbox: Sandbox) -> Sequence[object]:
    run(sandbox, *TRAIN)
    return TRAIN


def _same_twice(sandbox: Sandbox) -> str:
    """Compare the rows and the weights of two runs."""
    from safetensors.numpy import load_file

    first, second = sorted(sandbox.runs.glob("*-train-*"))
    if (first / "steps.csv").read_bytes() != (second / "steps.csv").read_bytes():
        return "the steps differ"
    a, b = (load_file(path / "model.safetensors") for path in (first, second))
    return "" if a.keys() == b.keys() and all((a[n] == b[n]).all() for n in a) else "the weights differ"


def _complete(sandbox: Sandbox) -> str:
    return "" if len(list(sandbox.runs.glob("**/result.json"))) == 1 else "no complete run"


def _success_case(name: str, before: Callable[[], None], *words: object) -> FaultCase:
    return FaultCase("F56", name, arguments(*(words or ZIGZAG)), 0, before=before, after=_complete)


def _home_case(name: str, before: Callable[[], None]) -> FaultCase:
    """A home folder that is missing or read-only: the cache of decoded images is there."""
    return FaultCase(
        "F56", f"home {name}", _images, 0, before=_both(environment(SCSUITE_CACHE=None), before), after=_complete
    )


RANK_VARIABLES = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "1"}
ENVIRONMENTS = [
    FaultCase("F55", "rank 1 of 2", _after_a_training, 0, before=environment(**RANK_VARIABLES), after=_same_twice),
    FaultCase(
        "F55", "rank 0 of x", _after_a_training, 0, before=environment(RANK="0", WORLD_SIZE="x"), after=_same_twice
    ),
    *(_success_case(f"stdout {to}", redirect(1, to)) for to in ("closed", "pipe", "/dev/full")),
    *(
        _success_case(f"stderr {to}, --json", redirect(2, to), *ZIGZAG, "--json")
        for to in ("closed", "pipe", "/dev/full")
    ),
    _success_case("stdout a pipe, --json", redirect(1, "pipe"), *ZIGZAG, "--json"),
    _success_case("stdout a pipe, training", redirect(1, "pipe"), *TRAIN),
    _success_case("both full, training", _both(redirect(1, "/dev/full"), redirect(2, "/dev/full")), *TRAIN),
    _success_case(
        "all three closed", _both(_both(redirect(0, "closed"), redirect(1, "closed")), redirect(2, "closed"))
    ),
    _success_case("stdin closed", redirect(0, "closed")),
    FaultCase(
        "F56", "stdout full, --json", arguments(*ZIGZAG, "--json", "--quiet"), 4, ("stdout",), redirect(1, "/dev/full")
    ),
    FaultCase(
        "F56", "stdout full, bad usage", arguments(*ZIGZAG, "--cycles", "0"), 2, ("--cycles",), redirect(1, "/dev/full")
    ),
    FaultCase("F56", "--help into a pipe", arguments("--help"), 0, before=redirect(1, "pipe")),
    FaultCase("F56", "train --help into a closed one", arguments("train", "--help"), 0, before=redirect(1, "closed")),
    *(_success_case(f"COLUMNS={width}", environment(COLUMNS=width)) for width in ("1", "0", "-3", "x")),
    _success_case("COLUMNS=20", environment(COLUMNS="20"), *TRAIN),
    _success_case("NO_COLOR, TERM=dumb", environment(NO_COLOR="1", TERM="dumb")),
    _success_case("FORCE_COLOR", environment(FORCE_COLOR="1", TERM="xterm-256color")),
    _success_case("ascii", _use_ascii, *ZIGZAG, "--runs-dir", "{runs}/é\x1b", "--name", "日本"),
    _success_case("bytes that are no UTF-8", lambda: None, *TRAIN, "--name", "\udcff", "--runs-dir", "{runs}/\udcff"),
    FaultCase("F56", "ascii, bad usage", arguments(*ZIGZAG, "--policy", "é\x1b"), 2, (r"\xe9\x1b",), _use_ascii),
    _home_case("unset", environment(HOME=None)),
    _home_case("missing", environment(HOME="/nonexistent/home")),
    _home_case("read-only", environment(HOME="/proc")),
    _home_case("empty", environment(HOME="")),
    _success_case("the current folder is gone", _remove_cwd),
    FaultCase("F56", "and runs go there", arguments(*ZIGZAG, "--runs-dir", "runs"), 4, ("runs",), _remove_cwd),
    FaultCase("F56", "and the data is there", arguments(*TRAIN, "--data", "data"), 3, ("data",), _remove_cwd),
    _success_case("nohup, zigzag", _hang_up),
    _success_case("nohup, train", _hang_up, *TRAIN),
]

# A shell line and its exit code: what only a new process shows, not a forked one.
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


def _check_shell(row: ScoreRow, line: str, code: int) -> None:
    with new_sandbox() as sandbox:
        completed = subprocess.run(
            ["bash", "-c", line],
            cwd=sandbox.path,
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "scsuite": f"{sys.executable} -m scsuite", "PYTHONPATH": str(REPOSITORY)},
        )
        output = (completed.stdout + completed.stderr).decode(errors="backslashreplace")
        is_wrong = completed.returncode != code or "Traceback" in output or "Exception ignored" in output
        row.count(f"F56 {line}", f"exit {completed.returncode}, not {code}: {output[:400]!r}" if is_wrong else "")


def _check_unwritable_stderr(row: ScoreRow) -> None:
    """Where the error line cannot be written, the exit code is still right."""
    for to in ("closed", "pipe", "/dev/full"):
        with new_sandbox() as sandbox:
            code = run(sandbox, *ZIGZAG, "--cycles", "0", before=redirect(2, to)).code
            row.count(f"F56 bad usage, stderr {to}", "" if code == 2 else f"exit {code}, not 2")


@contextlib.contextmanager
def _good_run() -> Iterator[Path]:
    """A complete training run."""
    with new_sandbox() as sandbox:
        run(sandbox, *TRAIN)
        yield sandbox.run_dirs[0]


def rows(quick: bool) -> list[ScoreRow]:
    """One row: the cases of F."""
    row = ScoreRow("F command line", "all: exit code, message, disk; no traceback, nothing executed or misplaced")
    refusal_every, every = (QUICK_EVERY, 4) if quick else (1, 1)
    with _good_run() as good:
        cases = [*_refusals()[::refusal_every], *SIZES[::every], *PLACES[::every]]
        cases += [*_cases_of_a_run(good)[::every], *ENVIRONMENTS[::every]]
        for case in cases:
            row.run(f"{case.fault} {case.name}", lambda case=case: check_case(case, row))  # type: ignore[misc]
    _check_unwritable_stderr(row)
    for line, code in SHELL[:: 5 if quick else 1]:
        _check_shell(row, line, code)
    return [row]
