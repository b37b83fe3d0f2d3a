"""Run the README: every Python block, and every shell line that calls the program.

In: the fenced blocks of README.md and scsuite/README.md. A file's Python blocks run one after the other in one
namespace, as they stand. A `scsuite` line runs with the small data and network of `SMALL`, appended to its options.
Placeholders have a fixed meaning: RUN is a training, or after --lr-from a range test; FILE.yaml the first yaml block;
PATH or PATH... an image; `...` stands for further options. Blocks without a language are not run.
"""

import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.run_cli import run_cli

FILES = [path for path in (REPOSITORY / "README.md", REPOSITORY / "scsuite" / "README.md") if path.exists()]
PYTHON, SHELL, POLICY = "python", ("sh", "bash", "console"), "yaml"  # languages of blocks

DATA = ("--data", "shapes", "--limit-train", "600", "--limit-test", "50", "--workers", "0", "--device", "cpu")
SMALL = {  # the last value of an option counts
    "zigzag": (),
    "lr-range": (*DATA, "--width", "0.05", "--steps", "20"),
    "train": (*DATA, "--width", "0.05", "--epochs", "1"),
    "evaluate": ("--device", "cpu"),
    "gradcam": ("--device", "cpu", "--count", "2"),
    "predict": ("--device", "cpu"),
    "report": (),
}
TRAIN_ARGS = ("train", *SMALL["train"], "--bs", "64", "--lr-max", "0.1")
LR_RANGE_ARGS = ("lr-range", *SMALL["lr-range"], "--bs", "64")
NOT_RUN = ("cd", "git", "export")  # shell commands that are not checked further
FOREIGN_OPTIONS = {  # of torchrun and pip
    "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--max-restarts", "--index-url",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block of a Markdown file."""

    file: Path
    line: int  # of its first line of text, from 1
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(REPOSITORY)}:{self.line}"


def fenced_blocks(file: Path) -> Iterator[Block]:
    """All fenced blocks of a Markdown file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines, 1):
        if line.strip().startswith("```"):
            if start is None:
                start, language = number, line.strip().strip("`").strip()
            else:
                yield Block(file, start + 1, language, "\n".join(lines[start : number - 1]) + "\n")
                start = None


BLOCKS = [block for file in FILES for block in fenced_blocks(file)]


def shell_lines() -> Iterator[tuple[str, list[str]]]:
    """Each shell command: its place, and its words without comment, prompt and environment variables."""
    for block in BLOCKS:
        if block.language in SHELL:
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and (words[0] == "$" or re.fullmatch(r"\w+=\S*", words[0])):
                    del words[0]
                if words:
                    yield f"{block}: {' '.join(words)}", words


LINES = dict(shell_lines())
PROGRAM_LINES = {place: words[1:] for place, words in LINES.items() if words[0] == "scsuite"}
OTHER_LINES = {place: words for place, words in LINES.items() if words[0] != "scsuite"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; data and runs directory are set, as by a user who tries the README."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCSUITE_DATA", "shapes")
    monkeypatch.setenv("SCSUITE_RUNS", "runs")
    return tmp_path


@pytest.fixture(scope="module")
def train_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_cli(*TRAIN_ARGS, "--runs-dir", tmp_path_factory.mktemp("runs"), "--json").run_dir


@pytest.fixture(scope="module")
def lr_range_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_cli(*LR_RANGE_ARGS, "--runs-dir", tmp_path_factory.mktemp("runs"), "--json").run_dir


# --- Python ---


def test_the_readme_shows_the_python_api_and_the_program() -> None:
    assert any(block.language == PYTHON for block in BLOCKS)
    assert PROGRAM_LINES


@pytest.fixture
def wandb_rows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, object], int]]:
    """What the example logs to Weights & Biases: the values and the step of each call."""
    rows: list[tuple[dict[str, object], int]] = []
    run = SimpleNamespace(log=lambda values, step: rows.append((values, step)))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_settings: nullcontext(run)))
    return rows


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_the_python_blocks_run(file: Path, folder: Path, wandb_rows: list[tuple[dict[str, object], int]]) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCKS:
        if block.file == file and block.language == PYTHON:
            source = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the README
            exec(compile(source, str(block.file), "exec"), namespace)
    if "import wandb" in file.read_text(encoding="utf-8"):
        steps = [step for _, step in wandb_rows]
        assert steps == sorted(steps)  # Weights & Biases drops a row of an earlier step
        assert [step for values, step in wandb_rows if "lr" in values and "epoch" not in values] == list(range(6))
        assert [step for values, step in wandb_rows if "test_accuracy" in values] == [2, 5]


# --- the program ---


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == POLICY], ids=str)
def test_the_policy_blocks_are_valid(block: Block, folder: Path) -> None:
    from scsuite.core.augment import validate_policy

    (folder / "policy.yaml").write_text(block.text)
    assert validate_policy("policy.yaml") == ()


def replace_placeholders(words: list[str], train_run: Path, lr_range_run: Path, folder: Path) -> list[str]:
    """The words of a command with real paths for the placeholders."""
    Image.new("RGB", (48, 32), (200, 30, 30)).save(folder / "image.png")
    (folder / "policy.yaml").write_text(next(block.text for block in BLOCKS if block.language == POLICY))
    paths = {"RUN": train_run, "FILE.yaml": folder / "policy.yaml"}
    paths |= dict.fromkeys(("PATH", "PATH...", "FILE.png"), folder / "image.png")
    replaced = []
    for previous, word in zip(["", *words], words, strict=False):
        if word == "RUN..." or (word == "RUN" and previous == "--lr-from"):
            replaced.append(str(lr_range_run if previous == "--lr-from" else train_run))
        elif word not in ("...", "…"):
            replaced.append(str(paths.get(word, word)))
    return replaced


@pytest.mark.parametrize("place", PROGRAM_LINES)
def test_the_program_lines_run(place: str, folder: Path, train_run: Path, lr_range_run: Path) -> None:
    words = replace_placeholders(PROGRAM_LINES[place], train_run, lr_range_run, folder)
    if words == ["COMMAND", "--help"]:
        words = ["train", "--help"]
    small = () if "--help" in words or "--resume" in words else SMALL.get(words[0], ())
    if words[0] == "train" and not {"--lr-max", "--lr-from", "--resume", "--help"} & set(words):
        small = (*small, "--lr-max", "0.1")  # the lines of lr-range run the range test
    result = run_cli(*words, *small)
    assert result.code == 0, result.err


def program_options() -> set[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "400")
        patch.setenv("TERMINAL_WIDTH", "400")
        texts = [run_cli("--help").out, *(run_cli(command, "--help").out for command in SMALL)]
    return {option for text in texts for option in re.findall(r"--[a-z][a-z0-9-]*", text)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_every_option_that_is_named_exists(file: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", file.read_text(encoding="utf-8")))
    assert named - program_options() - FOREIGN_OPTIONS == set()


# --- make, pip, python, torchrun ---


def check_make(words: list[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name = re.escape(word.partition("=")[0])
        assert re.search(rf"^{name}( \?=|:)", makefile, re.MULTILINE), word


def check_pip(words: list[str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["dev"]
    packages = {re.split(r"[<>=!~ \[]", requirement)[0].lower() for requirement in requirements} | {"scsuite"}
    assert words[0] == "install"
    for word in words[1:]:
        assert word.startswith(("-", ".", "http")) or re.split(r"[<>=\[]", word)[0].lower() in packages, word


def check_python(words: list[str]) -> None:
    if words[:1] == ["-m"]:
        assert importlib.util.find_spec(words[1]) is not None, words[1]


def check_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(words)
    command, *more = options.training_script_args
    assert (options.module, options.training_script) == (True, "scsuite")
    assert command in SMALL
    assert {word for word in more if word.startswith("--")} <= program_options()


CHECKS = {"make": check_make, "pip": check_pip, "python": check_python, "torchrun": check_torchrun}


@pytest.mark.parametrize("place", OTHER_LINES)
def test_the_other_shell_lines_name_what_exists(place: str) -> None:
    program, *words = OTHER_LINES[place]
    if program not in NOT_RUN:
        assert program in CHECKS, f"{program} is not known: extend CHECKS, or mark the block as text"
        CHECKS[program](words)
