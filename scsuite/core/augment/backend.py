"""Choose what runs a policy: its batched version on the training device, or albumentations in worker processes.

In: the value of `--augment-backend` and a policy. Out: a Backend.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scsuite.core.augment.compiler import NotBatchableError, compile_policy
from scsuite.core.augment.default import PLACEHOLDER_MEAN_STD, DefaultPolicy
from scsuite.core.augment.policy import load_policy
from scsuite.core.augment.transforms import BatchedPolicy
from scsuite.core.errors import UsageError

if TYPE_CHECKING:
    from albumentations import Compose


@dataclass(frozen=True)
class Backend:
    """The backend's name (batched or albumentations), the reason for it, and the batched policy if there is one."""

    name: str
    reason: str
    batched_policy: BatchedPolicy | None

    def to_dict(self) -> dict[str, str]:
        """Return name and reason, for environment.json."""
        return {"name": self.name, "reason": self.reason}


BATCHED = "every transform of the policy has a batched version"


def choose_backend(option: str, policy: "Compose | DefaultPolicy") -> Backend:
    """Resolve `--augment-backend` for a policy. Raises UsageError if `batched` is required but not possible."""
    if option == "albumentations":
        return Backend(option, "as requested", None)
    if isinstance(policy, DefaultPolicy):
        return Backend("batched", BATCHED, policy.batched())
    try:
        return Backend("batched", BATCHED, compile_policy(policy))
    except NotBatchableError as error:
        if option == "batched":
            raise UsageError(
                "option", "--augment-backend", expected="a policy that has a batched version", found=str(error),
                hint="Use auto.",
            ) from None  # fmt: skip
        return Backend("albumentations", str(error), None)


def check_backend(option: str, path: str | None) -> Backend:
    """Return the backend of a policy file, or of the default policy, before the mean and std of the data are known."""
    return choose_backend(
        option, DefaultPolicy(*PLACEHOLDER_MEAN_STD) if path is None else load_policy(path, *PLACEHOLDER_MEAN_STD)
    )
