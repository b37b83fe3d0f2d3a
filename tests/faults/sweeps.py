"""Crashes and I/O errors at every operation; kills at random times; flipped bits; stops at every place.

What SQLite's tests do: count the operations of a good run, then let the first fail, the second, and so on.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.faults import luck
from tests.faults.box import TINY, Box, new_box, run, start
from tests.faults.case import Row
from tests.faults.power import power_cuts
from tests.faults.running import IN_WORKERS, RUN, expect, goes_on, no_leftovers, reference_run
from tests.faults.same import differences, final_sha256, rows_of

SAME_END = "every point: whole or not there; resumed to the same end, tolerance 0"


def operations(quick: bool) -> list[tuple[int, str]]:
    """Number and name of each write, fsync, rename and unlink of a run; quick: every other one of its last commit."""
    with new_box() as box:
        tell = box.path.parent / "operations"
        run(box, *RUN, before=lambda: luck.fail_operation(0, "kill", tell))
        names = list(enumerate(tell.read_text().splitlines(), 1))
    if not quick:
        return names
    first = max(number for number, name in names if name.endswith("/metrics.csv") and name.startswith("write"))
    last = max(number for number, name in names if name.startswith("unlink checkpoints/step-"))
    return [(number, name) for number, name in names if first <= number <= last][::2]


def crash_sweep(quick: bool, reference: Path) -> Row:
    """SIGKILL at each operation."""
    row = Row("crash sweep: SIGKILL at each write, fsync, rename, unlink", SAME_END)
    for number, name in operations(quick):
        with new_box() as box:
            outcome = run(box, *RUN, before=lambda number=number: luck.fail_operation(number, "kill"))  # type: ignore[misc]
            problems = [] if outcome.code == -signal.SIGKILL else [f"exit {outcome.code}"]
            row.count(f"{number} {name}", problems + _resumed_if_begun(box, reference))
    return row


def _resumed_if_begun(box: Box, reference: Path) -> list[str]:
    # Before config.yaml is there, nothing was begun: there is nothing to go on with, and nothing lost.
    if not (box.run_dirs[0] / "config.yaml").exists():
        return expect(run(box, "train", "--resume", box.run_dirs[0]), 3, "config.yaml")
    return goes_on(box, reference)


def error_sweep(quick: bool, reference: Path) -> list[Row]:
    """A full disk from each write on; an I/O error at each operation."""
    rows = []
    for action, kinds in (("ENOSPC", ("write",)), ("EIO", luck.OPERATIONS)):
        row = Row(f"I/O errors: {action} at each {', '.join(kinds)}", f"exit 4 or harmless, no half file; {SAME_END}")
        for number, name in operations(quick):
            if name.split()[0] in kinds:
                harmless = name.startswith("unlink") or name.endswith("/log.txt")
                row.count(f"{number} {name}", _with_error(number, action, reference, harmless))
        rows.append(row)
    return rows


def _with_error(number: int, action: str, reference: Path, harmless: bool) -> list[str]:
    with new_box() as box:
        outcome = run(box, *RUN, before=lambda: luck.fail_operation(number, action))
        if outcome.code == 0 and harmless:
            return differences(box.run_dirs[0], reference)
        problems = expect(outcome, 4, "cannot write") + no_leftovers(box)
        if not box.run_dirs:
            return problems  # it could not begin, and left nothing
        return problems + goes_on(box, reference)


def resume_identity(quick: bool, reference: Path) -> Row:
    """A stop after every epoch and at five steps inside one: the same end, and no step done twice."""
    row = Row("resume: stops at every epoch's end and inside", "weights, momentum, rows equal; goes on, not again")
    for step in (6, 13, 20, *((10,) if quick else (0, 3, 8, 10, 17))):
        with new_box() as box:
            run(box, *RUN, before=lambda step=step: luck.after_step(step, luck.raising(signal.SIGTERM)))  # type: ignore[misc]
            done = box.path.parent / "done"
            outcome = run(box, "train", "--resume", box.run_dirs[0], before=lambda: luck.record_steps(done))  # noqa: B023
            steps = [int(line) for line in done.read_text().split()] if done.exists() else []
            problems = expect(outcome, 0) + differences(box.run_dirs[0], reference)
            if steps != list(range(step + 1, 21)):
                problems.append(f"it did the steps {steps}")
            row.count(f"after step {step}", problems)
    return row


def rerun_identity(quick: bool, reference: Path) -> Row:
    """The same command again; and image by image, with 0, 1 and 2 workers."""
    row = Row("repeat: same seed, 0, 1 and 2 workers", "weights, momentum, rows equal")
    with new_box() as box:
        row.count("whole batches", expect(run(box, *RUN), 0) or differences(box.run_dirs[0], reference))
    with new_box() as first:
        run(first, *IN_WORKERS)
        for workers in (0, 2) if quick else (0, 0, 1, 2):
            with new_box() as box:
                outcome = run(box, *IN_WORKERS, "--workers", workers)
                row.count(f"{workers} workers", expect(outcome, 0) or differences(box.run_dirs[0], first.run_dirs[0]))
    return row


SOAK = (*TINY[:3], "--limit-train", "300", "--limit-test", "50", *TINY[7:], "--epochs", "20", "--lr-max", "0.1")


def kill_soak(quick: bool) -> Row:
    """SIGKILL at random times, resume each time, until there were 50 kills: the final sha256 is the same."""
    row = Row("kill soak: SIGKILL at random times over 20 epochs", "final sha256 equal; work lost within one commit")
    kills, chance = 6 if quick else 50, random.Random(0)
    with new_box() as whole:
        outcome = run(whole, *SOAK)
        expected, lasted = final_sha256(whole.run_dirs[0]), outcome.seconds
        lost: list[int] = []
        while row.total < kills:
            with new_box() as box:
                while row.total < kills and not _finished(box):
                    row.count(f"kill {row.total + 1}", _live_and_die(box, chance.uniform(0.1, lasted / 3), lost))
                _end_it(box)
                row.count("final sha256", [] if final_sha256(box.run_dirs[0]) == expected else ["it differs"])
                row.count("rows", differences(box.run_dirs[0], whole.run_dirs[0]))
    lost.sort()
    row.facts.update(kills=kills, steps_lost_median=lost[len(lost) // 2], steps_lost_max=lost[-1])
    row.facts.update(steps_in_all=20 * 19, seconds_in_all=round(lasted, 1))
    row.facts["seconds_lost_max"] = round(lost[-1] * lasted / (20 * 19), 2)
    return row


def _finished(box: Box) -> bool:
    return bool(box.run_dirs) and (box.run_dirs[0] / "result.json").exists()


def _arguments(box: Box) -> list[object]:
    begun = [path for path in box.run_dirs if (path / "config.yaml").exists()]
    for path in set(box.run_dirs) - set(begun):
        shutil.rmtree(path)  # killed before it began
    return ["train", "--resume", begun[0]] if begun else list(SOAK)


def _live_and_die(box: Box, seconds: float, lost: list[int]) -> list[str]:
    """Run until killed; note how many steps past the last commit are lost by it."""
    from scsuite.core.runs.rundir import latest_checkpoint

    process = start(box, _arguments(box))
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    outcome = process.end()
    if outcome.code not in (0, -signal.SIGKILL):
        return [f"exit {outcome.code}: {outcome.err[:300]}"]
    run_dir = next((path for path in box.run_dirs if (path / "config.yaml").exists()), None)
    if run_dir is None:
        return []
    state, problems = latest_checkpoint(run_dir)
    done = len(rows_of(run_dir / "steps.csv")) if (run_dir / "steps.csv").exists() else 0
    lost.append(done - (state.facts["state"]["step"] if state else 0))
    return problems


def _end_it(box: Box) -> None:
    outcome = run(box, *_arguments(box), timeout=600)
    assert outcome.code == 0, outcome.err


def bit_flips(quick: bool, reference: Path) -> Row:
    """One flipped bit anywhere in a checkpoint file is found."""
    from scsuite.core.model.checkpoint import read_checkpoint
    from scsuite.core.errors import InputError

    row = Row("flipped bits over a whole checkpoint file", "all detected")
    good = sorted((reference / "checkpoints").iterdir())[-1].read_bytes()
    chance = random.Random(0)
    with new_box() as box:
        path = box.inputs / "flipped.safetensors"
        for _ in range(200 if quick else 1000):
            bit = chance.randrange(8 * len(good))
            data = bytearray(good)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            try:
                read_checkpoint(path)
                row.count(f"bit {bit}", "it loads")
            except InputError:
                row.count(f"bit {bit}", "")
    row.facts["file_bytes"] = len(good)
    return row


def sigterm_to_exit(quick: bool) -> Row:
    """SIGTERM at random times of a training that begins with its range test: how long until it is gone."""
    row = Row("SIGTERM to exit, at random times", "143, resumable or never begun; under 10 s")
    chance, seconds = random.Random(1), []
    for number in range(5 if quick else 20):
        with new_box() as box:
            process = start(box, [*TINY, "--epochs", "1000"])  # more than any machine does in four seconds
            time.sleep(chance.uniform(0.02, 4.0))
            begin = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
            outcome = process.end()
            seconds.append(time.monotonic() - begin)
            problems = expect(outcome, 143) + (["a process lives on"] if process.has_orphans() else [])
            if box.run_dirs and not (box.run_dirs[0] / "config.yaml").exists():
                problems.append("half a run directory")
            row.count(f"{number}", problems + (["over 10 s"] if seconds[-1] > 10 else []))
    seconds.sort()
    row.facts.update(p50_s=round(seconds[len(seconds) // 2], 2), max_s=round(seconds[-1], 2))
    return row


_SAVE = """
import sys
from pathlib import Path
from scsuite.core.model.checkpoint import read_checkpoint
from scsuite.core.errors import OutputError
from scsuite.core.runs.rundir import RunDir, checkpoints
with RunDir.open(Path(sys.argv[1])) as run:
    state = read_checkpoint(checkpoints(run.path)[0])
    facts = {name: value for name, value in state.facts.items() if name not in ("sha256", "format")}
    try:
        run.save_state(22, state.tensors, facts)
    except OutputError:
        sys.exit(4)
"""


def strace_sweep(quick: bool, reference: Path) -> list[Row]:
    """The same two sweeps of one save, by the kernel's own calls; where strace is not installed, no row."""
    if quick or shutil.which("strace") is None:
        return []
    rows = []
    for faults, target in (
        (("signal=SIGKILL",), "the one before or the new one loads"),
        (("error=ENOSPC", "error=EIO"), "exit 4 or harmless, the one before loads, no half file"),
    ):
        row = Row(f"strace: {' and '.join(faults)} at each call of a save", target)
        for calls in ("write", "fsync", "rename,renameat,renameat2", "unlink,unlinkat"):
            for fault in faults:
                number = 1
                while _strace(calls, f"inject={calls}:{fault}:when={number}", reference, row):
                    number += 1
        rows.append(row)
    return rows


def _strace(calls: str, inject: str, reference: Path, row: Row) -> bool:
    """One save with one call hit; False when the save has fewer of these calls."""
    from scsuite.core.runs.rundir import latest_checkpoint

    with new_box() as box:
        copy, trace = box.path / "run", box.path / "trace"
        shutil.copytree(reference, copy)
        states = copy / "checkpoints"
        touched = [copy, states, copy / "steps.csv", copy / "metrics.csv", *states.iterdir()]
        touched += [states / "step-000022.safetensors", states / ".step-000022.safetensors.part"]
        watch = [word for path in touched for word in ("-P", str(path))]
        command = ["strace", "-f", "-o", str(trace), *watch, "-e", f"trace={calls}", "-e", inject]
        command += [sys.executable, "-c", _SAVE, str(copy)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        told = trace.read_text()
        killed = "killed by SIGKILL" in told
        if not killed and "INJECTED" not in told:
            return False
        newest, problems = latest_checkpoint(copy)
        if newest is None:
            problems.append("none loads")
        if not killed and done.returncode not in (0, 4):
            problems.append(f"exit {done.returncode}: {done.stderr[-300:]}")
        if not killed:
            problems += [f"left over: {path.name}" for path in copy.rglob("*.part")]
        row.count(inject, problems)
        return True


def rows(quick: bool) -> list[Row]:
    """All sweeps of what a run survives."""
    with new_box() as whole:
        reference = reference_run(whole)
        return [
            crash_sweep(quick, reference),
            *error_sweep(quick, reference),
            power_cuts(quick, reference),
            *strace_sweep(quick, reference),
            resume_identity(quick, reference),
            rerun_identity(quick, reference),
            bit_flips(quick, reference),
        ]


def soak_rows(quick: bool) -> list[Row]:
    """What happens at random times."""
    return [kill_soak(quick), sigterm_to_exit(quick)]
