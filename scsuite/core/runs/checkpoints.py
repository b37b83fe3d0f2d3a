"""The checkpoints of a run directory: their names, which are kept, and the newest one that is intact.

In: the path of a run. Out: paths and checkpoints.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from scsuite.core.errors import InputError
from scsuite.core.files import remove_partial_files
from scsuite.core.runs.find_runs import seed_runs

if TYPE_CHECKING:  # imports torch, which zigzag does not need
    from scsuite.core.model.checkpoint import Checkpoint

_CHECKPOINT_NAME = re.compile(r"step-(\d{6}|[1-9]\d{6,17})\.safetensors", re.ASCII)  # any other file is a user's
NUM_CHECKPOINTS_KEPT = 2  # while one is written, the one before is complete


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, newest first: by the step in the name, not by time."""
    names = (_CHECKPOINT_NAME.fullmatch(path.name) for path in (run / "checkpoints").glob("step-*.safetensors"))
    steps = sorted({int(name[1]) for name in names if name}, reverse=True)
    return [run / "checkpoints" / checkpoint_name(step) for step in steps]


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after `step` steps."""
    return f"step-{step:06d}.safetensors"


def prune_checkpoints(run: Path) -> None:
    """Keep the newest two checkpoints, and remove partial files that a killed process left."""
    for path in list_checkpoints(run)[NUM_CHECKPOINTS_KEPT:]:
        with contextlib.suppress(OSError):
            path.unlink()
    remove_left_over_files(run)


def remove_left_over_files(run: Path) -> None:
    """Remove the temporary files that killed processes left in a run directory."""
    for folder in (run, run / "checkpoints", run / "figures"):
        remove_partial_files(folder)


def latest_checkpoint(
    run: Path, hint: str = "Remove that folder to start the run again."
) -> "tuple[Checkpoint | None, list[str]]":
    """Return the newest intact checkpoint, and what is wrong with newer ones; None if none was written yet.

    Raises InputError if all are damaged: starting again would overwrite a run that a user may be able to repair.
    """
    from scsuite.core.model.checkpoint import read_checkpoint

    problems: list[str] = []
    for path in list_checkpoints(run):
        try:
            return read_checkpoint(path), problems
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(
            "run", run / "checkpoints", expected="a complete checkpoint", found=f"none ({problems[0]})",
            hint=hint,
        )  # fmt: skip
    return None, problems


def open_checkpoint(spec: str | Path) -> "tuple[Checkpoint, list[str]]":
    """Return what --ckpt RUN|FILE means, and what is wrong with newer checkpoints of the run.

    That is a run's model.safetensors, or its newest intact checkpoint until it ends. Raises InputError for a directory
    that is not a training run, and for a damaged file.
    """
    from scsuite.core.model.checkpoint import read_checkpoint

    path = Path(spec)
    if not os.path.isdir(path):  # noqa: PTH112 - returns False for a name that is too long
        return read_checkpoint(path), []
    if os.path.lexists(path / "model.safetensors"):
        return _read_final_weights(path), []
    checkpoint, problems = latest_checkpoint(path, "Give another run.")
    if checkpoint is not None:
        return checkpoint, problems
    for member in seed_runs(path).values():  # the first seed's: none is selected
        return open_checkpoint(member)
    raise InputError(
        "checkpoint", path, expected="a training run with model.safetensors or checkpoints/", found="neither",
        hint="Give a directory that scsuite train made.",
    )  # fmt: skip


def _read_final_weights(run: Path) -> "Checkpoint":
    """Read model.safetensors. If it is damaged, the error names the newest intact checkpoint, but does not use it."""
    from scsuite.core.model.checkpoint import read_checkpoint

    try:
        return read_checkpoint(run / "model.safetensors")
    except InputError as error:
        try:
            checkpoint, _ = latest_checkpoint(run)
        except InputError:
            checkpoint = None
        hint = error.hint if checkpoint is None else f"{checkpoint.path} is intact: give that file."
        raise InputError(error.what, error.where, expected=error.expected, found=error.found, hint=hint) from None
