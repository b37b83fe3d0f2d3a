"""The network: forward pass, seeds, ghost batch norm, dropout, and the context managers that look into it."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.model.network import (
    GhostBatchNorm2d,
    KeyedDropout,
    ResNet3,
    build_model,
    capture_outputs,
    evaluation_mode,
)


def noise(num_images: int, seed: int = 0) -> Tensor:
    return torch.randn(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_classes", [2, 7, 100])
def test_the_head_follows_the_number_of_classes(num_classes: int) -> None:
    model = build_model(num_classes, width=0.05).eval()
    assert model(noise(2)).shape == (2, num_classes)
    assert model.fc.weight.shape == (num_classes, round(512 * 0.05))


def test_no_convolution_and_no_head_has_a_bias() -> None:
    layers = [m for m in build_model(width=0.05).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 9  # prep, 3 of layer1, layer2, 3 of layer3, fc
    assert all(layer.bias is None for layer in layers)


def reference_forward(weights: dict[str, Tensor], images_NCHW: Tensor) -> Tensor:
    """The assignment's network in eval mode, from its description: Conv > MaxPool2 > BN > ReLU, X + Res(X)."""

    def block(x: Tensor, name: str, norm: int, pool: bool) -> Tensor:
        x = functional.conv2d(x, weights[f"{name}.0.weight"], padding=1)
        x = functional.max_pool2d(x, 2) if pool else x
        mean, var = weights[f"{name}.{norm}.running_mean"], weights[f"{name}.{norm}.running_var"]
        scale, shift = weights[f"{name}.{norm}.weight"], weights[f"{name}.{norm}.bias"]
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * scale[:, None, None]
        return (x + shift[:, None, None]).clamp(min=0)

    def residual(x: Tensor, name: str) -> Tensor:
        x = block(x, f"{name}.x", 2, True)
        return x + block(block(x, f"{name}.res.0", 1, False), f"{name}.res.1", 1, False)

    x = residual(block(images_NCHW, "prep", 1, False), "layer1")
    x = residual(block(x, "layer2", 2, True), "layer3")
    return x.amax(dim=(2, 3)) @ weights["fc.weight"].T / 8  # an eighth: the scale of the logits


def test_the_forward_pass_is_the_assignments() -> None:
    model = build_model(5, width=0.1, seed=1)
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after a training: neither zeros nor ones
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    with torch.no_grad():
        expected_NK = reference_forward(model.state_dict(), noise(4))
        torch.testing.assert_close(model.eval()(noise(4)), expected_NK, rtol=1e-4, atol=1e-4)


def test_the_output_is_logits_not_probabilities() -> None:
    logits_NK = build_model(width=0.1, seed=0).eval()(noise(8))
    assert logits_NK.min() < 0  # no probability is negative
    assert not torch.allclose(logits_NK.sum(dim=1), torch.ones(8), atol=0.1)


@pytest.mark.parametrize("width", [0.1, 1.0])
def test_the_loss_starts_within_a_tenth_of_ln_10(width: float) -> None:
    labels_N = torch.arange(20) % 10
    for seed in range(4):
        with torch.no_grad():
            logits_NK = build_model(width=width, seed=seed).train()(noise(20, seed))
        assert abs(functional.cross_entropy(logits_NK, labels_N).item() - math.log(10)) < 0.1


def test_equal_seeds_give_equal_weights_and_different_seeds_different_ones() -> None:
    first, equal, different = (build_model(width=0.05, seed=seed).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(first[name], equal[name]) for name in first)
    assert not torch.equal(first["fc.weight"], different["fc.weight"])


def test_a_network_with_a_seed_leaves_every_random_state_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", cuda_seeds.append)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    build_model(width=0.05, seed=3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpy_state)
    assert cuda_seeds == []


def test_a_network_without_a_seed_uses_torchs_random_state() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first = build_model(width=0.05).fc.weight
        torch.manual_seed(5)
        assert torch.equal(first, build_model(width=0.05).fc.weight)
        assert not torch.equal(first, build_model(width=0.05).fc.weight)


def dropout_of_ones(p: float, seed: int, shape: tuple[int, ...] = (50, 200)) -> Tensor:
    layer = KeyedDropout(p).train()
    layer.reseed(seed, torch.device("cpu"))
    output: Tensor = layer(torch.ones(shape))
    return output


def test_dropout_is_the_identity_in_eval_mode_and_at_0() -> None:
    features = noise(2)
    assert torch.equal(KeyedDropout(0.5).eval()(features), features)
    assert torch.equal(KeyedDropout(0.0).train()(features), features)


def test_dropout_drops_a_fraction_p_and_keeps_the_expected_value() -> None:
    output = dropout_of_ones(0.2, seed=1, shape=(200_000,))
    assert sorted(set(output.tolist())) == pytest.approx([0, 1 / 0.8])
    # The fraction of 200,000 draws has a standard deviation of sqrt(0.2 * 0.8 / 200,000) = 0.0009; 5 of these.
    assert (output == 0).float().mean().item() == pytest.approx(0.2, abs=0.0045)
    assert output.mean().item() == pytest.approx(1.0, abs=0.0056)


def test_the_dropout_mask_depends_on_its_own_seed_and_not_on_torchs() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = dropout_of_ones(0.5, seed=4)
        torch.manual_seed(2)
        before = torch.get_rng_state()
        assert torch.equal(dropout_of_ones(0.5, seed=4), first)
        assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(dropout_of_ones(0.5, seed=5), first)


def test_dropout_acts_before_the_head_only() -> None:
    model = ResNet3(10, 0.05, dropout=0.5).train()
    model.dropout.reseed(0, torch.device("cpu"))
    with capture_outputs(model, ["pool", "dropout"]) as outputs:
        logits_NK = model(noise(16))
    mask = outputs["dropout"] != 0
    torch.testing.assert_close(outputs["dropout"][mask], 2 * outputs["pool"][mask])
    torch.testing.assert_close(logits_NK, outputs["dropout"] @ model.fc.weight.T / 8)
    assert 0.3 < mask.float().mean().item() < 0.7


def make_ghost_norm(num_channels: int, ghost_batch_size: int) -> GhostBatchNorm2d:
    layer = GhostBatchNorm2d(num_channels)
    layer.ghost_batch_size = ghost_batch_size
    return layer


def test_ghost_batch_norm_normalises_each_chunk_and_its_running_statistics_follow_as_fast() -> None:
    generator = torch.Generator().manual_seed(0)
    features_NCHW = torch.randn(96, 5, 4, 4, generator=generator) * 3 + torch.arange(96).view(-1, 1, 1, 1)
    ghost, plain = make_ghost_norm(5, 32), nn.BatchNorm2d(5)
    outputs = torch.split(ghost(features_NCHW), 32)
    for chunk, output in zip(torch.split(features_NCHW, 32), outputs, strict=True):
        assert torch.allclose(output, copy.deepcopy(plain)(chunk), atol=1e-5)
    assert torch.equal(ghost.eval()(features_NCHW), nn.BatchNorm2d.forward(ghost, features_NCHW))
    # Three chunks of the same images have one mean and variance, so the statistics are those of one plain step.
    ghost, plain = make_ghost_norm(5, 32), nn.BatchNorm2d(5)
    ghost(features_NCHW[:32].repeat(3, 1, 1, 1))
    plain(features_NCHW[:32])
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(ghost.state_dict()[name], tensor, rtol=1e-5), name


@pytest.mark.parametrize(
    ("num_images", "chunk_sizes"),
    [(31, [31]), (63, [63]), (64, [32, 32]), (100, [34, 33, 33]), (336, [34] * 6 + [33] * 4)],
)
def test_no_chunk_of_a_split_batch_is_smaller_than_the_ghost_batch(num_images: int, chunk_sizes: list[int]) -> None:
    features_NCHW = torch.randn(num_images, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    expected_NCHW = torch.cat([nn.BatchNorm2d(2)(chunk) for chunk in torch.split(features_NCHW, chunk_sizes)])
    assert torch.allclose(make_ghost_norm(2, 32)(features_NCHW), expected_NCHW, atol=1e-5)


def test_ghost_batch_norm_gives_the_gradients_of_its_chunks() -> None:
    model, plain = (build_model(3, width=0.05, seed=1, ghost_batch_size=size) for size in (4, 0))
    images_NCHW, labels_N = noise(8), torch.arange(8) % 3
    functional.cross_entropy(model(images_NCHW), labels_N).backward()  # type: ignore[no-untyped-call]
    loss = sum(functional.cross_entropy(plain(images_NCHW[i : i + 4]), labels_N[i : i + 4]) for i in (0, 4))
    (loss / 2).backward()  # type: ignore[union-attr]
    for (name, parameter), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(parameter.grad, expected.grad, atol=1e-5), name  # type: ignore[arg-type]
    assert [module.ghost_batch_size for module in model.modules() if isinstance(module, GhostBatchNorm2d)] == [4] * 8


def test_evaluation_mode_restores_each_modules_own_mode_also_after_an_error() -> None:
    model = build_model(width=0.05).train()
    model.layer2.eval()  # as after freezing a layer
    modes = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("names", [["layer1", "fc"], ["layer1", "layer4"]])
def test_hooks_that_capture_outputs_are_removed_also_after_an_error(names: list[str]) -> None:
    model = build_model(width=0.05, seed=0).eval()
    with pytest.raises((ZeroDivisionError, AttributeError)), capture_outputs(model, names) as outputs:  # no layer4
        logits_NK = model(noise(2))
        assert torch.equal(outputs["fc"] / 8, logits_NK)
        assert list(outputs) == names
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())
