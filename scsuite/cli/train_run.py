"""What `scsuite train` does on one rank: find LR bounds, build the trainer, train, write outputs.

In: a configuration, data, and a checkpoint to resume from if there is one. Out: a finished run directory.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scsuite.cli.console import Terminal
from scsuite.cli.options import OutputOptions
from scsuite.cli.run_output import log_run, log_stop
from scsuite.cli.runs import range_test_progress
from scsuite.cli.signals import StopSignal
from scsuite.cli.train_display import print_plan, show_training, write_outputs
from scsuite.core.config import TrainConfig
from scsuite.core.distributed import World

if TYPE_CHECKING:
    from scsuite.core.dataset import Dataset
    from scsuite.core.model.checkpoint import Checkpoint
    from scsuite.core.runs.results import StepResult
    from scsuite.core.runs.rundir import RunDir
    from scsuite.core.training.trainer import Trainer

NUM_PREVIEW_IMAGES = 64


@dataclass(frozen=True)
class Session:
    """What all stages of this process's training share."""

    terminal: Terminal
    output: OutputOptions
    world: World
    start_time: float
    tensorboard: bool = False


def run_main(
    run: "RunDir", config: TrainConfig, data: "Dataset", session: Session, stop: StopSignal,
    checkpoint: "Checkpoint | None",
) -> None:  # fmt: skip
    """On rank 0, find the LR bounds if they are not given, train to the end, and write the results."""
    from scsuite.core.runs.rundir import check_disk_space, truncate_rows
    from scsuite.core.training.checkpoint_schedule import checkpoint_bytes
    from scsuite.core.training.loop import run_environment
    from scsuite.core.training.resume import load_history, load_state
    from scsuite.core.training.trainer import Trainer

    terminal = session.terminal
    log_run(terminal, run)
    if config.lr_max is None:
        config = _find_bounds(run, config, data, session, stop)
    elif config.lr_min is None:
        terminal.log_line(f"LR        LRMIN = LRMAX / {config.div_factor:g} (--div-factor)")
    trainer = Trainer(data, config, session.world)
    check_disk_space(run.path, checkpoint_bytes(trainer))
    if checkpoint is None:
        run.write_config(trainer.config)
        _draw_augmented(run, trainer)
    else:
        load_state(trainer, checkpoint)
        terminal.attach_run(run)  # not earlier: an error before this prints its own line only
        for problem in truncate_rows(run.path, trainer.state.step, trainer.num_epochs_done):
            terminal.log_warning(problem)
        load_history(trainer, run.path)
        if any(run.config().get(name) != getattr(trainer.config, name) for name in ("data", "augment")):
            run.write_config(trainer.config)  # the next resume finds them
    run.update_environment(**run_environment(trainer))
    print_plan(terminal, trainer)
    show_training(terminal, run, trainer, stop, tensorboard=session.tensorboard)
    write_outputs(terminal, run, trainer, session.start_time)


def run_worker(
    config: TrainConfig, data: "Dataset", session: Session, stop: StopSignal, checkpoint: "Checkpoint | None"
) -> None:
    """On any other rank, do the same steps as rank 0, and neither print nor write."""
    from scsuite.core.training.resume import load_state
    from scsuite.core.training.trainer import Trainer

    if config.lr_max is None:
        config = _find_bounds(None, config, data, session, stop)
    trainer = Trainer(data, config, session.world)
    if checkpoint is not None:
        load_state(trainer, checkpoint)
    trainer.fit(should_stop=stop.is_set)
    if not trainer.finished:
        stop.exit()


def _draw_augmented(run: "RunDir", trainer: "Trainer") -> None:
    """Draw training images as the network sees them in its first epoch."""
    import numpy as np

    from scsuite.core.augment import denormalise
    from scsuite.report import figures, formatting

    setup = trainer.setup
    num_images = len(setup.train)
    indices_N = np.arange(0, num_images, max(1, num_images // NUM_PREVIEW_IMAGES))[:NUM_PREVIEW_IMAGES]
    batch = setup.loader.fetch(0, indices_N)
    figure = figures.image_grid(
        denormalise(batch.images_NCHW, setup.mean, setup.std),
        titles=[setup.class_names[label] for label in batch.labels_N.tolist()],
        title="Training images, augmented",
    )
    footer = formatting.footer(run.path, data=trainer.data.name, seed=trainer.config.seed)
    figures.save_figure(figure, run.figure_path("augmented"), footer)


def _find_bounds(
    run: "RunDir | None", config: TrainConfig, data: "Dataset", session: Session, stop: StopSignal
) -> TrainConfig:
    """Return the configuration with LR bounds from a range test; rank 0 writes its figure and history to the run."""
    from scsuite.core.lr_range.range_test import find_lr_bounds, num_range_test_steps, write_history
    from scsuite.report import figures, formatting

    terminal = session.terminal
    terminal.log_line("LR        not given: running the range test")
    with terminal.progress_bar() as progress:
        show = range_test_progress(progress, num_range_test_steps(config, data), repeats=1)

        def on_step(step: "StepResult", repeat: int) -> None:
            if stop.is_set():
                if run is not None:
                    log_stop(terminal, run, "during the range test; restart")
                stop.exit()
            show(step, repeat)

        config, test = find_lr_bounds(data, config, on_step=on_step, world=session.world)
    if run is not None:
        write_history(run.path / "history.csv", test)
        run.update_environment(range_test={"reason": test.reason, "suggestions": test.suggestions})
        path = run.figure_path("lr-range")
        footer = formatting.footer(run.path, data=data.name, seed=config.seed)
        figures.save_figure(figures.lr_range(test), path, footer)
        for warning in test.warnings:
            terminal.log_warning(warning)
    return config
