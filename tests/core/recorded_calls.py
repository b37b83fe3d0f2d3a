"""What torch computes in a block: the ATen calls below autograd, with views and allocations marked.

In: a block of code. Out: the name of each call, and whether it is a kernel. A custom operation is one call, and so
are its kernels on the device: tests/core/model/test_ghost_norm.py counts those of ghost batch norm.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from torch.utils._python_dispatch import TorchDispatchMode

ALLOCATIONS = ("empty", "new_empty", "detach", "_unsafe_view", "lift_fresh")  # by the start of the name


class RecordedCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the calls inside the block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, bool]] = []  # the name, and whether it is more than a view or an allocation

    def __torch_dispatch__(
        self, func: Any, _types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.calls.append((name, not (func.is_view or name.startswith(ALLOCATIONS))))
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    @property
    def num_kernels(self) -> int:
        """The calls without views and allocations."""
        return sum(is_kernel for _, is_kernel in self.calls)


def count_calls(function: Callable[[], object]) -> RecordedCalls:
    """Return the calls of a function."""
    with RecordedCalls() as calls:
        function()
    return calls
