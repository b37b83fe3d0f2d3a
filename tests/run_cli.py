"""Run the program as scripts or users do. In: command-line arguments. Out: exit code and output, or the JSON."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scsuite.cli.app import main


@dataclass(frozen=True)
class CliResult:
    """Exit code and output of one command."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object on stdout; the command must have succeeded and printed nothing else there."""
        assert self.code == 0, self.err
        values = json.loads(self.out)
        assert isinstance(values, dict)
        assert self.out.count("\n") == 1
        return values

    @property
    def run_dir(self) -> Path:
        """The run directory that the JSON object names."""
        return Path(self.result["run_dir"])


def run_cli(*arguments: object) -> CliResult:
    """Run the program in this process: much faster than a new process, which must import torch."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return CliResult(int(code), out.getvalue(), err.getvalue())


def child_environment(**variables: str) -> dict[str, str]:
    """Environment of a child process: one thread, as in this process, since results depend on the thread count."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


def run_cli_process(*arguments: object, **variables: str) -> CliResult:
    """Run the program in a new process, with these environment variables."""
    completed = subprocess.run(
        [sys.executable, "-m", "scsuite", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, env=child_environment(**variables),
    )  # fmt: skip
    return CliResult(completed.returncode, completed.stdout, completed.stderr)


def run_or_exit(arguments: Sequence[str]) -> None:
    """Run a command on this terminal; exit with its code if it fails."""
    print(f"\n$ scsuite {' '.join(arguments)}", flush=True)
    completed = subprocess.run([sys.executable, "-m", "scsuite", *arguments], check=False)
    if completed.returncode:
        sys.exit(completed.returncode)


def run_json_or_exit(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command with --json and return its object; exit with its code if it fails."""
    print(f"\n$ scsuite {' '.join(arguments)} --json", flush=True)
    completed = subprocess.run(
        [sys.executable, "-m", "scsuite", *arguments, "--json"], check=False, stdout=subprocess.PIPE, text=True
    )
    if completed.returncode:
        sys.exit(completed.returncode)
    result: dict[str, Any] = json.loads(completed.stdout)
    return result
