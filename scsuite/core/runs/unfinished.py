"""The JSON object of a command that failed or was stopped, and the result.json of its run directory.

In: what is known of the command. Out: plain values with the keys that every command has, and only those others that
are known.
"""

from dataclasses import dataclass, fields
from typing import Any

from scsuite.core.errors import ScsuiteError
from scsuite.core.runs.results import CommandResult


@dataclass(frozen=True, kw_only=True)
class UnfinishedResult(CommandResult):
    """A command whose `status` is `failed` or `stopped`.

    A failure has its `error`, a stop the name of its `signal`. A training has its position too, the LR bounds once they
    are known, and its newest `checkpoint`; `train --seeds` has the `seeds` that are finished.
    """

    exit_code: int
    error: dict[str, str] | None = None
    signal: str | None = None
    epochs: int | None = None
    epochs_done: int | None = None
    steps_done: int | None = None
    lr_min: float | None = None
    lr_max: float | None = None
    checkpoint: str | None = None
    seeds: tuple[dict[str, Any], ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the keys of this class whose value is unknown."""
        common = {item.name for item in fields(CommandResult)}
        return {name: value for name, value in super().to_dict().items() if value is not None or name in common}


def error_parts(error: ScsuiteError) -> dict[str, str]:
    """Return the parts of an error's line."""
    parts = {name: str(getattr(error, name)) for name in ("what", "where", "expected", "found", "hint")}
    return {name: " ".join(text.split()) for name, text in parts.items()}
