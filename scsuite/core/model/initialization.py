"""Initial weights that the default recipe sets on top of torch's own.

In: a fresh network, and normalised training images. Out: the same network with some of its filters replaced.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.model.network import ResNet3

# Relative to the largest eigenvalue: the smallest of CIFAR-10 as JPEG files has 3e-6, those of gray images 1e-16.
MIN_RELATIVE_VARIANCE = 1e-8


@torch.no_grad()
def whitening_init(model: ResNet3, images_NCHW: Tensor) -> None:
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
    components_CF = components_FC.T[variances_C > MIN_RELATIVE_VARIANCE * variances_C[-1]].flip(0)
    signed = torch.stack([components_CF, -components_CF], dim=1).view(-1, *weight.shape[1:])
    if len(signed) <= len(weight):
        weight[: len(signed)] = signed.to(weight) * weight.flatten(1).norm(dim=1).mean()


def identity_init(model: ResNet3) -> None:
    """Let the first filters of each layer's own convolution be the identity: what comes in goes on, beside the rest.

    Source: the initial weights of https://arxiv.org/abs/2404.00498.
    """
    for layer in (model.layer1.x, model.layer2, model.layer3.x):
        weight = layer[0].weight
        assert isinstance(weight, Tensor)
        nn.init.dirac_(weight.data[: weight.shape[1]])
