"""Set-up of all tests: one thread per process, one cache folder, and the archive of real images where there is one.

`make test` runs the tests in several processes (pytest-xdist).
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported. One thread per process: the workers of pytest-xdist share the cores, and on networks this
# small a second thread costs more than it gives.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the program does
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the package index for a newer version

REPOSITORY = Path(__file__).resolve().parents[1]
SLOW_FILES = (  # these start first, so that no process still has a long file to run when the others have ended
    "core/test_distributed.py", "test_readme.py", "cli/test_train.py", "cli/test_seeds.py", "cli/test_signals.py",
    "cli/test_errors.py", "test_python_api.py", "report/figures/test_style.py", "cli/test_contract.py",
    "core/lr_range/test_range_test.py", "report/figures/test_gradcam.py", "core/training/test_resume.py",
    "report/figures/test_lr_range.py", "cli/test_lr_range.py", "core/augment/test_default.py", "cli/test_terminal.py",
    "core/training/test_workers.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow files first; the order within a file stays."""
    places = {REPOSITORY / "tests" / name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache folder per process, so that no test touches the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCSUITE_CACHE", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder))
        for name in ("SCSUITE_DATA", "SCSUITE_RUNS", "SCSUITE_CIFAR10_URL"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def real_archive() -> Path:
    """CIFAR-10 as JPEG files; tests that use it have the mark `real`."""
    given = os.environ.get("SCSUITE_TEST_ARCHIVE")
    path = Path(given) if given else REPOSITORY.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
    if not path.is_file():
        pytest.skip("no archive of real images: set SCSUITE_TEST_ARCHIVE")
    return path
