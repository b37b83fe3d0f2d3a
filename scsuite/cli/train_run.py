"""What `scsuite train` does on one rank: find LR bounds, build the trainer, train, write outputs.

In: a configuration, data, and a checkpoint to resume from if there is one. Out: a finished run directory.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from scsuite.cli.run_output import log_run
from scsuite.cli.signals import StopSignal
from scsuite.cli.train_bounds import find_bounds
from scsuite.cli.train_display import print_plan, show_training, write_outputs
from scsuite.cli.train_session import Session
from scsuite.core.config import TrainConfig

if TYPE_CHECKING:
    from scsuite.cli.console import Terminal
    from scsuite.core.dataset import Dataset
    from scsuite.core.model.checkpoint import Checkpoint
    from scsuite.core.runs.rundir import RunDir
    from scsuite.core.training.trainer import Trainer


def run_main(
    run: "RunDir", config: TrainConfig, data: "Dataset", session: Session, stop: StopSignal,
    checkpoint: "Checkpoint | None",
) -> None:  # fmt: skip
    """On rank 0, find the LR bounds if they are not given, train to the end, and write the results."""
    from scsuite.core.runs.environment import device_info
    from scsuite.core.runs.rundir import record_resume, remove_result, truncate_rows
    from scsuite.core.training.checkpoint_schedule import check_disk_space, checkpoint_bytes
    from scsuite.core.training.loop import run_environment
    from scsuite.core.training.resume import load_history, load_state
    from scsuite.core.training.seeds import training_position
    from scsuite.core.training.trainer import Trainer

    terminal, session = session.terminal, replace(session, timeline=dict(session.timeline))  # each seed has its own
    session.mark("data")
    log_run(terminal, run)
    terminal.outcome.seed = config.seed
    if config.lr_max is None:
        config = find_bounds(run, config, data, session, stop)
    elif config.lr_min is None:
        terminal.log_line(f"LR        LRMIN = LRMAX / {config.div_factor:g} (--div-factor)")
    trainer = Trainer(data, config, session.world)
    session.mark("set_up")
    terminal.outcome.device = str(trainer.setup.device.device)
    check_disk_space(run.path, checkpoint_bytes(trainer))
    if checkpoint is None:
        run.write_config(session.recorded(trainer.config))
    else:
        load_state(trainer, checkpoint)
        terminal.attach_run(run)  # not earlier: an error before this prints its own line only
        for problem in truncate_rows(run.path, trainer.state.step, trainer.num_epochs_done):
            terminal.log_warning(problem)
        load_history(trainer, run.path)
        remove_result(run.path)
        if any(run.config().get(name) != getattr(trainer.config, name) for name in ("data", "augment")):
            run.write_config(session.recorded(trainer.config))  # the next resume finds them
    run.update_environment(**run_environment(trainer))
    if session.is_resume:
        entry = {"step": trainer.state.step, **device_info(trainer.setup.device, session.world)}
        for warning in record_resume(run, **entry):
            terminal.log_warning(warning)
    print_plan(terminal, trainer)
    _report_graph(terminal, trainer)
    try:
        show_training(run, trainer, session, stop)
        session.mark("last_epoch")
    finally:
        terminal.outcome.known |= training_position(trainer, run.path)
    write_outputs(run, trainer, session)


def resume_main(
    run: "RunDir", config: TrainConfig, data: "Dataset", session: Session, stop: StopSignal,
    checkpoint: "Checkpoint | None", problems: Sequence[str],
) -> None:  # fmt: skip
    """On rank 0, continue from a checkpoint, or from step 0 without one; `problems` are those of newer checkpoints."""
    from scsuite.core.runs.rundir import remove_result, truncate_rows

    terminal = session.terminal
    for problem in problems:
        terminal.log_warning(f"skipped a damaged checkpoint: {problem}")
    if checkpoint is None:
        terminal.attach_run(run)
        terminal.log_line("          no checkpoint yet: starting again from step 0")
        truncate_rows(run.path, 0, 0)
        remove_result(run.path)
    run_main(run, config, data, replace(session, is_resume=True), stop, checkpoint)


def run_worker(
    config: TrainConfig, data: "Dataset", session: Session, stop: StopSignal, checkpoint: "Checkpoint | None"
) -> None:
    """On any other rank, do the same steps as rank 0, and neither print nor write."""
    from scsuite.core.training.resume import load_state
    from scsuite.core.training.trainer import Trainer

    if config.lr_max is None:
        config = find_bounds(None, config, data, session, stop)
    trainer = Trainer(data, config, session.world)
    if checkpoint is not None:
        load_state(trainer, checkpoint)
    trainer.fit(should_stop=stop.is_set)
    if not trainer.finished:
        stop.exit()


def _report_graph(terminal: "Terminal", trainer: "Trainer") -> None:
    """Say in one line why the steps are not launched as a CUDA graph, now or when recording one fails."""
    from scsuite.core.training.step_graph import eager_reason

    if trainer.graphed_step is not None:
        trainer.graphed_step.on_failure = terminal.log_warning
    elif trainer.config.cuda_graph:
        terminal.log_warning(f"--cuda-graph has no effect: {eager_reason(trainer.setup)}")
