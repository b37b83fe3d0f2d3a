"""Compiling a policy and choosing a backend: what has a batched version, and what happens if there is none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scsuite.core.augment import (
    NotBatchableError,
    augment_image,
    check_backend,
    choose_backend,
    compile_policy,
    default_policy,
    load_policy,
    policy_mean_std,
)
from scsuite.core.augment.affine import Affine
from scsuite.core.augment.transforms import CoarseDropout
from scsuite.core.errors import UsageError
from tests.core import tiny

NOT_BATCHABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "OneOf has no batched version": ("OneOf", {}),
    "GaussNoise has no batched version": ("GaussNoise", {}),
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


@pytest.mark.parametrize("reason", NOT_BATCHABLE)
def test_a_policy_without_a_batched_version_falls_back_to_albumentations_or_is_refused(reason: str) -> None:
    import albumentations as a

    name, arguments = NOT_BATCHABLE[reason]
    transform = a.OneOf([a.NoOp()]) if name == "OneOf" else getattr(a, name)(**arguments)
    policy = a.Compose([a.NoOp(), transform, a.Normalize()])
    with pytest.raises(NotBatchableError, match="^" + reason.replace("(", r"\(")):
        compile_policy(policy)
    backend = choose_backend("auto", policy)
    assert (backend.name, backend.batched_policy) == ("albumentations", None)
    assert backend.reason.startswith(reason)
    with pytest.raises(UsageError, match="--augment-backend") as caught:
        choose_backend("batched", policy)
    assert reason in str(caught.value)


def test_a_policy_without_one_normalize_at_its_end_has_no_batched_version() -> None:
    import albumentations as a

    for policy in (a.Compose([a.NoOp()]), a.Compose([]), a.Compose([a.Normalize()], p=0.5),
                   a.Compose([a.Normalize(normalization="image")])):  # fmt: skip
        with pytest.raises(NotBatchableError):
            compile_policy(policy)


def test_affine_has_no_batched_version_if_opencv_rounds_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    import albumentations as a
    from albumentations.augmentations.geometric import functional

    policy = a.Compose([a.Affine(), a.Normalize()])
    assert choose_backend("auto", policy).name == "batched"
    opencv_4_output = np.array([[[8] * 3, [255] * 3]], np.uint8)  # of OpenCV 4.14
    monkeypatch.setattr(functional, "warp_affine", lambda *_args: opencv_4_output)
    with pytest.raises(NotBatchableError, match=r"^Affine with OpenCV below 5"):
        compile_policy(policy)


def test_auto_uses_the_batched_version_and_albumentations_only_on_request() -> None:
    policy = default_policy(tiny.MEAN, tiny.STD)
    assert choose_backend("auto", policy).name == choose_backend("batched", policy).name == "batched"
    assert choose_backend("albumentations", policy).batched_policy is None
    assert check_backend("auto", None).to_dict() == choose_backend("auto", policy).to_dict()


def test_a_policy_file_is_compiled_transform_by_transform(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "transform:\n  __class_fullname__: Compose\n  transforms:\n"
        "  - {__class_fullname__: Affine, rotate: [-10, 10], p: 0.5}\n"
        "  - {__class_fullname__: CoarseDropout, num_holes_range: [1, 2], fill: 3}\n"
    )
    policy = load_policy(str(path), tiny.MEAN, tiny.STD)
    batched_policy = compile_policy(policy)
    assert [type(transform) for transform in batched_policy.transforms] == [Affine, CoarseDropout]
    black = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    images_NCHW = batched_policy(black, np.arange(2), seed=0, epoch=0)
    mean, std = policy_mean_std(policy)
    expected = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
    assert torch.allclose(images_NCHW.amin(dim=(0, 2, 3)), expected, atol=1e-6)
    assert augment_image(policy, black[0].numpy(), 0, 0, 0).shape == (32, 32, 3)
