"""The policy's twin: the transforms of an albumentations Compose as operations on whole batches, on any device.

In: uint8 images_NHWC, their indices, a seed, an epoch. Out: float32 images_NCHW, channels last in memory, normalised.
Given the same parameters a twin gives albumentations' own pixels, within one grey level where it interpolates, and it
draws parameters from the same distributions: tests/core/test_batched.py holds both against albumentations 2.0.8.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsuite.core.augment.canvas import OUTSIDE, Canvas, Colour, on_device
from scsuite.core.seeding import CounterRng
from scsuite.core.augment.policy import load_policy
from scsuite.core.dataset import SIZE
from scsuite.core.errors import UsageError

if TYPE_CHECKING:
    from albumentations import Compose

Parameters = Mapping[str, NDArray[Any]]  # by albumentations' own names, a row an image
Shape = tuple[int, int]  # height, width
CONSTANT, REPLICATE, REFLECT, WRAP, REFLECT_101 = range(5)  # cv2's border modes
NEAREST, LINEAR = range(2)  # cv2's interpolations; the first rounds coordinates of a precision that we do not follow
GRAY_WEIGHTS = (9798, 19235, 3735)  # of 2^15: cv2's whole-number 0.299, 0.587, 0.114
GROWTH_MAX = 4  # times its side, on the way: a batch of larger images would fill the memory
FAR = -(2**30)  # in an int32 index: two of them still fit
STILL = 1e-8 + 1e-5 * np.eye(3)  # numpy.allclose's tolerances: so near the identity albumentations does nothing
SCALE_MIN, SHEAR_MAX = 0.1, 60.0  # a factor, degrees; beyond these float32 coordinates lose part of a grey level


class NotBatchableError(Exception):
    """Why a policy has no twin, in words."""


class Step(Protocol):
    """One transform of the policy: what is left to chance, and what is then done."""

    def draw(self, draws: CounterRng, shape: Shape) -> Parameters:
        """Parameters for images of this shape, from the distributions that albumentations draws them from."""

    def apply(self, canvas: Canvas, parameters: Parameters) -> None:
        """What albumentations does to an image with these parameters."""


class BatchedPolicy:
    """A compiled policy."""

    def __init__(self, steps: tuple[Step, ...], mean_3: NDArray[np.float32], factors_3: NDArray[np.float32]) -> None:
        self.steps, self._mean_3, self._factors_3 = steps, mean_3, factors_3

    def __call__(self, images_NHWC: Tensor, indices_N: NDArray[np.int64], *, seed: int, epoch: int) -> Tensor:
        """The images as epoch `epoch` shows them: each a function of itself, its index, seed and epoch alone."""
        draws, canvas = CounterRng(seed, epoch, indices_N), Canvas(images_NHWC)
        for step in self.steps:
            step.apply(canvas, step.draw(draws, canvas.shape[1:]))
        return self._normalised(canvas.pixels())

    def _normalised(self, images_NHWC: Tensor) -> Tensor:
        # Rows of width x channels: a longer last axis is quicker on the CPU.
        mean, factors = (
            on_device(np.tile(values, images_NHWC.shape[2]), images_NHWC.device)
            for values in (self._mean_3, self._factors_3)
        )
        rows = images_NHWC.flatten(2).float().sub_(mean).mul_(factors)
        return rows.view(images_NHWC.shape).permute(0, 3, 1, 2)


# --- geometry without interpolation ---


@dataclass(frozen=True)
class Pad:
    """Pixels around the images; at random places where `is_random`."""

    sides: tuple[int, int, int, int]  # top, bottom, left, right
    border: int
    colour: Colour
    is_random: bool = False

    def draw(self, draws: CounterRng, _shape: Shape) -> Parameters:
        """How many pixels on each side."""
        top, bottom, left, right = self.sides
        tops_N, lefts_N = draws.integers(0, top + bottom), draws.integers(0, left + right)
        if not self.is_random:
            tops_N, lefts_N = np.full_like(tops_N, top), np.full_like(lefts_N, left)
        bottoms_N, rights_N = top + bottom - tops_N, left + right - lefts_N
        return {"pad_top": tops_N, "pad_bottom": bottoms_N, "pad_left": lefts_N, "pad_right": rights_N}

    def apply(self, canvas: Canvas, parameters: Parameters) -> None:
        """As cv2.copyMakeBorder."""
        _, height, width = canvas.shape
        top, bottom, left, right = self.sides
        canvas.move(
            self._map(parameters["pad_top"], height, height + top + bottom),
            self._map(parameters["pad_left"], width, width + left + right),
            self.colour if self.border == CONSTANT else None,
        )

    def _map(self, befores_N: NDArray[np.int64], size: int, new_size: int) -> NDArray[np.int64]:
        places = np.arange(new_size) - befores_N[:, None]
        sources: NDArray[np.int64] = bordered(places, size, self.border)
        return np.where(sources == places, sources, OUTSIDE) if self.border == CONSTANT else sources


def bordered(places: Any, size: int, border: int) -> Any:
    """The row or column in [0, size) that stands for each place, as cv2.borderInterpolate; arrays and tensors alike."""
    if border == WRAP:
        return places % size
    if border == REFLECT:  # the edge pixel twice
        return (2 * size - 1 - abs(2 * (places % (2 * size)) - (2 * size - 1))) // 2
    if border == REFLECT_101 and size > 1:  # the edge pixel once
        return size - 1 - abs(places % (2 * size - 2) - (size - 1))
    return places.clip(0, size - 1)


@dataclass(frozen=True)
class Crop:
    """A part of the images: the middle, or one at random."""

    size: Shape
    is_random: bool

    def draw(self, draws: CounterRng, shape: Shape) -> Parameters:
        """crop_coords: x_min, y_min, x_max, y_max, the ends not included."""
        (height, width), (room_y, room_x) = self.size, (shape[0] - self.size[0], shape[1] - self.size[1])
        y_N, x_N = draws.integers(0, room_y), draws.integers(0, room_x)
        if not self.is_random:
            y_N, x_N = np.full_like(y_N, room_y // 2), np.full_like(x_N, room_x // 2)
        return {"crop_coords": np.stack([x_N, y_N, x_N + width, y_N + height], axis=1)}

    def apply(self, canvas: Canvas, parameters: Parameters) -> None:
        """Cut."""
        x_N, y_N = parameters["crop_coords"][:, 0], parameters["crop_coords"][:, 1]
        height, width = self.size
        canvas.move(y_N[:, None] + np.arange(height), x_N[:, None] + np.arange(width))


@dataclass(frozen=True)
class Flip:
    """Mirror images: left to right, or upside down."""

    p: float
    is_vertical: bool

    def draw(self, draws: CounterRng, _shape: Shape) -> Parameters:
        """Which images."""
        return {"applied": draws.bernoulli(self.p)}

    def apply(self, canvas: Canvas, parameters: Parameters) -> None:
        """Mirror these."""
        places = np.arange(canvas.shape[1 if self.is_vertical else 2])
        turned = np.where(parameters["applied"][:, None], places[::-1], places)
        canvas.move(turned) if self.is_vertical else canvas.move(None, turned)


@dataclass(frozen=True)
class Dropout:
    """Rectangles of one colour. Sizes are whole pixels where the height's upper end is 1 or more, else shares."""

    p: float
    num_holes: tuple[int, int]
    heights: tuple[float, float]
    widths: tuple[float, float]
    colour: Colour

    def draw(self, draws: CounterRng, shape: Shape) -> Parameters:
        """Holes: x_min, y_min, x_max, y_max, wholly inside; those beyond an image's own number are empty."""
        most = self.num_holes[1]
        used_N = np.where(draws.bernoulli(self.p), draws.integers(*self.num_holes), 0)
        sides = []
        for size, span in zip(shape, (self.heights, self.widths), strict=True):
            if self.heights[1] >= 1:
                lengths_NK = draws.integers(int(span[0]), int(min(span[1], size) + 1) - 1, most)
            else:
                lengths_NK = (size * draws.uniform(*span, most)).astype(np.int64)
            firsts_NK = draws.integers(0, size - lengths_NK, most)
            sides.append((firsts_NK, firsts_NK + lengths_NK))
        (y_min, y_max), (x_min, x_max) = sides
        holes_NK4 = np.stack([x_min, y_min, x_max, y_max], axis=2)
        return {"holes": holes_NK4 * (np.arange(most) < used_N[:, None])[:, :, None]}

    def apply(self, canvas: Canvas, parameters: Parameters) -> None:
        """Fill them."""
        canvas.punch(parameters["holes"], self.colour)


# --- colours ---


@dataclass(frozen=True)
class ToGray:
    """Three equal channels."""

    p: float
    method: str

    def draw(self, draws: CounterRng, _shape: Shape) -> Parameters:
        """Which images."""
        return {"applied": draws.bernoulli(self.p)}

    def apply(self, canvas: Canvas, parameters: Parameters) -> None:
        """Grey these."""
        images_NHWC = canvas.pixels()
        grey_NHW = GRAYS[self.method](images_NHWC).to(torch.uint8)
        grey_NP = grey_NHW[..., None].expand_as(images_NHWC).flatten(1)
        applied_N = on_device(parameters["applied"], canvas.device)
        shown_NP = torch.where(applied_N[:, None], grey_NP, images_NHWC.flatten(1))
        canvas.paint(shown_NP.view(images_NHWC.shape))


def _weighted(images_NHWC: Tensor) -> Tensor:
    red, green, blue = (images_NHWC[..., c].int() * weight for c, weight in enumerate(GRAY_WEIGHTS))
    return (red + green + blue + (1 << 14)) >> 15


GRAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "weighted_average": _weighted,
    "average": lambda images_NHWC: images_NHWC.sum(3, dtype=torch.int32) // 3,
    "desaturation": lambda images_NHWC: (images_NHWC.amax(3).int() + images_NHWC.amin(3)) // 2,
    "max": lambda images_NHWC: images_NHWC.amax(3),
}


@dataclass(frozen=True)
class BrightnessContrast:
    """Every value times alpha, plus beta; of 255, or of the image's own mean."""

    p: float
    brightness: tuple[float, float]
    contrast: tuple[float, float]
    by_max: bool

    def draw(self, draws: CounterRng, _shape: Shape) -> Parameters:
        """alpha, and beta; this in shares of the mean unless `by_max`. The identity where it is not applied."""
        applied_N = draws.bernoulli(self.p)
        alpha_N = 1.0 + draws.uniform(*self.contrast)
        beta_N = draws.uniform(*self.brightness) * (255 if self.by_max else 1)
        return {"alpha": np.where(applied_N, alpha_N, 1.0), "beta": np.where(applied_N, beta_N, 0.0)}

    def apply(self, canvas: Canvas, parameters: Parameters) -> None:
        """As albumentations' look-up table: in float32, one rounding after each operation, then cut off to uint8."""
        images_NHWC = canvas.pixels()
        alpha_N1, beta_N1 = (
            on_device(parameters[name].astype(np.float32), canvas.device)[:, None] for name in ("alpha", "beta")
        )
        values_NP = images_NHWC.flatten(1).float()
        if not self.by_max:  # from a whole-number sum, which has no order to depend on
            sums_N1 = images_NHWC.sum((1, 2, 3), dtype=torch.int32)[:, None]
            beta_N1 = beta_N1 * (sums_N1 / values_NP.shape[1])
        values_NP = values_NP.mul_(alpha_N1).add_(beta_N1).clamp_(0, 255)
        canvas.paint(values_NP.to(torch.uint8).view(images_NHWC.shape))


# --- geometry with interpolation ---


@dataclass(frozen=True)
class Affine:
    """Shear, turn and scale about the centre, then shift. Ranges as albumentations has them, of x and of y."""

    p: float
    scale: Mapping[str, tuple[float, float]]
    translate: Mapping[str, tuple[float, float]]  # pixels, or shares of the side
    is_share: bool
    rotate: tuple[float, float]  # degrees
    shear: Mapping[str, tuple[float, float]]  # degrees
    keep_ratio: bool
    balanced: bool
    border: int
    colour: Colour

    def draw(self, draws: CounterRng, shape: Shape) -> Parameters:
        """matrix: from places in the image to places in the picture; the identity where it is not applied."""
        applied_N = draws.bernoulli(self.p)
        height, width = shape
        shift_x, shift_y = (self._shift(draws, self.translate[a], size) for a, size in (("x", width), ("y", height)))
        shear_x, shear_y = (np.tan(np.deg2rad(-draws.uniform(*self.shear[axis]))) for axis in "xy")
        scale_x, scale_y = (self._factor(draws, self.scale[axis]) for axis in "xy")
        angle = np.deg2rad(draws.uniform(*self.rotate) % 360)
        turn = _matrices(np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0)
        stretch = _matrices(scale_x, 0, 0, 0, scale_x if self.keep_ratio else scale_y, 0)
        slant = _matrices(1, shear_x, 0, shear_y, 1, 0)
        x, y = width / 2 - 0.5, height / 2 - 0.5
        there, back = _matrices(1, 0, -x, 0, 1, -y), _matrices(1, 0, x + shift_x, 0, 1, y + shift_y)
        matrix_N33 = back @ slant @ turn @ stretch @ there
        return {"matrix": np.where(applied_N[:, None, None], matrix_N33, np.eye(3))}

    def _shift(self, draws: CounterRng, span: tuple[float, float], size: int) -> NDArray[Any]:
        if self.is_share:
            return np.trunc(draws.uniform(*span) * size)
        return draws.integers(int(span[0]), int(span[1]))

    def _factor(self, draws: CounterRng, span: tuple[float, float]) -> NDArray[np.float64]:
        low, high = span
        choice_N, share_N = draws.integers(0, 1), draws.uniform(0.0, 1.0)
        if self.balanced:  # as often below 1 as above, where the range has both
            choice_N = choice_N if low < 1 < high else np.full_like(choice_N, low >= 1)
            low_N, high_N = np.where(choice_N == 0, min(low, 1.0), 1.0), np.where(choice_N == 0, 1.0, max(high, 1.0))
        else:
            low_N, high_N = np.full_like(share_N, low), np.full_like(share_N, high)
        return low_N + (high_N - low_N) * share_N

    def apply(self, canvas: Canvas, parameters: Parameters) -> None:
        """As cv2.warpAffine of OpenCV 5, which interpolates between float32 coordinates."""
        images_NHWC = canvas.pixels()
        height, width, channels = images_NHWC.shape[1:]
        x_NHW, y_NHW = self._sources(images_NHWC.shape, parameters["matrix"], canvas.device)
        left_NHW, top_NHW = x_NHW.floor(), y_NHW.floor()
        # Repeated for each channel in memory: broadcast over a last axis of three, arithmetic is slow on the CPU.
        x_share, y_share = (
            (place - first)[..., None].expand(-1, -1, -1, channels).contiguous()
            for place, first in ((x_NHW, left_NHW), (y_NHW, top_NHW))
        )
        colour_13 = on_device(np.array([self.colour], np.uint8), canvas.device)
        pixels_P3 = torch.cat([colour_13, images_NHWC.reshape(-1, channels)])
        firsts_N = torch.arange(1, len(pixels_P3), height * width, dtype=torch.int32, device=canvas.device)
        rows = [self._flat(top_NHW + i, height, width).add_(firsts_N[:, None, None]) for i in (0, 1)]
        columns = [self._flat(left_NHW + i, width, 1) for i in (0, 1)]

        def mixed(row_NHW: Tensor) -> Tensor:
            places = [(row_NHW + column_NHW).clamp_(min=0).flatten() for column_NHW in columns]
            first, second = (pixels_P3.index_select(0, place).float().view(x_share.shape) for place in places)
            return second.sub_(first).mul_(x_share).add_(first)

        above, below = map(mixed, rows)
        canvas.paint(below.sub_(above).mul_(y_share).add_(above).round_().to(torch.uint8))

    def _flat(self, places_NHW: Tensor, size: int, stride: int) -> Tensor:
        """Where rows or columns begin among an image's pixels; far below 0 for those of the colour around it."""
        places = places_NHW.int()
        inside = bordered(places, size, self.border)
        flat: Tensor = inside * stride
        return flat.masked_fill_(inside != places, FAR) if self.border == CONSTANT else flat

    def _sources(
        self, shape: torch.Size, matrix_N33: NDArray[np.float64], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Where each pixel comes from: columns and rows, float32, from the inverse matrix."""
        moved_N33 = np.abs(matrix_N33 - np.eye(3)) > STILL
        is_moved_N11 = moved_N33.any(axis=(1, 2), keepdims=True)
        inverse_N33 = np.linalg.inv(np.where(is_moved_N11, matrix_N33, np.eye(3)))
        coefficients = on_device(inverse_N33[:, :2].astype(np.float32), device)[:, :, :, None, None]
        y, x = (torch.arange(size, dtype=torch.float32, device=device) for size in shape[1:3])
        columns, rows = (
            coefficients[:, i, 0] * x + (coefficients[:, i, 1] * y[:, None] + coefficients[:, i, 2]) for i in (0, 1)
        )
        return columns, rows


def _matrices(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> NDArray[np.float64]:
    """[[a, b, c], [d, e, f], [0, 0, 1]] of numbers, or of one number an image."""
    entries = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in (a, b, c, d, e, f, 0.0, 0.0, 1.0)))
    return np.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)


# --- from albumentations ---


def compile_policy(policy: "Compose", size: int = SIZE) -> BatchedPolicy:
    """The twin of a policy for images of size x size. Raises NotBatchableError, naming the transform that has none."""
    if policy.p != 1:
        raise NotBatchableError("the policy as a whole is applied to some images only")
    if not policy.transforms or type(policy.transforms[-1]).__name__ != "Normalize":
        raise NotBatchableError("the policy does not end with Normalize")
    *transforms, last = policy.transforms
    if last.normalization != "standard" or last.p != 1:
        raise NotBatchableError("Normalize is not by one fixed mean and deviation for all images")
    steps: list[Step] = []
    shape: Shape = (size, size)
    for transform in transforms:
        name = type(transform).__name__
        if name not in COMPILERS:
            raise NotBatchableError(f"{name} has no batched twin")
        if transform.p > 0:
            more, new_shape = COMPILERS[name](transform, shape)
            if new_shape != shape and transform.p < 1:
                raise NotBatchableError(f"{name} with p={transform.p:g} changes the size of some images only")
            if max(new_shape) > GROWTH_MAX * size:
                raise NotBatchableError(f"{name} makes images of {new_shape[0]} x {new_shape[1]}: many for a whole batch")
            steps += more
            shape = new_shape
    mean_3, factors_3 = (
        np.broadcast_to(np.asarray(values, np.float32), 3) for values in (last.mean_np, last.denominator)
    )
    return BatchedPolicy(tuple(steps), mean_3, factors_3)


Compiled = tuple[list[Step], Shape]


def _pad(transform: Any, shape: Shape) -> Compiled:
    left, top, right, bottom = {
        1: lambda sides: sides * 4,
        2: lambda sides: sides * 2,
        4: lambda sides: sides,
    }[np.size(transform.padding)](tuple(int(side) for side in np.ravel(transform.padding)))
    return _padded(transform, (top, bottom, left, right), "sides", shape)


def _pad_if_needed(transform: Any, shape: Shape) -> Compiled:
    from albumentations.augmentations.geometric import functional

    sides = functional.get_padding_params(
        shape, transform.min_height, transform.min_width, transform.pad_height_divisor, transform.pad_width_divisor
    )
    return _padded(transform, sides, transform.position, shape)


def _padded(transform: Any, sides: tuple[int, int, int, int], position: str, shape: Shape) -> Compiled:
    from albumentations.augmentations.geometric import functional

    is_random = position == "random"
    if position not in ("sides", "random"):
        sides = functional.adjust_padding_by_position(*sides, position, None)
    colour = _colour(functional.pad_with_params(BLACK, 1, 0, 0, 0, CONSTANT, transform.fill))
    top, bottom, left, right = sides
    size = (shape[0] + top + bottom, shape[1] + left + right)
    return [Pad(sides, transform.border_mode, colour, is_random)] if size != shape else [], size


def _crop(transform: Any, shape: Shape) -> Compiled:
    from albumentations.augmentations.geometric import functional

    size = (transform.height, transform.width)
    pads: list[Step] = []
    if transform.pad_if_needed:
        sides = functional.get_padding_params(shape, *size, None, None)
        pads, shape = _padded(transform, sides, transform.pad_position, shape)
    if size[0] > shape[0] or size[1] > shape[1]:
        raise NotBatchableError(f"{type(transform).__name__} is larger than the image")
    crops = [Crop(size, type(transform).__name__ == "RandomCrop")] if size != shape else []
    return [*pads, *crops], size


def _flip(transform: Any, shape: Shape) -> Compiled:
    return [Flip(transform.p, type(transform).__name__ == "VerticalFlip")], shape


def _dropout(transform: Any, shape: Shape) -> Compiled:
    from albumentations.augmentations.dropout.functional import cutout

    if isinstance(transform.fill, str):
        raise NotBatchableError(f"CoarseDropout with fill={transform.fill!r} has no batched twin")
    heights, widths = transform.hole_height_range, transform.hole_width_range
    whole = heights[1] >= 1
    for size, span in zip(shape, (heights, widths), strict=True):
        # What albumentations fails on, now and then or always; whole pixels are cut to the image, shares are not.
        if (whole and int(span[0]) > int(min(span[1], size))) or (not whole and span[1] > 1):
            raise NotBatchableError("CoarseDropout with holes that are larger than the image has no batched twin")
    colour = _colour(cutout(BLACK, np.array([[0, 0, 1, 1]]), transform.fill, np.random.default_rng(0)))
    return [Dropout(transform.p, transform.num_holes_range, heights, widths, colour)], shape


def _to_gray(transform: Any, shape: Shape) -> Compiled:
    if transform.method not in GRAYS or transform.num_output_channels != 3:
        raise NotBatchableError(
            f"ToGray with method={transform.method!r} to {transform.num_output_channels} channels has no batched twin"
        )
    return [ToGray(transform.p, transform.method)], shape


def _brightness(transform: Any, shape: Shape) -> Compiled:
    if transform.ensure_safe_range:
        raise NotBatchableError("RandomBrightnessContrast with ensure_safe_range=True has no batched twin")
    step = BrightnessContrast(
        transform.p, transform.brightness_limit, transform.contrast_limit, transform.brightness_by_max
    )
    return [step], shape


def _affine(transform: Any, shape: Shape) -> Compiled:
    import cv2
    from albumentations.augmentations.geometric import functional

    reasons = {
        f"OpenCV {cv2.__version__}, which rounds coordinates,": int(cv2.__version__.partition(".")[0]) < 5,
        f"interpolation={transform.interpolation}": transform.interpolation != LINEAR,
        "fit_output=True": transform.fit_output,
        f"scale below {SCALE_MIN:g}": min(low for low, _ in transform.scale.values()) < SCALE_MIN,
        f"shear beyond {SHEAR_MAX:g}": max(abs(end) for span in transform.shear.values() for end in span) > SHEAR_MAX,
    }
    for reason, holds in reasons.items():
        if holds:
            raise NotBatchableError(f"Affine with {reason} has no batched twin")
    away = np.array([[1.0, 0, 9], [0, 1, 9], [0, 0, 1]])
    colour = _colour(functional.warp_affine(BLACK, away, NEAREST, transform.fill, CONSTANT, (1, 1)))
    step = Affine(
        p=transform.p, scale=transform.scale, translate=transform.translate_px or transform.translate_percent,
        is_share=transform.translate_px is None, rotate=transform.rotate, shear=transform.shear,
        keep_ratio=transform.keep_ratio, balanced=transform.balanced_scale,
        border=transform.border_mode, colour=colour,
    )  # fmt: skip
    return [step], shape


BLACK = np.zeros((1, 1, 3), np.uint8)  # what albumentations itself is asked with for the colour that a fill comes to


def _colour(image_HWC: NDArray[np.uint8]) -> Colour:
    return tuple(int(value) for value in image_HWC[0, 0])


COMPILERS: dict[str, Callable[[Any, Shape], Compiled]] = {
    "Affine": _affine,
    "CenterCrop": _crop,
    "CoarseDropout": _dropout,
    "HorizontalFlip": _flip,
    "NoOp": lambda _transform, shape: ([], shape),
    "Pad": _pad,
    "PadIfNeeded": _pad_if_needed,
    "RandomBrightnessContrast": _brightness,
    "RandomCrop": _crop,
    "ToGray": _to_gray,
    "VerticalFlip": _flip,
}


@dataclass(frozen=True)
class Backend:
    """What augments: batched, which has a twin, or albumentations; and why."""

    name: str
    reason: str
    batched: BatchedPolicy | None

    def to_dict(self) -> dict[str, str]:
        """As environment.json keeps it."""
        return {"name": self.name, "reason": self.reason}


def choose_backend(wanted: str, policy: "Compose") -> Backend:
    """What `--augment-engine` comes to for a policy. Raises UsageError where its twin is wanted and it has none."""
    if wanted == "albumentations":
        return Backend(wanted, "as asked for", None)
    try:
        return Backend("batched", "every transform of the policy has its batched twin", compile_policy(policy))
    except NotBatchableError as error:
        if wanted == "batched":
            raise UsageError(
                "option", "--augment-engine", expected="a policy that has a batched twin", found=str(error),
                hint="Use auto.",
            ) from None  # fmt: skip
        return Backend("albumentations", str(error), None)


def check_backend(wanted: str, path: str | None) -> Backend:
    """As `choose_backend`, for a policy's file or the default, before the data gives the numbers to normalise by."""
    return choose_backend(wanted, load_policy(path, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
