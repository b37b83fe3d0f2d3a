"""`scsuite train`: One Cycle training, from the start or from where a run stopped."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from scsuite.cli.console import Terminal
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.run_output import log_classes, relative_path
from scsuite.cli.runs import check_ranks_agree, create_run, load_data, output_for_rank
from scsuite.cli.signals import stop_on_signals
from scsuite.cli.tensorboard import TensorboardOption, check_installed
from scsuite.cli.train_resume import START_OPTIONS, resume_training
from scsuite.cli.train_run import run_main, run_worker
from scsuite.cli.train_seeds import run_seeds
from scsuite.cli.train_session import Session
from scsuite.core.config import TrainCommandConfig
from scsuite.core.distributed import distributed_world, is_restart, require_single_process, torchrun_id

ResumeOption = Annotated[
    str | None, typer.Option("--resume", metavar="RUN", help="Continue a stopped run.", rich_help_panel="Output")
]


@options(TrainCommandConfig, resume=ResumeOption, tensorboard=TensorboardOption)
def train(config: TrainCommandConfig, output: OutputOptions, resume: str | None, tensorboard: bool | None) -> None:
    """Train with the One Cycle Policy. One cycle over all epochs, no annihilation."""
    from scsuite.core.device import tune_process
    from scsuite.core.runs.find_runs import find_unfinished_run
    from scsuite.core.runs.rundir import RunDir

    start_time = time.perf_counter()
    if tensorboard:
        check_installed()
    if config.seeds is not None:
        require_single_process("train --seeds")
    with distributed_world() as world:
        tune_process()
        output = output_for_rank(output, world)
        if resume is None and is_restart():
            resume = world.broadcast(lambda: str(find_unfinished_run(output.runs_dir, torchrun_id()) or "")) or None
            if resume is not None:  # these options started the run, and a resume takes none of them
                output = replace(output, explicit_options=output.explicit_options - START_OPTIONS)
        session = Session(Terminal(output), output, world, start_time, config.target, bool(tensorboard))
        if resume is None:
            _start_new(config, session)
            return
        with RunDir.open(Path(resume), lock=world.is_main_process) as run:
            resume_training(run, config, session)


def _start_new(config: TrainCommandConfig, session: Session) -> None:
    from scsuite.core.augment import check_backend, validate_policy
    from scsuite.core.device import resolve_device
    from scsuite.core.lr_range.range_test import check_range_test, condition_warnings, range_test_config, read_lr_bounds
    from scsuite.core.runs.environment import dataset_info, device_info
    from scsuite.core.training.checkpoint_schedule import check_network_size

    terminal, world = session.terminal, session.world
    session.mark("imports")
    # Everything that can be refused is refused before data is downloaded or decoded.
    bounds = None if config.lr_from is None else read_lr_bounds(config.lr_from)
    warnings = list(validate_policy(config.augment))
    check_backend(config.augment_backend, config.augment)
    device = resolve_device(config.device, config.precision, world)
    device.check_cuda_graph(config.cuda_graph)
    data = load_data(config, terminal, world)
    log_classes(terminal, data)
    check_network_size(config, data.class_names)
    check_range_test(data, range_test_config(config, len(data.train)), world)
    if bounds is not None and config.lr_from is not None:
        warnings += condition_warnings(bounds, config, data)
        terminal.log_line(f"LR        from {relative_path(config.lr_from)}")
        config = replace(config, lr_min=bounds.lr_min, lr_max=bounds.lr_max, lr_from=None)
    for warning in warnings:
        terminal.log_warning(warning)
    check_ranks_agree(world, config, data)
    environment = {**device_info(device, world), "data": dataset_info(data)}
    environment |= {} if world.size == 1 else {"torchrun_id": torchrun_id()}
    with stop_on_signals(world) as stop:
        if not world.is_main_process:
            run_worker(config.training(), data, session, stop, None)
            return
        group_facts = {} if config.seeds is None else {"start_warnings": warnings}
        with create_run(session.output, "train", data.name, config, terminal, **environment, **group_facts) as run:
            if config.seeds is None:
                run_main(run, config.training(), data, session, stop, None)
            else:
                run_seeds(run, config, data, session, stop, environment)
