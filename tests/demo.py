"""`make demo`: the main job on the embedded data, each command as a user would type it.

In: nothing. Out: five run directories under runs/ (or SCSUITE_RUNS), and the names of their figures.
"""

import json
import os
import time
from pathlib import Path

from scsuite.core.dataset.shapes import NUM_TRAIN
from scsuite.core.schedule import num_steps_per_epoch
from tests.run_cli import run_or_exit

COMMANDS = ("lr-range", "zigzag", "train", "evaluate", "gradcam")  # in the order of the demonstration
BATCH_SIZE, EPOCHS = 64, 13
# The range test and the training share these settings, since LR bounds hold only for the settings of their test. The
# network has an eighth of the full one's channels and needs about a sixtieth of its operations.
RECIPE_ARGS = ["--data", "shapes", "--limit-test", "1000", "--width", "0.125", "--bs", str(BATCH_SIZE)]
# Small batches allow many steps: fewer leave the network too little time to learn before the learning rate is too high,
# and the loss hardly falls. Below 0.01 it does not fall.
SWEEP_ARGS = ["--lr-start", "0.01", "--steps", "600", "--train-epochs", str(EPOCHS)]
NAME_ARGS = ["--name", "demo"]


def newest_run(command: str) -> Path:
    """The newest run of a command with the demonstration's name."""
    return max(Path(os.environ.get("SCSUITE_RUNS", "runs")).glob(f"*-{command}-demo*"))


def cycle_args(lr_range_run: Path) -> list[str]:
    """The options of `zigzag` that draw the cycle of the training with these LR bounds."""
    bounds = json.loads((lr_range_run / "result.json").read_text())
    lr_args = ["--lr-min", f"{bounds['lr_min']:.4g}", "--lr-max", f"{bounds['lr_max']:.4g}"]
    steps_per_epoch = num_steps_per_epoch(NUM_TRAIN, BATCH_SIZE)
    return ["--policy", "one-cycle", *lr_args, "--epochs", str(EPOCHS), "--steps-per-epoch", str(steps_per_epoch)]


def main() -> None:
    """Find the learning rates, draw the schedule, train, evaluate, explain."""
    # On a network this small a second thread costs more than it gives: 140 s with one, 265 s with two on an Intel Xeon.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    start_time = time.monotonic()
    run_or_exit(["lr-range", *RECIPE_ARGS, *SWEEP_ARGS, *NAME_ARGS])
    lr_range_run = newest_run("lr-range")
    run_or_exit(["zigzag", *cycle_args(lr_range_run), *NAME_ARGS])
    run_or_exit(["train", *RECIPE_ARGS, "--epochs", str(EPOCHS), "--lr-from", str(lr_range_run), *NAME_ARGS])
    train_run = str(newest_run("train"))
    run_or_exit(["evaluate", "--ckpt", train_run, *NAME_ARGS])
    run_or_exit(["gradcam", "--ckpt", train_run, *NAME_ARGS])
    print(f"\nDone in {time.monotonic() - start_time:.0f} s. Figures:")
    for command in COMMANDS:
        run = newest_run(command)
        print(run)
        for figure in sorted((run / "figures").glob("*.png")):
            print(f"  {figure.relative_to(run)}")


if __name__ == "__main__":
    main()
