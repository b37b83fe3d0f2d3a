"""Resuming from a file or a run directory. Run: pytest tests/core/training/test_resume.py."""

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from scsuite.core.config import TrainCommandConfig, TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.errors import InputError, UsageError
from scsuite.core.model.checkpoint import read_checkpoint, save_checkpoint
from scsuite.core.runs.checkpoints import latest_checkpoint, list_checkpoints
from scsuite.core.runs.rundir import RunDir
from scsuite.core.training.loop import fit
from scsuite.core.training.resume import (
    _check_equal,
    check_same_data,
    check_same_policy,
    load_history,
    load_state,
    merge_resume_settings,
    read_resume_config,
    read_seeds_and_target,
    relocate_result,
    restore_policy_file,
)
from scsuite.core.training.trainer import Trainer
from tests.core.tiny import equal_tensors, train, train_until, without_clocks


def stopped_run(data: Dataset, config: TrainConfig, runs_dir: Path, num_steps: int) -> Path:
    """Return the directory of a run that stopped after so many steps."""
    trainer = Trainer(data, config)
    trainer.fit(runs_dir, should_stop=lambda: trainer.state.step == num_steps)
    (run,) = runs_dir.iterdir()
    return run


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "changes", [{"ema_epochs": 0}, {"ema_epochs": 1}, {"bn_weight_decay": False, "ghost_batch_size": 2}]
)
@pytest.mark.parametrize("stop_after", [1, 5, 7, 10, 14, 15])
def test_resume_at_any_step_equals_uninterrupted_run(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path, stop_after: int, changes: dict[str, Any]
) -> None:
    config, path = replace(tiny_config, **changes), tmp_path / "state.safetensors"
    uninterrupted = Trainer(tiny_data, config)
    train(uninterrupted)
    stopped = train_until(Trainer(tiny_data, config), stop_after)
    assert not stopped.finished
    stopped.save(path)
    resumed = Trainer(tiny_data, config).resume(path)
    steps = train(resumed)
    assert [step.step for step in steps] == list(range(stop_after, 15))  # no step is repeated
    assert without_clocks(stopped.epochs + resumed.epochs) == without_clocks(uninterrupted.epochs)
    assert equal_tensors(resumed.state_tensors(), uninterrupted.state_tensors())
    assert resumed.state.best == uninterrupted.state.best


def test_adamw_resumes_as_well(tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path) -> None:
    config = replace(tiny_config, optimizer="adamw", lr_max=0.01, bn_weight_decay=False)
    uninterrupted = Trainer(tiny_data, config)
    train(uninterrupted)
    train_until(Trainer(tiny_data, config), 7).save(tmp_path / "state.safetensors")
    resumed = Trainer(tiny_data, config).resume(tmp_path / "state.safetensors")
    train(resumed)
    assert equal_tensors(resumed.state_tensors(), uninterrupted.state_tensors())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optimizer.exp_avg_sq.fc.weight", -1.0, "below 0 in optimizer.exp_avg_sq.fc.weight"),
        ("optimizer.exp_avg.fc.weight", math.inf, "not finite in optimizer.exp_avg.fc.weight"),
        ("optimizer.step.fc.weight", -1.0, "below 0 in optimizer.step.fc.weight"),
        ("optimizer.step.fc.weight", None, "optimizer.step.fc.weight is missing"),
    ],
)
def test_optimizer_state_that_adamw_cannot_have_is_refused(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path, name: str, value: float | None, message: str
) -> None:
    trainer = train_until(Trainer(tiny_data, replace(tiny_config, optimizer="adamw", lr_max=0.01)), 1)
    tensors = {key: tensor.clone() for key, tensor in trainer.state_tensors().items()}
    if value is None:
        del tensors[name]
    else:
        tensors[name].view(-1)[0] = value
    save_checkpoint(tmp_path / "state.safetensors", tensors, trainer.metadata())
    with pytest.raises(InputError, match=rf"checkpoint: .*state\.safetensors: .*{message}"):
        load_state(trainer, read_checkpoint(tmp_path / "state.safetensors"))


def test_the_gradient_scaler_of_fp16_resumes_as_well(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    def new_trainer() -> Trainer:
        """A training with a scaler that doubles its scale after every four steps."""
        trainer = Trainer(tiny_data, tiny_config)
        trainer.setup = replace(trainer.setup, scaler=torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=4))
        return trainer

    uninterrupted, stopped = new_trainer(), train_until(new_trainer(), 7)
    train(uninterrupted)
    stopped.save(tmp_path / "state.safetensors")
    resumed = new_trainer().resume(tmp_path / "state.safetensors")
    assert resumed.setup.scaler.state_dict() == stopped.setup.scaler.state_dict()
    assert resumed.setup.scaler.get_scale() == 128.0
    train(resumed)
    assert resumed.setup.scaler.get_scale() == 64.0 * 2**3  # three times four of 15 steps
    assert equal_tensors(resumed.state_tensors(), uninterrupted.state_tensors())
    without_scale = {name: t for name, t in stopped.state_tensors().items() if name != "scaler.scale"}
    save_checkpoint(tmp_path / "state.safetensors", without_scale, stopped.metadata())
    with pytest.raises(InputError, match=r"expected the state of sgd, found scaler\.scale is missing"):
        new_trainer().resume(tmp_path / "state.safetensors")


def test_a_training_in_fp16_that_skipped_all_updates_resumes_without_momentum(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_data, tiny_config)
    trainer.setup = replace(trainer.setup, scaler=torch.amp.GradScaler("cpu"))
    trainer.state = train_until(Trainer(tiny_data, tiny_config), 1).state
    trainer.setup.scaler.scale(torch.ones(1))  # the scale exists from the first step on
    trainer.save(tmp_path / "state.safetensors")
    assert not any(name.startswith("optimizer.") for name in read_checkpoint(tmp_path / "state.safetensors").tensors)
    resumed = Trainer(tiny_data, tiny_config)
    resumed.setup = replace(resumed.setup, scaler=torch.amp.GradScaler("cpu"))
    assert resumed.resume(tmp_path / "state.safetensors").state.step == 1
    with pytest.raises(InputError, match="is missing"):  # without a scaler, no update can have been skipped
        Trainer(tiny_data, tiny_config).resume(tmp_path / "state.safetensors")


@pytest.mark.parametrize(("alternate_flips", "flip"), [(True, "alternate"), (False, "random")])
def test_a_run_from_before_the_option_flip_resumes_with_its_flips(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path, alternate_flips: bool, flip: str
) -> None:
    config, path = replace(tiny_config, flip=flip), tmp_path / "state.safetensors"
    train_until(Trainer(tiny_data, config), 7).save(path)
    checkpoint = read_checkpoint(path)
    saved = dict(checkpoint.metadata["config"]) | {"alternate_flips": alternate_flips}
    del saved["flip"], saved["recipe"], saved["fit"], saved["class_weights"]
    old = replace(checkpoint, metadata={**checkpoint.metadata, "config": saved})
    loaded = TrainConfig.from_saved(saved, path)
    assert loaded.flip == flip
    trainer = Trainer(tiny_data, loaded)
    load_state(trainer, old)
    assert trainer.state.step == 7


def test_weights_without_a_state_are_refused(tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(tiny_data, tiny_config)
    trainer.save(tmp_path / "weights.safetensors", weights_only=True)
    with pytest.raises(InputError, match="weights only"):
        trainer.resume(tmp_path / "weights.safetensors")


def test_a_state_of_other_data_is_refused(tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path) -> None:
    train_until(Trainer(tiny_data, tiny_config), 1).save(tmp_path / "state.safetensors")
    other = Trainer(replace(tiny_data, fingerprint="1" * 64), tiny_config)
    with pytest.raises(InputError, match="the same data"):
        other.resume(tmp_path / "state.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment_backend": "albumentations"}, "the same augment_backend: 'batched', found 'albumentations'"),
        ({"width": 0.1}, "the same network"),
        ({"precision": "bf16"}, "the same precision: 'fp32', found 'bf16'"),
        ({"lr_max": 0.2}, "the same lr_m"),  # lr_min follows from it
        ({"seed": 1}, "the same seed: 0, found 1"),
        ({"epochs": 4}, "the same epochs: 3, found 4"),
        ({"weight_decay": 0.0}, "the same weight_decay: 0.0005, found 0.0"),
        ({"ghost_batch_size": 2}, "the same ghost_batch_size: 16, found 2"),
        ({"val_split": 12}, "the same "),
        ({"deterministic": True}, "the same deterministic: False, found True"),
    ],
)
def test_a_checkpoint_under_other_settings_is_refused(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    train_until(Trainer(tiny_data, tiny_config), 1).save(tmp_path / "state.safetensors")
    other = Trainer(tiny_data, replace(tiny_config, **changes))
    before = {name: tensor.clone() for name, tensor in other.state_tensors().items()}
    with pytest.raises(InputError, match=f"cannot resume: .*{message}"):
        other.resume(tmp_path / "state.safetensors")
    assert equal_tensors(other.state_tensors(), before)
    assert other.state.step == 0


def test_another_policy_is_refused_with_what_differs(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    train_until(Trainer(tiny_data, tiny_config), 1).save(path)
    checkpoint = read_checkpoint(path)
    policy = copy.deepcopy(checkpoint.metadata["policy"])
    policy["transforms"][0]["p"] = 0.125
    with pytest.raises(InputError, match=r"the same policy\.transforms\[0\]\.p: 0\.125, found .*with --augment"):
        load_state(
            Trainer(tiny_data, tiny_config), replace(checkpoint, metadata={**checkpoint.metadata, "policy": policy})
        )


def test_settings_that_change_no_number_may_differ(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    train_until(Trainer(tiny_data, tiny_config), 1).save(tmp_path / "state.safetensors")
    other = replace(tiny_config, workers=1, cache_dir="elsewhere", data="moved", device="auto")
    assert Trainer(tiny_data, other).resume(tmp_path / "state.safetensors").state.step == 1


def test_a_run_directory_restores_epochs_and_steps(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    run = stopped_run(tiny_data, tiny_config, tmp_path / "runs", 12)
    uninterrupted = Trainer(tiny_data, tiny_config)
    train(uninterrupted)
    resumed = Trainer(tiny_data, tiny_config).resume(run)
    assert [epoch.epoch for epoch in resumed.epochs] == [1, 2]
    assert resumed.steps == uninterrupted.steps[:12]
    train(resumed)
    assert without_clocks(resumed.epochs) == without_clocks(uninterrupted.epochs)
    assert resumed.steps == uninterrupted.steps
    assert equal_tensors(resumed.state_tensors(), uninterrupted.state_tensors())


def test_a_run_that_stopped_in_its_first_epoch_has_no_epochs(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    run = stopped_run(tiny_data, tiny_config, tmp_path / "runs", 3)
    resumed = Trainer(tiny_data, tiny_config).resume(run)
    assert resumed.epochs == []
    assert [row.step for row in resumed.steps] == [0, 1, 2]


def test_a_damaged_newest_checkpoint_warns_and_the_one_before_is_used(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    run = stopped_run(tiny_data, tiny_config, tmp_path / "runs", 12)
    newest, before = list_checkpoints(run)
    flip_a_bit(newest)
    trainer = Trainer(tiny_data, tiny_config)
    with pytest.warns(UserWarning, match="skipped a damaged checkpoint: .*step-000012"):
        trainer.resume(run)
    assert trainer.state.step == int(before.stem.removeprefix("step-")) < 12
    assert [row.step for row in trainer.steps] == list(range(trainer.state.step))  # later rows are not read
    flip_a_bit(before)
    with pytest.raises(InputError, match="expected a complete checkpoint, found none"):
        trainer.resume(run)


def test_a_run_directory_without_a_checkpoint_is_refused(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="a run with a checkpoint, found none"):
        Trainer(tiny_data, tiny_config).resume(tmp_path)


def test_a_resumed_run_directory_ends_as_the_uninterrupted_one(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    uninterrupted = Trainer(tiny_data, tiny_config)
    uninterrupted.fit(tmp_path / "uninterrupted")
    path = stopped_run(tiny_data, tiny_config, tmp_path / "runs", 7)
    with RunDir.open(path) as run:
        checkpoint, problems = latest_checkpoint(path)
        assert checkpoint is not None
        assert problems == []
        trainer = Trainer(tiny_data, read_resume_config(run, checkpoint, TrainConfig(), frozenset()))
        load_state(trainer, checkpoint)
        load_history(trainer, path)
        fit(trainer, run)
    (reference,) = (tmp_path / "uninterrupted").iterdir()
    assert (path / "steps.csv").read_text() == (reference / "steps.csv").read_text()
    assert without_clocks(trainer.epochs) == without_clocks(uninterrupted.epochs)
    assert equal_tensors(read_checkpoint(list_checkpoints(path)[0]).tensors, uninterrupted.state_tensors())


def test_options_of_a_resume_must_be_those_of_the_run(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    path = stopped_run(tiny_data, tiny_config, tmp_path / "runs", 1)
    with RunDir.open(path) as run:
        checkpoint, _ = latest_checkpoint(path)
        config = read_resume_config(run, checkpoint, TrainConfig(workers=2, seed=9), frozenset({"workers"}))
        assert config == replace(tiny_config, workers=2, lr_min=config.lr_min)
        with pytest.raises(UsageError, match=r"--seed: expected 0, as in .*, found 9\. Leave the option out"):
            read_resume_config(run, checkpoint, TrainConfig(seed=9), frozenset({"seed"}))
        with pytest.raises(InputError, match="the configuration of a training, found none of"):
            merge_resume_settings({"data": "shapes"}, TrainConfig(), frozenset(), path)
        text = (path / "config.yaml").read_text()
        (path / "config.yaml").write_text(text.replace("data: tiny", "data: shapes"))
        with pytest.raises(InputError, match=r"expected data tiny, as in .*, found 'shapes'"):
            read_resume_config(run, checkpoint, TrainConfig(), frozenset())
        (path / "config.yaml").write_text(text.replace("data: tiny", "data: /moved"))
        assert read_resume_config(run, checkpoint, TrainConfig(), frozenset()).data == "/moved"
        (path / "config.yaml").write_text(text.replace("seed: 0", "seed: 1"))
        with pytest.raises(InputError, match=r"expected seed 0, as in step-000001\.safetensors, found 1\. Restore"):
            read_resume_config(run, checkpoint, TrainConfig(), frozenset())


# --- without a training ---


@pytest.mark.parametrize("saved", [None, [], "x", {}, {"fingerprint": None}, {"fingerprint": "1" * 64}])
def test_data_without_the_same_fingerprint_is_refused_whatever_the_file_holds(saved: Any) -> None:
    with pytest.raises(InputError, match="the same data"):
        check_same_data(Path("x"), saved, "0" * 64)
    check_same_data(Path("x"), {"fingerprint": "0" * 64, "name": "elsewhere"}, "0" * 64)


def test_a_moved_policy_file_is_written_again_from_the_checkpoint(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("transform: {__class_fullname__: Compose, transforms: [{__class_fullname__: ToGray, p: 0.25}]}")
    config = replace(tiny_config, augment=str(policy))
    run = stopped_run(tiny_data, config, tmp_path / "runs", 1)
    checkpoint, _ = latest_checkpoint(run)
    assert checkpoint is not None
    assert restore_policy_file(run, checkpoint, config) is config
    assert restore_policy_file(run, checkpoint, tiny_config) is tiny_config
    policy.unlink()
    another_rank = restore_policy_file(run, checkpoint, config, write=False)
    assert another_rank.augment == str(run / "augment.yaml")
    assert not (run / "augment.yaml").exists()
    restored = restore_policy_file(run, checkpoint, config)
    assert restored == another_rank == replace(config, augment=str(run / "augment.yaml"))
    (gray, normalize) = yaml.safe_load((run / "augment.yaml").read_text())["transform"]["transforms"]
    assert (gray["__class_fullname__"], gray["p"]) == ("ToGray", 0.25)
    assert normalize["__class_fullname__"] == "Normalize"
    resumed = Trainer(tiny_data, restored)
    load_state(resumed, checkpoint)
    assert resumed.state.step == 1
    check_same_policy(checkpoint, resumed.setup.policy)
    with pytest.raises(InputError, match=r"the same policy.*with --augment"):
        check_same_policy(checkpoint, Trainer(tiny_data, tiny_config).setup.policy)


def test_a_policy_file_with_the_transforms_of_the_default_is_not_the_default(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    train_until(Trainer(tiny_data, tiny_config), 1).save(tmp_path / "state.safetensors")
    checkpoint = read_checkpoint(tmp_path / "state.safetensors")
    saved = {**checkpoint.metadata["config"], "augment": "policy.yaml"}
    with pytest.raises(InputError, match="the same use of the default policy: False, found True"):
        load_state(
            Trainer(tiny_data, tiny_config), replace(checkpoint, metadata={**checkpoint.metadata, "config": saved})
        )


def test_results_of_a_moved_run_have_the_paths_of_today(tmp_path: Path) -> None:
    old, new = "/before/run", tmp_path / "run"
    result = {
        "run_dir": old, "checkpoint": f"{old}/model.safetensors", "figures": [f"{old}/figures/a.png", "/before/b.png"],
        "final": {"log": f"{old}/log.txt", "loss": 0.5}, "neighbour": "/before/run-2/x", "epochs": 3, "hint": None,
    }  # fmt: skip
    assert relocate_result(result, new) == {
        "run_dir": str(new), "checkpoint": f"{new}/model.safetensors",
        "figures": [f"{new}/figures/a.png", "/before/b.png"],
        "final": {"log": f"{new}/log.txt", "loss": 0.5}, "neighbour": "/before/run-2/x", "epochs": 3, "hint": None,
    }  # fmt: skip
    new.mkdir()
    (tmp_path / "link").symlink_to(new)
    same = {"run_dir": str(tmp_path / "link"), "checkpoint": f"{tmp_path}/link/model.safetensors"}
    assert relocate_result(same, new) is same  # the same folder under another name was not moved
    assert relocate_result({"epochs": 3, "note": "None"}, new) == {"epochs": 3, "note": "None"}
    assert relocate_result({"run_dir": "a\0b"}, new) == {"run_dir": str(new)}  # no path at all


@pytest.fixture
def config_run(tiny_config: TrainConfig, tmp_path: Path) -> Iterator[RunDir]:
    """A run directory with a configuration, and nothing else."""
    with RunDir.create(tmp_path, "train", "x") as run:
        run.write_config(replace(tiny_config, lr_min=0.01))
        yield run


def test_seeds_and_target_of_a_resume_are_those_of_the_run(config_run: RunDir) -> None:
    requested = TrainCommandConfig(lr_max=0.1, seeds=3, target=90.0)
    assert read_seeds_and_target(config_run, requested, frozenset()) == (None, None)
    with pytest.raises(UsageError, match=r"--seeds: expected none, as in .*, found 3\. Leave the option out"):
        read_seeds_and_target(config_run, requested, frozenset({"seeds"}))
    config_run.write_config(TrainCommandConfig(lr_max=0.1, seeds=2, target=90.0))
    assert read_seeds_and_target(config_run, requested, frozenset({"target"})) == (2, 90.0)
    assert read_seeds_and_target(config_run, requested, frozenset({"lr_max"})) == (2, 90.0)
    with pytest.raises(UsageError, match=r"--seeds: expected 2, as in .*, found 3"):
        read_seeds_and_target(config_run, requested, frozenset({"seeds", "target"}))


def merged(run: RunDir, **requested: Any) -> TrainConfig:
    return merge_resume_settings(run.config(), TrainConfig(**requested), frozenset(requested), run.path)


def test_a_resume_takes_over_places_and_options_that_change_no_number(config_run: RunDir) -> None:
    own = TrainConfig.from_dict(config_run.config())
    assert merged(config_run) == own
    assert merged(config_run, workers=3, cache_dir="c", data_dir="d") == replace(
        own, workers=3, cache_dir="c", data_dir="d"
    )
    assert merged(config_run, data="/moved").data == "/moved"
    assert merged(config_run, batch_size=16, lr_max=0.1) == own
    with pytest.raises(UsageError, match=r"--data: expected tiny, as in .*, found cifar10"):
        merged(config_run, data="cifar10")  # a name of data, not a place
    with pytest.raises(UsageError, match=r"--augment: expected none, as in .*, found policy\.yaml"):
        merged(config_run, augment="policy.yaml")  # the run had the default policy
    with pytest.raises(UsageError, match=r"--bs: expected 16, as in .*, found 32"):
        merged(config_run, batch_size=32)
    config_run.write_config(replace(own, data="shapes", augment="old.yaml"))
    assert merged(config_run, augment="new.yaml").augment == "new.yaml"
    with pytest.raises(UsageError, match=r"--data: expected shapes, as in .*, found /moved"):
        merged(config_run, data="/moved")


@pytest.mark.parametrize("missing", ["data", "batch_size", "epochs", "lr_max"])
def test_the_configuration_of_another_command_is_not_resumed(config_run: RunDir, missing: str) -> None:
    saved = {name: value for name, value in config_run.config().items() if name != missing}
    with pytest.raises(
        InputError, match=f"config.yaml: expected the configuration of a training, found none of {missing}"
    ):
        merge_resume_settings(saved, TrainConfig(), frozenset(), config_run.path)


def test_a_value_that_no_run_can_have_is_an_error_in_the_file(config_run: RunDir) -> None:
    with pytest.raises(InputError, match=rf"{config_run.path}/config\.yaml: .*epochs"):
        merge_resume_settings({**config_run.config(), "epochs": -1}, TrainConfig(), frozenset(), config_run.path)


def test_auto_learning_rates_are_accepted_where_the_run_found_its_own(config_run: RunDir) -> None:
    auto = {"lr_max": None}
    with pytest.raises(UsageError, match=r"--lr-max: expected 0\.1, as in .*, found None"):
        merged(config_run, **auto)
    # LRMIN alone is accepted where it is LRMAX / div_factor, as without the option.
    assert merged(config_run, lr_min=None).lr_min == 0.01
    config_run.write_config(replace(TrainConfig.from_dict(config_run.config()), lr_min=0.02))
    with pytest.raises(UsageError, match=r"--lr-min: expected 0\.02, as in .*, found None"):
        merged(config_run, lr_min=None)
    (config_run.path / "history.csv").write_text("")  # the rows of the run's range test
    assert (merged(config_run, lr_max=None, lr_min=None).lr_max, merged(config_run, lr_min=None).lr_min) == (0.1, 0.02)
    with pytest.raises(UsageError, match="--seed"):
        merged(config_run, lr_max=None, seed=4)
    (config_run.path / "history.csv").unlink()
    config_run.write_environment({"range_test": {"lr_min": 0.02}})
    assert merged(config_run, lr_max=None, lr_min=None).lr_max == 0.1


@pytest.mark.parametrize(
    ("saved", "current", "words"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "the same name.a.c: 2, found 3"),
        ({"a": 1}, {"a": 1, "b": 2}, "the same name.b: None, found 2"),
        ({"a": 1, "b": 2}, {"a": 1}, "the same name.b: 2, found None"),
        ([1, [2, 3]], [1, [2, 4]], r"the same name\[1\]\[1\]: 3, found 4"),
        ([1, 2], [1], r"the same name: \[1, 2\], found \[1\]"),
        (["a", 5], ["b", 6], r"the same name\[0\]: 'a', found 'b'"),
        ([1], {"a": 1}, r"the same name: \[1\], found \{'a': 1\}"),
    ],
)
def test_the_first_difference_is_named(saved: Any, current: Any, words: str) -> None:
    _check_equal(Path("x"), "name", saved, saved)
    with pytest.raises(InputError, match=f"{words}. Start a new run"):
        _check_equal(Path("x"), "name", saved, current)


def test_a_resume_warns_of_another_environment(tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path) -> None:
    run = stopped_run(tiny_data, tiny_config, tmp_path / "runs", 1)
    environment = json.loads((run / "environment.json").read_text())
    environment["versions"]["torch"] = "1.0"
    (run / "environment.json").write_text(json.dumps(environment))
    with pytest.warns(UserWarning, match="torch") as caught:
        Trainer(tiny_data, tiny_config).resume(run)
    assert "1.0" in str(caught[0].message)
    assert len(caught) == 1
