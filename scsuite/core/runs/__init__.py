"""Run directories: their files, the environment of a run, and the JSON results that scripts rely on.

In: the path of a run. Out: `load_checkpoint` gives its network.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imports torch, which zigzag does not need
    from scsuite.core.model.network import ResNet3


def load_checkpoint(run_or_file: str | Path) -> "tuple[ResNet3, dict[str, Any]]":
    """Load the network of a training.

    Args:
        run_or_file: A checkpoint file, or a run directory: its model.safetensors, or before its end the newest
            checkpoint.

    Returns:
        The network in eval mode on the CPU, with the averaged weights if the run averages them; and its metadata, with
        class_names, the training images' mean and std, network, config, data, precision and policy.

    Raises:
        InputError: For a path that is neither, and a file that is damaged or that scsuite did not write.

    Example:
        >>> model, metadata = load_checkpoint("runs/20260101T000000Z-train-shapes")
        >>> metadata["class_names"]
    """
    from scsuite.core.model.checkpoint import load_checkpoint_file
    from scsuite.core.runs.rundir import resolve_checkpoint

    return load_checkpoint_file(resolve_checkpoint(run_or_file))
