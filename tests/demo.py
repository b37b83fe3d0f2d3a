"""`make demo`: the main job on the embedded data, each command as a user would type it.

In: nothing. Out: five run directories under runs/ (or SCSUITE_RUNS), and where their figures are.
"""

import json
import os
import time
from pathlib import Path

from tests.programs import scsuite

WIDTH = ["--width", "0.25"]  # a sixteenth of the full network's work
DATA = ["--data", "shapes", "--limit-train", "6000", "--limit-test", "1000", "--bs", "64", *WIDTH]


def newest(command: str) -> Path:
    """The newest run of a command under the demonstration's name."""
    return max(Path(os.environ.get("SCSUITE_RUNS", "runs")).glob(f"*-{command}-demo*"))


def main() -> None:
    """Find the rates, draw the cycle, train, evaluate, explain."""
    begin = time.monotonic()
    named = ["--name", "demo"]
    scsuite(["lr-range", *DATA, "--steps", "300", "--train-epochs", "8", *named])
    found = json.loads((newest("lr-range") / "result.json").read_text())
    limits = ["--lr-min", f"{found['lr_min']:.4g}", "--lr-max", f"{found['lr_max']:.4g}"]
    scsuite(["zigzag", *limits, "--step-size", "188", "--steps-per-epoch", "94", *named])
    scsuite(["train", *DATA, "--epochs", "8", "--lr-from", str(newest("lr-range")), *named])
    run = str(newest("train"))
    scsuite(["evaluate", "--ckpt", run, *named])
    scsuite(["gradcam", "--ckpt", run, *named])
    print(f"\nAll done in {time.monotonic() - begin:.0f} s. Figures to look at:")
    for command in ("zigzag", "lr-range", "train", "evaluate", "gradcam"):
        for figure in sorted((newest(command) / "figures").glob("*.png")):
            print(f"  {figure}")


if __name__ == "__main__":
    main()
