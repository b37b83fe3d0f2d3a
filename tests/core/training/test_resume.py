"""Resuming from a file or a run directory. Run: pytest tests/core/training/test_resume.py."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.errors import InputError, UsageError
from scsuite.core.model.checkpoint import read_checkpoint, save_checkpoint
from scsuite.core.runs.checkpoints import latest_checkpoint, list_checkpoints
from scsuite.core.runs.rundir import RunDir
from scsuite.core.training.loop import fit
from scsuite.core.training.resume import load_history, load_state, merge_resume_settings, read_resume_config
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
    with pytest.raises(InputError, match=message):
        load_state(trainer, read_checkpoint(tmp_path / "state.safetensors"))


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
    other = replace(tiny_config, workers=1, cache_dir="elsewhere", data="moved")
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
