"""scsuite: super-convergence training of small image classifiers.

The library's face. Names are loaded when first used: importing scsuite loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from scsuite.core.cam import grad_cam
    from scsuite.core.model.checkpoint import load_checkpoint
    from scsuite.core.config import LrRangeConfig, TrainConfig
    from scsuite.core.dataset import load_dataset
    from scsuite.core.loop import Trainer, evaluate, fit
    from scsuite.core.model import build_model
    from scsuite.core.schedule import one_cycle, triangular
    from scsuite.core.lr_range.range_test import range_test

_ROOMS = {
    "LrRangeConfig": "config",
    "TrainConfig": "config",
    "Trainer": "loop",
    "build_model": "model",
    "evaluate": "loop",
    "fit": "loop",
    "grad_cam": "cam",
    "load_checkpoint": "checkpoint",
    "load_dataset": "dataset",
    "one_cycle": "schedule",
    "range_test": "sweep",
    "triangular": "schedule",
}

__all__ = [
    "LrRangeConfig",
    "TrainConfig",
    "Trainer",
    "__version__",
    "build_model",
    "evaluate",
    "fit",
    "grad_cam",
    "load_checkpoint",
    "load_dataset",
    "one_cycle",
    "range_test",
    "triangular",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"scsuite.core.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
