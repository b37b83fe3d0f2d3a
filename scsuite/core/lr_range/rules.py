"""The rules that read learning rates off a range test: those of the literature, ours and its reason.

In: sweeps of L steps. Out: the suggestion of each rule, and the LR bounds (lr_min, lr_max) with a reason and warnings.
All are pure functions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from scsuite.core.config import MIN_RANGE_TEST_STEPS, RecipeConfig
from scsuite.core.lr_range.sweep import NUM_WARMUP_STEPS, Float1D, LrSweep, first_turn

FALL_START_FRACTION = 0.1  # fraction of the loss drop that is reached at LRMIN
VALLEY_FRACTION = 0.1  # fraction of the loss drop: values within it of the minimum belong to the valley
# A drop or rise of the smoothed loss counts only if it is this many times its noise. In the study, the loss of networks
# that learn drops by at least 16.8 times its noise; that of networks that do not learn drops by up to 13.2 times and
# rises by up to 9.1 times its noise, because the first losses of an untrained network differ from those of a constant.
MIN_SIGNAL_TO_NOISE = 15.0
# The reference LR at width 1, in a training of REFERENCE_STEPS steps of REFERENCE_BATCH_SIZE images; `reference_lr_max`
# scales it. SGD: cifar10-fast's 0.4 over its 24 epochs of 50,000 images. AdamW: from 0.032 at width 0.125 in 200 steps,
# the best and the highest LR of the only grid that was trained (`runs/reference/adamw`); not verified at width 1.
REFERENCE_LR_MAX = {"sgd": 0.4, "adamw": 0.006}
REFERENCE_BATCH_SIZE, REFERENCE_STEPS = 512, 24 * 98
SHORT_TRAINING_STEPS = 192  # of the study's shortest training; shorter ones need a lower LR (`runs/reference/short`)
# Allowed ratios of LRMAX to the middle of the loss valley: about half and twice those that the best LRs had. These were
# 0.05 to 1.5 in the settings of the study, and 1.8 for cifar10-fast's 0.4 at width 1.
MIN_VALLEY_RATIO, MAX_VALLEY_RATIO = 1 / 32, 4.0
# LRMAX of a user's own network, for which there is no reference LR, as a ratio to the middle of the loss valley. The
# best LRs of scsuite's network in `runs/reference` have ratios of 0.27 to 2.0, geometric mean 0.7.
OWN_VALLEY_RATIO = 0.5
OWN_BOUND_RATIO = 0.1  # of LRMAX to its upper bound where the noise hides the valley


def steepest(lrs_L: Float1D, smooth_loss_L: Float1D) -> float:
    """Return the LR at which the loss falls fastest per log LR."""
    return float(lrs_L[np.gradient(smooth_loss_L, np.log(lrs_L)).argmin()])


def valley(lrs_L: Float1D, smooth_loss_L: Float1D) -> float:
    """Return the LR that fastai's rule `valley` reads off these losses: halfway along their longest decrease.

    The longest decrease is the longest decreasing subsequence, the first to end of equally long ones. fastai counts its
    span from `end - length`, one step early, and rounds a third and a sixth of it down. On the same losses the results
    are equal; fastai's own come from a slower average of the losses and from other steps of the sweep.
    Source: https://docs.fast.ai/callback.schedule.html
    """
    lengths = np.ones(len(smooth_loss_L), dtype=int)
    for step in range(1, len(lengths)):
        lengths[step] += lengths[:step][smooth_loss_L[:step] > smooth_loss_L[step]].max(initial=0)
    end = int(lengths.argmax())
    if end == 0:  # the loss never falls
        return float(lrs_L[0])
    span = int(lengths[end])
    return float(lrs_L[end - span + span // 3 + span // 6])


def minimum_over_10(lrs_L: Float1D, smooth_loss_L: Float1D) -> float:
    """Return a tenth of the LR with the lowest loss."""
    return float(lrs_L[smooth_loss_L.argmin()] / 10)


def accuracy_plateau(lrs_L: Float1D, smooth_accuracy_L: Float1D) -> float:
    """Return the LR at which the accuracy has made 95 % of its rise (Smith's max_lr)."""
    low, high = smooth_accuracy_L.min(), smooth_accuracy_L.max()
    return float(lrs_L[(smooth_accuracy_L >= low + 0.95 * (high - low)).argmax()])


def _descent(rule: Callable[[Float1D, Float1D], float], curve: str = "smooth_loss_L") -> Callable[[LrSweep], float]:
    """Return the rule for a sweep: it reads a curve from the warm-up on, up to the lowest loss before its first turn.

    The averages of the first steps are over too few steps: the steepest fall is often among them, by chance. After the
    turn no training works, but the loss can fall again, and more steeply than before.
    """

    def read(sweep: LrSweep) -> float:
        end = first_turn(sweep.smooth_loss_L, sweep.noise)[0] + 1
        descent = slice(min(NUM_WARMUP_STEPS - 1, end - 2), end)
        return rule(sweep.lrs_L[descent], getattr(sweep, curve)[descent])

    return read


RULES: dict[str, Callable[[LrSweep], float]] = {
    "steepest": _descent(steepest),
    "valley": _descent(valley),
    "minimum_over_10": _descent(minimum_over_10),
    "accuracy_plateau": _descent(accuracy_plateau, "smooth_accuracy_L"),
    "edge_of_divergence": _descent(lambda lrs_L, _: float(lrs_L[-1])),
}


class Landmarks(NamedTuple):
    """Learning rates read off a sweep: its first one, where the loss starts to fall, the middle of the loss valley.

    `fall_start_lr` and `valley_lr` are None where the noise hides the drop. LRMAX must not exceed `upper_bound`.
    """

    first_lr: float
    fall_start_lr: float | None
    valley_lr: float | None
    upper_bound: float
    upper_bound_reason: str


def find_landmarks(sweep: LrSweep) -> Landmarks:
    """Return the landmarks of a sweep.

    The loss starts to fall where FALL_START_FRACTION of its drop is reached (Smith's lower bound, section 3.3 of
    https://arxiv.org/abs/1506.01186). In the valley, before the first turn, the loss is within VALLEY_FRACTION of the
    drop from its minimum; the middle in log LR varies less between seeds than the minimum.
    """
    loss_L, lrs_L = sweep.smooth_loss_L, sweep.lrs_L
    lowest, turn = first_turn(loss_L, sweep.noise)
    first = NUM_WARMUP_STEPS - 1  # before it, the average is over too few steps
    start_loss, lowest_loss = loss_L[first], loss_L[lowest]
    first_lr, upper_bound = float(lrs_L[0]), _upper_bound(sweep)
    drop = start_loss - lowest_loss
    if drop < MIN_SIGNAL_TO_NOISE * sweep.noise:
        return Landmarks(first_lr, None, None, *upper_bound)
    fall_start = first + int((loss_L[first : lowest + 1] <= start_loss - FALL_START_FRACTION * drop).argmax())
    valley_steps = first + np.flatnonzero(loss_L[first:turn] <= lowest_loss + VALLEY_FRACTION * drop)
    valley_lr = geometric_mean([float(lrs_L[valley_steps[0]]), float(lrs_L[valley_steps[-1]])])
    return Landmarks(first_lr, float(lrs_L[fall_start]), valley_lr, *upper_bound)


def _upper_bound(sweep: LrSweep) -> tuple[float, str]:
    """Return the highest LRMAX that the sweep allows, and its reason.

    A first turn is not treated as divergence, since the loss often falls again; a rise above its start is. Half the LR
    is returned because the moving average lags.
    """
    first, last_lr = NUM_WARMUP_STEPS - 1, float(sweep.lrs_L[-1])
    above = np.flatnonzero(sweep.smooth_loss_L > sweep.smooth_loss_L[first] + MIN_SIGNAL_TO_NOISE * sweep.noise)
    above = above[above > first]
    if len(above):
        return float(sweep.lrs_L[above[0]]) / 2, "half the LR at which the loss rose above its start"
    if sweep.diverged:
        return last_lr / 2, "half the LR at which the loss diverged"
    return last_lr, "the last LR of the test"


def reference_lr_max(config: RecipeConfig, num_steps: int) -> float:
    """Return LRMAX of a training of `num_steps` steps by the scaling rule, before any range test.

    lr_max = 0.4 * sqrt(batch / 512 / width) * (2352 / steps) ** 0.25; below 192 steps the steps count as 192 and the
    result is multiplied by sqrt(steps / 192). `tests.studies.rule_search` compares these powers with others.
    A cycled momentum has a mean near 0.9 and the same reference LR. In the study, runs with cycled momentum and without
    gradient centralization did best at half this value; the study cannot separate the two causes.
    """
    size = config.batch_size / REFERENCE_BATCH_SIZE / config.width
    length = max(num_steps, SHORT_TRAINING_STEPS) / REFERENCE_STEPS
    short = min(1.0, num_steps / SHORT_TRAINING_STEPS)
    return REFERENCE_LR_MAX[config.optimizer] * math.sqrt(size * short) / math.pow(length, 1 / 4)


def choose_bounds(landmarks: Landmarks, reference_lr: float | None) -> tuple[float, float]:
    """Return (lr_min, lr_max): where the loss starts to fall, and the reference LR within the limits of the test.

    Without a reference LR, LRMAX is OWN_VALLEY_RATIO times the middle of the loss valley.

    A few steps from initial weights do not show what suits a long training: a wide network's early loss rises at LRs it
    tolerates later; a narrow one's still falls at LRs that are too noisy later. In the settings that the rule was
    derived from, the best LR depends on batch size, width and number of steps, and little on the loss valley. So the
    scaling rule sets LRMAX and the test only bounds it (`tests/studies` compares this with other rules).
    """
    (low, high), fall_start_lr, valley_lr = _allowed_lr_max(landmarks), landmarks.fall_start_lr, landmarks.valley_lr
    if reference_lr is None:
        reference_lr = OWN_BOUND_RATIO * high if valley_lr is None else OWN_VALLEY_RATIO * valley_lr
    lr_max = min(max(reference_lr, low), high)
    lr_min = max(lr_max / 30, landmarks.first_lr) if fall_start_lr is None else fall_start_lr
    return min(lr_min, lr_max / 3), lr_max


def allowed_lr_max(landmarks: Sequence[Landmarks]) -> tuple[float, float]:
    """Return the range that the test allows for LRMAX; of several repeats, the geometric means of its ends.

    The lower end is 0 where the noise hides the drop of the loss.
    """
    lows, highs = zip(*map(_allowed_lr_max, landmarks), strict=True)
    return (geometric_mean(lows) if min(lows) > 0 else 0.0), geometric_mean(highs)


def _allowed_lr_max(landmarks: Landmarks) -> tuple[float, float]:
    if landmarks.valley_lr is None:
        return 0.0, landmarks.upper_bound
    high = min(MAX_VALLEY_RATIO * landmarks.valley_lr, landmarks.upper_bound)
    return min(MIN_VALLEY_RATIO * landmarks.valley_lr, high), high


def lr_max_source(landmarks: Sequence[Landmarks], reference_lr: float | None) -> str:
    """Return what sets LRMAX: "scaling rule", or "limited by the test"; of several repeats, as in `explain`.

    Without a reference LR it is "from the test".
    """
    if reference_lr is None:
        return "from the test"
    lr_max = choose_bounds(_median_sweep(landmarks, reference_lr), reference_lr)[1]
    return "scaling rule" if lr_max == reference_lr else "limited by the test"


def _median_sweep(landmarks: Sequence[Landmarks], reference_lr: float | None) -> Landmarks:
    by_lr_max = sorted(landmarks, key=lambda marks: choose_bounds(marks, reference_lr)[1])
    return by_lr_max[(len(landmarks) - 1) // 2]


def explain(landmarks: Sequence[Landmarks], reference_lr: float | None) -> str:
    """Return the reason for the LR bounds; of several repeats, that of the repeat with the median LRMAX."""
    median_sweep = _median_sweep(landmarks, reference_lr)
    text = f"{_explain_lr_max(median_sweep, reference_lr)}; {_explain_lr_min(median_sweep, reference_lr)}."
    if len(landmarks) > 1:
        text = f"Median of {len(landmarks)} repeats: {text} The LR bounds are the geometric means over the repeats."
    return text


def _explain_lr_max(landmarks: Landmarks, reference_lr: float | None) -> str:
    lr_max, valley_lr = choose_bounds(landmarks, reference_lr)[1], landmarks.valley_lr
    if reference_lr is None:
        bound, own = landmarks.upper_bound_reason, "your own network has no reference LR"
        if valley_lr is None:
            return f"LRMAX = {lr_max:.2g}: {OWN_BOUND_RATIO:g} times {bound} (loss curve too noisy; {own})"
        is_limited = lr_max == landmarks.upper_bound
        text = bound if is_limited else f"{OWN_VALLEY_RATIO:g} times the middle of the loss valley, {valley_lr:.2g}"
        return f"LRMAX = {lr_max:.2g}: {text}; {own}, so the test sets LRMAX"
    reference = "reference LR for this width, batch size and number of steps"
    if lr_max == reference_lr:
        if valley_lr is None:
            return f"LRMAX = {lr_max:.2g}: {reference} (loss curve too noisy to adjust it)"
        low, high = _allowed_lr_max(landmarks)
        limits = f"{low:.2g} to {high:.2g}, loss valley at {valley_lr:.2g}"
        return f"LRMAX = {lr_max:.2g}: {reference}; the scaling rule sets LRMAX and the test only bounds it ({limits})"
    limit = landmarks.upper_bound_reason
    if lr_max != landmarks.upper_bound:
        ratio = f"{MAX_VALLEY_RATIO:g} times" if lr_max < reference_lr else f"1/{1 / MIN_VALLEY_RATIO:g} of"
        limit = f"{ratio} the middle of the loss valley, {valley_lr:.2g}"
    side = "below" if lr_max < reference_lr else "above"
    return f"LRMAX = {lr_max:.2g}: {limit}; {side} {reference_lr:.2g}, the {reference}"


def _explain_lr_min(landmarks: Landmarks, reference_lr: float | None) -> str:
    lr_min, lr_max = choose_bounds(landmarks, reference_lr)
    if lr_min == landmarks.fall_start_lr:
        return f"LRMIN = {lr_min:.2g}, where {FALL_START_FRACTION:.0%} of the loss drop is reached"
    if landmarks.fall_start_lr is not None:
        return f"LRMIN = LRMAX / 3, since {FALL_START_FRACTION:.0%} of the loss drop is reached only above it"
    if lr_min == landmarks.first_lr:
        return f"LRMIN = {lr_min:.2g}, the first LR of the test"
    return f"LRMIN = LRMAX / {lr_max / lr_min:.0f}"


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def make_warnings(
    sweeps: Sequence[LrSweep], landmarks: Sequence[Landmarks], lr_max_values: Sequence[float], num_steps: int,
    in_train: bool, *, has_reference: bool = True,
) -> Iterator[str]:  # fmt: skip
    """Yield what makes the LR bounds uncertain, from all repeats and the number of planned steps."""
    if num_steps < MIN_RANGE_TEST_STEPS:
        yield f"only {num_steps} steps: the LR bounds are uncertain; use {MIN_RANGE_TEST_STEPS} or more"
    if any(marks.valley_lr is None for marks in landmarks):
        value = "the reference LR" if has_reference else f"{OWN_BOUND_RATIO:g} times the upper bound"
        yield f"loss curve too noisy: using {value}; raise --bs, or {_hint('raise --steps', in_train)}"
    turns = [first_turn(sweep.smooth_loss_L, sweep.noise)[1] for sweep in sweeps]
    if not all(sweep.diverged or turn is not None for sweep, turn in zip(sweeps, turns, strict=True)):
        hint = _hint("raise --lr-end", in_train)
        yield f"the loss had not turned at the last LR: the upper bound may be higher; {hint}"
    ends = [2 * marks.upper_bound if marks.valley_lr is None else marks.valley_lr for marks in landmarks]
    if any(end <= sweep.lrs_L[: NUM_WARMUP_STEPS + 1][-1] for sweep, end in zip(sweeps, ends, strict=True)):
        yield f"the loss turned at the first LRs: {_hint('lower --lr-start', in_train)}"
    # LRMAX alone, which is the reference LR in most cases, would hide how much the tests differ.
    valley_lrs = [marks.valley_lr for marks in landmarks if marks.valley_lr is not None]
    if any(lrs and max(lrs) > 2 * min(lrs) for lrs in (valley_lrs, lr_max_values)):
        valleys = f"loss valley at {min(valley_lrs):.3g} to {max(valley_lrs):.3g}, " if valley_lrs else ""
        lr_max = f"LRMAX {min(lr_max_values):.3g} to {max(lr_max_values):.3g}"
        yield f"the repeats disagree by more than a factor of two: {valleys}{lr_max}"


def _hint(change: str, in_train: bool) -> str:
    """Return what to do about a warning: a change of an option that lr-range has and `train` lacks."""
    if not in_train:
        return change
    option = change.replace("raise", "a higher").replace("lower", "a lower")
    return f"run scsuite lr-range with {option} and give its run to --lr-from"
