"""Runs the program as a user would, for the demonstration and the smoke run."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def scsuite(arguments: Sequence[str]) -> None:
    """Run a command on this terminal; its exit code ends the caller where it is not 0."""
    print(f"\n$ scsuite {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "scsuite", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def scsuite_json(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command with --json and return its object; what it tells people goes to stderr as always."""
    print(f"\n$ scsuite {' '.join(arguments)} --json", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "scsuite", *arguments, "--json"], check=False, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(done.returncode)
    result: dict[str, Any] = json.loads(done.stdout)
    return result
