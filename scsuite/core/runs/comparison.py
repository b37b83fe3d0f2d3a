"""Several trainings side by side: groups that differ only in the seed, their mean and spread, paired differences.

In: trainings. Out: a `Comparison`, and the `ReportResult` of the command. Accuracies are fractions in [0, 1]; only
complete trainings count.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scsuite.core.runs.results import CommandResult
from scsuite.core.runs.settings import train_settings
from scsuite.core.runs.summary import newest_first
from scsuite.core.runs.train_summary import TrainSummary

# Options that say nothing about what one training computes, or whose value follows from others.
NOT_COMPARED = {"seed", "seeds", "target", "lr_from"}
MAX_GROUPS_IN_PAIRS = 5  # with more groups of settings, each is compared with the first alone

# Two-sided 95 % quantiles of Student's t distribution for 1 to 30 degrees of freedom.
# https://www.itl.nist.gov/div898/handbook/eda/section3/eda3672.htm
T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class SettingsGroup:
    """Trainings that differ only in their seed; the values are those of the complete ones, in the order of `seeds`."""

    label: str
    settings: Mapping[str, Any]
    trainings: tuple[TrainSummary, ...]
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]

    @property
    def test_images(self) -> tuple[Any, ...]:
        """What identifies the images that the accuracies are of."""
        return tuple(self.trainings[0].run.data.get(key) for key in ("fingerprint", "test_images"))

    @property
    def mean(self) -> float | None:
        """The mean accuracy over the seeds; None without a complete training."""
        return statistics.fmean(self.accuracies) if self.accuracies else None

    @property
    def std(self) -> float | None:
        """The standard deviation over the seeds (n - 1); None for fewer than two."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of group `second` minus that of `first`, over the seeds that both have.

    `std` and the 95 % interval of Student's t need two seeds; None otherwise.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    mean: float
    std: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Comparison:
    """Trainings in groups; `differing` holds the settings that are not the same in all groups."""

    groups: tuple[SettingsGroup, ...]
    differing: tuple[str, ...]
    differences: tuple[PairedDifference, ...]

    def group_rows(self) -> list[dict[str, Any]]:
        """Return the groups as plain values for result.json."""
        return [
            {
                "group": group.label,
                "settings": dict(group.settings),
                "seeds": list(group.seeds),
                "mean": group.mean,
                "std": group.std,
                "min": min(group.accuracies, default=None),
                "max": max(group.accuracies, default=None),
            }
            for group in self.groups
        ]

    def difference_rows(self) -> list[dict[str, Any]]:
        """Return the differences as plain values for result.json."""
        return [asdict(difference) for difference in self.differences]


@dataclass(frozen=True, kw_only=True)
class ReportResult(CommandResult):
    """A page of trainings: a row each, the groups that differ only in the seed, and the differences between groups."""

    command: str = "report"
    page: str
    trainings: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    differences: list[dict[str, Any]]


def compare(trainings: Sequence[TrainSummary]) -> Comparison:
    """Return the groups of trainings in the order of their first member, and the differences between them."""
    members: dict[tuple[Any, ...], list[TrainSummary]] = {}
    settings: dict[tuple[Any, ...], dict[str, Any]] = {}
    for training in trainings:
        values = compared_settings(training)
        key = tuple(sorted((name, repr(value)) for name, value in values.items()))
        members.setdefault(key, []).append(training)
        settings[key] = values
    names = dict.fromkeys(name for values in settings.values() for name in values)
    differing = tuple(name for name in names if len({repr(values.get(name)) for values in settings.values()}) > 1)
    groups = tuple(
        _make_group(label, {name: settings[key].get(name) for name in differing}, group)
        for label, (key, group) in zip(_labels(), members.items(), strict=False)
    )
    pairs = itertools.combinations(groups, 2) if len(groups) <= MAX_GROUPS_IN_PAIRS else _with_first(groups)
    differences = (paired_difference(first, second) for first, second in pairs)
    return Comparison(groups, differing, tuple(filter(None, differences)))


def compared_settings(training: TrainSummary) -> dict[str, Any]:
    """Return the settings that the result depends on, the seed apart; data is its content, LR bounds may be `auto`."""
    config = training.run.config
    values = {
        s.name: _plain(s.value) for s in train_settings(config) if s.name not in NOT_COMPARED and not s.is_neutral
    }
    values["data"] = training.run.data.get("name", values.get("data"))
    if fingerprint := training.run.data.get("fingerprint"):
        values["data_fingerprint"] = str(fingerprint)[:12]
    if training.has_own_range_test:  # each seed has its own bounds, found by the same rule
        values |= {"lr_min": "auto", "lr_max": "auto"}
    return values


def paired_difference(first: SettingsGroup, second: SettingsGroup) -> PairedDifference | None:
    """Return the difference over the seeds that both groups have; None without one, and for other test images."""
    if first.test_images != second.test_images:
        return None
    of_first, of_second = (dict(zip(group.seeds, group.accuracies, strict=True)) for group in (first, second))
    seeds = tuple(seed for seed in first.seeds if seed in of_second)
    if not seeds:
        return None
    values = [of_second[seed] - of_first[seed] for seed in seeds]
    mean = statistics.fmean(values)
    if len(values) < 2:
        return PairedDifference(first.label, second.label, seeds, mean, None, None)
    std = statistics.stdev(values)
    half_width = T_95[min(len(values) - 1, len(T_95)) - 1] * std / math.sqrt(len(values))
    return PairedDifference(first.label, second.label, seeds, mean, std, (mean - half_width, mean + half_width))


def _make_group(label: str, settings: Mapping[str, Any], trainings: Sequence[TrainSummary]) -> SettingsGroup:
    """Return a group; of trainings with the same seed the newest counts, since a repeat is no new sample."""
    by_seed: dict[int, float] = {}
    order = {run.path: place for place, run in enumerate(newest_first(training.run for training in trainings))}
    for training in sorted(trainings, key=lambda training: order[training.run.path]):
        if training.is_complete and training.accuracy is not None:
            by_seed.setdefault(training.seed, training.accuracy)
    seeds = tuple(sorted(by_seed))
    return SettingsGroup(label, settings, tuple(trainings), seeds, tuple(by_seed[seed] for seed in seeds))


def _labels() -> "itertools.chain[str]":
    letters = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
    return itertools.chain(letters, (f"{first}{second}" for first in letters for second in letters))


def _with_first(groups: Sequence[SettingsGroup]) -> list[tuple[SettingsGroup, SettingsGroup]]:
    return [(groups[0], group) for group in groups[1:]]


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
