"""One run of each command, shared by all tests of the command line; nobody changes what these wrote."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cli.program import RECIPE, TINY, Answer, scsuite


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost a tiny network more than they give it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs directory of the runs below."""
    return tmp_path_factory.mktemp("shared") / "runs"


@pytest.fixture(scope="package")
def drawn(runs: Path, one_thread: None) -> Answer:
    return scsuite("zigzag", "--step-size", 4, "--cycles", 1, "--runs-dir", runs, "--json")


@pytest.fixture(scope="package")
def swept(runs: Path, one_thread: None) -> Answer:
    return scsuite("lr-range", *RECIPE, "--steps", 20, "--runs-dir", runs, "--json")


@pytest.fixture(scope="package")
def trained(runs: Path, one_thread: None) -> Answer:
    return scsuite(*TINY, "--runs-dir", runs, "--json")


@pytest.fixture(scope="package")
def evaluated(runs: Path, trained: Answer) -> Answer:
    return scsuite("evaluate", "--ckpt", trained.run_dir, "--runs-dir", runs, "--json")


@pytest.fixture(scope="package")
def explained(runs: Path, trained: Answer) -> Answer:
    return scsuite("gradcam", "--ckpt", trained.run_dir, "--count", 4, "--runs-dir", runs, "--json")
