"""`scsuite lr-range`: the learning-rate range test, from which LRMIN and LRMAX are read."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scsuite.cli.begin import (
    check_ranks_agree,
    create_run,
    dataset_info,
    finish,
    load_data,
    device_info,
    output_for_rank,
    log_figures,
)
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.console import PLAIN_PROGRESS_SECONDS, Terminal
from scsuite.core.config import LrRangeConfig
from scsuite.core.distributed import SINGLE_PROCESS, World, join

if TYPE_CHECKING:
    from scsuite.core.dataset import Dataset
    from scsuite.core.runs.rundir import RunDir
    from scsuite.core.lr_range.range_test import RangeTest


@options(LrRangeConfig)
def lr_range(config: LrRangeConfig, output: OutputOptions) -> None:
    """Find LRMIN and LRMAX: train a little while the rate rises, and see where the loss starts and stops falling."""
    begin = time.perf_counter()
    with join() as world:
        _lr_range(config, output_for_rank(output, world), begin, world)


def _lr_range(config: LrRangeConfig, output: OutputOptions, begin: float, world: World) -> None:
    from scsuite.core.augment import validate_policy, check_backend
    from scsuite.core.loop import resolve_device
    from scsuite.report import tables

    terminal = Terminal(output)
    facts = device_info(resolve_device(config.device, config.precision, world), world)
    remarks = validate_policy(config.augment)
    engine = check_backend(config.augment_backend, config.augment)
    facts["augment_backend"] = engine.facts()
    data = load_data(config, terminal, world)
    for remark in remarks:
        terminal.log_warning(remark)
    check_range_test(data, config, world)
    check_ranks_agree(world, config, data)
    if not world.is_main_process:
        run_range_test(data, config, terminal, world=world)
        return
    with create_run(output, "lr-range", data.name, config, terminal, **facts, data=dataset_info(data)) as run:
        terminal.log_line(f"augments  {engine.name}: {engine.reason}")
        found = run_range_test(data, config, terminal, world=world)
        write_history(run, found)
        figure = draw_range_test(run, found, config)
        terminal.log_table(
            tables.range_test(
                suggestions=found.suggestions, lr_min=found.lr_min, lr_max=found.lr_max, reason=found.reason,
                warnings=found.warnings,
            )
        )  # fmt: skip
        log_figures(terminal, figure)
        result = {
            "command": "lr-range",
            "run_dir": str(run.path),
            "lr_min": found.lr_min,
            "lr_max": found.lr_max,
            "suggestions": found.suggestions,
            "reason": found.reason,
            "warnings": list(found.warnings),
            "steps": [len(sweep.lrs_L) for sweep in found.sweeps],
            "conditions": found.conditions,
            "figure": str(figure),
        }
        finish(run, terminal, result, begin)
        terminal.log_line(f"next      scsuite train --lr-from {run.path} ...")


def check_range_test(data: "Dataset", config: LrRangeConfig, world: World) -> None:
    """What can be wrong with the settings for this data, found before anything is written."""
    from scsuite.core.loop import check_batch_size, split_validation
    from scsuite.core.lr_range.range_test import num_sweep_steps

    train, _ = split_validation(data.train, config.val_split)
    check_batch_size(len(train), config.batch_size, world)
    num_sweep_steps(config, len(train))


def run_range_test(
    data: "Dataset",
    config: LrRangeConfig,
    terminal: Terminal,
    check_stop: Callable[[], None] | None = None,
    world: World = SINGLE_PROCESS,
) -> "RangeTest":
    """The test under a display: a bar on a terminal, a line now and then elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from scsuite.core.loop import StepResult
    from scsuite.core.lr_range.range_test import num_sweep_steps, range_test

    total = num_sweep_steps(config, len(data.train) - config.val_split)
    columns = [TextColumn("range test"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")]
    hidden = not terminal.console.is_terminal or terminal.console.quiet
    bar = Progress(*columns, TimeRemainingColumn(), console=terminal.console, transient=True, disable=hidden)
    last = time.monotonic()
    with bar:
        task = bar.add_task("", total=total * config.repeats)

        def on_step(step: StepResult, repeat: int) -> None:
            nonlocal last
            if check_stop is not None:
                check_stop()
            text = f"rate {step.lr:.4g}  loss {step.loss:.3f}"
            bar.update(task, completed=repeat * total + step.step + 1, description=text)
            if not terminal.console.is_terminal and time.monotonic() - last > PLAIN_PROGRESS_SECONDS:
                last = time.monotonic()
                terminal.log_line(f"range test {repeat + 1} of {config.repeats}, step {step.step + 1} of {total}: {text}")

        return range_test(data, config, on_step=on_step, world=world)


def write_history(run: "RunDir", found: "RangeTest") -> None:
    """history.csv: every step of every repeat."""
    from scsuite.core.files import write_csv

    rows: list[tuple[Any, ...]] = []
    for repeat, sweep in enumerate(found.sweeps):
        columns = zip(sweep.lrs_L.tolist(), sweep.losses_L.tolist(), sweep.accuracies_L.tolist(), strict=True)
        rows += [(repeat, sweep.seed, step, *values) for step, values in enumerate(columns)]
    write_csv(run.path / "history.csv", ("repeat", "seed", "step", "lr", "loss", "accuracy"), rows)


def draw_range_test(run: "RunDir", found: "RangeTest", config: LrRangeConfig) -> Any:
    """The figure of a range test; returns its path."""
    from scsuite.core.lr_range.range_test import mean_curves
    from scsuite.report import figures

    lrs_L, loss_L, accuracy_L = mean_curves(found.sweeps)
    path = run.figure("lr-range")
    figures.lr_range(
        path,
        lrs=lrs_L.tolist(),
        losses=[sweep.losses_L.tolist() for sweep in found.sweeps],
        accuracies=[sweep.accuracies_L.tolist() for sweep in found.sweeps],
        smooth_loss=loss_L.tolist(),
        smooth_accuracy=accuracy_L.tolist(),
        suggestions=found.suggestions,
        lr_min=found.lr_min,
        lr_max=found.lr_max,
        log=config.curve == "exp",
        source=found.source,
    )
    return path
