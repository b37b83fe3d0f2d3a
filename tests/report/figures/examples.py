"""Small results to draw, and what the tests read from a figure.

In: nothing. Out: result objects, figures, their texts and images.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from numpy.typing import NDArray

from scsuite.core.dataset import Split
from scsuite.core.evaluation.metrics import Calibration, Evaluation
from scsuite.core.lr_range.range_test import RangeTest
from scsuite.core.lr_range.sweep import LrSweep
from scsuite.core.runs.results import EpochResult, StepRow, TrainHistory
from scsuite.report import figures

NAN = float("nan")
ONE_CYCLE = [0.04 + 0.36 * (s / 9 if s < 10 else (39 - s) / 30) for s in range(40)]
LRS = [0.001, 0.01, 0.1, 1.0, 10.0]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


def tiles(figure: Figure) -> list[AxesImage]:
    return figure.axes[0].get_images()


def overlap(labels: Sequence[Text], axis: int) -> bool:
    spans = sorted((box.min[axis], box.max[axis]) for box in (label.get_window_extent() for label in labels))
    return any(first[1] > second[0] + 1 for first, second in itertools.pairwise(spans))


def random_images(num_images: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)


def make_sweep(losses: Sequence[float], accuracies: Sequence[float]) -> LrSweep:
    """A sweep whose curves are not smoothed."""
    loss_L, accuracy_L = np.array(losses, dtype=np.float64), np.array(accuracies, dtype=np.float64)
    return LrSweep(0, np.array(LRS[: len(losses)]), loss_L, accuracy_L, loss_L, accuracy_L, noise=0.01, diverged=False)


def make_range_test(**changes: Any) -> RangeTest:
    """Two repeats, the first with a loss that diverges at the end, the second with a step that has none."""
    test: dict[str, Any] = {
        "sweeps": (
            make_sweep([2.3, 2.0, 1.0, 1.5, 1e9], [0.1, 0.2, 0.6, 0.4, 0.1]),
            make_sweep([2.2, NAN, 1.1, 1.4, 1.6], [0.1, NAN, 0.5, 0.3, 0.1]),
        ),
        "suggestions": {"valley": 0.1, "minimum_over_10": 0.1, "$far$": 1e4, "none": NAN},
        "lr_min": 0.04,
        "lr_max": 0.4,
        "allowed_lr_max": (0.02, 2.56),
        "lr_max_source": "scaling rule",
        "reason": "",
        "warnings": (),
        "loss_source": "training images",
        "curve": "exp",
        "conditions": {},
    }
    return RangeTest(**{**test, **changes})


def make_history(test_accuracies: Sequence[float | None] = (0.5, 0.6543)) -> TrainHistory:
    """Epochs of four steps, evaluated on val."""
    epochs = tuple(
        EpochResult(
            epoch=epoch, step=4 * epoch, lr=0.1, momentum=0.9, train_loss=2.0 / epoch, train_accuracy=0.3 * epoch,
            test_loss=None, test_accuracy=None, images_per_second=1.0, seconds=1.0,
            val_loss=None if accuracy is None else 1.5 / epoch, val_accuracy=accuracy,
        )
        for epoch, accuracy in enumerate(test_accuracies, start=1)
    )  # fmt: skip
    steps = tuple(StepRow(step, 0.1, 0.9, 1.0) for step in range(4 * len(epochs)))
    return TrainHistory(epochs, steps, steps_per_epoch=4, eval_split="val", num_classes=10)


def make_evaluation(confusion_KK: NDArray[np.int64], class_names: Sequence[str] | None = None) -> Evaluation:
    """An evaluation with this confusion matrix; every prediction has the probability 0.934."""
    num_classes = len(confusion_KK)
    pairs = np.argwhere(confusion_KK >= 0).repeat(confusion_KK.ravel(), axis=0)
    labels_N, predicted_N = pairs[:, 0], pairs[:, 1]
    probabilities_NK = np.full((len(labels_N), num_classes), 0.066 / max(num_classes - 1, 1), np.float32)
    probabilities_NK[np.arange(len(labels_N)), predicted_N] = 0.934
    return Evaluation(
        class_names=tuple(class_names or [f"class {k}" for k in range(num_classes)]),
        labels_N=labels_N,
        probabilities_NK=probabilities_NK,
        losses_N=np.zeros(len(labels_N)),
        confusion_KK=confusion_KK,
        calibration=Calibration(
            confidence_B=np.array([NAN, 0.4, 0.95]),
            accuracy_B=np.array([NAN, 0.3, 0.99]),
            count_B=np.array([0, 12, 3456]),
            ece=0.0231,
        ),
    )


def make_mistakes(num_images: int, actual: str = "cat", predicted: str = "dog") -> tuple[Evaluation, Split]:
    """Images of one class that are all predicted as another, with probability 0.934, and one correct image."""
    evaluation = make_evaluation(np.array([[0, num_images], [0, 1]]), [actual, predicted])
    files = tuple(f"{i}.png" for i in range(num_images + 1))
    return evaluation, Split(random_images(num_images + 1), evaluation.labels_N, files)


def make_cam_data(maps: Any, images: Any = None, **changes: Any) -> figures.CamFigureData:
    images = np.full((1, 32, 32, 3), 100, np.uint8) if images is None else images
    captions = [{name: f"{name} 0.62" for name in ("image", *maps)}] * len(images)
    data: dict[str, Any] = {"images": images, "maps": maps, "captions": captions, "title": "t", **changes}
    return figures.CamFigureData(**data)


EXAMPLES: dict[str, Callable[[], Figure]] = {
    "schedule": lambda: figures.schedule(ONE_CYCLE, lr_min=0.04, lr_max=0.4, steps_per_epoch=2, title="t"),
    "lr_range": lambda: figures.lr_range(make_range_test()),
    "training": lambda: figures.training(make_history()),
    "comparison": lambda: figures.comparison([("A", make_history().epochs), ("B", make_history().epochs)], "test"),
    "image_grid": lambda: figures.image_grid(random_images(3), ["a"] * 3, "t"),
    "confusion": lambda: figures.confusion(make_evaluation(np.eye(3, dtype=np.int64))),
    "class_accuracy": lambda: figures.class_accuracy(make_evaluation(np.eye(5, dtype=np.int64))),
    "reliability": lambda: figures.reliability(make_evaluation(np.eye(3, dtype=np.int64))),
    "misclassified": lambda: figures.misclassified(*make_mistakes(3), 3),
    "gradcam": lambda: figures.gradcam(make_cam_data({"predicted": np.ones((1, 32, 32), np.float32)})),
    "overlay": lambda: figures.overlay(random_images(1)[0], np.ones((32, 32), np.float32), 1.0),
}
