"""How much data a checkpoint can have, by its metadata alone: a sparse file of gigabytes takes no space on a disk.

In: the metadata of a checkpoint, which is not checked yet. Out: bytes.
"""

import json
import sys

import torch

from scsuite.core.config import MAX_WIDTH
from scsuite.core.model.network import ResNet3

MAX_COPIES = 6  # of the network's weights: its own, their average, two of the optimizer, and room for small tensors


def max_data_bytes(metadata: str) -> int:
    """Return the limit for scsuite's network; for one of a user's own, or metadata that is refused later, no limit."""
    try:
        network = json.loads(metadata)["network"]
        with torch.device("meta"):
            model = ResNet3(int(network["num_classes"]), min(float(network["width"]), MAX_WIDTH))
    except (ValueError, OverflowError, RecursionError, TypeError, KeyError, RuntimeError):
        return sys.maxsize
    return 4 * MAX_COPIES * sum(parameter.numel() for parameter in model.parameters()) + 2**20
