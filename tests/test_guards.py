"""What must hold of the source as a whole: who imports whom, what is never called, what --help costs and says."""

import ast
import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import scsuite
from scsuite.core.config import (
    EvaluateConfig,
    GradcamConfig,
    LrRangeConfig,
    TrainConfig,
    ZigzagConfig,
    flag_name,
)
from tests.cli.program import scsuite as program

PACKAGE = Path(scsuite.__file__).parent
DATA_SOURCES = sorted(PACKAGE.rglob("*.py"))
ROOMS = (  # design.md's order: each room imports only rooms above it
    "errors", "config", "files", "schedule", "distributed", "dataset", "augment", "loader", "model", "average",
    "metrics", "checkpoint", "loop", "sweep", "cam", "rundir",
)  # fmt: skip
CONFIGS = {
    "zigzag": ZigzagConfig, "lr-range": LrRangeConfig, "train": TrainConfig, "evaluate": EvaluateConfig,
    "gradcam": GradcamConfig,
}  # fmt: skip
COMMON = "--data --data-dir --cache-dir --runs-dir --name --seed --device --precision --config --json --quiet --debug"
RECIPE = f"{COMMON} --workers --width --limit-train --limit-test --bs --batch-size --val-split --augment-engine"
CONTRACT = {  # design.md, "Commands"; --ema, --recipe, --seeds and --target come with later issues
    "zigzag": "--lr-min --lr-max --step-size --cycles --policy --epochs --peak-epoch --steps-per-epoch --run --out "
    "--csv --runs-dir --name --config --json --quiet --debug",
    "lr-range": f"{RECIPE} --lr-start --lr-end --steps --epochs --curve --repeats",
    "train": f"{RECIPE} --epochs --peak-epoch --lr-max --lr-min --div-factor --lr-from --no-cycle-momentum --optimizer "
    "--weight-decay --l1 --label-smoothing --dropout --augment --resume --deterministic",
    "evaluate": f"{COMMON} --limit-test --ckpt --tta --misclassified",
    "gradcam": f"{COMMON} --limit-test --ckpt --method --layer --list-layers --class --select --images --count "
    "--raw --overlays",
}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in DATA_SOURCES:
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8"))


def imports_of(tree: ast.AST, *, at_run_time: bool = False) -> Iterator[str]:
    """Full names of all modules that are imported anywhere; without those under `if TYPE_CHECKING` if so wished."""
    for node in ast.iter_child_nodes(tree):
        if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their direction"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports_of(node, at_run_time=at_run_time)


def calls_of(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


# --- who imports whom ---


def test_each_room_of_core_imports_only_rooms_above_it() -> None:
    seen = set()
    for name, tree in trees():
        if not name.startswith("core/") or name == "core/__init__.py":
            continue
        room = name.removeprefix("core/").split("/")[0].removesuffix(".py")
        assert room in ROOMS, f"{name}: a room that design.md does not name"
        seen.add(room)
        for target in imports_of(tree):
            if target.startswith("scsuite.core."):
                above = target.split(".")[2]
                assert ROOMS.index(above) <= ROOMS.index(room), f"{name} imports {target}"
            else:
                assert not target.startswith(("scsuite.cli", "scsuite.report")), f"{name} imports {target}"
    assert len(seen) >= 14


def test_core_is_free_of_terminals_and_figures() -> None:
    for name, tree in trees():
        if name.startswith("core/"):
            packages = {target.split(".")[0] for target in imports_of(tree)}
            assert not packages & {"typer", "click", "rich", "matplotlib"}, name


def test_report_renders_and_computes_nothing() -> None:
    for name, tree in trees():
        if name.startswith("report/"):
            for target in imports_of(tree, at_run_time=True):
                assert not target.startswith(("scsuite.cli", "torch")), f"{name} imports {target}"
                if target.startswith("scsuite.core."):
                    assert target.split(".")[2] in ("errors", "files", "schedule"), f"{name} imports {target}"


def test_nothing_but_the_terminal_and_main_prints() -> None:
    printers = {
        name for name, tree in trees() for called, _ in calls_of(tree) if called in ("print", "sys.stdout.write")
    }
    assert printers <= {"cli/app.py", "cli/terminal.py"}


# --- what is never called ---

FORBIDDEN = {
    "torch.load", "pickle.load", "pickle.loads", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "yaml.load_all", "eval", "exec", "os.system", "os.popen", "tarfile.extractall",
    "tempfile.mktemp", "numpy.load", "np.load",
}  # fmt: skip


def test_nothing_from_a_file_can_be_executed() -> None:
    num_calls = 0
    for name, tree in trees():
        for called, node in calls_of(tree):
            num_calls += 1
            where = f"{name}:{node.lineno}: {called}"
            assert called not in FORBIDDEN, where
            assert not called.endswith((".extractall", ".extract")), where
            for keyword in node.keywords:
                assert not (keyword.arg == "shell" and ast.unparse(keyword.value) != "False"), where
                assert not (keyword.arg in ("allow_pickle", "Loader") and "Unsafe" in ast.unparse(keyword.value)), where
    assert num_calls > 1000  # it did look


def test_yaml_is_read_by_the_safe_loader_alone() -> None:
    for name, tree in trees():
        text = ast.unparse(tree)
        for loader in ("UnsafeLoader", "FullLoader", "yaml.Loader", "yaml.CLoader"):
            assert loader not in text, name


# --- what --help costs and says ---


def test_help_imports_nothing_heavy() -> None:
    commands = [["--help"], ["--version"], *([name, "--help"] for name in CONFIGS)]
    code = (
        "import contextlib, io, json, sys\n"
        "from scsuite.cli.app import main\n"
        f"for arguments in {commands!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        assert main(arguments) == 0, arguments\n"
        "    assert out.getvalue()\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"torch", "torchvision", "albumentations", "matplotlib", "numpy", "PIL", "cv2", "safetensors", "yaml"}
    assert not heavy & set(json.loads(done.stdout))


def test_the_library_imports_no_torch_until_it_is_used() -> None:
    code = "import sys, scsuite; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_librarys_names_are_callable() -> None:
    names = [name for name in scsuite.__all__ if name != "__version__"]
    assert set(names) >= {
        "build_model", "evaluate", "fit", "grad_cam", "load_checkpoint", "load_dataset", "one_cycle", "range_test",
        "triangular",
    }  # fmt: skip
    assert all(callable(getattr(scsuite, name)) for name in names)
    assert set(names) <= set(dir(scsuite))
    with pytest.raises(AttributeError, match="no_such_name"):
        scsuite.no_such_name  # noqa: B018


def test_the_version_is_one_everywhere() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scsuite", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"scsuite {scsuite.__version__}\n"
    assert metadata.version("scsuite") == scsuite.__version__


def test_every_public_thing_says_what_it_is() -> None:
    for module in modules():
        assert module.__doc__, module.__name__
        for name, thing in vars(module).items():
            own = inspect.isfunction(thing) or inspect.isclass(thing)
            if own and not name.startswith("_") and getattr(thing, "__module__", "") == module.__name__:
                assert inspect.getdoc(thing), f"{module.__name__}.{name}"


def modules() -> list[ModuleType]:
    names = [".".join(("scsuite", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in DATA_SOURCES]
    return [importlib.import_module(name.removesuffix(".__init__")) for name in names if not name.endswith("__main__")]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The text of each command's --help on a wide terminal, a line an option."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "400")
        patch.setenv("TERMINAL_WIDTH", "400")
        return {name: program(name, "--help").out for name in CONFIGS}


@pytest.mark.parametrize("command", CONFIGS)
def test_help_offers_every_option_of_the_contract(command: str, helps: dict[str, str]) -> None:
    offered = set(re.findall(r"--[a-z0-9-]+", helps[command]))
    assert set(CONTRACT[command].split()) - offered == set()


def shown_default(item: dataclasses.Field[Any]) -> str | None:
    if item.default is dataclasses.MISSING or item.default is None or item.default == ():
        return None
    if isinstance(item.default, bool):
        two_sided, sign = "flags" not in item.metadata, "" if item.default else "no-"
        return sign + flag_name(item).removeprefix("--") if item.default or two_sided else None
    return str(item.default)


@pytest.mark.parametrize("command", CONFIGS)
def test_help_shows_the_defaults_that_the_configurations_have(command: str, helps: dict[str, str]) -> None:
    num_shown = 0
    for item in dataclasses.fields(CONFIGS[command]):
        line = next(line for line in helps[command].splitlines() if re.search(rf"│[ *]+{flag_name(item)}[\s,]", line))
        if (default := shown_default(item)) is not None:
            num_shown += 1
            assert f"[default: {default}]" in line
        elif item.metadata.get("auto"):
            assert re.search(r"\[default: \(?auto\)?\]", line)
        else:
            assert "[default:" not in line
    assert num_shown >= 2
