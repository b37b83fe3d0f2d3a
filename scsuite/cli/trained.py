"""What `evaluate` and `gradcam` share: a trained network, and the test images that its run saw."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsuite.cli.begin import load_data
from scsuite.cli.console import Terminal
from scsuite.core.config import DataConfig, CheckpointConfig
from scsuite.core.errors import InputError, UsageError

if TYPE_CHECKING:
    from scsuite.core.dataset import Dataset, Split
    from scsuite.core.loop import Device
    from scsuite.core.evaluation.metrics import Evaluation
    from scsuite.core.model import ResNet3


@dataclass(frozen=True)
class Trained:
    """A network with what its checkpoint says of it, and where it computes now."""

    model: "ResNet3"
    path: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: DataConfig
    device: "Device"

    def evaluate(self, split: "Split", tta: str = "none") -> "Evaluation":
        """The network on these images."""
        import numpy as np

        from scsuite.core.loop import evaluate

        seen = evaluate(
            self.model, split, mean=self.mean, std=self.std, class_names=self.class_names, device=self.device,
            tta=tta,
        )  # fmt: skip
        if wrong := int((~np.isfinite(seen.probabilities_NK).all(axis=1)).sum()):  # finite weights can overflow too
            raise InputError(
                "checkpoint", self.path, expected=f"finite answers in {self.device.precision}",
                found=f"none for {wrong} of {len(split)} images", hint="Try --precision fp32, or another checkpoint.",
            )  # fmt: skip
        return seen


def load_trained(config: CheckpointConfig, terminal: Terminal) -> Trained:
    """The network of `--ckpt`, in the precision of its run, unless a flag says else or this device does not have it."""
    import torch

    from scsuite.core.model.checkpoint import load_checkpoint
    from scsuite.core.loop import resolve_device
    from scsuite.core.runs.rundir import resolve_checkpoint

    path = resolve_checkpoint(config.ckpt)
    model, facts = load_checkpoint(path)
    try:
        device = resolve_device(config.device, config.precision or facts["precision"])
    except UsageError:
        device = resolve_device(config.device, config.precision or "auto")
        terminal.log_warning(
            f"{facts['precision']}, the run's precision, is not for {device.device}: {device.precision}"
        )
    model.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trained(
        model=model,
        path=str(path.resolve()),
        class_names=tuple(facts["class_names"]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        settings=_data_settings(facts["config"], path),
        device=device,
    )


def _data_settings(config: Mapping[str, Any], path: Path) -> DataConfig:
    """How the run read its data. The file may be a stranger's: it does not choose where images are fetched or kept."""
    from scsuite.core.dataset.cifar10 import has_data

    settings = DataConfig.from_saved(config, path)
    place = settings.data_dir if settings.data_dir and has_data(Path(settings.data_dir)) else None
    return replace(settings, data_dir=place, cache_dir=None)


def load_test_data(config: CheckpointConfig, trained: Trained, terminal: Terminal) -> "Dataset":
    """The data of the network's run, or that of a flag, labelled by the network's classes; others are refused."""
    from scsuite.core.dataset.base import format_names

    given = {name: value for name, value in config.to_dict().items() if value is not None}
    data = load_data(DataConfig.from_dict({**trained.settings.to_dict(), **given}), terminal)
    data = data.relabelled(trained.class_names, config.data or data.name)
    there = set(data.test.labels_N.tolist())
    if absent := [name for label, name in enumerate(trained.class_names) if label not in there]:
        terminal.log_line(f"          no test images of {len(absent)} of the network's classes: {format_names(absent)}")
    return data
