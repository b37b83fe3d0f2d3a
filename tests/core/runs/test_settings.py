"""The settings of a training, and the command that repeats it."""

import shlex

import pytest

from scsuite.core.config import TrainConfig
from scsuite.core.runs.settings import repeat_command, train_settings
from tests.run_cli import run_cli

CONFIG = TrainConfig(data="shapes", epochs=8, lr_max=0.1 + 0.2, flip="none", cycle_momentum=True, seed=3)


def test_settings_that_are_not_at_their_default_come_first() -> None:
    settings = train_settings(CONFIG.to_dict())
    changed = [setting.name for setting in settings if setting.is_changed]
    assert sorted(changed) == ["cycle_momentum", "data", "epochs", "flip", "lr_max", "seed"]
    assert [setting.name for setting in settings][: len(changed)] == changed


def test_the_settings_of_another_version_are_kept() -> None:
    settings = {setting.name: setting for setting in train_settings({"epochs": 8, "no_longer": 3})}
    assert (settings["no_longer"].value, settings["no_longer"].flag, settings["no_longer"].is_changed) == (3, "", False)
    assert settings["batch_size"].value == TrainConfig().batch_size


def test_the_command_repeats_the_settings_exactly() -> None:
    words = repeat_command(CONFIG.to_dict())
    assert shlex.join(words) == (
        "scsuite train --data shapes --seed 3 --flip none --cycle-momentum --epochs 8 --lr-max 0.30000000000000004"
    )


def test_the_command_leaves_out_what_no_result_depends_on() -> None:
    assert repeat_command(TrainConfig(cache_dir="/tmp/x", workers=3).to_dict()) == ["scsuite", "train"]


def test_the_program_reads_the_command_as_the_same_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[TrainConfig] = []
    monkeypatch.setattr("scsuite.cli.train._start_new", lambda config, _session: read.append(config))
    others = (
        TrainConfig(deterministic=True, ema_epochs=0, augment_backend="batched", lr_from="RUN"),
        TrainConfig(recipe="assignment", label_smoothing=0.1),  # the default of the field, not of the recipe
        TrainConfig(recipe="cifar10-fast", lr_max=0.3),
    )
    for config in (CONFIG, *others):
        answer = run_cli(*repeat_command(config.to_dict())[1:])
        assert answer.code == 0, answer.err
        assert {**read[-1].to_dict(), "cache_dir": None} == {**config.to_dict(), "seeds": None, "target": None}
