"""Evaluation of a network on all images of a split, with test-time augmentation if requested.

In: a network and a split. Out: an `Evaluation`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.augment import normalise
from scsuite.core.config import TTA_MODES, DataConfig
from scsuite.core.dataset import Split
from scsuite.core.dataset.cifar10 import has_data
from scsuite.core.device import Device
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.errors import InputError, UsageError, did_you_mean
from scsuite.core.evaluation.metrics import Evaluation, compute_metrics
from scsuite.core.files import normalise_name
from scsuite.core.model.network import ResNet3, evaluation_mode

EVAL_BATCH_SIZE = 1000  # images; without gradients a batch needs less memory than in training


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: tuple[str, ...],
    device: Device | None = None,
    tta: str = "none",
    on_batch: Callable[[], None] | None = None,
    world: World = SINGLE_PROCESS,
) -> Evaluation:
    """Evaluate a network on all images of a split, without gradients; the training mode of all its modules is restored.

    The ranks of a world evaluate the batches of a single process in turn, so all get the same logits, bit for bit.

    Args:
        model: A network from normalised images_NCHW to logits_NK.
        split: Images and labels.
        mean: Mean of each channel in [0, 1], as the network was trained with.
        std: Standard deviation of each channel.
        class_names: Names of the K classes.
        device: Device and number format; default: where the model is, in fp32.
        tta: none; flip: average the logits over the image and its mirror image; flip-shift: also over shifts by one
            pixel up and left, and down and right.
        on_batch: Called before each batch; an exception that it raises ends the evaluation.
        world: The ranks that share the work.

    Returns:
        Loss, accuracy, confusion matrix, per-class metrics, calibration and the probabilities of each image.

    Raises:
        RuntimeError: For a model that does not take images of this size.
        UsageError: For an unknown `tta`.

    Example:
        >>> data = load_dataset("shapes")
        >>> model, metadata = load_checkpoint("runs/20260101T000000Z-train-shapes")
        >>> keys = ("mean", "std", "class_names")
        >>> evaluate(model, data.test, **{key: metadata[key] for key in keys}).accuracy
    """
    check_tta(tta)
    device = device or Device(next(model.parameters()).device, torch.float32)
    logits_NK = torch.zeros(len(split), len(class_names))
    with evaluation_mode(model), torch.inference_mode():
        for first in range(0, len(split), EVAL_BATCH_SIZE * world.size):
            if on_batch is not None:
                on_batch()
            start = first + EVAL_BATCH_SIZE * world.rank
            if start >= len(split):
                break  # the last turn was another rank's
            shard = slice(start, start + EVAL_BATCH_SIZE)
            images_NCHW = device.move(normalise(split.images_NHWC[shard], mean, std))
            with device.autocast():
                logits_NK[shard] = average_logits(model, images_NCHW, tta).cpu()
    world.all_reduce_sum(logits_NK)  # each row is one rank's, and 0 on the others
    return compute_metrics(logits_NK, torch.from_numpy(split.labels_N), tuple(class_names))


def check_tta(tta: str) -> None:
    """Raise UsageError for an unknown mode of test-time augmentation."""
    if tta not in TTA_MODES:
        hint = did_you_mean(tta, TTA_MODES, otherwise="Choose one of these.")
        raise UsageError("option", "--tta", expected=f"one of {', '.join(TTA_MODES)}", found=repr(tta), hint=hint)


def average_logits(model: nn.Module, images_NCHW: Tensor, tta: str) -> Tensor:
    """Return logits_NK in fp32, averaged over the views of test-time augmentation."""
    return torch.stack([model(view).float() for view in _tta_views(images_NCHW, tta)]).mean(dim=0)


def _tta_views(images_NCHW: Tensor, tta: str) -> list[Tensor]:
    views = [images_NCHW]
    if tta == "flip-shift":
        padded = functional.pad(images_NCHW, (1, 1, 1, 1), mode="reflect")
        height, width = images_NCHW.shape[2:]
        views += [padded[:, :, :height, :width], padded[:, :, 2 : height + 2, 2 : width + 2]]
    return views + [view.flip(3) for view in views] if tta != "none" else views


@dataclass(frozen=True)
class TrainedModel:
    """A network, what its checkpoint records about it, and its present device."""

    model: ResNet3
    path: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data_config: DataConfig
    device: Device
    metadata: Mapping[str, Any]
    seed: int | None = None  # of the training

    @classmethod
    def from_checkpoint(cls, model: ResNet3, metadata: Mapping[str, Any], path: Path, device: Device) -> "TrainedModel":
        """Return the network of a checkpoint, on `device`.

        Another person may have written the file: it does not choose where data is downloaded to or cached.
        """
        config = DataConfig.from_saved(metadata["config"], path)
        data_dir = config.data_dir if config.data_dir and has_data(Path(config.data_dir)) else None
        return cls(
            model=model, path=str(path.resolve()), class_names=tuple(map(normalise_name, metadata["class_names"])),
            mean=tuple(metadata["mean"]), std=tuple(metadata["std"]),
            data_config=replace(config, data_dir=data_dir, cache_dir=None), device=device, metadata=metadata,
            seed=seed if isinstance(seed := metadata["config"].get("seed"), int) else None,
        )  # fmt: skip

    def evaluate(self, split: Split, tta: str = "none") -> Evaluation:
        """Evaluate the network on a split. Raises InputError if its logits are not finite."""
        evaluation = evaluate(
            self.model, split, mean=self.mean, std=self.std, class_names=self.class_names, device=self.device, tta=tta
        )
        check_finite(evaluation.probabilities_NK, self.path, self.device)
        return evaluation


def check_finite(probabilities_NK: NDArray[np.float32], path: str, device: Device) -> None:
    """Raise InputError for probabilities that are not finite: finite weights can overflow too."""
    if num_invalid := int((~np.isfinite(probabilities_NK).all(axis=1)).sum()):
        raise InputError(
            "checkpoint", path, expected=f"finite logits in {device.precision}",
            found=f"other values for {num_invalid} of {len(probabilities_NK)} images",
            hint="Try --precision fp32, or another checkpoint.",
        )  # fmt: skip
