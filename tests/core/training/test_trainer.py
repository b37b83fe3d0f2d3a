"""The Trainer as Python code uses it. Run: pytest tests/core/training/test_trainer.py."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from scsuite.core.config import LrRangeConfig, TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.errors import InputError, UsageError
from scsuite.core.lr_range.range_test import range_test
from scsuite.core.model.checkpoint import read_checkpoint
from scsuite.core.runs.checkpoints import list_checkpoints
from scsuite.core.runs.results import EpochResult, StepRow, TrainResult, read_epochs, read_steps
from scsuite.core.runs.rundir import RunDir
from scsuite.core.training import checkpoint_schedule
from scsuite.core.training.trainer import Trainer
from tests.core.tiny import CONFIG, dataset, equal_tensors, train, train_until


def test_lr_max_alone_gives_a_tenth_of_it_as_lr_min(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    trainer = Trainer(tiny_data, tiny_config)
    assert trainer.cycle.lr_min == trainer.config.lr_min == pytest.approx(0.01)


def test_a_training_without_learning_rates_is_refused(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    with pytest.raises(UsageError, match="--lr-max: expected a learning rate, found none"):
        Trainer(tiny_data, replace(tiny_config, lr_max=None))


def test_epochs_and_steps_are_kept_as_they_are_reported(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    trainer, epochs = Trainer(tiny_data, tiny_config), list[EpochResult]()
    steps = train_until(trainer, 7).steps
    assert [row.step for row in steps] == list(range(7))
    returned = trainer.fit(on_epoch=epochs.append)
    assert trainer.finished
    assert returned is trainer.epochs
    assert [epoch.epoch for epoch in returned] == [1, 2, 3]
    assert epochs == returned[1:]
    assert [row.step for row in trainer.steps] == list(range(15))
    assert trainer.steps[3] == StepRow(3, trainer.cycle.lr_at(3), 0.9, trainer.steps[3].loss)
    assert trainer.history().epochs == tuple(returned)
    assert trainer.history().steps_per_epoch == 5


def test_a_run_directory_holds_what_the_trainer_holds(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_data, replace(tiny_config, ema_epochs=1))
    trainer.fit(tmp_path)
    (run,) = tmp_path.iterdir()
    assert read_epochs(run) == trainer.epochs
    assert read_steps(run) == trainer.steps
    assert yaml.safe_load((run / "config.yaml").read_text()) == trainer.config.to_dict()
    environment = json.loads((run / "environment.json").read_text())
    assert environment["one_cycle"] == asdict(trainer.cycle)
    assert environment["augment_backend"] == trainer.setup.backend.to_dict()
    result = json.loads((run / "result.json").read_text())
    assert list(result) == list(TrainResult.__dataclass_fields__)
    assert result["final"]["test_accuracy"] == trainer.epochs[-1].test_accuracy
    assert result["final"]["test_loss_no_ema"] == trainer.epochs[-1].test_loss_no_ema is not None
    assert result["best"]["selected_on"] == "test"
    assert equal_tensors(read_checkpoint(list_checkpoints(run)[0]).tensors, trainer.state_tensors())
    model = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    assert equal_tensors(read_checkpoint(Path(result["checkpoint"])).tensors, model)


def test_a_stopped_run_directory_has_a_checkpoint_and_no_result(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_data, tiny_config)
    trainer.fit(tmp_path, should_stop=lambda: trainer.state.step == 7)
    (run,) = tmp_path.iterdir()
    assert not (run / "result.json").exists()
    assert list_checkpoints(run)[0].name == "step-000007.safetensors"


def test_the_state_is_saved_after_each_epoch_unless_saving_takes_too_long(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scsuite.core.runs.checkpoints.NUM_CHECKPOINTS_KEPT", 9)
    config = replace(tiny_config, epochs=6)

    def saved_steps(name: str, seconds_of_a_save: float) -> list[int]:
        """The steps of all checkpoints; time passes only in steps, 1 s each, and in saves."""
        now, trainer = [0.0], Trainer(tiny_data, config)
        monkeypatch.setattr(checkpoint_schedule, "time", SimpleNamespace(perf_counter=lambda: now[0]))
        save = RunDir.save_checkpoint

        def slow_save(run: RunDir, *args: Any) -> None:
            save(run, *args)
            now[0] += seconds_of_a_save

        with monkeypatch.context() as patch:
            patch.setattr(RunDir, "save_checkpoint", slow_save)
            trainer.fit(tmp_path / name, on_step=lambda _: now.__setitem__(0, now[0] + 1))
        (run,) = (tmp_path / name).iterdir()
        return sorted(int(path.stem.removeprefix("step-")) for path in list_checkpoints(run))

    # A save takes at most 2 % of the time: one of 0.09 s fits in each epoch of 5 s; after one of 0.15 s, 7.5 s have to
    # pass, which is two epochs. The first epoch and the end are always saved.
    assert saved_steps("quick", 0.09) == [5, 10, 15, 20, 25, 30]
    assert saved_steps("slow", 0.15) == [5, 15, 25, 30]
    assert saved_steps("slowest", 100.0) == [5, 30]


def test_best_weights_are_kept_if_held_out_images_selected_them(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    with_val = Trainer(tiny_data, replace(tiny_config, val_split=12))
    with_val.fit(tmp_path / "val")
    Trainer(tiny_data, tiny_config).fit(tmp_path / "test")
    assert list(tmp_path.glob("val/*/best.safetensors"))
    assert not list(tmp_path.glob("test/*/best.safetensors"))


def test_evaluate_takes_the_test_images_and_the_averaged_weights(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    trainer = Trainer(tiny_data, replace(tiny_config, ema_epochs=1))
    train(trainer)
    last = trainer.epochs[-1]
    assert trainer.model is not trainer.raw_model
    assert trainer.evaluate().loss == last.test_loss
    assert trainer.evaluate(model=trainer.raw_model).loss == last.test_loss_no_ema
    assert trainer.evaluate(tiny_data.train).loss != last.test_loss


def test_images_of_one_class_are_refused_before_training() -> None:
    one_class = dataset(60, 12, num_classes=1)
    data = replace(one_class, class_names=("a", "b"))
    with pytest.raises(InputError, match="expected images of two or more classes, found one class"):
        Trainer(data, CONFIG)
    with pytest.raises(InputError, match="expected images of two or more classes, found one class"):
        range_test(data, LrRangeConfig(batch_size=16, width=0.05, steps=10, device="cpu"))


def test_arguments_of_another_class_are_named(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    range_config: Any = LrRangeConfig(batch_size=16)
    nothing: Any = None
    with pytest.raises(TypeError, match="data: expected a Dataset, found a NoneType"):
        Trainer(nothing, tiny_config)
    with pytest.raises(TypeError, match="config: expected a TrainConfig, found a LrRangeConfig"):
        Trainer(tiny_data, range_config)
    with pytest.raises(TypeError, match="config: expected a LrRangeConfig, found a NoneType"):
        range_test(tiny_data, nothing)
