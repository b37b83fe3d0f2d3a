"""How options are made and shown, and what a closed stream does. Run: pytest tests/cli/test_options.py."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scsuite.cli.app import app, main
from scsuite.cli.options import options
from scsuite.core.config import (
    GROUPS,
    EvaluateConfig,
    GradcamConfig,
    LrRangeConfig,
    TrainConfig,
    ZigzagConfig,
    parse_number,
)
from scsuite.core.errors import UsageError


@pytest.mark.parametrize("config", [EvaluateConfig, GradcamConfig, LrRangeConfig, TrainConfig, ZigzagConfig])
def test_every_parser_has_the_name_that_click_asks_for(config: type) -> None:
    command = options(config)(lambda _config, _output: None)
    annotations = [parameter.annotation for parameter in inspect.signature(command).parameters.values()]
    aliases = [annotation.__metadata__[0] for annotation in annotations if hasattr(annotation, "__metadata__")]
    parsers = [alias.parser for alias in aliases if alias.parser is not None]
    assert parsers
    assert all(isinstance(parser.__name__, str) for parser in parsers)


@pytest.mark.parametrize("text", ["1_000", " 3", "٣", "0x10", "", "1e-400"])
def test_a_number_is_read_as_people_write_it(text: str) -> None:
    with pytest.raises(UsageError, match="--lr-max"):
        parse_number(text, float, "--lr-max", allow_auto=True)
    assert parse_number("1e-3", float, "--lr-max", allow_auto=True) == 0.001
    assert parse_number("auto", float, "--lr-max", allow_auto=True) is None


@pytest.mark.parametrize("name", ["zigzag", "lr-range", "train", "evaluate", "gradcam"])
def test_help_is_grouped_has_two_examples_and_fits_80_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "-h"]) == 0
    short = capsys.readouterr().out
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text == short
    assert max(map(len, text.splitlines())) <= 80
    headings = re.findall(r"^(\S.*):$", text, flags=re.MULTILINE)
    assert headings == [group for group in GROUPS if group in headings]
    assert {"Learning rate", "Output"} <= set(headings) or {"Data", "Compute", "Output"} <= set(headings)
    assert text.split("Examples:")[1].count(f"scsuite {name}") == 2


def test_the_list_of_commands_has_complete_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    commands = capsys.readouterr().out.split("Commands:\n")[1].rstrip().splitlines()
    assert len(commands) == len(app.registered_commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("Usage: scsuite ")
    assert captured.err == ""


def test_a_broken_stderr_does_not_cost_the_json(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "scsuite", "zigzag", "--json", "--runs-dir", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=writing, check=False, text=True,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 0
    assert json.loads(done.stdout)["command"] == "zigzag"
