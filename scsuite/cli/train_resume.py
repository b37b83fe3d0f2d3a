"""`scsuite train --resume`: what is refused, and what a run or a group of --seeds continues with.

In: a run directory and the options of the command. Out: the training goes on, or one line says why it cannot.
"""

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from scsuite.cli.options import OutputOptions
from scsuite.cli.run_output import check_data_exists, relative_path
from scsuite.cli.runs import check_ranks_agree, load_data
from scsuite.cli.signals import stop_on_signals
from scsuite.cli.train_run import resume_main, run_worker
from scsuite.cli.train_seeds import resume_seeds
from scsuite.cli.train_session import Session
from scsuite.cli.train_summary import set_exit_code
from scsuite.core.config import TrainCommandConfig, TrainConfig
from scsuite.core.distributed import require_single_process
from scsuite.core.errors import UsageError

if TYPE_CHECKING:
    from scsuite.core.runs.rundir import RunDir

# Options that only the start of a run obeys. A restart by torchrun has those of the start.
START_OPTIONS = frozenset({"runs_dir", "name", "lr_from", "lr_min", "lr_max"})


def resume_training(run: "RunDir", config: TrainCommandConfig, session: Session) -> None:
    """Continue a run, or a group of --seeds, in its own directory, under its own settings."""
    from scsuite.core.device import resolve_device
    from scsuite.core.runs.checkpoints import latest_checkpoint
    from scsuite.core.runs.results import read_json, read_result
    from scsuite.core.training.resume import (
        check_same_data,
        merge_resume_settings,
        read_resume_config,
        read_seeds_and_target,
        relocate_result,
        restore_policy_file,
    )

    terminal, world, explicit = session.terminal, session.world, session.output.explicit_options
    seeds, target = read_seeds_and_target(run, config, explicit)
    _check_place(run, session.output)
    if run.result() is not None:
        result = relocate_result(read_result(run.path, "train"), run.path)
        _check_same_files(run, merge_resume_settings(run.config(), config, explicit, run.path), session)
        terminal.print_line(f"{relative_path(run.path)} is already complete")
        set_exit_code(terminal, result)
        terminal.print_json(result)
        return
    if seeds is not None:
        require_single_process("train --seeds")
        merged = merge_resume_settings(run.config(), config, explicit, run.path)
        resume_seeds(run, TrainCommandConfig(**merged.to_dict(), seeds=seeds, target=target), session)
        return
    checkpoint, problems = latest_checkpoint(run.path)
    settings = read_resume_config(run, checkpoint, config, explicit)
    if "data" not in explicit:
        check_data_exists(settings.data, "train", "--resume", relative_path(run.path))
    resolve_device(settings.device, settings.precision, world).check_cuda_graph(settings.cuda_graph)  # before the data
    data = load_data(settings, terminal, world)
    check_ranks_agree(world, settings, data, state=None if checkpoint is None else checkpoint.path.name)
    if checkpoint is not None:
        check_same_data(checkpoint.path, checkpoint.metadata.get("data"), data.fingerprint)
        if "augment" not in explicit:
            with world.main_process_first():
                settings = restore_policy_file(run.path, checkpoint, settings, write=world.is_main_process)
    elif recorded := read_json(run.path / "environment.json").get("data"):
        check_same_data(run.path, recorded, data.fingerprint)
    with stop_on_signals(world) as stop:
        if not world.is_main_process:
            run_worker(settings, data, session, stop, checkpoint)
            return
        resume_main(run, settings, data, replace(session, target=target), stop, checkpoint, problems)


def _check_place(run: "RunDir", output: OutputOptions) -> None:
    """Raise UsageError for a --runs-dir or --name that is not the run's: it continues where it is."""
    from scsuite.core.runs.rundir import slugify

    explicit = output.explicit_options
    if "runs_dir" in explicit and output.runs_dir.resolve() != run.path.parent:
        flag, expected, found = "--runs-dir", str(run.path.parent), str(output.runs_dir)
    elif "name" in explicit and not re.search(rf"-train-{re.escape(slugify(str(output.name)))}(-\d+)?$", run.path.name):
        flag, expected, found = "--name", run.path.name, str(output.name)
    else:
        return
    raise UsageError(
        "option", flag, expected=f"that of the run, {expected}", found=found,
        hint="A resume continues a run where it is: leave the option out, or start a new run.",
    )  # fmt: skip


def _check_same_files(run: "RunDir", config: TrainConfig, session: Session) -> None:
    """Raise InputError if --data or --augment of a complete run is another file with another content."""
    from scsuite.core.augment import load_policy, policy_dict
    from scsuite.core.runs.checkpoints import open_checkpoint
    from scsuite.core.training.resume import check_same_data, check_same_policy

    saved = run.config()
    moved = {name for name in ("data", "augment") if saved.get(name) != getattr(config, name)}
    if not moved:
        return
    checkpoint, _ = open_checkpoint(run.path)
    if "data" in moved:
        data = load_data(config, session.terminal, session.world)
        check_same_data(checkpoint.path, checkpoint.metadata.get("data"), data.fingerprint)
    if "augment" in moved:
        policy = load_policy(config.augment, checkpoint.metadata["mean"], checkpoint.metadata["std"])
        check_same_policy(checkpoint, policy_dict(policy))
