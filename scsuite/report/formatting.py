"""How numbers and names are written in tables and figures.

In: plain values from core: fractions, losses, learning rates, counts, names. Out: short strings without markup.
"""

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MISSING = "-"
_MAX_CLASSES = 12  # names in a line

_CAM_METHODS = {
    "gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "hirescam": "HiResCAM", "layercam": "LayerCAM",
    "xgradcam": "XGrad-CAM",
}  # fmt: skip
_RULE_LABELS = {"minimum_over_10": "minimum / 10"}  # the others are their keys with spaces


def percent(fraction: float | None, decimals: int = 2) -> str:
    """Write `0.9312` as `93.12 %`, and a missing or non-finite value as `-`."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return f"{100 * float(fraction):.{decimals}f} %"


def number(value: float | None, decimals: int = 4) -> str:
    """Write a loss or another number, and a missing value as `-`. The huge loss of a diverged training stays short."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:.{decimals}f}" if abs(value) < 1e5 else f"{value:.2e}"


def learning_rate(value: float | None) -> str:
    """Write a learning rate with three digits: `0.4`, `0.0416`, `1e-05`."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.3g}"


def count(value: float) -> str:
    """Write `6573120` as `6,573,120`."""
    return f"{value:,.0f}" if math.isfinite(value) else MISSING


def recipe(name: str, changes: Mapping[str, Any]) -> str:
    """Write a recipe and the settings that differ from it: `assignment, with label smoothing 0.1, width 0.5`."""
    settings = ", ".join(f"{setting.replace('_', ' ')} {value}" for setting, value in changes.items())
    return f"{name}, with {settings}" if settings else name


def interval(bounds: Sequence[float] | None) -> str:
    """Write the two ends of an interval of fractions as `93.13 to 95.93 %`, and a missing one as `-`."""
    if bounds is None:
        return MISSING
    low, high = (percent(bound) for bound in bounds)
    return f"{low.removesuffix(' %')} to {high}"


def points(fraction: float | None) -> str:
    """Write a difference of two fractions as percentage points with its sign: `+0.25`."""
    return MISSING if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:+.2f}"


def duration(seconds: float | None) -> str:
    """Write seconds as `45 s`, `2 min 05 s` or `1 h 08 min`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def option_value(value: Any) -> str:
    """Write the value of an option as a user would: `yes`, `no`, `-` for none, a number with up to six digits."""
    if value is None or value == ():
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def rule_label(name: str) -> str:
    """Return the label of a rule of the range test: `edge of divergence` for `edge_of_divergence`."""
    return _RULE_LABELS.get(name, name.replace("_", " "))


def cam_title(method: str, layer: str, images: str) -> str:
    """Return the title of a figure of maps: `Grad-CAM (HiResCAM, layer2): 25 misclassified images of 134`."""
    name = _CAM_METHODS.get(method, method)
    return f"Grad-CAM ({'' if name == 'Grad-CAM' else f'{name}, '}{layer.replace(',', ' + ')}): {images}"


def class_counts(names: Sequence[str], train: Sequence[int], test: Sequence[int]) -> str:
    """Return how many images each class has; of many classes the first names, and the smallest and largest class."""
    shown = [truncate_middle(name, 30) for name in names]
    counts = [f"{num_train:,} + {num_test:,}" for num_train, num_test in zip(train, test, strict=True)]
    listed = ", ".join(shown[:_MAX_CLASSES]) + (", ..." if len(shown) > _MAX_CLASSES else "")
    if len(set(counts)) == 1:
        return f"{train[0]:,} training and {test[0]:,} test images in each of {listed}"
    if len(shown) <= _MAX_CLASSES:
        pairs = ", ".join(f"{name} {count}" for name, count in zip(shown, counts, strict=True))
        return f"training + test images: {pairs}"
    smallest, largest = (pick(range(len(shown)), key=train.__getitem__) for pick in (min, max))
    extremes = f"{counts[smallest]} ({shown[smallest]}) to {counts[largest]} ({shown[largest]})"
    return f"{listed}; training + test images: from {extremes}"


def cam_selection(select: str, shown: int, total: int) -> str:
    """Return which of `total` images that fit a selection of config.SELECTIONS are shown."""
    plural = "" if shown == 1 else "s"
    of_total = f" of {total:,}" if total > shown else ""
    return {
        "misclassified": f"{shown:,} misclassified image{plural}{of_total}",
        "correct": f"{shown:,} correctly classified image{plural}{of_total}",
        "confident": f"the {shown:,} most confident image{plural}{of_total}",
        "uncertain": f"the {shown:,} least confident image{plural}{of_total}",
        "all": f"{shown:,} image{plural}{of_total}",
    }.get(select, f"{shown:,} chosen image{plural}{of_total}")


def display_width(text: str) -> float:
    """Return the width on a terminal: two columns for wide East Asian characters, none for combining marks."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def truncate_middle(text: str, max_width: float, width: Callable[[str], float] = display_width) -> str:
    """Replace the middle of a text that is too wide by `…`: names often differ in a number at their end."""
    if width(text) <= max_width:
        return text
    truncated = "…"
    for num_chars in range(1, len(text)):
        num_last = num_chars * 2 // 5
        candidate = f"{text[: num_chars - num_last]}…{text[len(text) - num_last :]}"
        if width(candidate) > max_width:
            break
        truncated = candidate
    return truncated


def truncate_path(text: str, max_width: float, width: Callable[[str], float] = display_width) -> str:
    """Replace the first folders of a file name that is too wide by `…`; its last part stays as long as it fits."""
    parts = text.split("/")
    for start in range(len(parts)):
        candidate = "/".join(["…", *parts[start:]] if start else parts)
        if width(candidate) <= max_width:
            return candidate
    return truncate_middle(parts[-1], max_width, width)


def footer(
    run: str | Path, *, data: str = "", seed: int | None = None, repeats: int = 1, accuracy: float | None = None
) -> str:
    """Return what a figure is of: the run's directory name, the data, the seed or seeds, the test accuracy."""
    parts = [truncate_middle(Path(run).name, 60), truncate_middle(data, 40)]
    if seed is not None:
        parts.append(f"seed {seed}" if repeats == 1 else f"seeds {seed} to {seed + repeats - 1}")
    if accuracy is not None:
        parts.append(f"test accuracy {percent(accuracy)}")
    return " · ".join(filter(None, parts))


def wrap_two_lines(text: str, max_width: float, width: Callable[[str], float] = display_width) -> list[str]:
    """Return one line, or two, broken at the space that keeps the longer line shortest; long lines are truncated."""
    if width(text) <= max_width or " " not in text:
        return [truncate_middle(text, max_width, width)]
    spaces = [i for i, c in enumerate(text) if c == " "]
    best = min(spaces, key=lambda i: max(width(text[:i]), width(text[i + 1 :])))
    return [truncate_middle(line, max_width, width) for line in (text[:best], text[best + 1 :])]


def seen_region_note(fit: str) -> str:
    """Return what the outline on a user's own image means, to be placed under a figure."""
    parts = {"crop": "the center square", "pad": "the whole image, on gray", "stretch": "the whole image, stretched"}
    return f"Outlined: what the network saw, {parts[fit]} (--fit {fit})."


def faithfulness_notes(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one line per class with the faithfulness of its maps, to be placed under a figure."""
    return [f"{name}: {_faithfulness_note(class_scores)}" for name, class_scores in scores.items()]


def _faithfulness_note(scores: Mapping[str, Any]) -> str:
    def with_random(key: str) -> str:
        return f"{percent(scores[key], 0)} (random {percent(scores[key + '_random'], 0)}"

    parts = [
        f"deletion {with_random('deletion')}, lower is better)",
        f"insertion {with_random('insertion')}, higher is better)",
    ]
    if scores["pointing"] is not None:
        parts.append(f"pointing game {with_random('pointing')}, centre {percent(scores['pointing_centre'], 0)})")
        parts.append(f"energy on object {with_random('energy_on_object')})")
    return ", ".join(parts)
