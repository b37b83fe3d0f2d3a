"""Class activation maps: the evidence of a network (`maps`), its `faithfulness`, and the images to show (`select`)."""

from scsuite.core.cam.faithfulness import (
    DeletionInsertion,
    Faithfulness,
    Pointing,
    deletion_insertion,
    pointing,
    score_faithfulness,
)
from scsuite.core.cam.maps import cam_layer_shapes, grad_cam, paste_map, resolve_layers
from scsuite.core.cam.select import CamInputs, check_indices, class_map_name, select_images

__all__ = [
    "CamInputs", "DeletionInsertion", "Faithfulness", "Pointing", "cam_layer_shapes", "check_indices", "class_map_name",
    "deletion_insertion", "grad_cam", "paste_map", "pointing", "resolve_layers", "score_faithfulness", "select_images",
]  # fmt: skip
