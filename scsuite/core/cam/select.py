"""Selection of the images that Grad-CAM explains.

In: an evaluation, and the name of a selection or a list of indices; or the user's own image files.
Out: indices of images, in the order of display; `CamInputs`.
Shapes: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset import Split
from scsuite.core.dataset.image_file import read_image_32
from scsuite.core.dataset.split import format_names
from scsuite.core.errors import UsageError, did_you_mean
from scsuite.core.evaluation.evaluate import TrainedModel
from scsuite.core.evaluation.metrics import Evaluation
from scsuite.core.files import normalise_name


def class_map_name(choice: str, class_names: tuple[str, ...]) -> str:
    """Return the name of the map of a class, from NAME or name:NAME. Raises UsageError for an unknown class.

    A map's name is a key beside others, in figures and files. A class that is called as one of these is name:NAME.
    """
    name = normalise_name(choice)
    name = name if name in class_names else name.removeprefix("name:")
    if name not in class_names:
        raise UsageError(
            "option", "--class", expected=f"predicted, actual, both or one of {format_names(class_names)}",
            found=repr(choice), hint=did_you_mean(choice, class_names, otherwise="Choose one of these."),
        )  # fmt: skip
    return f"name:{name}" if name in ("predicted", "actual", "both", "index", "image") else name


def check_indices(indices: tuple[int, ...] | None, num_images: int) -> None:
    """Raise UsageError for an index beyond the last test image; called before the images are evaluated."""
    if invalid := [index for index in indices or () if index >= num_images]:
        raise UsageError(
            "option", "--select", expected=f"indices from 0 to {num_images - 1}", found=invalid[0],
            hint="Choose among the test images.",
        )  # fmt: skip


def select_images(
    evaluation: Evaluation, select: str, indices: tuple[int, ...] | None, count: int
) -> NDArray[np.int64]:
    """Return at most `count` indices: the given ones, or those of a selection of config.SELECTIONS.

    misclassified, correct and confident start with the most confident image, uncertain with the least confident one.
    """
    if indices is not None:
        return np.array(indices[:count], np.int64)
    correct_N = evaluation.predicted_N == evaluation.labels_N
    by_confidence = np.argsort(-evaluation.confidence_N, kind="stable")
    selections: dict[str, NDArray[np.int64]] = {
        "misclassified": evaluation.misclassified,
        "correct": by_confidence[correct_N[by_confidence]],
        "confident": by_confidence,
        "uncertain": by_confidence[::-1],
        "all": np.arange(evaluation.num_images),
    }
    return selections[select][:count]


@dataclass(frozen=True)
class CamInputs:
    """N images, their indices in the split and their files; `actual` is empty for images without labels.

    `evaluation` is that of all images of the split.
    """

    images_NHWC: NDArray[np.uint8]
    actual: list[int]
    predicted: list[int]
    probabilities_NK: NDArray[np.float32]
    indices: list[int]
    files: list[str]
    masks_NHW: NDArray[np.bool_] | None = None
    evaluation: Evaluation | None = None
    fit: str = "crop"  # how the user's own images were fitted to 32 x 32

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
            evaluation=evaluation,
        )

    @classmethod
    def from_files(cls, trained: TrainedModel, paths: Sequence[str], fit: str) -> "CamInputs":
        """Return the user's own images at 32 x 32. Raises InputError for another kind of file."""
        images_NHWC = np.stack([read_image_32(path, fit) for path in paths])
        unlabelled = Split(images_NHWC, np.zeros(len(paths), np.int64), tuple(paths))
        evaluation = trained.evaluate(unlabelled)
        return cls(
            images_NHWC=images_NHWC,
            actual=[],
            predicted=evaluation.predicted_N.tolist(),
            probabilities_NK=evaluation.probabilities_NK,
            indices=list(range(len(paths))),
            files=[str(Path(path).absolute()) for path in paths],
            fit=fit,
        )

    def classes(self, map_name: str, class_names: tuple[str, ...]) -> list[int]:
        """Return the class of each image that a map explains: predicted, actual, or a class, as NAME or name:NAME."""
        if map_name in ("predicted", "actual"):
            return self.predicted if map_name == "predicted" else self.actual
        name = map_name if map_name in class_names else map_name.removeprefix("name:")
        return [class_names.index(name)] * len(self.predicted)
