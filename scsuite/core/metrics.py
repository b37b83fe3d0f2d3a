"""Figures of merit from logits: loss, accuracy, confusion, per class, calibration.

In: logits_NK and labels_N of a whole evaluation. Out: frozen results.
Losses are means per image in nats, accuracies fractions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_BINS = 15  # of confidence, for the calibration error; Guo et al., https://arxiv.org/abs/1706.04599


@dataclass(frozen=True)
class ClassFigures:
    """One class: the share of what was said to be it that was (precision), of what was it that was found (recall)."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Calibration:
    """Mean confidence and accuracy in each of NUM_BINS equal bins of confidence, and how many images fell there."""

    confidence_B: NDArray[np.float64]
    accuracy_B: NDArray[np.float64]
    count_B: NDArray[np.int64]
    ece: float


@dataclass(frozen=True)
class Evaluation:
    """What a network makes of some images; `confusion_KK` has the actual classes in rows."""

    class_names: tuple[str, ...]
    labels_N: NDArray[np.int64]
    probabilities_NK: NDArray[np.float32]
    losses_N: NDArray[np.float64]
    confusion_KK: NDArray[np.int64]
    calibration: Calibration

    @property
    def predicted_N(self) -> NDArray[np.int64]:
        """The most probable class of each image; the first of equals."""
        predicted: NDArray[np.int64] = self.probabilities_NK.argmax(axis=1)
        return predicted

    @property
    def confidence_N(self) -> NDArray[np.float32]:
        """The probability of the predicted class."""
        confidence: NDArray[np.float32] = self.probabilities_NK.max(axis=1)
        return confidence

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.labels_N)

    @property
    def loss(self) -> float:
        """Cross entropy, mean per image, in nats."""
        return float(self.losses_N.mean())

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is the actual one."""
        return float(np.trace(self.confusion_KK) / self.num_images)

    @property
    def misclassified(self) -> NDArray[np.int64]:
        """Indices of the images it got wrong, the most confident mistake first; equal ones in their own order."""
        wrong = np.flatnonzero(self.predicted_N != self.labels_N)
        order: NDArray[np.int64] = wrong[np.argsort(-self.confidence_N[wrong], kind="stable")]
        return order

    def per_class(self) -> list[ClassFigures]:
        """Precision, recall and F1 of each class; 0 where nothing was said, or nothing was there, to divide by."""
        hits_K = np.diag(self.confusion_KK)
        said_K, support_K = self.confusion_KK.sum(axis=0), self.confusion_KK.sum(axis=1)
        precision_K, recall_K = hits_K / np.maximum(said_K, 1), hits_K / np.maximum(support_K, 1)
        f1_K = 2 * hits_K / np.maximum(said_K + support_K, 1)
        rows = zip(self.class_names, precision_K, recall_K, f1_K, support_K, strict=True)
        return [ClassFigures(name, float(p), float(r), float(f1), int(n)) for name, p, r, f1, n in rows]

    def confused(self, count: int) -> list[tuple[str, str, int]]:
        """The (actual, predicted, images) that were mixed up most often."""
        off_KK = self.confusion_KK - np.diag(np.diag(self.confusion_KK))
        order = np.argsort(-off_KK, axis=None, kind="stable")[:count]
        pairs = [divmod(int(i), len(self.class_names)) for i in order]
        return [(self.class_names[a], self.class_names[p], int(off_KK[a, p])) for a, p in pairs if off_KK[a, p]]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values, fit for JSON."""
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "num_images": self.num_images,
            "ece": self.calibration.ece,
            "per_class": [vars(row) for row in self.per_class()],
            "confusion_matrix": self.confusion_KK.tolist(),
        }


def evaluation_of(logits_NK: Tensor, labels_N: Tensor, class_names: tuple[str, ...]) -> Evaluation:
    """All figures from the logits of a whole evaluation, computed in double precision on the CPU."""
    logits_NK, labels_N = logits_NK.double().cpu(), labels_N.long().cpu()
    log_probabilities_NK = logits_NK.log_softmax(dim=1)
    probabilities_NK = log_probabilities_NK.exp().float().numpy()
    labels, num_classes = labels_N.numpy(), len(class_names)
    predicted = probabilities_NK.argmax(axis=1)
    confusion_KK = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return Evaluation(
        class_names=class_names,
        labels_N=labels,
        probabilities_NK=probabilities_NK,
        losses_N=torch.nn.functional.nll_loss(log_probabilities_NK, labels_N, reduction="none").numpy(),
        confusion_KK=confusion_KK.reshape(num_classes, num_classes),
        calibration=calibration_of(probabilities_NK.max(axis=1), predicted == labels),
    )


def calibration_of(confidence_N: NDArray[np.float32], correct_N: NDArray[np.bool_]) -> Calibration:
    """Expected calibration error: the mean over images of |accuracy - confidence| of the image's bin.

    Source: Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599, equation 3.
    """
    bins_N = np.clip(
        np.ceil(confidence_N * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1
    )  # (low, high] as in the paper
    count_B = np.bincount(bins_N, minlength=NUM_BINS)
    filled_B = np.maximum(count_B, 1)
    confidence_B = np.bincount(bins_N, weights=confidence_N, minlength=NUM_BINS) / filled_B
    accuracy_B = np.bincount(bins_N, weights=correct_N, minlength=NUM_BINS) / filled_B
    ece = float((count_B * np.abs(accuracy_B - confidence_B)).sum() / len(confidence_N))
    return Calibration(confidence_B, accuracy_B, count_B, ece)
