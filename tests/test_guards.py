"""Rules for the source code as a whole: sizes, imports, forbidden calls, declared packages, options, --help, the API.

In: the source files of scsuite. Out: the place of each violation.
"""

import ast
import dataclasses
import functools
import graphlib
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import scsuite
from scsuite.core.config import (
    EvaluateConfig,
    GradcamConfig,
    LrRangeConfig,
    PredictConfig,
    ReportConfig,
    TrainCommandConfig,
    ZigzagConfig,
    flag_name,
)
from tests.conftest import REPOSITORY
from tests.run_cli import run_cli

PACKAGE = Path(scsuite.__file__).parent
CONFIGS = {
    "zigzag": ZigzagConfig, "lr-range": LrRangeConfig, "train": TrainCommandConfig, "evaluate": EvaluateConfig,
    "gradcam": GradcamConfig, "predict": PredictConfig, "report": ReportConfig,
}  # fmt: skip


@functools.cache
def source_trees() -> dict[str, ast.Module]:
    """The syntax tree of each source file, by its path below the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


class Import(NamedTuple):
    """The full name of what is imported; lazy where the import is inside a function."""

    name: str
    lazy: bool
    for_types_only: bool


def find_imports(tree: ast.AST, *, lazy: bool = False, for_types_only: bool = False) -> Iterator[Import]:
    """All imports of a file."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy, for_types_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their direction"
            yield from (Import(f"{node.module}.{alias.name}", lazy, for_types_only) for alias in node.names)
        else:
            is_type_check = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from find_imports(
                node, lazy=lazy or is_function, for_types_only=for_types_only or is_type_check
            )  # fmt: skip


def find_calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """The name of each called function, and the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


# --- sizes, in lines ---

MAX_FILE_LINES = {"core": 320, "report": 320, "cli": 140}
MAX_CLASS_LINES, MAX_FUNCTION_LINES = 150, 60


def test_files_classes_and_functions_are_short() -> None:
    too_long = []
    for name, tree in source_trees().items():
        num_lines = len((PACKAGE / name).read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_FILE_LINES.get(name.split("/")[0], MAX_FILE_LINES["cli"]):
            too_long.append(f"{name}: {num_lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                limit = MAX_CLASS_LINES if isinstance(node, ast.ClassDef) else MAX_FUNCTION_LINES
                num_lines = (node.end_lineno or 0) - node.lineno + 1
                if num_lines > limit:
                    too_long.append(f"{name}:{node.lineno}: {node.name} has {num_lines} lines")
    assert not too_long


# --- imports ---

# The order of scsuite/core: a file imports only from its own folder and from what stands before it.
LAYERS = (
    "errors", "config", "flush", "files", "seeding", "schedule", "distributed", "device", "dataset", "augment", "model",
    "evaluation", "runs", "training", "lr_range", "cam",
)  # fmt: skip
# The order inside a folder, where it is one.
FILES = {
    "model": (
        "ghost_norm", "network", "initialization", "ema", "summary", "checkpoint_size", "checkpoint", "classifier",
    ),
    "evaluation": ("metrics", "evaluate", "predict"),
    "runs": (
        "csv_files", "results", "unfinished", "environment", "find_runs", "checkpoints", "run_schedule", "rundir",
        "settings", "summary", "train_summary", "comparison",
    ),
    "training": (
        "workers", "loader", "optimizer", "own_network", "setup", "step", "step_graph", "state", "trainer",
        "checkpoint_schedule", "loop", "resume", "seeds",
    ),
    "lr_range": ("sweep", "rules", "run_sweep", "range_test"),
    "cam": ("maps", "faithfulness", "select", "inputs"),
    "config": ("fields", "recipe", "training", "commands"),
}  # fmt: skip
# Methods of the public API call functions of later modules, which are imported when the method runs.
API_METHODS = {
    "core/schedule.py": ("scsuite.core.training.optimizer",),
    "core/dataset/split.py": ("scsuite.core.dataset.arrays",),
    "core/training/trainer.py": ("scsuite.core.training.loop", "scsuite.core.training.resume", "scsuite.report."),
    "core/lr_range/range_test.py": ("scsuite.report.",),
}


def core_files() -> Iterator[tuple[str, list[str], list[Import]]]:
    """Each file of core: its path, the parts of its path below core, its imports; without those of API methods."""
    for name, tree in source_trees().items():
        if name.startswith("core/") and name != "core/__init__.py":
            allowed = API_METHODS.get(name, ())
            imports = [item for item in find_imports(tree) if not (item.lazy and item.name.startswith(allowed))]
            yield name, name.removeprefix("core/").removesuffix(".py").split("/"), imports


def test_core_imports_only_earlier_layers() -> None:
    wrong, layers = [], set()
    for name, (layer, *_), imports in core_files():
        assert layer in LAYERS, f"{name}: not in the layout of scsuite/README.md"
        layers.add(layer)
        for item in imports:
            if item.name.startswith("scsuite.core."):
                if LAYERS.index(item.name.split(".")[2]) > LAYERS.index(layer):
                    wrong.append(f"{name} imports {item.name}")
            elif item.name.startswith(("scsuite.cli", "scsuite.report")) and not item.for_types_only:
                wrong.append(f"{name} imports {item.name}")
    assert not wrong
    assert layers == set(LAYERS)


def test_files_of_a_folder_of_core_import_each_other_in_one_direction() -> None:
    wrong, graphs = [], dict[str, dict[str, set[str]]]()
    for name, parts, imports in core_files():
        if len(parts) < 2 or parts[1] == "__init__":
            continue
        folder, file = parts[0], parts[1]
        prefix = f"scsuite.core.{folder}."
        targets = {item.name.removeprefix(prefix).split(".")[0] for item in imports if item.name.startswith(prefix)}
        graphs.setdefault(folder, {})[file] = targets
        if order := FILES.get(folder):
            assert file in order, f"{name}: not in the order of its folder"
            wrong += [f"{name} imports {target}" for target in targets if order.index(target) >= order.index(file)]
    assert not wrong
    for graph in graphs.values():
        graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_core_is_free_of_terminals_and_figures() -> None:
    for name, tree in source_trees().items():
        if name.startswith("core/"):
            packages = {item.name.split(".")[0] for item in find_imports(tree) if not item.for_types_only}
            assert not packages & {"typer", "click", "rich", "matplotlib"}, name


def test_no_command_imports_another() -> None:
    commands = {command.replace("-", "_") for command in (*CONFIGS, "report")}
    for name, tree in source_trees().items():
        if name.startswith("cli/") and name != "cli/app.py":
            others = commands - {name.removeprefix("cli/").removesuffix(".py")}
            for item in find_imports(tree):
                assert not (item.name.startswith("scsuite.cli.") and item.name.split(".")[2] in others), (
                    f"{name} imports {item.name}"
                )


def test_report_renders_and_computes_nothing() -> None:
    allowed = ("errors", "files", "schedule", "runs")  # and any result for its type
    for name, tree in source_trees().items():
        if name.startswith("report/"):
            for item in find_imports(tree):
                assert not item.name.startswith("scsuite.cli"), f"{name} imports {item.name}"
                if not item.for_types_only:
                    assert not item.name.startswith("torch"), f"{name} imports {item.name}"
                    if item.name.startswith("scsuite.core."):
                        assert item.name.split(".")[2] in allowed, f"{name} imports {item.name}"


def test_only_the_command_line_prints() -> None:
    for name, tree in source_trees().items():
        if not name.startswith("cli/"):
            assert not [called for called, _ in find_calls(tree) if called in ("print", "sys.stdout.write")], name


PACKAGE_NAMES = {"PIL": "pillow", "yaml": "pyyaml", "cv2": "opencv-python-headless"}  # where it is not the module's


def test_the_declared_packages_are_the_imported_ones() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=!~ \[]", requirement)[0] for requirement in project["dependencies"]}
    modules = {item.name.split(".")[0] for tree in source_trees().values() for item in find_imports(tree)}
    third_party = modules - set(sys.stdlib_module_names) - {"scsuite"}
    assert declared == {PACKAGE_NAMES.get(module, module) for module in third_party}


# --- forbidden calls ---

FORBIDDEN_CALLS = {
    "torch.load", "pickle.load", "pickle.loads", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "yaml.load_all", "eval", "exec", "os.system", "os.popen", "tarfile.extractall",
    "tempfile.mktemp", "numpy.load", "np.load",
}  # fmt: skip


def test_nothing_from_a_file_can_be_executed() -> None:
    num_calls = 0
    for name, tree in source_trees().items():
        for called, node in find_calls(tree):
            num_calls += 1
            place = f"{name}:{node.lineno}: {called}"
            assert called not in FORBIDDEN_CALLS, place
            assert not called.endswith((".extractall", ".extract")), place
            for keyword in node.keywords:
                assert not (keyword.arg == "shell" and ast.unparse(keyword.value) != "False"), place
                assert not (keyword.arg in ("allow_pickle", "Loader") and "Unsafe" in ast.unparse(keyword.value)), place
    assert num_calls > 1000


def test_yaml_is_read_by_the_safe_loader_alone() -> None:
    for name in source_trees():
        text = (PACKAGE / name).read_text(encoding="utf-8")
        for loader in ("UnsafeLoader", "FullLoader", "yaml.Loader", "yaml.CLoader"):
            assert loader not in text, name


# --- options and --help ---


def attributes_of(tree: ast.AST, *owners: str) -> set[str]:
    """Names of the attributes that are read from objects whose expression ends with one of these words."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and ast.unparse(node.value).endswith(owners)
    }


@functools.cache
def options_read() -> set[str]:
    """Names of all options that are read outside config.py, directly or through a property of a configuration."""
    trees = source_trees()
    names = {
        name
        for file, tree in trees.items()
        if not file.startswith("core/config")
        for name in attributes_of(tree, "config", "output", "options")
    }
    for file, tree in trees.items():
        if file.startswith("core/config"):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and node.name in names:
                    names |= attributes_of(node, "self")
    return names


@pytest.mark.parametrize("command", CONFIGS)
def test_every_option_is_read(command: str) -> None:
    fields = {item.name for item in dataclasses.fields(CONFIGS[command])}
    assert fields - options_read() == set()


# The options that scripts rely on, by command.
OUTPUT_OPTIONS = "--runs-dir --name --config --json --quiet --debug"
DATA_OPTIONS = f"{OUTPUT_OPTIONS} --data --data-dir --cache-dir --device --precision"
RECIPE_OPTIONS = (
    f"{DATA_OPTIONS} --seed --workers --width --limit-train --limit-test --bs --batch-size --val-split "
    "--augment-backend --recipe"
)
CONTRACT = {
    "zigzag": f"{OUTPUT_OPTIONS} --lr-min --lr-max --step-size --cycles --policy --epochs --peak-epoch "
    "--steps-per-epoch --run --out --csv",
    "lr-range": f"{RECIPE_OPTIONS} --lr-start --lr-end --steps --epochs --curve --repeats --train-epochs",
    "train": f"{RECIPE_OPTIONS} --epochs --peak-epoch --lr-max --lr-min --div-factor --lr-from --no-cycle-momentum "
    "--optimizer --weight-decay --l1 --label-smoothing --dropout --ema-epochs --augment --resume --deterministic "
    "--seeds --target",
    "evaluate": f"{DATA_OPTIONS} --limit-test --ckpt --tta --misclassified",
    "gradcam": f"{DATA_OPTIONS} --limit-test --ckpt --method --layer --list-layers --class --select --images --count "
    "--save-maps --save-overlays",
    "predict": f"{OUTPUT_OPTIONS} --ckpt --fit --device --precision --topk --tta --out",
    "report": f"{OUTPUT_OPTIONS} --out",
}


@functools.cache
def help_entries(command: str) -> dict[str, str]:
    """The text of each option in a command's --help, on one line."""
    entries: dict[str, str] = {}
    flag = ""
    for line in run_cli(command, "--help").out.splitlines():
        if match := re.match(r"  (--?[a-zA-Z0-9-]+)", line):
            flag = match.group(1)
            entries[flag] = ""
        if flag:
            separator = "" if entries[flag].endswith("-") else " "  # a long word is broken at its hyphen
            entries[flag] = (entries[flag] + separator + line.strip()).strip()
        if not line.strip():
            flag = ""
    return entries


@pytest.mark.parametrize("command", CONFIGS)
def test_help_offers_every_option_of_the_contract(command: str) -> None:
    offered = set(re.findall(r"--[a-z0-9-]+", " ".join(help_entries(command).values())))
    assert set(CONTRACT[command].split()) - offered == set()


def default_in_help(item: dataclasses.Field[Any]) -> str | None:
    if item.default is dataclasses.MISSING or item.default is None or item.default == ():
        return None
    if isinstance(item.default, bool):
        is_two_sided, sign = "names" not in item.metadata, "" if item.default else "no-"
        return sign + flag_name(item).removeprefix("--") if item.default or is_two_sided else None
    return str(item.default)


@pytest.mark.parametrize("command", CONFIGS)
def test_help_shows_the_defaults_of_the_configurations(command: str) -> None:
    num_shown = 0
    options = [item for item in dataclasses.fields(CONFIGS[command]) if not item.metadata.get("is_argument")]
    for item in options:
        entry = help_entries(command)[flag_name(item)]
        if (default := default_in_help(item)) is not None:
            num_shown += 1
            assert f"default: {default}]" in entry
        elif item.metadata.get("allow_auto"):
            assert re.search(r"default: \(?auto\)?\]", entry)
        else:
            assert not re.search(r"\[[^]]*default:", entry)
    assert num_shown >= min(2, len(options) - 1)


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
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = {"torch", "torchvision", "albumentations", "matplotlib", "numpy", "PIL", "cv2", "safetensors", "yaml"}
    assert not heavy & set(json.loads(completed.stdout))


# --- the Python API ---


def test_the_library_imports_no_torch_until_it_is_used() -> None:
    code = "import sys, scsuite; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def public_names() -> list[str]:
    return [name for name in scsuite.__all__ if name != "__version__"]


def test_the_public_names_exist_and_no_other() -> None:
    assert set(public_names()) >= {
        "LrRangeConfig", "OneCycle", "TrainConfig", "Trainer", "build_model", "evaluate", "figures", "grad_cam",
        "load_checkpoint", "load_classifier", "load_dataset", "one_cycle", "range_test", "triangular",
    }  # fmt: skip
    assert all(callable(getattr(scsuite, name)) for name in public_names() if name != "figures")
    assert set(public_names()) <= set(dir(scsuite))
    with pytest.raises(AttributeError, match="no_such_name"):
        scsuite.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", [name for name in public_names() if name != "figures"])
def test_a_public_name_documents_its_arguments_results_and_errors(name: str) -> None:
    thing = getattr(scsuite, name)
    docstring = inspect.getdoc(thing) or ""
    sections = ["Example:"] if inspect.isclass(thing) else ["Args:", "Returns:", "Raises:", "Example:"]
    assert [section for section in sections if section not in docstring] == []


def test_the_version_is_one_everywhere() -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "scsuite", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert completed.stdout == f"scsuite {scsuite.__version__}\n"
    assert metadata.version("scsuite") == scsuite.__version__


def test_every_public_module_class_and_function_has_a_docstring() -> None:
    for module in import_modules():
        assert module.__doc__, module.__name__
        for name, thing in vars(module).items():
            is_own = inspect.isfunction(thing) or inspect.isclass(thing)
            if is_own and not name.startswith("_") and getattr(thing, "__module__", "") == module.__name__:
                assert inspect.getdoc(thing), f"{module.__name__}.{name}"


def import_modules() -> list[ModuleType]:
    """All modules of the package except __main__."""
    names = ["scsuite." + name.removesuffix(".py").replace("/", ".") for name in source_trees() if "/" in name]
    return [scsuite, *(importlib.import_module(name.removesuffix(".__init__")) for name in names)]
