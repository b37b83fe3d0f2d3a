"""Initial weights: whitening filters against a singular value decomposition, identity filters against their input."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scsuite.core.model.initialization import identity_init, whitening_init
from scsuite.core.model.network import ResNet3, build_model


def prep_filters(model: ResNet3) -> Tensor:
    weight: Tensor = model.state_dict()["prep.0.weight"]
    return weight


def correlated_images(num_images: int) -> Tensor:
    """Noise whose neighbouring pixels and channels are similar, as in photographs."""
    noise_NCHW = torch.randn(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mixing = torch.tensor([[1.0, 0.5, 0.2], [0.0, 0.8, 0.4], [0.1, 0.0, 0.6]])
    mixed_NCHW = torch.einsum("cd,ndhw->nchw", mixing, noise_NCHW)
    return functional.avg_pool2d(functional.pad(mixed_NCHW, (2, 2, 2, 2), mode="reflect"), 5, stride=1)


def extract_patches(images_NCHW: Tensor) -> NDArray[np.float64]:
    """All 3x3 patches, one per row, channel by channel."""
    windows = np.lib.stride_tricks.sliding_window_view(images_NCHW.double().numpy(), (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 27)


def changed_tensors(model: ResNet3, other: ResNet3) -> set[str]:
    others = other.state_dict()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, others[name])}


@pytest.mark.parametrize("width", [1.0, 54 / 64])
def test_whitening_filters_are_the_principal_components_with_both_signs(width: float) -> None:
    model, images_NCHW, num_whitening = build_model(width=width, seed=1), correlated_images(8), 54
    before = prep_filters(model).clone()
    whitening_init(model, images_NCHW)
    filters_FP = prep_filters(model).flatten(1).double().numpy()
    patches_NP = extract_patches(images_NCHW)
    _, _, components_CP = np.linalg.svd(patches_NP - patches_NP.mean(axis=0), full_matrices=False)
    norm = before.flatten(1).norm(dim=1).mean().item()
    for index, filter_P in enumerate(filters_FP[:num_whitening]):
        assert abs(filter_P @ components_CP[index // 2]) == pytest.approx(norm, rel=1e-5)
        assert np.linalg.norm(filter_P) == pytest.approx(norm, rel=1e-5)
    for index in range(1, num_whitening, 2):
        assert filters_FP[index] == pytest.approx(-filters_FP[index - 1])
    assert torch.equal(prep_filters(model)[num_whitening:], before[num_whitening:])


def test_responses_of_whitening_filters_are_uncorrelated() -> None:
    model, images_NCHW = build_model(seed=1), correlated_images(8)

    def max_correlation() -> float:
        """The largest correlation of two filters' responses to the images; one filter of each pair of signs."""
        filters = prep_filters(model)[:54:2].double()
        responses_FN = functional.conv2d(images_NCHW.double(), filters).transpose(0, 1).flatten(1)
        return torch.corrcoef(responses_FN).abs().fill_diagonal_(0).max().item()

    assert max_correlation() > 0.9
    whitening_init(model, images_NCHW)
    assert max_correlation() < 1e-3


def test_whitening_changes_no_other_weight_and_draws_no_random_numbers() -> None:
    model, original = build_model(seed=1), build_model(seed=1)
    random_state = torch.random.get_rng_state()
    whitening_init(model, correlated_images(2))
    assert torch.equal(random_state, torch.random.get_rng_state())
    assert changed_tensors(model, original) == {"prep.0.weight"}


def test_components_without_variance_are_omitted() -> None:
    model = build_model(seed=1)
    before, gray_NCHW = prep_filters(model).clone(), correlated_images(4)[:, :1].expand(-1, 3, -1, -1)
    whitening_init(model, gray_NCHW)
    filters = prep_filters(model)
    # Nine components, equal in all three channels; the others would respond to gray images by rounding errors only.
    assert torch.allclose(filters[:18], filters[:18].mean(dim=1, keepdim=True).expand(-1, 3, -1, -1), atol=1e-6)
    assert torch.equal(filters[18:], before[18:])
    assert functional.conv2d(gray_NCHW, filters).transpose(0, 1).flatten(1).std(dim=1).min() > 1e-3


def test_a_network_too_narrow_for_all_components_keeps_its_weights() -> None:
    model = build_model(width=53 / 64, seed=1)
    before = prep_filters(model).clone()
    whitening_init(model, correlated_images(4))
    assert torch.equal(prep_filters(model), before)


def test_images_of_one_color_leave_the_weights_unchanged() -> None:
    model = build_model(width=0.5, seed=1)
    before = prep_filters(model).clone()
    whitening_init(model, torch.ones(1, 3, 32, 32))
    assert torch.equal(prep_filters(model), before)


def test_identity_filters_return_their_input_and_no_other_weight_changes() -> None:
    model, original = build_model(width=0.05, seed=1), build_model(width=0.05, seed=1)
    identity_init(model)
    for name in ("layer1.x.0.weight", "layer2.0.weight", "layer3.x.0.weight"):
        weight, before = model.state_dict()[name], original.state_dict()[name]
        in_channels = weight.shape[1]
        features_NCHW = torch.randn(2, in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
        output_NCHW = functional.conv2d(features_NCHW, weight, padding=1)
        assert torch.allclose(output_NCHW[:, :in_channels], features_NCHW, atol=1e-6)
        assert torch.equal(weight[in_channels:], before[in_channels:])
    assert changed_tensors(model, original) == {"layer1.x.0.weight", "layer2.0.weight", "layer3.x.0.weight"}
