"""A stand-in for a CUDA graph: it records the ATen calls of a function, and replays them on the same memory.

In: a function. Out: a `replay` that does the same calls with the same numbers, as a replayed CUDA graph does. Numbers
of the host are those of the recording; a call that reads from the device raises, as it does while a graph records.
The function runs while it is recorded, so the first replay does nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST_READS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero")


class GraphStandIn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what runs inside; also a `Recorder` of `scsuite.core.training.step_graph`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape: list[tuple[Any, Sequence[Any], Mapping[str, Any], list[Tensor], list[bool]]] = []

    def __torch_dispatch__(
        self, func: Any, _types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in HOST_READS:
            raise RuntimeError(f"{func} waits for the device")
        outputs = func(*args, **(kwargs or {}))
        inputs = {storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        is_alias = [storage(tensor) in inputs for tensor in tensors]  # a view, or the result of an update in place
        self.tape.append((func, args, kwargs or {}, tensors, is_alias))
        return outputs

    def replay(self) -> None:
        """Do the recorded calls again."""
        with torch.no_grad():
            for func, args, kwargs, outputs, is_alias in self.tape:
                new = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
                for old, tensor, alias in zip(outputs, new, is_alias, strict=True):
                    if not alias:
                        old.copy_(tensor)


def storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class StandInRecorder:
    """A `Recorder` that makes stand-ins; `num_replays` counts what they replayed."""

    def __init__(self) -> None:
        self.num_captures, self.num_replays = 0, 0

    def warm_up(self, run: Callable[[], None]) -> None:
        run()

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        graph = GraphStandIn()
        with graph:
            run()
        self.num_captures += 1
        is_done = True

        def replay() -> None:
            nonlocal is_done
            if not is_done:
                graph.replay()
                self.num_replays += 1
            is_done = False

        return replay
