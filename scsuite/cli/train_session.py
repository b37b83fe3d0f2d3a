"""What all stages of a `scsuite train` share.

In: the command's terminal, options and ranks. Out: one object to pass on.
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scsuite.cli.console import Terminal
from scsuite.cli.options import OutputOptions
from scsuite.core.config import TrainCommandConfig, TrainConfig
from scsuite.core.distributed import World

if TYPE_CHECKING:
    from scsuite.core.runs.rundir import RunDir


@dataclass(frozen=True)
class Session:
    """What all stages of this process's training share.

    `target` is in percent. A training of `--seeds` has the directory of its `group`, and its `position`: seed 2 of 3.
    """

    terminal: Terminal
    output: OutputOptions
    world: World
    start_time: float
    target: float | None = None
    tensorboard: bool = False
    group: "RunDir | None" = None
    position: str = ""
    is_resume: bool = False
    timeline: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Record the seconds since the command started; the first time counts."""
        self.timeline.setdefault(name, round(time.perf_counter() - self.start_time, 3))

    def recorded(self, config: TrainConfig) -> TrainCommandConfig:
        """Return what config.yaml holds: the settings of a training, and its target."""
        return TrainCommandConfig.from_dict({**config.to_dict(), "target": self.target})

    @property
    def target_accuracy(self) -> float | None:
        """The target as a fraction."""
        return TrainCommandConfig(target=self.target).target_accuracy
