"""Errors whose text is one line, and their exit codes.

In: the five parts of a message. Out: an exception whose text is that line; `cli.exit_codes` prints it.
"""

import difflib
from collections.abc import Iterable
from enum import IntEnum


def one_line(error: object, max_length: int = 120) -> str:
    """Return the text of an error as one line of at most `max_length` characters, or its type if it has no text."""
    return " ".join(str(error).split())[:max_length] or type(error).__name__


def did_you_mean(value: object, choices: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """Return a hint that names the choice most similar to `value`, or `otherwise` if none is similar."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(value).lower(), by_lower_case, n=1, cutoff=cutoff)
    similar = [by_lower_case[name] for name in close]
    return f"Did you mean {similar[0]}?" if similar else otherwise


def escape(text: object) -> str:
    """Return a text on one line: line ends and control characters become visible escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def require_type(name: str, value: object, expected: type) -> None:
    """Raise TypeError for an argument of another class."""
    if not isinstance(value, expected):
        raise TypeError(f"{name}: expected a {expected.__name__}, found a {type(value).__name__}")


class ExitCode(IntEnum):
    """The exit codes of the program, listed in README.md; a signal ends it with 128 + the signal's number."""

    DONE = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    OUTPUT = 4
    DIVERGED = 5
    IN_USE = 6
    TARGET_MISSED = 7


class ScsuiteError(Exception):
    """A failure that a user can act on: `WHAT: WHERE: expected X, found Y. What to do.`

    Only the subclasses below are raised: each has its exit code.
    """

    exit_code = ExitCode.BUG

    def __init__(self, what: str, where: object, *, expected: str, found: object, hint: str) -> None:
        self.what, self.where, self.expected, self.found, self.hint = what, where, expected, found, hint
        message = f"{what}: {where}: expected {expected}, found {found}. {hint}"
        super().__init__(escape(message))  # file names and option values may hold line ends and terminal controls

    def __reduce__(self) -> tuple[object, ...]:
        """Keep every part when a DataLoader worker passes the error to its parent."""
        return _rebuild, (type(self), self.what, str(self.where), self.expected, str(self.found), self.hint)


def _rebuild(
    error_type: type[ScsuiteError], what: str, where: str, expected: str, found: str, hint: str
) -> ScsuiteError:
    return error_type(what, where, expected=expected, found=found, hint=hint)


class UsageError(ScsuiteError):
    """An option or value that is not valid; raised before anything is opened for writing."""

    exit_code = ExitCode.USAGE


class InputError(ScsuiteError):
    """An invalid or missing data set, checkpoint, configuration or augmentation file."""

    exit_code = ExitCode.INPUT


class OutputError(ScsuiteError):
    """Output that cannot be written, or a resource (disk, memory) that ran out."""

    exit_code = ExitCode.OUTPUT


class DivergedError(ScsuiteError):
    """Loss or gradients are no longer finite; the weights were not updated with them."""

    exit_code = ExitCode.DIVERGED


class InUseError(ScsuiteError):
    """Another running process uses this run directory."""

    exit_code = ExitCode.IN_USE
