"""Keeps run directories as evidence under runs/reference/: small, and without this machine's paths.

    python -m tests.evidence NAME=RUN ...        NAME is demo-train, say

All runs that name each other's directories are given at once. Left out are weights, checkpoints and the one file that
has a row an image. A path that still names this machine is an error, and nothing is written.
"""

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "runs" / "reference"
LEFT_OUT = ("checkpoints", "predictions.csv", "model.safetensors", "*.lock")
TEXT = {".csv", ".json", ".txt", ".yaml"}
# An absolute path of two names or more; what stands before it may not make it a URL, a fraction or a relative path.
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/[\w.-]+/[\w./-]+")


def shortened(text: str, names: Mapping[str, str]) -> str:
    """The text with each known path by its new name; ValueError for one of the machine's that is left."""
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path])
    if left := MACHINE_PATH.search(text):
        raise ValueError(f"{left[0]} names this machine")
    return text


def keep(runs: Mapping[str, Path], reference: Path = REFERENCE, root: Path = ROOT) -> None:
    """Copy each run to its name in the reference folder, in place of what was there."""
    runs = {name: run.resolve() for name, run in runs.items()}
    names = {str(run): f"runs/reference/{name}" for name, run in runs.items()}
    names |= {f"{root}/": "", f"{root.parent}/": "../"}
    texts: dict[Path, str] = {}
    for name, run in runs.items():
        for path in run.rglob("*"):
            if path.suffix in TEXT and not any(path.match(pattern) for pattern in LEFT_OUT):
                try:
                    texts[reference / name / path.relative_to(run)] = shortened(path.read_text(), names)
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from None
    for name, run in runs.items():
        shutil.rmtree(reference / name, ignore_errors=True)
        shutil.copytree(run, reference / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for path, text in texts.items():
        path.write_text(text)


def main(arguments: list[str]) -> None:
    """NAME=RUN, each."""
    pairs = [argument.partition("=") for argument in arguments]
    runs = {name: Path(run) for name, _, run in pairs}
    if not runs or not all(
        re.fullmatch(r"[\w-]+", name) and (run / "result.json").exists() for name, run in runs.items()
    ):
        sys.exit("usage: python -m tests.evidence NAME=RUN ..., each a finished run's directory")
    try:
        keep(runs)
    except ValueError as error:
        sys.exit(f"error: evidence: {error}. Nothing was written.")


if __name__ == "__main__":
    main(sys.argv[1:])
