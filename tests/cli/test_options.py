"""How options are made, and what a closed stream does. Run: pytest tests/cli/test_options.py."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scsuite.cli.options import _number_parser, options
from scsuite.core.config import EvaluateConfig, GradcamConfig, LrRangeConfig, TrainConfig, ZigzagConfig
from scsuite.core.errors import UsageError


@pytest.mark.parametrize("config", [EvaluateConfig, GradcamConfig, LrRangeConfig, TrainConfig, ZigzagConfig])
def test_every_parser_has_the_name_that_click_asks_for(config: type) -> None:
    command = options(config)(lambda _config, _output: None)
    annotations = [parameter.annotation for parameter in inspect.signature(command).parameters.values()]
    made = [annotation.__metadata__[0] for annotation in annotations if hasattr(annotation, "__metadata__")]
    parsers = [option.parser for option in made if option.parser is not None]
    assert parsers
    assert all(isinstance(parser.__name__, str) for parser in parsers)


@pytest.mark.parametrize("text", ["1_000", " 3", "٣", "0x10", "", "1e-400"])
def test_a_number_is_read_as_people_write_it(text: str) -> None:
    with pytest.raises(UsageError, match="--lr-max"):
        _number_parser(float, "--lr-max", auto=True)(text)
    assert _number_parser(float, "--lr-max", auto=True)("1e-3") == 0.001
    assert _number_parser(float, "--lr-max", auto=True)("auto") is None


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
