"""Resuming: what a run directory and its checkpoint have to agree on, and loading the state into a trainer.

In: a run directory or a checkpoint. Out: the run's own configuration; a trainer at the saved position.
"""

import contextlib
import os
import reprlib
import warnings
from collections.abc import Mapping, Set
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from scsuite.core.config import DATA_SOURCES, RESULT_NEUTRAL_OPTIONS, TrainCommandConfig, TrainConfig, flag_name
from scsuite.core.errors import InputError, UsageError
from scsuite.core.files import write_atomic
from scsuite.core.model.checkpoint import (
    EMA_PREFIX,
    MODEL_PREFIX,
    OPTIMIZER_PREFIX,
    OWN_NETWORK,
    SCALER_PREFIX,
    Checkpoint,
    check_tensors,
    load_temperature,
    load_weights,
    read_checkpoint,
)
from scsuite.core.runs.checkpoints import latest_checkpoint
from scsuite.core.runs.environment import collect_environment, device_info, environment_changes, last_process
from scsuite.core.runs.results import read_epochs, read_json, read_steps
from scsuite.core.runs.rundir import RunDir
from scsuite.core.training.optimizer import OPTIMIZER_STATE_KEYS, parameters_by_name
from scsuite.core.training.state import TrainState
from scsuite.core.training.trainer import Trainer

# Options that are not compared: the fingerprint identifies the data and the policy the file of --augment, lr_min and
# lr_max have replaced lr_from, and the metadata has the precision of the run.
_IDENTIFIED_OTHERWISE = frozenset(
    {"data", "test_split", "limit_train", "limit_test", "augment", "lr_from", "device", "precision"}
)
# Places of files that are identified by their content: a resume may give another.
_PLACES = frozenset({"data", "augment"})
_REQUIRED = ("data", "batch_size", "epochs", "lr_max")  # in the config.yaml of any version's training
POLICY_FILE = "augment.yaml"  # in the run directory: the policy of a checkpoint whose file is gone


def resume(trainer: Trainer, path: Path) -> None:
    """Load a run directory's newest intact checkpoint, or a file with a complete state, into a trainer.

    Raises InputError for a file without a state, or of a run on other data or under other settings.
    """
    if path.is_dir():
        checkpoint, problems = latest_checkpoint(path)
        for problem in problems:
            warnings.warn(f"skipped a damaged checkpoint: {problem}", stacklevel=3)
        if checkpoint is None:
            raise InputError(
                "run", path, expected="a run with a checkpoint", found="none", hint="Give a run that was stopped."
            )
    else:
        checkpoint = read_checkpoint(path)
    load_state(trainer, checkpoint)
    if path.is_dir():
        load_history(trainer, path)
        before = last_process(read_json(path / "environment.json"))
        now = {**collect_environment(), **device_info(trainer.setup.device, trainer.world)}
        for change in environment_changes(before, now):
            warnings.warn(change, stacklevel=3)


def load_history(trainer: Trainer, run: Path) -> None:
    """Read the rows of a run directory up to the trainer's position."""
    trainer.epochs = read_epochs(run)[: trainer.num_epochs_done] if trainer.num_epochs_done else []
    trainer.steps = read_steps(run, trainer.state.step)


def load_state(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Move a trainer to the position of a checkpoint.

    Raises InputError for a file without a state, or of a run on other data or under other settings.
    """
    if "state" not in checkpoint.metadata:
        raise InputError(
            "cannot resume", checkpoint.path, expected="a training state", found="weights only",
            hint="Resume from a run directory with checkpoints/.",
        )  # fmt: skip
    current, saved = trainer.metadata(), {"world_size": 1, **checkpoint.metadata}
    if OWN_NETWORK in saved["network"] and OWN_NETWORK not in current["network"]:
        raise InputError(
            "cannot resume", checkpoint.path, expected="scsuite's network", found="a training of your own network",
            hint="Use Python: scsuite.Trainer(data, config, model=...).resume(run).",
        )  # fmt: skip
    check_same_data(checkpoint.path, saved.get("data"), trainer.data.fingerprint)
    for name in ("class_names", "network", "policy", "augment_backend", "precision", "world_size"):
        _check_equal(checkpoint.path, name, saved.get(name), current[name])
    saved_config = TrainConfig.from_saved(saved["config"], checkpoint.path).to_dict()  # with options that came later
    for name in current["config"].keys() - RESULT_NEUTRAL_OPTIONS - _IDENTIFIED_OTHERWISE:
        _check_equal(checkpoint.path, name, saved_config[name], current["config"][name])
    # A policy file may have the default's transforms; the default's flips also alternate.
    default_policy = saved_config["augment"] is None, current["config"]["augment"] is None
    _check_equal(checkpoint.path, "use of the default policy", *default_policy)
    try:
        state = TrainState.from_dict(saved["state"])
        state.validate(
            num_steps=trainer.cycle.num_steps, steps_per_epoch=trainer.cycle.steps_per_epoch,
            batch_size=trainer.config.batch_size, num_images=len(trainer.setup.train), eval_split=trainer.eval_split,
        )  # fmt: skip
    except ValueError as error:
        raise InputError(
            "cannot resume", checkpoint.path, expected=f"a position in {trainer.cycle.num_steps} steps", found=error,
            hint="Resume from another directory, or start a new run.",
        ) from None  # fmt: skip
    load_weights(checkpoint, trainer.raw_model)
    load_temperature(checkpoint, trainer.raw_model)
    if trainer.ema is not None:
        load_weights(checkpoint, trainer.ema.model, EMA_PREFIX)
        load_temperature(checkpoint, trainer.ema.model)
    _load_optimizer_state(trainer, checkpoint)
    trainer.state = state


def check_same_data(path: Path, saved: Any, fingerprint: str) -> None:
    """Raise InputError unless the data that a run recorded has this fingerprint: names of files and folders may differ.

    `path` is that of a checkpoint or a run directory.
    """
    saved_fingerprint = saved.get("fingerprint") if isinstance(saved, Mapping) else None
    if saved_fingerprint != fingerprint:
        raise InputError(
            "cannot resume", path, expected=f"the same data: images with the fingerprint {str(saved_fingerprint)[:12]}",
            found=f"the fingerprint {fingerprint[:12]}",
            hint="Give the run's own data with --data, or start a new run.",
        )  # fmt: skip


def _check_equal(path: Path, name: str, saved: Any, current: Any) -> None:
    if current != saved:
        own_policy = "Give the run's own policy with --augment, or start a new run."
        hint = own_policy if name == "policy" else "Start a new run."
        name, saved, current = _first_difference(name, saved, current)
        raise InputError(
            "cannot resume", path, expected=f"the same {name}: {reprlib.repr(saved)}", found=reprlib.repr(current),
            hint=hint,
        )  # fmt: skip


def _first_difference(name: str, saved: Any, current: Any) -> tuple[str, Any, Any]:
    """Return the name and the two values of the first part that differs."""
    parts: list[tuple[str, Any, Any]] = []
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        parts = [(f"{name}.{key}", saved.get(key), current.get(key)) for key in {**saved, **current}]
    elif isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        parts = [(f"{name}[{i}]", old, new) for i, (old, new) in enumerate(zip(saved, current, strict=True))]
    different = next((part for part in parts if part[1] != part[2]), None)
    return (name, saved, current) if different is None else _first_difference(*different)


def _load_optimizer_state(trainer: Trainer, checkpoint: Checkpoint) -> None:
    setup, keys = trainer.setup, OPTIMIZER_STATE_KEYS[trainer.config.optimizer]
    parameters = parameters_by_name(trainer.raw_model, setup.optimizer)
    if setup.scaler.is_enabled() and not any(name.startswith(OPTIMIZER_PREFIX) for name in checkpoint.tensors):
        parameters = {}  # the scaler has skipped every update so far
    if OWN_NETWORK in checkpoint.metadata["network"]:  # its forward pass may leave out a parameter, which has no state
        names = [name for name in parameters if f"{OPTIMIZER_PREFIX}{keys[0]}.{name}" in checkpoint.tensors]
    else:
        names = list(parameters)
    expected = {
        f"{OPTIMIZER_PREFIX}{key}.{name}": torch.zeros(()) if key == "step" else parameter
        for name, parameter in parameters.items()
        if name in names
        for key in keys
    }
    expected |= {SCALER_PREFIX + key: torch.tensor(value) for key, value in setup.scaler.state_dict().items()}
    networks = MODEL_PREFIX if trainer.ema is None else (MODEL_PREFIX, EMA_PREFIX)
    saved = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith(networks)}
    check_tensors(checkpoint.path, f"the state of {trainer.config.optimizer}", expected, saved)
    # Use the memory layout of the weights: the fused update reads both in memory order and does not check strides.
    matched_layout = {name: torch.empty_like(tensor).copy_(saved[name]) for name, tensor in expected.items()}
    states = {
        index: {key: matched_layout[f"{OPTIMIZER_PREFIX}{key}.{name}"] for key in keys}
        for index, name in enumerate(parameters)
        if name in names
    }
    replaced = {parameter: dict(values) for parameter, values in setup.optimizer.state.items()}
    setup.optimizer.load_state_dict({**setup.optimizer.state_dict(), "state": states})
    for parameter, values in replaced.items():  # a CUDA graph reads and writes the tensors that it was recorded with
        state = setup.optimizer.state[parameter]
        state |= {key: values[key].copy_(tensor) for key, tensor in state.items() if key in values}
    if scaler := {
        name.removeprefix(SCALER_PREFIX): saved[name].item() for name in saved if name.startswith(SCALER_PREFIX)
    }:
        setup.scaler.load_state_dict(scaler)


def read_resume_config(
    run: RunDir, checkpoint: Checkpoint | None, requested: TrainConfig, explicit: Set[str]
) -> TrainConfig:
    """Return the configuration of a run to resume.

    Raises InputError if config.yaml was changed, UsageError for an explicit option that differs from the run's.
    """
    saved = run.config() if checkpoint is None else _check_config_file(run, checkpoint)
    return merge_resume_settings(saved, requested, explicit, run.path)


def restore_policy_file(run: Path, checkpoint: Checkpoint, config: TrainConfig, *, write: bool = True) -> TrainConfig:
    """Return the configuration; if its policy file is gone, with a file that is made from the policy in the checkpoint.

    Only one rank has to `write` it. Raises OutputError if it cannot be written.
    """
    import yaml

    if config.augment is None or os.path.exists(config.augment):  # noqa: PTH110 - False for what cannot be a path
        return config
    if write:
        text = yaml.safe_dump({"transform": checkpoint.metadata.get("policy")}, sort_keys=False)
        write_atomic(run / POLICY_FILE, text.encode())
    return replace(config, augment=str(run / POLICY_FILE))


def _check_config_file(run: RunDir, checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the settings in a checkpoint if config.yaml has the same: a change to the file would have no effect.

    The places of files are those of config.yaml, where a resume writes them first.
    """
    in_file, in_checkpoint = run.config(), checkpoint.metadata["config"]
    for name, value in in_checkpoint.items():
        is_neutral = name in RESULT_NEUTRAL_OPTIONS or _may_be_moved(name, value, in_file.get(name))
        if in_file.get(name) != value and not is_neutral:
            raise InputError(
                "run", run.path / "config.yaml", expected=f"{name} {value}, as in {checkpoint.path.name}",
                found=reprlib.repr(in_file.get(name)), hint="Restore config.yaml, or start a new run.",
            )  # fmt: skip
    return {**in_checkpoint, **{name: in_file[name] for name in _PLACES if name in in_file}}


def read_seeds_and_target(
    run: RunDir, requested: TrainCommandConfig, explicit: Set[str]
) -> tuple[int | None, float | None]:
    """Return --seeds and --target of a run to resume. Raises UsageError for an explicit one that differs."""
    names, in_file = ("seeds", "target"), run.config()
    saved = TrainCommandConfig.from_saved({name: in_file.get(name) for name in names}, run.path / "config.yaml")
    for name in names:
        old, new = getattr(saved, name), getattr(requested, name)
        if name in explicit and old != new:
            raise UsageError(
                "option", f"--{name}", expected=f"{old or 'none'}, as in {run.path}", found=new,
                hint="Leave the option out, or start a new run.",
            )  # fmt: skip
    return saved.seeds, saved.target


def merge_resume_settings(
    saved: Mapping[str, Any], requested: TrainConfig, explicit: Set[str], run: Path
) -> TrainConfig:
    """Return the run's configuration with the explicit options that change no number; others must be equal.

    Another place of the data or of a policy file is accepted: `load_state` compares the content.
    """
    if missing := [name for name in _REQUIRED if name not in saved]:
        raise InputError(
            "run", run / "config.yaml", expected="the configuration of a training", found=f"none of {missing[0]}",
            hint="Give a directory that scsuite train made, or resume with the version that started it.",
        )  # fmt: skip
    config = TrainConfig.from_saved(saved, run / "config.yaml")
    for item in fields(TrainConfig):
        old, new = getattr(config, item.name), getattr(requested, item.name)
        may_be_moved = _may_be_moved(item.name, old, new)
        is_auto_lr = item.name in ("lr_min", "lr_max") and new is None and _has_auto_lr(item.name, config, run)
        if (
            item.name in explicit
            and item.name not in RESULT_NEUTRAL_OPTIONS
            and old != new
            and not (is_auto_lr or may_be_moved)
        ):
            raise UsageError(
                "option", flag_name(item), expected=f"{'none' if old is None else old}, as in {run}", found=new,
                hint="Leave the option out, or start a new run.",
            )  # fmt: skip
    return replace(config, **{name: getattr(requested, name) for name in (RESULT_NEUTRAL_OPTIONS | _PLACES) & explicit})


def _has_auto_lr(name: str, config: TrainConfig, run: Path) -> bool:
    """Return whether a run started without this LR bound: it is the range test's, or LRMIN follows from LRMAX."""
    if read_json(run / "environment.json").get("range_test") or (run / "history.csv").is_file():
        return True
    return name == "lr_min" and config.lr_max is not None and config.lr_min == config.lr_max / config.div_factor


def check_same_policy(checkpoint: Checkpoint, policy: Mapping[str, Any]) -> None:
    """Raise InputError unless the run of a checkpoint had this augmentation policy."""
    _check_equal(checkpoint.path, "policy", checkpoint.metadata.get("policy"), policy)


def _may_be_moved(name: str, old: Any, new: Any) -> bool:
    """Return whether both values are places of files that `load_state` compares by their content."""
    return name in _PLACES and all(isinstance(value, str) and value not in DATA_SOURCES for value in (old, new))


def relocate_result(result: dict[str, Any], run: Path) -> dict[str, Any]:
    """Return the result of a run directory that may have been moved or copied to `run`, with the paths of today."""
    recorded = result.get("run_dir")
    with contextlib.suppress(OSError, ValueError, TypeError):
        if os.path.samefile(recorded, run):  # type: ignore[arg-type]  # noqa: PTH121 - None is a TypeError
            return result

    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: move(item) for name, item in value.items()}
        if isinstance(value, list):
            return [move(item) for item in value]
        is_inside = isinstance(value, str) and (value == recorded or value.startswith(f"{recorded}{os.sep}"))
        return f"{run}{value[len(str(recorded)) :]}" if is_inside else value

    return {name: move(value) for name, value in result.items()}
