"""The assignment's 3-layer ResNet.

In: images_NCHW, float, normalised, 3 x 32 x 32. Out: logits_NK; softmax is applied where probabilities are asked for.
With K = 10 classes and width 1 it has 6,573,120 parameters.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (64, 128, 256, 512)  # of prep, layer1, layer2, layer3, at width 1
# With torch's default weights the logits start with a standard deviation near 1.5 and the first steps of a steep cycle
# diverge; an eighth of that starts the loss within 0.05 of ln K. Source: cifar10-fast's `Mul(0.125)`.
LOGIT_SCALE = 0.125


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch norm; in training over even parts of the batch, each of N = `ghost_batch_size` images or more; 0 for no parts.

    There are as many parts as whole Ns in the batch, so one of fewer than 2 N images stays whole.
    The fewer images, the noisier their means and variances, which keeps a network from learning its images by heart.
    The running ones follow all parts, as fast as those of the whole batch would.
    Source: ghost batch normalization, https://arxiv.org/abs/1705.08741.
    """

    ghost_batch_size = 0

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """As torch's of each part."""
        num_images = len(features_NCHW)
        num_parts = num_images // self.ghost_batch_size if self.training and self.ghost_batch_size else 1
        if num_parts <= 1:
            return super().forward(features_NCHW)
        size, rest = divmod(num_images, num_parts)
        # As tensor_split, whose gradient is slow: a part at a time, in a tensor of zeros of the whole.
        parts = torch.split(features_NCHW, [size + 1] * rest + [size] * (num_parts - rest))
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 - (1 - self.momentum) ** (1 / num_parts)
        normed = [
            functional.batch_norm(
                part, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps
            )
            for part in parts
        ]
        return torch.cat(normed)


class ConvNormReLU(nn.Sequential):
    """Conv3x3 without bias > MaxPool2 where asked for > BatchNorm > ReLU."""

    def __init__(self, num_in: int, num_out: int, *, pool: bool = False) -> None:
        conv = nn.Conv2d(num_in, num_out, kernel_size=3, padding=1, bias=False)
        middle = [nn.MaxPool2d(2)] if pool else []
        super().__init__(conv, *middle, GhostBatchNorm2d(num_out), nn.ReLU())


class ResidualLayer(nn.Module):
    """X = Conv > MaxPool2 > BN > ReLU; then X + Res(X), Res being two Conv > BN > ReLU."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.x = ConvNormReLU(num_in, num_out, pool=True)
        self.res = nn.Sequential(ConvNormReLU(num_out, num_out), ConvNormReLU(num_out, num_out))

    def forward(self, images: Tensor) -> Tensor:
        """N C H W to N 2C H/2 W/2."""
        x: Tensor = self.x(images)
        out: Tensor = x + self.res(x)
        return out


class KeyedDropout(nn.Module):
    """Dropout whose mask comes from a generator of its own, seeded before each step; the identity at 0 and in eval."""

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
        """Keeps the expected value: what stays is divided by the share that stays."""
        if not self.training or self.p == 0:
            return features
        kept = torch.empty_like(features).bernoulli_(1 - self.p, generator=self.generator)
        return features * kept / (1 - self.p)


class ResNet3(nn.Module):
    """prep > layer1 > layer2 > layer3 > MaxPool4 > fc; see design.md for the layers and their shapes."""

    cam_layer = "layer2"  # what Grad-CAM looks at by default: scores best on `shapes`, see config.CAM_METHOD

    def __init__(self, num_classes: int = 10, width: float = 1.0, dropout: float = 0.0, ghost_batch_size: int = 0) -> None:
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
        """Logits_NK of normalised images."""
        features = self.layer3(self.layer2(self.layer1(self.prep(images_NCHW))))
        logits_NK: Tensor = self.fc(self.dropout(self.pool(features))) * LOGIT_SCALE
        return logits_NK


def build_model(
    num_classes: int = 10, width: float = 1.0, *, dropout: float = 0.0, ghost_batch_size: int = 0, seed: int | None = None
) -> ResNet3:
    """The network with fresh weights; with `seed`, always the same ones, and torch's own random state is left alone."""
    if seed is None:
        return ResNet3(num_classes, width, dropout, ghost_batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators' generators too
        return ResNet3(num_classes, width, dropout, ghost_batch_size)
