"""G: faults while a training runs: signals, full and vanished disks, two runs at once, memory, broken numbers, workers.

Each check gets an empty box and the finished run that nothing happened to; it returns what is wrong, or nothing.
"""

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import luck
from tests.faults.box import TINY, Box, StepOutput, new_box, run, start
from tests.faults.case import LINE, Row
from tests.faults.same import differences, rows_of

EPOCHS, STEPS_PER_EPOCH = 3, 7
RUN = (*TINY, "--epochs", str(EPOCHS), "--lr-max", "0.1", "--dropout", "0.1", "--ema", "1")
AUTO = (*TINY, "--epochs", str(EPOCHS))  # its range test comes first
IN_WORKERS = (*RUN, "--augment-engine", "albumentations", "--workers", "1")
Check = Callable[[Box, Path], list[str]]


def expect(outcome: StepOutput, code: int, *words: str) -> list[str]:
    """What is wrong with an exit: its code, its one line where it is an error's, words that are missing."""
    said = outcome.out + outcome.err
    problems = [f"exit {outcome.code}, not {code}"] if outcome.code != code else []
    if code in range(2, 7) and not LINE.fullmatch(outcome.err):
        problems.append("stderr is not one error line")
    if "Traceback" in said:
        problems.append("a traceback")
    problems += [f"does not say {word!r}" for word in words if word not in said]
    return [*problems, f"it said: {said[-600:]!r}"] if problems else []


def no_leftovers(box: Box) -> list[str]:
    """No file that is only half written."""
    return [f"left over: {path}" for path in box.runs.rglob("*.part")]


def goes_on(box: Box, reference: Path, *words: str) -> list[str]:
    """Resume the box's only run, to the reference's end."""
    if len(box.run_dirs) != 1:
        return [f"{len(box.run_dirs)} run directories"]
    outcome = run(box, "train", "--resume", box.run_dirs[0])
    torn = ["a checkpoint under its own name was not whole"] if "passed over" in outcome.out else []
    return expect(outcome, 0, *words) + torn + differences(box.run_dirs[0], reference)


def in_workers(check: Check) -> Check:
    """The check of a run that augments in worker processes, against such a run that nothing happens to."""

    def checked(box: Box, _reference: Path) -> list[str]:
        with new_box() as other:
            return expect(run(other, *IN_WORKERS), 0) or check(box, other.run_dirs[0])

    return checked


# --- signals: 57 to 60 ---


def stopped(signum: int, before: Callable[[], None], arguments: tuple[str, ...] = RUN) -> Check:
    """A run that gets a signal leaves with its code, says how to go on, and does so to the same end."""

    def check(box: Box, reference: Path) -> list[str]:
        outcome = run(box, *arguments, before=before)
        problems = expect(outcome, 128 + signum, "scsuite train --resume") + no_leftovers(box)
        return problems or goes_on(box, reference)

    return check


def at_step(step: int, signum: int) -> Check:
    """The signal comes while a step's row is written."""
    return stopped(signum, lambda: luck.after_step(step, luck.raising(signum)))


def in_function(module: str, name: str, signum: int, call: int = 1) -> Check:
    """The signal comes as a function is called."""

    def before() -> None:
        import importlib

        luck.around(importlib.import_module(module), name, luck.raising(signum), call)

    return stopped(signum, before)


def interrupted_twice(box: Box, reference: Path) -> list[str]:
    """58: the second interrupt ends the run at once; what was committed before is what is left."""
    outcome = run(box, *RUN, before=lambda: luck.after_step(10, luck.raising(signal.SIGINT, times=2)))
    problems = expect(outcome, 130)
    if "resume with" in outcome.out:
        problems.append("it took the time to save")
    return problems + goes_on(box, reference)


def interrupted_twice_in_a_commit(box: Box, reference: Path) -> list[str]:
    """58: the second one comes in the middle of the write that the first one asked for."""

    def before() -> None:
        luck.after_step(10, luck.raising(signal.SIGINT))
        luck.around(os, "replace", luck.raising(signal.SIGINT), call=6)

    outcome = run(box, *RUN, before=before)
    return expect(outcome, 130) + goes_on(box, reference)


def stopped_before_there_is_a_run(box: Box, _reference: Path) -> list[str]:
    """60: while the data is read there is no run directory, and none is left."""

    def before() -> None:
        import scsuite.core.dataset

        luck.around(scsuite.core.dataset, "load_dataset", luck.raising(signal.SIGTERM))

    return expect(run(box, *RUN, before=before), 143) + [f"left: {path}" for path in box.run_dirs]


def stopped_in_the_range_test(box: Box, _reference: Path) -> list[str]:
    """60: a run that has no rates yet can be gone on with too, and ends as one that was not stopped."""
    with new_box() as other:
        whole = run(other, *AUTO)
        before = lambda: luck.around(  # noqa: E731
            __import__("scsuite.core.lr_range.range_test", fromlist=["x"]), "train_step", luck.raising(signal.SIGHUP), call=30
        )
        outcome = run(box, *AUTO, before=before)
        problems = expect(whole, 0) + expect(outcome, 129, "scsuite train --resume")
        return problems or goes_on(box, other.run_dirs[0])


# --- the disk: 64, 65, 67 ---


def quota(box: Box, _reference: Path) -> list[str]:
    """64: no file may grow past what a checkpoint takes."""
    wide = [word if word != "0.05" else "0.25" for word in RUN]
    outcome = run(box, *wide, before=lambda: luck.limit_file_size(2**20))
    return expect(outcome, 4, "step-0000", "File too large") + no_leftovers(box)


def no_room(box: Box, reference: Path) -> list[str]:
    """64: the disk has less room than the checkpoints take: said before the first epoch."""

    def before() -> None:
        usage = shutil.disk_usage
        shutil.disk_usage = lambda path: usage(path)._replace(free=50_000)

    outcome = run(box, *RUN, before=before)
    problems = expect(outcome, 4, "no room for checkpoints", "0.1 MB")
    problems += ["it trained before it looked"] if (box.run_dirs[0] / "steps.csv").exists() else []
    return problems + goes_on(box, reference)


def small_disk(box: Box, _reference: Path) -> list[str]:
    """64: a real file system of 1 MB."""
    disk = box.path.parent / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=1m tmpfs {disk} 2>/dev/null"):
        return []  # not allowed to: the other cases of 64 remain
    try:
        wide = [word if word != "0.05" else "0.25" for word in RUN]
        outcome = run(box, *wide, "--runs-dir", disk / "runs")
        return expect(outcome, 4, "no room for checkpoints", "MB free")
    finally:
        os.system(f"umount {disk}")


def run_directory_removed(box: Box, _reference: Path) -> list[str]:
    """67: the run directory goes while the run is in it."""
    before = lambda: luck.after_step(9, lambda: shutil.rmtree(box.run_dirs[0]))  # noqa: E731
    return expect(run(box, *RUN, before=before), 4, "cannot write", "-train-shapes")


def checkpoints_replaced_by_a_file(box: Box, _reference: Path) -> list[str]:
    """67: the checkpoints' directory becomes something that cannot be written into, for root neither."""

    def act() -> None:
        shutil.rmtree(box.run_dirs[0] / "checkpoints")
        (box.run_dirs[0] / "checkpoints").write_text("")

    return expect(run(box, *RUN, before=lambda: luck.after_step(9, act)), 4, "cannot write", "checkpoints")


def newest_checkpoint_removed(box: Box, reference: Path) -> list[str]:
    """67: the run that goes on writes the next one, and ends as it should."""

    def act() -> None:
        shutil.rmtree(box.run_dirs[0] / "checkpoints")

    outcome = run(box, *RUN, before=lambda: luck.after_step(9, act))
    return expect(outcome, 0) + differences(box.run_dirs[0], reference)


def read_only_directory(box: Box, _reference: Path) -> list[str]:
    """64: a runs directory that this user may not write into."""
    for folder in (box.path.parent, box.path):
        folder.chmod(0o755)
    box.runs.mkdir()

    def before() -> None:
        from scsuite.core.dataset import load_dataset

        load_dataset("shapes")  # its cache may be unreadable for nobody
        if os.getuid() == 0:
            os.setuid(65534)
        else:
            box.runs.chmod(0o500)

    outcome = run(box, *RUN, "--cache-dir", box.path / "none", before=before)
    box.runs.chmod(0o755)
    return expect(outcome, 4, "cannot write", "Permission denied") + [f"left: {path}" for path in box.run_dirs]


# --- two at once: 68 ---


def two_at_once(box: Box, reference: Path) -> list[str]:
    """68: the second is told who is there; when the first is killed, workers and all, its lock goes with it."""
    first = start(box, IN_WORKERS, before=lambda: luck.after_step(9, lambda: time.sleep(30)))
    deadline = time.monotonic() + 30
    while not (box.run_dirs and _lines(box.run_dirs[0] / "steps.csv") > 10) and time.monotonic() < deadline:
        time.sleep(0.01)
    second = run(box, "train", "--resume", box.run_dirs[0])
    os.kill(first.pid, signal.SIGKILL)
    first.end()
    problems = expect(second, 6, f"in use by process {first.pid} on ")
    problems += goes_on(box, reference)
    return problems + (["its workers live on"] if first.has_orphans() else [])


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


# --- memory: 69 ---


def memory_short(box: Box, _reference: Path) -> list[str]:
    """69: a batch that does not fit."""
    words = ("train", "--data", "shapes", "--limit-test", "50", "--bs", "10000", "--epochs", "1", "--lr-max", "0.1",
             "--workers", "0", "--device", "cpu")  # fmt: skip
    outcome = run(box, *words, before=lambda: luck.limit_memory(2 * 2**30))
    return expect(outcome, 4, "out of memory", "--bs")


# --- numbers: 70, 71 ---


def broken_numbers(before: Callable[[], None], step: int) -> Check:
    """70: exit 5, and what was committed is finite, loads, and stands before the broken step."""

    def check(box: Box, _reference: Path) -> list[str]:
        from scsuite.core.runs.rundir import latest_checkpoint

        problems = expect(run(box, *RUN, before=before), 5, f"step {step}", "--lr-max")
        newest, bad = latest_checkpoint(box.run_dirs[0])
        problems += bad
        if newest is None or newest.facts["state"]["step"] != STEPS_PER_EPOCH:
            problems.append("the checkpoint of the first epoch is not there")
        elif not all(bool(t.isfinite().all()) for t in newest.tensors.values()):
            problems.append("what is not finite was saved")
        made = {path.name for path in box.run_dirs[0].iterdir()}
        return problems + [f"{name} was written" for name in ("model.safetensors", "result.json") if name in made]

    return check


def poisoned_resume(box: Box, reference: Path) -> list[str]:
    """70: after the cause is gone, the run goes on from before it to the end it would have had."""
    outcome = run(box, *RUN, before=lambda: luck.poison_batch(10, float("nan")))
    return expect(outcome, 5) + goes_on(box, reference)


def range_test_meets_nan(box: Box, _reference: Path) -> list[str]:
    """70: a range test stops at what is not finite, and reads what came before."""
    words = [word for word in TINY[1:] if word != "--epochs"]
    outcome = run(box, "lr-range", *words, "--steps", "60", "--lr-end", "1e30")
    return expect(outcome, 0)


def nothing_learned(box: Box, _reference: Path) -> list[str]:
    """71: accuracy at chance is said, and is no error."""
    return expect(run(box, *TINY, "--epochs", "1", "--lr-max", "1e-9"), 0, "learned nothing")


# --- workers, data, clocks: 72 to 74 ---


def worker_killed(box: Box, reference: Path) -> list[str]:
    """72: a loader's worker is killed; one line, nobody left behind, and the run can be gone on with."""

    def act() -> None:
        import multiprocessing

        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)

    process = start(box, IN_WORKERS, before=lambda: luck.after_step(3, act))
    outcome = process.end()
    problems = expect(outcome, 4, "worker") + (["a worker lives on"] if process.has_orphans() else [])
    return problems + goes_on(box, reference)


def data_changed(box: Box, _reference: Path) -> list[str]:
    """73: a folder whose pictures changed since is other data: refused, with both fingerprints."""
    from PIL import Image

    for part in ("train", "test"):
        for name, value in (("cat", 20), ("dog", 200)):
            (box.inputs / part / name).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (32, 32), (value, number, 0)).save(box.inputs / part / name / f"{number}.png")
    words = ("train", "--data", box.inputs, "--width", "0.05", "--bs", "4", "--epochs", "2", "--lr-max", "0.1",
             "--workers", "0", "--device", "cpu")  # fmt: skip
    outcome = run(box, *words, before=lambda: luck.after_step(5, luck.raising(signal.SIGTERM)))
    Image.new("RGB", (32, 32), (1, 2, 3)).save(box.inputs / "train" / "cat" / "0.png")
    return expect(outcome, 143) + expect(run(box, "train", "--resume", box.run_dirs[0]), 3, "the same data")


def clock_steps_back(box: Box, reference: Path) -> list[str]:
    """74: the newest checkpoint is the one of the most steps, whatever the times of the files say."""
    run(box, *RUN, before=lambda: luck.after_step(15, luck.raising(signal.SIGTERM)))
    states = sorted((box.run_dirs[0] / "checkpoints").iterdir())
    for age, path in enumerate(states):
        os.utime(path, (time.time() - 10_000 * age, time.time() - 10_000 * age))
    return goes_on(box, reference, "at step 16")


# --- resume: 54, 61 to 63 ---


def finished(box: Box, reference: Path) -> list[str]:
    """54: a run that is complete says so; the same object again, and no file of it changes."""
    copy = box.runs / reference.name
    shutil.copytree(reference, copy)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in copy.rglob("*") if path.is_file()}
    outcome = run(box, "train", "--resume", copy)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in copy.rglob("*") if path.is_file()}
    changed = [f"{path.name} was touched" for path in after if before.get(path) != after[path] and path.name != ".lock"]
    return expect(outcome, 0, "nothing to do") + changed


def killed_before_the_first_commit(box: Box, reference: Path) -> list[str]:
    """61: there is nothing to go on from but the settings, so it starts again, and says so."""
    run(box, *RUN, before=lambda: luck.after_step(4, luck.kill))
    return goes_on(box, reference, "starting again from step 0")


def killed_between_row_and_commit(box: Box, reference: Path) -> list[str]:
    """63: the epoch's row is there, its state is not: the row comes once."""

    def before() -> None:
        from scsuite.cli.train import Commits

        luck.around(Commits, "after_epoch", luck.kill, call=2)

    run(box, *RUN, before=before)
    torn = len(rows_of(box.run_dirs[0] / "metrics.csv"))
    return ([] if torn == 2 else [f"{torn} rows, not 2, when it was killed"]) + goes_on(box, reference)


def killed_after_the_row_of_a_full_epoch(box: Box, reference: Path) -> list[str]:
    """63: stopped before an epoch's evaluation, then killed between its row and its commit: the row comes once."""

    def before() -> None:
        from scsuite.cli.train import Commits

        luck.around(Commits, "after_epoch", luck.kill)

    run(box, *RUN, before=lambda: luck.after_step(STEPS_PER_EPOCH - 1, luck.raising(signal.SIGTERM)))
    run(box, "train", "--resume", box.run_dirs[0], before=before)
    return goes_on(box, reference, f"at step {STEPS_PER_EPOCH}")


def killed_between_best_and_last(box: Box, _reference: Path) -> list[str]:
    """63: best.safetensors is of an epoch whose state was not committed; all ends as it would have."""
    words = (*RUN, "--val-split", "20")

    def before() -> None:
        from scsuite.core.runs.rundir import RunDir

        luck.around(RunDir, "save_state", luck.kill, call=2)

    with new_box() as other:
        whole = run(other, *words)
        run(box, *words, before=before)
        problems = expect(whole, 0) + goes_on(box, other.run_dirs[0])
        best = [path / "best.safetensors" for path in (box.run_dirs[0], other.run_dirs[0])]
        return problems + ([] if best[0].read_bytes() == best[1].read_bytes() else ["best.safetensors differs"])


def rows_damaged(box: Box, reference: Path) -> list[str]:
    """63: rows past the state, half a row, and one twice are cut back."""
    run(box, *RUN, before=lambda: luck.after_step(9, luck.kill))
    with (box.run_dirs[0] / "steps.csv").open("a") as file:
        file.write("9,1,1,1\n10,0.1,0.9,2.0\n11,0.0")
    with (box.run_dirs[0] / "metrics.csv").open("a") as file:
        file.write("2,14,0.1\n")
    return goes_on(box, reference)


CHECKS: dict[str, Check] = {
    "G57 SIGINT after the first step": at_step(0, signal.SIGINT),
    "G57 SIGINT inside an epoch": at_step(9, signal.SIGINT),
    "G57 SIGTERM inside an epoch": at_step(10, signal.SIGTERM),
    "G57 SIGHUP after an epoch's last step": at_step(13, signal.SIGHUP),
    "G57 SIGTERM after the last step": at_step(20, signal.SIGTERM),
    "G58 SIGINT twice": interrupted_twice,
    "G58 SIGINT again in the commit": interrupted_twice_in_a_commit,
    "G59 SIGTERM in an evaluation": in_function("scsuite.core.loop", "_tta_views", signal.SIGTERM, call=2),
    "G59 SIGTERM in a commit": in_function("scsuite.core.model.checkpoint", "commit", signal.SIGTERM),
    "G60 SIGTERM while data is read": stopped_before_there_is_a_run,
    "G60 SIGHUP in the range test": stopped_in_the_range_test,
    "G61 SIGKILL before the first commit": killed_before_the_first_commit,
    "G63 SIGKILL between row and commit": killed_between_row_and_commit,
    "G63 SIGKILL after the row of a full epoch": killed_after_the_row_of_a_full_epoch,
    "G63 SIGKILL between best and last": killed_between_best_and_last,
    "G63 rows torn, twice and too many": rows_damaged,
    "G64 a quota": quota,
    "G64 no room": no_room,
    "G64 a disk of 1 MB": small_disk,
    "G64 a directory of another user": read_only_directory,
    "G67 the run directory removed": run_directory_removed,
    "G67 checkpoints/ made a file": checkpoints_replaced_by_a_file,
    "G67 checkpoints/ removed": newest_checkpoint_removed,
    "G68 two at once, and a dead one's lock": in_workers(two_at_once),
    "G69 memory short": memory_short,
    "G70 NaN in a batch": broken_numbers(lambda: luck.poison_batch(10, float("nan")), 10),
    "G70 infinity in a batch": broken_numbers(lambda: luck.poison_batch(11, float("inf")), 11),
    "G70 NaN in a gradient alone": broken_numbers(lambda: luck.poison_gradient(12), 12),
    "G70 resumed after NaN": poisoned_resume,
    "G70 lr-range meets NaN": range_test_meets_nan,
    "G71 nothing learned": nothing_learned,
    "G72 a worker killed": in_workers(worker_killed),
    "G73 data changed": data_changed,
    "G74 the clock steps back": clock_steps_back,
    "F54 a finished run": finished,
}


def reference_run(box: Box, *more: object) -> Path:
    """The run that nothing happens to."""
    outcome = run(box, *RUN, *more)
    assert outcome.code == 0, outcome.err
    return box.run_dirs[0]


LEFT_OUT = frozenset({  # of the quick scorecard: their like is in it
    "G57 SIGTERM inside an epoch", "G57 SIGTERM after the last step", "G58 SIGINT twice",
    "G60 SIGHUP in the range test", "G63 SIGKILL between row and commit", "G63 SIGKILL between best and last",
    "G67 checkpoints/ removed", "G69 memory short", "G70 infinity in a batch", "G70 resumed after NaN",
    "G72 a worker killed", "G74 the clock steps back",
})  # fmt: skip


def rows(quick: bool) -> list[Row]:
    """One row: all checks, some left out if `quick`."""
    row = Row("G faults while running", "all: exit code, message, disk; resumed to the same end, tolerance 0")
    with new_box() as whole:
        reference = reference_run(whole)
        for name, check in CHECKS.items():
            if quick and name in LEFT_OUT:
                continue
            with new_box() as box:
                row.count(name, check(box, reference))
    row.facts["children_peak_mb"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    return [row]
