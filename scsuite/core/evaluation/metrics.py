"""Classification metrics from logits: loss, accuracy, top-5, confusion matrix, per-class metrics, calibration.

In: logits_NK and labels_N of a complete evaluation. Out: frozen results.
Losses are means per image in nats, accuracies are fractions. N images, K classes, B bins of confidence.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_CALIBRATION_BINS = 15  # of confidence; Guo et al., https://arxiv.org/abs/1706.04599
TOP_K = 5
# 95 % of a normal distribution lies within this many standard deviations of its mean: NormalDist().inv_cdf(0.975).
Z_95 = 1.959963984540054
NUM_MOST_CONFUSED = 10  # pairs in `to_dict`


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class: precision = TP / (TP + FP), recall = TP / (TP + FN), support = TP + FN.

    The recall is the accuracy on the images of the class; `recall_ci95` is its Wilson interval. A class without images
    has none of these metrics.
    """

    name: str
    precision: float | None
    recall: float | None
    recall_ci95: tuple[float, float] | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class MacroMetrics:
    """Unweighted means over the classes that have images."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ConfusedPair:
    """How many images of one class were predicted as another, and the fraction of the actual class that they are."""

    actual: str
    predicted: str
    count: int
    fraction: float


@dataclass(frozen=True)
class Calibration:
    """Mean confidence, accuracy and number of images in NUM_CALIBRATION_BINS equally wide bins of confidence."""

    confidence_B: NDArray[np.float64]
    accuracy_B: NDArray[np.float64]
    count_B: NDArray[np.int64]
    ece: float


@dataclass(frozen=True)
class Evaluation:
    """The predictions of a network on N images; `confusion_KK` has the actual classes in rows."""

    class_names: tuple[str, ...]
    labels_N: NDArray[np.int64]
    probabilities_NK: NDArray[np.float32]
    losses_N: NDArray[np.float64]
    confusion_KK: NDArray[np.int64]
    calibration: Calibration

    @cached_property
    def predicted_N(self) -> NDArray[np.int64]:
        """The most probable class of each image; the first one if several are equally probable."""
        predicted_N: NDArray[np.int64] = self.probabilities_NK.argmax(axis=1)
        return predicted_N

    @cached_property
    def confidence_N(self) -> NDArray[np.float32]:
        """The probability of the predicted class."""
        confidence_N: NDArray[np.float32] = self.probabilities_NK.max(axis=1)
        return confidence_N

    @property
    def num_images(self) -> int:
        """The number of images, N."""
        return len(self.labels_N)

    @property
    def loss(self) -> float:
        """Cross entropy, mean per image, in nats."""
        return float(self.losses_N.mean())

    @property
    def accuracy(self) -> float:
        """Fraction of the images whose most probable class is the actual one."""
        return float(np.trace(self.confusion_KK) / self.num_images)

    @property
    def accuracy_ci95(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy on all images of this kind."""
        return wilson_interval(int(np.trace(self.confusion_KK)), self.num_images)

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have images: what each class would get with equally many images."""
        return self.macro().recall

    @property
    def only_predicted_class(self) -> str | None:
        """The class that is predicted for all images, if these are of several classes; else None."""
        predicted = np.unique(self.predicted_N)
        is_only = len(predicted) == 1 and len(np.unique(self.labels_N)) > 1
        return self.class_names[predicted[0]] if is_only else None

    @property
    def top5_accuracy(self) -> float | None:
        """Fraction of the images whose actual class is among the five most probable; None for at most five classes.

        Equally probable classes are taken in their order, as in `predicted_N`.
        """
        if len(self.class_names) <= TOP_K:
            return None
        top_N5 = np.argsort(-self.probabilities_NK, axis=1, kind="stable")[:, :TOP_K]
        return float((top_N5 == self.labels_N[:, None]).any(axis=1).mean())

    @cached_property
    def confusion_normalized_KK(self) -> NDArray[np.float64]:
        """The confusion matrix with each row divided by its number of images; a class without images has a row of 0."""
        support_K1 = self.confusion_KK.sum(axis=1, keepdims=True)
        normalized_KK: NDArray[np.float64] = self.confusion_KK / np.maximum(support_K1, 1)
        return normalized_KK

    @property
    def misclassified(self) -> NDArray[np.int64]:
        """Indices of the misclassified images, the most confident first; equally confident ones in index order."""
        wrong = np.flatnonzero(self.predicted_N != self.labels_N)
        indices: NDArray[np.int64] = wrong[np.argsort(-self.confidence_N[wrong], kind="stable")]
        return indices

    def per_class(self) -> list[ClassMetrics]:
        """Return precision, recall and F1 of each class: 0 if it was never predicted, None if it has no images."""
        num_correct_K = np.diag(self.confusion_KK)
        num_predicted_K, support_K = self.confusion_KK.sum(axis=0), self.confusion_KK.sum(axis=1)
        precision_K = num_correct_K / np.maximum(num_predicted_K, 1)
        recall_K = num_correct_K / np.maximum(support_K, 1)
        f1_K = 2 * num_correct_K / np.maximum(num_predicted_K + support_K, 1)
        rows = zip(self.class_names, precision_K, recall_K, f1_K, num_correct_K, support_K, strict=True)
        return [
            ClassMetrics(name, float(p), float(r), wilson_interval(int(num_correct), int(n)), float(f1), int(n))
            if n
            else ClassMetrics(name, None, None, None, None, 0)
            for name, p, r, f1, num_correct, n in rows
        ]

    def macro(self) -> MacroMetrics:
        """Return means over the classes that have images."""
        rows = [(row.precision, row.recall, row.f1) for row in self.per_class() if row.support]
        return MacroMetrics(*map(float, np.mean(np.array(rows, np.float64), axis=0)))

    def most_confused(self, count: int) -> list[ConfusedPair]:
        """Return at most `count` pairs of actual and predicted class, those with the most mistakes first."""
        mistakes_KK = self.confusion_KK - np.diag(np.diag(self.confusion_KK))
        order = np.argsort(-mistakes_KK, axis=None, kind="stable")[:count]
        names, fractions_KK = self.class_names, self.confusion_normalized_KK
        pairs = [divmod(int(i), len(names)) for i in order]
        return [
            ConfusedPair(names[a], names[p], int(mistakes_KK[a, p]), float(fractions_KK[a, p]))
            for a, p in pairs
            if mistakes_KK[a, p]
        ]

    def summary(self) -> dict[str, Any]:
        """Return the metrics over all classes as plain values, by their keys in result.json."""
        return {
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.accuracy_ci95),
            "balanced_accuracy": self.balanced_accuracy,
            "top5_accuracy": self.top5_accuracy,
            "loss": self.loss,
            "ece": self.calibration.ece,
            "macro": asdict(self.macro()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all metrics as plain values, by their keys in result.json."""
        return {
            **self.summary(),
            "num_images": self.num_images,
            "per_class": [
                {**asdict(row), "recall_ci95": row.recall_ci95 and list(row.recall_ci95)} for row in self.per_class()
            ],
            "confusion_matrix": self.confusion_KK.tolist(),
            "confusion_normalized": self.confusion_normalized_KK.tolist(),
            "most_confused": [asdict(pair) for pair in self.most_confused(NUM_MOST_CONFUSED)],
        }


def compute_metrics(logits_NK: Tensor, labels_N: Tensor, class_names: tuple[str, ...]) -> Evaluation:
    """Return all metrics from the logits of a complete evaluation, computed in double precision on the CPU."""
    logits_NK, labels_N = logits_NK.cpu().double(), labels_N.cpu().long()
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
    """Return the bins of confidence and the expected calibration error (ECE).

    ECE = sum over bins of count / N * |accuracy - confidence|.
    Source: Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599, equation 3.
    """
    # Bins are (low, high], as in the paper.
    bins_N = np.clip(np.ceil(confidence_N * NUM_CALIBRATION_BINS).astype(np.int64) - 1, 0, NUM_CALIBRATION_BINS - 1)
    count_B = np.bincount(bins_N, minlength=NUM_CALIBRATION_BINS)
    divisor_B = np.maximum(count_B, 1)
    confidence_B = np.bincount(bins_N, weights=confidence_N, minlength=NUM_CALIBRATION_BINS) / divisor_B
    accuracy_B = np.bincount(bins_N, weights=correct_N, minlength=NUM_CALIBRATION_BINS) / divisor_B
    ece = float((count_B * np.abs(accuracy_B - confidence_B)).sum() / len(confidence_N))
    return Calibration(confidence_B, accuracy_B, count_B, ece)


def wilson_interval(num_correct: int, num_images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of an accuracy estimated from a sample; (0, 1) for an empty sample.

    Unlike accuracy +- 2 standard errors it stays within [0, 1], and it has a width if all or none are correct.
    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927,
    https://doi.org/10.1080/01621459.1927.10502953
    """
    if not num_images:
        return 0.0, 1.0
    fraction, spread = num_correct / num_images, Z_95**2 / num_images
    center = (fraction + spread / 2) / (1 + spread)
    half_width = (fraction * (1 - fraction) * spread + spread**2 / 4) ** 0.5 / (1 + spread)
    return max(center - half_width, 0.0), min(center + half_width, 1.0)


def chance_accuracy_bound(num_classes: int, num_images: int) -> float:
    """Return the upper 98 % bound of chance accuracy: p + 2 * sqrt(p (1 - p) / n), p = 1 / num_classes."""
    chance = 1 / num_classes
    return chance + 2 * float(np.sqrt(chance * (1 - chance) / num_images))


def baseline_warning(best_accuracy: float, labels_N: NDArray[np.int64], class_names: tuple[str, ...]) -> str | None:
    """Return a text if a training's best accuracy is not above that of guessing, or of predicting the largest class."""
    label, fraction = majority_class(labels_N)
    if is_uneven(labels_N) and best_accuracy <= fraction:
        return f"never exceeded the fraction of the largest class ({100 * fraction:.1f} %, {class_names[label]})"
    if best_accuracy <= chance_accuracy_bound(len(class_names), len(labels_N)):
        return f"never exceeded chance ({100 / len(class_names):.0f} %)"
    return None


def is_uneven(labels_N: NDArray[np.int64]) -> bool:
    """Return whether the classes that have images have different numbers of them."""
    _, counts = np.unique(labels_N, return_counts=True)
    return bool(counts.min() < counts.max())


def majority_fraction(labels_N: NDArray[np.int64]) -> float | None:
    """Return the fraction of the largest class if the classes are uneven, else None."""
    return majority_class(labels_N)[1] if is_uneven(labels_N) else None


def majority_class(labels_N: NDArray[np.int64]) -> tuple[int, float]:
    """Return the class with the most images and its fraction: the accuracy of a network that predicts nothing else."""
    labels, counts = np.unique(labels_N, return_counts=True)
    return int(labels[counts.argmax()]), float(counts.max() / len(labels_N))
