"""The policy's batched twin against albumentations itself: same pixels from the same parameters, same distributions.

CounterRng are keyed, so the statistics are the same on every run; their limits leave one false alarm in a million keys.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scsuite.core.augment import (
    NotBatchableError,
    BatchedPolicy,
    augment,
    choose_backend,
    compile_policy,
    default_policy,
    load_policy,
    policy_mean_std,
)
from scsuite.core.augment.batched import Affine, BrightnessContrast, Dropout, Parameters, bordered
from scsuite.core.augment.canvas import Canvas
from scsuite.core.seeding import GOLDEN, CounterRng, _mixed
from scsuite.core.dataset import Split
from scsuite.core.errors import UsageError
from scsuite.core.training.loader import TrainLoader
from tests.core import tiny

NUM = 64  # images
NUM_DRAWS = 4000  # of each side, where two distributions are compared
KS_LIMIT = 2.694 * (2 / NUM_DRAWS) ** 0.5  # exceeded once in a million: sqrt(-ln(1e-6 / 2) / 2); less if discrete
CHI2_80 = 155.1  # exceeded once in a million: scipy.stats.chi2.isf(1e-6, 80)
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 32, 32, 3), dtype=np.uint8)
BORDERS = ("constant", "replicate", "reflect", "wrap", "reflect_101")  # cv2's 0 to 4


def compose(*transforms: tuple[str, dict[str, Any]]) -> Any:
    import albumentations as a

    return a.Compose([*(getattr(a, name)(**arguments) for name, arguments in transforms), a.Normalize()])


# --- the same parameters give the same pixels ---


def shown_by_albumentations(policy: Any, images_NHWC: NDArray[np.uint8]) -> tuple[Any, list[list[dict[str, Any]]]]:
    """All images without their normalisation, and the parameters of each transform for each image ({}: left out)."""
    shown, parameters = [], []
    *transforms, _ = policy.transforms
    for index, image in enumerate(images_NHWC):
        for transform in transforms:
            transform.set_random_state(np.random.default_rng(index), random.Random(index))
            image = transform(image=image)["image"]  # noqa: PLW2901
        shown.append(image)
        parameters.append([dict(transform.params) for transform in transforms])
    return np.stack(shown), [list(column) for column in zip(*parameters, strict=True)]


def as_ours(transform: Any, rows: list[dict[str, Any]], images_NHWC: NDArray[np.uint8]) -> Iterator[Parameters]:
    """albumentations' parameters of one transform, as our steps take them."""

    def column(name: str, otherwise: Any) -> NDArray[Any]:
        return np.array([row.get(name, otherwise) for row in rows])

    kind = type(transform).__name__
    if "Crop" in kind:
        if rows[0]["pad_params"] is not None:
            yield {name: np.array([row["pad_params"][name] for row in rows]) for name in rows[0]["pad_params"]}
        yield {"crop_coords": column("crop_coords", None)}
    elif "Pad" in kind:
        yield {name: column(name, None) for name in ("pad_top", "pad_bottom", "pad_left", "pad_right")}
    elif kind == "CoarseDropout":
        holes = np.zeros((len(rows), transform.num_holes_range[1], 4), np.int64)
        for index, row in enumerate(rows):
            holes[index, : len(row.get("holes", ()))] = row.get("holes", 0)
        yield {"holes": holes}
    elif kind == "RandomBrightnessContrast":
        means = 1.0 if transform.brightness_by_max else images_NHWC.mean(axis=(1, 2, 3))
        yield {"alpha": column("alpha", 1.0), "beta": column("beta", 0.0) / means}
    elif kind == "Affine":
        yield {"matrix": np.array([row.get("matrix", np.eye(3)) for row in rows])}
    else:
        yield {"applied": np.array([bool(row) for row in rows])}


def shown_by_twin(policy: Any, images_NHWC: NDArray[np.uint8], rows: list[list[dict[str, Any]]]) -> NDArray[np.uint8]:
    *transforms, _ = policy.transforms
    canvas = Canvas(torch.from_numpy(images_NHWC))
    given = [p for t, r in zip(transforms, rows, strict=True) for p in as_ours(t, r, images_NHWC)]
    for step, parameters in zip(compile_policy(policy).steps, given, strict=True):
        step.apply(canvas, parameters)
    pixels: NDArray[np.uint8] = canvas.pixels().numpy()
    return pixels


def largest_difference(policy: Any) -> int:
    expected, rows = shown_by_albumentations(policy, IMAGES)
    found = shown_by_twin(policy, IMAGES, rows)
    assert found.shape == expected.shape
    return int(np.abs(found.astype(int) - expected).max())


FILL = (10, 200, 30)
PADDINGS: list[dict[str, Any]] = [{"padding": 3}, {"padding": (2, 5)}, {"padding": (1, 2, 3, 4)}, {"padding": 40}]
PLACES = ("center", "top_left", "top_right", "bottom_left", "bottom_right", "random")
EXACT: list[tuple[str, dict[str, Any]]] = [
    *(("Pad", {**p, "border_mode": b, "fill": f}) for p in PADDINGS for b in range(5) for f in (FILL, 7)),
    *(("PadIfNeeded", {"min_height": 41, "min_width": 38, "position": p, "border_mode": 4}) for p in PLACES),
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
def test_a_twin_gives_albumentations_own_pixels(name: str, arguments: dict[str, Any]) -> None:
    assert largest_difference(compose((name, arguments))) == 0


def test_what_changes_nothing_compiles_to_nothing() -> None:
    policy = compose(
        ("PadIfNeeded", {"min_height": 20, "min_width": 20}),
        ("RandomCrop", {"height": 32, "width": 32, "p": 0.5}),
        ("CenterCrop", {"height": 32, "width": 32}),
        ("HorizontalFlip", {"p": 0.0}),
        ("NoOp", {}),
    )
    assert compile_policy(policy).steps == ()
    assert np.array_equal(shown_by_albumentations(policy, IMAGES)[0], IMAGES)


SMALL = {"rotate": (-40, 40), "scale": (0.7, 1.3), "shear": (-15, 15), "translate_px": (-5, 5)}
AFFINE: list[dict[str, Any]] = [
    *({**SMALL, "border_mode": border, "fill": FILL} for border in range(5)),
    {"rotate": 90.0},
    {"rotate": 45.0, "fill": 9},
    {"scale": {"x": (0.1, 0.5), "y": (1, 3)}, "translate_percent": {"x": (-0.3, 0.3), "y": 0.1}, "border_mode": 4},
    {"scale": (0.5, 1.5), "keep_ratio": True, "shear": {"x": (-60, 60), "y": 3}, "border_mode": 1},
    {"scale": (0.5, 2.0), "balanced_scale": True, "rotate": (-180, 180)},
    {"translate_px": (-20, 20)},
    {"p": 1.0},
    {**SMALL, "p": 0.4},
]


@pytest.mark.parametrize("arguments", AFFINE, ids=str)
def test_interpolated_pixels_are_within_one_grey_level(arguments: dict[str, Any]) -> None:
    assert largest_difference(compose(("Affine", {"p": 1.0, **arguments}))) <= 1


def test_brightness_by_the_images_own_mean_is_within_one_grey_level() -> None:
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


def test_a_policy_of_all_of_them_stays_together() -> None:
    assert largest_difference(compose(*CHAIN)) <= 2  # one level of Affine's, times a contrast of up to 1.2


def test_the_default_policy_gives_albumentations_own_pixels() -> None:
    assert largest_difference(default_policy(tiny.MEAN, tiny.STD)) == 0


def test_borders_are_those_of_opencv() -> None:
    import cv2

    for border, size in itertools.product(range(1, 5), (1, 2, 5, 32)):
        places = np.arange(-100, 140)
        expected = [cv2.borderInterpolate(int(place), size, border) for place in places]
        assert bordered(places, size, border).tolist() == expected
        assert bordered(torch.from_numpy(places), size, border).tolist() == expected


def test_normalised_values_are_albumentations_own_to_one_in_a_million() -> None:
    policy = default_policy(tiny.MEAN, (0.2, 0.25, 1.0))
    ramp = np.tile(np.arange(256, dtype=np.uint8).repeat(4).reshape(32, 32, 1), (1, 1, 1, 3))
    found = BatchedPolicy((), *(getattr(policy.transforms[-1], name) for name in ("mean_np", "denominator")))
    shown = found(torch.from_numpy(ramp), np.zeros(1, np.int64), seed=0, epoch=0)
    expected = policy.transforms[-1](image=ramp[0])["image"]
    assert np.allclose(shown[0].permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-6)
    assert shown.dtype == torch.float32
    assert shown.is_contiguous(memory_format=torch.channels_last)


def test_the_images_themselves_are_left_as_they_are() -> None:
    kept = IMAGES.copy()
    twin(*CHAIN)(torch.from_numpy(kept), np.arange(NUM), seed=0, epoch=0)
    assert np.array_equal(kept, IMAGES)


# --- the same distributions ---


def flattened(parameters: Parameters, names: tuple[str, ...]) -> NDArray[np.float64]:
    return np.concatenate(
        [np.asarray(parameters[name], float).reshape(len(parameters[name]), -1) for name in names], axis=1
    )


DRAWN: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("PadIfNeeded", {"min_height": 40, "min_width": 36, "position": "random"}, ("pad_top", "pad_right")),
    ("RandomCrop", {"height": 24, "width": 9}, ("crop_coords",)),
    ("HorizontalFlip", {"p": 0.3}, ("applied",)),
    ("ToGray", {"p": 0.8}, ("applied",)),
    ("CoarseDropout", {"p": 1.0, "hole_height_range": (8, 8), "hole_width_range": (8, 8)}, ("holes",)),
    ("CoarseDropout", {"p": 0.6, "num_holes_range": (1, 3)}, ("holes",)),
    ("CoarseDropout", {"p": 1.0, "hole_height_range": (2, 40), "hole_width_range": (0.5, 9)}, ("holes",)),
    ("CoarseDropout", {"p": 1.0, "hole_height_range": (0.5, 1.5), "hole_width_range": (0.2, 0.9)}, ("holes",)),
    ("CoarseDropout", {"p": 1.0, "hole_height_range": (0.1, 0.9), "hole_width_range": (0.2, 1.0)}, ("holes",)),
    ("RandomBrightnessContrast", {"p": 0.5}, ("alpha", "beta")),
    ("RandomBrightnessContrast", {"brightness_limit": (0, 0.7), "contrast_limit": (-0.5, 0)}, ("alpha", "beta")),
    ("Affine", {**SMALL, "p": 0.7}, ("matrix",)),
    ("Affine", {"scale": {"x": (0.5, 1.2), "y": (1, 3)}, "translate_percent": (-0.2, 0.3), "p": 1.0}, ("matrix",)),
    ("Affine", {"scale": (0.5, 1.1), "balanced_scale": True, "shear": {"x": (5, 20)}, "p": 1.0}, ("matrix",)),
    ("Affine", {"scale": (0.5, 0.8), "balanced_scale": True, "keep_ratio": True, "p": 1.0}, ("matrix",)),
    ("Affine", {"scale": (1.5, 1.8), "balanced_scale": True, "rotate": (30, 200), "p": 1.0}, ("matrix",)),
]


@pytest.mark.parametrize(("name", "arguments", "names"), DRAWN, ids=str)
def test_parameters_are_distributed_as_albumentations_draws_them(
    name: str, arguments: dict[str, Any], names: tuple[str, ...]
) -> None:
    policy = compose((name, arguments))
    transform = policy.transforms[0]
    transform.set_random_state(np.random.default_rng(0), random.Random(0))
    image = np.full((32, 32, 3), 100, np.uint8)
    rows = []
    for _ in range(NUM_DRAWS):
        applied = transform.should_apply()
        given = {"shape": image.shape}
        rows.append(transform.get_params_dependent_on_data(given, {"image": image}) if applied else {})
    images = np.broadcast_to(image, (NUM_DRAWS, *image.shape))
    theirs = flattened(next(iter(as_ours(transform, rows, images))), names)
    (step,) = compile_policy(policy).steps
    ours = flattened(step.draw(CounterRng(0, 0, np.arange(NUM_DRAWS)), (32, 32)), names)
    assert ours.shape == theirs.shape
    # Each value by itself, and three mixtures of all values, which would differ if these hung together otherwise.
    mixtures = np.random.default_rng(1).normal(size=(ours.shape[1], 3)) / (1e-9 + theirs.std(axis=0)[:, None])
    for mine, other in zip(np.hstack([ours, ours @ mixtures]).T, np.hstack([theirs, theirs @ mixtures]).T, strict=True):
        assert distance(mine, other) < KS_LIMIT


def distance(first_N: NDArray[np.float64], second_N: NDArray[np.float64]) -> float:
    """Kolmogorov and Smirnov's: the largest difference of the two shares below a value."""
    values = np.round(np.concatenate([first_N, second_N]), 9)  # equal values may differ in their last bit
    edges = np.unique(values)
    shares = [np.searchsorted(np.sort(half), edges, side="right") / NUM_DRAWS for half in np.split(values, 2)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_all_81_crops_of_the_default_policy_come_equally_often() -> None:
    _, crop, flip, hole = compile_policy(default_policy(tiny.MEAN, tiny.STD)).steps
    draws = CounterRng(0, 0, np.arange(8100))
    coords = crop.draw(draws, (40, 40))["crop_coords"]
    counts = np.bincount(coords[:, 0] * 9 + coords[:, 1], minlength=81)
    assert len(counts) == 81
    assert ((counts - 100) ** 2 / 100).sum() < CHI2_80
    assert abs(flip.draw(draws, (32, 32))["applied"].mean() - 0.5) < 4.9 * 0.5 / 8100**0.5  # once in a million
    holes_NK4 = hole.draw(draws, (32, 32))["holes"]
    assert set(np.unique(holes_NK4[:, 0, :2])) == set(range(25))  # each missed with probability 8100 * (24/25)^8100
    assert (holes_NK4[:, 0, 2:] - holes_NK4[:, 0, :2] == 8).all()


def test_draws_are_splitmix64() -> None:
    numbers = _mixed(np.arange(1, 4, dtype=np.uint64) * GOLDEN)  # its first three of seed 0
    assert [f"{number:x}" for number in numbers.tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "6c45d188009454f",
    ]


def test_whole_numbers_take_both_ends_and_nothing_beyond() -> None:
    draws = CounterRng(0, 0, np.arange(1000))
    assert set(draws.integers(-2, 3).tolist()) == {-2, -1, 0, 1, 2, 3}
    assert set(draws.integers(5, 5).tolist()) == {5}
    uniform = draws.uniform(2.0, 3.0, 100)
    assert 2 <= uniform.min() < 2.001
    assert 2.999 < uniform.max() < 3


# --- keyed ---


def twin(*transforms: tuple[str, dict[str, Any]]) -> BatchedPolicy:
    return compile_policy(compose(*transforms))


BY_MEAN = [("RandomBrightnessContrast", {"brightness_by_max": False, "p": 1.0})]


@pytest.mark.parametrize(
    "transforms", [CHAIN, BY_MEAN, None], ids=["a chain", "by the image's mean", "the default policy"]
)
def test_an_image_depends_on_its_index_the_seed_and_the_epoch_alone(transforms: Any) -> None:
    one = compile_policy(default_policy(tiny.MEAN, tiny.STD)) if transforms is None else twin(*transforms)
    images, indices = torch.from_numpy(IMAGES), np.random.default_rng(0).permutation(1000)[:NUM]
    whole = one(images, indices, seed=3, epoch=5)
    order = np.random.default_rng(1).permutation(NUM)
    shuffled = one(images[order], indices[order], seed=3, epoch=5)
    assert torch.equal(shuffled, whole[order])
    parts = [one(images[i : i + 7], indices[i : i + 7], seed=3, epoch=5) for i in range(0, NUM, 7)]
    assert torch.equal(torch.cat(parts), whole)
    for other in (one(images, indices, seed=3, epoch=6), one(images, indices, seed=4, epoch=5)):
        assert sum(torch.equal(a, b) for a, b in zip(other, whole, strict=True)) < 3


def test_no_augmentation_is_repeated() -> None:
    # Of the 101,250 outcomes on one image, 120 draws repeat one by chance with probability 0.07; these have none.
    one, same = compile_policy(default_policy(tiny.MEAN, tiny.STD)), torch.from_numpy(IMAGES[:1].repeat(40, axis=0))
    shown = torch.cat([one(same, np.arange(40), seed=0, epoch=epoch) for epoch in range(3)])
    assert len({image.numpy().tobytes() for image in shown}) == 120


def test_global_random_states_are_left_alone() -> None:
    before = random.getstate(), np.random.get_state(legacy=False)["state"]["pos"], torch.get_rng_state().tolist()
    twin(*CHAIN)(torch.from_numpy(IMAGES), np.arange(NUM), seed=0, epoch=0)
    assert (random.getstate(), np.random.get_state(legacy=False)["state"]["pos"], torch.get_rng_state().tolist()) == (
        before
    )


# --- what has no twin ---

NONE: dict[str, tuple[str, dict[str, Any]]] = {
    "OneOf has no batched twin": ("OneOf", {}),
    "GaussNoise has no batched twin": ("GaussNoise", {}),
    "CoarseDropout with fill='inpaint_ns'": ("CoarseDropout", {"fill": "inpaint_ns"}),
    "CoarseDropout with fill='random'": ("CoarseDropout", {"fill": "random"}),
    "CoarseDropout with holes that are larger": ("CoarseDropout", {"hole_height_range": (40, 50)}),
    "ToGray with method='pca'": ("ToGray", {"method": "pca"}),
    "ToGray with method='max' to 1 channels": ("ToGray", {"method": "max", "num_output_channels": 1}),
    "RandomBrightnessContrast with ensure_safe_range": ("RandomBrightnessContrast", {"ensure_safe_range": True}),
    "Affine with interpolation=0": ("Affine", {"interpolation": 0}),
    "Affine with interpolation=2": ("Affine", {"interpolation": 2}),
    "Affine with fit_output=True": ("Affine", {"fit_output": True}),
    "Affine with scale below 0.1": ("Affine", {"scale": (0.05, 1)}),
    "Affine with shear beyond 60": ("Affine", {"shear": (-80, 0)}),
    "RandomCrop with p=0.5 changes the size": ("RandomCrop", {"height": 20, "width": 32, "p": 0.5}),
    "RandomCrop is larger than the image": ("RandomCrop", {"height": 33, "width": 32}),
    "Pad with p=0.9 changes the size": ("Pad", {"padding": 1, "p": 0.9}),
    "Pad makes images of 132 x 132": ("Pad", {"padding": 50}),
}


@pytest.mark.parametrize("reason", NONE)
def test_what_has_no_twin_is_named_and_left_to_albumentations_or_refused(reason: str) -> None:
    import albumentations as a

    name, arguments = NONE[reason]
    transform = a.OneOf([a.NoOp()]) if name == "OneOf" else getattr(a, name)(**arguments)
    policy = a.Compose([a.NoOp(), transform, a.Normalize()])
    with pytest.raises(NotBatchableError, match="^" + reason.replace("(", r"\(")):
        compile_policy(policy)
    engine = choose_backend("auto", policy)
    assert (engine.name, backend.batched) == ("albumentations", None)
    assert engine.reason.startswith(reason)
    with pytest.raises(UsageError, match="--augment-engine") as caught:
        choose_backend("batched", policy)
    assert reason in str(caught.value)


def test_a_policy_that_does_not_end_in_one_normalisation_has_no_twin() -> None:
    import albumentations as a

    for policy in (a.Compose([a.NoOp()]), a.Compose([]), a.Compose([a.Normalize()], p=0.5),
                   a.Compose([a.Normalize(normalization="image")])):  # fmt: skip
        with pytest.raises(NotBatchableError):
            compile_policy(policy)


def test_every_transform_with_a_twin_is_chosen_and_albumentations_where_asked_for() -> None:
    policy = default_policy(tiny.MEAN, tiny.STD)
    assert choose_backend("auto", policy).name == choose_backend("batched", policy).name == "batched"
    assert choose_backend("albumentations", policy).twin is None


# --- in the loader ---


def loader(policy: Any, engine: str, seed: int = 0) -> TrainLoader:
    split = Split(IMAGES, np.arange(NUM), ("",) * NUM)
    chosen = choose_backend(engine, policy).twin
    return TrainLoader(split, policy, batch_size=10, seed=seed, workers=0, twin=chosen)


def test_both_engines_give_equal_batches_for_a_policy_without_chance() -> None:
    policy = compose(("Pad", {"padding": 2, "border_mode": 4}), ("CenterCrop", {"height": 32, "width": 32}),
                     ("HorizontalFlip", {"p": 1.0}), ("ToGray", {"p": 1.0}))  # fmt: skip
    for mine, other in zip(loader(policy, "batched").epoch(2), loader(policy, "albumentations").epoch(2), strict=True):
        assert torch.equal(mine.labels_N, other.labels_N)
        assert torch.allclose(mine.images_NCHW, other.images_NCHW, rtol=0, atol=1e-6)
        assert mine.images_NCHW.is_contiguous(memory_format=torch.channels_last)


def test_batches_are_those_of_the_twin_from_any_batch_on_and_each_image_comes_once() -> None:
    policy = default_policy(tiny.MEAN, tiny.STD)
    one, batches = compile_policy(policy), list(loader(policy, "batched", seed=4).epoch(1))
    assert [len(batch.labels_N) for batch in batches] == [10] * 6 + [4]
    labels = torch.cat([batch.labels_N for batch in batches])
    assert sorted(labels.tolist()) == list(range(NUM))
    expected = one(torch.from_numpy(IMAGES), np.arange(NUM), seed=4, epoch=1)
    assert torch.equal(torch.cat([batch.images_NCHW for batch in batches]), expected[labels])
    again = loader(policy, "batched", seed=4)
    for first in (0, 3, 6, 7):
        tail = list(again.epoch(1, first_batch=first))
        assert len(tail) == 7 - first
        assert all(torch.equal(a.images_NCHW, b.images_NCHW) for a, b in zip(tail, batches[first:], strict=True))
    assert torch.equal(again.fetch(1, labels.numpy()[:5]).images_NCHW, batches[0].images_NCHW[:5])


def test_several_batches_at_once_are_the_same_images_in_the_same_order() -> None:
    one, some = (loader(default_policy(tiny.MEAN, tiny.STD), "batched") for _ in range(2))
    some._loader.batches_at_once = 3  # type: ignore[attr-defined]
    for mine, other in zip(one.epoch(1, first_batch=2), some.epoch(1, first_batch=2), strict=True):
        assert torch.equal(mine.labels_N, other.labels_N)
        assert torch.equal(mine.images_NCHW, other.images_NCHW)


@pytest.mark.parametrize("engine", ["batched", "albumentations"])
def test_the_parts_of_a_batch_are_the_batch(engine: str) -> None:
    # 64 images in batches of 21: the last is one image, of which the second part has none.
    policy, split = default_policy(tiny.MEAN, tiny.STD), Split(IMAGES, np.arange(NUM), ("",) * NUM)
    twin = choose_backend(engine, policy).twin
    whole, *parts = (
        list(TrainLoader(split, policy, batch_size=21, seed=0, workers=0, twin=twin, part=part).epoch(1))
        for part in (slice(None), slice(0, None, 2), slice(1, None, 2))
    )
    for batch, first, second in zip(whole, *parts, strict=True):
        assert len(first.labels_N) + len(second.labels_N) == len(batch.labels_N)
        for number, part in enumerate((first, second)):
            assert torch.equal(part.labels_N, batch.labels_N[number::2])
            assert torch.equal(part.images_NCHW, batch.images_NCHW[number::2])


@pytest.mark.parametrize("engine", ["batched", "albumentations"])
def test_alternating_flips_show_each_image_and_its_mirror_image_in_turn_half_of_them_mirrored_first(
    engine: str,
) -> None:
    policy, num = compose(("ToGray", {"p": 1.0})), 400
    split = Split(IMAGES[:1].repeat(num, axis=0), np.zeros(num, np.int64), ("",) * num)
    twin = choose_backend(engine, policy).twin
    plain, alternating = (
        TrainLoader(split, policy, batch_size=100, seed=3, workers=0, twin=twin, alternate_flips=on)
        for on in (False, True)
    )
    as_it_is = plain.fetch(0, np.arange(num)).images_NCHW
    turned = []
    for epoch in range(4):
        shown = alternating.fetch(epoch, np.arange(num)).images_NCHW
        turned.append((shown == as_it_is.flip(3)).flatten(1).all(dim=1))
        assert torch.equal((shown == as_it_is).flatten(1).all(dim=1), ~turned[-1])
    assert 160 < turned[0].sum() < 240  # 4 standard deviations
    assert torch.equal(turned[1], ~turned[0])
    assert torch.equal(turned[2], turned[0])
    assert torch.equal(turned[3], turned[1])


def test_an_epoch_of_the_other_engine_shows_the_same_order() -> None:
    policy = default_policy(tiny.MEAN, tiny.STD)
    orders = [[b.labels_N.tolist() for b in loader(policy, e).epoch(3)] for e in ("batched", "albumentations")]
    assert orders[0] == orders[1]


def test_a_policy_file_is_compiled_as_it_stands(tmp_path: Any) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "transform:\n  __class_fullname__: Compose\n  transforms:\n"
        "  - {__class_fullname__: Affine, rotate: [-10, 10], p: 0.5}\n"
        "  - {__class_fullname__: CoarseDropout, num_holes_range: [1, 2], fill: 3}\n"
    )
    policy = load_policy(str(path), tiny.MEAN, tiny.STD)
    steps = compile_policy(policy).steps
    assert [type(step) for step in steps] == [Affine, Dropout]
    assert not any(isinstance(step, BrightnessContrast) for step in steps)
    mean, std = policy_mean_std(policy)
    shown = compile_policy(policy)(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), np.arange(2), seed=0, epoch=0)
    least = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
    assert torch.allclose(shown.amin(dim=(0, 2, 3)), least, atol=1e-6)
    assert augment(policy, IMAGES[0], 0, 0, 0).shape == (32, 32, 3)
