"""Whether mirrored images are likely to be wrong for a dataset, by the names of its classes.

In: class names. Out: a warning, or None.
"""

import re
from collections.abc import Sequence

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_CHARACTER = re.compile(r"((digit|letter|number|character|char)s?[ _-]*)?\w", re.IGNORECASE)
_NUMBER_WORDS = frozenset({"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"})


def flip_warning(class_names: Sequence[str]) -> str | None:
    """Return a warning for classes that are digits, letters, or distinguished by left and right; else None."""
    if sided := next((name for name in class_names if _is_sided(name)), None):
        return f"the class {sided!r} may be wrong for a mirrored image: consider --flip none"
    if all(_CHARACTER.fullmatch(name) or name.lower() in _NUMBER_WORDS for name in class_names):
        return "the class names look like digits or letters, which mirrored images do not show: consider --flip none"
    return None


def _is_sided(name: str) -> bool:
    """Return whether a name has the word left or right: turn_left, RightHand, but not bright."""
    return not {"left", "right"}.isdisjoint(word.lower() for word in _WORDS.findall(name))
