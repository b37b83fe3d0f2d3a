"""Limits of an augmentation policy: its numbers, the size of its images, and the processor time of an image.

In: the arguments and the transforms of a policy file. Out: nothing, or an InputError that names the transform.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset import SIZE
from scsuite.core.errors import InputError

if TYPE_CHECKING:
    from albumentations import Compose

# Limits of numbers: a 32 x 32 image needs no more, and larger ones can take minutes or gigabytes.
MAX_NUMBER = 360  # pixels, gray levels, segments; degrees of a full turn
MAX_FACTOR = 3  # of factors on the image side or on the work
MAX_KELVIN = 15_000
# Arguments whose cost grows with a high power of the number, or is paid in Python for each unit.
MAX_BY_ARGUMENT = {
    "temperature_limit": MAX_KELVIN, "iterations": 16, "num_control_points": 8, "nb_rows": 16, "nb_cols": 16,
    "grid": SIZE, "holes_number_xy": SIZE, "tile_grid_size": SIZE, "num_steps": SIZE, "num_masks_x": SIZE,
    "num_masks_y": SIZE, "num_shadows_limit": SIZE,
}  # fmt: skip
MIN_STEP_FACTOR = 0.01  # of ZoomBlur, which takes one step for each increment of its factor
FACTOR_ARGUMENTS = ("scale", "percent", "factor")  # parts of the argument names
SIZE_INCREASING, MAX_SIZE_INCREASING = frozenset({"CropAndPad", "Pad", "RandomScale"}), 2  # a chain makes huge images
MAX_SIDE = 512  # pixels, of an image between two transforms
MAX_SECONDS = 0.5  # of processor time for one image; with it, an epoch of 10,000 images would take more than an hour
_NOISE_SECONDS = 0.02  # a first call that takes longer is repeated: it may have imported a package


def policy_error(path: str, where: str, expected: str, found: str, hint: str = "Fix the file.") -> InputError:
    """Return the error for a part of a policy file."""
    return InputError("augmentation policy", f"{path}: {where}", expected=expected, found=found, hint=hint)


def check_numbers(path: str, where: str, key: str, value: Any) -> None:
    """Refuse numbers that cost more time or memory than images of 32 x 32 can need."""
    if isinstance(value, list):
        for item in value:
            check_numbers(path, where, key, item)
    elif isinstance(value, int | float):
        is_factor = any(word in key for word in FACTOR_ARGUMENTS)
        limit = MAX_BY_ARGUMENT.get(key, MAX_FACTOR if is_factor else MAX_NUMBER)
        if not abs(value) <= limit:  # written so that NaN is refused too
            raise policy_error(path, where, f"a number of at most {limit}", repr(value)[:60])
        if key == "step_factor" and value < MIN_STEP_FACTOR:
            raise policy_error(path, where, f"a number of at least {MIN_STEP_FACTOR}", repr(value)[:60])
        if key == "fit_output" and value:
            raise policy_error(path, where, "false: images keep their size", "true")


def check_cost(path: str, policy: "Compose") -> None:
    """Apply each transform alone to an image of the largest size so far, and refuse what is too large or too slow.

    The time on an image of 32 x 32 says first whether the larger one can be tried.
    """
    leaves = list(_leaves("transform", policy, 1))
    if (count := sum(type(leaf).__name__ in SIZE_INCREASING for _, leaf, _ in leaves)) > MAX_SIZE_INCREASING:
        expected = f"at most {MAX_SIZE_INCREASING} of {', '.join(sorted(SIZE_INCREASING))}"
        raise policy_error(path, "transform", expected, str(count))
    small_HWC = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    largest_HWC, total = small_HWC, 0.0
    for where, transform, repeats in leaves:
        seconds, output_HWC = _try(transform, small_HWC)
        if largest_HWC is not small_HWC:
            seconds, output_HWC = seconds * largest_HWC.size / small_HWC.size, None
            if repeats * seconds + total <= MAX_SECONDS:
                seconds, output_HWC = _try(transform, largest_HWC)
        total += repeats * seconds
        if total > MAX_SECONDS:
            found = f"about {total:.1f} s with {type(transform).__name__}"
            hint = "Use fewer and smaller values, or a cheaper transform."
            raise policy_error(path, where, f"at most {MAX_SECONDS:g} s of processor time per image", found, hint)
        if output_HWC is not None and max(output_HWC.shape[:2]) > MAX_SIDE:
            found = f"{output_HWC.shape[1]} x {output_HWC.shape[0]} with {type(transform).__name__}"
            raise policy_error(path, where, f"images of at most {MAX_SIDE} pixels a side", found)
        if output_HWC is not None and output_HWC.size > largest_HWC.size:
            largest_HWC = output_HWC


def _leaves(where: str, group: Any, repeats: int) -> Iterator[tuple[str, Any, int]]:
    """Yield each transform of a policy with its place, and how many times it may be applied to one image."""
    from albumentations import BaseCompose

    for index, child in enumerate(group.transforms):
        place = f"{where}.transforms[{index}]"
        if isinstance(child, BaseCompose):
            yield from _leaves(place, child, repeats * (child.n if getattr(child, "replace", False) else 1))
        else:
            yield place, child, repeats


def _try(transform: Any, image_HWC: NDArray[np.uint8]) -> tuple[float, NDArray[np.uint8] | None]:
    """Return the processor time of a transform, and its output; None if it fails, which the dry run reports."""
    output_HWC, probability, seconds = None, transform.p, 0.0
    transform.p = 1.0
    for _ in range(2):
        start = time.process_time()
        with suppress(Exception):
            output_HWC = transform(image=image_HWC)["image"]
        seconds = min(seconds or 1e9, time.process_time() - start)
        if seconds < _NOISE_SECONDS or seconds > MAX_SECONDS * 4:
            break
    transform.p = probability
    return seconds, output_HWC
