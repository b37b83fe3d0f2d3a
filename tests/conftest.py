"""What all tests share: a cache folder of their own, and the archive of real images where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `scsuite.cli.app.main` does, before torch is loaded

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache folder a session, so that no test touches the user's and real images are decoded once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCSUITE_CACHE", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder))
        for name in ("SCSUITE_DATA", "SCSUITE_RUNS", "SCSUITE_CIFAR10_URL"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def real_archive() -> Path:
    """CIFAR-10 as JPEG files; tests that use it carry the mark `real`."""
    named = os.environ.get("SCSUITE_TEST_ARCHIVE")
    path = Path(named) if named else REPOSITORY.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
    if not path.is_file():
        pytest.skip("no archive of real images: set SCSUITE_TEST_ARCHIVE")
    return path
