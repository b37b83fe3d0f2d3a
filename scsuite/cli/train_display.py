"""What `scsuite train` prints and draws: plan, live table, results. Rank 0 only.

In: a run directory, a `Trainer` and the terminal. Out: lines, tables and figures.
"""

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from scsuite.cli.console import Terminal
from scsuite.cli.run_output import log_files, log_next, log_stop, relative_path
from scsuite.cli.runs import write_result
from scsuite.cli.signals import StopSignal
from scsuite.cli.tensorboard import open_events
from scsuite.cli.train_figures import draw_figures, write_timeline
from scsuite.cli.train_page import write_page
from scsuite.cli.train_session import Session
from scsuite.cli.train_summary import log_target

if TYPE_CHECKING:
    from scsuite.core.runs.results import EpochResult, StepResult
    from scsuite.core.runs.rundir import RunDir
    from scsuite.core.training.trainer import Trainer

RESERVED_SCREEN_LINES = 8  # of a live screen, not for epochs
ETA_STEP = 20  # steps after which the speed is known well enough for an estimate
ETA_WINDOW = 50  # steps
FILES = ("model.safetensors", "best.safetensors", "metrics.csv", "steps.csv", "history.csv", "report.html")


def print_plan(terminal: Terminal, trainer: "Trainer") -> None:
    """Print the network, the schedule and the device."""
    from scsuite.core.model.network import temperature_of
    from scsuite.core.model.summary import model_summary
    from scsuite.report import formatting, tables

    config, cycle, setup = trainer.config, trainer.cycle, trainer.setup
    momentum = f"{cycle.momentum_max:g} > {cycle.momentum_min:g} > {cycle.momentum_max:g}"
    terminal.log_table(tables.layers(model_summary(trainer.raw_model)))
    terminal.log_table(
        tables.key_values(
            {
                "recipe": formatting.recipe(config.recipe, config.changes_of_recipe()),
                "LRMIN": f"{cycle.lr_min:.4g}",
                "LRMAX": f"{cycle.lr_max:.4g} at the end of epoch {config.resolved_peak_epoch:.3g} of {config.epochs}",
                "momentum": momentum if config.cycle_momentum else f"{cycle.momentum_max:g} (constant)",
                "steps": f"{cycle.num_steps:,}: {cycle.steps_per_epoch} per epoch, batch size {config.batch_size}",
                "EMA": "none" if trainer.ema is None else f"over about {trainer.ema.time_constant_steps:,.0f} steps",
                "temperature": f"{temperature_of(trainer.model):g} (divides the logits for loss and probabilities)",
                "augmentation": f"{setup.backend.name}: {setup.backend.reason}",
                "device": f"{setup.device.device}, {setup.device.precision}",
            }
        )
    )
    if trainer.state.step:
        terminal.log_line(f"resumed   at step {trainer.state.step:,} of {cycle.num_steps:,}")


def show_training(run: "RunDir", trainer: "Trainer", session: Session, stop: StopSignal) -> None:
    """Train to the end under the live table; exit with the signal's code if one came."""
    from rich.console import Group

    from scsuite.core.training.loop import fit
    from scsuite.report import tables

    terminal, first_epoch = session.terminal, len(trainer.epochs)
    with terminal.live_table() as show, open_events(run, trainer, terminal, session.tensorboard) as events:

        def on_step(step: "StepResult") -> None:
            session.mark("first_step")
            events.on_step(step)
            if step.step == ETA_STEP:
                speed = f"{step.num_images / step.seconds:,.0f} images/s"
                terminal.log_progress(f"time left {format_eta(trainer)} ({speed})")
            if terminal.is_live:
                rows = trainer.epochs[first_epoch:][-max(1, terminal.console.height - RESERVED_SCREEN_LINES) :]
                position = tables.progress(
                    step, trainer.state.totals, num_steps=trainer.cycle.num_steps,
                    steps_per_epoch=trainer.cycle.steps_per_epoch, time_left=format_eta(trainer),
                )  # fmt: skip
                show(Group(tables.epochs(rows, trainer.eval_split), session.position, position))

        def on_epoch(result: "EpochResult") -> None:
            events.on_epoch(result)
            terminal.log_progress(tables.epoch_line(result, trainer.config.epochs, trainer.eval_split))

        fit(trainer, run, on_step=on_step, on_epoch=on_epoch, should_stop=stop.is_set)
    if terminal.is_live and len(trainer.epochs) > first_epoch:
        terminal.print_table(tables.epochs(trainer.epochs[first_epoch:], trainer.eval_split))
    if not trainer.finished:
        position = f"at step {trainer.state.step:,} of {trainer.cycle.num_steps:,}"
        log_stop(terminal, session.group or run, f"{position}; resume")
        stop.exit()


def write_outputs(run: "RunDir", trainer: "Trainer", session: Session) -> None:
    """Write weights, figures and result of a finished training, and print them."""
    from scsuite.core.evaluation.metrics import baseline_warning, is_uneven
    from scsuite.core.training.loop import finish_run
    from scsuite.core.training.seeds import target_facts
    from scsuite.report.formatting import percent

    terminal, best = session.terminal, trainer.state.best
    result = finish_run(run, trainer, session.start_time)
    assert best is not None
    accuracy = result.final.test_accuracy
    result = replace(result, **target_facts(accuracy, [trainer.epochs], session.target_accuracy))
    write_result(run, terminal, replace(result, warnings=tuple(terminal.warnings)), session.start_time, show=False)
    terminal.log_line(
        f"final     test accuracy {percent(result.final.test_accuracy)} after epoch {trainer.config.epochs}"
        + ("" if trainer.ema is None else f" (EMA); without EMA {percent(result.final.test_accuracy_no_ema)}")
    )
    if is_uneven(trainer.data.test.labels_N):
        balanced = percent(result.final.test_balanced_accuracy)
        terminal.log_line(f"          balanced accuracy {balanced}: the mean over classes, which are uneven")
    selected = "held-out images" if best.selected_on == "val" else "the test set: do not report"
    terminal.log_line(f"best      {percent(best.accuracy)} at epoch {best.epoch} (selected on {selected})")
    log_target(terminal, result, accuracy)
    labels_N = (trainer.setup.val or trainer.data.test).labels_N
    if warning := baseline_warning(best.accuracy, labels_N, trainer.data.class_names):
        terminal.log_warning(f"{trainer.eval_split} accuracy {warning}")
    paths = draw_figures(run, trainer, session, accuracy)
    result = replace(result, figures=tuple(map(str, paths)), warnings=tuple(terminal.warnings))
    page = write_page(terminal, run, result)
    write_timeline(run, trainer, session)
    log_files(terminal, run, FILES, paths)
    result = replace(result, page=page, warnings=tuple(terminal.warnings))
    write_result(run, terminal, result, session.start_time)
    log_next(terminal, "evaluate", "--ckpt", relative_path(run.path))


def format_eta(trainer: "Trainer") -> str:
    """Return the time that the remaining steps take at the median speed of the last 50 steps, without evaluations."""
    speeds = trainer.state.images_per_second[-ETA_WINDOW:]
    if not speeds:
        return "..."
    epochs_left = (trainer.cycle.num_steps - trainer.state.step) / trainer.cycle.steps_per_epoch
    minutes, seconds = divmod(round(epochs_left * len(trainer.setup.train) / median(speeds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
