"""G: faults during a training: signals, full and vanished disks, two runs at once, memory, NaN, workers.

In: an empty sandbox, and the finished run that nothing happened to. Out: what is wrong, or nothing.
"""

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import injection as inject
from tests.faults.case import ScoreRow, SkipCaseError, check_outcome
from tests.faults.compare_runs import find_differences, find_partial_files, is_complete, read_rows
from tests.faults.sandbox import Sandbox, new_sandbox, run, start
from tests.tiny_args import (
    FAULT_ARGS,
    FAULT_DATA_ARGS,
    MODEL_ARGS,
    RESUME_ARGS,
    RESUME_AUTO_LR_ARGS,
    RESUME_WORKER_ARGS,
    STEPS_PER_EPOCH,
)

Check = Callable[[Sandbox, Path], list[str]]
WIDE_ARGS = tuple(word if word != "0.05" else "0.25" for word in RESUME_ARGS)  # checkpoints larger than 1 MB


def resume(sandbox: Sandbox, reference: Path, *words: str) -> list[str]:
    """Resume the sandbox's only run and compare its end with the reference."""
    if len(sandbox.run_dirs) != 1:
        return [f"{len(sandbox.run_dirs)} run directories"]
    outcome = run(sandbox, "train", "--resume", sandbox.run_dirs[0])
    torn = ["a checkpoint under its final name was incomplete"] if "skipped a damaged" in outcome.out else []
    return check_outcome(outcome, 0, *words) + torn + find_differences(sandbox.run_dirs[0], reference)


def with_workers(check: Check) -> Check:
    """The same check of a run that augments in worker processes, against such a run that nothing happens to."""

    def check_with_workers(sandbox: Sandbox, _reference: Path) -> list[str]:
        with new_sandbox() as other:
            return check_outcome(run(other, *RESUME_WORKER_ARGS), 0) or check(sandbox, other.run_dirs[0])

    return check_with_workers


# --- signals: 57 to 60 ---


def stop_by_signal(signum: int, before: inject.Action) -> Check:
    """A run that gets a signal exits with its code, says how to resume, and then ends like one without a stop."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        outcome = run(sandbox, *RESUME_ARGS, before=before)
        problems = check_outcome(outcome, 128 + signum, "scsuite train --resume") + find_partial_files(sandbox.runs)
        return problems or resume(sandbox, reference)

    return check


def stop_at_step(step: int, signum: int) -> Check:
    """The signal arrives while the row of a step is written."""
    return stop_by_signal(signum, lambda: inject.after_step(step, inject.send_signal(signum)))


def stop_in_function(module: str, name: str, signum: int, call: int = 1) -> Check:
    """The signal arrives as a function is called."""

    def before() -> None:
        import importlib

        inject.before_call(importlib.import_module(module), name, inject.send_signal(signum), call)

    return stop_by_signal(signum, before)


def two_interrupts(sandbox: Sandbox, reference: Path) -> list[str]:
    """58: the second interrupt ends the run at once, without another checkpoint."""
    before = lambda: inject.after_step(10, inject.send_signal(signal.SIGINT, times=2))  # noqa: E731
    outcome = run(sandbox, *RESUME_ARGS, before=before)
    problems = check_outcome(outcome, 130)
    if "resume with" in outcome.out:
        problems.append("it took the time to save")
    return problems + resume(sandbox, reference)


def second_interrupt_while_saving(sandbox: Sandbox, reference: Path) -> list[str]:
    """58: the second interrupt arrives while the checkpoint of the first one is written."""

    def before() -> None:
        inject.after_step(10, inject.send_signal(signal.SIGINT))
        inject.before_call(os, "replace", inject.send_signal(signal.SIGINT), call=6)

    outcome = run(sandbox, *RESUME_ARGS, before=before)
    return check_outcome(outcome, 130) + resume(sandbox, reference)


def stop_while_loading_data(sandbox: Sandbox, _reference: Path) -> list[str]:
    """60: while data is read there is no run directory, and none is left."""

    def before() -> None:
        import scsuite.core.dataset

        inject.before_call(scsuite.core.dataset, "load_dataset", inject.send_signal(signal.SIGTERM))

    outcome = run(sandbox, *RESUME_ARGS, before=before)
    return check_outcome(outcome, 143) + [f"left: {path}" for path in sandbox.run_dirs]


def stop_in_range_test(sandbox: Sandbox, _reference: Path) -> list[str]:
    """60: a run that has no LR bounds yet can be resumed too, and ends like one without a stop."""

    def before() -> None:
        from scsuite.core.lr_range import run_sweep

        inject.before_call(run_sweep, "launch_step", inject.send_signal(signal.SIGHUP), call=30)

    with new_sandbox() as other:
        reference_outcome = run(other, *RESUME_AUTO_LR_ARGS)
        outcome = run(sandbox, *RESUME_AUTO_LR_ARGS, before=before)
        problems = check_outcome(reference_outcome, 0) + check_outcome(outcome, 129, "scsuite train --resume")
        return problems or resume(sandbox, other.run_dirs[0])


# --- the disk: 64, 65, 67 ---


def quota(sandbox: Sandbox, _reference: Path) -> list[str]:
    """64: no file may grow to the size of a checkpoint."""
    outcome = run(sandbox, *WIDE_ARGS, before=lambda: inject.limit_file_size(2**20))
    return check_outcome(outcome, 4, "step-0000", "File too large") + find_partial_files(sandbox.runs)


def small_free_space(sandbox: Sandbox, reference: Path) -> list[str]:
    """64: the disk has less space than the checkpoints need: reported before the first epoch."""

    def before() -> None:
        usage = shutil.disk_usage
        shutil.disk_usage = lambda path: usage(path)._replace(free=50_000)

    outcome = run(sandbox, *RESUME_ARGS, before=before)
    problems = check_outcome(outcome, 4, "no space for checkpoints", "0.1 MB")
    problems += ["it trained before it checked"] if (sandbox.run_dirs[0] / "steps.csv").exists() else []
    return problems + resume(sandbox, reference)


def small_disk(sandbox: Sandbox, _reference: Path) -> list[str]:
    """64: a real file system of 1 MB."""
    disk = sandbox.path.parent / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=1m tmpfs {disk} 2>/dev/null"):
        raise SkipCaseError("this user may not mount a file system")
    try:
        outcome = run(sandbox, *WIDE_ARGS, "--runs-dir", disk / "runs")
        return check_outcome(outcome, 4, "no space for checkpoints", "MB free")
    finally:
        os.system(f"umount {disk}")


def removed_run_directory(sandbox: Sandbox, _reference: Path) -> list[str]:
    """67: the run directory is removed during the run."""
    before = lambda: inject.after_step(9, lambda: shutil.rmtree(sandbox.run_dirs[0]))  # noqa: E731
    return check_outcome(run(sandbox, *RESUME_ARGS, before=before), 4, "cannot write", "-train-shapes")


def checkpoints_replaced_by_file(sandbox: Sandbox, _reference: Path) -> list[str]:
    """67: the checkpoints directory becomes something that even root cannot write into."""

    def action() -> None:
        shutil.rmtree(sandbox.run_dirs[0] / "checkpoints")
        (sandbox.run_dirs[0] / "checkpoints").write_text("")

    outcome = run(sandbox, *RESUME_ARGS, before=lambda: inject.after_step(9, action))
    return check_outcome(outcome, 4, "cannot write", "checkpoints")


def removed_checkpoints(sandbox: Sandbox, reference: Path) -> list[str]:
    """67: the run continues, writes the next checkpoint, and ends as it should."""

    def action() -> None:
        shutil.rmtree(sandbox.run_dirs[0] / "checkpoints")

    outcome = run(sandbox, *RESUME_ARGS, before=lambda: inject.after_step(9, action))
    return check_outcome(outcome, 0) + find_differences(sandbox.run_dirs[0], reference)


def read_only_directory(sandbox: Sandbox, _reference: Path) -> list[str]:
    """64: a runs directory that this user may not write into."""
    for folder in (sandbox.path.parent, sandbox.path):
        folder.chmod(0o755)
    sandbox.runs.mkdir()

    def before() -> None:
        from scsuite.core.dataset import load_dataset

        load_dataset("shapes")  # its cache may be unreadable for nobody
        if os.getuid() != 0:
            sandbox.runs.chmod(0o500)
        inject.become_nobody()

    outcome = run(sandbox, *RESUME_ARGS, "--cache-dir", sandbox.path / "none", before=before)
    sandbox.runs.chmod(0o755)
    problems = check_outcome(outcome, 4, "cannot write", "Permission denied")
    return problems + [f"left: {path}" for path in sandbox.run_dirs]


# --- two at once: 68 ---


def two_runs_at_once(sandbox: Sandbox, reference: Path) -> list[str]:
    """68: the second run is refused with the owner's id; the lock of a killed owner goes with it."""
    first = start(sandbox, RESUME_WORKER_ARGS, before=lambda: inject.after_step(9, lambda: time.sleep(30)))
    deadline = time.monotonic() + 30
    while not (sandbox.run_dirs and _count_lines(sandbox.run_dirs[0] / "steps.csv") > 10):
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    second = run(sandbox, "train", "--resume", sandbox.run_dirs[0])
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    problems = check_outcome(second, 6, f"in use by process {first.pid} on ")
    problems += resume(sandbox, reference)
    return problems + (["its workers are still running"] if first.has_orphans() else [])


def _count_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


# --- memory: 69 ---


def out_of_memory(sandbox: Sandbox, _reference: Path) -> list[str]:
    """69: a batch that does not fit."""
    arguments = ("train", "--data", "shapes", "--limit-test", "50", "--bs", "10000", "--epochs", "1", "--lr-max", "0.1",
                 "--workers", "0", "--device", "cpu")  # fmt: skip
    outcome = run(sandbox, *arguments, before=lambda: inject.limit_memory(2 * 2**30))
    return check_outcome(outcome, 4, "out of memory", "--bs")


# --- numbers: 70, 71 ---


def non_finite_step(before: inject.Action, step: int) -> Check:
    """70: exit 5; the last checkpoint is finite, loads, and is older than the bad step."""

    def check(sandbox: Sandbox, _reference: Path) -> list[str]:
        from scsuite.core.runs.checkpoints import latest_checkpoint

        problems = check_outcome(run(sandbox, *RESUME_ARGS, before=before), 5, f"step {step}", "--lr-max")
        newest, damaged = latest_checkpoint(sandbox.run_dirs[0])
        problems += damaged
        if newest is None or newest.metadata["state"]["step"] != STEPS_PER_EPOCH:
            problems.append("the checkpoint of the first epoch is missing")
        elif not all(bool(t.isfinite().all()) for t in newest.tensors.values()):
            problems.append("non-finite values were saved")
        if is_complete(sandbox.run_dirs[0]) or (sandbox.run_dirs[0] / "model.safetensors").exists():
            problems.append("the run looks complete")
        return problems

    return check


def resume_after_nan(sandbox: Sandbox, reference: Path) -> list[str]:
    """70: once the cause is gone, the run resumes from before it and ends as it would have."""
    outcome = run(sandbox, *RESUME_ARGS, before=lambda: inject.poison_batch(10, float("nan")))
    return check_outcome(outcome, 5) + resume(sandbox, reference)


def range_test_meets_nan(sandbox: Sandbox, _reference: Path) -> list[str]:
    """70: a range test stops at the first non-finite loss and uses what came before."""
    return check_outcome(run(sandbox, "lr-range", *FAULT_DATA_ARGS, "--steps", "60", "--lr-end", "1e30"), 0)


def nothing_learned(sandbox: Sandbox, _reference: Path) -> list[str]:
    """71: accuracy at chance level is reported, and is no error."""
    return check_outcome(run(sandbox, *FAULT_ARGS, "--epochs", "1", "--lr-max", "1e-9"), 0, "never exceeded chance")


# --- workers, data, clocks: 72 to 74 ---


def killed_worker(sandbox: Sandbox, reference: Path) -> list[str]:
    """72: a DataLoader worker is killed: one line, no process left behind, and the run can be resumed."""

    def action() -> None:
        import multiprocessing

        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)

    process = start(sandbox, RESUME_WORKER_ARGS, before=lambda: inject.after_step(3, action))
    problems = check_outcome(process.wait(), 4, "worker")
    problems += ["a worker is still running"] if process.has_orphans() else []
    return problems + resume(sandbox, reference)


def changed_data(sandbox: Sandbox, _reference: Path) -> list[str]:
    """73: a folder whose images changed is other data: refused, with both fingerprints."""
    from PIL import Image

    for split in ("train", "test"):
        for name, value in (("cat", 20), ("dog", 200)):
            (sandbox.inputs / split / name).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (32, 32), (value, number, 0)).save(sandbox.inputs / split / name / f"{number}.png")
    arguments = ("train", "--data", sandbox.inputs, *MODEL_ARGS, "--bs", "4", "--epochs", "2", "--lr-max", "0.1")
    outcome = run(sandbox, *arguments, before=lambda: inject.after_step(5, inject.send_signal(signal.SIGTERM)))
    Image.new("RGB", (32, 32), (1, 2, 3)).save(sandbox.inputs / "train" / "cat" / "0.png")
    resumed = run(sandbox, "train", "--resume", sandbox.run_dirs[0])
    return check_outcome(outcome, 143) + check_outcome(resumed, 3, "the same data")


def clock_steps_back(sandbox: Sandbox, reference: Path) -> list[str]:
    """74: the newest checkpoint is the one with the most steps, whatever the times of the files are."""
    run(sandbox, *RESUME_ARGS, before=lambda: inject.after_step(15, inject.send_signal(signal.SIGTERM)))
    checkpoints = sorted((sandbox.run_dirs[0] / "checkpoints").iterdir())
    for age, path in enumerate(checkpoints):
        os.utime(path, (time.time() - 10_000 * age, time.time() - 10_000 * age))
    return resume(sandbox, reference, "at step 16")


# --- resume: 54, 61 to 63 ---


def finished_run(sandbox: Sandbox, reference: Path) -> list[str]:
    """54: resuming a complete run says so and changes no file."""
    copy = sandbox.runs / reference.name
    shutil.copytree(reference, copy)
    before = _times_and_contents(copy)
    outcome = run(sandbox, "train", "--resume", copy)
    after = _times_and_contents(copy)
    changed = [f"{path.name} was written" for path in after if before.get(path) != after[path] and path.name != ".lock"]
    return check_outcome(outcome, 0, "already complete") + changed


def _times_and_contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def killed_before_first_checkpoint(sandbox: Sandbox, reference: Path) -> list[str]:
    """61: there is only the configuration, so the run starts again and says so."""
    run(sandbox, *RESUME_ARGS, before=lambda: inject.after_step(4, inject.kill))
    return resume(sandbox, reference, "starting again from step 0")


def killed_before_checkpoint_of_epoch(sandbox: Sandbox, reference: Path) -> list[str]:
    """63: the row of an epoch exists, its checkpoint does not: after the resume the row exists once."""

    def before() -> None:
        from scsuite.core.training.checkpoint_schedule import CheckpointSchedule

        inject.before_call(CheckpointSchedule, "after_epoch", inject.kill, call=2)

    run(sandbox, *RESUME_ARGS, before=before)
    num_rows = len(read_rows(sandbox.run_dirs[0] / "metrics.csv"))
    return ([] if num_rows == 2 else [f"{num_rows} rows, not 2, when it was killed"]) + resume(sandbox, reference)


def killed_after_evaluation_of_full_epoch(sandbox: Sandbox, reference: Path) -> list[str]:
    """63: stopped before an epoch's evaluation, then killed between its row and its checkpoint."""

    def before() -> None:
        from scsuite.core.training.checkpoint_schedule import CheckpointSchedule

        inject.before_call(CheckpointSchedule, "after_epoch", inject.kill)

    stop = inject.send_signal(signal.SIGTERM)
    run(sandbox, *RESUME_ARGS, before=lambda: inject.after_step(STEPS_PER_EPOCH - 1, stop))
    run(sandbox, "train", "--resume", sandbox.run_dirs[0], before=before)
    return resume(sandbox, reference, f"at step {STEPS_PER_EPOCH}")


def killed_between_best_and_checkpoint(sandbox: Sandbox, _reference: Path) -> list[str]:
    """63: best.safetensors belongs to an epoch without a checkpoint; the resumed run ends as it would have."""
    arguments = (*RESUME_ARGS, "--val-split", "20")

    def before() -> None:
        from scsuite.core.runs.rundir import RunDir

        inject.before_call(RunDir, "save_checkpoint", inject.kill, call=2)

    with new_sandbox() as other:
        reference_outcome = run(other, *arguments)
        run(sandbox, *arguments, before=before)
        problems = check_outcome(reference_outcome, 0) + resume(sandbox, other.run_dirs[0])
        best, reference_best = (path / "best.safetensors" for path in (sandbox.run_dirs[0], other.run_dirs[0]))
        return problems + ([] if best.read_bytes() == reference_best.read_bytes() else ["best.safetensors differs"])


def damaged_rows(sandbox: Sandbox, reference: Path) -> list[str]:
    """63: rows past the checkpoint, an incomplete row and a duplicate are removed."""
    run(sandbox, *RESUME_ARGS, before=lambda: inject.after_step(9, inject.kill))
    with (sandbox.run_dirs[0] / "steps.csv").open("a") as file:
        file.write("9,1,1,1\n10,0.1,0.9,2.0\n11,0.0")
    with (sandbox.run_dirs[0] / "metrics.csv").open("a") as file:
        file.write("2,14,0.1\n")
    return resume(sandbox, reference)


EVALUATE, CHECKPOINT = "scsuite.core.evaluation.evaluate", "scsuite.core.model.checkpoint"
CHECKS: dict[str, Check] = {
    "G57 SIGINT after the first step": stop_at_step(0, signal.SIGINT),
    "G57 SIGINT inside an epoch": stop_at_step(9, signal.SIGINT),
    "G57 SIGTERM inside an epoch": stop_at_step(10, signal.SIGTERM),
    "G57 SIGHUP after an epoch's last step": stop_at_step(13, signal.SIGHUP),
    "G57 SIGTERM after the last step": stop_at_step(20, signal.SIGTERM),
    "G58 SIGINT twice": two_interrupts,
    "G58 SIGINT again while saving": second_interrupt_while_saving,
    "G59 SIGTERM in an evaluation": stop_in_function(EVALUATE, "_tta_views", signal.SIGTERM, call=2),
    "G59 SIGTERM while saving": stop_in_function(CHECKPOINT, "write_atomic", signal.SIGTERM),
    "G60 SIGTERM while data is loaded": stop_while_loading_data,
    "G60 SIGHUP in the range test": stop_in_range_test,
    "G61 SIGKILL before the first checkpoint": killed_before_first_checkpoint,
    "G63 SIGKILL between an epoch's row and its checkpoint": killed_before_checkpoint_of_epoch,
    "G63 SIGKILL after the row of a full epoch": killed_after_evaluation_of_full_epoch,
    "G63 SIGKILL between best and checkpoint": killed_between_best_and_checkpoint,
    "G63 rows incomplete, twice and too many": damaged_rows,
    "G64 a quota": quota,
    "G64 little free space": small_free_space,
    "G64 a disk of 1 MB": small_disk,
    "G64 a directory of another user": read_only_directory,
    "G67 the run directory removed": removed_run_directory,
    "G67 checkpoints/ replaced by a file": checkpoints_replaced_by_file,
    "G67 checkpoints/ removed": removed_checkpoints,
    "G68 two at once, and the lock of a dead run": with_workers(two_runs_at_once),
    "G69 out of memory": out_of_memory,
    "G70 NaN in a batch": non_finite_step(lambda: inject.poison_batch(10, float("nan")), 10),
    "G70 infinity in a batch": non_finite_step(lambda: inject.poison_batch(11, float("inf")), 11),
    "G70 NaN in a gradient alone": non_finite_step(lambda: inject.poison_gradient(12), 12),
    "G70 resumed after NaN": resume_after_nan,
    "G70 lr-range meets NaN": range_test_meets_nan,
    "G71 nothing learned": nothing_learned,
    "G72 a killed worker": with_workers(killed_worker),
    "G73 changed data": changed_data,
    "G74 the clock steps back": clock_steps_back,
    "F54 a finished run": finished_run,
}
FULL_ONLY = frozenset({  # not in the quick scorecard, which has similar ones
    "G57 SIGTERM inside an epoch", "G57 SIGTERM after the last step", "G58 SIGINT twice",
    "G60 SIGHUP in the range test", "G63 SIGKILL between an epoch's row and its checkpoint",
    "G63 SIGKILL between best and checkpoint", "G67 checkpoints/ removed", "G69 out of memory",
    "G70 infinity in a batch", "G70 resumed after NaN", "G72 a killed worker", "G74 the clock steps back",
})  # fmt: skip


def make_reference_run(sandbox: Sandbox) -> Path:
    """The run that nothing happens to."""
    outcome = run(sandbox, *RESUME_ARGS)
    assert outcome.code == 0, outcome.err
    return sandbox.run_dirs[0]


def rows(quick: bool) -> list[ScoreRow]:
    """One row: all checks, or some of them if `quick`."""
    row = ScoreRow("G faults while running", "all: exit code, message, disk; resumed to the same end, tolerance 0")
    with new_sandbox() as reference_sandbox:
        reference = make_reference_run(reference_sandbox)
        for name, check in CHECKS.items():
            if not (quick and name in FULL_ONLY):
                with new_sandbox() as sandbox:
                    row.run(name, lambda check=check, sandbox=sandbox: check(sandbox, reference))  # type: ignore[misc]
    row.measured["children_peak_mb"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    return [row]
