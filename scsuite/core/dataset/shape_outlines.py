"""The ten classes of generated shapes, each as the signed distance to its outline.

In: points in the shape's own frame. Out: distance to the outline in units of the shape's scale, negative inside.

The idea is explained at https://iquilezles.org/articles/distfunctions2d/. The functions here are our own unions and
intersections of discs and half-planes. They are exact on the outline, which is enough for antialiasing. Every outline
is symmetric about its own x axis and drawn at any angle, so the mirror image of a class is the same class: horizontal
flips never change a label.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]  # float32 in practice: half the memory and time
Outline = Callable[[Floats, Floats, Floats], Floats]  # (x_NHW, y_NHW, variant_N11 in [0, 1]) -> distance_NHW


def _circle(x: Floats, y: Floats, variant: Floats) -> Floats:  # noqa: ARG001 - every outline takes the same arguments
    return np.hypot(x, y) - 1


def _ring(x: Floats, y: Floats, variant: Floats) -> Floats:
    radius = np.hypot(x, y)
    distance: Floats = np.maximum(radius - 1, 0.45 + 0.15 * variant - radius)
    return distance


def _square(x: Floats, y: Floats, variant: Floats) -> Floats:  # noqa: ARG001
    return np.maximum(np.abs(x), np.abs(y)) - 1


def _triangle(x: Floats, y: Floats, variant: Floats) -> Floats:  # noqa: ARG001
    return np.maximum(-x, 0.5 * x + 3**0.5 / 2 * np.abs(y)) - 0.6


def _star(x: Floats, y: Floats, variant: Floats) -> Floats:
    """A star with five tips. Folding it along its axes leaves a tenth, with one straight edge from tip to notch."""
    for axis in (3, 1):  # mirror the points beyond the axis of symmetry at 108 degrees, then at 36
        normal_x, normal_y = -np.sin(axis * np.pi / 5), np.cos(axis * np.pi / 5)
        y = np.abs(y)
        beyond = 2 * np.maximum(normal_x * x + normal_y * y, 0)
        x, y = x - beyond * normal_x, y - beyond * normal_y
    notch = 0.42 + 0.1 * variant  # radius of the inner corners; the tips are at 1
    along, across = notch * np.cos(np.pi / 5) - 1, notch * np.sin(np.pi / 5)
    distance: Floats = (across * (x - 1) - along * np.abs(y)) / np.hypot(along, across)
    return distance


def _cross(x: Floats, y: Floats, variant: Floats) -> Floats:
    long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    distance: Floats = np.maximum(long - 1, short - (0.27 + 0.11 * variant))
    return distance


def _heart(x: Floats, y: Floats, variant: Floats) -> Floats:  # noqa: ARG001
    """Two discs side by side, and the wedge with its tip at x = -1 that touches both from within."""
    side = np.abs(y)
    center_x, center_y, radius = 0.3, 0.48, 0.52
    half_angle = np.arctan2(center_y, center_x + 1) + np.arcsin(radius / np.hypot(center_x + 1, center_y))  # of the tip
    wedge = np.cos(half_angle) * side - np.sin(half_angle) * (x + 1)
    below_notch = 0.945 * (x - 0.25) + 0.328 * side  # from the middle to where the wedge touches the disc
    distance: Floats = np.minimum(np.hypot(x - center_x, side - center_y) - radius, np.maximum(wedge, below_notch))
    return distance


def _crescent(x: Floats, y: Floats, variant: Floats) -> Floats:
    distance: Floats = np.maximum(np.hypot(x, y) - 1, 0.8 - np.hypot(x - 0.42 - 0.13 * variant, y))
    return distance


def _arrow(x: Floats, y: Floats, variant: Floats) -> Floats:
    side = np.abs(y)
    head = np.maximum(-x, (x + side - 0.95) / 2**0.5)
    shaft = np.maximum(np.abs(x + 0.4) - 0.65, side - (0.17 + 0.08 * variant))
    distance: Floats = np.minimum(head, shaft)
    return distance


def _hourglass(x: Floats, y: Floats, variant: Floats) -> Floats:
    """Two wedges that meet in a narrow waist."""
    return np.maximum(np.abs(x) - 0.9, 0.8 * (np.abs(y) - 0.75 * np.abs(x)) - 0.06 - 0.09 * variant)


OUTLINES: dict[str, Outline] = {
    "circle": _circle,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "arrow": _arrow,
    "hourglass": _hourglass,
}
