"""Ten kinds of shape on clutter, drawn by a seeded generator, each with the mask of the pixels that it covers.

In: how many images, and a seed. Out: uint8 images, labels, masks; no file is read or written.

Shapes: N images, H x W = 32 x 32, C = 3 (RGB). Pixel (row i, column j) has its centre at (x, y) = (j + 0.5, i + 0.5).

Every kind is an outline function: at a point of the shape's own frame it gives the signed distance to the outline in
units of the shape's scale, negative inside (https://iquilezles.org/articles/distfunctions2d/ explains the idea; the
functions here are our own unions and intersections of discs and half-planes, exact on the outline, which is all that
antialiasing asks for). Every outline is symmetric about its own x axis and turned by any angle, so the mirror image of
a kind is the same kind: horizontal flips never change a label.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scsuite.core.seeding import keyed_seed
from scsuite.core.dataset.base import SIZE

Floats = NDArray[np.floating[Any]]  # float32 in fact: half the memory and time
Bools = NDArray[np.bool_]
Outline = Callable[[Floats, Floats, Floats], Floats]  # (x_NHW, y_NHW, form_N11 in [0, 1]) -> distance_NHW

NUM_TRAIN = 10_000
NUM_TEST = 2_000
VERSION = 1  # raise it whenever a picture changes: cached copies are keyed by it

AREA_MIN, AREA_MAX = 82, 256  # pixels of a mask: 8 and 25 % of 32 x 32
SHARE_MIN = 0.55  # least part of a shape within the picture: below it a person no longer tells the kinds apart
SMALLNESS = 4.0  # exponent on a uniform draw of the area; 1 is uniform
SPREAD = 0.7  # exponent on a centre's distance from the middle; 1 is uniform
CONTRAST_MIN = 0.38  # least distance of the shape's colour from the clutter around it, RGB in [0, 1]
NUM_BLOBS, NUM_LINES, NUM_FRAGMENTS = 3, 3, 3  # at most, behind a shape
WAVES, NOISE = 0.08, 0.09  # greatest strength of the textures, RGB in [0, 1]
GRAIN = 0.005, 0.025  # standard deviation of each pixel's own noise, RGB in [0, 1]
CHUNK = 200  # images drawn together: arrays that stay in a processor's cache


def _circle(x: Floats, y: Floats, form: Floats) -> Floats:  # noqa: ARG001 - every outline takes the same arguments
    return np.hypot(x, y) - 1


def _ring(x: Floats, y: Floats, form: Floats) -> Floats:
    radius = np.hypot(x, y)
    distance: Floats = np.maximum(radius - 1, 0.45 + 0.15 * form - radius)
    return distance


def _square(x: Floats, y: Floats, form: Floats) -> Floats:  # noqa: ARG001
    return np.maximum(np.abs(x), np.abs(y)) - 1


def _triangle(x: Floats, y: Floats, form: Floats) -> Floats:  # noqa: ARG001
    return np.maximum(-x, 0.5 * x + 3**0.5 / 2 * np.abs(y)) - 0.6


def _star(x: Floats, y: Floats, form: Floats) -> Floats:
    """Five points: folded along its axes into a tenth, the outline is one straight edge from a tip to a notch."""
    for axis in (3, 1):  # mirrored where it lies beyond the axis of symmetry at 108 degrees, then at 36
        normal_x, normal_y = -np.sin(axis * np.pi / 5), np.cos(axis * np.pi / 5)
        y = np.abs(y)
        beyond = 2 * np.maximum(normal_x * x + normal_y * y, 0)
        x, y = x - beyond * normal_x, y - beyond * normal_y
    notch = 0.42 + 0.1 * form  # radius of the inner corners; the tips are at 1
    along, across = notch * np.cos(np.pi / 5) - 1, notch * np.sin(np.pi / 5)
    distance: Floats = (across * (x - 1) - along * np.abs(y)) / np.hypot(along, across)
    return distance


def _cross(x: Floats, y: Floats, form: Floats) -> Floats:
    long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    distance: Floats = np.maximum(long - 1, short - (0.27 + 0.11 * form))
    return distance


def _heart(x: Floats, y: Floats, form: Floats) -> Floats:  # noqa: ARG001
    """Two discs side by side, and the wedge from a tip at x = -1 that both touch from within."""
    side = np.abs(y)
    centre_x, centre_y, radius = 0.3, 0.48, 0.52
    tip = np.arctan2(centre_y, centre_x + 1) + np.arcsin(radius / np.hypot(centre_x + 1, centre_y))  # half its angle
    wedge = np.cos(tip) * side - np.sin(tip) * (x + 1)
    below_notch = 0.945 * (x - 0.25) + 0.328 * side  # from the middle to where the wedge touches the disc
    distance: Floats = np.minimum(np.hypot(x - centre_x, side - centre_y) - radius, np.maximum(wedge, below_notch))
    return distance


def _crescent(x: Floats, y: Floats, form: Floats) -> Floats:
    distance: Floats = np.maximum(np.hypot(x, y) - 1, 0.8 - np.hypot(x - 0.42 - 0.13 * form, y))
    return distance


def _arrow(x: Floats, y: Floats, form: Floats) -> Floats:
    side = np.abs(y)
    head = np.maximum(-x, (x + side - 0.95) / 2**0.5)
    shaft = np.maximum(np.abs(x + 0.4) - 0.65, side - (0.17 + 0.08 * form))
    distance: Floats = np.minimum(head, shaft)
    return distance


def _hourglass(x: Floats, y: Floats, form: Floats) -> Floats:
    """Two wedges that meet in a narrow waist."""
    return np.maximum(np.abs(x) - 0.9, 0.8 * (np.abs(y) - 0.75 * np.abs(x)) - 0.06 - 0.09 * form)


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
CLASS_NAMES: tuple[str, ...] = tuple(OUTLINES)


@dataclass(frozen=True)
class _Pose:
    """Where and how N shapes lie: kind, centre and scale in pixels, angle in radians, x over y, form in [0, 1]."""

    kind_N: NDArray[np.int64]
    centre_N2: Floats
    angle_N: Floats
    stretch_N: Floats
    form_N: Floats
    scale_N: Floats

    def distance_NHW(self) -> Floats:
        """Signed distance in pixels from each pixel's centre to the outline, negative inside."""
        along, across = _turned(self.centre_N2, self.angle_N)
        scale, root = self.scale_N[:, None, None], np.sqrt(self.stretch_N)[:, None, None]
        along /= scale * root
        across *= root / scale
        distance = np.empty_like(along)
        for kind, outline in enumerate(OUTLINES.values()):
            of_kind = np.flatnonzero(self.kind_N == kind)
            distance[of_kind] = outline(along[of_kind], across[of_kind], self.form_N[of_kind, None, None])
        distance *= scale
        return distance

    def area_N(self) -> NDArray[np.int64]:
        """How many pixels of the picture each shape covers."""
        area_N: NDArray[np.int64] = np.count_nonzero(self.distance_NHW() <= 0, axis=(1, 2))
        return area_N

    def replaced(self, indices: NDArray[np.int64], other: "_Pose") -> "_Pose":
        """These poses, with the other ones at these indices."""
        arrays = {item.name: getattr(self, item.name).copy() for item in fields(self)}
        for name, array in arrays.items():
            array[indices] = getattr(other, name)
        return _Pose(**arrays)


def _turned(centre_N2: Floats, angle_N: Floats) -> tuple[Floats, Floats]:
    """Each pixel's place, in pixels, along and across a direction through a centre; two NHW."""
    pixels = np.arange(SIZE, dtype=np.float32) + 0.5
    x, y = pixels - centre_N2[:, :1], pixels - centre_N2[:, 1:]
    cos, sin = np.cos(angle_N)[:, None], np.sin(angle_N)[:, None]
    return (cos * x)[:, None, :] + (sin * y)[:, :, None], (cos * y)[:, :, None] - (sin * x)[:, None, :]


def generate(num_images: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], Bools]:
    """images_NHWC, labels_N (indices of CLASS_NAMES) and masks_NHW, a pure function of the arguments.

    The first images are the same whatever `num_images` is. Kinds are dealt in rounds of ten, each round in its own
    order.
    """
    images_NHWC = np.empty((num_images, SIZE, SIZE, 3), np.uint8)
    labels_N = np.empty(num_images, np.int64)
    masks_NHW = np.empty((num_images, SIZE, SIZE), np.bool_)
    for start in range(0, num_images, CHUNK):
        part = slice(start, min(start + CHUNK, num_images))
        # A chunk is always drawn whole, so that an image depends on its own index and on the seed alone.
        rng = np.random.default_rng(keyed_seed(seed, "shapes", VERSION, start))
        chunk_NHWC, chunk_N, chunk_NHW = _draw_chunk(rng)
        num_wanted = part.stop - start
        images_NHWC[part], labels_N[part] = chunk_NHWC[:num_wanted], chunk_N[:num_wanted]
        masks_NHW[part] = chunk_NHW[:num_wanted]
    return images_NHWC, labels_N, masks_NHW


def _draw_chunk(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64], Bools]:
    kind_N = np.concatenate([rng.permutation(len(OUTLINES)) for _ in range(CHUNK // len(OUTLINES))])
    distance_NHW = _draw_pose(rng, kind_N).distance_NHW()
    images_NCHW = _draw_clutter(rng)
    colour_NCHW = _shaded(rng, _contrasting_colour(rng, images_NCHW, distance_NHW))
    _paint(images_NCHW, _coverage(distance_NHW), colour_NCHW)
    images_NCHW += _uniform(rng, *GRAIN, CHUNK, 1, 1, 1) * _normal(rng, *images_NCHW.shape)
    pixels_NCHW = (np.clip(images_NCHW, 0, 1) * 255).round().astype(np.uint8)
    return pixels_NCHW.transpose(0, 2, 3, 1), kind_N, distance_NHW <= 0


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Floats:
    return low + (high - low) * rng.random(shape, np.float32)


def _normal(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape, np.float32)


# Where the shape lies.


def _draw_pose(rng: np.random.Generator, kind_N: NDArray[np.int64]) -> _Pose:
    """A pose per image whose visible area is within [AREA_MIN, AREA_MAX], and which shows SHARE_MIN of its shape."""
    pose = _solved(rng, kind_N)
    while len(unfit := np.flatnonzero(~_fits(pose))):
        pose = pose.replaced(unfit, _solved(rng, kind_N[unfit]))
    return pose


def _random_pose(rng: np.random.Generator, kind_N: NDArray[np.int64], scale_low: float, scale_high: float) -> _Pose:
    """Anywhere, at any angle."""
    n = len(kind_N)
    # Drawn a little towards the borders, where a shape that shows too little of itself is drawn again: that would
    # otherwise crowd the centres in the middle, and the middle would be a good guess at where the shape is.
    off_middle_N2 = _uniform(rng, -1, 1, n, 2)
    return _Pose(
        kind_N=kind_N,
        centre_N2=SIZE / 2 * (1 + np.sign(off_middle_N2) * np.abs(off_middle_N2) ** SPREAD),
        angle_N=_uniform(rng, 0, 2 * np.pi, n),
        stretch_N=np.exp(_uniform(rng, -0.15, 0.15, n)),
        form_N=_uniform(rng, 0, 1, n),
        scale_N=_uniform(rng, scale_low, scale_high, n),
    )


def _solved(rng: np.random.Generator, kind_N: NDArray[np.int64]) -> _Pose:
    """A random pose, its scale led to where the visible area is one drawn for it: area grows as scale squared.

    Small areas are drawn more often: a large shape covers the picture's middle wherever its centre is. A hollow shape
    at the border may miss its area, since its hole grows too, so the caller checks.
    """
    pose = _random_pose(rng, kind_N, 7, 7)
    wanted_N = AREA_MIN + 3 + (AREA_MAX - AREA_MIN - 10) * _uniform(rng, 0, 1, len(kind_N)) ** SMALLNESS
    for _ in range(4):  # within 3 pixels of the wanted area for nine in ten
        growth_N = np.sqrt(wanted_N / np.maximum(pose.area_N(), 1))
        pose = replace(pose, scale_N=np.clip(pose.scale_N * growth_N, 3, 19).astype(np.float32))
    return pose


def _fits(pose: _Pose) -> Bools:
    """Which poses keep to the bounds on a mask's area and show enough of their shape."""
    area_N = pose.area_N()
    # In the middle of the picture the largest shape loses no more than its tips.
    whole_N = replace(pose, centre_N2=np.full_like(pose.centre_N2, SIZE / 2)).area_N()
    fits: Bools = (area_N >= AREA_MIN) & (area_N <= AREA_MAX) & (area_N >= SHARE_MIN * whole_N)
    return fits


# What lies behind it.


def _draw_clutter(rng: np.random.Generator) -> Floats:
    """Gradient, soft blobs, texture, lines and fragments of other shapes, in random colours: images_NCHW in [0, 1]."""
    ramp = np.clip(0.5 + _slope(rng) / SIZE, 0, 1)
    images_NCHW = _colours(rng, CHUNK)[..., None, None] * np.ones((SIZE, SIZE), np.float32)
    _paint(images_NCHW, ramp, _colours(rng, CHUNK))
    for _ in range(NUM_BLOBS):
        _paint(images_NCHW, _some(rng, 0.7) * _coverage(_blob_distance(rng), 6), _colours(rng, CHUNK))
    images_NCHW += _texture(rng)
    for _ in range(NUM_LINES):
        _paint(images_NCHW, _some(rng, 0.6) * _coverage(_line_distance(rng)), _colours(rng, CHUNK))
    for _ in range(NUM_FRAGMENTS):
        _paint(images_NCHW, _some(rng, 0.7) * _coverage(_fragment_distance(rng)), _colours(rng, CHUNK))
    return images_NCHW


def _some(rng: np.random.Generator, share: float) -> Floats:
    """An opacity in [0.4, 1] for this share of the images, and 0 for the others; N11."""
    return np.where(_uniform(rng, 0, 1, CHUNK, 1, 1) < share, _uniform(rng, 0.4, 1, CHUNK, 1, 1), np.float32(0))


def _slope(rng: np.random.Generator) -> Floats:
    """Distance in pixels of each pixel from a straight line through the picture's centre at any angle; NHW."""
    middle_N2 = np.full((CHUNK, 2), SIZE / 2, np.float32)
    return _turned(middle_N2, _uniform(rng, 0, 2 * np.pi, CHUNK))[0]


def _texture(rng: np.random.Generator) -> Floats:
    """Grey waves in part of the images plus smooth coloured noise in all, of random strengths; NCHW, to be added."""
    wave = np.sin(_uniform(rng, 0.4, 1.8, CHUNK, 1, 1) * _slope(rng) + _uniform(rng, 0, 2 * np.pi, CHUNK, 1, 1))
    wave *= np.maximum(_uniform(rng, -WAVES, WAVES, CHUNK, 1, 1), 0)
    texture = np.repeat(wave[:, None], 3, axis=1)
    for cells in (5, 11):
        spread = np.kron(_spread(cells), _spread(cells))  # (cells squared, pixels)
        strength = _uniform(rng, 0, NOISE, CHUNK, 1, 1)
        cells_NCG = strength * _normal(rng, CHUNK, 3, cells**2)
        texture += (cells_NCG.reshape(-1, cells**2) @ spread).reshape(texture.shape)
    return texture


def _spread(cells: int) -> Floats:
    """Weights (cells, SIZE) that spread a row of values smoothly over the pixels."""
    places = (np.arange(SIZE) + 0.5) / SIZE * cells - 0.5
    away = np.minimum(np.abs(places - np.arange(cells)[:, None]), 3)  # weights below 1e-15 only slow the product
    bells = np.exp(-2 * away**2)
    weights: Floats = (bells / bells.sum(axis=0)).astype(np.float32)
    return weights


def _blob_distance(rng: np.random.Generator) -> Floats:
    """Signed distance to an ellipse, from its size up to twice as long as wide."""
    along, across = _turned(_uniform(rng, 0, SIZE, CHUNK, 2), _uniform(rng, 0, np.pi, CHUNK))
    distance: Floats = np.hypot(along / _uniform(rng, 1, 2, CHUNK, 1, 1), across) - _uniform(rng, 2, 8, CHUNK, 1, 1)
    return distance


def _line_distance(rng: np.random.Generator) -> Floats:
    """Signed distance to a straight stroke, 6 to 36 pixels long and 0.8 to 2.4 wide."""
    along, across = _turned(_uniform(rng, 0, SIZE, CHUNK, 2), _uniform(rng, 0, np.pi, CHUNK))
    beyond = np.maximum(np.abs(along) - _uniform(rng, 3, 18, CHUNK, 1, 1), 0)
    distance: Floats = np.hypot(beyond, across) - _uniform(rng, 0.4, 1.2, CHUNK, 1, 1)
    return distance


def _fragment_distance(rng: np.random.Generator) -> Floats:
    """Signed distance to a piece of a small shape, or of its outline, cut off along a straight line."""
    pose = _random_pose(rng, rng.integers(len(OUTLINES), size=CHUNK), 3.5, 8)
    whole = pose.distance_NHW()
    outline = np.abs(whole) - _uniform(rng, 0.5, 1.1, CHUNK, 1, 1)
    body = np.where(_uniform(rng, 0, 1, CHUNK, 1, 1) < 0.5, outline, whole)
    # The cut passes near the shape's centre and leaves about half of it.
    cut, _ = _turned(pose.centre_N2, _uniform(rng, 0, 2 * np.pi, CHUNK))
    cut += pose.scale_N[:, None, None] * _uniform(rng, -0.2, 0.3, CHUNK, 1, 1)
    piece: Floats = np.maximum(body, cut)
    return piece


# Colours and paint.


def _colours(rng: np.random.Generator, *shape: int) -> Floats:
    """Colours of any hue, neither glaring nor black, RGB in [0, 1] along the last axis.

    HSV to RGB by the formula of https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative
    """
    hue, saturation, value = (_uniform(rng, *limits, *shape, 1) for limits in ((0, 6), (0.1, 0.75), (0.3, 0.98)))
    position = np.mod(np.array([5, 3, 1], np.float32) + hue, 6)
    colours: Floats = value * (1 - saturation * np.clip(np.minimum(position, 4 - position), 0, 1))
    return colours


def _contrasting_colour(rng: np.random.Generator, images_NCHW: Floats, distance_NHW: Floats) -> Floats:
    """The first of some random colours, per image, that stands out from the pixels just outside the outline; NC."""
    near_NHW = ((distance_NHW > 0) & (distance_NHW < 3)).astype(np.float32)
    around_NC = np.einsum("nij,ncij->nc", near_NHW, images_NCHW) / near_NHW.sum(axis=(1, 2))[:, None]
    candidates_NKC = _colours(rng, CHUNK, 12)
    contrast_NK = np.linalg.norm(candidates_NKC - around_NC[:, None], axis=-1)
    first_N = np.argmax(contrast_NK > CONTRAST_MIN, axis=1)
    colour_NC: Floats = candidates_NKC[np.arange(CHUNK), first_N]
    return colour_NC


def _shaded(rng: np.random.Generator, colour_NC: Floats) -> Floats:
    """The shape's colour at each pixel, NCHW: a little lighter on one side, with a texture of its own."""
    light_NHW = _slope(rng) / SIZE * _uniform(rng, 0, 0.25, CHUNK, 1, 1)
    shaded: Floats = colour_NC[..., None, None] + light_NHW[:, None] + 0.5 * _texture(rng)
    return shaded


def _coverage(distance_NHW: Floats, softness: float = 1) -> Floats:
    """Share of each pixel inside an outline that fades over `softness` pixels."""
    coverage: Floats = np.clip(0.5 - distance_NHW / softness, 0, 1)
    return coverage


def _paint(images_NCHW: Floats, opacity_NHW: Floats, colour: Floats) -> None:
    """Lay a colour (NC, or NCHW for one at each pixel) over the images, in place."""
    layer = (colour if colour.ndim == 4 else colour[..., None, None]) - images_NCHW
    layer *= opacity_NHW[:, None]
    images_NCHW += layer
