"""The augmentation policy: its statistics on an image whose pixels encode their position; policy files; refusals.

Random numbers are keyed, so these statistics are equal on every run; their limits fail for one key in a million.
"""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from scsuite.core.augment import (
    TRANSFORMS,
    augment_image,
    default_policy,
    denormalise,
    load_policy,
    normalise,
    policy_dict,
    policy_mean_std,
    validate_policy,
)
from scsuite.core.errors import InputError
from scsuite.core.seeding import keyed_seed
from tests.core.tiny import MEAN, STD

NUM_SAMPLES = 3240  # 40 for each of the 81 crops
CHI2_80, CHI2_24 = 155.1, 72.3  # probability of a larger value 1e-6: scipy.stats.chi2.isf(1e-6, 80 and 24)
MEAN_COLOR = [128, 115, 102]  # 255 * MEAN, rounded


def position_image() -> NDArray[np.uint8]:
    """Each pixel holds its row and its column; the last channel is 200 everywhere except in the hole."""
    rows, columns = np.mgrid[0:32, 0:32]
    image: NDArray[np.uint8] = np.stack([rows * 3, columns * 3, np.full((32, 32), 200)], axis=2).astype(np.uint8)
    return image


def crops_and_flips() -> NDArray[np.uint8]:
    """All possible crops and flips, indexed [dy, dx, is_flipped], made with numpy's reflection."""
    padded = np.pad(position_image(), ((4, 4), (4, 4), (0, 0)), mode="reflect")
    crops = np.array([[padded[dy : dy + 32, dx : dx + 32] for dx in range(9)] for dy in range(9)])
    views: NDArray[np.uint8] = np.stack([crops, crops[:, :, :, ::-1]], axis=2)
    return views


@pytest.fixture(scope="module")
def augmented() -> NDArray[np.float32]:
    policy = default_policy(MEAN, STD)
    return np.stack([augment_image(policy, position_image(), 0, 0, index) for index in range(NUM_SAMPLES)])


@pytest.fixture(scope="module")
def pixels(augmented: NDArray[np.float32]) -> NDArray[np.uint8]:
    values = (augmented.astype(np.float64) * np.array(STD) + np.array(MEAN)) * 255
    assert np.abs(values - values.round()).max() < 1e-3
    rounded: NDArray[np.uint8] = values.round().astype(np.uint8)
    return rounded


@pytest.fixture(scope="module")
def origins(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(dy, dx, is_flipped) of each image: the only view that it equals outside the hole."""
    views = crops_and_flips().reshape(162, 32, 32, 3)
    origins = []
    for image in pixels:
        no_hole = image[..., 2] == 200
        y, x = np.argwhere(no_hole)[0]
        candidates = np.flatnonzero((views[:, y, x] == image[y, x]).all(axis=1))  # one pixel excludes most views
        equal = candidates[(views[candidates][:, no_hole] == image[no_hole]).all(axis=(1, 2))]
        assert len(equal) == 1
        origins.append(np.unravel_index(int(equal[0]), (9, 9, 2)))
    return np.array(origins)


def chi_square(counts: NDArray[np.int64]) -> float:
    """Pearson's statistic against equal counts."""
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())


def test_every_image_is_one_crop_and_flip_of_the_reflected_image_outside_its_hole(origins: NDArray[np.int64]) -> None:
    assert len(origins) == NUM_SAMPLES  # the fixture asserts exactly one view for each


def test_all_81_crops_are_equally_likely(origins: NDArray[np.int64]) -> None:
    counts = np.bincount(origins[:, 0] * 9 + origins[:, 1], minlength=81)
    assert counts.min() > 0
    assert chi_square(counts) < CHI2_80


def test_half_of_the_images_of_every_crop_are_flipped(origins: NDArray[np.int64]) -> None:
    is_flipped = origins[:, 2]
    assert 1481 <= is_flipped.sum() <= 1759  # 3240 fair coins leave this interval with probability 1e-6
    flips_by_crop = np.bincount((origins[:, 0] * 9 + origins[:, 1])[is_flipped == 1], minlength=81)
    assert chi_square(flips_by_crop) < CHI2_80


def test_each_image_has_one_8x8_hole_inside_in_the_mean_color(pixels: NDArray[np.uint8]) -> None:
    for image in pixels:
        hole = image[..., 2] != 200
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        assert hole.sum() == 64
        assert np.ptp(rows) == np.ptp(columns) == 7
        assert (image[hole] == MEAN_COLOR).all()


def test_all_hole_positions_are_equally_likely(pixels: NDArray[np.uint8]) -> None:
    holes = pixels[..., 2] != 200
    for starts in (holes.any(axis=2).argmax(axis=1), holes.any(axis=1).argmax(axis=1)):
        counts = np.bincount(starts, minlength=25)
        assert len(counts) == 25  # 0 to 24: fully inside
        assert chi_square(counts) < CHI2_24


def test_the_output_is_normalised(augmented: NDArray[np.float32], origins: NDArray[np.int64]) -> None:
    assert augmented.dtype == np.float32
    for image, origin in zip(augmented[:50], origins[:50], strict=True):
        expected = (crops_and_flips()[tuple(origin)] / 255 - np.array(MEAN)) / np.array(STD)
        hole = np.abs(image - expected).max(axis=2) > 1e-6
        assert hole.sum() == 64  # all other pixels agree within 1e-6


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))])
def test_normalise_is_the_formula_and_denormalise_inverts_it(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    images = np.stack([np.arange(256), np.arange(256)[::-1], np.roll(np.arange(256), 99)], axis=1)
    images = np.tile(images.reshape(1, 16, 16, 3), (2, 1, 1, 1)).astype(np.uint8)
    normalised = normalise(images, mean, std)
    expected = (images.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    assert (normalised.shape, normalised.dtype) == ((2, 3, 16, 16), torch.float32)
    assert np.abs(normalised.numpy().transpose(0, 2, 3, 1) - expected).max() < 1e-6
    assert np.array_equal(denormalise(normalised, mean, std), images)


def test_denormalise_clips_to_the_range_of_pixels() -> None:
    images_NCHW = torch.tensor([-99.0, 99.0]).repeat(3, 1).view(1, 3, 1, 2)
    assert denormalise(images_NCHW, MEAN, STD).tolist() == [[[[0] * 3, [255] * 3]]]


def test_training_and_evaluation_normalise_in_the_same_way() -> None:
    policy = load_policy(None, MEAN, STD)
    policy.transforms = policy.transforms[-1:]  # only Normalize
    image = position_image()
    expected = normalise(image[None], MEAN, STD)[0].permute(1, 2, 0).numpy()
    assert np.abs(augment_image(policy, image, 0, 0, 0) - expected).max() < 1e-6


def test_an_augmented_image_depends_on_seed_epoch_and_index_only() -> None:
    policy, same_policy = default_policy(MEAN, STD), default_policy(MEAN, STD)
    image = position_image()
    keys = [(s, e, i) for s in (0, 1) for e in (0, 1, 2) for i in (0, 5)]
    expected = {key: augment_image(policy, image, *key) for key in keys}
    np.random.seed(1)
    random.seed(1)
    for _ in range(7):
        same_policy(image=image)  # unrelated draws in between
    for key in reversed(keys):
        assert np.array_equal(augment_image(same_policy, image, *key), expected[key])


def test_different_images_epochs_and_seeds_are_augmented_differently() -> None:
    policy = default_policy(MEAN, STD)
    keys = [(s, e, i) for s in (0, 1) for e in range(5) for i in range(5)]
    # Two of the 81 * 2 * 625 outcomes are equal with probability 1 / 101,250; among 1225 pairs, 1 / 83.
    assert len({augment_image(policy, position_image(), *key).tobytes() for key in keys}) >= 49


def test_augment_image_changes_neither_the_image_nor_global_random_states() -> None:
    image = position_image()
    before = (random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy(), torch.get_rng_state())
    augment_image(default_policy(MEAN, STD), image, 0, 0, 0)
    assert np.array_equal(image, position_image())
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


def test_the_first_use_of_albumentations_makes_no_network_request() -> None:
    program = """
import os, socket, urllib.request
os.environ.pop("NO_ALBUMENTATIONS_UPDATE", None)
requests = []
class Opener:
    def open(self, *args, **kwargs):
        requests.append(args)
        raise OSError("offline")
def refuse(*args, **kwargs):
    requests.append(args)
    raise OSError("offline")
urllib.request._opener = Opener()
urllib.request.OpenerDirector.open = refuse
socket.getaddrinfo = refuse
from scsuite.core.augment import default_policy
default_policy((0.5,) * 3, (0.25,) * 3)
import sys
print(len(requests), "albumentations" in sys.modules)
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["0", "True"]


# --- policy files ---


def write_policy(tmp_path: Path, policy: object) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(policy if isinstance(policy, str) else yaml.safe_dump(policy))
    return str(path)


def compose(*transforms: Any, **extra: Any) -> dict[str, Any]:
    nodes = [{"__class_fullname__": t} if isinstance(t, str) else t for t in transforms]
    return {"__version__": "2.0.8", "transform": {"__class_fullname__": "Compose", "transforms": nodes, **extra}}


def node(name: str, **arguments: Any) -> dict[str, Any]:
    return {"__class_fullname__": name, **arguments}


def nested_policy(a: Any) -> Any:
    return a.Compose([
        a.PadIfNeeded(40, 40, border_mode=4),
        a.RandomCrop(32, 32),
        a.OneOf([a.HorizontalFlip(p=0.5), a.Sequential([a.RandomBrightnessContrast(p=1), a.ToGray(p=0.5)])], p=0.9),
        a.SomeOf([a.Affine(rotate=(-20, 20), p=1), a.Blur(p=1), a.GaussNoise(p=1)], n=2),
        a.CoarseDropout(num_holes_range=(1, 3), fill="random", p=0.7),
        a.Normalize(mean=MEAN, std=STD),
    ])  # fmt: skip


def flat_policy(a: Any) -> Any:
    return a.Compose([a.ColorJitter(p=1), a.Rotate(limit=30, p=0.8), a.Normalize(mean=MEAN, std=STD)])


@pytest.mark.parametrize("make_policy", [nested_policy, flat_policy])
def test_a_policy_from_to_dict_gives_the_same_pixels(make_policy: Callable[[Any], Any], tmp_path: Path) -> None:
    import albumentations

    original = make_policy(albumentations)
    policy = load_policy(write_policy(tmp_path, original.to_dict()), MEAN, STD)
    image = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for index in range(30):
        key = keyed_seed(5, "augment", 2, index)
        original.set_random_state(np.random.default_rng(key), random.Random(key))
        assert np.array_equal(augment_image(policy, image, 5, 2, index), original(image=image)["image"])


def test_a_file_saved_by_albumentations_is_read(tmp_path: Path) -> None:
    import albumentations

    path = tmp_path / "saved.yaml"
    albumentations.save(flat_policy(albumentations), path, data_format="yaml")
    assert policy_dict(load_policy(str(path), MEAN, STD)) == policy_dict(flat_policy(albumentations))


REQUIRED_ARGUMENTS = {
    "CenterCrop": (32, 32), "CropAndPad": (2,), "LongestMaxSize": (32,), "RandomCrop": (32, 32),
    "RandomSizedCrop": ((20, 32), (32, 32)), "RandomResizedCrop": ((32, 32),), "Resize": (32, 32),
    "SmallestMaxSize": (32,), "Crop": (0, 0, 32, 32), "PadIfNeeded": (40, 40),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:This augmenter is very slow", "ignore:ShiftScaleRotate is a special case")
@pytest.mark.parametrize("name", sorted(TRANSFORMS - {"Normalize"}))
def test_every_allowed_transform_survives_to_dict_and_load_policy(name: str, tmp_path: Path) -> None:
    import albumentations

    # Some write arguments that they do not accept (PadIfNeeded, RGBShift), some always warn (ShiftScaleRotate).
    transform = getattr(albumentations, name)(*REQUIRED_ARGUMENTS.get(name, ()), p=1.0)
    original = albumentations.Compose([transform, albumentations.Resize(32, 32), albumentations.Normalize(MEAN, STD)])
    policy = load_policy(write_policy(tmp_path, original.to_dict()), MEAN, STD)
    assert policy_dict(policy) == policy_dict(original)


def test_an_inherited_argument_must_have_its_default_value(tmp_path: Path) -> None:
    pad = node("PadIfNeeded", min_height=32, min_width=32, padding=7)
    with pytest.raises(InputError, match="padding: expected an argument of PadIfNeeded"):
        load_policy(write_policy(tmp_path, compose(pad)), MEAN, STD)


def test_a_file_without_normalize_gets_one_at_its_end(tmp_path: Path) -> None:
    policy = load_policy(write_policy(tmp_path, compose(node("HorizontalFlip", p=1.0))), MEAN, STD)
    expected = (position_image()[:, ::-1] / 255 - np.array(MEAN)) / np.array(STD)
    assert np.abs(augment_image(policy, position_image(), 0, 0, 0) - expected).max() < 1e-6


def test_policy_mean_std_returns_those_of_the_files_normalize(tmp_path: Path) -> None:
    normalize = node("Normalize", mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    policy = load_policy(write_policy(tmp_path, compose(node("NoOp"), normalize)), MEAN, STD)
    assert policy_mean_std(policy) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert policy_mean_std(default_policy(MEAN, STD)) == (MEAN, STD)


@pytest.mark.parametrize(
    "transforms",
    [
        [node("Normalize"), node("NoOp")],
        [node("Normalize"), node("Normalize")],
        [node("Normalize", p=0.5)],
        [node("Normalize", normalization="image")],
        [node("Normalize", max_pixel_value=1.0)],
        [node("OneOf", transforms=[node("Normalize")])],
    ],
    ids=["not last", "twice", "sometimes", "per image", "other pixel range", "in a group"],
)
def test_a_normalize_that_evaluation_cannot_repeat_is_refused(transforms: list[Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Normalize"):
        load_policy(write_policy(tmp_path, compose(*transforms)), MEAN, STD)


def test_a_policy_without_its_version_envelope_is_read(tmp_path: Path) -> None:
    bare = compose(node("NoOp"))["transform"]
    assert (
        policy_dict(load_policy(write_policy(tmp_path, bare), MEAN, STD))["transforms"][0]["__class_fullname__"]
        == "NoOp"
    )


def test_policy_dicts_are_equal_for_equal_policies_only() -> None:
    assert policy_dict(default_policy(MEAN, STD)) == policy_dict(load_policy(None, MEAN, STD))
    assert policy_dict(default_policy(MEAN, STD)) != policy_dict(default_policy(STD, STD))


def nested(depth: int) -> dict[str, Any]:
    inner = node("NoOp")
    for _ in range(depth):
        inner = node("Sequential", transforms=[inner], p=1.0)
    return inner


FIRST = "transform.transforms[0]"
CANARY = "CANARY"  # a file that no refused policy may create

REFUSED: dict[str, tuple[Any, str]] = {
    "an unknown class": (compose("NoOp", "Nonsense"), "transform.transforms[1]: "),
    "a lambda": (compose(node("Lambda", image="lambda x, **k: x")), f"{FIRST}: "),
    "a class by its full path": (compose("os.system"), f"{FIRST}: "),
    "a class that reads files": (compose(node("FDA", reference_images=["a.png"])), f"{FIRST}: "),
    "a transform that is not a mapping": (compose(node("OneOf", transforms=["Blur"])), f"{FIRST}.transforms[0]: "),
    "a misspelt argument": (compose(node("HorizontalFlip", prob=0.5)), f"{FIRST}.prob: "),
    "arguments of mixed types": (compose({"__class_fullname__": "NoOp", 1: 2, "x": 3}), f"{FIRST}.1: "),
    "an argument called self": (compose(node("NoOp", self=1)), f"{FIRST}.self: "),
    "a probability of 3": (compose(node("HorizontalFlip", p=3)), f"{FIRST}: "),
    "a group's probability of 3": (compose(node("OneOf", transforms=[node("NoOp")], p=3)), f"{FIRST}.p: "),
    "a group with too many choices": (
        compose(node("SomeOf", transforms=[node("NoOp")], n=10**9, replace=True)),
        f"{FIRST}.n: ",
    ),
    "a policy with p below 1": (compose("NoOp", p=0.5), "transform.p: "),
    "a nested error": (
        compose("NoOp", node("OneOf", transforms=[node("NoOp"), node("Blur", blur_limit="wide")])),
        "transform.transforms[1].transforms[1]: ",
    ),
    "a value that albumentations would change silently": (compose(node("Blur", blur_limit=[4, 4])), f"{FIRST}: "),
    "a value of the wrong type": (compose(node("RandomCrop", height="tall", width=32)), f"{FIRST}: "),
    "a missing argument": (compose(node("RandomCrop", height=32)), f"{FIRST}: "),
    "another output size": (compose(node("Resize", height=16, width=16)), "transform: expected finite 32x32x3"),
    "a crop larger than the image": (compose(node("RandomCrop", height=64, width=64)), "transform: expected finite"),
    "boxes": (compose("NoOp", bbox_params={"format": "yolo"}), "transform.bbox_params: "),
    "keypoints": (compose("NoOp", keypoint_params={"format": "xy"}), "transform.keypoint_params: "),
    "a transform of boxes": (compose(node("BBoxSafeRandomCrop")), f"{FIRST}: "),
    "a second image": (compose("NoOp", additional_targets={"image2": "image"}), "transform.additional_targets: "),
    "an extra key": ({**compose("NoOp"), "extra": 1}, "extra: "),
    "too deep": (compose(nested(9)), ".transforms[0]: expected at most 64 transforms, 8 deep"),
    "too many": (compose(*["NoOp"] * 65), "transform.transforms[64]: expected at most 64 transforms"),
    "no transforms": (compose(), "transform.transforms: "),
    "transforms that are not a list": (
        {"transform": {"__class_fullname__": "Compose", "transforms": {"a": 1}}},
        "transform.transforms: ",
    ),
    "no Compose": ({"transform": node("OneOf", transforms=[node("NoOp")])}, "transform: "),
    "another mapping": ({"epochs": 3}, "transform: "),
    "an alias": ("a: &x {p: 1}\nb: *x\n", "aliases are not allowed"),
    "a key given twice": ("transform: {p: 1, p: 0}\n", "given twice: p"),
    "a python tag": (f"transform: !!python/object/apply:os.system ['touch {CANARY}']\n", "constructor"),
    "an empty file": ("", "an empty file"),
}


@pytest.mark.parametrize(("policy", "place"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_policy_is_an_input_error_in_one_line_that_names_the_place(
    policy: object, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_policy(tmp_path, policy)
    with pytest.raises(InputError) as caught:
        load_policy(path, MEAN, STD)
    message = str(caught.value)
    assert message.startswith(f"augmentation policy: {path}: ")
    assert place in message
    assert "\n" not in message
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ("HorizontalFlip", "Write {__class_fullname__: HorizontalFlip, p: 0.5}, for example."),
        (None, "Write {__class_fullname__: HorizontalFlip, p: 0.5}, for example."),
        (node("HorizontalFlip", p=3), "HorizontalFlip, found p Input should be less than or equal to 1"),
    ],
)
def test_a_bad_transform_is_refused_with_what_is_right(transform: object, words: str, tmp_path: Path) -> None:
    policy = compose("NoOp")
    policy["transform"]["transforms"].append(transform)
    with pytest.raises(InputError) as caught:
        load_policy(write_policy(tmp_path, policy), MEAN, STD)
    assert words in str(caught.value)
    assert "http" not in str(caught.value)


BIG, BACK = node("Resize", height=360, width=360, p=1), node("Resize", height=32, width=32, p=1)


def repeated(depth: int) -> dict[str, Any]:
    inner = node("Blur", p=1) if depth == 1 else repeated(depth - 1)
    return node("SomeOf", n=64, replace=True, transforms=[inner])


COSTLY = {
    "piecewise": (compose(node("PiecewiseAffine", nb_rows=300, nb_cols=300)), r"\[0\]\.nb_"),
    "control points": (compose(node("ThinPlateSpline", num_control_points=60)), r"\[0\]\.num_control_points"),
    "tiny steps": (compose(node("ZoomBlur", max_factor=3, step_factor=0.001)), r"\[0\]\.step_factor"),
    "iterations": (compose(node("GlassBlur", iterations=300)), r"\[0\]\.iterations"),
    "grid": (compose(node("RandomGridShuffle", grid=[300, 300])), r"\[0\]\.grid"),
    "holes": (compose(node("GridDropout", holes_number_xy=[300, 300])), r"\[0\]\.holes_number_xy"),
    "large images": (compose(BIG, node("GlassBlur", mode="exact", iterations=16, max_delta=1), BACK), "with GlassBlur"),
    "larger images": (compose(node("Pad", padding=360, p=1), BACK), "512 pixels a side, found 752 x 752 with Pad"),
    "never": (compose(BIG, node("PiecewiseAffine", p=0.001, nb_rows=16, nb_cols=16), BACK), "with PiecewiseAffine"),
    "repeats": (compose(repeated(5)), "with Blur"),
}


@pytest.mark.filterwarnings("ignore:This augmenter is very slow")
@pytest.mark.parametrize(("policy", "words"), COSTLY.values(), ids=COSTLY.keys())
def test_a_costly_transform_is_named_and_refused(policy: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        load_policy(write_policy(tmp_path, policy), MEAN, STD)


@pytest.mark.filterwarnings("ignore:This augmenter is very slow")
def test_transforms_that_people_use_are_within_the_limits(tmp_path: Path) -> None:
    usual = [
        node("PiecewiseAffine"), node("ThinPlateSpline"), node("ZoomBlur"), node("GlassBlur"), node("GridDistortion"),
        node("ElasticTransform", alpha=50, sigma=5), node("RandomGridShuffle", grid=[4, 4]), node("Superpixels"),
        node("GridDropout"), node("SomeOf", n=3, transforms=[node("Blur"), node("CLAHE"), node("ColorJitter")]),
    ]  # fmt: skip
    big = [node("Resize", height=224, width=224, p=1), node("Rotate"), node("RandomCrop", height=192, width=192, p=1)]
    load_policy(write_policy(tmp_path, compose(*usual)), MEAN, STD)
    load_policy(write_policy(tmp_path, compose(*big, node("GaussianBlur"), BACK)), MEAN, STD)


def test_the_deepest_and_the_longest_allowed_policies_are_read(tmp_path: Path) -> None:
    assert load_policy(write_policy(tmp_path, compose(nested(7))), MEAN, STD) is not None
    assert (
        len(load_policy(write_policy(tmp_path, compose(*["NoOp"] * 64)), MEAN, STD).transforms) == 65
    )  # with Normalize


def test_a_missing_policy_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: expected a readable YAML file"):
        load_policy(str(tmp_path / "nowhere.yaml"), MEAN, STD)


def test_a_file_of_another_albumentations_version_gives_a_warning(tmp_path: Path) -> None:
    assert validate_policy(None) == ()
    policy = compose("NoOp")
    policy["__version__"] = "1.4.24"
    (warning,) = validate_policy(write_policy(tmp_path, policy))
    assert "for albumentations 1.4.24, " in warning
