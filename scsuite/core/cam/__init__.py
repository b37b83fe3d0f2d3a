"""Where a network found its evidence (`maps`), and whether that can be trusted (`trust`)."""

from scsuite.core.cam.faithfulness import Erasure, Pointing, Trust, erasure, pointing, trust
from scsuite.core.cam.maps import find_layers, grad_cam, laid_over, map_shapes

__all__ = [
    "Erasure", "Pointing", "Trust", "erasure", "find_layers", "grad_cam", "laid_over", "map_shapes", "pointing",
    "trust",
]  # fmt: skip
