"""Whether a map can be trusted: does the answer depend on the pixels it marks, and do they lie on the object?

In: heatmaps_NHW of `maps.grad_cam` (any size, nothing below 0), with the network and its images, or with masks of the
objects. Out: scores, each beside what a map that knows nothing would have.
Shapes: N images of H x W pixels, P = H * W of them in a row.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scsuite.core.cam.maps import CAM_BATCH, in_eval_mode
from scsuite.core.seeding import keyed_seed

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

STEPS = 16  # of erasure, each of the same number of pixels: 64 of 32 x 32
ERASED_MAX = 100  # images; erasing one takes 68 forward passes, and a mean over a hundred is good to a few percent
REACH = 4  # pixels; the pointing game forgives a miss by less, half of what a pixel of an 8 x 8 map covers
TIE = 1e-6  # of the maximum; values closer than this differ by rounding alone


@dataclass(frozen=True)
class Erasure:
    """Areas in [0, 1] under the class's probability while pixels go from important to unimportant, one an image.

    Deletion greys them out: a low area says that the map found what the answer stands on. Insertion uncovers them on a
    grey picture: a high area says so. `random_*`: the same for a random order of the pixels.
    Petsiuk et al., https://arxiv.org/abs/1806.07421, with the same grey for both (theirs uncovers a blurred picture).
    """

    deletion_N: Floats
    insertion_N: Floats
    random_deletion_N: Floats
    random_insertion_N: Floats


@dataclass(frozen=True)
class Pointing:
    """Of each image: does the map's maximum hit the object, and which share of the positive evidence lies on it?

    A hit is a maximum in the filled mask grown by REACH pixels; where several pixels share the maximum, the share of
    them that hit. `centre_N` and `random_N` are the middle of the picture and a random point under the same rule;
    `area_N` is the share of evidence of a map that is the same everywhere. An empty map misses and has no share.
    """

    hit_N: Floats
    centre_N: Floats
    random_N: Floats
    inside_N: Floats
    area_N: Floats


def erasure(
    model: nn.Module, images_NCHW: Tensor, targets: Sequence[int], maps_NHW: Floats, keys: Sequence[int]
) -> Erasure:
    """Deletion and insertion of normalised images, in batches; `keys` (an image's index) fix its random order.

    Grey is 0: the training images' mean. Pixels that a map does not tell apart go in the random order, so that a map
    that is the same everywhere scores what the random one does.
    """
    num_pixels = images_NCHW.shape[2:].numel()
    random_NP = np.stack([np.random.default_rng(keyed_seed(k, "random map")).permutation(num_pixels) for k in keys])
    map_NP = np.asarray(maps_NHW).reshape(len(maps_NHW), -1)
    order_NP = np.stack([o[np.argsort(-m[o], kind="stable")] for m, o in zip(map_NP, random_NP, strict=True)])
    targets_N = torch.as_tensor(targets)
    with in_eval_mode(model):
        orders = (order_NP, order_NP[:, ::-1], random_NP, random_NP[:, ::-1])
        areas = [_area(model, images_NCHW, targets_N, torch.from_numpy(order.copy())) for order in orders]
    # What is greyed out in one order is what is uncovered in the reverse, read backwards: the areas are the same.
    return Erasure(*areas)


def _area(model: nn.Module, images_NCHW: Tensor, targets_N: Tensor, order_NP: Tensor) -> Floats:
    """Area under the class's probability, by trapezoids, while pixels become grey in this order."""
    rank_NHW = torch.argsort(order_NP).view(-1, *images_NCHW.shape[2:])
    curve = []
    for step in range(STEPS + 1):
        kept_NHW = rank_NHW >= step * order_NP.shape[1] / STEPS
        curve.append(_probabilities(model, images_NCHW * kept_NHW[:, None], targets_N))
    return torch.trapezoid(torch.stack(curve), dx=1 / STEPS, dim=0).numpy()


@torch.inference_mode()
def _probabilities(model: nn.Module, images_NCHW: Tensor, targets_N: Tensor) -> Tensor:
    parameter = next(model.parameters())
    parts = []
    for images, targets in zip(torch.split(images_NCHW, CAM_BATCH), torch.split(targets_N, CAM_BATCH), strict=True):
        shares_NK = model(images.to(parameter.device, parameter.dtype)).softmax(dim=1).cpu()
        parts.append(shares_NK.gather(1, targets[:, None])[:, 0])
    return torch.cat(parts)


def pointing(maps_NHW: Floats, masks_NHW: Bools) -> Pointing:
    """The pointing game, and the share of evidence, against masks of the maps' size."""
    near_NHW = grown(filled(masks_NHW), REACH)
    peaks_N11 = maps_NHW.max(axis=(1, 2), keepdims=True)
    tops_NHW = (maps_NHW >= peaks_N11 * (1 - TIE)) & (peaks_N11 > 0)
    return Pointing(
        hit_N=_share(near_NHW, tops_NHW),
        centre_N=_share(near_NHW, np.broadcast_to(_middle(near_NHW.shape[1:]), near_NHW.shape)),
        random_N=near_NHW.mean(axis=(1, 2), dtype=np.float32),
        inside_N=_share(masks_NHW, maps_NHW),
        area_N=masks_NHW.mean(axis=(1, 2), dtype=np.float32),
    )


def _share(part_NHW: Bools, of_NHW: Floats | Bools) -> Floats:
    """Of a quantity over each picture, the share within a part of it; 0 where there is none of it."""
    whole_N = of_NHW.sum(axis=(1, 2), dtype=np.float64)
    within_N = (of_NHW * part_NHW).sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(within_N / np.where(whole_N > 0, whole_N, 1), np.float32)


def _middle(shape: tuple[int, ...]) -> Bools:
    """The middle pixel of a picture, or the two or four that share the middle."""
    rows, columns = (np.abs(np.arange(n) - (n - 1) / 2) < 1 for n in shape)
    return np.asarray(rows[:, None] & columns)


def filled(masks_NHW: Bools) -> Bools:
    """Masks with their holes: all that a walk from outside the picture, over the four neighbours, does not reach."""
    open_NHW = ~np.pad(masks_NHW, ((0, 0), (1, 1), (1, 1)))
    reached, further = np.zeros_like(open_NHW), np.zeros_like(open_NHW)
    further[:, 0] = True
    while (further != reached).any():
        reached = further
        further = (reached | grown(reached, 1)) & open_NHW  # a disc of radius 1: the four neighbours
    return np.asarray(~reached[:, 1:-1, 1:-1])


def grown(masks_NHW: Bools, radius: int) -> Bools:
    """Masks with all pixels whose centres lie within `radius` of one of theirs."""
    height, width = masks_NHW.shape[1:]
    padded = np.pad(masks_NHW, ((0, 0), (radius, radius), (radius, radius)))
    near_NHW = np.zeros_like(masks_NHW)
    for i, j in itertools.product(range(-radius, radius + 1), repeat=2):
        if i * i + j * j <= radius * radius:
            near_NHW |= padded[:, radius + i : radius + i + height, radius + j : radius + j + width]
    return near_NHW


@dataclass(frozen=True)
class Trust:
    """Means over images that say whether one class's maps can be trusted, each beside what knows nothing.

    Fractions in [0, 1], see `Erasure` and `Pointing`; None without images, and where nobody told where the objects are.
    """

    num_images: int
    num_empty: int  # maps without positive evidence
    num_erased: int  # images that deletion and insertion were measured on: the first ERASED_MAX
    deletion: float | None = None
    deletion_random: float | None = None
    insertion: float | None = None
    insertion_random: float | None = None
    pointing: float | None = None
    pointing_random: float | None = None
    pointing_centre: float | None = None
    inside: float | None = None
    inside_random: float | None = None


def trust(
    model: nn.Module,
    images_NCHW: Tensor,
    targets: Sequence[int],
    maps_NHW: Floats,
    *,
    keys: Sequence[int],
    masks_NHW: Bools | None = None,
) -> Trust:
    """All scores of these maps, as means over the images; `keys` as in `erasure`."""
    if not len(maps_NHW):
        return Trust(num_images=0, num_empty=0, num_erased=0)
    some = slice(ERASED_MAX)
    erased = erasure(model, images_NCHW[some], targets[some], maps_NHW[some], keys[some])
    means = {
        "deletion": erased.deletion_N, "deletion_random": erased.random_deletion_N,
        "insertion": erased.insertion_N, "insertion_random": erased.random_insertion_N,
    }  # fmt: skip
    if masks_NHW is not None:
        pointed = pointing(maps_NHW, masks_NHW)
        means |= {
            "pointing": pointed.hit_N, "pointing_random": pointed.random_N, "pointing_centre": pointed.centre_N,
            "inside": pointed.inside_N, "inside_random": pointed.area_N,
        }  # fmt: skip
    return Trust(
        num_images=len(maps_NHW),
        num_empty=int((maps_NHW.max(axis=(1, 2)) <= 0).sum()),
        num_erased=len(erased.deletion_N),
        **{name: float(values_N.mean()) for name, values_N in means.items()},
    )
