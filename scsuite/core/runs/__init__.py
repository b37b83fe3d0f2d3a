"""Run directories: their files, the environment of a run, and the JSON results that scripts rely on.

In: the path of a run. Out: `load_checkpoint` gives its network, `load_classifier` one module from images to
probabilities.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:  # imports torch, which zigzag does not need
    from torch import nn

    from scsuite.core.evaluation.predict import Classifier
    from scsuite.core.model.checkpoint import Checkpoint
    from scsuite.core.model.network import ResNet3

M = TypeVar("M", bound="nn.Module")


@overload
def load_checkpoint(run_or_file: str | Path, model: None = None) -> "tuple[ResNet3, dict[str, Any]]": ...


@overload
def load_checkpoint(run_or_file: str | Path, model: M) -> tuple[M, dict[str, Any]]: ...


def load_checkpoint(run_or_file: str | Path, model: "nn.Module | None" = None) -> "tuple[nn.Module, dict[str, Any]]":
    """Load the network of a training.

    Args:
        run_or_file: A checkpoint file, or a run directory: its model.safetensors, or before its end the newest
            intact checkpoint, with a warning if there are damaged ones.
        model: Your own network, of the same class as in the training: the weights are loaded into it. A file names the
            class in messages only; nothing that it names is imported.

    Returns:
        The network in eval mode on the CPU (your own: on its device), with the averaged weights if the run averages
        them; and its metadata, with class_names, the training images' mean and std, temperature, network, config,
        data, precision and policy.

    Raises:
        InputError: For a path that is neither, and a file that is damaged, that scsuite did not write, or that holds
            another network.

    Example:
        >>> model, metadata = load_checkpoint("runs/20260101T000000Z-train-shapes")
        >>> metadata["class_names"]
    """
    from scsuite.core.model.checkpoint import load_network, load_own_network

    checkpoint = _open_checkpoint(run_or_file)
    if model is None:
        return load_network(checkpoint), checkpoint.metadata
    load_own_network(checkpoint, model)
    return model, checkpoint.metadata


def load_classifier(run_or_file: str | Path) -> "Classifier":
    """Load the network of a training as one module from images to probabilities.

    Normalisation is inside. torch.export.export and torch.onnx.export take the module as it is.

    Args:
        run_or_file: A run directory or a checkpoint file, as for `load_checkpoint`.

    Returns:
        An nn.Module in eval mode on the CPU. It takes images of shape N x 3 x 32 x 32, uint8 or floats in [0, 1], and
        returns probabilities of shape N x K. `.class_names` names the classes; `.predict(paths)` decodes, resizes and
        classifies image files.

    Raises:
        InputError: For a path that is neither, and a file that is damaged or that scsuite did not write.

    Example:
        >>> classifier = load_classifier("runs/20260101T000000Z-train-shapes")
        >>> for image in classifier.predict(["cat.jpg", "photos.zip"], topk=3):
        ...     print(image.file, image.predicted, image.probability, image.topk)
    """
    from scsuite.core.config import DataConfig
    from scsuite.core.evaluation.predict import Classifier
    from scsuite.core.model.checkpoint import load_network

    checkpoint = _open_checkpoint(run_or_file)
    network, metadata, path = load_network(checkpoint), checkpoint.metadata, checkpoint.path
    fit = DataConfig.from_saved(metadata["config"], path).fit
    normalisation = {name: metadata[name] for name in ("mean", "std")}
    return Classifier(network, **normalisation, class_names=metadata["class_names"], fit=fit, path=str(path)).eval()


def _open_checkpoint(run_or_file: str | Path) -> "Checkpoint":
    from scsuite.core.runs.checkpoints import open_checkpoint

    checkpoint, problems = open_checkpoint(run_or_file)
    for problem in problems:
        warnings.warn(f"skipped a damaged checkpoint: {problem}", stacklevel=3)
    return checkpoint
