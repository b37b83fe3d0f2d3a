"""Speed of the batched backend against albumentations: images per second on one thread each, and their ratio."""

from typing import Any

import numpy as np
import torch

from scsuite.core.augment import augment_image, compile_policy, default_policy
from tests.bench.timing import alternating

BATCH_SIZE = 512
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
    """Measure the default policy (target: at least 10 times), then each transform with p = 1 and Normalize."""
    import albumentations as a
    import cv2

    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        figures = _compare_backends("default", default_policy((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)), 9)
        figures["default_ratio_target_at_least"] = 10.0
        for name, arguments in TRANSFORMS.items():
            policy = a.Compose([getattr(a, name)(**arguments, p=1.0), a.Normalize()])
            figures |= _compare_backends(name, policy, 5)
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)
    return figures


def _compare_backends(name: str, policy: Any, repeats: int) -> dict[str, float]:
    images_NHWC = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, 32, 32, 3), dtype=np.uint8)
    tensor_NHWC, indices_N = torch.from_numpy(images_NHWC), np.arange(BATCH_SIZE)
    batched_policy = compile_policy(policy)
    batched_seconds, albumentations_seconds = alternating(
        lambda: batched_policy(tensor_NHWC, indices_N, seed=0, epoch=0),
        lambda: [augment_image(policy, image, 0, 0, index) for index, image in enumerate(images_NHWC)],
        repeats,
    )
    return {
        f"{name}_images_per_s": BATCH_SIZE / batched_seconds,
        f"{name}_albumentations_images_per_s": BATCH_SIZE / albumentations_seconds,
        f"{name}_ratio": albumentations_seconds / batched_seconds,
    }
