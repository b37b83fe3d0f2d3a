"""The images that Grad-CAM explains, with what the network predicts for them.

In: a trained network, and a split or image files. Out: `CamInputs`.
Shapes: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset import Split
from scsuite.core.dataset.image_file import read_image_32
from scsuite.core.evaluation import Evaluation
from scsuite.core.evaluation.evaluate import TrainedModel


@dataclass(frozen=True)
class CamInputs:
    """N images, their indices in the split and their files; `actual` is empty for images without labels."""

    images_NHWC: NDArray[np.uint8]
    actual: list[int]
    predicted: list[int]
    probabilities_NK: NDArray[np.float32]
    indices: list[int]
    files: list[str]
    masks_NHW: NDArray[np.bool_] | None = None

    @classmethod
    def from_split(cls, split: Split, evaluation: Evaluation, indices_N: NDArray[np.int64]) -> "CamInputs":
        """Return some images of an evaluated split."""
        return cls(
            images_NHWC=split.images_NHWC[indices_N],
            actual=evaluation.labels_N[indices_N].tolist(),
            predicted=evaluation.predicted_N[indices_N].tolist(),
            probabilities_NK=evaluation.probabilities_NK[indices_N],
            indices=indices_N.tolist(),
            files=[split.files[i] for i in indices_N],
            masks_NHW=None if split.masks_NHW is None else split.masks_NHW[indices_N],
        )

    @classmethod
    def from_files(cls, trained: TrainedModel, paths: Sequence[str]) -> "CamInputs":
        """Return the user's own images, center-cropped to 32 x 32. Raises InputError for another kind of file."""
        images_NHWC = np.stack([read_image_32(path) for path in paths])
        unlabelled = Split(images_NHWC, np.zeros(len(paths), np.int64), tuple(paths))
        evaluation = trained.evaluate(unlabelled)
        return cls(
            images_NHWC=images_NHWC,
            actual=[],
            predicted=evaluation.predicted_N.tolist(),
            probabilities_NK=evaluation.probabilities_NK,
            indices=list(range(len(paths))),
            files=[str(Path(path).absolute()) for path in paths],
        )

    def classes(self, map_name: str, class_names: tuple[str, ...]) -> list[int]:
        """Return the class of each image that a map explains: predicted, actual, or a class's name."""
        if map_name in ("predicted", "actual"):
            return self.predicted if map_name == "predicted" else self.actual
        return [class_names.index(map_name)] * len(self.predicted)
