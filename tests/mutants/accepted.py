"""Mutants that need no test, because nothing changes that a test without a GPU could observe.

In: nothing. Out: `ACCEPTED`: the path, a part of the mutant's description, and the reason.
"""

from typing import NamedTuple

STEP, LOADER, MAPS = "scsuite/core/training/step.py", "scsuite/core/training/loader.py", "scsuite/core/cam/maps.py"
SPLIT = "scsuite/core/dataset/split.py"
METRICS = "scsuite/core/evaluation/metrics.py"
RESUME = "scsuite/core/training/resume.py"
SETUP, SWEEP = "scsuite/core/training/setup.py", "scsuite/core/lr_range/sweep.py"


class Accepted(NamedTuple):
    """Why the mutants of a file whose description contains a text need no test."""

    path: str
    text: str
    reason: str


ACCEPTED = [
    Accepted(STEP, "lr = [float(np.float32(lr)) ->", "only on CUDA"),
    Accepted(STEP, "float([np.float32(lr) ->", "only on CUDA"),
    Accepted(STEP, "float(np.float32([lr ->", "only on CUDA"),
    Accepted(STEP, "zero_grad(set_to_none=[", "gradients of zero instead of none: the same numbers, and more memory"),
    Accepted(STEP, "[is_plain -> (is_plain) and False]", "the plain loss is computed again instead of taken"),
    Accepted(STEP, "device.is_cuda [or -> and] is_recorded", "the flag is read on the CPU where it need not be"),
    Accepted(STEP, "step * world.size [+ -> -] world.rank", "another key, which is still one of each step and rank"),
    Accepted(LOADER, "[num_workers -> (num_workers) or True]", "a wrapper without processes gives the same batches"),
    Accepted(LOADER, "next(groups, [[] -> None])", "only whether it is empty counts"),
    Accepted(RESUME, "[sort_keys=False -> ]", "the order of the keys in a YAML file"),
    Accepted(SPLIT, "counts = np.zeros((3, 256), [dtype=np.int64 -> ])", "counts are exact as floats too"),
    Accepted(SPLIT, "counts = np.zeros((3, 256), dtype=[np.int64 -> None])", "counts are exact as floats too"),
    Accepted(SETUP, "on_batch=on_batch, [world=self.world, -> ]", "each rank evaluates all images: more work"),
    Accepted(SETUP, "[device=device.device, workers -> workers]", "only on another device than the CPU"),
    Accepted(SETUP, "weights_K.float().to([device.device -> None])", "only on another device than the CPU"),
    Accepted(METRICS, "np.array(rows, [np.float64 -> ])", "floats have this type anyway"),
    Accepted(MAPS, "CAM_BATCH = [100 -> 101]", "speed and memory only"),
    Accepted(MAPS, "images_NCHW[:[1 -> 2]]", "shapes of layers for two images instead of one"),
    Accepted(MAPS, "[memory_format=torch.channels_last -> ]", "speed only"),
    Accepted(MAPS, "classes_N[:, None].to([logits_NK.device -> None])", "only on another device than the CPU"),
    Accepted(SWEEP, "Float1D = [", "a type"),
    Accepted(SWEEP, "sweeps[[0 -> 1]].lrs_L", "all repeats have the same learning rates"),
]


def is_accepted(path: str, change: str) -> bool:
    """Return whether a mutant is in the list."""
    return any(path == accepted.path and accepted.text in change for accepted in ACCEPTED)
