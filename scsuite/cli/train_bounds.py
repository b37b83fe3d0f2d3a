"""The range test that `scsuite train` runs first if no LR bounds are given.

In: a configuration without LR bounds, and data. Out: the configuration with them; figure and history in the run.
"""

from typing import TYPE_CHECKING

from scsuite.cli.run_output import log_stop, range_test_progress
from scsuite.cli.signals import StopSignal
from scsuite.cli.train_session import Session
from scsuite.core.config import TrainConfig

if TYPE_CHECKING:
    from scsuite.core.dataset import Dataset
    from scsuite.core.runs.results import StepResult
    from scsuite.core.runs.rundir import RunDir


def find_bounds(
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
                    log_stop(terminal, session.group or run, "during the range test; restart")
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
