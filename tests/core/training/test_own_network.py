"""Training a network of the user's own. Run: pytest tests/core/training/test_own_network.py."""

import copy
import hashlib
import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR

from scsuite import LrRangeConfig, Trainer, load_checkpoint, range_test
from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset, Split
from scsuite.core.errors import InputError, UsageError
from scsuite.core.model.checkpoint import read_checkpoint, save_checkpoint
from scsuite.core.model.ema import EMA
from scsuite.core.training.optimizer import make_optimizer, parameters_by_name
from tests.core.tiny import equal_tensors, train, train_until
from tests.run_cli import run_cli


class SmallNet(nn.Module):
    """Convolutions with biases, two kinds of norms, a linear layer with a bias."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        features = functional.relu(self.norm1(self.conv1(images_NCHW)))
        features = functional.relu(self.norm2(self.conv2(features)))
        logits_NK: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits_NK


class OddNet(SmallNet):
    """What users' networks have: dropout, a frozen, an unused and a tied weight, a negative `scale`, a mask."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.Linear(2, 2)
        self.again = nn.Linear(8, 3)
        self.again.weight = self.fc.weight
        self.scale = nn.Parameter(torch.tensor(-1.5))
        self.conv1.weight.requires_grad_(False)
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        features = self.norm1(self.conv1(images_NCHW)).relu().mean(dim=(2, 3))
        logits_NK: Tensor = self.scale * (self.fc(self.dropout(features)) + self.again(features))
        return logits_NK


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with weights by this seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


# --- against a plain loop ---


@pytest.fixture
def plain_config(tiny_config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """Without augmentation, average, smoothing and centralized gradients."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("transform: {__class_fullname__: Compose, transforms: [{__class_fullname__: NoOp, p: 1.0}]}")
    return replace(
        tiny_config, augment=str(policy), label_smoothing=0.0, ema_epochs=0.0, gradient_centralization=False,
        weight_decay=0.05, lr_min=0.02, lr_max=0.2, dropout=0.0, width=1.0, seed=5,
    )  # fmt: skip


def normalise(split: Split, mean: Tensor, std: Tensor) -> Tensor:
    return ((torch.from_numpy(split.images_NHWC).double() / 255 - mean) / std).float().permute(0, 3, 1, 2)


def train_plainly(model: nn.Module, data: Dataset, seed: int) -> tuple[list[float], float]:
    """Train as a PyTorch tutorial would; return the losses, and the accuracy on the test images."""
    pixels = torch.from_numpy(data.train.images_NHWC).double() / 255
    mean, std = pixels.mean(dim=(0, 1, 2)), pixels.std(dim=(0, 1, 2), correction=0)
    images_NCHW, labels_N = normalise(data.train, mean, std), torch.from_numpy(data.train.labels_N)
    decayed = [p for name, p in model.named_parameters() if name in ("conv1.weight", "conv2.weight", "fc.weight")]
    others = [p for p in model.parameters() if not any(p is q for q in decayed)]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9, nesterov=True)
    scheduler = OneCycleLR(
        optimizer, 0.2, total_steps=15, pct_start=3 / 15, anneal_strategy="linear", div_factor=10, final_div_factor=1,
        cycle_momentum=False,
    )  # fmt: skip
    losses = []
    for epoch in range(3):
        key = hashlib.blake2b(f"{seed}:shuffle:{epoch}".encode(), digest_size=8).digest()
        order = np.random.default_rng(int.from_bytes(key, "big") >> 1).permutation(72)
        for batch in np.split(order, range(16, 72, 16)):
            model.train()
            loss = functional.cross_entropy(model(images_NCHW[batch]), labels_N[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        predicted_N = model(normalise(data.test, mean, std)).argmax(dim=1)
    return losses, (predicted_N == torch.from_numpy(data.test.labels_N)).float().mean().item()


def test_the_training_is_that_of_a_plain_pytorch_loop(tiny_data: Dataset, plain_config: TrainConfig) -> None:
    data = Dataset.from_arrays(
        tiny_data.train.images_NHWC, tiny_data.train.labels_N, tiny_data.test.images_NHWC, tiny_data.test.labels_N
    )
    config = replace(plain_config, peak_epoch=3 / 5)  # the end of the third of five steps
    own, plain = seeded(SmallNet), seeded(SmallNet)
    trainer = Trainer(data, config, model=own)
    steps = train(trainer)
    losses, accuracy = train_plainly(plain, data, seed=5)
    assert [step.loss for step in steps] == pytest.approx(losses, abs=1e-6)
    assert losses[-1] < losses[0] - 0.2
    for (name, tensor), expected in zip(own.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.allclose(tensor, expected, rtol=1e-6, atol=1e-6), name
    assert trainer.epochs[-1].test_accuracy == trainer.evaluate().accuracy == pytest.approx(accuracy)
    assert trainer.model is trainer.raw_model is own


# --- stop, resume, save, load ---


def odd_trainer(data: Dataset, config: TrainConfig, seed: int = 0) -> Trainer:
    return Trainer(data, replace(config, ema_epochs=1.0, dropout=0.0, width=1.0), model=seeded(OddNet, seed))


def test_a_stopped_training_resumes_to_the_same_bits(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    complete = odd_trainer(tiny_data, tiny_config)
    train(complete)
    stopped = train_until(odd_trainer(tiny_data, tiny_config), 7)
    stopped.save(tmp_path / "state.safetensors")
    torch.rand(3)  # other code draws random numbers in between
    resumed = odd_trainer(tiny_data, tiny_config, seed=1).resume(tmp_path / "state.safetensors")
    assert equal_tensors(resumed.state_tensors(), stopped.state_tensors())
    resumed.fit()
    assert equal_tensors(resumed.state_tensors(), complete.state_tensors())
    assert all(tensor.isfinite().all() for name, tensor in complete.state_tensors().items() if "mask" not in name)
    assert isinstance(complete.raw_model, OddNet)
    assert complete.raw_model.scale < 0


@pytest.fixture
def run(tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path) -> Path:
    """The run directory of an own network's training that stopped in the last epoch."""
    trainer = odd_trainer(tiny_data, tiny_config)
    trainer.fit(tmp_path / "runs", should_stop=lambda: trainer.state.step == 12)
    (path,) = (tmp_path / "runs").iterdir()
    return path


def test_its_checkpoint_loads_into_the_network_that_is_passed(
    run: Path, tiny_data: Dataset, tiny_config: TrainConfig
) -> None:
    trainer = odd_trainer(tiny_data, tiny_config, seed=2).resume(run)
    own = seeded(OddNet, 3)
    model, metadata = load_checkpoint(run, model=own)
    assert model is own
    assert not model.training
    assert equal_tensors(dict(model.state_dict()), dict(trainer.model.state_dict()))
    assert metadata["network"] == {"num_classes": 3, "own_network": "OddNet"}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["ghost_batch_size"], config["whitening_init"], config["identity_init"]) == (0, False, False)


def test_it_is_not_loaded_without_a_network_and_not_into_another(run: Path) -> None:
    with pytest.raises(InputError, match=r"weights of your own, OddNet\. Use Python: .*model=OddNet\(\)\)"):
        load_checkpoint(run)
    other = seeded(SmallNet)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(InputError, match=r"the weights of SmallNet, found .* is not part of it"):
        load_checkpoint(run, model=other)
    assert equal_tensors(dict(other.state_dict()), dict(before))


def test_the_class_in_a_file_is_text_only(run: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(next(run.glob("checkpoints/*")))
    metadata = {name: value for name, value in checkpoint.metadata.items() if name not in ("sha256", "format")}
    network = {"num_classes": 3, "own_network": "antigravity.this"}
    save_checkpoint(tmp_path / "a.safetensors", checkpoint.tensors, {**metadata, "network": network})
    with pytest.raises(InputError, match=r"your own, antigravity\.this"):
        load_checkpoint(tmp_path / "a.safetensors")
    network["own_network"] = ["a"]
    save_checkpoint(tmp_path / "b.safetensors", checkpoint.tensors, {**metadata, "network": network})
    with pytest.raises(InputError, match="a network named"):
        load_checkpoint(tmp_path / "b.safetensors", model=seeded(OddNet))


def test_resuming_without_the_network_says_to_pass_it(run: Path, tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"a training of your own network\. Use Python: .*model=\.\.\.\)"):
        Trainer(tiny_data, replace(tiny_config, ema_epochs=1.0)).resume(run)


@pytest.mark.parametrize("command", ["evaluate", "gradcam"])
def test_the_command_line_says_to_use_python(run: Path, command: str, tmp_path: Path) -> None:
    result = run_cli(command, "--ckpt", run, "--runs-dir", tmp_path / "out")
    assert result.code == 3
    (line,) = [line for line in result.err.splitlines() if line.startswith("error:")]
    assert "the weights of your own, OddNet. Use Python" in line
    assert not (tmp_path / "out").exists()


# --- the check before the first step ---


class Returns(nn.Module):
    """A network that returns what this function makes of its logits."""

    def __init__(self, change: Callable[["Returns", Tensor], Any], num_classes: int = 3) -> None:
        super().__init__()
        self.net, self.change = SmallNet(num_classes), change

    def forward(self, images_NCHW: Tensor) -> Any:
        return self.change(self, self.net(images_NCHW))


Outputs = namedtuple("Outputs", "logits aux")  # as of torchvision's GoogLeNet


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SmallNet(10), r"logits of shape \(2, 3\) .* found the shape \(2, 10\)\. Give the network 3 outputs"),
        (lambda: SmallNet, "expected a torch.nn.Module, found a type. Give a network"),
        (lambda: "resnet18", "'resnet18': expected a torch.nn.Module, found a str"),
        (lambda: Returns(lambda _, x: x * math.nan), "finite logits, found NaN"),
        (lambda: Returns(lambda _, x: (x, x)), r"found a tuple\. Return the logits alone"),
        (lambda: Returns(lambda m, x: Outputs(x, x) if m.training else x), "found a Outputs"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), r"images of shape \(2, 3, 32, 32\), found mat1 and"),
        (lambda: nn.AdaptiveAvgPool2d(1), "parameters to train"),
        (lambda: SmallNet().requires_grad_(False), "parameters to train"),
    ],
)
def test_a_network_with_other_outputs_is_refused_in_one_line(
    make: Callable[[], Any], words: str, tiny_data: Dataset, tiny_config: TrainConfig
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Trainer(tiny_data, replace(tiny_config, dropout=0.0, width=1.0), model=make())
    assert "\n" not in str(caught.value)


def test_the_check_changes_neither_weights_nor_statistics_nor_random_state(
    tiny_data: Dataset, tiny_config: TrainConfig
) -> None:
    model, random_state = seeded(OddNet), torch.get_rng_state()
    before = copy.deepcopy(model.state_dict())
    Trainer(tiny_data, replace(tiny_config, dropout=0.0, width=1.0), model=model)
    assert equal_tensors(dict(model.state_dict()), dict(before))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_lazy_layers_get_their_weights_in_the_check(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    trainer = Trainer(tiny_data, replace(tiny_config, epochs=1, dropout=0.0, width=1.0), model=model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.fit()
    assert before["0.weight"].shape == (4, 3, 3, 3)
    assert not any(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_options_without_effect_and_a_softmax_are_warned_about(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    with pytest.warns(UserWarning, match="your own network: --width, --dropout, --ghost-batch-size, --temperature"):
        trainer = Trainer(tiny_data, replace(tiny_config, ghost_batch_size=8, temperature=0.5), model=seeded(SmallNet))
    assert (trainer.config.width, trainer.config.dropout, trainer.config.ghost_batch_size) == (1.0, 0.0, 0)
    with pytest.warns(UserWarning, match="look like probabilities"):
        Trainer(tiny_data, trainer.config, model=Returns(lambda _, x: x.softmax(dim=1)))


def test_the_configuration_names_the_data_that_is_used(tiny_data: Dataset, tiny_config: TrainConfig) -> None:
    assert Trainer(tiny_data, replace(tiny_config, data="cifar10")).config.data == "tiny"
    assert Trainer(tiny_data, replace(tiny_config, data="/data/tiny")).config.data == "/data/tiny"


# --- optimizer, average, range test ---


class Norms(nn.Module):
    """One layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 3)
        self.layer_norm, self.group_norm, self.instance_norm = (
            nn.LayerNorm([4, 8, 8]), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True),
        )  # fmt: skip
        self.fc, self.position, self.gain = nn.Linear(4, 3), nn.Parameter(torch.ones(1, 4, 8, 8)), nn.PReLU(4)


def test_norms_and_biases_have_no_weight_decay_and_only_convolutions_are_centralized() -> None:
    model = seeded(Norms)
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.5), 0.9)
    names, decays = list(parameters_by_name(model, optimizer)), list[float]()
    for group in optimizer.param_groups:
        decays += [group["weight_decay"]] * len(group["params"])
    decayed = {name for name, decay in zip(names, decays, strict=True) if decay}
    assert decayed == {"conv.weight", "up.weight", "fc.weight", "position"}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    centralized = {name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any()}
    assert centralized == {"conv.weight"}


def test_the_average_of_any_network_averages_weights_and_statistics_and_copies_other_buffers() -> None:
    model = seeded(OddNet)
    ema = EMA(model, 4.0)
    for step in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(step)
            for name, buffer in model.named_buffers():
                buffer.fill_(step if name != "mask" else -math.inf)
        ema.update(model, step)
    assert all(torch.all(parameter == 0.5) for parameter in ema.model.parameters())
    buffers = dict(ema.model.named_buffers())
    assert torch.all(buffers["norm1.running_var"] == 0.5)
    assert buffers["norm1.num_batches_tracked"] == 1
    assert torch.all(buffers["mask"] == -math.inf)


def test_the_range_test_leaves_the_network_as_it_is_and_says_that_there_is_no_reference(tiny_data: Dataset) -> None:
    model = seeded(OddNet).eval()
    before = copy.deepcopy(model.state_dict())
    config = LrRangeConfig(batch_size=16, steps=30, repeats=2, device="cpu", precision="fp32", workers=0)
    test = range_test(tiny_data, config, model=model)
    assert equal_tensors(dict(model.state_dict()), dict(before))
    assert not model.training
    assert "your own network has no reference LR" in test.reason
    assert "width" not in test.reason
    assert test.lr_max_source == "from the test"
    assert 0 < test.lr_min < test.lr_max <= test.allowed_lr_max[1]
    assert test.sweeps[0].losses_L.tolist() != test.sweeps[1].losses_L.tolist()
