"""The default policy without albumentations, whose import takes longer than the first steps on a GPU.

In: mean and std of the training images. Out: the batched policy, and the values that albumentations gives for it.
`policy.default_policy` is the same policy as an albumentations Compose; the tests compare both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scsuite.core.augment.pixel_map import REFLECT_101
from scsuite.core.augment.transforms import BatchedPolicy, BatchTransform, CoarseDropout, Crop, Flip, Pad
from scsuite.core.dataset import SIZE

PADDING = 4  # pixels on each side before the crop: a 40 x 40 image has 9 x 9 = 81 crops
CUTOUT_SIZE = 8  # pixels, side of the hole
PLACEHOLDER_MEAN_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)  # to check a policy before the data is read


@dataclass(frozen=True)
class DefaultPolicy:
    """Reflect-101 pad to 40 x 40 > random crop 32 x 32 > flip (p 0.5) > one 8 x 8 hole of mean color > normalise."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = True  # False: the loader alternates the flips, or there are none

    @property
    def fill(self) -> tuple[int, ...]:
        """The color of the hole."""
        return tuple(round(255 * value) for value in self.mean)

    def batched(self) -> BatchedPolicy:
        """Return the batched policy, as `compile_policy` makes it."""
        size = (CUTOUT_SIZE, CUTOUT_SIZE)
        flips: list[BatchTransform] = [Flip(0.5, is_vertical=False)] if self.flip else []
        transforms: tuple[BatchTransform, ...] = (
            Pad((PADDING,) * 4, REFLECT_101, (0, 0, 0)),
            Crop((SIZE, SIZE), is_random=True),
            *flips,
            CoarseDropout(1.0, (1, 1), size, size, self.fill),
        )
        mean_3 = np.array(self.mean, np.float32) * np.float32(255)
        return BatchedPolicy(transforms, mean_3, np.reciprocal(np.array(self.std, np.float32) * np.float32(255)))

    def to_dict(self) -> dict[str, Any]:
        """Return what `policy_dict` returns for the Compose; a resume compares it."""
        border = {"fill": 0.0, "fill_mask": 0.0, "p": 1.0}
        padded, hole = SIZE + 2 * PADDING, [CUTOUT_SIZE, CUTOUT_SIZE]
        transforms: list[dict[str, Any]] = [
            {"__class_fullname__": "PadIfNeeded", "border_mode": REFLECT_101, "min_height": padded, **border,
             "min_width": padded, "pad_height_divisor": None, "pad_width_divisor": None, "padding": 0,
             "position": "center"},
            {"__class_fullname__": "RandomCrop", "border_mode": 0, "height": SIZE, "pad_if_needed": False,
             "pad_position": "center", "width": SIZE, **border},
            *([{"__class_fullname__": "HorizontalFlip", "p": 0.5}] if self.flip else []),
            {"__class_fullname__": "CoarseDropout", "fill": [float(value) for value in self.fill], "fill_mask": None,
             "hole_height_range": hole, "hole_width_range": hole, "num_holes_range": [1, 1], "p": 1.0},
            {"__class_fullname__": "Normalize", "max_pixel_value": 255.0, "mean": list(self.mean),
             "normalization": "standard", "p": 1.0, "std": list(self.std)},
        ]  # fmt: skip
        return {
            "__class_fullname__": "Compose", "additional_targets": {}, "bbox_params": None, "is_check_shapes": True,
            "keypoint_params": None, "p": 1.0, "transforms": transforms,
        }  # fmt: skip
