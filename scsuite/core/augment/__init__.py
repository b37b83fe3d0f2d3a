"""The augmentation policy: an albumentations Compose, and its twin that works on whole batches.

In: uint8 images, one by one (`augment`) or a batch at a time (a `BatchedPolicy`). Out: float32 images, normalised.
"""

from scsuite.core.augment.batched import Backend, NotBatchableError, BatchedPolicy, choose_backend, compile_policy, check_backend
from scsuite.core.augment.policy import (
    TRANSFORMS,
    augment,
    validate_policy,
    default_policy,
    denormalise,
    load_policy,
    policy_mean_std,
    normalise,
    policy_dict,
)

__all__ = [
    "TRANSFORMS", "Backend", "NotBatchableError", "BatchedPolicy", "augment", "validate_policy", "choose_backend", "compile_policy",
    "default_policy", "denormalise", "load_policy", "policy_mean_std", "normalise", "check_backend", "policy_dict",
]  # fmt: skip
