"""The fault scorecard, thinned: every group whole. The full one is `make faults`. Run: pytest tests/faults."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.faults.groups import FULL_ONLY, GROUPS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, signals and limits are those of Linux")


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own: it forks for every case, which one that has used many threads must not."""
    path = tmp_path_factory.mktemp("faults") / "scorecard.json"
    command = [sys.executable, "-m", "tests.faults", "--quick", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=1200)
    assert path.exists(), done.stdout + done.stderr
    values: dict[str, Any] = json.loads(path.read_text())
    return values


@pytest.mark.parametrize("group", [name for name in GROUPS if name not in FULL_ONLY])
def test_every_fault_of_the_group_ends_as_it_must(group: str, card: dict[str, Any]) -> None:
    rows = [row for row in card["rows"] if row["group"] == group]
    assert sum(row["total"] for row in rows) > 0
    assert [failure for row in rows for failure in row["failures"]] == []
    assert all(row["passed"] == row["total"] for row in rows)
