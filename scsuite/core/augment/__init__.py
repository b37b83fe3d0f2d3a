"""The augmentation policy: an albumentations Compose, and its twin that works on whole batches.

In: uint8 images, one by one (`augment`) or a batch at a time (a `Twin`). Out: float32 images, normalised.
"""

from scsuite.core.augment.batched import Engine, NoTwinError, Twin, choose_engine, compile_policy, planned_engine
from scsuite.core.augment.policy import (
    TRANSFORMS,
    augment,
    check_policy,
    default_policy,
    denormalise,
    load_policy,
    normalisation_of,
    normalise,
    policy_facts,
)

__all__ = [
    "TRANSFORMS", "Engine", "NoTwinError", "Twin", "augment", "check_policy", "choose_engine", "compile_policy",
    "default_policy", "denormalise", "load_policy", "normalisation_of", "normalise", "planned_engine", "policy_facts",
]  # fmt: skip
