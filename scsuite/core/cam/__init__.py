"""Where a network found its evidence (`maps`), and whether that can be trusted (`trust`)."""

from scsuite.core.cam.maps import find_layers, grad_cam, map_shapes
from scsuite.core.cam.trust import Erasure, Pointing, erasure, pointing

__all__ = ["Erasure", "Pointing", "erasure", "find_layers", "grad_cam", "map_shapes", "pointing"]
