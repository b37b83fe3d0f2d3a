"""Selection of the images that Grad-CAM explains.

In: an evaluation, and the name of a selection or a list of indices. Out: indices of images, in the order of display.
"""

import numpy as np
from numpy.typing import NDArray

from scsuite.core.errors import UsageError
from scsuite.core.evaluation.metrics import Evaluation


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
