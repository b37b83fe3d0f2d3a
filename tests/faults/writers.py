"""P: several processes that write the same output, names of the greatest length, and files that are not ours.

In: an empty sandbox. Out: one row. A reader sees a whole file or none at each moment, whoever writes; a file of the
user stays as it is; what could lose a file is refused before anything is written.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.faults import injection as inject
from tests.faults.case import ScoreRow, check_outcome
from tests.faults.sandbox import Process, Sandbox, new_sandbox, run, start
from tests.made_runs import make_training
from tests.tiny_args import FAULT_TRAIN_ARGS

ZIGZAG = ("zigzag", "--step-size", "4", "--cycles", "1")
NUM_WRITERS = 20
LONGEST = "n" * 251 + ".svg"
OURS = ".scsuite-1-0123456789abcdef.part"  # of a process that still runs
USERS = (".a.svg.part", "a.svg.part", ".scsuite-notes.part", "a.svg~", ".a.svg.swp", "a.part")
Check = Callable[[Sandbox], list[str]]


def _is_whole(path: Path) -> bool:
    """Whether a file that others are writing has a beginning and an end of its kind."""
    data = path.read_bytes()
    if path.suffix == ".svg":
        return data.startswith(b"<?xml") and data.rstrip().endswith(b"</svg>")
    if path.suffix == ".png":
        return data.startswith(b"\x89PNG") and data.endswith(b"IEND\xaeB`\x82")
    if path.suffix == ".html":
        return data.startswith(b"<!") and data.rstrip().endswith(b"</html>")
    return data.startswith(b"step,epoch,lr\n") and data.count(b"\n") == 10  # 9 steps


def _read_while(processes: Sequence[Process], paths: Sequence[Path]) -> list[str]:
    """Read the files again and again until all processes have ended."""
    problems, num_reads = [], 0
    running = {process.pid for process in processes}
    while running:
        for path in paths:
            if path.exists():
                num_reads += 1
                problems += [] if _is_whole(path) else [f"half of {path.name} was seen"]
        for pid in list(running):
            # Waited for below; here only whether it has ended.
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                running.discard(pid)
        time.sleep(0.001)
    return problems[:3] + ([] if num_reads > 5 else [f"only {num_reads} reads"])


def _check_all(processes: Sequence[Process], timeout: float = 60.0) -> list[str]:
    return [problem for process in processes for problem in check_outcome(process.wait(timeout), 0)][:4]


def same_output(*words: str) -> Check:
    """Twenty processes at once write the same files."""

    def check(sandbox: Sandbox) -> list[str]:
        words_here = [word.format(sandbox.path) for word in words]
        processes = [start(sandbox, (*ZIGZAG, *words_here)) for _ in range(NUM_WRITERS)]
        paths = [Path(word) for word in words_here if word.startswith("/")]
        problems = _read_while(processes, paths) + _check_all(processes)
        left = [path.name for path in sandbox.path.iterdir() if path.suffix == ".part"]
        problems += [f"{len(sandbox.run_dirs)} runs"] if len(sandbox.run_dirs) != NUM_WRITERS else []
        return problems + [f"left: {name}" for name in left]

    return check


def same_page(sandbox: Sandbox) -> list[str]:
    """Reports of one run to one page."""
    training, page = make_training(sandbox.inputs / "training"), sandbox.path / "page.html"
    processes = [start(sandbox, ("report", training, "--out", page), before=inject.leave_out_figures) for _ in range(4)]
    return _read_while(processes, [page]) + _check_all(processes)


def same_runs_directory(sandbox: Sandbox) -> list[str]:
    """Trainings that start in the same second, in the same runs directory and from the same empty cache."""
    words = (*FAULT_TRAIN_ARGS, "--cache-dir", sandbox.path / "cache", "--name", "same")
    processes = [start(sandbox, words, before=inject.leave_out_figures) for _ in range(4)]
    problems = _check_all(processes, timeout=240)  # each computes on its own, and there may be two cores
    weights = {(path / "model.safetensors").read_bytes()[-1000:] for path in sandbox.run_dirs}
    if len(sandbox.run_dirs) != len(processes) or len(weights) != 1:
        problems.append(f"{len(sandbox.run_dirs)} runs with {len(weights)} different weights")
    return problems + [f"left: {path.name}" for path in (sandbox.path / "cache").rglob("*.part")]


def a_killed_writer(sandbox: Sandbox) -> list[str]:
    """One of two writers is killed as it writes: the other one's file is whole, and the next run is not disturbed."""
    out = sandbox.path / "a.svg"
    killed = start(
        sandbox, (*ZIGZAG, "--out", out), before=lambda: inject.before_call(os, "fsync", inject.kill, call=5)
    )
    other = start(sandbox, (*ZIGZAG, "--out", out))
    problems = [] if killed.wait().code == -signal.SIGKILL else ["it was not killed"]
    problems += check_outcome(other.wait(), 0) + check_outcome(run(sandbox, *ZIGZAG, "--out", out), 0)
    return problems + ([] if _is_whole(out) else ["half a file is left"])


def longest_names(sandbox: Sandbox) -> list[str]:
    """Names of 255 bytes are written, of letters of one byte and of three; longer ones are refused first."""
    problems = []
    for name in (LONGEST, "\u732b" * 83 + "xx.svg"):
        problems += check_outcome(run(sandbox, *ZIGZAG, "--out", sandbox.path / name), 0)
        problems += [] if (sandbox.path / name).exists() and _is_whole(sandbox.path / name) else [f"no {name[:9]}..."]
    problems += check_outcome(run(sandbox, *ZIGZAG, "--csv", sandbox.path / LONGEST[:255]), 0)
    runs = sandbox.run_dirs
    for option in ("--out", "--csv"):
        outcome = run(sandbox, *ZIGZAG, option, sandbox.path / f"n{LONGEST}")
        problems += check_outcome(outcome, 4, "at most 255 bytes", "shorter name")
    return problems + (["a run was made before the refusal"] if sandbox.run_dirs != runs else [])


def files_of_the_user(sandbox: Sandbox) -> list[str]:
    """Files whose names look like temporary ones are neither used nor removed, beside outputs and in a run."""
    arguments = (*FAULT_TRAIN_ARGS[:-4], "--epochs", "2", "--lr-max", "0.1")
    run(sandbox, *arguments, before=lambda: inject.after_step(9, inject.kill))
    stopped = sandbox.run_dirs[0]
    folders = (sandbox.path, sandbox.runs, stopped, stopped / "checkpoints")
    places = [folder / name for folder in folders for name in (*USERS, OURS)]
    for path in places:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"a user's")
    problems = check_outcome(run(sandbox, *ZIGZAG, "--out", sandbox.path / "a.svg"), 0)
    problems += check_outcome(run(sandbox, "train", "--resume", stopped), 0)
    return problems + [
        f"{path.relative_to(sandbox.path)} was changed"
        for path in places
        if not path.exists() or path.read_bytes() != b"a user's"
    ]


def same_path_twice(sandbox: Sandbox) -> list[str]:
    """--out and --csv of one file, by any spelling, are refused before anything is written."""
    (sandbox.path / "folder").mkdir()
    (sandbox.path / "link").symlink_to(".")
    problems = []
    for other in ("a.svg", "./a.svg", "folder/../a.svg", "link/a.svg", str(sandbox.path / "a.svg")):
        outcome = run(sandbox, *ZIGZAG, "--out", "a.svg", "--csv", other)
        problems += check_outcome(outcome, 2, "--csv", "another file than --out")
    return problems + (["something was written"] if sandbox.run_dirs or (sandbox.path / "a.svg").exists() else [])


def the_file_that_is_read(sandbox: Sandbox) -> list[str]:
    """An output is not one of the inputs: the picture to predict, the page's run, the configuration."""
    training = make_training(sandbox.inputs / "training")
    (sandbox.inputs / "c.yaml").write_text("step_size: 4\ncycles: 1\n")
    before = sandbox.tree(with_runs=False)
    problems = []
    for words in (
        ("zigzag", "--run", training, "--csv", training / "steps.csv"),
        ("zigzag", "--run", training, "--csv", training / "environment.json"),
        ("zigzag", "--config", sandbox.inputs / "c.yaml", "--csv", sandbox.inputs / "c.yaml"),
        ("zigzag", "--config", sandbox.inputs / "c.yaml", "--csv", "inputs/../inputs/c.yaml"),
        ("report", training, "--out", training / "result.json"),
        ("report", training, "--out", training / "config.yaml"),
    ):
        outcome = run(sandbox, *words)
        problems += [f"{words[-2]} {words[-1]}: {text}" for text in check_outcome(outcome, 2, str(words[-2]))]
        if sandbox.tree(with_runs=False) != before:
            return [*problems, f"{words[-2]} {words[-1]}: an input was overwritten"]
    return problems


def hints_name_their_option(sandbox: Sandbox) -> list[str]:
    """The hint of a file that cannot be written is the option that gave its name."""
    (sandbox.path / "file").write_text("")
    training = make_training(sandbox.inputs / "training")
    problems = []
    for words in ((*ZIGZAG, "--out"), (*ZIGZAG, "--csv"), ("report", str(training), "--out")):
        outcome = run(sandbox, *words, sandbox.path / "file" / "a.svg")
        problems += check_outcome(outcome, 4, f"another {words[-1]}")
    return problems + check_outcome(run(sandbox, *ZIGZAG, "--runs-dir", sandbox.path / "file"), 4, "--runs-dir")


def locked_runs(sandbox: Sandbox) -> list[str]:
    """Six resumes of one stopped run at once: one continues it, the others are refused, and it ends as it should."""
    run(sandbox, *FAULT_TRAIN_ARGS, before=lambda: inject.after_step(3, inject.send_signal(signal.SIGTERM)))
    resume = ("train", "--resume", sandbox.run_dirs[0])
    slow = lambda: inject.after_step(4, lambda: time.sleep(4))  # noqa: E731
    outcomes = [process.wait() for process in [start(sandbox, resume, before=slow) for _ in range(6)]]
    codes = sorted(outcome.code for outcome in outcomes)
    problems = [] if codes == [0, 6, 6, 6, 6, 6] else [f"exit codes {codes}"]
    result: dict[str, Any] = json.loads((sandbox.run_dirs[0] / "result.json").read_text())
    return problems + ([] if result["status"] == "ok" else [f"status {result['status']}"])


CHECKS: dict[str, Check] = {
    "P 20 writers of one SVG": same_output("--out", "{}/a.svg"),
    "P 20 writers of one PNG and one CSV": same_output("--out", "{}/a.png", "--csv", "{}/a.csv"),
    "P 20 writers of a name of 255 bytes": same_output("--out", "{}/" + LONGEST),
    "P 4 reports to one page": same_page,
    "P 4 trainings of one name from one empty cache": same_runs_directory,
    "P 6 resumes of one run": locked_runs,
    "P one of two writers is killed": a_killed_writer,
    "P names of 255 bytes": longest_names,
    "P files of the user that look like ours": files_of_the_user,
    "P --out and --csv of one file": same_path_twice,
    "P an output that is an input": the_file_that_is_read,
    "P hints name the option": hints_name_their_option,
}
QUICK = frozenset(
    {"P 20 writers of one SVG", "P files of the user that look like ours", "P an output that is an input"}
)


def rows(quick: bool) -> list[ScoreRow]:
    """One row: all checks, or a few."""
    row = ScoreRow(
        "P writers of the same files", "all: exit code; whole files at each moment; no file of others changed"
    )
    for name, check in CHECKS.items():
        if not quick or name in QUICK:
            with new_sandbox() as sandbox:
                row.run(name, lambda check=check, sandbox=sandbox: check(sandbox))  # type: ignore[misc]
    return [row]
