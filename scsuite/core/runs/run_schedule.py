"""The learning-rate schedule of a training run, as planned and as done.

In: a run directory. Out: its cycle, and the learning rate of each step in steps.csv.
"""

from pathlib import Path

from scsuite.core.config import MAX_PLOTTED_STEPS, is_finite_number
from scsuite.core.errors import InputError, one_line
from scsuite.core.files import check_run_exists
from scsuite.core.runs.find_runs import seed_runs
from scsuite.core.runs.results import read_json, read_steps
from scsuite.core.schedule import OneCycle


def read_run_schedule(run: Path) -> tuple[OneCycle, list[float]]:
    """Return the planned cycle of a training run, and the learning rate of each step done; of a group its first seed's.

    Raises InputError for a directory that is not a training run.
    """
    check_run_exists(run)
    run = next(iter(seed_runs(run).values()), run)
    try:
        lrs_done = [row.lr for row in read_steps(run)]
        cycle = OneCycle(**read_json(run / "environment.json")["one_cycle"])
        if cycle.num_steps > MAX_PLOTTED_STEPS:
            raise ValueError(f"{cycle.num_steps:,} steps")
        if invalid := [lr for lr in lrs_done if not is_finite_number(lr) or lr <= 0]:
            raise ValueError(f"a learning rate of {invalid[0]}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "run", run, expected="the schedule and the learning rates of a training run", found=one_line(error),
            hint="Give a directory that scsuite train made.",
        ) from None  # fmt: skip
    return cycle, lrs_done
