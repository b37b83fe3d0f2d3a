"""What commands share: loading data and a trained network, making a run directory, writing the result.

In: a configuration and the terminal. Out: datasets, networks, run directories.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsuite import __version__
from scsuite.cli.console import Terminal
from scsuite.cli.options import OutputOptions
from scsuite.cli.run_output import log_text
from scsuite.core.config import DATA_SOURCES, RESULT_NEUTRAL_OPTIONS, Config, DataConfig, RecipeConfig
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.errors import UsageError

if TYPE_CHECKING:
    from scsuite.core.config import NetworkConfig
    from scsuite.core.dataset import Dataset
    from scsuite.core.evaluation.evaluate import TrainedModel
    from scsuite.core.runs.results import CommandResult
    from scsuite.core.runs.rundir import RunDir

ARCHIVE_SUFFIX = re.compile(r"\.(zip|tar|tar\.\w+|t[gbx]z2?)$", re.IGNORECASE)


def output_for_rank(output: OutputOptions, world: World) -> OutputOptions:
    """Return the output options of rank 0; the other ranks print nothing."""
    return output if world.is_main_process else replace(output, json=False, quiet=True)


def check_ranks_agree(world: World, config: Config, data: "Dataset", **extra: Any) -> None:
    """Raise InputError unless all ranks have the same settings, the same data and the same extra values."""
    settings = {name: value for name, value in config.to_dict().items() if name not in RESULT_NEUTRAL_OPTIONS}
    world.check_equal({"version": __version__, "data": data.fingerprint, **settings, **extra})


def load_data(
    config: DataConfig, terminal: Terminal, world: World = SINGLE_PROCESS, checkpoint: Mapping[str, Any] | None = None
) -> "Dataset":
    """Load the images of the configuration, and print how many there are and what was done to them.

    Rank 0 downloads and decodes them; the other ranks read them from the cache. With the metadata of a checkpoint they
    are for the evaluation of its network, and have no limits yet.
    """
    from scsuite.core.dataset import load_dataset
    from scsuite.core.dataset.split import count_text

    with world.main_process_first(), terminal.progress_bar() as progress:
        data = load_dataset(
            config.data, data_dir=config.data_dir, cache_dir=config.cache_dir,
            limit_train=config.limit_train if checkpoint is None else None,
            limit_test=config.limit_test if checkpoint is None else None,
            test_split=config.test_split, fit=config.fit, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
    images = f"{len(data.train):,} training and {len(data.test):,} test images, {len(data.class_names)} classes"
    if not len(data.train):  # other data than the network's
        num_classes = len(set(data.test.labels_N.tolist()))
        images = f"{count_text(len(data.test), 'labelled image', 'labelled images')} of "
        images += count_text(num_classes, "class", "classes")
    terminal.log_line(f"data      {data.name}: {images}")
    for note in data.notes:
        log_text(terminal, note)
    if isinstance(config, RecipeConfig) and config.augment is None and config.flip != "none":
        from scsuite.core.augment import flip_warning

        if warning := flip_warning(data.class_names):
            terminal.log_warning(warning)
    return data


def load_trained_model(config: "NetworkConfig", terminal: Terminal) -> "TrainedModel":
    """Load the network of --ckpt in its run's precision; if the device lacks that, in the device's fastest one."""
    import torch

    from scsuite.core.device import resolve_device, tune_process
    from scsuite.core.evaluation.evaluate import TrainedModel
    from scsuite.core.model.checkpoint import load_network
    from scsuite.core.runs.checkpoints import open_checkpoint

    tune_process()
    checkpoint, problems = open_checkpoint(config.ckpt)
    for problem in problems:
        terminal.log_warning(f"skipped a damaged checkpoint: {problem}")
    model, metadata, path = load_network(checkpoint), checkpoint.metadata, checkpoint.path
    precision = metadata["precision"]
    try:
        device = resolve_device(config.device, config.precision or precision)
    except UsageError:
        device = resolve_device(config.device, config.precision or "auto")
        terminal.log_warning(
            f"{device.device} does not support the run's precision {precision}: using {device.precision}"
        )
    model.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = TrainedModel.from_checkpoint(model, metadata, path, device)
    terminal.outcome.seed, terminal.outcome.device = trained.seed, str(device.device)
    return trained


def create_run(
    output: OutputOptions, command: str, name: str, config: Config, terminal: Terminal, **environment: Any
) -> "RunDir":
    """Make a run directory with config.yaml and environment.json in it, and start log.txt."""
    from scsuite.core.runs.rundir import RunDir

    _check_runs_dir_outside_data(output.runs_dir, getattr(config, "data", None))
    name = output.name or ARCHIVE_SUFFIX.sub("", name)
    run = RunDir.start(output.runs_dir, command, name, config, environment)
    terminal.outcome.device = environment.get("device")
    terminal.attach_run(run)
    return run


def _check_runs_dir_outside_data(runs_dir: Path, data: str | None) -> None:
    """Raise UsageError for a runs directory among CLASS/* folders: it would be one more class the next time."""
    if data and data not in DATA_SOURCES and runs_dir.resolve().is_relative_to(Path(data).resolve()):
        raise UsageError(
            "option", "--runs-dir", expected="a place outside the data", found=f"{runs_dir} in {data}",
            hint="Choose another --runs-dir.",
        )  # fmt: skip


def write_result(
    run: "RunDir", terminal: Terminal, result: "CommandResult", start_time: float, *, show: bool = True
) -> None:
    """Write result.json with the seconds since `start_time`, and print it with --json unless more will follow."""
    result = replace(result, run_dir=str(run.path), seconds=time.perf_counter() - start_time, **terminal.outcome.facts)
    run.write_result(result)
    if show:
        terminal.print_json(result.to_dict())
