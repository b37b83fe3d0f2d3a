"""Fixtures of the core's tests: the data and the configuration of tests/core/tiny.py."""

import pytest

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset
from tests.core import tiny


@pytest.fixture(scope="session")
def tiny_data() -> Dataset:
    """72 training and 30 test images of three classes."""
    return tiny.dataset(72, 30)


@pytest.fixture
def tiny_config() -> TrainConfig:
    """Three epochs of five steps, the last of eight images."""
    return tiny.CONFIG
