"""The learning rate that other range tests would suggest for a sweep of ours, computed as they compute it.

In: learning rates and raw training losses of a sweep (L, both from its first step on). Out: the suggestion.
test_baselines.py compares both with the packages. A sweep that is too short (fewer than 17 steps; Lightning 13) is an
error there and here. If our sweep ended before their own threshold, they suggest from the steps that exist.
"""

import numpy as np
import torch

from scsuite.core.lr_range.sweep import Float1D


def torch_lr_finder(lrs_L: Float1D, losses_L: Float1D) -> float:
    """Return the suggestion of torch-lr-finder 0.2.2: the steepest fall of an average without bias correction.

    Source: range_test and plot in https://github.com/davidtvs/pytorch-lr-finder/blob/master/torch_lr_finder/lr_finder.py
    """
    smooth = [float(losses_L[0])]
    for loss in losses_L[1:].tolist():
        smooth.append(0.05 * loss + 0.95 * smooth[-1])
        if smooth[-1] > 5 * min(smooth):  # the step that diverges is included
            break
    used = slice(10, len(smooth) - 5)
    return float(lrs_L[used][np.gradient(smooth[used]).argmin()])


def lightning(lrs_L: Float1D, losses_L: Float1D) -> float:
    """Return the suggestion of Lightning 2.6.6: the steepest fall per LR, not per log LR, for both curves.

    Its bias correction counts steps from 1, so the first values are too small: 0.505 times the loss, then 0.67 times.
    Single precision, as there, because neighbouring slopes can tie.
    Source: _LRCallback and _LRFinder.suggestion in
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.6/src/lightning/pytorch/tuner/lr_finder.py
    """
    average, smooth = 0.0, list[float]()
    for step, loss in enumerate(losses_L.tolist(), 1):
        average = 0.98 * average + (1 - 0.98) * loss
        smooth.append(average / (1 - 0.98 ** (step + 1)))
        if smooth[-1] > 4 * min(smooth):  # the step that diverges is included
            break
    used = slice(10, len(smooth) - 1)
    spacing = torch.tensor(lrs_L[used], dtype=torch.float32)
    (slopes,) = torch.gradient(torch.tensor(smooth[used], dtype=torch.float32), spacing=[spacing])
    return float(lrs_L[used][int(slopes.argmin())])
