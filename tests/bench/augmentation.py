"""The policy's batched twin against albumentations: images a second on one thread each, as ratios."""

from typing import Any

import numpy as np
import torch

from scsuite.core.augment import augment, compile_policy, default_policy
from tests.bench.timing import alternating

BATCH = 512  # images
TRANSFORMS: dict[str, dict[str, Any]] = {
    "Pad": {"padding": 4},
    "PadIfNeeded": {"min_height": 40, "min_width": 40, "border_mode": 4},
    "RandomCrop": {"height": 28, "width": 28},
    "CenterCrop": {"height": 28, "width": 28},
    "HorizontalFlip": {},
    "VerticalFlip": {},
    "CoarseDropout": {"hole_height_range": (8, 8), "hole_width_range": (8, 8), "fill": (120, 120, 110)},
    "ToGray": {},
    "RandomBrightnessContrast": {},
    "Affine": {"rotate": (-10, 10), "scale": (0.9, 1.1)},
}


def augmentation() -> dict[str, Any]:
    """The default policy, target: at least 10 times; then each transform alone, always applied, and Normalize."""
    import albumentations as a
    import cv2

    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        figures = _compared("default", default_policy((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)), 9)
        figures["default_ratio_target_at_least"] = 10.0
        for name, arguments in TRANSFORMS.items():
            policy = a.Compose([getattr(a, name)(**arguments, p=1.0), a.Normalize()])
            figures |= _compared(name, policy, 5)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    return figures


def _compared(name: str, policy: Any, repeats: int) -> dict[str, float]:
    images_NHWC = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
    tensor, indices_N, twin = torch.from_numpy(images_NHWC), np.arange(BATCH), compile_policy(policy)
    ours, theirs = alternating(
        lambda: twin(tensor, indices_N, seed=0, epoch=0),
        lambda: [augment(policy, image, 0, 0, index) for index, image in enumerate(images_NHWC)],
        repeats,
    )
    return {
        f"{name}_images_per_s": BATCH / ours,
        f"{name}_albumentations_images_per_s": BATCH / theirs,
        f"{name}_ratio": theirs / ours,
    }
