"""What `evaluate` and `gradcam` share: a trained network, and the test images that its run saw."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scsuite.cli.begin import load_data
from scsuite.cli.terminal import Terminal
from scsuite.core.config import DataConfig, ReadConfig
from scsuite.core.errors import InputError, UsageError

if TYPE_CHECKING:
    from scsuite.core.dataset import Dataset, Split
    from scsuite.core.loop import Arithmetic
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
    arithmetic: "Arithmetic"

    def evaluate(self, split: "Split", tta: str = "none") -> "Evaluation":
        """The network on these images."""
        import numpy as np

        from scsuite.core.loop import evaluate

        seen = evaluate(
            self.model, split, mean=self.mean, std=self.std, class_names=self.class_names, arithmetic=self.arithmetic,
            tta=tta,
        )  # fmt: skip
        if wrong := int((~np.isfinite(seen.probabilities_NK).all(axis=1)).sum()):  # finite weights can overflow too
            raise InputError(
                "checkpoint", self.path, expected=f"finite answers in {self.arithmetic.precision}",
                found=f"none for {wrong} of {len(split)} images", hint="Try --precision fp32, or another checkpoint.",
            )  # fmt: skip
        return seen


def load_trained(config: ReadConfig, terminal: Terminal) -> Trained:
    """The network of `--ckpt`, in the precision of its run, unless a flag says else or this device does not have it."""
    import torch

    from scsuite.core.model.checkpoint import load_checkpoint
    from scsuite.core.loop import resolve_arithmetic
    from scsuite.core.runs.rundir import weights_file

    path = weights_file(config.ckpt)
    model, facts = load_checkpoint(path)
    try:
        arithmetic = resolve_arithmetic(config.device, config.precision or facts["precision"])
    except UsageError:
        arithmetic = resolve_arithmetic(config.device, config.precision or "auto")
        terminal.warn(
            f"{facts['precision']}, the run's precision, is not for {arithmetic.device}: {arithmetic.precision}"
        )
    model.to(arithmetic.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trained(
        model=model,
        path=str(path.resolve()),
        class_names=tuple(facts["class_names"]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        settings=_data_settings(facts["config"], path),
        arithmetic=arithmetic,
    )


def _data_settings(config: Mapping[str, Any], path: Path) -> DataConfig:
    """How the run read its data. The file may be a stranger's: it does not choose where images are fetched or kept."""
    from scsuite.core.dataset.cifar10 import is_in

    settings = DataConfig.from_file(config, path)
    place = settings.data_dir if settings.data_dir and is_in(Path(settings.data_dir)) else None
    return replace(settings, data_dir=place, cache_dir=None)


def load_test_data(config: ReadConfig, trained: Trained, terminal: Terminal) -> "Dataset":
    """The data of the network's run, or that of a flag, labelled by the network's classes; others are refused."""
    from scsuite.core.dataset.base import listed

    given = {name: value for name, value in config.to_dict().items() if value is not None}
    data = load_data(DataConfig.from_dict({**trained.settings.to_dict(), **given}), terminal)
    data = data.labelled_by(trained.class_names, config.data or data.name)
    there = set(data.test.labels_N.tolist())
    if absent := [name for label, name in enumerate(trained.class_names) if label not in there]:
        terminal.line(f"          no test images of {len(absent)} of the network's classes: {listed(absent)}")
    return data
