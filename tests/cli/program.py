"""The program as scripts see it: arguments in; exit code, stdout and stderr out."""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scsuite.cli.app import main

DATA = ("--data", "shapes", "--limit-train", "200", "--limit-test", "100")
RECIPE = (*DATA, "--width", "0.05", "--bs", "64", "--workers", "0", "--device", "cpu")  # 4 steps an epoch
TINY = ("train", *RECIPE, "--epochs", "2", "--lr-max", "0.1")  # a second or two


@dataclass(frozen=True)
class Answer:
    """What one command came to."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object on stdout; stdout must hold nothing else, and the command must have succeeded."""
        assert self.code == 0, self.err
        values = json.loads(self.out)
        assert isinstance(values, dict)
        assert self.out.count("\n") == 1
        return values

    @property
    def run_dir(self) -> Path:
        """The run directory that the JSON object names."""
        return Path(self.result["run_dir"])


def scsuite(*arguments: object) -> Answer:
    """Run the program in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Answer(int(code), out.getvalue(), err.getvalue())


def child_environment(**more: str) -> dict[str, str]:
    """One thread, as this process has: the number of threads is a part of what makes two runs equal."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def scsuite_process(*arguments: object, **environment: str) -> Answer:
    """Run the program as a user does, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "scsuite", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, env=child_environment(**environment),
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)
