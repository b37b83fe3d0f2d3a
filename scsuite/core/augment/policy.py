"""The augmentation policy: an albumentations Compose, seeded anew for every image.

In: one uint8 image_HWC, or a whole batch that is only to be normalised. Out: float32, normalised.
"""

import inspect
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsuite.core.seeding import keyed_seed
from scsuite.core.dataset import SIZE
from scsuite.core.errors import InputError
from scsuite.core.files import read_yaml

if TYPE_CHECKING:
    from albumentations import Compose

PAD = 4  # pixels on each side before the crop: a 40 x 40 canvas has 9 x 9 = 81 crops
REFLECT_101 = 4  # cv2.BORDER_REFLECT_101: mirrored at the edge pixel's centre
HOLE = 8  # pixels, side of the cutout

# What a policy file may name: transforms of one image alone, that read no file, keep no reference and call nothing.
# fmt: off
TRANSFORMS = frozenset({
    "AdditiveNoise", "AdvancedBlur", "Affine", "AutoContrast", "Blur", "CLAHE", "CenterCrop", "ChannelDropout",
    "ChannelShuffle", "ChromaticAberration", "CoarseDropout", "ColorJitter", "Crop", "CropAndPad", "D4", "Defocus",
    "Downscale", "ElasticTransform", "Emboss", "Equalize", "Erasing", "FancyPCA", "GaussNoise", "GaussianBlur",
    "GlassBlur", "GridDistortion", "GridDropout", "HorizontalFlip", "HueSaturationValue", "ISONoise",
    "Illumination", "ImageCompression", "InvertImg", "LongestMaxSize", "MedianBlur", "Morphological", "MotionBlur",
    "MultiplicativeNoise", "NoOp", "Normalize", "OpticalDistortion", "Pad", "PadIfNeeded", "Perspective",
    "PiecewiseAffine", "PixelDropout", "PlanckianJitter", "PlasmaBrightnessContrast", "Posterize", "RGBShift",
    "RandomBrightnessContrast", "RandomCrop", "RandomGamma", "RandomGridShuffle", "RandomResizedCrop",
    "RandomRotate90", "RandomScale", "RandomShadow", "RandomSizedCrop", "RandomToneCurve", "Resize",
    "RingingOvershoot", "Rotate", "SafeRotate", "SaltAndPepper", "Sharpen", "ShiftScaleRotate", "ShotNoise",
    "SmallestMaxSize", "Solarize", "SquareSymmetry", "Superpixels", "ThinPlateSpline", "ToGray", "ToSepia",
    "Transpose", "UnsharpMask", "VerticalFlip", "XYMasking", "ZoomBlur",
})
# fmt: on
GROUPS = frozenset({"OneOf", "OneOrOther", "RandomOrder", "Sequential", "SomeOf"})
ADVICE = "This augmenter is very slow|ShiftScaleRotate is a special case"  # warnings that change no value
MAX_NODES, MAX_DEPTH = 64, 8
# What numbers may be: an image of 32 x 32 has no use for more, and minutes or gigabytes are made of larger ones.
NUMBER_MAX = 360  # pixels, grey levels, parts, rounds; degrees of a full turn
FACTOR_MAX = 3  # of what multiplies sides or work
FACTOR_MIN = 1e-3  # of the step by which a factor grows
KELVIN_MAX = 15_000
FACTORS = ("scale", "percent", "factor")
GROWING, MAX_GROWING = frozenset({"CropAndPad", "Pad", "RandomScale"}), 2  # one after the other, they make images huge
# What Compose writes of itself beside its transforms, and the values that mean nothing to single images.
COMPOSE: dict[Any, tuple[Any, ...]] = {
    "p": (1,),
    "bbox_params": (None,),
    "keypoint_params": (None,),
    "additional_targets": (None, {}),
    "is_check_shapes": (True, False),
}


def default_policy(mean: Sequence[float], std: Sequence[float], *, flip: bool = True) -> "Compose":
    """Reflect-101 pad to 40 x 40 > random crop 32 x 32 > flip (p 0.5) > one 8 x 8 hole of mean colour > normalise.

    Without `flip`, no flip: the loader alternates it.
    """
    a = _albumentations()
    side = SIZE + 2 * PAD
    return a.Compose(
        [
            a.PadIfNeeded(side, side, border_mode=REFLECT_101),
            a.RandomCrop(SIZE, SIZE),
            *([a.HorizontalFlip(p=0.5)] if flip else []),
            a.CoarseDropout(
                num_holes_range=(1, 1),
                hole_height_range=(HOLE, HOLE),
                hole_width_range=(HOLE, HOLE),
                fill=tuple(round(255 * value) for value in mean),
                p=1.0,
            ),
            a.Normalize(mean=tuple(mean), std=tuple(std), max_pixel_value=255.0),
        ]
    )


def load_policy(path: str | None, mean: Sequence[float], std: Sequence[float], *, flip: bool = True) -> "Compose":
    """The policy of a file in albumentations' own YAML form, tried first; or the default one, with or without `flip`.

    A file without Normalize is normalised by `mean` and `std` at its end; `policy_mean_std` says what it came to.
    Raises InputError, naming the place in the file, for anything that is not a policy of allowed transforms.
    """
    if path is None:
        return default_policy(mean, std, flip=flip)
    root = read_yaml(path, "augmentation policy")
    node = root.get("transform", root)
    if not isinstance(node, Mapping) or node.get("__class_fullname__") != "Compose":
        raise _refused(path, "transform", "__class_fullname__: Compose with a list of transforms", repr(node)[:60])
    _check_compose(path, root, node)
    children = _children(path, "transform", node)
    budget = iter(range(MAX_NODES))
    parts = [_build(path, f"transform.transforms[{i}]", child, 1, budget) for i, child in enumerate(children)]
    a = _albumentations()
    if not any(isinstance(part, a.Normalize) for part in parts):
        parts.append(a.Normalize(mean=tuple(mean), std=tuple(std), max_pixel_value=255.0))
    _check_normalize(path, parts)
    policy = a.Compose(parts)
    _check_growth(path, node)
    _dry_run(path, policy)
    return policy


def _check_normalize(path: str, parts: list[Any]) -> None:
    # Evaluation has to do the same to every image, so it must be one fixed step, and nothing may come after it.
    kinds = [type(part).__name__ for part in parts]
    last = parts[-1]
    if kinds.index("Normalize") < len(parts) - 1 or last.p != 1 or last.normalization != "standard":
        expected = "Normalize once, as the last transform, with p: 1 and fixed mean and std"
        raise _refused(path, f"transform.transforms[{kinds.index('Normalize')}]", expected, "another use of it")
    if last.max_pixel_value != 255:
        raise _refused(path, "transform", "Normalize with max_pixel_value: 255", str(last.max_pixel_value))


def policy_mean_std(policy: "Compose") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in [0, 1], that a policy normalises by; evaluation must as well."""
    last = policy.transforms[-1]
    mean, std = (tuple(float(v) for v in np.broadcast_to(values, 3)) for values in (last.mean, last.std))
    return mean, std


def validate_policy(path: str | None) -> tuple[str, ...]:
    """Raises what `load_policy` would, before any data is read; returns what to warn of."""
    load_policy(path, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    own = _albumentations().__version__
    saved = own if path is None else str(read_yaml(path, "augmentation policy").get("__version__", own))
    return () if saved == own else (f"{path} is of albumentations {saved[:40]}, this is {own}: it may do other things",)


def policy_dict(policy: "Compose") -> dict[str, Any]:
    """What the policy does, as plain values: equal for equal policies, kept in checkpoints and results."""
    facts: dict[str, Any] = _plain(policy.to_dict()["transform"])
    return facts


def _plain(values: Any) -> Any:
    import json

    return json.loads(json.dumps(values, default=str, sort_keys=True))


def augment(policy: "Compose", image_HWC: NDArray[np.uint8], seed: int, epoch: int, index: int) -> NDArray[np.float32]:
    """Image `index` as epoch `epoch` shows it: a function of the arguments alone, whatever was drawn before."""
    # One generator for all transforms: Compose.set_random_seed would give each the same sequence, and takes longer.
    key = keyed_seed(seed, "augment", epoch, index)
    policy.set_random_state(np.random.default_rng(key), random.Random(key))
    image: NDArray[np.float32] = policy(image=image_HWC)["image"]
    return image


def normalise(images_NHWC: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 images_NHWC to float32 images_NCHW in units of the training images' spread."""
    images_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float()
    return (images_NCHW / 255 - _channels(mean)) / _channels(std)


def denormalise(images_NCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """The inverse of `normalise`, rounded and clipped to uint8 images_NHWC: what the network was shown, to look at."""
    pixels = (images_NCHW.float().cpu() * _channels(std) + _channels(mean)) * 255
    images: NDArray[np.uint8] = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return images


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the package index, and hangs offline
    import albumentations

    return albumentations


def _build(path: str, where: str, node: Any, depth: int, budget: Any) -> Any:
    if next(budget, None) is None or depth > MAX_DEPTH:
        raise _refused(path, where, f"at most {MAX_NODES} transforms, {MAX_DEPTH} deep", "more")
    name = node.get("__class_fullname__") if isinstance(node, Mapping) else None
    if not isinstance(name, str) or name not in TRANSFORMS | GROUPS or (name == "Normalize" and depth > 1):
        raise _refused(path, where, "an allowed transform in __class_fullname__", repr(name if name else node)[:60])
    kind = getattr(_albumentations(), name, None)
    if kind is None:
        raise _refused(path, where, "a transform that the installed albumentations has", name)
    arguments = {key: value for key, value in node.items() if key != "__class_fullname__"}
    untaken = _untaken(path, where, kind, arguments)
    for key, value in arguments.items():
        _check_numbers(path, f"{where}.{key}", key, value)
    if name in GROUPS:
        _check_group(path, where, arguments)  # albumentations checks the arguments of transforms, not of groups
        children = _children(path, where, node)
        inner = [(f"{where}.transforms[{i}]", child) for i, child in enumerate(children)]
        arguments["transforms"] = [_build(path, place, child, depth + 1, budget) for place, child in inner]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations only warns of values that it then ignores
            warnings.filterwarnings("ignore", message=ADVICE)
            built = kind(
                **{key: tuple(v) if isinstance(v, list) and key != "transforms" else v for key, v in arguments.items()}
            )
    except Exception as error:
        raise _refused(path, where, f"arguments that {name} takes", _one_line(error)) from None
    own = _plain(built.to_dict()["transform"]) if untaken else {}
    for key, value in untaken.items():
        if key not in own or own[key] != _plain(value):
            raise _refused(path, f"{where}.{key}", f"an argument of {name}", "no such argument")
    return built


def _untaken(path: str, where: str, kind: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Take out of `arguments` what albumentations writes although the class does not take it, only a class above it.

    Such a one, as PadIfNeeded's `padding`, says nothing and may stay, as long as its value is the object's own.
    """
    taken = set(inspect.signature(kind.__init__).parameters) - {"self"}
    above = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters} - {"self"}
    if unknown := sorted(set(arguments) - taken - above, key=str):
        raise _refused(path, f"{where}.{unknown[0]}", f"an argument of {kind.__name__}", "no such argument")
    return {key: arguments.pop(key) for key in sorted(set(arguments) - taken)}


def _check_compose(path: str, root: Mapping[str, Any], node: Mapping[str, Any]) -> None:
    own = ("__version__", "transform") if node is not root else (*node,)
    more = [str(key) for key in root if key not in own]
    for key, value in node.items():
        if key not in ("__class_fullname__", "__version__", "transforms") and value not in COMPOSE.get(key, ()):
            more.append(f"transform.{key}")
    if more:
        raise _refused(path, more[0], "a policy of images alone, always applied", "more than that")


def _check_group(path: str, where: str, arguments: Mapping[str, Any]) -> None:
    p, n = arguments.get("p", 1), arguments.get("n", 1)
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise _refused(path, f"{where}.p", "a probability from 0 to 1", repr(p)[:60])
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_NODES:
        raise _refused(path, f"{where}.n", f"a whole number from 1 to {MAX_NODES}", repr(n)[:60])


def _check_numbers(path: str, where: str, key: str, value: Any) -> None:
    """Refuse numbers that ask for more time or memory than images of 32 x 32 can be worth."""
    if isinstance(value, list):
        for item in value:
            _check_numbers(path, where, key, item)
    elif isinstance(value, int | float):
        largest = (
            KELVIN_MAX
            if key == "temperature_limit"
            else FACTOR_MAX
            if any(word in key for word in FACTORS)
            else NUMBER_MAX
        )
        if not abs(value) <= largest:  # not a number is refused too
            raise _refused(path, where, f"a number of at most {largest}", repr(value)[:60])
        if key == "step_factor" and value < FACTOR_MIN:
            raise _refused(path, where, f"a number of at least {FACTOR_MIN}", repr(value)[:60])
        if key == "fit_output" and value:
            raise _refused(path, where, "false: images keep their size", "true")


def _check_growth(path: str, node: Mapping[str, Any]) -> None:
    def names(node: Mapping[str, Any]) -> Iterator[str]:
        yield node["__class_fullname__"]
        for child in node.get("transforms", ()):
            yield from names(child)

    if (count := sum(name in GROWING for name in names(node))) > MAX_GROWING:
        raise _refused(path, "transform", f"at most {MAX_GROWING} of {', '.join(sorted(GROWING))}", str(count))


def _children(path: str, where: str, node: Mapping[str, Any]) -> list[Any]:
    children = node.get("transforms")
    if not isinstance(children, list) or not children:
        raise _refused(path, f"{where}.transforms", "a list of transforms", repr(children)[:60])
    return children


def _dry_run(path: str, policy: "Compose") -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    try:
        for index in range(8):
            out = augment(policy, image, 0, 0, index)
            if out.shape != image.shape or out.dtype != np.float32 or not np.isfinite(out).all():
                raise ValueError(f"gives {out.dtype} of shape {out.shape}")
    except Exception as error:
        raise _refused(path, "transform", f"finite {SIZE}x{SIZE}x3 images to come out", _one_line(error)) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _refused(path: str, where: str, expected: str, found: str) -> InputError:
    return InputError("augmentation policy", f"{path}: {where}", expected=expected, found=found, hint="Mend the file.")
