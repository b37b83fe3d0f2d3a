"""The augmentation policy: an albumentations Compose, and its batched version on a device.

In: uint8 images, one at a time (`augment_image`) or in batches (`BatchedPolicy`). Out: float32 images, normalised.
"""

from scsuite.core.augment.backend import Backend, check_backend, choose_backend
from scsuite.core.augment.compiler import NotBatchableError, compile_policy
from scsuite.core.augment.default import DefaultPolicy
from scsuite.core.augment.flip_warning import flip_warning
from scsuite.core.augment.policy import (
    TRANSFORMS,
    augment_image,
    default_policy,
    denormalise,
    load_policy,
    normalise,
    policy_dict,
    policy_mean_std,
    validate_policy,
)
from scsuite.core.augment.transforms import BatchedPolicy

__all__ = [
    "TRANSFORMS", "Backend", "BatchedPolicy", "DefaultPolicy", "NotBatchableError", "augment_image", "check_backend",
    "choose_backend", "compile_policy", "default_policy", "denormalise", "flip_warning", "load_policy", "normalise",
    "policy_dict", "policy_mean_std", "validate_policy",
]  # fmt: skip
