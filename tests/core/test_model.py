"""The network: its layers, shapes and counts as design.md has them, its start, and what it gives back."""

import copy
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.model import Dropout, GhostBatchNorm2d, ResNet3, build_model, model_summary, identity_init, whitening_init

# Each stage's output shape, and its parameters: 9 * in * out of a convolution, 2 * out of its BatchNorm.
STAGES = {
    "prep": ((64, 32, 32), 9 * 3 * 64 + 2 * 64),
    "layer1.x": ((128, 16, 16), 9 * 64 * 128 + 2 * 128),
    "layer1.res": ((128, 16, 16), 2 * (9 * 128 * 128 + 2 * 128)),
    "layer2": ((256, 8, 8), 9 * 128 * 256 + 2 * 256),
    "layer3.x": ((512, 4, 4), 9 * 256 * 512 + 2 * 512),
    "layer3.res": ((512, 4, 4), 2 * (9 * 512 * 512 + 2 * 512)),
    "pool": ((512,), 0),
    "fc": ((10,), 512 * 10),
}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def noise(num_images: int, seed: int = 0) -> Tensor:
    return torch.randn(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_the_network_of_ten_classes_has_6573120_parameters() -> None:
    assert count(build_model()) == 6_573_120
    assert sum(parameters for _, parameters in STAGES.values()) == 6_573_120


def test_every_stage_has_the_shape_and_the_parameters_of_the_design() -> None:
    rows = model_summary(build_model())
    assert {row.name: (row.shape, row.num_parameters) for row in rows} == STAGES
    assert [row.name for row in rows] == list(STAGES)
    assert rows[1].operations == "Conv3x3 > MaxPool2 > BN > ReLU"
    assert rows[2].operations == "Conv3x3 > BN > ReLU > Conv3x3 > BN > ReLU"


@pytest.mark.parametrize("num_classes", [2, 7, 100])
def test_the_head_follows_the_number_of_classes(num_classes: int) -> None:
    model = build_model(num_classes, width=0.05).eval()
    assert model(noise(2)).shape == (2, num_classes)
    assert model.fc.weight.shape == (num_classes, round(512 * 0.05))


def test_no_convolution_and_no_head_has_a_bias() -> None:
    layers = [m for m in build_model(width=0.05).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 9  # prep, 3 of layer1, layer2, 3 of layer3, fc
    assert all(layer.bias is None for layer in layers)


@pytest.mark.parametrize(("width", "channels"), [(0.5, (32, 64, 128, 256)), (0.1, (6, 13, 26, 51)), (1e-4, (1,) * 4)])
def test_width_scales_the_channels_and_keeps_one_at_least(width: float, channels: tuple[int, ...]) -> None:
    shapes = {row.name: row.shape for row in model_summary(build_model(width=width))}
    assert tuple(shapes[name][0] for name in ("prep", "layer1.x", "layer2", "layer3.x")) == channels


def written_out(weights: dict[str, Tensor], images: Tensor) -> Tensor:
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

    x = residual(block(images, "prep", 1, False), "layer1")
    x = residual(block(x, "layer2", 2, True), "layer3")
    return x.amax(dim=(2, 3)) @ weights["fc.weight"].T / 8  # an eighth: the scale of the logits


def test_the_forward_pass_is_the_assignments_written_out() -> None:
    model = build_model(5, width=0.1, seed=1)
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after a training: neither zeros nor ones
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(noise(4)), written_out(model.state_dict(), noise(4)), rtol=1e-4, atol=1e-4
        )


def test_it_answers_with_logits_not_with_probabilities() -> None:
    logits = build_model(width=0.1, seed=0).eval()(noise(8))
    assert logits.min() < 0  # no probability is
    assert not torch.allclose(logits.sum(dim=1), torch.ones(8), atol=0.1)


@pytest.mark.parametrize("width", [0.1, 1.0])
def test_the_loss_starts_within_a_tenth_of_ln_10(width: float) -> None:
    labels = torch.arange(20) % 10
    for seed in range(4):
        with torch.no_grad():
            logits = build_model(width=width, seed=seed).train()(noise(20, seed))
        assert abs(functional.cross_entropy(logits, labels).item() - math.log(10)) < 0.1


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    one, same, other = (build_model(width=0.05, seed=seed).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_a_seeded_network_leaves_every_random_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    build_model(width=0.05, seed=3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpy_state)
    assert seeded == []  # not the accelerators' either


def test_a_network_without_a_seed_follows_torchs_own() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        one = build_model(width=0.05).fc.weight
        torch.manual_seed(5)
        assert torch.equal(one, build_model(width=0.05).fc.weight)
        assert not torch.equal(one, build_model(width=0.05).fc.weight)


def test_the_layer_table_gives_back_every_mode_and_leaves_no_hook_and_no_trace_in_the_statistics() -> None:
    model = build_model(width=0.05)
    model.train()
    model.layer2.eval()  # as someone who freezes a layer has it
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model_summary(model)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def dropped(share: float, seed: int, shape: tuple[int, ...] = (50, 200)) -> Tensor:
    layer = Dropout(share).train()
    layer.reseed(seed, torch.device("cpu"))
    out: Tensor = layer(torch.ones(shape))
    return out


def test_dropout_is_the_identity_in_eval_mode_and_at_0() -> None:
    features = noise(2)
    assert torch.equal(Dropout(0.5).eval()(features), features)
    assert torch.equal(Dropout(0.0).train()(features), features)


def test_dropout_drops_its_share_and_keeps_the_expected_value() -> None:
    out = dropped(0.2, seed=1, shape=(200_000,))
    assert sorted(set(out.tolist())) == pytest.approx([0, 1 / 0.8])
    # The share of 200,000 draws has a standard deviation of sqrt(0.2 * 0.8 / 200,000) = 0.0009; 5 of these.
    assert (out == 0).float().mean().item() == pytest.approx(0.2, abs=0.0045)
    assert out.mean().item() == pytest.approx(1.0, abs=0.0056)


def test_dropouts_mask_follows_its_own_seed_and_not_torchs() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = dropped(0.5, seed=4)
        torch.manual_seed(2)
        before = torch.get_rng_state()
        assert torch.equal(dropped(0.5, seed=4), one)
        assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(dropped(0.5, seed=5), one)


def test_dropout_acts_before_the_head_only() -> None:
    model = ResNet3(10, 0.05, dropout=0.5).train()
    model.dropout.reseed(0, torch.device("cpu"))
    seen = []
    model.fc.register_forward_hook(lambda _module, args, _out: seen.append(args[0]))
    model.pool.register_forward_hook(lambda _module, _args, out: seen.append(out))
    model(noise(16))
    pooled, entered = seen
    kept = entered != 0
    torch.testing.assert_close(entered[kept], 2 * pooled[kept])
    assert 0.3 < kept.float().mean().item() < 0.7


def filters_of(model: ResNet3) -> Tensor:
    weight: Tensor = model.state_dict()["prep.0.weight"]
    return weight


def correlated(num_images: int) -> Tensor:
    """Noise whose neighbours and channels are alike, as those of photographs are."""
    mixing = torch.tensor([[1.0, 0.5, 0.2], [0.0, 0.8, 0.4], [0.1, 0.0, 0.6]])
    mixed = torch.einsum("cd,ndhw->nchw", mixing, noise(num_images))
    return functional.avg_pool2d(functional.pad(mixed, (2, 2, 2, 2), mode="reflect"), 5, stride=1)


def patches_of(images_NCHW: Tensor) -> NDArray[np.float64]:
    """All 3x3 patches, a row each, channel by channel."""
    windows = np.lib.stride_tricks.sliding_window_view(images_NCHW.double().numpy(), (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 27)


@pytest.mark.parametrize("width", [1.0, 54 / 64])
def test_whitened_filters_are_the_principal_components_with_both_signs(width: float) -> None:
    model, images_NCHW, num_whitened = build_model(width=width, seed=1), correlated(8), 54
    before = filters_of(model).clone()
    whitening_init(model, images_NCHW)
    filters_FP = filters_of(model).flatten(1).double().numpy()
    patches_NP = patches_of(images_NCHW)
    _, _, components_CP = np.linalg.svd(patches_NP - patches_NP.mean(axis=0), full_matrices=False)
    length = before.flatten(1).norm(dim=1).mean().item()
    for index, filter_P in enumerate(filters_FP[:num_whitened]):
        assert abs(filter_P @ components_CP[index // 2]) == pytest.approx(length, rel=1e-5)
        assert np.linalg.norm(filter_P) == pytest.approx(length, rel=1e-5)
    for index in range(1, num_whitened, 2):
        assert filters_FP[index] == pytest.approx(-filters_FP[index - 1])
    assert torch.equal(filters_of(model)[num_whitened:], before[num_whitened:])


def test_whitened_responses_are_uncorrelated() -> None:
    model, images_NCHW = build_model(seed=1), correlated(8)

    def correlation() -> float:
        """The largest of two responses to the images, one of each pair of signs."""
        filters = filters_of(model)[:54:2].double()
        responses_FN = functional.conv2d(images_NCHW.double(), filters).transpose(0, 1).flatten(1)
        return torch.corrcoef(responses_FN).abs().fill_diagonal_(0).max().item()

    assert correlation() > 0.9
    whitening_init(model, images_NCHW)
    assert correlation() < 1e-3


def test_whitening_moves_no_other_weight_and_draws_nothing() -> None:
    one, other = build_model(seed=1), build_model(seed=1)
    state = torch.random.get_rng_state()
    whitening_init(one, correlated(2))
    assert torch.equal(state, torch.random.get_rng_state())
    differ = {name for name, tensor in one.state_dict().items() if not torch.equal(tensor, other.state_dict()[name])}
    assert differ == {"prep.0.weight"}


def test_what_pictures_do_not_vary_in_is_not_looked_for() -> None:
    model = build_model(seed=1)
    before, grey_NCHW = filters_of(model).clone(), correlated(4)[:, :1].expand(-1, 3, -1, -1)
    whitening_init(model, grey_NCHW)
    filters = filters_of(model)
    # Nine components, the same of all three colours; the rest would answer grey pictures by rounding alone.
    assert torch.allclose(filters[:18], filters[:18].mean(dim=1, keepdim=True).expand(-1, 3, -1, -1), atol=1e-6)
    assert torch.equal(filters[18:], before[18:])
    assert functional.conv2d(grey_NCHW, filters).transpose(0, 1).flatten(1).std(dim=1).min() > 1e-3


def test_a_network_too_narrow_for_all_components_keeps_its_weights() -> None:
    model = build_model(width=53 / 64, seed=1)
    before = filters_of(model).clone()
    whitening_init(model, correlated(4))
    assert torch.equal(filters_of(model), before)


def test_images_of_one_colour_leave_the_weights_as_they_are() -> None:
    model = build_model(width=0.5, seed=1)
    before = filters_of(model).clone()
    whitening_init(model, torch.ones(1, 3, 32, 32))
    assert torch.equal(filters_of(model), before)


def test_ghost_batch_norm_norms_each_part_as_batch_norm_does_and_follows_all_as_fast() -> None:
    generator = torch.Generator().manual_seed(0)
    features_NCHW = torch.randn(96, 5, 4, 4, generator=generator) * 3 + torch.arange(96).view(-1, 1, 1, 1)
    ghost, plain = GhostBatchNorm2d(5), nn.BatchNorm2d(5)
    ghost.ghost_batch_size = 32
    for part, normed in zip(torch.split(features_NCHW, 32), torch.split(ghost(features_NCHW), 32), strict=True):
        assert torch.allclose(normed, copy.deepcopy(plain)(part), atol=1e-5)
    assert torch.equal(ghost.eval()(features_NCHW), nn.BatchNorm2d.forward(ghost, features_NCHW))
    # Of the same images thrice over batch norm sees one mean and variance, whatever the parts.
    ghost, plain = GhostBatchNorm2d(5), nn.BatchNorm2d(5)
    ghost.ghost_batch_size = 32
    ghost(features_NCHW[:32].repeat(3, 1, 1, 1))
    plain(features_NCHW[:32])
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(ghost.state_dict()[name], tensor, rtol=1e-5), name


@pytest.mark.parametrize(
    ("num_images", "parts"),
    [(31, [31]), (63, [63]), (64, [32, 32]), (100, [34, 33, 33]), (336, [34] * 6 + [33] * 4)],
)
def test_no_part_of_a_batch_is_smaller_than_the_ghost_batch_where_the_batch_can_be_parted(
    num_images: int, parts: list[int]
) -> None:
    ghost = GhostBatchNorm2d(2)
    ghost.ghost_batch_size = 32
    features_NCHW = torch.randn(num_images, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    expected_NCHW = torch.cat([nn.BatchNorm2d(2)(part) for part in torch.split(features_NCHW, parts)])
    assert torch.allclose(ghost(features_NCHW), expected_NCHW, atol=1e-5)


def test_ghost_batch_norm_gives_the_gradients_of_its_parts() -> None:
    model, written = (build_model(3, width=0.05, seed=1, ghost_batch_size=size) for size in (4, 0))
    images_NCHW, labels_N = noise(8), torch.arange(8) % 3
    functional.cross_entropy(model(images_NCHW), labels_N).backward()  # type: ignore[no-untyped-call]
    loss = sum(functional.cross_entropy(written(images_NCHW[i : i + 4]), labels_N[i : i + 4]) for i in (0, 4))
    (loss / 2).backward()  # type: ignore[union-attr]
    for (name, one), other in zip(model.named_parameters(), written.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5), name  # type: ignore[arg-type]
    assert [module.ghost_batch_size for module in model.modules() if isinstance(module, GhostBatchNorm2d)] == [4] * 8


def test_layers_that_begin_with_identities_pass_on_what_they_are_given() -> None:
    model, plain = build_model(width=0.05, seed=1), build_model(width=0.05, seed=1)
    identity_init(model)
    for name in ("layer1.x.0.weight", "layer2.0.weight", "layer3.x.0.weight"):
        weight, before = model.state_dict()[name], plain.state_dict()[name]
        features_NCHW = torch.randn(2, weight.shape[1], 8, 8, generator=torch.Generator().manual_seed(0))
        passed_NCHW = functional.conv2d(features_NCHW, weight, padding=1)
        assert torch.allclose(passed_NCHW[:, : weight.shape[1]], features_NCHW, atol=1e-6)
        assert torch.equal(weight[weight.shape[1] :], before[weight.shape[1] :])
    differ = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, plain.state_dict()[name])}
    assert differ == {"layer1.x.0.weight", "layer2.0.weight", "layer3.x.0.weight"}
