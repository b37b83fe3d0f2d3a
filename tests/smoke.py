"""`make smoke DATA=ARCHIVE`: all five commands on a few thousand real images, and what must agree between them.

In: an archive or folder of images. Out: a line for each claim and whether it held; exit code 1 if one did not.
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.programs import scsuite_json

LIMITS = ["--limit-train", "2000", "--limit-test", "500"]


def main(data: str) -> None:
    """Run the commands in a directory of their own."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scsuite-smoke-") as folder:
        runs = ["--runs-dir", folder]
        source = ["--data", data, *LIMITS, "--bs", "128"]
        drawn = scsuite_json(["zigzag", *runs])
        found = scsuite_json(["lr-range", *source, "--width", "0.25", "--steps", "100", "--train-epochs", "6", *runs])
        small = scsuite_json(
            ["train", *source, "--width", "0.25", "--epochs", "6", "--lr-from", found["run_dir"], *runs]
        )
        full = scsuite_json(["train", *source, "--epochs", "2", "--lr-max", "0.2", *runs])
        seen = scsuite_json(["evaluate", "--ckpt", small["run_dir"], "--tta", "flip", *runs])
        again = scsuite_json(["evaluate", "--ckpt", full["checkpoint"], *runs])
        cams = scsuite_json(["gradcam", "--ckpt", small["run_dir"], *runs])
        claims = {
            "zigzag drew a figure": Path(drawn["figure"]).stat().st_size > 1000,
            "the found pair is a pair": 0 < found["lr_min"] < found["lr_max"],
            "train used the found pair": (small["lr_min"], small["lr_max"]) == (found["lr_min"], found["lr_max"]),
            "train learned (over twice chance)": small["final"]["test_accuracy"] > 0.2,
            "evaluate repeats train's accuracy": seen["accuracy"] == small["final"]["test_accuracy"],
            "also at full width, from a file": again["accuracy"] == full["final"]["test_accuracy"],
            "the full network has its parameters": Path(full["checkpoint"]).stat().st_size > 4 * 6_573_120,
            "Grad-CAM drew misclassified images": all(row["actual"] != row["predicted"] for row in cams["images"]),
            "as many of them as asked for": len(cams["images"]) == 25,
        }
    for claim, holds in claims.items():
        print(f"{'ok    ' if holds else 'FAILED'}  {claim}")
    failed = sum(not holds for holds in claims.values())
    print(f"accuracy {seen['accuracy']:.1%} of 500, {time.monotonic() - begin:.0f} s")
    print(f"{len(claims) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1])
