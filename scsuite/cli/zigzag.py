"""`scsuite zigzag`: draw the learning-rate curve between its two limits, or what a run planned and really did."""

import functools
import os
import time
from pathlib import Path
from typing import Any

from scsuite.cli.begin import create_run, finish, log_figures
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.console import Terminal
from scsuite.core import schedule
from scsuite.core.config import PEAK_FRACTION, ZigzagConfig
from scsuite.core.errors import InputError, UsageError


@options(ZigzagConfig)
def zigzag(config: ZigzagConfig, output: OutputOptions) -> None:
    """Draw the learning-rate curve between a lower and an upper limit."""
    from scsuite.report import figures, tables

    begin = time.perf_counter()
    terminal = Terminal(output)
    _check_out(config.out)
    _check_target("--out", config.out)
    _check_target("--csv", config.csv)
    curve = _planned(config) if config.run is None else _recorded(config.run)
    with create_run(output, "zigzag", curve["policy"], config, terminal) as run:
        targets = [run.figure("schedule"), *([Path(config.out)] if config.out else [])]
        drawn = {key: curve[key] for key in ("lr_min", "lr_max", "steps_per_epoch", "title", "planned")}
        for target in targets:
            figures.schedule(curve["lrs"], target, **drawn)
        _write_csv(config, run.path / "schedule.csv", curve)
        result = {
            "command": "zigzag",
            **{key: curve[key] for key in ("policy", "lr_min", "lr_max", "steps_per_epoch")},
            "num_steps": len(curve["lrs"]),
            "figure": str(targets[-1].resolve()),
            "run_dir": str(run.path),
        }
        rows = {
            "policy": curve["policy"],
            "lower limit": f"{curve['lr_min']:g}",
            "upper limit": f"{curve['lr_max']:g}",
            "steps": f"{len(curve['lrs']):,}, {curve['steps_per_epoch']:,} an epoch",
        }
        terminal.log_table(tables.key_values(rows, title="Learning-rate curve"))
        log_figures(terminal, *targets)
        finish(run, terminal, result, begin)


def _planned(config: ZigzagConfig) -> dict[str, Any]:
    """The curve that the options describe."""
    limits = {"lr_min": config.lr_min, "lr_max": config.lr_max}
    if config.policy == "one-cycle":
        num_steps = config.epochs * config.steps_per_epoch
        peak_epoch = config.epochs * PEAK_FRACTION if config.peak_epoch is None else config.peak_epoch
        peak_step = schedule.peak_step(peak_epoch, config.steps_per_epoch, num_steps)
        cycle = functools.partial(schedule.one_cycle, lr_min=config.lr_min, lr_max=config.lr_max)
        lrs = [cycle(step, peak_step=peak_step, num_steps=num_steps) for step in range(num_steps)]
        title = f"One cycle: peak at the end of epoch {peak_epoch:.3g} of {config.epochs}, no annihilation"
    else:
        steps = range(2 * config.step_size * config.cycles + 1)  # the last one closes the last cycle
        size = config.step_size
        if config.policy == "exp-range":
            gamma = 0.1 ** (1 / len(steps))  # a tenth of the height is left at the end
            lrs = [schedule.exp_range(step, **limits, step_size=size, gamma=gamma) for step in steps]
        else:
            curve = {"triangular": schedule.triangular, "triangular2": schedule.triangular2}[config.policy]
            lrs = [curve(step, **limits, step_size=size) for step in steps]
        title = f"{config.policy}: {config.cycles} cycle{'s' * (config.cycles > 1)} of 2 x {size} steps"
    return {
        **limits, "policy": config.policy, "lrs": lrs, "planned": None, "title": title,
        "steps_per_epoch": config.steps_per_epoch,
    }  # fmt: skip


def _recorded(spec: str) -> dict[str, Any]:
    """What a training run planned, by its configuration, and what its steps.csv says it did."""
    from scsuite.core.runs.rundir import read_plan

    plan = read_plan(Path(spec))
    if not plan.done:
        raise InputError("run", spec, expected="at least one step", found="none", hint="Give a run that has trained.")
    return {
        "lr_min": plan.lr_min,
        "lr_max": plan.lr_max,
        "policy": "one-cycle",
        "lrs": plan.done,
        "planned": plan.lrs(),
        "title": f"{len(plan.done):,} of {plan.num_steps:,} steps: {Path(spec).resolve().name}",
        "steps_per_epoch": plan.steps_per_epoch,
    }


def _check_out(out: str | None) -> None:
    if out is not None and Path(out).suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(
            "option",
            "--out",
            expected="a name ending in .png, .svg or .pdf",
            found=repr(out),
            hint="Change its ending.",
        )


def _check_target(flag: str, target: str | None) -> None:
    """A whole file is renamed into its place: that would make a plain file of /dev/null or /dev/stdout."""
    if target is not None and os.path.lexists(target) and (Path(target).is_symlink() or not Path(target).is_file()):
        raise UsageError(
            "option", flag, expected="a new name or a plain file", found=f"{target}, a link, folder, pipe or device",
            hint="Choose another name.",
        )  # fmt: skip


def _write_csv(config: ZigzagConfig, path: Path, curve: dict[str, Any]) -> None:
    from scsuite.core.files import make_parent, write_csv

    rows = [(step, step / curve["steps_per_epoch"], lr) for step, lr in enumerate(curve["lrs"])]
    for target in [path, *([Path(config.csv)] if config.csv else [])]:
        make_parent(target)
        write_csv(target, ("step", "epoch", "lr"), rows)
