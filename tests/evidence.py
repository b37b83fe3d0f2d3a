"""Keep run directories as evidence under runs/reference/: small, and without this machine's paths.

    python -m tests.evidence NAME=RUN ...        NAME is for example demo-train

Runs that name each other's directories must be given together. Weights, checkpoints and the one file with a row per
image are left out. A run that is already kept under a name is replaced once all new ones are ready. A text that still
names a path of this machine, or an unknown type of file, is an error, and nothing is changed.

In: finished run directories. Out: their copies.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "runs" / "reference"
LEFT_OUT = ("checkpoints", "predictions.csv", "report.html", "*.safetensors", ".lock", "*.part")
TEXT_SUFFIXES, IMAGE_SUFFIXES = {".csv", ".json", ".txt", ".yaml"}, {".png", ".svg", ".pdf"}
PATH_START, NAME_END = r"(?<![\w./~-])", r"(?![\w.-])"  # a path does not start, and a name does not end, inside another
MACHINE_PATH = re.compile(rf"(?:{PATH_START}|(?<=://))/(?:[\w.@+-]+/[\w./@+-]+|(?:root|home|tmp|data)\b)")


def shorten_paths(text: str, names: Mapping[str, str]) -> str:
    """Replace each known path by its new name. Raises ValueError if another path of this machine remains."""
    for path in sorted(names, key=len, reverse=True):
        pattern = PATH_START + re.escape(path) + ("" if path.endswith("/") else NAME_END)
        text = names[path].join(re.split(pattern, text))
    if match := MACHINE_PATH.search(text.replace("\\n", " ")):  # \n: as JSON writes a new line
        raise ValueError(f"{match[0]} names this machine")
    return text


def path_names(runs: Mapping[str, Path], root: Path) -> dict[str, str]:
    """Return the new name of each path: runs, absolute and relative to the checkout, the checkout, the user's home."""
    names = {f"{Path.home()}/": "~/", f"{root}/": "", f"{root.parent}/": "../"}
    for name, run in runs.items():
        names[str(run)] = f"runs/reference/{name}"
        if run.is_relative_to(root):
            names[str(run.relative_to(root))] = f"runs/reference/{name}"
    return names


def keep_runs(runs: Mapping[str, Path], reference: Path = REFERENCE, root: Path = ROOT) -> None:
    """Copy each run into the reference folder under its name, replacing the run that was there."""
    runs, reference = {name: run.resolve() for name, run in runs.items()}, reference.resolve()
    for name, run in runs.items():
        if run.is_relative_to(reference):
            raise ValueError(f"{run} is evidence itself")
        if (reference / name).exists() and not (reference / name / "result.json").exists():
            raise ValueError(f"{reference / name} is not a run")
    names = path_names(runs, root)
    reference.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=reference, prefix=".new-") as folder:
        for name, run in runs.items():
            copy = Path(folder) / name
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
            for path in filter(Path.is_file, copy.rglob("*")):
                _shorten_file(path, names)
        for name in runs:
            if (reference / name).exists():
                shutil.rmtree(reference / name)
            (Path(folder) / name).rename(reference / name)


def _shorten_file(path: Path, names: Mapping[str, str]) -> None:
    if path.suffix in IMAGE_SUFFIXES:
        return
    if path.suffix not in TEXT_SUFFIXES:
        raise ValueError(f"{path.name}: expected one of {', '.join(sorted(TEXT_SUFFIXES | IMAGE_SUFFIXES))}")
    try:
        path.write_text(shorten_paths(path.read_text(), names))
    except ValueError as error:
        raise ValueError(f"{path.name} of {path.parent.name}: {error}") from None


def main(arguments: list[str]) -> None:
    """Keep the runs that are given as NAME=RUN."""
    runs = {name: Path(run) for name, _, run in (argument.partition("=") for argument in arguments)}
    is_valid = all(re.fullmatch(r"[\w-]+", name) and (run / "result.json").is_file() for name, run in runs.items())
    if not is_valid or not runs or len(runs) < len(arguments):
        sys.exit("usage: python -m tests.evidence NAME=RUN ..., with different names, and directories of finished runs")
    try:
        keep_runs(runs)
    except ValueError as error:
        sys.exit(f"error: evidence: {error}. Nothing was changed.")


if __name__ == "__main__":
    main(sys.argv[1:])
