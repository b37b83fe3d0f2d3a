"""One training step against torch's own. Run: pytest tests/core/training/test_step.py."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset, Split
from scsuite.core.device import resolve_device
from scsuite.core.model.network import build_model
from scsuite.core.training.loader import Batch
from scsuite.core.training.optimizer import make_optimizer, set_lr_and_momentum
from scsuite.core.training.setup import make_class_weights
from scsuite.core.training.step import StepOutput, read_step_outputs, train_step
from scsuite.core.training.trainer import Trainer
from tests.core.tiny import equal_tensors, train_until

WIDTH = 0.05
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(16, 3, 32, 32, generator=generator), torch.arange(16) % 3)


@pytest.fixture
def plain_config(tiny_config: TrainConfig) -> TrainConfig:
    """SGD with weight decay on everything and label smoothing, as torch has them."""
    return replace(
        tiny_config, width=WIDTH, dropout=0.0, label_smoothing=0.1, weight_decay=0.01, gradient_centralization=False,
        bn_weight_decay=True,
    )  # fmt: skip


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def run_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, *, label_smoothing: float = 0.0, l1: float = 0.0,
    class_weights_K: Tensor | None = None,
) -> StepOutput:  # fmt: skip
    device = resolve_device("cpu", "fp32")
    return train_step(
        model, optimizer, NO_SCALER, batch, device=device, label_smoothing=label_smoothing, l1=l1,
        class_weights_K=class_weights_K,
    )  # fmt: skip


def weights_around_step(config: TrainConfig, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights before and after one of our steps."""
    model = build_model(3, config.width, seed=1)
    optimizer = make_optimizer(model, config, 0.9)
    set_lr_and_momentum(optimizer, 0.1, 0.9)
    before = named_weights(model)
    run_step(model, optimizer, batch, label_smoothing=config.label_smoothing, l1=config.l1)
    return before, named_weights(model)


def torch_step(batch: Batch, change_gradients: Callable[[nn.Module], None]) -> dict[str, Tensor]:
    """Return the weights after a step of torch's own SGD."""
    model = build_model(3, WIDTH, seed=1).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    nn.CrossEntropyLoss(label_smoothing=0.1)(model(batch.images_NCHW), batch.labels_N).backward()
    change_gradients(model)
    optimizer.step()
    return named_weights(model)


def test_step_equals_torch_sgd(plain_config: TrainConfig, batch: Batch) -> None:
    _, after = weights_around_step(plain_config, batch)
    for name, expected in torch_step(batch, lambda _: None).items():
        assert torch.allclose(after[name], expected, atol=1e-6), name


def test_step_with_gradient_centralization_equals_torch_sgd_on_centralized_gradients(
    plain_config: TrainConfig, batch: Batch
) -> None:
    def centralize(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                assert module.weight.grad is not None
                filters_ON = module.weight.grad.flatten(start_dim=1)
                filters_ON -= filters_ON.double().sum(dim=1, keepdim=True) / filters_ON.shape[1]

    _, after = weights_around_step(replace(plain_config, gradient_centralization=True), batch)
    for name, expected in torch_step(batch, centralize).items():
        assert torch.allclose(after[name], expected, atol=1e-6), name


def test_gradient_centralization_keeps_the_mean_of_each_filter(tiny_config: TrainConfig, batch: Batch) -> None:
    config = replace(tiny_config, dropout=0.0, weight_decay=0.0)
    before, after = weights_around_step(config, batch)
    _, plain = weights_around_step(replace(config, gradient_centralization=False), batch)
    filters = [name for name in before if before[name].ndim == 4]
    assert len(filters) == 8
    for name in filters:
        mean_before, mean_plain, mean_after = (w[name].mean(dim=(1, 2, 3)) for w in (before, plain, after))
        assert torch.allclose(mean_after, mean_before, atol=1e-7), name
        assert not torch.allclose(mean_plain, mean_before, atol=1e-5), name


def test_l1_moves_the_weights_by_its_subgradient(tiny_config: TrainConfig, batch: Batch) -> None:
    config = replace(tiny_config, dropout=0.0, weight_decay=0.0)
    before, plain = weights_around_step(config, batch)
    _, with_l1 = weights_around_step(replace(config, l1=0.01), batch)
    # The first Nesterov step moves by lr * (1 + momentum) * gradient; the L1 term's gradient is l1 * sign(weight).
    assert {weight.ndim for weight in before.values()} == {1, 2, 4}  # gains and biases of batch norm too
    for name, weight in before.items():
        expected = -0.1 * (1 + 0.9) * 0.01 * weight.sign()
        if weight.ndim == 4:  # gradient centralization takes the mean off the L1 term too
            expected -= expected.mean(dim=(1, 2, 3), keepdim=True)
        assert torch.allclose(with_l1[name] - plain[name], expected, atol=1e-6), name


@pytest.mark.parametrize("bad_value", [math.nan, math.inf])
@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_non_finite_step_changes_neither_weights_nor_optimizer_state(
    tiny_config: TrainConfig, batch: Batch, bad_value: float, optimizer_name: str
) -> None:
    model = build_model(3, tiny_config.width, seed=1)
    optimizer = make_optimizer(model, replace(tiny_config, dropout=0.0, optimizer=optimizer_name), 0.9)
    set_lr_and_momentum(optimizer, 0.01, 0.9)

    def state_after_step(images_NCHW: Tensor) -> dict[str, Tensor]:
        run_step(model, optimizer, Batch(images_NCHW, batch.labels_N))
        names = dict(model.named_parameters())
        state = {f"{name}.{key}": v for name, p in names.items() for key, v in optimizer.state[p].items()}
        return {name: tensor.detach().clone() for name, tensor in {**names, **state}.items()}

    finite = state_after_step(batch.images_NCHW)
    assert len(finite) == (2 if optimizer_name == "sgd" else 4) * len(list(model.parameters()))
    images_NCHW = batch.images_NCHW.clone()
    images_NCHW[0, 0, 0, 0] = bad_value
    assert equal_tensors(finite, state_after_step(images_NCHW))


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_a_non_finite_step_is_skipped_whatever_the_optimizers_kernels_do_with_the_flag(
    tiny_config: TrainConfig, batch: Batch, optimizer_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(3, tiny_config.width, seed=1)
    optimizer = make_optimizer(model, replace(tiny_config, optimizer=optimizer_name), 0.9)
    for group in optimizer.param_groups:
        group["fused"] = False  # the plain kernels ignore `found_inf`, as the fused ones of MPS
    set_lr_and_momentum(optimizer, 0.01, 0.9)
    before = named_weights(model)
    images_NCHW = batch.images_NCHW.clone()
    images_NCHW[0, 0, 0, 0] = math.nan
    outputs = [run_step(model, optimizer, Batch(images, batch.labels_N)) for images in (images_NCHW, batch.images_NCHW)]
    assert equal_tensors(before, named_weights(model))
    assert read_step_outputs(outputs) == [None, None]  # every later step too


def test_optimizers_are_fused_only_where_the_kernels_can_skip_a_step(tiny_config: TrainConfig) -> None:
    for name in ("sgd", "adamw"):
        config = replace(tiny_config, optimizer=name)
        assert make_optimizer(build_model(3, 0.05), config, 0.9).defaults["fused"] is True
        with torch.device("meta"):  # stands in for any other device
            model = nn.Linear(2, 2)
        assert not make_optimizer(model, config, 0.9).defaults["fused"]


class NanGradient(torch.autograd.Function):
    """The identity, with a gradient that is NaN."""

    @staticmethod
    def forward(_context: object, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> Tensor:
        return gradient * math.nan


@pytest.mark.parametrize(("num_nan", "num_finite"), [(17, 16), (1, 40)])
def test_in_fp16_nan_gradients_under_a_finite_loss_are_a_divergence_after_17_steps_in_a_row(
    batch: Batch, num_nan: int, num_finite: int, tiny_config: TrainConfig
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    optimizer, scaler = make_optimizer(model, tiny_config, 0.9), torch.amp.GradScaler("cpu")  # its scale is 2^16
    bad_model = nn.Sequential(model, Apply(NanGradient))
    outputs = [
        train_step(net, optimizer, scaler, batch, device=resolve_device("cpu", "fp32"), label_smoothing=0.0, l1=0.0)
        for net in [bad_model] * num_nan + [model] * num_finite
    ]
    values = read_step_outputs(outputs)
    assert all(output.loss.isfinite() for output in outputs)
    assert values.index(None) == 16 if num_nan == 17 else None not in values


class Apply(nn.Module):
    """A layer that applies an autograd function."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.function.apply(values)
        return result


def test_reported_loss_is_plain_cross_entropy_and_gradient_is_of_the_smoothed_one(batch: Batch) -> None:
    model, reference = (build_model(3, WIDTH, seed=1) for _ in range(2))
    optimizer = make_optimizer(model, TrainConfig(width=WIDTH, weight_decay=0.0), 0.9)
    set_lr_and_momentum(optimizer, 0.0, 0.9)
    output = run_step(model, optimizer, batch, label_smoothing=0.3)
    log_p_NK = reference.train()(batch.images_NCHW).log_softmax(dim=1)
    plain = -log_p_NK[torch.arange(16), batch.labels_N].mean()
    smoothed = 0.7 * plain - 0.3 * log_p_NK.mean()  # the smoothing is spread over all three classes
    smoothed.backward()
    assert abs(float((smoothed - plain).detach())) > 1e-3
    assert float(output.loss) == pytest.approx(float(plain.detach()), abs=1e-6)
    assert model.fc.weight.grad is not None
    assert reference.fc.weight.grad is not None
    assert torch.allclose(model.fc.weight.grad, reference.fc.weight.grad, atol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_class_weights_are_those_of_torchs_cross_entropy_and_the_reported_loss_is_plain(
    batch: Batch, label_smoothing: float
) -> None:
    model, reference = (build_model(3, WIDTH, seed=1).train() for _ in range(2))
    optimizer = make_optimizer(model, TrainConfig(width=WIDTH, weight_decay=0.0, gradient_centralization=False), 0.9)
    set_lr_and_momentum(optimizer, 0.0, 0.9)
    weights_K = torch.tensor([0.2, 1.0, 3.0])
    output = run_step(model, optimizer, batch, label_smoothing=label_smoothing, class_weights_K=weights_K)
    logits_NK = reference(batch.images_NCHW)
    weighted = functional.cross_entropy(logits_NK, batch.labels_N, weight=weights_K, label_smoothing=label_smoothing)
    plain = functional.cross_entropy(logits_NK, batch.labels_N)
    weighted.backward()  # type: ignore[no-untyped-call]
    assert abs(float((weighted - plain).detach())) > 1e-3
    assert float(output.loss) == pytest.approx(float(plain.detach()), abs=1e-6)
    for parameter, expected in zip(model.parameters(), reference.parameters(), strict=True):
        assert parameter.grad is not None
        assert expected.grad is not None
        assert torch.allclose(parameter.grad, expected.grad, atol=1e-6)


def test_balanced_class_weights_are_those_of_scikit_learn(tiny_config: TrainConfig) -> None:
    labels_N = np.array([0] * 6 + [1] * 3 + [3])
    train = Split(np.zeros((10, 32, 32, 3), np.uint8), labels_N, ("",) * 10)
    device = resolve_device("cpu", "fp32")
    balanced = replace(tiny_config, class_weights="balanced")
    weights_K = make_class_weights(balanced, train, 4, device)
    assert weights_K is not None
    # compute_class_weight("balanced") gives n / (3 n_k) for the three classes that have images
    assert weights_K.tolist() == pytest.approx([10 / 18, 10 / 9, 0, 10 / 3])
    assert make_class_weights(tiny_config, train, 4, device) is None


def test_class_weights_change_a_training_and_none_is_todays(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    keep = np.flatnonzero((tiny_data.train.labels_N == 0) | (np.arange(len(tiny_data.train)) < 30))
    uneven = replace(tiny_data, train=tiny_data.train.select(keep))

    def weights_after_a_step(class_weights: str) -> Tensor:
        config = replace(tiny_config, class_weights=class_weights)
        return train_until(Trainer(uneven, config), 1).raw_model.get_parameter("fc.weight").detach()

    assert not torch.equal(weights_after_a_step("none"), weights_after_a_step("balanced"))


def test_a_step_trains_a_network_that_was_left_in_eval_mode(batch: Batch, tiny_config: TrainConfig) -> None:
    trained, left_in_eval_mode = build_model(3, WIDTH, seed=1).train(), build_model(3, WIDTH, seed=1).eval()
    for model in (trained, left_in_eval_mode):
        run_step(model, make_optimizer(model, tiny_config, 0.9), batch)
        assert model.get_buffer("prep.1.num_batches_tracked") == 1
    assert equal_tensors(trained.state_dict(), left_in_eval_mode.state_dict())
