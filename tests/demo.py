"""`make demo`: the main job on the embedded data, each command as a user would type it.

In: nothing. Out: five run directories under runs/ (or SCSUITE_RUNS), and the paths of their figures.
"""

import json
import os
import time
from pathlib import Path

from tests.run_cli import run_or_exit

MODEL_ARGS = ["--width", "0.25"]  # a sixteenth of the full network's operations
DATA_ARGS = ["--data", "shapes", "--limit-train", "6000", "--limit-test", "1000", "--bs", "64", *MODEL_ARGS]
NAME_ARGS = ["--name", "demo"]


def newest_run(command: str) -> Path:
    """The newest run of a command with the demonstration's name."""
    return max(Path(os.environ.get("SCSUITE_RUNS", "runs")).glob(f"*-{command}-demo*"))


def main() -> None:
    """Find the learning rates, draw the schedule, train, evaluate, explain."""
    start_time = time.monotonic()
    run_or_exit(["lr-range", *DATA_ARGS, "--steps", "300", "--train-epochs", "8", *NAME_ARGS])
    bounds = json.loads((newest_run("lr-range") / "result.json").read_text())
    bound_args = ["--lr-min", f"{bounds['lr_min']:.4g}", "--lr-max", f"{bounds['lr_max']:.4g}"]
    run_or_exit(["zigzag", *bound_args, "--step-size", "188", "--steps-per-epoch", "94", *NAME_ARGS])
    run_or_exit(["train", *DATA_ARGS, "--epochs", "8", "--lr-from", str(newest_run("lr-range")), *NAME_ARGS])
    train_run = str(newest_run("train"))
    run_or_exit(["evaluate", "--ckpt", train_run, *NAME_ARGS])
    run_or_exit(["gradcam", "--ckpt", train_run, *NAME_ARGS])
    print(f"\nDone in {time.monotonic() - start_time:.0f} s. Figures:")
    for command in ("zigzag", "lr-range", "train", "evaluate", "gradcam"):
        for figure in sorted((newest_run(command) / "figures").glob("*.png")):
            print(f"  {figure}")


if __name__ == "__main__":
    main()
