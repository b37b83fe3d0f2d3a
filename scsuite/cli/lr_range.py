"""`scsuite lr-range`: the learning-rate range test, from which LRMIN and LRMAX are read."""

import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from scsuite.cli.console import Terminal
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.run_output import log_files, log_next, log_run, range_test_progress, relative_path
from scsuite.cli.runs import (
    check_ranks_agree,
    create_run,
    load_data,
    output_for_rank,
    write_result,
)
from scsuite.core.config import LrRangeConfig, TrainConfig, flag_name
from scsuite.core.distributed import World, distributed_world


@options(LrRangeConfig)
def lr_range(config: LrRangeConfig, output: OutputOptions) -> None:
    """Find LRMIN and LRMAX. Trains for a few steps while the learning rate rises, and reads the loss curve."""
    start_time = time.perf_counter()
    with distributed_world() as world:
        _lr_range(config, output_for_rank(output, world), start_time, world)


def _lr_range(config: LrRangeConfig, output: OutputOptions, start_time: float, world: World) -> None:
    from scsuite.core.augment import check_backend, validate_policy
    from scsuite.core.device import resolve_device, tune_process
    from scsuite.core.lr_range.range_test import check_range_test, range_test, write_history
    from scsuite.core.lr_range.run_sweep import num_sweep_steps
    from scsuite.core.runs.environment import dataset_info, device_info
    from scsuite.core.runs.results import LrRangeResult
    from scsuite.report import figures, formatting, tables

    tune_process()
    terminal = Terminal(output)
    environment = device_info(resolve_device(config.device, config.precision, world), world)
    warnings = validate_policy(config.augment)
    backend = check_backend(config.augment_backend, config.augment)
    data = load_data(config, terminal, world)
    for warning in warnings:
        terminal.log_warning(warning)
    check_range_test(data, config, world)
    check_ranks_agree(world, config, data)
    if not world.is_main_process:
        range_test(data, config, world=world)
        return
    environment |= {"data": dataset_info(data), "augment_backend": backend.to_dict()}
    with create_run(output, "lr-range", data.name, config, terminal, **environment) as run:
        terminal.log_line(f"recipe    {formatting.recipe(config.recipe, config.changes_of_recipe())}")
        terminal.log_line(f"augmentation {backend.name}: {backend.reason}")
        num_steps = num_sweep_steps(config, len(data.train) - config.val_split)
        with terminal.progress_bar() as progress:
            on_step = range_test_progress(progress, num_steps, config.repeats)
            test = range_test(data, config, on_step=on_step, world=world)
        write_history(run.path / "history.csv", test)
        path = run.figure_path("lr-range")
        footer = formatting.footer(run.path, data=data.name, seed=config.seed, repeats=config.repeats)
        figures.save_figure(figures.lr_range(test), path, footer)
        terminal.log_table(tables.range_test(test))
        log_run(terminal, run)
        log_files(terminal, run, ["history.csv"], [path])
        result = LrRangeResult(
            warnings=(*terminal.warnings, *test.warnings),
            figures=(str(path),),
            lr_min=test.lr_min,
            lr_max=test.lr_max,
            reason=test.reason,
            suggestions=test.suggestions,
            steps=tuple(len(sweep.lrs_L) for sweep in test.sweeps),
            conditions=test.conditions,
        )
        write_result(run, terminal, result, start_time)
        log_next(terminal, "train", *train_options(config, output), "--lr-from", relative_path(run.path))


def train_options(config: LrRangeConfig, output: OutputOptions) -> Iterator[str]:
    """Yield the explicit options of a range test that its training needs too: the LR bounds hold for these settings."""
    for item in fields(TrainConfig):
        name = "train_epochs" if item.name == "epochs" else item.name
        value = getattr(config, name) if name in output.explicit_options else None
        flag = flag_name(item)
        if isinstance(value, bool):
            yield flag if value else flag.replace("--", "--no-", 1)
        elif value is not None:
            yield from (flag, relative_path(value) if Path(str(value)).is_absolute() else str(value))
