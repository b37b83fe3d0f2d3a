"""The wheel: what is in it, and that it runs where only it is installed."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from scsuite import __version__

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what a checkout holds, so that nothing is left behind in it."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(REPOSITORY / "scsuite", source / "scsuite", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", ".", cwd=source)
    (built,) = (source / "dist").iterdir()
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"scsuite", f"scsuite-{__version__}.dist-info"}
    assert "scsuite/py.typed" in names
    inside = {name for name in names if name.startswith("scsuite/")}
    package = REPOSITORY / "scsuite"
    files = {f"scsuite/{path.relative_to(package).as_posix()}" for path in package.rglob("*") if path.is_file()}
    assert inside == {name for name in files if "__pycache__" not in name}


def test_the_wheels_console_script_runs_from_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=tmp_path)
    python = fresh / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # the packages that scsuite needs
    assert run(fresh / "bin" / "scsuite", "--version", cwd=tmp_path) == f"scsuite {__version__}\n"
    assert Path(run(python, "-c", "import scsuite; print(scsuite.__file__)", cwd=tmp_path).strip()).is_relative_to(own)
    run(fresh / "bin" / "scsuite", "zigzag", "--step-size", 4, "--quiet", "--runs-dir", "runs", cwd=tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 1
