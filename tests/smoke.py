"""`make smoke DATA=ARCHIVE`: all commands on a few thousand real images, and what must agree between their results.

In: an archive or folder of images. Out: a line for each claim and whether it holds; exit code 1 if one does not.
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.run_cli import run_json_or_exit

LIMIT_ARGS = ["--limit-train", "2000", "--limit-test", "500"]


def check_commands(data: str, folder: str) -> dict[str, bool]:
    """Run the commands and check their claims."""
    runs_args = ["--runs-dir", folder]
    data_args = ["--data", data, *LIMIT_ARGS, "--bs", "128", *runs_args]
    zigzag = run_json_or_exit(["zigzag", *runs_args])
    bounds = run_json_or_exit(["lr-range", *data_args, "--width", "0.25", "--steps", "100", "--train-epochs", "6"])
    narrow = run_json_or_exit(["train", *data_args, "--width", "0.25", "--epochs", "6", "--lr-from", bounds["run_dir"]])
    full = run_json_or_exit(["train", *data_args, "--epochs", "2", "--lr-max", "0.2"])
    evaluation = run_json_or_exit(["evaluate", "--ckpt", narrow["run_dir"], "--tta", "flip", *runs_args])
    full_evaluation = run_json_or_exit(["evaluate", "--ckpt", full["checkpoint"], *runs_args])
    gradcam = run_json_or_exit(["gradcam", "--ckpt", narrow["run_dir"], *runs_args])
    print(f"accuracy {evaluation['accuracy']:.1%} of 500 images")
    return {
        "zigzag drew a figure": Path(zigzag["figures"][0]).stat().st_size > 1000,
        "the LR bounds are in order": 0 < bounds["lr_min"] < bounds["lr_max"],
        "train used these bounds": all(narrow[name] == bounds[name] for name in ("lr_min", "lr_max")),
        "train learned (over twice chance)": narrow["final"]["test_accuracy"] > 0.2,
        "evaluate repeats train's accuracy": evaluation["accuracy"] == narrow["final"]["test_accuracy"],
        "also at full width, from a file": full_evaluation["accuracy"] == full["final"]["test_accuracy"],
        "the full network has its parameters": Path(full["checkpoint"]).stat().st_size > 4 * 6_573_120,
        "Grad-CAM drew misclassified images": all(row["actual"] != row["predicted"] for row in gradcam["images"]),
        "as many of them as requested": len(gradcam["images"]) == 25,
    }


def main(data: str) -> None:
    """Run the commands in a temporary directory and print the claims."""
    start_time = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scsuite-smoke-") as folder:
        claims = check_commands(data, folder)
    for claim, holds in claims.items():
        print(f"{'ok    ' if holds else 'FAILED'}  {claim}")
    num_failed = sum(not holds for holds in claims.values())
    print(f"{len(claims) - num_failed} passed, {num_failed} failed, {time.monotonic() - start_time:.0f} s")
    sys.exit(1 if num_failed else 0)


if __name__ == "__main__":
    main(sys.argv[1])
