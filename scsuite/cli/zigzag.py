"""`scsuite zigzag`: draw the learning-rate curve between its two limits, or the planned and actual one of a run."""

import time
from dataclasses import dataclass
from pathlib import Path

from scsuite.cli.console import Terminal
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.output_files import check_different_files, check_output_path, writing_to
from scsuite.cli.run_output import log_files, log_run, relative_path
from scsuite.cli.runs import create_run, write_result
from scsuite.core import schedule
from scsuite.core.config import ZigzagConfig
from scsuite.core.errors import InputError


@dataclass(frozen=True)
class Curve:
    """The learning rate of each step; `planned` is that of the complete cycle if a run is drawn."""

    policy: str
    title: str
    lr_min: float
    lr_max: float
    steps_per_epoch: int
    lrs: list[float]
    planned: list[float] | None = None


@options(ZigzagConfig)
def zigzag(config: ZigzagConfig, output: OutputOptions) -> None:
    """Draw the learning-rate curve between a lower and an upper limit."""
    from scsuite.core.runs.results import ZigzagResult
    from scsuite.report import figures, formatting, tables
    from scsuite.report.figures.style import check_figure_suffix

    start_time = time.perf_counter()
    terminal = Terminal(output)
    if config.out:
        check_figure_suffix(Path(config.out), "option", "--out")
    check_output_path("--out", config.out)
    check_output_path("--csv", config.csv)
    check_different_files("--csv", config.csv, "another file than --out", filter(None, [config.out]))
    _check_not_read(config)
    curve = _curve_from_options(config) if config.run is None else _curve_from_run(config.run)
    with create_run(output, "zigzag", curve.policy, config, terminal) as run:
        figure = figures.schedule(
            curve.lrs, lr_min=curve.lr_min, lr_max=curve.lr_max, steps_per_epoch=curve.steps_per_epoch,
            title=curve.title, planned=curve.planned,
        )  # fmt: skip
        paths = [run.figure_path("schedule"), *([Path(config.out).resolve()] if config.out else [])]
        for path, flag in zip(paths, ("--runs-dir", "--out"), strict=False):
            with writing_to(flag):
                figures.save_figure(figure, path, formatting.footer(run.path))
        _write_csv(config, run.path / "schedule.csv", curve)
        rows = {
            "policy": curve.policy,
            "lower limit": f"{curve.lr_min:g}",
            "upper limit": f"{curve.lr_max:g}",
            "steps": f"{len(curve.lrs):,}, {curve.steps_per_epoch:,} per epoch",
        }
        terminal.log_table(tables.key_values(rows, title="Learning-rate curve"))
        log_run(terminal, run)
        log_files(terminal, run, ["schedule.csv"], paths[:1])
        for target in filter(None, (config.out, config.csv)):
            terminal.log_line(f"copy      {relative_path(target)}")
        result = ZigzagResult(
            figures=tuple(map(str, paths)), policy=curve.policy, lr_min=curve.lr_min, lr_max=curve.lr_max,
            steps_per_epoch=curve.steps_per_epoch, num_steps=len(curve.lrs),
        )  # fmt: skip
        write_result(run, terminal, result, start_time)


def _check_not_read(config: ZigzagConfig) -> None:
    """Raise UsageError if an output is a file that --run reads."""
    if config.run is not None:
        read = [Path(config.run) / name for name in ("config.yaml", "environment.json", "steps.csv")]
        for flag, target in (("--out", config.out), ("--csv", config.csv)):
            check_different_files(flag, target, "a file that is not read", read)


def _curve_from_options(config: ZigzagConfig) -> Curve:
    lr_min, lr_max = config.lr_min, config.lr_max
    if config.policy == "one-cycle":
        cycle = schedule.OneCycle.from_epochs(
            lr_min=lr_min, lr_max=lr_max, epochs=config.epochs, steps_per_epoch=config.steps_per_epoch,
            peak_epoch=config.resolved_peak_epoch,
        )  # fmt: skip
        lrs, peak_epoch = cycle.lrs(), config.resolved_peak_epoch
        title = f"One cycle: peak at the end of epoch {peak_epoch:.3g} of {config.epochs}, no annihilation"
    else:
        size = config.step_size
        steps = range(2 * size * config.cycles + 1)  # the last step closes the last cycle
        if config.policy == "exp-range":
            gamma = 0.1 ** (1 / len(steps))  # a tenth of the height is left at the end
            lrs = [schedule.exp_range(s, lr_min=lr_min, lr_max=lr_max, step_size=size, gamma=gamma) for s in steps]
        else:
            lr_at = {"triangular": schedule.triangular, "triangular2": schedule.triangular2}[config.policy]
            lrs = [lr_at(step, lr_min=lr_min, lr_max=lr_max, step_size=size) for step in steps]
        title = f"{config.policy}: {config.cycles} cycle{'s' * (config.cycles > 1)} of 2 x {size} steps"
    return Curve(config.policy, title, lr_min, lr_max, config.steps_per_epoch, lrs)


def _curve_from_run(spec: str) -> Curve:
    """Return the planned cycle of a training run, and the learning rates of the steps in its steps.csv."""
    from scsuite.core.runs.run_schedule import read_run_schedule

    cycle, lrs_done = read_run_schedule(Path(spec))
    if not lrs_done:
        raise InputError("run", spec, expected="at least one step", found="none", hint="Give a run that has trained.")
    title = f"{len(lrs_done):,} of {cycle.num_steps:,} steps: {Path(spec).resolve().name}"
    return Curve("one-cycle", title, cycle.lr_min, cycle.lr_max, cycle.steps_per_epoch, lrs_done, cycle.lrs())


def _write_csv(config: ZigzagConfig, path: Path, curve: Curve) -> None:
    from scsuite.core.files import make_parent
    from scsuite.core.runs.csv_files import write_csv

    rows = [(step, step / curve.steps_per_epoch, lr) for step, lr in enumerate(curve.lrs)]
    for target, flag in ((path, "--runs-dir"), (config.csv, "--csv")):
        if target is not None:
            with writing_to(flag):
                make_parent(Path(target))
                write_csv(Path(target), ("step", "epoch", "lr"), rows)
