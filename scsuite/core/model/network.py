"""The assignment's 3-layer ResNet, and two context managers: eval mode, and capturing the outputs of layers.

In: images_NCHW, float, normalised, 3 x 32 x 32. Out: logits_NK; softmax is applied where probabilities are needed.
With K = 10 classes and width 1 it has 6,573,120 parameters.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from scsuite.core.config import MAX_TEMPERATURE, MIN_TEMPERATURE, is_finite_number
from scsuite.core.errors import UsageError
from scsuite.core.model.ghost_norm import ghost_batch_norm

CHANNELS = (64, 128, 256, 512)  # of prep, layer1, layer2, layer3, at width 1
# With torch's default weights the logits start with a standard deviation near 1.5 and the first steps of a steep cycle
# diverge. An eighth of that starts the loss within 0.05 of ln K. Source: cifar10-fast's `Mul(0.125)`.
LOGIT_SCALE = 0.125


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that, in training, normalises nearly equal chunks of a batch separately.

    A batch of B images has floor(B / ghost_batch_size) chunks. A batch smaller than 2 * ghost_batch_size is not split;
    0 disables splitting. Fewer images give noisier means and variances, which regularises the network. The running
    statistics include all chunks, at the momentum that the complete batch would have.
    Source: ghost batch normalization, https://arxiv.org/abs/1705.08741.
    """

    ghost_batch_size = 0

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Normalise each chunk with its own mean and variance; in eval mode use the running statistics."""
        num_images = features_NCHW.shape[0]  # torch.export keeps this symbolic, unlike len()
        num_chunks = num_images // self.ghost_batch_size if self.training and self.ghost_batch_size else 1
        if num_chunks <= 1:
            return super().forward(features_NCHW)
        assert self.num_batches_tracked is not None and self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 - (1 - self.momentum) ** (1 / num_chunks)
        normalised_NCHW: Tensor
        normalised_NCHW, running_mean_C, running_var_C, *_ = ghost_batch_norm(
            features_NCHW, self.weight, self.bias, self.running_mean, self.running_var, num_chunks, momentum, self.eps
        )
        self.running_mean.copy_(running_mean_C.detach())
        self.running_var.copy_(running_var_C.detach())
        return normalised_NCHW


class ConvNormReLU(nn.Sequential):
    """Conv3x3 without bias > MaxPool2 if `pool` > BatchNorm > ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, pool: bool = False) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        pooling = [nn.MaxPool2d(2)] if pool else []
        super().__init__(conv, *pooling, GhostBatchNorm2d(out_channels), nn.ReLU())


class ResidualLayer(nn.Module):
    """X = Conv > MaxPool2 > BN > ReLU; then X + Res(X), where Res is two Conv > BN > ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # The names x and res are in every checkpoint.
        self.x = ConvNormReLU(in_channels, out_channels, pool=True)
        self.res = nn.Sequential(ConvNormReLU(out_channels, out_channels), ConvNormReLU(out_channels, out_channels))

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Map N C H W to N 2C H/2 W/2."""
        stem: Tensor = self.x(features_NCHW)
        out: Tensor = stem + self.res(stem)
        return out


class KeyedDropout(nn.Module):
    """Dropout whose mask comes from its own generator, seeded before each step; no effect at p = 0 and in eval mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None  # made on the first use, on the features' device

    def reseed(self, seed: int, device: torch.device) -> None:
        """Fix the mask of the next forward pass."""
        if self.generator is None or self.generator.device != device:
            self.generator = torch.Generator(device)
        self.generator.manual_seed(seed)

    def forward(self, features: Tensor) -> Tensor:
        """Set each feature to zero with probability p, and divide the others by 1 - p to keep the expected value."""
        if not self.training or self.p == 0:
            return features
        mask = torch.empty_like(features).bernoulli_(1 - self.p, generator=self.generator)
        return features * mask / (1 - self.p)


class ResNet3(nn.Module):
    """prep > layer1 > layer2 > layer3 > MaxPool4 > fc. `model.summary` lists the layers with their output shapes.

    In eval mode the logits are divided by `temperature`, so that their softmax is calibrated; no class changes.
    It is not in the state dict: scsuite's checkpoints have it in their metadata.
    Source: Guo et al., On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599, section 4.2.
    """

    temperature = 1.0

    cam_layer = "layer2"  # the default layer of Grad-CAM: it scores best on `shapes`, see config.CAM_METHOD

    def __init__(
        self, num_classes: int = 10, width: float = 1.0, dropout: float = 0.0, ghost_batch_size: int = 0
    ) -> None:
        super().__init__()
        self.num_classes, self.width = num_classes, width
        prep, layer1, layer2, layer3 = (max(1, round(channels * width)) for channels in CHANNELS)
        self.prep = ConvNormReLU(3, prep)
        self.layer1 = ResidualLayer(prep, layer1)
        self.layer2 = ConvNormReLU(layer1, layer2, pool=True)
        self.layer3 = ResidualLayer(layer2, layer3)
        self.pool = nn.Sequential(nn.MaxPool2d(4), nn.Flatten())
        self.dropout = KeyedDropout(dropout)
        self.fc = nn.Linear(layer3, num_classes, bias=False)
        for module in self.modules():
            if isinstance(module, GhostBatchNorm2d):
                module.ghost_batch_size = ghost_batch_size

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits_NK of normalised images; with a temperature, those of eval mode have at least fp32."""
        features = self.layer3(self.layer2(self.layer1(self.prep(images_NCHW))))
        logits_NK: Tensor = self.fc(self.dropout(self.pool(features))) * LOGIT_SCALE
        if self.training or self.temperature == 1:
            return logits_NK
        # In bf16 and fp16 the quotients of two different logits can be equal, and the predicted class another one.
        return logits_NK.to(torch.promote_types(logits_NK.dtype, torch.float32)) / self.temperature


def temperature_of(model: nn.Module) -> float:
    """Return the divisor of a network's logits in eval mode; a user's own network has none, so 1.

    Raises UsageError for a value that a checkpoint may not have.
    """
    value = model.temperature if isinstance(model, ResNet3) else 1.0
    if not is_finite_number(value) or not MIN_TEMPERATURE <= value <= MAX_TEMPERATURE:
        raise UsageError(
            "temperature", "model", expected=f"a number from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}",
            found=repr(value), hint="Set model.temperature to a float.",
        )  # fmt: skip
    return float(value)


def build_model(
    num_classes: int = 10,
    width: float = 1.0,
    *,
    dropout: float = 0.0,
    ghost_batch_size: int = 0,
    seed: int | None = None,
) -> ResNet3:
    """Build the network with torch's initial weights.

    Args:
        num_classes: Number of classes, K.
        width: Factor on the channels of each layer; 1 is the assignment's network.
        dropout: Probability that a feature before the last layer is set to zero in training.
        ghost_batch_size: Images per chunk of batch norm in training; 0: the complete batch.
        seed: Makes the weights reproducible and leaves torch's random state as it is; None: use torch's random state.

    Returns:
        The network in training mode, from normalised images_NCHW to logits_NK.

    Raises:
        RuntimeError: For a negative number of classes.

    Example:
        >>> model = build_model(num_classes=10, seed=0)
        >>> sum(parameter.numel() for parameter in model.parameters())
        6573120
    """
    if seed is None:
        return ResNet3(num_classes, width, dropout, ghost_batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators' generators too
        return ResNet3(num_classes, width, dropout, ghost_batch_size)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode inside the block, and restore each module's own mode after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def capture_outputs(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that receives the last output of each named submodule; the hooks are removed at the end."""
    outputs: dict[str, Tensor] = {}
    handles = []
    try:
        for name in names:
            handles.append(
                model.get_submodule(name).register_forward_hook(
                    lambda _module, _args, output, name=name: outputs.__setitem__(name, output)
                )
            )
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
