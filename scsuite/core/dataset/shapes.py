"""Generate images of ten classes of shapes on clutter, each with the mask of the pixels that its shape covers.

In: the number of images and a seed. Out: uint8 images, labels, masks; no file is read or written.

Shapes: N images, H x W = 32 x 32, C = 3 (RGB).
"""

import numpy as np
from numpy.typing import NDArray

from scsuite.core.dataset.shape_outlines import OUTLINES, Floats
from scsuite.core.dataset.shape_pose import draw_any_pose, draw_pose, rotated_coordinates, uniform
from scsuite.core.dataset.split import SIZE
from scsuite.core.seeding import keyed_seed

CLASS_NAMES: tuple[str, ...] = tuple(OUTLINES)
NUM_TRAIN = 10_000
NUM_TEST = 2_000
VERSION = 1  # raise it whenever an image changes: it is part of the cache's key

MIN_CONTRAST = 0.38  # distance of the shape's color from the clutter around it, RGB in [0, 1]
NUM_BLOBS, NUM_LINES, NUM_FRAGMENTS = 3, 3, 3  # at most, behind a shape
WAVES, NOISE = 0.08, 0.09  # greatest strength of the textures, RGB in [0, 1]
GRAIN = 0.005, 0.025  # standard deviation of each pixel's own noise, RGB in [0, 1]
CHUNK = 200  # images drawn together: arrays that fit into a processor's cache


def generate(num_images: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Return images_NHWC, labels_N (indices of CLASS_NAMES) and masks_NHW, a pure function of the arguments.

    A larger `num_images` adds images and changes none. Ten consecutive images have one of each class, in random
    order.
    """
    images_NHWC = np.empty((num_images, SIZE, SIZE, 3), np.uint8)
    labels_N = np.empty(num_images, np.int64)
    masks_NHW = np.empty((num_images, SIZE, SIZE), np.bool_)
    for start in range(0, num_images, CHUNK):
        rows = slice(start, min(start + CHUNK, num_images))
        # A chunk is always drawn completely, so that an image depends only on its own index and on the seed.
        rng = np.random.default_rng(keyed_seed(seed, "shapes", VERSION, start))
        chunk_NHWC, chunk_N, chunk_NHW = _draw_chunk(rng)
        num_used = rows.stop - start
        images_NHWC[rows], labels_N[rows] = chunk_NHWC[:num_used], chunk_N[:num_used]
        masks_NHW[rows] = chunk_NHW[:num_used]
    return images_NHWC, labels_N, masks_NHW


def _draw_chunk(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    labels_N = np.concatenate([rng.permutation(len(OUTLINES)) for _ in range(CHUNK // len(OUTLINES))])
    distance_NHW = draw_pose(rng, labels_N).distance_NHW()
    images_NCHW = _draw_clutter(rng)
    color_NCHW = _shade(rng, _draw_contrasting_color(rng, images_NCHW, distance_NHW))
    _paint(images_NCHW, _coverage(distance_NHW), color_NCHW)
    images_NCHW += uniform(rng, *GRAIN, CHUNK, 1, 1, 1) * _normal(rng, *images_NCHW.shape)
    pixels_NCHW = (np.clip(images_NCHW, 0, 1) * 255).round().astype(np.uint8)
    return pixels_NCHW.transpose(0, 2, 3, 1), labels_N, distance_NHW <= 0


def _normal(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape, np.float32)


# --- the clutter behind a shape ---


def _draw_clutter(rng: np.random.Generator) -> Floats:
    """Draw a gradient, soft blobs, texture, lines and fragments of shapes in random colors: images_NCHW in [0, 1]."""
    ramp = np.clip(0.5 + _slope(rng) / SIZE, 0, 1)
    images_NCHW = _draw_colors(rng, CHUNK)[..., None, None] * np.ones((SIZE, SIZE), np.float32)
    _paint(images_NCHW, ramp, _draw_colors(rng, CHUNK))
    for _ in range(NUM_BLOBS):
        opacity_NHW = _random_opacity(rng, 0.7) * _coverage(_blob_distance(rng), 6)
        _paint(images_NCHW, opacity_NHW, _draw_colors(rng, CHUNK))
    images_NCHW += _texture(rng)
    for _ in range(NUM_LINES):
        _paint(images_NCHW, _random_opacity(rng, 0.6) * _coverage(_line_distance(rng)), _draw_colors(rng, CHUNK))
    for _ in range(NUM_FRAGMENTS):
        _paint(images_NCHW, _random_opacity(rng, 0.7) * _coverage(_fragment_distance(rng)), _draw_colors(rng, CHUNK))
    return images_NCHW


def _random_opacity(rng: np.random.Generator, fraction: float) -> Floats:
    """Return an opacity in [0.4, 1] for this fraction of the images, and 0 for the others; N11."""
    return np.where(uniform(rng, 0, 1, CHUNK, 1, 1) < fraction, uniform(rng, 0.4, 1, CHUNK, 1, 1), np.float32(0))


def _slope(rng: np.random.Generator) -> Floats:
    """Return the distance in pixels of each pixel from a line at any angle through the image's center; NHW."""
    middle_N2 = np.full((CHUNK, 2), SIZE / 2, np.float32)
    return rotated_coordinates(middle_N2, uniform(rng, 0, 2 * np.pi, CHUNK))[0]


def _texture(rng: np.random.Generator) -> Floats:
    """Return gray waves for some of the images plus smooth colored noise for all, of random strength; NCHW, to add."""
    wave = np.sin(uniform(rng, 0.4, 1.8, CHUNK, 1, 1) * _slope(rng) + uniform(rng, 0, 2 * np.pi, CHUNK, 1, 1))
    wave *= np.maximum(uniform(rng, -WAVES, WAVES, CHUNK, 1, 1), 0)
    texture = np.repeat(wave[:, None], 3, axis=1)
    for cells in (5, 11):
        weights = np.kron(_gaussian_weights(cells), _gaussian_weights(cells))  # (cells squared, pixels)
        strength = uniform(rng, 0, NOISE, CHUNK, 1, 1)
        cells_NCG = strength * _normal(rng, CHUNK, 3, cells**2)
        texture += (cells_NCG.reshape(-1, cells**2) @ weights).reshape(texture.shape)
    return texture


def _gaussian_weights(cells: int) -> Floats:
    """Return weights (cells, SIZE) that interpolate a row of values smoothly over the pixels."""
    positions = (np.arange(SIZE) + 0.5) / SIZE * cells - 0.5
    distance = np.minimum(np.abs(positions - np.arange(cells)[:, None]), 3)  # smaller weights only slow the product
    bells = np.exp(-2 * distance**2)
    weights: Floats = (bells / bells.sum(axis=0)).astype(np.float32)
    return weights


def _blob_distance(rng: np.random.Generator) -> Floats:
    """Return the signed distance to an ellipse, up to twice as long as wide."""
    along, across = rotated_coordinates(uniform(rng, 0, SIZE, CHUNK, 2), uniform(rng, 0, np.pi, CHUNK))
    distance: Floats = np.hypot(along / uniform(rng, 1, 2, CHUNK, 1, 1), across) - uniform(rng, 2, 8, CHUNK, 1, 1)
    return distance


def _line_distance(rng: np.random.Generator) -> Floats:
    """Return the signed distance to a straight line, 6 to 36 pixels long and 0.8 to 2.4 wide."""
    along, across = rotated_coordinates(uniform(rng, 0, SIZE, CHUNK, 2), uniform(rng, 0, np.pi, CHUNK))
    beyond = np.maximum(np.abs(along) - uniform(rng, 3, 18, CHUNK, 1, 1), 0)
    distance: Floats = np.hypot(beyond, across) - uniform(rng, 0.4, 1.2, CHUNK, 1, 1)
    return distance


def _fragment_distance(rng: np.random.Generator) -> Floats:
    """Return the signed distance to a piece of a small shape, or of its outline, cut along a straight line."""
    pose = draw_any_pose(rng, rng.integers(len(OUTLINES), size=CHUNK), 3.5, 8)
    shape = pose.distance_NHW()
    outline = np.abs(shape) - uniform(rng, 0.5, 1.1, CHUNK, 1, 1)
    body = np.where(uniform(rng, 0, 1, CHUNK, 1, 1) < 0.5, outline, shape)
    # The cut passes near the shape's center and leaves about half of it.
    cut, _ = rotated_coordinates(pose.center_N2, uniform(rng, 0, 2 * np.pi, CHUNK))
    cut += pose.scale_N[:, None, None] * uniform(rng, -0.2, 0.3, CHUNK, 1, 1)
    fragment: Floats = np.maximum(body, cut)
    return fragment


# --- colors and painting ---


def _draw_colors(rng: np.random.Generator, *shape: int) -> Floats:
    """Draw colors of any hue, neither very bright nor black, RGB in [0, 1] along the last axis.

    HSV to RGB by the formula of https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative
    """
    hue, saturation, value = (uniform(rng, *limits, *shape, 1) for limits in ((0, 6), (0.1, 0.75), (0.3, 0.98)))
    position = np.mod(np.array([5, 3, 1], np.float32) + hue, 6)
    colors: Floats = value * (1 - saturation * np.clip(np.minimum(position, 4 - position), 0, 1))
    return colors


def _draw_contrasting_color(rng: np.random.Generator, images_NCHW: Floats, distance_NHW: Floats) -> Floats:
    """Return per image the first of 12 random colors with contrast to the pixels just outside the outline; NC."""
    near_NHW = ((distance_NHW > 0) & (distance_NHW < 3)).astype(np.float32)
    around_NC = np.einsum("nij,ncij->nc", near_NHW, images_NCHW) / near_NHW.sum(axis=(1, 2))[:, None]
    candidates_NKC = _draw_colors(rng, CHUNK, 12)
    contrast_NK = np.linalg.norm(candidates_NKC - around_NC[:, None], axis=-1)
    first_N = np.argmax(contrast_NK > MIN_CONTRAST, axis=1)
    color_NC: Floats = candidates_NKC[np.arange(CHUNK), first_N]
    return color_NC


def _shade(rng: np.random.Generator, color_NC: Floats) -> Floats:
    """Return the shape's color at each pixel, NCHW: a little lighter on one side, with a texture of its own."""
    light_NHW = _slope(rng) / SIZE * uniform(rng, 0, 0.25, CHUNK, 1, 1)
    shaded: Floats = color_NC[..., None, None] + light_NHW[:, None] + 0.5 * _texture(rng)
    return shaded


def _coverage(distance_NHW: Floats, softness: float = 1) -> Floats:
    """Return the fraction of each pixel inside an outline that fades over `softness` pixels."""
    coverage: Floats = np.clip(0.5 - distance_NHW / softness, 0, 1)
    return coverage


def _paint(images_NCHW: Floats, opacity_NHW: Floats, color: Floats) -> None:
    """Paint a color (NC, or NCHW for one per pixel) over the images, in place."""
    layer = (color if color.ndim == 4 else color[..., None, None]) - images_NCHW
    layer *= opacity_NHW[:, None]
    images_NCHW += layer
