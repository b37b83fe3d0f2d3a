"""Faithfulness of maps: does the prediction depend on the pixels that a map marks, and are they on the object?

In: heatmaps_NHW of `maps.grad_cam` (any size, 0 or more), with the network and its images, or with masks of the
objects. Out: scores, each next to the score of a map without information.
Shapes: N images of H x W pixels, P = H * W of them in a row.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scsuite.core.cam.maps import CAM_BATCH
from scsuite.core.model.network import evaluation_mode
from scsuite.core.seeding import keyed_seed

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

NUM_DELETION_STEPS = 16  # each of the same number of pixels: 64 of 32 x 32
# Images whose deletion and insertion are computed: one image needs 68 forward passes, and the mean over a hundred is
# accurate to a few percent.
MAX_SCORED_IMAGES = 100
POINTING_TOLERANCE_PX = 4  # half the width of a pixel of an 8 x 8 map; a maximum this close to the object is a hit
TIE_TOLERANCE = 1e-6  # fraction of the maximum; values closer than this differ only by rounding


@dataclass(frozen=True)
class DeletionInsertion:
    """Areas in [0, 1] under the curve of the class probability, per image, from the most to the least important pixel.

    The probability is that of an evaluation, at the network's temperature. Deletion makes the pixels gray: a small area
    means that the prediction depends on the pixels that the map marks. Insertion starts with a gray image and
    restores them: a large area means the same. `random_*`: in random order. Petsiuk et al.,
    https://arxiv.org/abs/1806.07421, but with gray for both (the paper inserts into a blurred image).
    """

    deletion_N: Floats
    insertion_N: Floats
    random_deletion_N: Floats
    random_insertion_N: Floats


@dataclass(frozen=True)
class Pointing:
    """For each image: is the map's maximum on the object, and what fraction of its evidence is?

    A hit is a maximum within POINTING_TOLERANCE_PX of the mask without holes. If several pixels share the maximum, the
    hit is the fraction of them that hit. `centre_N` and `random_N` are the image center and a random point under the
    same rule. `energy_on_object_N` is the fraction of the evidence inside the mask ("energy-based pointing game", Wang
    et al., Score-CAM, https://arxiv.org/abs/1910.01279); `energy_on_object_random_N` is that of a constant map. A map
    without evidence has no hit and a fraction of 0.
    """

    hit_N: Floats
    centre_N: Floats
    random_N: Floats
    energy_on_object_N: Floats
    energy_on_object_random_N: Floats


def deletion_insertion(
    model: nn.Module, images_NCHW: Tensor, classes: Sequence[int], maps_NHW: Floats, image_ids: Sequence[int]
) -> DeletionInsertion:
    """Compute deletion and insertion of normalised images; `image_ids` (indices in the split) fix the random orders.

    Gray is 0, the mean of the training images. Pixels with equal map values are in random order, so a constant map has
    the scores of a random one.
    """
    num_pixels = images_NCHW.shape[2:].numel()
    random_NP = np.stack(
        [np.random.default_rng(keyed_seed(i, "random map")).permutation(num_pixels) for i in image_ids]
    )
    map_NP = np.asarray(maps_NHW).reshape(len(maps_NHW), -1)
    order_NP = np.stack([o[np.argsort(-m[o], kind="stable")] for m, o in zip(map_NP, random_NP, strict=True)])
    classes_N = torch.as_tensor(classes)
    # Insertion in one order restores what deletion in the reverse order removes, step by step backwards: equal areas.
    orders = (order_NP, order_NP[:, ::-1], random_NP, random_NP[:, ::-1])
    with evaluation_mode(model):
        areas = [_curve_area(model, images_NCHW, classes_N, torch.from_numpy(order.copy())) for order in orders]
    return DeletionInsertion(*areas)


def _curve_area(model: nn.Module, images_NCHW: Tensor, classes_N: Tensor, order_NP: Tensor) -> Floats:
    """Return the area under the class probability (trapezoidal rule) while pixels become gray in this order."""
    rank_NHW = torch.argsort(order_NP).view(-1, *images_NCHW.shape[2:])
    curve = []
    for step in range(NUM_DELETION_STEPS + 1):
        mask_NHW = rank_NHW >= step * order_NP.shape[1] / NUM_DELETION_STEPS
        curve.append(_probabilities(model, images_NCHW * mask_NHW[:, None], classes_N))
    return torch.trapezoid(torch.stack(curve), dx=1 / NUM_DELETION_STEPS, dim=0).numpy()


@torch.inference_mode()
def _probabilities(model: nn.Module, images_NCHW: Tensor, classes_N: Tensor) -> Tensor:
    """Return each image's probability of its class."""
    parameter = next(model.parameters())
    batches = []
    for images, classes in zip(torch.split(images_NCHW, CAM_BATCH), torch.split(classes_N, CAM_BATCH), strict=True):
        probabilities_NK = model(images.to(parameter.device, parameter.dtype)).softmax(dim=1).cpu()
        batches.append(probabilities_NK.gather(1, classes[:, None])[:, 0])
    return torch.cat(batches)


def pointing(maps_NHW: Floats, masks_NHW: Bools) -> Pointing:
    """Score the maximum of each map (pointing game) and its evidence on the object; masks have the size of the maps."""
    targets_NHW = dilate(fill_holes(masks_NHW), POINTING_TOLERANCE_PX)
    maxima_N11 = maps_NHW.max(axis=(1, 2), keepdims=True)
    is_maximum_NHW = (maps_NHW >= maxima_N11 * (1 - TIE_TOLERANCE)) & (maxima_N11 > 0)
    center_NHW = np.broadcast_to(_center_mask(targets_NHW.shape[1:]), targets_NHW.shape)
    return Pointing(
        hit_N=_fraction_inside(targets_NHW, is_maximum_NHW),
        centre_N=_fraction_inside(targets_NHW, center_NHW),
        random_N=targets_NHW.mean(axis=(1, 2), dtype=np.float32),
        energy_on_object_N=_fraction_inside(masks_NHW, maps_NHW),
        energy_on_object_random_N=masks_NHW.mean(axis=(1, 2), dtype=np.float32),
    )


def _fraction_inside(masks_NHW: Bools, values_NHW: Floats | Bools) -> Floats:
    """Return the fraction of each image's sum of values that is inside its mask; 0 for a sum of 0."""
    total_N = values_NHW.sum(axis=(1, 2), dtype=np.float64)
    inside_N = (values_NHW * masks_NHW).sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(inside_N / np.where(total_N > 0, total_N, 1), np.float32)


def _center_mask(shape: tuple[int, ...]) -> Bools:
    """Return a mask of the center pixel, or of the two or four center pixels of an even size."""
    rows, columns = (np.abs(np.arange(n) - (n - 1) / 2) < 1 for n in shape)
    return np.asarray(rows[:, None] & columns)


def fill_holes(masks_NHW: Bools) -> Bools:
    """Return masks without holes: all pixels that no path of 4-neighbours from outside the image reaches."""
    free_NHW = ~np.pad(masks_NHW, ((0, 0), (1, 1), (1, 1)))
    outside_NHW, next_NHW = np.zeros_like(free_NHW), np.zeros_like(free_NHW)
    next_NHW[:, 0] = True
    while (next_NHW != outside_NHW).any():
        outside_NHW = next_NHW
        next_NHW = (outside_NHW | dilate(outside_NHW, 1)) & free_NHW  # a disc of radius 1: the four neighbours
    return np.asarray(~outside_NHW[:, 1:-1, 1:-1])


def dilate(masks_NHW: Bools, radius: int) -> Bools:
    """Return masks extended by all pixels whose center is within `radius` of the center of a pixel of the mask."""
    height, width = masks_NHW.shape[1:]
    padded = np.pad(masks_NHW, ((0, 0), (radius, radius), (radius, radius)))
    dilated_NHW = np.zeros_like(masks_NHW)
    for i, j in itertools.product(range(-radius, radius + 1), repeat=2):
        if i * i + j * j <= radius * radius:
            dilated_NHW |= padded[:, radius + i : radius + i + height, radius + j : radius + j + width]
    return dilated_NHW


@dataclass(frozen=True)
class Faithfulness:
    """Means over images of the scores of the maps for one class per image, each next to a score without information.

    Fractions in [0, 1], see `DeletionInsertion` and `Pointing`; None without images, and without masks of the objects.
    """

    num_images: int
    num_no_evidence: int  # maps without positive evidence
    num_scored: int  # images of deletion and insertion: the first MAX_SCORED_IMAGES
    deletion: float | None = None
    deletion_random: float | None = None
    insertion: float | None = None
    insertion_random: float | None = None
    pointing: float | None = None
    pointing_random: float | None = None
    pointing_centre: float | None = None
    energy_on_object: float | None = None
    energy_on_object_random: float | None = None


def score_faithfulness(
    model: nn.Module,
    images_NCHW: Tensor,
    classes: Sequence[int],
    maps_NHW: Floats,
    *,
    image_ids: Sequence[int],
    masks_NHW: Bools | None = None,
) -> Faithfulness:
    """Return all scores of these maps as means over the images; `image_ids` as in `deletion_insertion`."""
    if not len(maps_NHW):
        return Faithfulness(num_images=0, num_no_evidence=0, num_scored=0)
    scored = slice(MAX_SCORED_IMAGES)
    curves = deletion_insertion(model, images_NCHW[scored], classes[scored], maps_NHW[scored], image_ids[scored])
    scores = {
        "deletion": curves.deletion_N, "deletion_random": curves.random_deletion_N,
        "insertion": curves.insertion_N, "insertion_random": curves.random_insertion_N,
    }  # fmt: skip
    if masks_NHW is not None:
        on_object = pointing(maps_NHW, masks_NHW)
        scores |= {
            "pointing": on_object.hit_N, "pointing_random": on_object.random_N, "pointing_centre": on_object.centre_N,
            "energy_on_object": on_object.energy_on_object_N,
            "energy_on_object_random": on_object.energy_on_object_random_N,
        }  # fmt: skip
    return Faithfulness(
        num_images=len(maps_NHW),
        num_no_evidence=int((maps_NHW.max(axis=(1, 2)) <= 0).sum()),
        num_scored=len(curves.deletion_N),
        **{name: float(values_N.mean()) for name, values_N in scores.items()},
    )
