"""The augmentation policy: an albumentations Compose, seeded for each image, and the checks of a policy file.

In: a policy file or none; one uint8 image_HWC, or a batch to normalise only. Out: a Compose; float32, normalised.
"""

import inspect
import json
import os
import random
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scsuite.core.augment.default import CUTOUT_SIZE, PADDING, PLACEHOLDER_MEAN_STD, DefaultPolicy
from scsuite.core.augment.pixel_map import REFLECT_101
from scsuite.core.augment.policy_limits import check_cost, check_numbers, policy_error
from scsuite.core.dataset import SIZE
from scsuite.core.errors import did_you_mean, one_line
from scsuite.core.files import read_yaml
from scsuite.core.seeding import keyed_seed

if TYPE_CHECKING:
    from albumentations import Compose


# Transforms that a policy file may name: they use one image only, read no file and call no code from the file.
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
GROUP_TRANSFORMS = frozenset({"OneOf", "OneOrOther", "RandomOrder", "Sequential", "SomeOf"})
IGNORED_WARNINGS = "This augmenter is very slow|ShiftScaleRotate is a special case"  # they change no value
MAX_NODES, MAX_DEPTH = 64, 8
NUM_DRY_RUNS, MAX_DRY_RUN_SECONDS = 8, 2.0
# Arguments that Compose.to_dict writes, with the values that have no effect on single images.
COMPOSE_DEFAULTS: dict[Any, tuple[Any, ...]] = {
    "p": (1,),
    "bbox_params": (None,),
    "keypoint_params": (None,),
    "additional_targets": (None, {}),
    "is_check_shapes": (True, False),
}


def default_policy(mean: Sequence[float], std: Sequence[float], *, flip: bool = True) -> "Compose":
    """Reflect-101 pad to 40 x 40 > random crop 32 x 32 > flip (p 0.5) > one 8 x 8 hole of mean color > normalise.

    With `flip=False` the policy has no flip: the loader alternates the flips, or there are none.
    """
    a = _import_albumentations()
    padded_size, hole = SIZE + 2 * PADDING, (CUTOUT_SIZE, CUTOUT_SIZE)
    fill = tuple(round(255 * value) for value in mean)
    return a.Compose(
        [
            a.PadIfNeeded(padded_size, padded_size, border_mode=REFLECT_101),
            a.RandomCrop(SIZE, SIZE),
            *([a.HorizontalFlip(p=0.5)] if flip else []),
            a.CoarseDropout(num_holes_range=(1, 1), hole_height_range=hole, hole_width_range=hole, fill=fill, p=1.0),
            a.Normalize(mean=tuple(mean), std=tuple(std), max_pixel_value=255.0),
        ]
    )


def load_policy(path: str | None, mean: Sequence[float], std: Sequence[float], *, flip: bool = True) -> "Compose":
    """Load a policy file in the YAML form of albumentations and try it, or return the default policy.

    `flip` applies to the default policy only.

    A policy without Normalize gets one with `mean` and `std` at its end; `policy_mean_std` returns the values in use.
    Raises InputError, which names the place in the file, for anything but a policy of allowed transforms.
    """
    if path is None:
        return default_policy(mean, std, flip=flip)
    root = read_yaml(path, "augmentation policy")
    node = root.get("transform", root)
    if not isinstance(node, Mapping) or node.get("__class_fullname__") != "Compose":
        raise policy_error(path, "transform", "__class_fullname__: Compose with a list of transforms", repr(node)[:60])
    _check_compose(path, root, node)
    children = _child_nodes(path, "transform", node)
    nodes_left = iter(range(MAX_NODES))
    transforms = [
        _build_transform(path, f"transform.transforms[{i}]", child, 1, nodes_left) for i, child in enumerate(children)
    ]
    a = _import_albumentations()
    if not any(isinstance(transform, a.Normalize) for transform in transforms):
        transforms.append(a.Normalize(mean=tuple(mean), std=tuple(std), max_pixel_value=255.0))
    _check_normalize(path, transforms)
    policy = a.Compose(transforms)
    check_cost(path, policy)
    _dry_run(path, policy)
    return policy


def _check_normalize(path: str, transforms: list[Any]) -> None:
    # Evaluation applies the same normalisation to every image, so it must be one fixed operation at the end.
    names = [type(transform).__name__ for transform in transforms]
    last = transforms[-1]
    if names.index("Normalize") < len(names) - 1 or last.p != 1 or last.normalization != "standard":
        expected = "Normalize once, as the last transform, with p: 1 and fixed mean and std"
        raise policy_error(path, f"transform.transforms[{names.index('Normalize')}]", expected, "another use of it")
    if last.max_pixel_value != 255:
        raise policy_error(path, "transform", "Normalize with max_pixel_value: 255", str(last.max_pixel_value))


def policy_mean_std(policy: "Compose | DefaultPolicy") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and std of each channel, in [0, 1], that a policy normalises by; evaluation must use the same."""
    if isinstance(policy, DefaultPolicy):
        return policy.mean, policy.std
    last = policy.transforms[-1]
    mean, std = (tuple(float(v) for v in np.broadcast_to(values, 3)) for values in (last.mean, last.std))
    return mean, std


def validate_policy(path: str | None) -> tuple[str, ...]:
    """Raise what `load_policy` raises, before any data is read; return warnings."""
    if path is None:
        return ()
    load_policy(path, *PLACEHOLDER_MEAN_STD)
    installed = _import_albumentations().__version__
    version = str(read_yaml(path, "augmentation policy").get("__version__", installed))
    if version == installed:
        return ()
    return (f"{path} is for albumentations {version[:40]}, {installed} is installed: its transforms may differ",)


def policy_dict(policy: "Compose | DefaultPolicy") -> dict[str, Any]:
    """Return the policy as plain values, equal for equal policies; checkpoints and results store it."""
    values = policy.to_dict()  # a Compose puts them under "transform"
    plain: dict[str, Any] = _to_plain(values.get("transform", values))
    return plain


def _to_plain(values: Any) -> Any:
    return json.loads(json.dumps(values, default=str, sort_keys=True))


def augment_image(
    policy: "Compose", image_HWC: NDArray[np.uint8], seed: int, epoch: int, index: int
) -> NDArray[np.float32]:
    """Augment image `index` for one epoch. The result depends on the arguments only, not on earlier draws."""
    # All transforms share one generator: Compose.set_random_seed would give each the same sequence, and is slower.
    key = keyed_seed(seed, "augment", epoch, index)
    policy.set_random_state(np.random.default_rng(key), random.Random(key))
    image: NDArray[np.float32] = policy(image=image_HWC)["image"]
    return image


def normalise(images_NHWC: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Convert uint8 images_NHWC to float32 images_NCHW: (image / 255 - mean) / std."""
    images_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float()
    return (images_NCHW / 255 - _channels(mean)) / _channels(std)


def denormalise(images_NCHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Invert `normalise`, for display: rounded and clipped to uint8 images_NHWC."""
    pixels = (images_NCHW.float().cpu() * _channels(std) + _channels(mean)) * 255
    images: NDArray[np.uint8] = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return images


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)


def _import_albumentations() -> Any:
    # Without this variable, the import asks the package index for a newer version, and hangs offline.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


# --- from the nodes of a policy file to transforms ---


def _build_transform(path: str, where: str, node: Any, depth: int, nodes_left: Iterator[int]) -> Any:
    if next(nodes_left, None) is None or depth > MAX_DEPTH:
        raise policy_error(path, where, f"at most {MAX_NODES} transforms, {MAX_DEPTH} deep", "more")
    name = node.get("__class_fullname__") if isinstance(node, Mapping) else None
    if not isinstance(name, str) or name not in TRANSFORMS | GROUP_TRANSFORMS or (name == "Normalize" and depth > 1):
        hint = "Write {__class_fullname__: HorizontalFlip, p: 0.5}, for example."
        hint = hint if name is None else did_you_mean(name, TRANSFORMS | GROUP_TRANSFORMS, "Fix the file.")
        found = repr(name if name else node)[:60]
        raise policy_error(path, where, "an allowed transform in __class_fullname__", found, hint)
    transform_class = getattr(_import_albumentations(), name, None)
    if transform_class is None:
        raise policy_error(path, where, "a transform that the installed albumentations has", name)
    arguments = {key: value for key, value in node.items() if key != "__class_fullname__"}
    inherited = _pop_inherited_arguments(path, where, transform_class, arguments)
    for key, value in arguments.items():
        check_numbers(path, f"{where}.{key}", key, value)
    if name in GROUP_TRANSFORMS:
        _check_group(path, where, arguments)  # albumentations checks the arguments of transforms, not of groups
        arguments["transforms"] = [
            _build_transform(path, f"{where}.transforms[{i}]", child, depth + 1, nodes_left)
            for i, child in enumerate(_child_nodes(path, where, node))
        ]
    arguments = {k: tuple(v) if isinstance(v, list) and k != "transforms" else v for k, v in arguments.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations warns of a wrong value, then ignores it
            warnings.filterwarnings("ignore", message=IGNORED_WARNINGS)
            transform = transform_class(**arguments)
    except Exception as error:
        found = re.sub(r"^\d+ validation errors? for InitSchema | For further information.*", "", one_line(error, 1000))
        raise policy_error(path, where, f"valid arguments of {name}", found[:200]) from None
    defaults = _to_plain(transform.to_dict()["transform"]) if inherited else {}
    for key, value in inherited.items():
        if key not in defaults or defaults[key] != _to_plain(value):
            raise policy_error(path, f"{where}.{key}", f"an argument of {name}", "no such argument")
    return transform


def _pop_inherited_arguments(path: str, where: str, transform_class: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Remove arguments that `to_dict` writes but the constructor does not accept, such as PadIfNeeded's `padding`.

    They are arguments of a base class. The caller accepts them only with their default value.
    """
    own = set(inspect.signature(transform_class.__init__).parameters) - {"self"}
    bases = transform_class.__mro__
    inherited = {name for base in bases for name in inspect.signature(base.__init__).parameters} - {"self"}
    if unknown := sorted(set(arguments) - own - inherited, key=str):
        hint = did_you_mean(unknown[0], own, f"It has {', '.join(sorted(own))}.")
        expected = f"an argument of {transform_class.__name__}"
        raise policy_error(path, f"{where}.{unknown[0]}", expected, "no such argument", hint)
    return {key: arguments.pop(key) for key in sorted(set(arguments) - own)}


def _check_compose(path: str, root: Mapping[str, Any], node: Mapping[str, Any]) -> None:
    root_keys = ("__version__", "transform") if node is not root else (*node,)
    extra = [str(key) for key in root if key not in root_keys]
    for key, value in node.items():
        if key not in ("__class_fullname__", "__version__", "transforms") and value not in COMPOSE_DEFAULTS.get(
            key, ()
        ):
            extra.append(f"transform.{key}")
    if extra:
        raise policy_error(path, extra[0], "a policy of images only, always applied", "an extra setting")


def _check_group(path: str, where: str, arguments: Mapping[str, Any]) -> None:
    p, n = arguments.get("p", 1), arguments.get("n", 1)
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise policy_error(path, f"{where}.p", "a probability from 0 to 1", repr(p)[:60])
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_NODES:
        raise policy_error(path, f"{where}.n", f"an integer from 1 to {MAX_NODES}", repr(n)[:60])


def _child_nodes(path: str, where: str, node: Mapping[str, Any]) -> list[Any]:
    children = node.get("transforms")
    if not isinstance(children, list) or not children:
        raise policy_error(path, f"{where}.transforms", "a list of transforms", repr(children)[:60])
    return children


def _dry_run(path: str, policy: "Compose") -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    try:
        start = time.process_time()
        for index in range(NUM_DRY_RUNS):
            if time.process_time() > start + MAX_DRY_RUN_SECONDS:
                break
            output = augment_image(policy, image, 0, 0, index)
            if output.shape != image.shape or output.dtype != np.float32 or not np.isfinite(output).all():
                raise ValueError(f"{output.dtype} of shape {output.shape}")
    except Exception as error:
        raise policy_error(
            path, "transform", f"finite {SIZE}x{SIZE}x3 images as output", one_line(error, 200)
        ) from None
