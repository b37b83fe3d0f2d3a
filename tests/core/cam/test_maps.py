"""Heatmaps against formulas written with loops, a closed form and another package; the model is left unchanged."""

import copy
import gc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scsuite.core.cam import cam_layer_shapes, grad_cam, maps, paste_map
from scsuite.core.cam.maps import resolve_layers
from scsuite.core.config import CAM_METHODS, GradcamConfig
from scsuite.core.errors import UsageError
from scsuite.core.model.network import ResNet3, build_model

Map = NDArray[np.float64]
LAYERS = ["layer3", "layer2", "layer1.res", "prep"]
NUM_CLASSES = 4


def images(num_images: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(num_images, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> ResNet3:
    """Statistics and scales as after some training, so that gradients are neither tiny nor all of one sign."""
    network = build_model(NUM_CLASSES, width=0.08, seed=3)
    network.train()(images(32, seed=9))
    with torch.no_grad():
        network.fc.weight *= 100
    return network.eval()


CLASSES = [0, 1, 2, 3, 0, 2]


def activations_and_gradients(model: ResNet3, image: Tensor, class_index: int, layer: str) -> tuple[Map, Map]:
    """Those of one image: split the network at the layer, and differentiate its second half."""
    stages: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("prep", model.prep),
        ("layer1.x", model.layer1.x),
        ("layer1.res", model.layer1.res),
        ("layer2", model.layer2),
        ("layer3", model.layer3),
    ]
    features, outputs = image[None], {}
    for name, stage in stages:
        outputs[name] = stage(features)
        features = features + outputs[name] if name == "layer1.res" else outputs[name]
    activations = outputs[layer].detach().requires_grad_()
    features = activations
    after_layer = False
    for name, stage in stages:
        if after_layer:
            features = features + stage(features) if name == "layer1.res" else stage(features)
        elif name == layer:
            after_layer = True
            if layer == "layer1.res":
                features = outputs["layer1.x"].detach() + activations
    score = (features.amax(dim=(2, 3)) @ model.fc.weight.T / 8)[0, class_index]
    (gradients,) = torch.autograd.grad(score, activations)
    return activations.detach()[0].double().numpy(), gradients[0].double().numpy()


def formula(method: str, a: Map, g: Map) -> Map:
    """The sums of the papers, one channel and one pixel at a time."""
    channels, height, width = a.shape
    pixels = [(i, j) for i in range(height) for j in range(width)]
    out = np.zeros((height, width))
    for c in range(channels):
        if method == "gradcam":
            weight = sum(g[c, i, j] for i, j in pixels) / len(pixels)
        elif method == "xgradcam":
            total = sum(a[c, i, j] for i, j in pixels) + 1e-7
            weight = sum(a[c, i, j] * g[c, i, j] for i, j in pixels) / total
        elif method == "gradcam++":
            total, weight = sum(a[c, i, j] for i, j in pixels), 0.0
            for i, j in pixels:
                denominator = 2 * g[c, i, j] ** 2 + total * g[c, i, j] ** 3 + 1e-6
                weight += g[c, i, j] ** 2 / denominator * max(g[c, i, j], 0)
        for i, j in pixels:
            if method == "hirescam":
                weight = g[c, i, j]
            elif method == "layercam":
                weight = max(g[c, i, j], 0)
            out[i, j] += weight * a[c, i, j]
    return np.maximum(out, 0)


def bilinear(small: Map, size: int = 32) -> Map:
    """Interpolate between the centers of the small map's pixels; outside of them the nearest value is used."""
    num = len(small)
    weights = np.zeros((size, num))
    for pixel in range(size):
        center = min(max((pixel + 0.5) * num / size - 0.5, 0), num - 1)
        low = min(math.floor(center), num - 1)
        weights[pixel, low] += 1 - (center - low)
        weights[pixel, min(low + 1, num - 1)] += center - low
    return np.asarray(weights @ small @ weights.T)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", CAM_METHODS)
def test_each_map_is_the_formula_of_its_paper(model: ResNet3, method: str, layer: str) -> None:
    num = 2 if layer == "prep" else 6  # loops over 32 x 32 pixels are slow
    ours = grad_cam(model, images()[:num], CLASSES[:num], method=method, layer=layer).numpy()
    max_evidence = 0.0
    for image, class_index, heatmap in zip(images(), CLASSES, ours, strict=False):
        a, g = activations_and_gradients(model, image, class_index, layer)
        expected = bilinear(formula(method, a, g))
        max_evidence = max(max_evidence, float(expected.max()))
        assert np.abs(heatmap - expected).max() <= 1e-3 * expected.max() + 1e-8
    assert max_evidence > 1e-5  # not a comparison of zeros


PACKAGE_NAMES = {
    "gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "hirescam": "HiResCAM", "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
}  # fmt: skip


@pytest.mark.parametrize("layer", ["layer3", "layer2", "layer1", "layer1.res", "prep"])
@pytest.mark.parametrize("method", CAM_METHODS)
def test_each_map_is_equal_to_the_grad_cam_packages(model: ResNet3, method: str, layer: str) -> None:
    import cv2
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = copy.deepcopy(model)
    with torch.no_grad():
        model.fc.weight *= 10  # otherwise all maps of the first layers are below 1e-3
    module, images_NCHW, classes = model.get_submodule(layer), images(16), (CLASSES * 3)[:16]
    with getattr(pytorch_grad_cam, PACKAGE_NAMES[method])(model, [module]) as cam:
        cam(images_NCHW, [ClassifierOutputTarget(k) for k in classes])
        recorded = cam.activations_and_grads
        # The maps before the package scales them to [0, 1], enlarged as the package enlarges them.
        arguments = (images_NCHW, module, classes, recorded.activations[0].numpy(), recorded.gradients[0].numpy())
        small_NHW = cam.get_cam_image(*arguments, eigen_smooth=False)
    expected_NHW = np.stack([cv2.resize(small_HW, (32, 32)) for small_HW in np.maximum(small_NHW, 0)])
    ours = grad_cam(model, images_NCHW, classes, method=method, layer=layer).numpy()
    strong_N = expected_NHW.max(axis=(1, 2)) > 1e-3
    assert strong_N.sum() >= 4
    np.testing.assert_allclose(ours[strong_N], expected_NHW[strong_N], atol=1e-5, rtol=0)


def test_the_methods_differ(model: ResNet3) -> None:
    maps = [grad_cam(model, images(), CLASSES, method=method, layer="layer2") for method in CAM_METHODS]
    assert all(not torch.allclose(a, b, rtol=1e-3) for i, a in enumerate(maps) for b in maps[:i])


def averaging_network() -> nn.Sequential:
    """A network whose logits are a linear function of channel averages."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 7, 3, stride=4, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 5)
        )


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])
def test_over_an_average_and_a_linear_head_the_map_is_the_class_activation_map(method: str) -> None:
    # Zhou et al., https://arxiv.org/abs/1512.04150: sum_c w_kc A_c; its gradient has the factor 1 / (8 * 8).
    network = averaging_network()
    classes = [4, 0, 2]
    with torch.no_grad():
        activations = network[:2](images(3))
        weights = next(network[4].parameters())[classes]
        expected = torch.einsum("nc,nchw->nhw", weights, activations).clamp(min=0).numpy() / 64
    ours = grad_cam(network, images(3), classes, method=method, layer="1").numpy()
    for heatmap, small in zip(ours, expected, strict=True):
        np.testing.assert_allclose(heatmap, bilinear(small), atol=1e-6)


@pytest.mark.parametrize("method", CAM_METHODS)
def test_maps_have_the_images_size_are_finite_and_not_negative(model: ResNet3, method: str) -> None:
    heatmaps = grad_cam(model, images(), CLASSES, method=method)
    assert (heatmaps.shape, heatmaps.dtype, heatmaps.device.type) == ((6, 32, 32), torch.float32, "cpu")
    assert torch.isfinite(heatmaps).all()
    assert heatmaps.min() >= 0
    assert not heatmaps.requires_grad


@pytest.mark.parametrize("method", CAM_METHODS)
def test_a_class_with_only_negative_evidence_has_a_map_of_zeros(method: str) -> None:
    network = build_model(NUM_CLASSES, width=0.05, seed=0).eval()
    with torch.no_grad():
        network.fc.weight[1] = -0.5  # layer3 ends in sums of ReLUs, so every activation is evidence against class 1
    assert torch.equal(grad_cam(network, images(), [1] * 6, method=method, layer="layer3"), torch.zeros(6, 32, 32))


@pytest.mark.parametrize("method", CAM_METHODS)
def test_dead_activations_give_zeros_not_nan(method: str) -> None:
    network = averaging_network()
    with torch.no_grad():
        weight, bias = network[0].parameters()
        weight.zero_()
        bias.fill_(-1.0)
    assert torch.equal(grad_cam(network, images(2), [0, 1], method=method, layer="1"), torch.zeros(2, 32, 32))


@pytest.mark.parametrize("method", CAM_METHODS)
def test_the_batch_size_changes_no_map(model: ResNet3, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = grad_cam(model, images(), CLASSES, method=method)
    monkeypatch.setattr(maps, "CAM_BATCH", 4)
    torch.testing.assert_close(grad_cam(model, images(), CLASSES, method=method), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", CAM_METHODS)
def test_the_images_of_a_batch_do_not_influence_each_other(model: ResNet3, method: str) -> None:
    expected = grad_cam(model, images(), CLASSES, method=method)
    single = [grad_cam(model, images()[i : i + 1], CLASSES[i : i + 1], method=method) for i in range(6)]
    torch.testing.assert_close(torch.cat(single), expected, rtol=1e-4, atol=1e-6)
    others = images()
    others[3:] = 7 * images(3, seed=1)
    assert torch.equal(grad_cam(model, others, [0, 1, 2, 1, 1, 1], method=method)[:3], expected[:3])


def bytes_alive() -> int:
    """The memory of all tensors, each storage once; without the fake ones that torch.export leaves, which have none."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) in (Tensor, nn.Parameter)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_memory_is_that_of_one_batch_for_any_number_of_images(model: ResNet3, monkeypatch: pytest.MonkeyPatch) -> None:
    num_bytes: list[int] = []
    monkeypatch.setattr(maps, "CAM_BATCH", 4)
    handle = model.prep.register_forward_pre_hook(lambda _module, _args: num_bytes.append(bytes_alive()))
    images_NCHW, before = images(20), bytes_alive()
    heatmaps_NHW = grad_cam(model, images_NCHW, [0] * 20)
    handle.remove()
    # Only the maps of a batch, 4 bytes a pixel, remain for the next one; at the end, only the result does.
    assert np.diff(num_bytes[1:]).tolist() == [4 * 32 * 32 * 4] * 3
    assert bytes_alive() - before == pytest.approx(heatmaps_NHW.nbytes, abs=1000)


def test_averaged_layers_count_by_their_shape_not_by_their_scale(model: ResNet3) -> None:
    def heatmaps(layer: str) -> Tensor:
        return grad_cam(model, images(), CLASSES, layer=layer, method="layercam")

    layer2, layer3 = heatmaps("layer2"), heatmaps("layer3")
    max2, max3 = (layer.amax(dim=(1, 2), keepdim=True) for layer in (layer2, layer3))
    assert (max2 > 0).all()
    assert (max3 > 0).all()
    expected = (layer2 / max2 + layer3 / max3) / 2 * (max2 + max3) / 2
    torch.testing.assert_close(heatmaps("layer2,layer3"), expected)
    assert torch.equal(heatmaps("layer2,layer2"), layer2)


def test_the_layers_with_a_map_are_listed_in_order_with_their_shapes(model: ResNet3) -> None:
    before = state(model)
    shapes = cam_layer_shapes(model, images(1))
    assert [name for name in shapes if "." not in name] == ["prep", "layer1", "layer2", "layer3"]
    assert shapes["layer1.res"] == (10, 16, 16)  # width 0.08 of 128 channels, after one pooling
    assert not any(name.startswith(("pool", "fc")) for name in shapes)
    for name in shapes:
        grad_cam(model, images(1), [0], layer=name)
    assert state(model) == before


@pytest.mark.parametrize(("height", "width", "top", "left"), [(64, 128, 0, 32), (128, 64, 32, 0), (64, 64, 0, 0)])
def test_a_map_is_pasted_on_the_center_square_of_its_image(height: int, width: int, top: int, left: int) -> None:
    pasted = paste_map(torch.ones(32, 32), height, width)
    expected = torch.zeros(height, width)
    expected[top : top + 64, left : left + 64] = 1
    assert torch.equal(pasted, expected)
    marked = torch.zeros(32, 32)
    marked[8, 24] = 1
    row, column = divmod(int(paste_map(marked, height, width).argmax()), width)
    assert (row - top, column - left) in [(i, j) for i in (16, 17) for j in (48, 49)]


@pytest.mark.parametrize(("height", "width"), [(64, 128), (128, 64)])
def test_a_map_lies_on_what_the_network_saw_under_each_fit(height: int, width: int) -> None:
    marked = torch.zeros(32, 32)
    marked[12, 20] = 1  # of 32 x 32; by fit pad, the image fills the middle half
    for fit, row, column in (
        ("stretch", 12.5 * height / 32, 20.5 * width / 32),
        ("pad", (12.5 - 16) * 4 + height / 2, (20.5 - 16) * 4 + width / 2),  # 4 pixels of the image are one of 32
    ):
        pasted = paste_map(marked, height, width, fit)
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        center = [float((pasted * positions).sum() / pasted.sum()) for positions in (rows, columns)]
        assert center == pytest.approx([row, column], abs=0.5)
    assert torch.equal(paste_map(torch.ones(32, 32), height, width, "pad"), torch.ones(height, width))


def test_the_defaults_are_those_of_command_and_network_and_classes_may_be_a_tensor(model: ResNet3) -> None:
    expected = grad_cam(model, images(), CLASSES, layer=model.cam_layer, method=GradcamConfig(ckpt="x").method)
    for dtype in (torch.int64, torch.int32):
        assert torch.equal(grad_cam(model, images(), torch.tensor(CLASSES, dtype=dtype)), expected)


def test_the_class_matters(model: ResNet3) -> None:
    class_0, class_1 = (grad_cam(model, images(), [k] * 6) for k in (0, 1))
    assert not torch.allclose(class_0, class_1, rtol=1e-2)


def state(model: nn.Module) -> dict[str, Any]:
    return {
        "modes": [module.training for module in model.modules()],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "tensors": [tensor.tolist() for tensor in model.state_dict().values()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "random": torch.get_rng_state().tolist(),
        "gradient mode": torch.is_grad_enabled(),
    }


def used_network() -> ResNet3:
    """In mixed modes, with gradients, frozen weights and a hook of the caller."""
    network = build_model(NUM_CLASSES, width=0.05, dropout=0.3, seed=1).train()
    network.layer2.eval()
    network.prep.requires_grad_(False)
    network.fc.weight.grad = torch.full_like(network.fc.weight, 2.0)
    network.layer3.register_forward_hook(lambda _module, _args, _out: None)
    return network


@pytest.mark.parametrize(
    ("classes", "arguments"),
    [
        ([0, 1], {}),
        ([0, 1], {"layer": "prep"}),
        ([0, NUM_CLASSES], {}),  # fails after the forward pass
        ([0, 1], {"layer": "fc"}),  # fails with the hook in place
        ([0, 1], {"method": "nonsense"}),
    ],
)
def test_the_model_is_left_unchanged_also_after_an_error(classes: list[int], arguments: dict[str, str]) -> None:
    network, images_NCHW = used_network(), images(2)
    before = state(network)
    if arguments in ({}, {"layer": "prep"}) and max(classes) < NUM_CLASSES:
        grad_cam(network, images_NCHW, classes, **arguments)
    else:
        with pytest.raises(UsageError):
            grad_cam(network, images_NCHW, classes, **arguments)
    assert state(network) == before
    assert not images_NCHW.requires_grad
    assert torch.equal(images_NCHW, images(2))


def test_the_model_is_left_unchanged_after_an_error_of_its_own() -> None:
    network = used_network()
    handle = network.fc.register_forward_pre_hook(lambda _module, _args: 1 / 0)
    before = state(network)
    with pytest.raises(ZeroDivisionError):
        grad_cam(network, images(2), [0, 1])
    assert state(network) == before
    handle.remove()


def test_it_works_without_gradient_mode_and_on_a_frozen_network(model: ResNet3) -> None:
    expected = grad_cam(model, images(), CLASSES)
    frozen = build_model(NUM_CLASSES, width=0.08)
    frozen.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(grad_cam(frozen.requires_grad_(False), images(), CLASSES), expected)


@pytest.mark.parametrize(
    ("arguments", "flag", "hint"),
    [
        ({"method": "grad-cam"}, "--method", "Did you mean gradcam?"),
        ({"method": "xyz"}, "--method", "Choose one of these."),
        ({"layer": "layer4"}, "--layer", "Did you mean layer"),
        ({"layer": "layer3,layer4"}, "--layer", "Did you mean layer"),
        ({"layer": "layer3,"}, "--layer", "Choose one of these."),
        ({"layer": "layer3,fc"}, "--layer", "Choose a convolution or a block of them."),
        ({"layer": "Layer3"}, "--layer", "Did you mean layer3?"),
        ({"layer": "fc"}, "--layer", "Choose a convolution or a block of them."),
        ({"layer": "pool"}, "--layer", "Choose a convolution or a block of them."),
        ({"layer": "pool.0"}, "--layer", "Choose a convolution or a block of them."),  # one pixel has no position
    ],
)
def test_unknown_methods_and_layers_are_usage_errors_with_a_hint(
    model: ResNet3, arguments: dict[str, str], flag: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        grad_cam(model, images(2), [0, 1], **arguments)
    assert caught.value.where == flag
    assert caught.value.hint.startswith(hint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("classes", "found"), [([0, 4], "found 4"), ([-1, 0], "found -1"), ([-7, 99], "found -7")])
def test_a_class_that_the_network_does_not_have_is_a_usage_error(
    model: ResNet3, classes: list[int], found: str
) -> None:
    with pytest.raises(UsageError, match=f"expected a class from 0 to 3, {found}"):
        grad_cam(model, images(2), classes)


def test_every_image_needs_a_class(model: ResNet3) -> None:
    with pytest.raises(UsageError, match="one class for each of 3 images"):
        grad_cam(model, images(3), [0, 1])


class SplitOutput(nn.Module):
    """A layer with two outputs, which has no map."""

    def forward(self, features_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        return features_NCHW, features_NCHW


class OwnNetwork(nn.Module):
    """A block, a layer with two outputs, a convolution of one pixel, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.Tanh())
        self.split, self.pool = SplitOutput(), nn.AvgPool2d(3)
        self.last, self.fc = nn.Conv2d(6, 8, 5), nn.Linear(8, NUM_CLASSES)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        features, _ = self.split(self.block(images_NCHW))
        logits_NK: Tensor = self.fc(self.last(self.pool(features)).flatten(1))
        return logits_NK


def test_a_network_without_a_default_layer_has_the_maps_of_its_last_block_with_a_convolution() -> None:
    network = OwnNetwork()
    before = state(network)
    maps_NHW = grad_cam(network, images(3), [0, 1, 2])
    assert torch.equal(maps_NHW, grad_cam(network, images(3), [0, 1, 2], layer="block"))
    assert not torch.equal(maps_NHW, grad_cam(network, images(3), [0, 1, 2], layer="block.0"))
    assert state(network) == before


def test_a_network_without_a_convolution_needs_a_layer() -> None:
    with pytest.raises(UsageError, match=r"--layer: expected a convolution .* found none in Sequential"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), images(1), [0])


def test_a_map_of_one_row_or_one_column_has_positions_and_one_of_a_single_pixel_has_none() -> None:
    class Pools(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.column, self.row = nn.AvgPool2d((8, 32)), nn.AvgPool2d((32, 8))
            self.pixel = nn.AvgPool2d(32)

        def forward(self, images_NCHW: Tensor) -> Tensor:
            column, row, pixel = self.column(images_NCHW), self.row(images_NCHW), self.pixel(images_NCHW)
            sums_NC: Tensor = column.sum(dim=(2, 3)) + row.sum(dim=(2, 3)) + pixel.sum(dim=(2, 3))
            return sums_NC

    network = nn.Sequential(Pools(), nn.Linear(3, 4))
    network(images(1))  # it has no convolution, so that only the names are listed
    shapes = cam_layer_shapes(network, images(1))
    assert {name: shape for name, shape in shapes.items() if "." in name} == {"0.column": (3, 4, 1), "0.row": (3, 1, 4)}


def test_the_model_computes_in_the_dtype_of_its_weights(model: ResNet3) -> None:
    double = copy.deepcopy(model).double()
    expected = grad_cam(model, images(2), [0, 1])
    assert torch.allclose(grad_cam(double, images(2), [0, 1]).float(), expected, atol=1e-5)


def test_without_a_layer_of_its_own_a_network_needs_a_name() -> None:
    with pytest.raises(UsageError, match="--layer: expected one of 0, 1, found ''"):
        resolve_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), None)
    assert resolve_layers(build_model(width=0.05), None) == ["layer2"]
    assert resolve_layers(build_model(width=0.05), "layer3,prep,layer3") == ["layer3", "prep"]


def test_a_layer_without_evidence_does_not_divide_by_its_maximum_of_zero() -> None:
    maps_LNHW = torch.zeros(2, 2, 2, 2)
    maps_LNHW[0, 0] = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    maps_LNHW[1, 1, 0, 0] = 0.5
    averaged_NHW = maps._average(maps_LNHW)
    # The first image: a shape of (1/4, 1/2, 0, 1) and one of zeros, times the mean of the maxima 4 and 0.
    assert torch.equal(averaged_NHW[0], torch.tensor([[1.0, 2.0], [0.0, 4.0]]) / 4 / 2 * 2)
    assert averaged_NHW[1].flatten().tolist() == [0.125, 0, 0, 0]
    assert torch.equal(maps._average(maps_LNHW[:1]), maps_LNHW[0])
