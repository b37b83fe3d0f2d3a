"""scsuite: super-convergence training of small image classifiers.

The public Python API. Names are loaded when first used: importing scsuite loads no torch.
"""

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # as type checkers read it: importing typing takes time in which Ctrl-C shows a traceback
if TYPE_CHECKING:
    from typing import Any

    from scsuite.core.cam import grad_cam
    from scsuite.core.config import LrRangeConfig, TrainConfig
    from scsuite.core.dataset import Dataset, load_dataset
    from scsuite.core.evaluation.evaluate import evaluate
    from scsuite.core.lr_range.range_test import range_test
    from scsuite.core.model.network import build_model
    from scsuite.core.runs import load_checkpoint, load_classifier
    from scsuite.core.schedule import OneCycle, one_cycle, triangular
    from scsuite.core.training.trainer import Trainer

_MODULES = {
    "Dataset": "core.dataset",
    "LrRangeConfig": "core.config",
    "OneCycle": "core.schedule",
    "TrainConfig": "core.config",
    "Trainer": "core.training.trainer",
    "build_model": "core.model.network",
    "evaluate": "core.evaluation.evaluate",
    "figures": "report.figures",
    "grad_cam": "core.cam",
    "load_checkpoint": "core.runs",
    "load_classifier": "core.runs",
    "load_dataset": "core.dataset",
    "one_cycle": "core.schedule",
    "range_test": "core.lr_range.range_test",
    "triangular": "core.schedule",
}

__all__ = [
    "Dataset",
    "LrRangeConfig",
    "OneCycle",
    "TrainConfig",
    "Trainer",
    "__version__",
    "build_model",
    "evaluate",
    "figures",
    "grad_cam",
    "load_checkpoint",
    "load_classifier",
    "load_dataset",
    "one_cycle",
    "range_test",
    "triangular",
]


def __getattr__(name: str) -> "Any":
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"scsuite.{_MODULES[name]}")
    return module if name == "figures" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
