"""When the stages of a training end, and that its result is on disk before its figures are drawn."""

import json
from pathlib import Path
from typing import Any

import pytest

from scsuite.cli import train_display, train_figures
from scsuite.core.runs.rundir import RunDir
from tests.run_cli import run_cli
from tests.tiny_args import FAULT_TRAIN_ARGS


def test_the_result_is_complete_on_disk_before_the_figures_and_the_timeline_names_each_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_figures: list[dict[str, Any] | None] = []
    draw_figures = train_figures.draw_figures

    def draw(run: RunDir, *args: Any) -> list[Path]:
        assert not (run.path / "figures").exists()
        before_figures.append(run.result())
        return draw_figures(run, *args)

    monkeypatch.setattr(train_display, "draw_figures", draw)
    completed = run_cli(*FAULT_TRAIN_ARGS, "--runs-dir", tmp_path, "--json")
    (committed,) = before_figures
    assert committed is not None
    assert committed["final"] == completed.result["final"]
    assert (committed["figures"], len(completed.result["figures"])) == ([], 2)
    timeline = json.loads((completed.run_dir / "environment.json").read_text())["timeline"]
    seconds = timeline["seconds_since_start"]
    assert list(seconds) == ["imports", "data", "set_up", "first_step", "last_epoch", "result", "figures"]
    assert list(seconds.values()) == sorted(seconds.values())
    assert 0 < seconds["figures"] <= completed.result["seconds"]
    totals = timeline["seconds_in_all"]
    assert 0 < totals["evaluations"] < seconds["last_epoch"]
    assert 0 < totals["checkpoints"] < seconds["last_epoch"]
