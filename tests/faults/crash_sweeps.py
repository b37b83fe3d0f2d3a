"""Crashes and I/O errors at every operation; kills at random times; flipped bits; stops at every place.

Method of SQLite's tests: count the operations of a good run, then let the first one fail, the second one, and so on.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.faults import injection as inject
from tests.faults.case import ScoreRow, check_outcome
from tests.faults.compare_runs import final_sha256, find_differences, find_partial_files, is_complete, read_rows
from tests.faults.power_loss import power_losses
from tests.faults.runtime_faults import make_reference_run, resume
from tests.faults.sandbox import Sandbox, new_sandbox, run, start
from tests.tiny_args import FAULT_ARGS, RESUME_ARGS, RESUME_STEPS, RESUME_WORKER_ARGS, SOAK_ARGS, SOAK_STEPS

SAME_END = "every point: complete or absent; resumed to the same end, tolerance 0"


def list_operations(quick: bool) -> list[tuple[int, str]]:
    """Number and name of each write, fsync, rename and unlink; quick: every third one of the last checkpoint."""
    with new_sandbox() as sandbox:
        log = sandbox.path.parent / "operations"
        run(sandbox, *RESUME_ARGS, before=lambda: inject.fail_operation(0, "kill", log))
        operations = list(enumerate(log.read_text().splitlines(), 1))
    if not quick:
        return operations
    first = max(number for number, name in operations if name.endswith("/metrics.csv") and name.startswith("write"))
    last = max(number for number, name in operations if name.startswith("unlink checkpoints/step-"))
    return [(number, name) for number, name in operations if first <= number <= last][::3]


def crash_sweep(quick: bool, reference: Path) -> ScoreRow:
    """SIGKILL at each operation."""
    row = ScoreRow("crash sweep: SIGKILL at each write, fsync, rename, unlink", SAME_END)
    for number, name in list_operations(quick):
        with new_sandbox() as sandbox:
            before = lambda number=number: inject.fail_operation(number, "kill")  # noqa: E731
            outcome = run(sandbox, *RESUME_ARGS, before=before)
            problems = [] if outcome.code == -signal.SIGKILL else [f"exit {outcome.code}"]
            row.count(f"{number} {name}", problems + _resume_if_started(sandbox, reference))
    return row


def _resume_if_started(sandbox: Sandbox, reference: Path) -> list[str]:
    # Without config.yaml the run had not started: there is nothing to resume, and nothing lost.
    if not (sandbox.run_dirs[0] / "config.yaml").exists():
        return check_outcome(run(sandbox, "train", "--resume", sandbox.run_dirs[0]), 3, "config.yaml")
    return resume(sandbox, reference)


def error_sweep(quick: bool, reference: Path) -> list[ScoreRow]:
    """A full disk from each write on; an I/O error at each operation."""
    rows = []
    for action, operations in (("ENOSPC", ("write",)), ("EIO", inject.OPERATIONS)):
        target = f"exit 4 or harmless, no partial file; {SAME_END}"
        row = ScoreRow(f"I/O errors: {action} at each {', '.join(operations)}", target)
        for number, name in list_operations(quick):
            if name.split()[0] in operations:
                harmless = name.startswith("unlink") or name.endswith("/log.txt")
                row.count(f"{number} {name}", _run_with_error(number, action, reference, harmless))
        rows.append(row)
    return rows


def _run_with_error(number: int, action: str, reference: Path, harmless: bool) -> list[str]:
    with new_sandbox() as sandbox:
        outcome = run(sandbox, *RESUME_ARGS, before=lambda: inject.fail_operation(number, action))
        if outcome.code == 0 and (harmless or "report.html was not written" in outcome.out):  # a page is not the result
            return find_differences(sandbox.run_dirs[0], reference)
        problems = check_outcome(outcome, 4, "cannot write") + find_partial_files(sandbox.runs)
        if not sandbox.run_dirs:
            return problems  # it could not start, and left nothing
        return problems + resume(sandbox, reference)


def resume_identity(quick: bool, reference: Path) -> ScoreRow:
    """A stop after every epoch and at five steps inside one: the same end, and no step is repeated."""
    row = ScoreRow("resume: stops at every epoch's end and inside", "weights, momentum, rows equal; no step repeated")
    for step in (6, 13, 20, *((10,) if quick else (0, 3, 8, 10, 17))):
        with new_sandbox() as sandbox:
            stop = inject.send_signal(signal.SIGTERM)
            run(sandbox, *RESUME_ARGS, before=lambda step=step, stop=stop: inject.after_step(step, stop))  # type: ignore[misc]
            log = sandbox.path.parent / "steps"
            before = lambda log=log: inject.record_steps(log)  # noqa: E731
            outcome = run(sandbox, "train", "--resume", sandbox.run_dirs[0], before=before)
            steps = [int(line) for line in log.read_text().split()] if log.exists() else []
            problems = check_outcome(outcome, 0) + find_differences(sandbox.run_dirs[0], reference)
            if steps != list(range(step + 1, RESUME_STEPS)):
                problems.append(f"it ran the steps {steps}")
            row.count(f"after step {step}", problems)
    return row


def repeat_identity(quick: bool, reference: Path) -> ScoreRow:
    """The same command again; and with albumentations in 0, 1 and 2 workers."""
    row = ScoreRow("repeat: same seed, 0, 1 and 2 workers", "weights, momentum, rows equal")
    with new_sandbox() as sandbox:
        problems = check_outcome(run(sandbox, *RESUME_ARGS), 0)
        row.count("batched", problems or find_differences(sandbox.run_dirs[0], reference))
    with new_sandbox() as first:
        run(first, *RESUME_WORKER_ARGS)
        for workers in (0, 2) if quick else (0, 0, 1, 2):
            with new_sandbox() as sandbox:
                problems = check_outcome(run(sandbox, *RESUME_WORKER_ARGS, "--workers", workers), 0)
                problems = problems or find_differences(sandbox.run_dirs[0], first.run_dirs[0])
                row.count(f"{workers} workers", problems)
    return row


def kill_soak(quick: bool) -> ScoreRow:
    """SIGKILL at random times, resumed each time, up to 50 kills: the final sha256 is the same."""
    target = "final sha256 equal; work lost within one checkpoint interval"
    row = ScoreRow("kill soak: SIGKILL at random times over 20 epochs", target)
    num_kills, rng = 4 if quick else 50, random.Random(0)
    with new_sandbox() as reference:
        outcome = run(reference, *SOAK_ARGS)
        expected, seconds = final_sha256(reference.run_dirs[0]), outcome.seconds
        steps_lost: list[int] = []
        while row.total < num_kills:
            with new_sandbox() as sandbox:
                while row.total < num_kills and not _is_finished(sandbox):
                    problems = _run_and_kill(sandbox, rng.uniform(0.1, seconds / 3), steps_lost)
                    row.count(f"kill {row.total + 1}", problems)
                _finish(sandbox)
                digest = final_sha256(sandbox.run_dirs[0])
                row.count("final sha256", [] if digest == expected else ["it differs"])
                row.count("rows", find_differences(sandbox.run_dirs[0], reference.run_dirs[0]))
    steps_lost.sort()
    row.measured.update(
        kills=num_kills, steps_lost_median=steps_lost[len(steps_lost) // 2], steps_lost_max=steps_lost[-1],
        steps_in_all=SOAK_STEPS, seconds_in_all=round(seconds, 1),
        seconds_lost_max=round(steps_lost[-1] * seconds / SOAK_STEPS, 2),
    )  # fmt: skip
    return row


def _is_finished(sandbox: Sandbox) -> bool:
    return bool(sandbox.run_dirs) and is_complete(sandbox.run_dirs[0])


def _next_arguments(sandbox: Sandbox) -> list[object]:
    started = [path for path in sandbox.run_dirs if (path / "config.yaml").exists()]
    for path in set(sandbox.run_dirs) - set(started):
        shutil.rmtree(path)  # killed before it started
    return ["train", "--resume", started[0]] if started else list(SOAK_ARGS)


def _run_and_kill(sandbox: Sandbox, seconds: float, steps_lost: list[int]) -> list[str]:
    """Run for some seconds, kill, and note how many steps after the last checkpoint are lost."""
    from scsuite.core.runs.checkpoints import latest_checkpoint

    process = start(sandbox, _next_arguments(sandbox))
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    outcome = process.wait()
    if outcome.code not in (0, -signal.SIGKILL):
        return [f"exit {outcome.code}: {outcome.err[:300]}"]
    run_dir = next((path for path in sandbox.run_dirs if (path / "config.yaml").exists()), None)
    if run_dir is None:
        return []
    checkpoint, problems = latest_checkpoint(run_dir)
    num_steps = len(read_rows(run_dir / "steps.csv")) if (run_dir / "steps.csv").exists() else 0
    steps_lost.append(num_steps - (checkpoint.metadata["state"]["step"] if checkpoint else 0))
    return problems


def _finish(sandbox: Sandbox) -> None:
    outcome = run(sandbox, *_next_arguments(sandbox), timeout=600)
    assert outcome.code == 0, outcome.err


def flipped_bits(quick: bool, reference: Path) -> ScoreRow:
    """One flipped bit anywhere in a checkpoint file is detected."""
    from scsuite.core.errors import InputError
    from scsuite.core.model.checkpoint import read_checkpoint

    row = ScoreRow("flipped bits over a complete checkpoint file", "all detected")
    good = sorted((reference / "checkpoints").iterdir())[-1].read_bytes()
    rng = random.Random(0)
    with new_sandbox() as sandbox:
        path = sandbox.inputs / "flipped.safetensors"
        for _ in range(200 if quick else 1000):
            bit = rng.randrange(8 * len(good))
            data = bytearray(good)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            try:
                read_checkpoint(path)
                row.count(f"bit {bit}", "it loads")
            except InputError:
                row.count(f"bit {bit}", "")
    row.measured["file_bytes"] = len(good)
    return row


def sigterm_to_exit(quick: bool) -> ScoreRow:
    """SIGTERM at random times of a training that starts with its range test: time until the process is gone."""
    row = ScoreRow("SIGTERM to exit, at random times", "143, resumable or not started; under 10 s")
    rng, seconds = random.Random(1), []
    for number in range(4 if quick else 20):
        with new_sandbox() as sandbox:
            process = start(sandbox, [*FAULT_ARGS, "--epochs", "1000"])  # more than any machine does in four seconds
            time.sleep(rng.uniform(0.02, 4.0))
            start_time = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
            outcome = process.wait()
            seconds.append(time.monotonic() - start_time)
            problems = check_outcome(outcome, 143)
            problems += ["a process is still running"] if process.has_orphans() else []
            if sandbox.run_dirs and not (sandbox.run_dirs[0] / "config.yaml").exists():
                problems.append("an incomplete run directory")
            row.count(f"{number}", problems + (["over 10 s"] if seconds[-1] > 10 else []))
    seconds.sort()
    row.measured.update(p50_s=round(seconds[len(seconds) // 2], 2), max_s=round(seconds[-1], 2))
    return row


_SAVE_PROGRAM = """
import os, secrets, sys
from pathlib import Path
from scsuite.core.model.checkpoint import read_checkpoint
from scsuite.core.errors import OutputError
from scsuite.core.runs.checkpoints import list_checkpoints
from scsuite.core.runs.rundir import RunDir
os.getpid, secrets.token_hex = lambda: 1, lambda n: 2 * n * "0"  # strace has to know the temporary file's name
with RunDir.open(Path(sys.argv[1])) as run:
    checkpoint = read_checkpoint(list_checkpoints(run.path)[0])
    metadata = {name: value for name, value in checkpoint.metadata.items() if name not in ("sha256", "format")}
    try:
        run.save_checkpoint(22, checkpoint.tensors, metadata)
    except OutputError:
        sys.exit(4)
"""


def strace_sweep(quick: bool, reference: Path) -> list[ScoreRow]:
    """Both sweeps of one save by system calls, with strace; not in the quick scorecard."""
    if quick:
        return []
    rows = []
    for faults, target in (
        (("signal=SIGKILL",), "the previous or the new checkpoint loads"),
        (("error=ENOSPC", "error=EIO"), "exit 4 or harmless, the previous checkpoint loads, no partial file"),
    ):
        row = ScoreRow(f"strace: {' and '.join(faults)} at each call of a save", target)
        if shutil.which("strace") is None:
            row.skip("all calls", "strace is not installed")
        else:
            for calls in ("write", "fsync", "rename,renameat,renameat2", "unlink,unlinkat"):
                for fault in faults:
                    number = 1
                    while _strace_save(calls, f"inject={calls}:{fault}:when={number}", reference, row):
                        number += 1
        rows.append(row)
    return rows


def _strace_save(calls: str, injection: str, reference: Path, row: ScoreRow) -> bool:
    """One save with one failing call; False when the save has fewer calls."""
    from scsuite.core.runs.checkpoints import latest_checkpoint

    with new_sandbox() as sandbox:
        copy, trace = sandbox.path / "run", sandbox.path / "trace"
        shutil.copytree(reference, copy)
        checkpoints = copy / "checkpoints"
        watched = [copy, checkpoints, copy / "steps.csv", copy / "metrics.csv", *checkpoints.iterdir()]
        watched += [checkpoints / "step-000022.safetensors", checkpoints / f".scsuite-1-{16 * '0'}.part"]
        watch = [word for path in watched for word in ("-P", str(path))]
        command = ["strace", "-f", "-o", str(trace), *watch, "-e", f"trace={calls}", "-e", injection]
        command += [sys.executable, "-c", _SAVE_PROGRAM, str(copy)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        log = trace.read_text()
        killed = "killed by SIGKILL" in log
        if not killed and "INJECTED" not in log:
            return False
        newest, problems = latest_checkpoint(copy)
        if newest is None:
            problems.append("no checkpoint loads")
        if not killed:
            if completed.returncode not in (0, 4):
                problems.append(f"exit {completed.returncode}: {completed.stderr[-300:]}")
            problems += find_partial_files(copy)
        row.count(injection, problems)
        return True


def rows(quick: bool) -> list[ScoreRow]:
    """All sweeps over one short run."""
    with new_sandbox() as reference_sandbox:
        reference = make_reference_run(reference_sandbox)
        return [
            crash_sweep(quick, reference),
            *error_sweep(quick, reference),
            power_losses(quick, reference),
            *strace_sweep(quick, reference),
            resume_identity(quick, reference),
            repeat_identity(quick, reference),
            flipped_bits(quick, reference),
        ]


def soak_rows(quick: bool) -> list[ScoreRow]:
    """Faults at random times."""
    return [kill_soak(quick), sigterm_to_exit(quick)]
