"""A training, its evaluation and its maps on a device without float64, such as Apple's MPS.

The device is simulated: the network's outputs are tensors of a class of their own, which all results computed from them
inherit and only a copy to the CPU loses. Any of them in float64 raises the error of MPS.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scsuite.core.cam import grad_cam
from scsuite.core.config import LrRangeConfig, TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.evaluation.metrics import compute_metrics
from scsuite.core.lr_range.range_test import range_test
from scsuite.core.training.trainer import Trainer

TO_CPU = (Tensor.cpu, Tensor.tolist, Tensor.item, Tensor.__float__, Tensor.__int__, Tensor.__bool__)


class TensorWithoutFloat64(Tensor):
    """A tensor on the simulated device."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in TO_CPU:
            return function(args[0].as_subclass(Tensor), *args[1:], **(kwargs or {}))
        result = super().__torch_function__(function, types, args, kwargs)  # type: ignore[no-untyped-call]
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, cls) and tensor.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it")
        return result


class OnDevice(nn.Module):
    """A network on the simulated device; `outputs` has what it returned last."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, stride=4)
        self.fc = nn.Linear(4, 3)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        images_NCHW = images_NCHW.as_subclass(TensorWithoutFloat64)
        logits_NK: Tensor = self.fc(self.features(images_NCHW).relu().mean(dim=(2, 3)))
        assert isinstance(logits_NK, TensorWithoutFloat64)
        return logits_NK


def test_the_simulated_device_refuses_float64_and_its_copy_on_the_cpu_does_not() -> None:
    logits_NK = OnDevice()(torch.zeros(1, 3, 32, 32))
    with pytest.raises(TypeError, match="float64"):
        (logits_NK + 1).double()
    assert logits_NK.cpu().double().dtype == torch.float64


@pytest.mark.filterwarnings("ignore")  # options of scsuite's own network
def test_a_training_its_evaluation_and_its_maps_need_no_float64(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    trainer = Trainer(tiny_data, replace(tiny_config, epochs=1, l1=1e-4, class_weights="balanced"), model=OnDevice())
    trainer.fit()
    assert trainer.finished
    assert trainer.evaluate(tta="flip").loss > 0
    images_NCHW = torch.zeros(2, 3, 32, 32)
    assert grad_cam(trainer.model, images_NCHW, classes=[0, 1], layer="features").shape == (2, 32, 32)


@pytest.mark.filterwarnings("ignore")
def test_a_range_test_needs_no_float64(tiny_data: Dataset) -> None:
    config = LrRangeConfig(batch_size=16, steps=12, device="cpu", precision="fp32", workers=0)
    assert len(range_test(tiny_data, config, model=OnDevice()).sweeps[0].lrs_L) == 12


def test_metrics_are_in_double_precision_on_the_cpu_also_for_logits_on_a_device() -> None:
    logits_NK = torch.tensor([[0.3, 0.1, 0.2], [0.1, 0.5, 0.2]])
    labels_N = torch.tensor([0, 1])
    on_device = compute_metrics(logits_NK.as_subclass(TensorWithoutFloat64), labels_N, ("a", "b", "c"))
    assert on_device.loss == torch.nn.functional.cross_entropy(logits_NK.double(), labels_N).item()
