"""The suite's figures: each function draws one, writes it where its path says (PNG, SVG or PDF), and returns nothing.

In: plain results. Out: a file. No pyplot and no window: these work without a display and leave matplotlib as it was.
"""

from scsuite.report.figures.curves import lr_range, schedule, training
from scsuite.report.figures.galleries import gradcam, image_grid, misclassified
from scsuite.report.figures.matrices import classes, confusion, reliability

__all__ = [
    "classes",
    "confusion",
    "gradcam",
    "image_grid",
    "lr_range",
    "misclassified",
    "reliability",
    "schedule",
    "training",
]
