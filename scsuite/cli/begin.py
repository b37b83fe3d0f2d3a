"""How commands begin and end: the data, decoded under a progress display; a run directory; the result."""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsuite import __version__
from scsuite.cli.options import OutputOptions
from scsuite.cli.console import Terminal
from scsuite.core.config import DATA_SOURCES, Config, DataConfig
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.errors import UsageError

ARCHIVE_SUFFIX = re.compile(r"\.(zip|tar|tar\.\w+|t[gbx]z2?)$", re.IGNORECASE)

if TYPE_CHECKING:
    from scsuite.core.dataset import Dataset
    from scsuite.core.loop import Device
    from scsuite.core.runs.rundir import RunDir


RESULT_NEUTRAL_OPTIONS = frozenset({"workers", "data_dir", "cache_dir"})  # options that no number depends on


def output_for_rank(output: OutputOptions, world: World) -> OutputOptions:
    """What was asked for of the rank that leads; nothing of the others."""
    return output if world.is_main_process else replace(output, json=False, quiet=True)


def check_ranks_agree(world: World, config: Config, data: "Dataset", **more: Any) -> None:
    """Raises InputError unless all ranks were given the same settings, data and whatever more they stand on."""
    settings = {name: value for name, value in config.to_dict().items() if name not in RESULT_NEUTRAL_OPTIONS}
    world.check_equal({"version": __version__, "data": data.fingerprint, **settings, **more})


def load_data(config: DataConfig, terminal: Terminal, world: World = SINGLE_PROCESS) -> "Dataset":
    """The images that the configuration names, limits applied; says how many there are, and what was done to them.

    The rank that leads fetches and decodes them, the others find them in the cache.
    """
    from scsuite.core.dataset import load_dataset

    with world.main_process_first(), terminal.progress_bar() as progress:
        data = load_dataset(
            config.data,
            data_dir=config.data_dir,
            cache_dir=config.cache_dir,
            limit_train=config.limit_train,
            limit_test=config.limit_test,
            test_split=config.test_split,
            progress=progress,
        )
    terminal.log_line(
        f"data      {data.name}: {len(data.train):,} training and {len(data.test):,} test images, "
        f"{len(data.class_names)} classes"
    )
    for note in data.notes:
        terminal.log_line(f"          {note}")
    return data


def create_run(output: OutputOptions, command: str, name: str, config: Config, terminal: Terminal, **facts: Any) -> "RunDir":
    """A fresh run directory, config.yaml and environment.json in it, log.txt begun."""
    from scsuite.core.runs.rundir import RunDir

    _check_apart(output.runs_dir, getattr(config, "data", None))
    run = RunDir.create(output.runs_dir, command, output.name or ARCHIVE_SUFFIX.sub("", name))
    try:
        run.write_config(config)
        run.write_environment(facts)
    except BaseException:  # a stop, too: a directory that cannot be resumed is not left behind
        run.discard()
        raise
    terminal.attach_run(run)
    return run


def _check_apart(runs_dir: Path, data: str | None) -> None:
    """The images stay as they are: among CLASS/* folders, runs/ would be one more class the next time."""
    if data and data not in DATA_SOURCES and runs_dir.resolve().is_relative_to(Path(data).resolve()):
        raise UsageError(
            "option", "--runs-dir", expected="a place outside the data", found=f"{runs_dir} in {data}",
            hint="Choose another --runs-dir.",
        )  # fmt: skip


def device_info(device: "Device", world: World = SINGLE_PROCESS) -> dict[str, Any]:
    """Device, precision, threads and number of ranks, for environment.json."""
    import torch

    on_cuda = device.device.type == "cuda"
    return {
        "device": str(device.device),
        "device_name": torch.cuda.get_device_name(device.device) if on_cuda else None,
        "cuda": torch.version.cuda if on_cuda else None,
        "precision": device.precision,
        "threads": torch.get_num_threads(),
        "world_size": world.size,
    }


def dataset_info(data: "Dataset") -> dict[str, Any]:
    """What identifies the images, for environment.json."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "train_images": len(data.train),
        "test_images": len(data.test),
    }


def log_figures(terminal: Terminal, *paths: Path) -> None:
    """Where the pictures are."""
    for path in paths:
        terminal.log_line(f"figure    {path}")


def finish(run: "RunDir", terminal: Terminal, result: dict[str, Any], begin: float) -> None:
    """Write the result and print it: the version and the seconds are every command's."""
    result = {"command": result["command"], "version": __version__, **result, "seconds": time.perf_counter() - begin}
    run.write_result(result)
    terminal.print_json(result)
