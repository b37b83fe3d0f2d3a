"""Predictions for images without labels, and a trained network as one module from pixels to probabilities.

In: a trained network; image files, folders or archives. Out: a `Classifier`; a `Prediction` for each image.
Shapes: N images, C = 3 channels, H = W = 32, K classes.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scsuite.core.dataset import SIZE
from scsuite.core.dataset.folder import SkippedFiles, iter_image_files
from scsuite.core.dataset.image_file import CorruptImageError, corrupt_image_error, decode_images
from scsuite.core.dataset.image_notes import ImageChanges, non_images_note
from scsuite.core.device import Device
from scsuite.core.errors import InputError, UsageError
from scsuite.core.evaluation.evaluate import average_logits, check_finite, check_tta
from scsuite.core.files import missing_path_error, path_exists
from scsuite.core.model.network import evaluation_mode

PREDICT_BATCH_SIZE = 256  # images: few enough that the next ones are decoded while the network computes
_MAX_UNREADABLE_LISTED = 10
_RANGE_MARGIN = 0.5


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """A class and its probability in [0, 1]."""

    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable class of an image and its probability; `topk` has the k most probable ones, sorted."""

    file: str
    predicted: str
    probability: float
    topk: tuple[ClassProbability, ...]


@dataclass
class InputReport(SkippedFiles):
    """What was done to the images that were read, and which files were not: other kinds, and unreadable ones."""

    changes: ImageChanges = field(default_factory=ImageChanges)

    def notes(self) -> list[str]:
        """Return a line for each kind of change, and one about files of other kinds."""
        return self.changes.notes() + ([non_images_note(self.non_images)] if self.non_images else [])


class Classifier(nn.Module):
    """A trained network with everything around it: normalisation, class names, and how an image becomes 32 x 32.

    Attributes:
        class_names: The names of the K classes, in the order of the probabilities.
        fit: How `predict` makes 32 x 32 of an image: crop, pad or stretch, as in the training.
    """

    mean_1C11: Tensor
    std_1C11: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], class_names: Sequence[str],
        fit: str = "crop", path: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = network
        self.class_names, self.fit, self.path = tuple(class_names), fit, path
        for name, values in {"mean_1C11": mean, "std_1C11": std}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return probabilities_NK of images of 3 x 32 x 32: uint8 in [0, 255], or floats in [0, 1].

        Raises UsageError for another shape, type or range.
        """
        probabilities_NK: Tensor = self.network(self.normalise(images_NCHW)).softmax(dim=1)
        return probabilities_NK

    def normalise(self, images_NCHW: Tensor) -> Tensor:
        """Return images as the network takes them. Raises UsageError for another shape, type or range."""
        if not isinstance(images_NCHW, Tensor):
            raise UsageError(
                "images", "Classifier", expected="a tensor", found=type(images_NCHW).__name__,
                hint="Use torch.from_numpy, or give files to .predict().",
            )  # fmt: skip
        is_uint8 = images_NCHW.dtype == torch.uint8
        expected_shape = (self.mean_1C11.shape[1], SIZE, SIZE)
        if tuple(images_NCHW.shape[1:]) != expected_shape or not (is_uint8 or images_NCHW.is_floating_point()):
            raise UsageError(
                "images", "Classifier", expected="uint8 or float images of shape N x 3 x 32 x 32",
                found=f"{str(images_NCHW.dtype).removeprefix('torch.')} {tuple(images_NCHW.shape)}",
                hint="Give files to .predict(), which resizes them.",
            )  # fmt: skip
        if not is_uint8:
            _check_range(images_NCHW)
        # Contiguous and in place: with channels last, or in new memory, each operation takes up to three times as long.
        values_NCHW = images_NCHW.to(self.mean_1C11.dtype, memory_format=torch.contiguous_format)
        if is_uint8:
            values_NCHW = values_NCHW.div_(255)
        return (values_NCHW - self.mean_1C11).div_(self.std_1C11)

    def predict(
        self, paths: str | Path | Sequence[str | Path], topk: int = 1, tta: str = "none",
        on_unreadable: Callable[[str, str], None] | None = None,
    ) -> list[Prediction]:  # fmt: skip
        """Classify image files.

        Args:
            paths: Files, folders (with their subfolders) and archives.
            topk: Number of classes in each prediction's `topk`, the most probable first.
            tta: Test-time augmentation, as `evaluate` has it: none, flip or flip-shift.
            on_unreadable: Called at the end with the name of each file that is no complete image and the reason; these
                files are left out. Default: raise InputError for the first ones.

        Returns:
            One prediction per image, in the order of the paths; the images of a folder are sorted by name.

        Raises:
            InputError: For a path that does not exist, a file that is no complete image, logits that are not finite.
            UsageError: For no path, an unknown `tta`, or a `topk` that is not between 1 and the number of classes.

        Example:
            >>> classifier = load_classifier("runs/20260101T000000Z-train-shapes")
            >>> [(image.file, image.predicted, image.probability) for image in classifier.predict("photos")]
        """
        report, predictions = InputReport(), []
        for prediction in predict_files(self, check_paths(paths), report, topk=topk, tta=tta):
            predictions.append(prediction)
            if report.unreadable and on_unreadable is None:
                break
        if report.unreadable and on_unreadable is None:
            raise corrupt_image_error(report.unreadable[:_MAX_UNREADABLE_LISTED])
        if on_unreadable is not None:
            for file, reason in report.unreadable:
                on_unreadable(file, reason)
        return predictions


def _check_range(images_NCHW: Tensor) -> None:
    """Raise UsageError for floats in [0, 255], or normalised ones; a bit outside [0, 1], as after a resize, is good."""
    if torch.compiler.is_compiling() or not images_NCHW.numel():
        return  # an exported network has no check of values
    low, high = (float(value) for value in images_NCHW.detach().aminmax())
    if low < -_RANGE_MARGIN or high > 1 + _RANGE_MARGIN:
        raise UsageError(
            "images", "Classifier", expected="floats in [0, 1]", found=f"values from {low:.3g} to {high:.3g}",
            hint="Give uint8 images, or divide by 255; the network normalises them itself.",
        )  # fmt: skip


def check_paths(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """Return one path, or several, as a list.

    Raises UsageError for none at all, and InputError for one that does not exist, or that is neither file nor folder.
    """
    expected, hint = "a file, folder or archive", "Give image files, folders or archives."
    listed = list(paths) if isinstance(paths, Iterable) and not isinstance(paths, str | bytes) else [paths]
    if wrong := [path for path in listed if not isinstance(path, str | os.PathLike)]:
        raise UsageError("paths", "predict", expected="str or Path", found=type(wrong[0]).__name__, hint=hint)
    if not listed:
        raise UsageError("paths", "predict", expected="at least one", found="none", hint=hint)
    for path in listed:
        if not path_exists(path):
            raise missing_path_error("image", path, expected)
        if not os.path.isfile(path) and not os.path.isdir(path):  # noqa: PTH112, PTH113 - called for each of thousands
            found = "a pipe, socket or device" if os.path.exists(path) else "a link to nothing"  # noqa: PTH110
            raise InputError("image", path, expected=expected, found=found, hint=hint)
    return listed


def check_topk(topk: int, num_classes: int) -> None:
    """Raise UsageError for more classes than the network has, or for none."""
    if type(topk) is not int or not 1 <= topk <= num_classes:
        raise UsageError(
            "option", "--topk", expected=f"a whole number from 1 to {num_classes}, the number of classes",
            found=repr(topk), hint="Choose one of these.",
        )  # fmt: skip


def predict_files(
    classifier: Classifier, paths: Sequence[str | Path], report: InputReport, *, topk: int = 1, tta: str = "none",
    device: Device | None = None,
) -> Iterator[Prediction]:  # fmt: skip
    """Yield the prediction of each image in order; only a batch of images is in memory at a time.

    What is no complete image, and an archive from where it is damaged, is added to `report`.
    Raises UsageError for an unknown `tta` or `topk`, and InputError for logits that are not finite.
    """
    check_topk(topk, len(classifier.class_names))
    check_tta(tta)
    device = device or Device(classifier.mean_1C11.device, torch.float32)
    names: list[str] = []
    images: list[NDArray[np.uint8]] = []
    for name, decoded in decode_images(_read_files(paths, report), classifier.fit):
        if isinstance(decoded, CorruptImageError):
            report.unreadable.append((name, str(decoded)))
            continue
        report.changes.add(decoded)
        names.append(name)
        images.append(decoded.image_HWC)
        if len(images) == PREDICT_BATCH_SIZE:
            yield from _predict_batch(classifier, names, images, topk, tta, device)
            names, images = [], []
    if images:
        yield from _predict_batch(classifier, names, images, topk, tta, device)


def _read_files(paths: Sequence[str | Path], report: InputReport) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        try:
            yield from iter_image_files(path, report)
        except InputError as error:
            found = str(error.found)
            if error.what == "data":  # a folder or an archive without images
                found = "no images" + found.removeprefix("none")
            elif error.what == "archive":
                found = found.replace("one that", "an archive that", 1)
            report.unreadable.append((str(error.where), found))


def _predict_batch(
    classifier: Classifier, names: list[str], images: list[NDArray[np.uint8]], topk: int, tta: str, device: Device
) -> list[Prediction]:
    images_NCHW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with evaluation_mode(classifier), torch.inference_mode():
        normalised_NCHW = classifier.normalise(device.move(images_NCHW))
        with device.autocast():
            logits_NK = average_logits(classifier.network, normalised_NCHW, tta)
        # In double precision on the CPU, as `compute_metrics` does: the same probabilities as those of an evaluation.
        probabilities_NK = logits_NK.cpu().double().log_softmax(dim=1).exp().float().numpy()
    check_finite(probabilities_NK, classifier.path, device)
    order_NK = np.argsort(-probabilities_NK, axis=1, kind="stable")[:, :topk]  # of equal ones the first, as argmax
    sorted_NK = np.take_along_axis(probabilities_NK, order_NK, axis=1)
    return [
        _prediction(name, [classifier.class_names[label] for label in labels], probabilities)
        for name, labels, probabilities in zip(names, order_NK.tolist(), sorted_NK.tolist(), strict=True)
    ]


def _prediction(file: str, class_names: list[str], probabilities: list[float]) -> Prediction:
    classes = tuple(map(ClassProbability, class_names, probabilities))
    return Prediction(file, classes[0].name, classes[0].probability, classes)
