"""The layer summary: shapes and parameters of the design, and a network that it leaves as it was."""

import pytest
import torch

from scsuite.core.model.network import build_model
from scsuite.core.model.summary import model_summary

# Each stage's output shape, and its parameters: 9 * in * out of a convolution, 2 * out of its batch norm.
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


def test_the_network_of_ten_classes_has_6573120_parameters() -> None:
    assert sum(parameter.numel() for parameter in build_model().parameters()) == 6_573_120
    assert sum(num_parameters for _, num_parameters in STAGES.values()) == 6_573_120


def test_every_stage_has_the_shape_and_the_parameters_of_the_design() -> None:
    rows = model_summary(build_model())
    assert {row.name: (row.shape, row.num_parameters) for row in rows} == STAGES
    assert [row.name for row in rows] == list(STAGES)
    assert rows[1].operations == "Conv3x3 > MaxPool2 > BN > ReLU"
    assert rows[2].operations == "Conv3x3 > BN > ReLU > Conv3x3 > BN > ReLU"


@pytest.mark.parametrize(("width", "channels"), [(0.5, (32, 64, 128, 256)), (0.1, (6, 13, 26, 51)), (1e-4, (1,) * 4)])
def test_width_scales_the_channels_and_keeps_at_least_one(width: float, channels: tuple[int, ...]) -> None:
    shapes = {row.name: row.shape for row in model_summary(build_model(width=width))}
    assert tuple(shapes[name][0] for name in ("prep", "layer1.x", "layer2", "layer3.x")) == channels


def test_the_summary_restores_every_mode_removes_its_hooks_and_changes_no_statistics() -> None:
    model = build_model(width=0.05)
    model.train()
    model.layer2.eval()  # as after freezing a layer
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model_summary(model)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
