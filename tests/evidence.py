"""Keeps run directories as evidence under runs/reference/: small, and without this machine's paths.

    python -m tests.evidence NAME=RUN ...        NAME is demo-train, say

All runs that name each other's directories are given at once. Left out are weights, checkpoints and the one file that
has a row an image. What stood under a name is replaced when all is ready. A text that still names a path of this
machine, or a kind of file that is not known, is an error, and nothing is changed.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "runs" / "reference"
LEFT_OUT = ("checkpoints", "predictions.csv", "*.safetensors", ".lock", "*.part")
TEXT, PICTURES = {".csv", ".json", ".txt", ".yaml"}, {".png", ".svg", ".pdf"}
BEFORE, AFTER = r"(?<![\w./~-])", r"(?![\w.-])"  # where a path may begin and a name end: not within another
MACHINE_PATH = re.compile(rf"(?:{BEFORE}|(?<=://))/(?:[\w.@+-]+/[\w./@+-]+|(?:root|home|tmp|data)\b)")


def shortened(text: str, names: Mapping[str, str]) -> str:
    """The text with each known path by its new name; ValueError for one of the machine's that is left."""
    for path in sorted(names, key=len, reverse=True):
        whole = BEFORE + re.escape(path) + ("" if path.endswith("/") else AFTER)
        text = names[path].join(re.split(whole, text))
    if left := MACHINE_PATH.search(text.replace("\\n", " ")):  # as JSON writes a new line
        raise ValueError(f"{left[0]} names this machine")
    return text


def names_of(runs: Mapping[str, Path], root: Path) -> dict[str, str]:
    """What each path is called in evidence: runs, as they are and as the checkout sees them, and the checkout's own."""
    names = {f"{root}/": "", f"{root.parent}/": "../"}
    for name, run in runs.items():
        names[str(run)] = f"runs/reference/{name}"
        if run.is_relative_to(root):
            names[str(run.relative_to(root))] = f"runs/reference/{name}"
    return names


def keep(runs: Mapping[str, Path], reference: Path = REFERENCE, root: Path = ROOT) -> None:
    """Copy each run to its name in the reference folder, in place of the run that was there."""
    runs, reference = {name: run.resolve() for name, run in runs.items()}, reference.resolve()
    for name, run in runs.items():
        if run.is_relative_to(reference):
            raise ValueError(f"{run} is evidence itself")
        if (reference / name).exists() and not (reference / name / "result.json").exists():
            raise ValueError(f"{reference / name} holds something else than a run")
    names = names_of(runs, root)
    reference.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=reference, prefix=".new-") as folder:
        for name, run in runs.items():
            ready = Path(folder) / name
            shutil.copytree(run, ready, ignore=shutil.ignore_patterns(*LEFT_OUT))
            for path in filter(Path.is_file, ready.rglob("*")):
                _shorten(path, names)
        for name in runs:
            if (reference / name).exists():
                shutil.rmtree(reference / name)
            (Path(folder) / name).rename(reference / name)


def _shorten(path: Path, names: Mapping[str, str]) -> None:
    if path.suffix in PICTURES:
        return
    if path.suffix not in TEXT:
        raise ValueError(f"{path.name}: expected one of {', '.join(sorted(TEXT | PICTURES))}")
    try:
        path.write_text(shortened(path.read_text(), names))
    except ValueError as error:
        raise ValueError(f"{path.name} of {path.parent.name}: {error}") from None


def main(arguments: list[str]) -> None:
    """NAME=RUN, each."""
    runs = {name: Path(run) for name, _, run in (argument.partition("=") for argument in arguments)}
    good = all(re.fullmatch(r"[\w-]+", name) and (run / "result.json").is_file() for name, run in runs.items())
    if not good or not runs or len(runs) < len(arguments):
        sys.exit("usage: python -m tests.evidence NAME=RUN ..., each name once, each run a finished one's directory")
    try:
        keep(runs)
    except ValueError as error:
        sys.exit(f"error: evidence: {error}. Nothing was changed.")


if __name__ == "__main__":
    main(sys.argv[1:])
