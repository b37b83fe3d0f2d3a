"""The learning rate that other range tests would pick from a sweep of ours, as they compute it.

In: the rates of a sweep and the raw training losses (L, both from its first step on). Out: their suggestion.
test_rivals.py holds both against the packages themselves. A sweep of too few steps (17; Lightning's 13) is an error
there and here. Where a sweep ended before their own threshold did, they answer for what there is.
"""

import numpy as np
import torch
from numpy.typing import NDArray

Curve = NDArray[np.float64]


def torch_lr_finder(lrs_L: Curve, losses_L: Curve) -> float:
    """torch-lr-finder 0.2.2: steepest fall from point to point of an average without bias correction.

    Source: range_test and plot in https://github.com/davidtvs/pytorch-lr-finder/blob/master/torch_lr_finder/lr_finder.py
    """
    smooth = [float(losses_L[0])]
    for loss in losses_L[1:].tolist():
        smooth.append(0.05 * loss + 0.95 * smooth[-1])
        if smooth[-1] > 5 * min(smooth):  # the step that diverges is kept
            break
    kept = slice(10, len(smooth) - 5)
    return float(lrs_L[kept][np.gradient(smooth[kept]).argmin()])


def lightning(lrs_L: Curve, losses_L: Curve) -> float:
    """Lightning 2.6.6: steepest fall per rate, not per log rate, whatever the sweep.

    Its step counts from 1 where the average is corrected, so the first values are too small: 0.505 of the loss, then
    0.67 of it. Single precision, as there: neighbouring slopes may tie.
    Source: _LRCallback and _LRFinder.suggestion in
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.6/src/lightning/pytorch/tuner/lr_finder.py
    """
    average, smooth = 0.0, list[float]()
    for step, loss in enumerate(losses_L.tolist(), 1):
        average = 0.98 * average + (1 - 0.98) * loss
        smooth.append(average / (1 - 0.98 ** (step + 1)))
        if smooth[-1] > 4 * min(smooth):  # the step that diverges is kept
            break
    kept = slice(10, len(smooth) - 1)
    spacing = torch.tensor(lrs_L[kept], dtype=torch.float32)
    (slopes,) = torch.gradient(torch.tensor(smooth[kept], dtype=torch.float32), spacing=[spacing])
    return float(lrs_L[kept][int(slopes.argmin())])
