"""Initial weights that the default recipe sets on top of torch's own.

In: a new network, and normalised training images. Out: the same network with some of its filters replaced.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scsuite.core.model.network import ResNet3

# Relative to the largest eigenvalue: the smallest of CIFAR-10 as JPEG files has 3e-6, those of gray images 1e-16.
MIN_RELATIVE_VARIANCE = 1e-8


@torch.no_grad()
def whitening_init(model: ResNet3, images_NCHW: Tensor) -> None:
    """Initialise prep's filters with +/- the principal components of these images' 3x3 patches, largest first.

    The filters are rescaled to the mean norm of torch's default initialisation: batch norm is scale-invariant, but the
    effective step size is not. Components with almost no variance are omitted (two thirds of them for gray images),
    because batch norm would amplify their rounding errors. The other filters keep their weights. All filters are
    trained. A network with too few filters for them keeps all of its weights: with the first components alone, which
    are color blobs without edges, it learns worse than with none.
    Source: the first layer of https://myrtle.ai/learn/how-to-train-your-resnet-8-bag-of-tricks. There it is not
    trained, has each component once, and divides by its standard deviation, which batch norm does here.
    """
    weight = model.prep[0].weight
    assert isinstance(weight, Tensor)
    patches_FP = functional.unfold(images_NCHW, 3).transpose(0, 1).flatten(1).double()
    eigenvalues_C, components_FC = torch.linalg.eigh(torch.cov(patches_FP))  # in columns, the largest last
    components_CF = components_FC.T[eigenvalues_C > MIN_RELATIVE_VARIANCE * eigenvalues_C[-1]].flip(0)
    plus_and_minus_filters = torch.stack([components_CF, -components_CF], dim=1).view(-1, *weight.shape[1:])
    num_filters = len(plus_and_minus_filters)
    if num_filters <= len(weight):
        weight[:num_filters] = plus_and_minus_filters.to(weight) * weight.flatten(1).norm(dim=1).mean()


def identity_init(model: ResNet3) -> None:
    """Set the first C_in filters of each layer's first convolution to the identity (Dirac) kernel.

    Source: the initial weights of https://arxiv.org/abs/2404.00498.
    """
    for layer in (model.layer1.x, model.layer2, model.layer3.x):
        weight = layer[0].weight
        assert isinstance(weight, Tensor)
        nn.init.dirac_(weight.data[: weight.shape[1]])
