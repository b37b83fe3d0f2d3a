"""The figures: each function takes a result of core and returns a matplotlib Figure; `save_figure` writes one.

In: result objects. Out: figures. pyplot is never used, so these work without a display and leave matplotlib's global
state as it was.
"""

from scsuite.report.figures.comparison import comparison
from scsuite.report.figures.evaluation import class_accuracy, confusion, reliability
from scsuite.report.figures.gradcam import CamFigureData, gradcam, overlay
from scsuite.report.figures.image_grid import image_grid, misclassified
from scsuite.report.figures.lr_range import lr_range
from scsuite.report.figures.schedule import schedule
from scsuite.report.figures.style import save_figure
from scsuite.report.figures.training import training

__all__ = [
    "CamFigureData", "class_accuracy", "comparison", "confusion", "gradcam", "image_grid", "lr_range",
    "misclassified", "overlay", "reliability", "save_figure", "schedule", "training",
]  # fmt: skip
