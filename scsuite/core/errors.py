"""What went wrong, in one line, and the exit code that says so.

In: the five parts of a message. Out: an exception whose text is that line; `cli.app.main` prints it and exits.
"""

import difflib
from collections.abc import Iterable
from enum import IntEnum


def one_line(error: object, max_length: int = 120) -> str:
    """Return the text of an error as one line of at most `max_length` characters; its type where it has no text."""
    return " ".join(str(error).split())[:max_length] or type(error).__name__


def did_you_mean(value: object, choices: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """Return a hint that names the choice most similar to `value`, or `otherwise` if none is similar."""
    similar = difflib.get_close_matches(str(value), list(choices), n=1, cutoff=cutoff)
    return f"Did you mean {similar[0]}?" if similar else otherwise


class ExitCode(IntEnum):
    """The exit codes of design.md; signals exit with 128 + their number."""

    DONE = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    OUTPUT = 4
    DIVERGED = 5
    IN_USE = 6


class ScsuiteError(Exception):
    """A failure that its reader can act on: `WHAT: WHERE: expected X, found Y. What to do.`

    Raise one of the subclasses below: each stands for one exit code.
    """

    exit_code = ExitCode.BUG

    def __init__(self, what: str, where: object, *, expected: str, found: object, hint: str) -> None:
        self.what, self.where, self.expected, self.found, self.hint = what, where, expected, found, hint
        message = f"{what}: {where}: expected {expected}, found {found}. {hint}"
        # Names of files and values of options come from outside: a message stays one line, free of terminal controls.
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep every part when a loader's worker process hands the error to its parent."""
        return _rebuild, (type(self), self.what, str(self.where), self.expected, str(self.found), self.hint)


def _rebuild(kind: type[ScsuiteError], what: str, where: str, expected: str, found: str, hint: str) -> ScsuiteError:
    return kind(what, where, expected=expected, found=found, hint=hint)


class UsageError(ScsuiteError):
    """An option or a value that makes no sense; found before anything is opened for writing."""

    exit_code = ExitCode.USAGE


class InputError(ScsuiteError):
    """Bad or missing data, checkpoint, configuration or augmentation file."""

    exit_code = ExitCode.INPUT


class OutputError(ScsuiteError):
    """Nowhere to write, or a resource (disk, memory) that ran out."""

    exit_code = ExitCode.OUTPUT


class DivergedError(ScsuiteError):
    """Loss or gradients are no longer finite; the weights were not touched by them."""

    exit_code = ExitCode.DIVERGED


class InUseError(ScsuiteError):
    """Another live process works in this run directory."""

    exit_code = ExitCode.IN_USE
