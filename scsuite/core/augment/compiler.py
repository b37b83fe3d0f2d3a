"""Compile an albumentations policy to batched transforms.

In: an albumentations Compose. Out: a BatchedPolicy, or a NotBatchableError that names the reason.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scsuite.core.augment.affine import Affine
from scsuite.core.augment.pixel_map import CONSTANT, REPLICATE, Color
from scsuite.core.augment.transforms import (
    GRAY_METHODS,
    BatchedPolicy,
    BatchTransform,
    CoarseDropout,
    Crop,
    Flip,
    Pad,
    RandomBrightnessContrast,
    Shape,
    ToGray,
)
from scsuite.core.dataset import SIZE

if TYPE_CHECKING:
    from albumentations import Compose

NEAREST, LINEAR = range(2)  # interpolations, numbered as in OpenCV; NEAREST rounds coordinates in its own way
MAX_GROWTH = 4  # times the image side: a whole batch of larger intermediate images would fill the memory
MIN_SCALE, MAX_SHEAR = 0.1, 60.0  # a factor, degrees; beyond them float32 coordinates cost part of a gray level
BLACK_PIXEL = np.zeros((1, 1, 3), np.uint8)


class NotBatchableError(Exception):
    """A policy has no batched version; the message says why."""


class CompiledTransform(NamedTuple):
    """The batched transforms of one albumentations transform, and the image shape after them."""

    transforms: list[BatchTransform]
    shape: Shape


def compile_policy(policy: "Compose") -> BatchedPolicy:
    """Compile a policy for images of SIZE x SIZE. Raises NotBatchableError, which names the unsupported transform."""
    if policy.p != 1:
        raise NotBatchableError("the complete policy is applied to some images only")
    if not policy.transforms or type(policy.transforms[-1]).__name__ != "Normalize":
        raise NotBatchableError("the policy does not end with Normalize")
    *transforms, normalize = policy.transforms
    if normalize.normalization != "standard" or normalize.p != 1:
        raise NotBatchableError("Normalize does not use one fixed mean and standard deviation for all images")
    batched: list[BatchTransform] = []
    shape: Shape = (SIZE, SIZE)
    for transform in transforms:
        name = type(transform).__name__
        if name not in TRANSFORM_COMPILERS:
            raise NotBatchableError(f"{name} has no batched version")
        if transform.p > 0:
            compiled = TRANSFORM_COMPILERS[name](transform, shape)
            if compiled.shape != shape and transform.p < 1:
                raise NotBatchableError(f"{name} with p={transform.p:g} changes the size of some images only")
            if max(compiled.shape) > MAX_GROWTH * SIZE:
                height, width = compiled.shape
                raise NotBatchableError(f"{name} makes images of {height} x {width}, too large for whole batches")
            batched += compiled.transforms
            shape = compiled.shape
    mean_3, scale_3 = (
        np.broadcast_to(np.asarray(values, np.float32), 3) for values in (normalize.mean_np, normalize.denominator)
    )
    return BatchedPolicy(tuple(batched), mean_3, scale_3)


def _compile_pad(transform: Any, shape: Shape) -> CompiledTransform:
    padding = [int(side) for side in np.ravel(transform.padding)]  # all sides, or x and y, or four sides
    left, top, right, bottom = padding * (4 // len(padding))
    return _make_pad(transform, (top, bottom, left, right), "sides", shape)


def _compile_pad_if_needed(transform: Any, shape: Shape) -> CompiledTransform:
    from albumentations.augmentations.geometric import functional

    padding = functional.get_padding_params(
        shape, transform.min_height, transform.min_width, transform.pad_height_divisor, transform.pad_width_divisor
    )
    return _make_pad(transform, padding, transform.position, shape)


def _make_pad(transform: Any, padding: tuple[int, int, int, int], position: str, shape: Shape) -> CompiledTransform:
    from albumentations.augmentations.geometric import functional

    is_random = position == "random"
    if position not in ("sides", "random"):
        padding = functional.adjust_padding_by_position(*padding, position, None)
    color = _pixel_color(functional.pad_with_params(BLACK_PIXEL, 1, 0, 0, 0, CONSTANT, transform.fill))
    top, bottom, left, right = padding
    size = (shape[0] + top + bottom, shape[1] + left + right)
    pads: list[BatchTransform] = [Pad(padding, transform.border_mode, color, is_random)] if size != shape else []
    return CompiledTransform(pads, size)


def _compile_crop(transform: Any, shape: Shape) -> CompiledTransform:
    from albumentations.augmentations.geometric import functional

    name = type(transform).__name__
    size = (transform.height, transform.width)
    pads: list[BatchTransform] = []
    if transform.pad_if_needed:
        padding = functional.get_padding_params(shape, *size, None, None)
        pads, shape = _make_pad(transform, padding, transform.pad_position, shape)
    if size[0] > shape[0] or size[1] > shape[1]:
        raise NotBatchableError(f"{name} is larger than the image")
    crops = [Crop(size, name == "RandomCrop")] if size != shape else []
    return CompiledTransform([*pads, *crops], size)


def _compile_flip(transform: Any, shape: Shape) -> CompiledTransform:
    return CompiledTransform([Flip(transform.p, type(transform).__name__ == "VerticalFlip")], shape)


def _compile_coarse_dropout(transform: Any, shape: Shape) -> CompiledTransform:
    from albumentations.augmentations.dropout.functional import cutout

    if isinstance(transform.fill, str):
        raise NotBatchableError(f"CoarseDropout with fill={transform.fill!r} has no batched version")
    heights, widths = transform.hole_height_range, transform.hole_width_range
    in_pixels = heights[1] >= 1
    for size, (low, high) in zip(shape, (heights, widths), strict=True):
        # albumentations fails on such ranges: it limits sizes in pixels to the image, but not fractions.
        if (in_pixels and int(low) > int(min(high, size))) or (not in_pixels and high > 1):
            raise NotBatchableError("CoarseDropout with holes that are larger than the image has no batched version")
    color = _pixel_color(cutout(BLACK_PIXEL, np.array([[0, 0, 1, 1]]), transform.fill, np.random.default_rng(0)))
    return CompiledTransform([CoarseDropout(transform.p, transform.num_holes_range, heights, widths, color)], shape)


def _compile_to_gray(transform: Any, shape: Shape) -> CompiledTransform:
    method, channels = transform.method, transform.num_output_channels
    if method not in GRAY_METHODS or channels != 3:
        raise NotBatchableError(f"ToGray with method={method!r} to {channels} channels has no batched version")
    return CompiledTransform([ToGray(transform.p, method)], shape)


def _compile_brightness_contrast(transform: Any, shape: Shape) -> CompiledTransform:
    if transform.ensure_safe_range:
        raise NotBatchableError("RandomBrightnessContrast with ensure_safe_range=True has no batched version")
    batched = RandomBrightnessContrast(
        transform.p, transform.brightness_limit, transform.contrast_limit, transform.brightness_by_max
    )
    return CompiledTransform([batched], shape)


def _compile_affine(transform: Any, shape: Shape) -> CompiledTransform:
    from albumentations.augmentations.geometric import functional

    max_shear = max(abs(end) for value_range in transform.shear.values() for end in value_range)
    unsupported = {
        "OpenCV below 5, which rounds coordinates,": _opencv_rounds_coordinates(),
        f"interpolation={transform.interpolation}": transform.interpolation != LINEAR,
        "fit_output=True": transform.fit_output,
        f"scale below {MIN_SCALE:g}": min(low for low, _ in transform.scale.values()) < MIN_SCALE,
        f"shear beyond {MAX_SHEAR:g}": max_shear > MAX_SHEAR,
    }
    for reason, is_true in unsupported.items():
        if is_true:
            raise NotBatchableError(f"Affine with {reason} has no batched version")
    out_of_image = np.array([[1.0, 0, 9], [0, 1, 9], [0, 0, 1]])
    color = _pixel_color(functional.warp_affine(BLACK_PIXEL, out_of_image, NEAREST, transform.fill, CONSTANT, (1, 1)))
    batched = Affine(
        p=transform.p, scale=transform.scale, translate=transform.translate_px or transform.translate_percent,
        is_fraction=transform.translate_px is None, rotate=transform.rotate, shear=transform.shear,
        keep_ratio=transform.keep_ratio, balanced=transform.balanced_scale,
        border_mode=transform.border_mode, color=color,
    )  # fmt: skip
    return CompiledTransform([batched], shape)


def _opencv_rounds_coordinates() -> bool:
    """Shift a black and a white pixel by 1/64: OpenCV 5 interpolates exactly, 4 rounds the coordinate to 1/32."""
    from albumentations.augmentations.geometric import functional

    image_HWC = np.array([[[0] * 3, [255] * 3]], np.uint8)
    shift = np.array([[1.0, 0, -1 / 64], [0, 1, 0], [0, 0, 1]])
    shifted_HWC = functional.warp_affine(image_HWC, shift, LINEAR, 0, REPLICATE, (1, 2))
    return bool(shifted_HWC[0, 0, 0] != round(255 / 64))


def _pixel_color(image_HWC: NDArray[np.uint8]) -> Color:
    """Return the color of the first pixel: albumentations turned a `fill` value into it."""
    return tuple(int(value) for value in image_HWC[0, 0])


TRANSFORM_COMPILERS: dict[str, Callable[[Any, Shape], CompiledTransform]] = {
    "Affine": _compile_affine,
    "CenterCrop": _compile_crop,
    "CoarseDropout": _compile_coarse_dropout,
    "HorizontalFlip": _compile_flip,
    "NoOp": lambda _transform, shape: CompiledTransform([], shape),
    "Pad": _compile_pad,
    "PadIfNeeded": _compile_pad_if_needed,
    "RandomBrightnessContrast": _compile_brightness_contrast,
    "RandomCrop": _compile_crop,
    "ToGray": _compile_to_gray,
    "VerticalFlip": _compile_flip,
}
