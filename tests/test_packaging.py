"""The wheel: what it contains, and that it runs where only it is installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from scsuite import __version__
from tests.conftest import REPOSITORY


def run(*command: object, cwd: Path) -> str:
    """Run a command without this session's import path, and return its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    completed = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout, so that no file is left in it."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(REPOSITORY / "scsuite", source / "scsuite", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", ".", cwd=source)
    (path,) = (source / "dist").iterdir()
    return path


def test_the_wheel_contains_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    top_folders = {name.partition("/")[0] for name in names}
    assert top_folders == {"scsuite", f"scsuite-{__version__}.dist-info"}
    assert "scsuite/py.typed" in names
    package = REPOSITORY / "scsuite"
    files = {f"scsuite/{path.relative_to(package).as_posix()}" for path in package.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert {name for name in names if name.startswith("scsuite/")} == expected


def test_the_console_script_of_the_wheel_runs_in_a_new_environment(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python, program = venv / "bin" / "python", venv / "bin" / "scsuite"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # the packages that scsuite needs
    assert run(program, "--version", cwd=tmp_path) == f"scsuite {__version__}\n"
    assert Path(run(python, "-c", "import scsuite; print(scsuite.__file__)", cwd=tmp_path).strip()).is_relative_to(site)
    run(program, "zigzag", "--step-size", 4, "--quiet", "--runs-dir", "runs", cwd=tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 1
