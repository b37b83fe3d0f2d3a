"""The assignment's 3-layer ResNet.

In: images_NCHW, float, normalised, 3 x 32 x 32. Out: logits_NK; softmax is applied where probabilities are asked for.
With K = 10 classes and width 1 it has 6,573,120 parameters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (64, 128, 256, 512)  # of prep, layer1, layer2, layer3, at width 1
# With torch's default weights the logits start with a standard deviation near 1.5 and the first steps of a steep cycle
# diverge; an eighth of that starts the loss within 0.05 of ln K. Source: cifar10-fast's `Mul(0.125)`.
LOGIT_SCALE = 0.125
# Of the largest component's: of CIFAR-10 as JPEG files the smallest has 3e-6 of it, of grey pictures 1e-16.
VARIANCE_MIN = 1e-8


class GhostNorm(nn.BatchNorm2d):
    """Batch norm; in training over even parts of the batch, each of N = `ghost_batch` images or more; 0 for no parts.

    There are as many parts as whole Ns in the batch, so one of fewer than 2 N images stays whole.
    The fewer images, the noisier their means and variances, which keeps a network from learning its images by heart.
    The running ones follow all parts, as fast as those of the whole batch would.
    Source: ghost batch normalization, https://arxiv.org/abs/1705.08741.
    """

    ghost_batch = 0

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """As torch's of each part."""
        num_images = len(features_NCHW)
        num_parts = num_images // self.ghost_batch if self.training and self.ghost_batch else 1
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
        super().__init__(conv, *middle, GhostNorm(num_out), nn.ReLU())


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


class Dropout(nn.Module):
    """Dropout whose mask comes from a generator of its own, seeded before each step; the identity at 0 and in eval."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.generator: torch.Generator | None = None  # made on the first use, on the features' device

    def reseed(self, seed: int, device: torch.device) -> None:
        """Fix the mask of the next forward pass."""
        if self.generator is None or self.generator.device != device:
            self.generator = torch.Generator(device)
        self.generator.manual_seed(seed)

    def forward(self, features: Tensor) -> Tensor:
        """Keeps the expected value: what stays is divided by the share that stays."""
        if not self.training or self.share == 0:
            return features
        kept = torch.empty_like(features).bernoulli_(1 - self.share, generator=self.generator)
        return features * kept / (1 - self.share)


class ResNet3(nn.Module):
    """prep > layer1 > layer2 > layer3 > MaxPool4 > fc; see design.md for the layers and their shapes."""

    cam_layer = "layer2"  # what Grad-CAM looks at by default: scores best on `shapes`, see config.CAM_METHOD

    def __init__(self, num_classes: int = 10, width: float = 1.0, dropout: float = 0.0, ghost_batch: int = 0) -> None:
        super().__init__()
        self.num_classes, self.width = num_classes, width
        prep, layer1, layer2, layer3 = (max(1, round(channels * width)) for channels in CHANNELS)
        self.prep = ConvNormReLU(3, prep)
        self.layer1 = ResidualLayer(prep, layer1)
        self.layer2 = ConvNormReLU(layer1, layer2, pool=True)
        self.layer3 = ResidualLayer(layer2, layer3)
        self.pool = nn.Sequential(nn.MaxPool2d(4), nn.Flatten())
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(layer3, num_classes, bias=False)
        for module in self.modules():
            if isinstance(module, GhostNorm):
                module.ghost_batch = ghost_batch

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits_NK of normalised images."""
        features = self.layer3(self.layer2(self.layer1(self.prep(images_NCHW))))
        logits_NK: Tensor = self.fc(self.dropout(self.pool(features))) * LOGIT_SCALE
        return logits_NK


def build_model(
    num_classes: int = 10, width: float = 1.0, *, dropout: float = 0.0, ghost_batch: int = 0, seed: int | None = None
) -> ResNet3:
    """The network with fresh weights; with `seed`, always the same ones, and torch's own random state is left alone."""
    if seed is None:
        return ResNet3(num_classes, width, dropout, ghost_batch)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators' generators too
        return ResNet3(num_classes, width, dropout, ghost_batch)


@torch.no_grad()
def whiten(model: ResNet3, images_NCHW: Tensor) -> None:
    """Let prep's filters begin as the principal components of these images' 3x3 patches, each with both signs.

    The largest first, all as long as torch's own are on average: batch norm takes no notice of that, but a step does.
    Components along which the patches do not vary are left out, as two thirds of them where pictures are grey: batch
    norm would make a signal of their rounding. Filters beyond the components keep their weights; all train on.
    A network too narrow for all of them keeps all of its weights: the largest alone are blobs of colour without an
    edge, and learn worse than no component.
    Source: the first layer of https://myrtle.ai/learn/how-to-train-your-resnet-8-bag-of-tricks; there it is not
    trained, has each component once and divides it by its spread, which batch norm does here.
    """
    weight = model.prep[0].weight
    assert isinstance(weight, Tensor)
    patches_FP = functional.unfold(images_NCHW, 3).transpose(0, 1).flatten(1).double()
    variances_C, components_FC = torch.linalg.eigh(torch.cov(patches_FP))  # in columns, the largest last
    components_CF = components_FC.T[variances_C > VARIANCE_MIN * variances_C[-1]].flip(0)
    signed = torch.stack([components_CF, -components_CF], dim=1).view(-1, *weight.shape[1:])
    if len(signed) <= len(weight):
        weight[: len(signed)] = signed.to(weight) * weight.flatten(1).norm(dim=1).mean()


def pass_on(model: ResNet3) -> None:
    """Let the first filters of each layer's own convolution be the identity: what comes in goes on, beside the rest.

    Source: the initial weights of https://arxiv.org/abs/2404.00498.
    """
    for layer in (model.layer1.x, model.layer2, model.layer3.x):
        weight = layer[0].weight
        assert isinstance(weight, Tensor)
        nn.init.dirac_(weight.data[: weight.shape[1]])


@dataclass(frozen=True)
class LayerRow:
    """One line of the layer table: what it does, the shape it gives (N left out) and its parameters."""

    name: str
    operations: str
    shape: tuple[int, ...]
    num_parameters: int


def layer_table(model: ResNet3) -> list[LayerRow]:
    """The network's stages in order, with the output shape that a 3 x 32 x 32 image gives in each."""
    stages = ["prep", "layer1.x", "layer1.res", "layer2", "layer3.x", "layer3.res", "pool", "fc"]
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:]))
        )
        for name in stages
    ]
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters())
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, 32, 32, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return [_row(name, model.get_submodule(name), shapes[name]) for name in stages]


def _row(name: str, module: nn.Module, shape: tuple[int, ...]) -> LayerRow:
    names = {"Conv2d": "Conv3x3", "GhostNorm": "BN", "MaxPool2d": "MaxPool"}
    operations = []
    for part in module.modules():
        if not list(part.children()):
            kind = type(part).__name__
            size = str(part.kernel_size) if isinstance(part, nn.MaxPool2d) else ""
            operations.append(names.get(kind, kind) + size)
    return LayerRow(name, " > ".join(operations), shape, sum(p.numel() for p in module.parameters()))
