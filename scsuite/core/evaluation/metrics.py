"""Figures of merit from logits: loss, accuracy, top-5, confusion, per class, calibration.

In: logits_NK and labels_N of a whole evaluation. Out: frozen results.
Losses are means per image in nats, accuracies fractions.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_CALIBRATION_BINS = 15  # of confidence, for the calibration error; Guo et al., https://arxiv.org/abs/1706.04599
TOP_K = 5  # classes that top-5 looks at
# A normal variable lies within so many standard deviations of its mean with 95 %: NormalDist().inv_cdf(0.975).
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class ClassMetrics:
    """One class: the share of what was said to be it that was (precision), of what was it that was found (recall).

    The recall is the class's accuracy; its interval is Wilson's, as that of the whole accuracy is.
    """

    name: str
    precision: float
    recall: float
    recall_ci95: tuple[float, float]
    f1: float
    support: int


@dataclass(frozen=True)
class MacroMetrics:
    """Means over the classes that there are images of, each class counting the same."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Confusion:
    """How many images of one class were taken for another, and which share of the actual class that is."""

    actual: str
    predicted: str
    images: int
    share: float


@dataclass(frozen=True)
class Calibration:
    """Mean confidence and accuracy in each of NUM_CALIBRATION_BINS equal bins of confidence, and how many images fell there."""

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

    @cached_property
    def predicted_N(self) -> NDArray[np.int64]:
        """The most probable class of each image; the first of equals."""
        predicted: NDArray[np.int64] = self.probabilities_NK.argmax(axis=1)
        return predicted

    @cached_property
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
    def accuracy_ci95(self) -> tuple[float, float]:
        """Where the accuracy on ever more such images would lie, with 95 % confidence."""
        return wilson_interval(int(np.trace(self.confusion_KK)), self.num_images)

    @property
    def top5_accuracy(self) -> float | None:
        """Share of images whose actual class is among the five most probable; None where there are no more than five.

        Of equally probable classes the first come first, as in `predicted_N`.
        """
        if len(self.class_names) <= TOP_K:
            return None
        top_N5 = np.argsort(-self.probabilities_NK, axis=1, kind="stable")[:, :TOP_K]
        return float((top_N5 == self.labels_N[:, None]).any(axis=1).mean())

    @cached_property
    def confusion_normalized_KK(self) -> NDArray[np.float64]:
        """The confusion matrix with each row divided by its images; 0 in the row of a class without any."""
        shares: NDArray[np.float64] = self.confusion_KK / np.maximum(self.confusion_KK.sum(axis=1, keepdims=True), 1)
        return shares

    @property
    def misclassified(self) -> NDArray[np.int64]:
        """Indices of the images it got wrong, the most confident mistake first; equal ones in their own order."""
        wrong = np.flatnonzero(self.predicted_N != self.labels_N)
        order: NDArray[np.int64] = wrong[np.argsort(-self.confidence_N[wrong], kind="stable")]
        return order

    def per_class(self) -> list[ClassMetrics]:
        """Precision, recall and F1 of each class; 0 where nothing was said, or nothing was there, to divide by."""
        hits_K = np.diag(self.confusion_KK)
        num_predicted_K, support_K = self.confusion_KK.sum(axis=0), self.confusion_KK.sum(axis=1)
        precision_K, recall_K = hits_K / np.maximum(num_predicted_K, 1), hits_K / np.maximum(support_K, 1)
        f1_K = 2 * hits_K / np.maximum(num_predicted_K + support_K, 1)
        rows = zip(self.class_names, precision_K, recall_K, f1_K, hits_K, support_K, strict=True)
        return [
            ClassMetrics(name, float(p), float(r), wilson_interval(int(hits), int(n)), float(f1), int(n))
            for name, p, r, f1, hits, n in rows
        ]

    def macro(self) -> MacroMetrics:
        """Averages over classes; on a part of the network's classes, over those of the part."""
        there = [row for row in self.per_class() if row.support]
        means = np.mean([(row.precision, row.recall, row.f1) for row in there], axis=0)
        return MacroMetrics(*map(float, means))

    def confused(self, count: int) -> list[Confusion]:
        """The classes that were mixed up most often, at most `count` pairs."""
        off_KK = self.confusion_KK - np.diag(np.diag(self.confusion_KK))
        order = np.argsort(-off_KK, axis=None, kind="stable")[:count]
        pairs = [divmod(int(i), len(self.class_names)) for i in order]
        return [
            Confusion(self.class_names[a], self.class_names[p], int(off_KK[a, p]), float(self.confusion_normalized_KK[a, p]))
            for a, p in pairs
            if off_KK[a, p]
        ]

    def overall(self) -> dict[str, Any]:
        """The figures that are one number each, or one interval, as plain values."""
        return {
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.accuracy_ci95),
            "top5_accuracy": self.top5_accuracy,
            "loss": self.loss,
            "ece": self.calibration.ece,
            "macro": asdict(self.macro()),
        }

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values, fit for JSON."""
        return {
            **self.overall(),
            "num_images": self.num_images,
            "per_class": [{**asdict(row), "recall_ci95": list(row.recall_ci95)} for row in self.per_class()],
            "confusion_matrix": self.confusion_KK.tolist(),
            "confusion_normalized": self.confusion_normalized_KK.tolist(),
        }


def compute_metrics(logits_NK: Tensor, labels_N: Tensor, class_names: tuple[str, ...]) -> Evaluation:
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
        calibration=compute_calibration(probabilities_NK.max(axis=1), predicted == labels),
    )


def compute_calibration(confidence_N: NDArray[np.float32], correct_N: NDArray[np.bool_]) -> Calibration:
    """Expected calibration error: the mean over images of |accuracy - confidence| of the image's bin.

    Source: Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599, equation 3.
    """
    # (low, high] as in the paper.
    bins_N = np.clip(np.ceil(confidence_N * NUM_CALIBRATION_BINS).astype(np.int64) - 1, 0, NUM_CALIBRATION_BINS - 1)
    count_B = np.bincount(bins_N, minlength=NUM_CALIBRATION_BINS)
    filled_B = np.maximum(count_B, 1)
    confidence_B = np.bincount(bins_N, weights=confidence_N, minlength=NUM_CALIBRATION_BINS) / filled_B
    accuracy_B = np.bincount(bins_N, weights=correct_N, minlength=NUM_CALIBRATION_BINS) / filled_B
    ece = float((count_B * np.abs(accuracy_B - confidence_B)).sum() / len(confidence_N))
    return Calibration(confidence_B, accuracy_B, count_B, ece)


def wilson_interval(hits: int, images: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share of which `hits` of `images` is a sample; all of [0, 1] without images.

    Unlike accuracy +- 2 standard errors it stays in [0, 1] and has a width where all, or none, were hits.
    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927,
    https://doi.org/10.1080/01621459.1927.10502953
    """
    if not images:
        return 0.0, 1.0
    share, spread = hits / images, Z_95**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = (share * (1 - share) * spread + spread**2 / 4) ** 0.5 / (1 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def chance_accuracy_bound(num_classes: int, num_images: int) -> float:
    """Return the upper 98 % bound of chance accuracy: p + 2 * sqrt(p (1 - p) / n), p = 1 / num_classes."""
    chance = 1 / num_classes
    return chance + 2 * math.sqrt(chance * (1 - chance) / num_images)
