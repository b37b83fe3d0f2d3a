"""How numbers and names are written, in tables and figures alike: percent, rates, counts, names from outside.

In: core's plain values (fractions, rates, class names). Out: short strings without markup or control characters.
"""

import math
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

NOTHING = "-"  # stands where there is no value


def percent(fraction: float | None, decimals: int = 2) -> str:
    """`0.9312` as `93.12 %`; nothing or not a number as `-`."""
    return NOTHING if _is_missing(fraction) else f"{100 * float(fraction or 0):.{decimals}f} %"


def number(value: float | None, decimals: int = 4) -> str:
    """A loss or a like number; `-` where there is none. Huge ones (a diverged loss) stay short."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:.{decimals}f}" if abs(value) < 1e5 else f"{value:.2e}"


def rate(value: float | None) -> str:
    """A learning rate, three digits: `0.4`, `0.0416`, `1e-05`."""
    return NOTHING if _is_missing(value) else f"{value:.3g}"


def count(value: float) -> str:
    """`6573120` as `6,573,120`."""
    return f"{value:,.0f}" if math.isfinite(value) else NOTHING


def clean(name: object) -> str:
    """A name from outside on one line: control characters and line ends are shown as escapes, never obeyed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in str(name))


def columns(text: str) -> float:
    """Width on a terminal: two for the wide letters of East Asia, none for marks that sit on another letter."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def shorten(text: str, room: float, width: Callable[[str], float] = columns) -> str:
    """At most `room` wide; the middle gives way, since names often differ, and numbers stand, at the end."""
    if width(text) <= room:
        return text
    shorter = "…"
    for kept in range(1, len(text)):
        tail = kept * 2 // 5
        longer = f"{text[: kept - tail]}…{text[len(text) - tail :]}"
        if width(longer) > room:
            break
        shorter = longer
    return shorter


def wrap(text: str, room: float, width: Callable[[str], float] = columns) -> list[str]:
    """`text` on one line or, broken at the space that leaves the longer line shortest, on two; then shortened."""
    if width(text) <= room or " " not in text:
        return [shorten(text, room, width)]
    breaks = [i for i, c in enumerate(text) if c == " "]
    at = min(breaks, key=lambda i: max(width(text[:i]), width(text[i + 1 :])))
    return [shorten(line, room, width) for line in (text[:at], text[at + 1 :])]


def trust_notes(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What `core.cam.Trust` found of each class's maps, as a sentence each for under a figure."""
    return [f"{name}: {_trust_note(of_class)}" for name, of_class in scores.items()]


def _trust_note(of_class: Mapping[str, Any]) -> str:
    def said(key: str) -> str:
        return f"{percent(of_class[key], 0)} (random {percent(of_class[key + '_random'], 0)}"

    parts = [f"deletion {said('deletion')}, best low)", f"insertion {said('insertion')}, best high)"]
    if of_class["pointing"] is not None:
        parts += [f"pointing game {said('pointing')}, centre {percent(of_class['pointing_centre'], 0)})"]
        parts += [f"evidence on the object {said('inside')})"]
    return ", ".join(parts)


def _is_missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
