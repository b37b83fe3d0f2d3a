"""Batched transforms against albumentations: equal pixels from equal parameters, and equal distributions.

Random numbers are keyed, so the statistics are equal on every run; their limits fail for one key in a million.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scsuite.core.augment import BatchedPolicy, compile_policy, default_policy
from scsuite.core.augment.pixel_map import PixelMap, border_index
from scsuite.core.augment.transforms import TransformParams
from scsuite.core.seeding import CounterRng
from tests.core import tiny

NUM_IMAGES = 64
NUM_SAMPLES = 4000  # of each of two distributions
KS_LIMIT = 2.694 * (2 / NUM_SAMPLES) ** 0.5  # p = 1e-6: sqrt(-ln(1e-6 / 2) / 2); smaller p if discrete
CHI2_80 = 155.1  # p = 1e-6: scipy.stats.chi2.isf(1e-6, 80)
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 32, 32, 3), dtype=np.uint8)


def compose(*transforms: tuple[str, dict[str, Any]]) -> Any:
    import albumentations as a

    return a.Compose([*(getattr(a, name)(**arguments) for name, arguments in transforms), a.Normalize()])


# --- equal parameters give equal pixels ---


def run_albumentations(policy: Any, images_NHWC: NDArray[np.uint8]) -> tuple[Any, list[list[dict[str, Any]]]]:
    """The augmented uint8 images, and for each transform its parameters for each image ({} if not applied)."""
    augmented, params = [], []
    *transforms, _ = policy.transforms
    for index, image in enumerate(images_NHWC):
        for transform in transforms:
            transform.set_random_state(np.random.default_rng(index), random.Random(index))
            image = transform(image=image)["image"]  # noqa: PLW2901
        augmented.append(image)
        params.append([dict(transform.params) for transform in transforms])
    return np.stack(augmented), [list(column) for column in zip(*params, strict=True)]


def convert_params(
    transform: Any, rows: list[dict[str, Any]], images_NHWC: NDArray[np.uint8]
) -> Iterator[TransformParams]:
    """The parameters of an albumentations transform in the form of its batched transforms."""

    def column(name: str, default: Any) -> NDArray[Any]:
        return np.array([row.get(name, default) for row in rows])

    name = type(transform).__name__
    if "Crop" in name:
        if rows[0]["pad_params"] is not None:
            yield {key: np.array([row["pad_params"][key] for row in rows]) for key in rows[0]["pad_params"]}
        yield {"crop_coords": column("crop_coords", None)}
    elif "Pad" in name:
        yield {key: column(key, None) for key in ("pad_top", "pad_bottom", "pad_left", "pad_right")}
    elif name == "CoarseDropout":
        holes = np.zeros((len(rows), transform.num_holes_range[1], 4), np.int64)
        for index, row in enumerate(rows):
            holes[index, : len(row.get("holes", ()))] = row.get("holes", 0)
        yield {"holes": holes}
    elif name == "RandomBrightnessContrast":
        means = 1.0 if transform.brightness_by_max else images_NHWC.mean(axis=(1, 2, 3))
        yield {"alpha": column("alpha", 1.0), "beta": column("beta", 0.0) / means}
    elif name == "Affine":
        yield {"matrix": np.array([row.get("matrix", np.eye(3)) for row in rows])}
    else:
        yield {"is_applied": np.array([bool(row) for row in rows])}


def run_batched(policy: Any, images_NHWC: NDArray[np.uint8], rows: list[list[dict[str, Any]]]) -> NDArray[np.uint8]:
    *transforms, _ = policy.transforms
    pixel_map = PixelMap(torch.from_numpy(images_NHWC))
    all_params = [p for t, r in zip(transforms, rows, strict=True) for p in convert_params(t, r, images_NHWC)]
    for transform, params in zip(compile_policy(policy).transforms, all_params, strict=True):
        transform.apply(pixel_map, params)
    pixels: NDArray[np.uint8] = pixel_map.render().numpy()
    return pixels


def largest_difference(policy: Any) -> int:
    expected, rows = run_albumentations(policy, IMAGES)
    pixels = run_batched(policy, IMAGES, rows)
    assert pixels.shape == expected.shape
    return int(np.abs(pixels.astype(int) - expected).max())


FILL = (10, 200, 30)
PADDINGS: list[dict[str, Any]] = [{"padding": 3}, {"padding": (2, 5)}, {"padding": (1, 2, 3, 4)}, {"padding": 40}]
POSITIONS = ("center", "top_left", "top_right", "bottom_left", "bottom_right", "random")
EXACT: list[tuple[str, dict[str, Any]]] = [
    *(("Pad", {**p, "border_mode": b, "fill": f}) for p in PADDINGS for b in range(5) for f in (FILL, 7)),
    *(("PadIfNeeded", {"min_height": 41, "min_width": 38, "position": p, "border_mode": 4}) for p in POSITIONS),
    ("PadIfNeeded", {"min_height": None, "min_width": None, "pad_height_divisor": 5, "pad_width_divisor": 7}),
    ("RandomCrop", {"height": 20, "width": 27}),
    ("RandomCrop", {"height": 40, "width": 20, "pad_if_needed": True, "pad_position": "random", "fill": FILL}),
    ("CenterCrop", {"height": 21, "width": 32}),
    ("CenterCrop", {"height": 21, "width": 39, "pad_if_needed": True, "border_mode": 2}),
    *((name, {"p": p}) for name in ("HorizontalFlip", "VerticalFlip") for p in (0.5, 1.0)),
    ("CoarseDropout", {"p": 0.7, "fill": FILL}),
    ("CoarseDropout", {"p": 1.0, "num_holes_range": (2, 5), "hole_height_range": (3, 40), "hole_width_range": (0, 9)}),
    *(("ToGray", {"p": 0.5, "method": method}) for method in ("weighted_average", "average", "desaturation", "max")),
    ("RandomBrightnessContrast", {"p": 0.8, "brightness_limit": 0.6, "contrast_limit": 0.9}),
]


@pytest.mark.parametrize(("name", "arguments"), EXACT, ids=str)
def test_a_batched_transform_gives_the_pixels_of_albumentations(name: str, arguments: dict[str, Any]) -> None:
    assert largest_difference(compose((name, arguments))) == 0


def test_transforms_without_effect_compile_to_nothing() -> None:
    policy = compose(
        ("PadIfNeeded", {"min_height": 20, "min_width": 20}),
        ("RandomCrop", {"height": 32, "width": 32, "p": 0.5}),
        ("CenterCrop", {"height": 32, "width": 32}),
        ("HorizontalFlip", {"p": 0.0}),
        ("NoOp", {}),
    )
    assert compile_policy(policy).transforms == ()
    assert np.array_equal(run_albumentations(policy, IMAGES)[0], IMAGES)


SMALL_AFFINE = {"rotate": (-40, 40), "scale": (0.7, 1.3), "shear": (-15, 15), "translate_px": (-5, 5)}
AFFINE: list[dict[str, Any]] = [
    *({**SMALL_AFFINE, "border_mode": border, "fill": FILL} for border in range(5)),
    {"rotate": 90.0},
    {"rotate": 45.0, "fill": 9},
    {"scale": {"x": (0.1, 0.5), "y": (1, 3)}, "translate_percent": {"x": (-0.3, 0.3), "y": 0.1}, "border_mode": 4},
    {"scale": (0.5, 1.5), "keep_ratio": True, "shear": {"x": (-60, 60), "y": 3}, "border_mode": 1},
    {"scale": (0.5, 2.0), "balanced_scale": True, "rotate": (-180, 180)},
    {"translate_px": (-20, 20)},
    {"p": 1.0},
    {**SMALL_AFFINE, "p": 0.4},
]


@pytest.mark.parametrize("arguments", AFFINE, ids=str)
def test_interpolated_pixels_differ_by_at_most_one_gray_level(arguments: dict[str, Any]) -> None:
    assert largest_difference(compose(("Affine", {"p": 1.0, **arguments}))) <= 1


def test_brightness_by_the_image_mean_differs_by_at_most_one_gray_level() -> None:
    arguments = {"p": 0.9, "brightness_by_max": False, "brightness_limit": 0.5}
    assert largest_difference(compose(("RandomBrightnessContrast", arguments))) <= 1


CHAIN: list[tuple[str, dict[str, Any]]] = [
    ("Affine", {"rotate": (-20, 20), "p": 0.7}),
    ("Pad", {"padding": 3, "fill": FILL}),
    ("HorizontalFlip", {}),
    ("Pad", {"padding": (2, 1), "fill": 255.0}),
    ("CoarseDropout", {"fill": 3, "p": 0.8, "num_holes_range": (1, 3)}),
    ("RandomCrop", {"height": 32, "width": 30}),
    ("ToGray", {}),
    ("VerticalFlip", {}),
    ("CoarseDropout", {"fill": FILL, "hole_height_range": (5, 9), "hole_width_range": (2, 30)}),
    ("PadIfNeeded", {"min_height": 33, "min_width": 33, "border_mode": 4}),
    ("CenterCrop", {"height": 32, "width": 32}),
    ("RandomBrightnessContrast", {}),
]


def test_a_chain_of_all_transforms_differs_by_at_most_two_gray_levels() -> None:
    assert largest_difference(compose(*CHAIN)) <= 2  # one level from Affine, times a contrast of up to 1.2


def test_the_default_policy_gives_the_pixels_of_albumentations() -> None:
    assert largest_difference(default_policy(tiny.MEAN, tiny.STD)) == 0


def test_border_index_equals_that_of_opencv() -> None:
    import cv2

    for border_mode, size in itertools.product(range(1, 5), (1, 2, 5, 32)):
        positions = np.arange(-100, 140)
        expected = [cv2.borderInterpolate(int(position), size, border_mode) for position in positions]
        assert border_index(positions, size, border_mode).tolist() == expected
        assert border_index(torch.from_numpy(positions), size, border_mode).tolist() == expected


def test_normalised_values_differ_from_albumentations_by_at_most_1e_6() -> None:
    normalize = default_policy(tiny.MEAN, (0.2, 0.25, 1.0)).transforms[-1]
    ramp = np.tile(np.arange(256, dtype=np.uint8).repeat(4).reshape(32, 32, 1), (1, 1, 1, 3))
    policy = BatchedPolicy((), normalize.mean_np, normalize.denominator)
    images_NCHW = policy(torch.from_numpy(ramp), np.zeros(1, np.int64), seed=0, epoch=0)
    expected = normalize(image=ramp[0])["image"]
    assert np.allclose(images_NCHW[0].permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-6)
    assert images_NCHW.dtype == torch.float32
    assert images_NCHW.is_contiguous(memory_format=torch.channels_last)


def test_the_source_images_are_not_changed() -> None:
    copy = IMAGES.copy()
    make_batched(*CHAIN)(torch.from_numpy(copy), np.arange(NUM_IMAGES), seed=0, epoch=0)
    assert np.array_equal(copy, IMAGES)


# --- equal distributions ---


def flatten_params(params: TransformParams, names: tuple[str, ...]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(params[name], float).reshape(len(params[name]), -1) for name in names], axis=1)


SAMPLED: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("PadIfNeeded", {"min_height": 40, "min_width": 36, "position": "random"}, ("pad_top", "pad_right")),
    ("RandomCrop", {"height": 24, "width": 9}, ("crop_coords",)),
    ("HorizontalFlip", {"p": 0.3}, ("is_applied",)),
    ("ToGray", {"p": 0.8}, ("is_applied",)),
    ("CoarseDropout", {"p": 1.0, "hole_height_range": (8, 8), "hole_width_range": (8, 8)}, ("holes",)),
    ("CoarseDropout", {"p": 0.6, "num_holes_range": (1, 3)}, ("holes",)),
    ("CoarseDropout", {"p": 1.0, "hole_height_range": (2, 40), "hole_width_range": (0.5, 9)}, ("holes",)),
    ("CoarseDropout", {"p": 1.0, "hole_height_range": (0.5, 1.5), "hole_width_range": (0.2, 0.9)}, ("holes",)),
    ("CoarseDropout", {"p": 1.0, "hole_height_range": (0.1, 0.9), "hole_width_range": (0.2, 1.0)}, ("holes",)),
    ("RandomBrightnessContrast", {"p": 0.5}, ("alpha", "beta")),
    ("RandomBrightnessContrast", {"brightness_limit": (0, 0.7), "contrast_limit": (-0.5, 0)}, ("alpha", "beta")),
    ("Affine", {**SMALL_AFFINE, "p": 0.7}, ("matrix",)),
    ("Affine", {"scale": {"x": (0.5, 1.2), "y": (1, 3)}, "translate_percent": (-0.2, 0.3), "p": 1.0}, ("matrix",)),
    ("Affine", {"scale": (0.5, 1.1), "balanced_scale": True, "shear": {"x": (5, 20)}, "p": 1.0}, ("matrix",)),
    ("Affine", {"scale": (0.5, 0.8), "balanced_scale": True, "keep_ratio": True, "p": 1.0}, ("matrix",)),
    ("Affine", {"scale": (1.5, 1.8), "balanced_scale": True, "rotate": (30, 200), "p": 1.0}, ("matrix",)),
]


@pytest.mark.parametrize(("name", "arguments", "names"), SAMPLED, ids=str)
def test_parameters_have_the_distribution_of_albumentations(
    name: str, arguments: dict[str, Any], names: tuple[str, ...]
) -> None:
    policy = compose((name, arguments))
    transform = policy.transforms[0]
    transform.set_random_state(np.random.default_rng(0), random.Random(0))
    image = np.full((32, 32, 3), 100, np.uint8)
    rows = []
    for _ in range(NUM_SAMPLES):
        is_applied = transform.should_apply()
        params = {"shape": image.shape}
        rows.append(transform.get_params_dependent_on_data(params, {"image": image}) if is_applied else {})
    images = np.broadcast_to(image, (NUM_SAMPLES, *image.shape))
    expected = flatten_params(next(iter(convert_params(transform, rows, images))), names)
    (batched,) = compile_policy(policy).transforms
    sampled = flatten_params(batched.sample(CounterRng(0, 0, np.arange(NUM_SAMPLES)), (32, 32)), names)
    assert sampled.shape == expected.shape
    # Compares each value alone, and three random mixtures of all values, which depend on their correlation.
    mixtures = np.random.default_rng(1).normal(size=(sampled.shape[1], 3)) / (1e-9 + expected.std(axis=0)[:, None])
    sampled_columns = np.hstack([sampled, sampled @ mixtures]).T
    expected_columns = np.hstack([expected, expected @ mixtures]).T
    for first, second in zip(sampled_columns, expected_columns, strict=True):
        assert ks_statistic(first, second) < KS_LIMIT


def ks_statistic(first_N: NDArray[np.float64], second_N: NDArray[np.float64]) -> float:
    """The Kolmogorov-Smirnov statistic: the largest difference of two empirical distribution functions."""
    values = np.round(np.concatenate([first_N, second_N]), 9)  # equal values may differ in their last bit
    edges = np.unique(values)
    cdfs = [np.searchsorted(np.sort(half), edges, side="right") / NUM_SAMPLES for half in np.split(values, 2)]
    return float(np.abs(cdfs[0] - cdfs[1]).max())


def test_all_81_crops_flips_and_holes_of_the_default_policy_are_equally_likely() -> None:
    _, crop, flip, dropout = compile_policy(default_policy(tiny.MEAN, tiny.STD)).transforms
    rng = CounterRng(0, 0, np.arange(8100))
    coords = crop.sample(rng, (40, 40))["crop_coords"]
    counts = np.bincount(coords[:, 0] * 9 + coords[:, 1], minlength=81)
    assert len(counts) == 81
    assert ((counts - 100) ** 2 / 100).sum() < CHI2_80
    assert abs(flip.sample(rng, (32, 32))["is_applied"].mean() - 0.5) < 4.9 * 0.5 / 8100**0.5  # p = 1e-6
    holes_NK4 = dropout.sample(rng, (32, 32))["holes"]
    # Each position is absent with probability (24/25)^8100.
    assert set(np.unique(holes_NK4[:, 0, :2])) == set(range(25))
    assert (holes_NK4[:, 0, 2:] - holes_NK4[:, 0, :2] == 8).all()


# --- keyed ---


def make_batched(*transforms: tuple[str, dict[str, Any]]) -> BatchedPolicy:
    return compile_policy(compose(*transforms))


BY_MEAN = [("RandomBrightnessContrast", {"brightness_by_max": False, "p": 1.0})]


@pytest.mark.parametrize("transforms", [CHAIN, BY_MEAN, None], ids=["chain", "by image mean", "default policy"])
def test_an_augmented_image_depends_on_its_index_seed_and_epoch_only(transforms: Any) -> None:
    is_default = transforms is None
    policy = compile_policy(default_policy(tiny.MEAN, tiny.STD)) if is_default else make_batched(*transforms)
    images, indices = torch.from_numpy(IMAGES), np.random.default_rng(0).permutation(1000)[:NUM_IMAGES]
    full_batch = policy(images, indices, seed=3, epoch=5)
    order = np.random.default_rng(1).permutation(NUM_IMAGES)
    shuffled = policy(images[order], indices[order], seed=3, epoch=5)
    assert torch.equal(shuffled, full_batch[order])
    chunks = [policy(images[i : i + 7], indices[i : i + 7], seed=3, epoch=5) for i in range(0, NUM_IMAGES, 7)]
    assert torch.equal(torch.cat(chunks), full_batch)
    for other in (policy(images, indices, seed=3, epoch=6), policy(images, indices, seed=4, epoch=5)):
        assert sum(torch.equal(a, b) for a, b in zip(other, full_batch, strict=True)) < 3


def test_no_augmentation_is_repeated() -> None:
    # Among 120 draws of 101,250 outcomes, one is repeated with probability 0.07; not with this seed.
    policy = compile_policy(default_policy(tiny.MEAN, tiny.STD))
    copies = torch.from_numpy(IMAGES[:1].repeat(40, axis=0))
    augmented = torch.cat([policy(copies, np.arange(40), seed=0, epoch=epoch) for epoch in range(3)])
    assert len({image.numpy().tobytes() for image in augmented}) == 120


def test_global_random_states_are_not_changed() -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state(legacy=False)["state"]["pos"], torch.get_rng_state().tolist()

    before = states()
    make_batched(*CHAIN)(torch.from_numpy(IMAGES), np.arange(NUM_IMAGES), seed=0, epoch=0)
    assert states() == before
