"""`scsuite train --seeds N`: a run directory per seed inside one of the group, and their summary.

In: the group's run directory, a configuration and data. Out: a finished run directory of every seed, and the result of
the group. What is finished already is kept, so the same function starts a group and continues one that was stopped.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scsuite.cli.console import Terminal
from scsuite.cli.exit_codes import exit_code_for
from scsuite.cli.outcome import Outcome, report_unfinished
from scsuite.cli.run_output import log_run, log_stop
from scsuite.cli.runs import create_run, load_data, write_result
from scsuite.cli.signals import StopSignal, stop_on_signals
from scsuite.cli.train_page import write_group_page
from scsuite.cli.train_run import resume_main, run_main
from scsuite.cli.train_session import Session
from scsuite.cli.train_summary import log_seeds, log_target
from scsuite.core.config import TrainCommandConfig
from scsuite.core.errors import DivergedError

if TYPE_CHECKING:
    from pathlib import Path

    from scsuite.core.config import TrainConfig
    from scsuite.core.dataset import Dataset
    from scsuite.core.runs.rundir import RunDir
    from scsuite.core.training.seeds import SeedRun

MAX_NAME = 60  # characters of the name in a run directory's name


def run_seeds(
    group: "RunDir", config: TrainCommandConfig, data: "Dataset", session: Session, stop: StopSignal,
    environment: Mapping[str, Any],
) -> None:  # fmt: skip
    """Do every training that has not ended yet, one after the other, and write the group's result."""
    from scsuite.core.runs.find_runs import seed_runs
    from scsuite.core.training.seeds import SeedRun

    assert config.seeds is not None
    log_run(session.terminal, group)
    session.terminal.outcome.known["seeds"] = ()
    runs: list[SeedRun] = []
    for number in range(config.seeds):
        seed = config.seed + number
        if stop.is_set():
            log_stop(session.terminal, group, f"before seed {number + 1} of {config.seeds}; resume")
            stop.exit()
        path = seed_runs(group.path).get(seed)
        if path is None or not SeedRun.read(seed, path).has_ended:
            position = f"seed {number + 1} of {config.seeds}"
            session.terminal.log_line(f"{position}: --seed {seed}")
            member = replace(session, group=group, position=position, target=None, start_time=time.perf_counter())
            _train_one(path, config.training(seed), data, member, stop, environment)
            path = seed_runs(group.path)[seed]
        runs.append(SeedRun.read(seed, path))
        session.terminal.outcome.known["seeds"] = tuple(run.summary() for run in runs)
    _finish_group(group, config, session, runs)


def _train_one(
    path: "Path | None", config: "TrainConfig", data: "Dataset", session: Session, stop: StopSignal,
    environment: Mapping[str, Any],
) -> None:  # fmt: skip
    """Start the training of one seed, or continue it at `path`. A diverged one leaves a warning in the group."""
    from scsuite.core.runs.checkpoints import latest_checkpoint
    from scsuite.core.runs.rundir import RunDir, slugify
    from scsuite.core.training.resume import read_resume_config

    assert session.group is not None
    suffix, name = f"-seed{config.seed}", session.output.name or data.name
    output = replace(
        session.output, runs_dir=session.group.path, name=slugify(name)[: MAX_NAME - len(suffix)] + suffix,
        outcome=Outcome(command="train", seed=config.seed),
    )  # fmt: skip
    terminal = Terminal(output)
    terminal.json = False  # one object on stdout: the group's
    own = replace(session, output=output, terminal=terminal)
    try:
        if path is None:
            with create_run(output, "train", data.name, config, terminal, **environment) as run:
                run_main(run, config, data, own, stop, None)
        else:
            with RunDir.open(path) as run:
                checkpoint, problems = latest_checkpoint(path)
                config = read_resume_config(run, checkpoint, config, output.explicit_options)
                resume_main(run, config, data, own, stop, checkpoint, problems)
    except BaseException as error:
        report_unfinished(output.outcome, *exit_code_for(error, ()))
        if not isinstance(error, DivergedError):
            session.terminal.outcome.known |= output.outcome.known
            raise
        session.terminal.log_warning(f"seed {config.seed}: {error}")


def _finish_group(group: "RunDir", config: TrainCommandConfig, session: Session, runs: "list[SeedRun]") -> None:
    """Print and write the summary. Raises DivergedError if a training diverged: a mean of the others is biased."""
    from scsuite.core.training.seeds import summarize_seeds

    terminal = session.terminal
    if diverged := [str(run.seed) for run in runs if run.diverged]:
        raise DivergedError(
            "training diverged", group.path, expected=f"{len(runs)} trainings that end",
            found=f"{len(diverged)} that diverged: seed {', '.join(diverged)}",
            hint="Lower --lr-max, or let the range test find it; the others are complete.",
        )  # fmt: skip
    result = summarize_seeds(runs, config.target_accuracy)
    log_seeds(terminal, result)
    log_target(terminal, result, result.mean)
    terminal.outcome.seed = config.seed
    write_result(group, terminal, write_group_page(terminal, group, result), session.start_time)


def resume_seeds(group: "RunDir", config: TrainCommandConfig, session: Session) -> None:
    """Continue a group that was stopped: the training that was stopped, then those that have not started."""
    from scsuite.core.device import resolve_device
    from scsuite.core.runs.environment import dataset_info, device_info
    from scsuite.core.runs.results import read_json
    from scsuite.core.runs.rundir import record_resume, remove_result
    from scsuite.core.training.resume import check_same_data

    terminal, device = session.terminal, resolve_device(config.device, config.precision, session.world)
    data = load_data(config, terminal)
    saved, current = read_json(group.path / "environment.json"), dataset_info(data)
    check_same_data(group.path, saved.get("data"), data.fingerprint)
    if group.config().get("data") != config.data:
        group.write_config(config)  # the next resume finds it
    environment = {**device_info(device, session.world), "data": current}
    terminal.outcome.device = str(device.device)
    terminal.warnings += saved.get("start_warnings", [])
    with stop_on_signals(session.world) as stop:
        terminal.attach_run(group)
        remove_result(group.path)
        for warning in record_resume(group, **device_info(device, session.world)):
            terminal.log_warning(warning)
        run_seeds(group, config, data, session, stop, environment)
