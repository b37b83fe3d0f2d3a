"""How LRMAX's rule was chosen: what each of 720 forms costs on the settings that the rule was made on.

    python -m tests.studies.forms

A form is a usual rate, which follows powers of batch size, width and steps, and how far it goes, in log rate, towards
where the range test's loss stops falling; none exceeds the test's bound. Its regret is read off the mean accuracies of
each setting's grid, smoothed: a cubic in log rate through those near the best. A form's mean regret counts each seed
once: the settings differ in how many they have, and one seed alone says little. All give the full network its 0.4, in
the middle of what is good there (`tests.studies.full`). The form chosen has the smallest largest regret, and of the
means the smallest but one.
In: the study's rows. Out: a table.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.polynomial import Polynomial
from rich.console import Console
from rich.table import Table

from scsuite.core.lr_range.range_test import REFERENCE_LR_MAX, REFERENCE_BATCH_SIZE, REFERENCE_STEPS, Landmarks, landmarks
from tests.studies.__main__ import OUT
from tests.studies.cells import DESIGN, SETTINGS, Setting, read_steps, read_trainings
from tests.studies.regret import Values, accuracies_of, sweeps_of

TOO_NOISY = "shapes-128"
NEAR = 0.08  # of the best: what the course is fitted to, at most REACH rates away
REACH = 3


@dataclass(frozen=True)
class Form:
    """LRMAX = 0.4 x factor x (batch / 512)^batch_power / width^width_power / (steps / 2352)^step_power.

    A share of the way from there, in log rate, to where the loss stops falling.

    The factor is that of the settings by the defaults of then, `--cycle-momentum --no-gradient-centralization`.
    """

    batch_power: float
    width_power: float
    step_power: float
    then_factor: float
    share: float

    def rate(self, setting: Setting, test: Landmarks) -> float:
        """LRMAX by one range test."""
        usual = REFERENCE_LR_MAX["sgd"] * (setting.batch_size / REFERENCE_BATCH_SIZE) ** self.batch_power / setting.width**self.width_power
        usual /= (setting.num_steps / REFERENCE_STEPS) ** self.step_power
        usual *= self.then_factor if setting.cycle_momentum else 1.0
        wanted = usual if test.flat is None else usual ** (1 - self.share) * test.flat**self.share
        return float(min(wanted, test.bound))


BATCH_POWERS = (0.5, 0.75, 1.0)
WIDTH_POWERS = (0.0, 1 / 4, 1 / 3, 1 / 2, 2 / 3)
STEP_POWERS = (0.0, 1 / 4, 1 / 2)
THEN_FACTORS = (0.5, 0.7, 1.0, 1.5)
SHARES = (0.0, 1 / 8, 1 / 4, 3 / 8)
FORMS = tuple(itertools.starmap(Form, itertools.product(BATCH_POWERS, WIDTH_POWERS, STEP_POWERS, THEN_FACTORS, SHARES)))


@dataclass(frozen=True)
class Course:
    """One setting: its range tests, and accuracy over log LRMAX, smoothed."""

    setting: Setting
    tests: tuple[Landmarks, ...]
    smooth: Polynomial
    low: float
    high: float
    best: float

    def regret(self, form: Form) -> float:
        """Mean over the range tests, as a fraction; beyond the course's ends that of the end."""
        logs = np.log([form.rate(self.setting, test) for test in self.tests])
        return self.best - float(self.smooth(np.clip(logs, self.low, self.high)).mean())


def smoothed(rates: Sequence[float] | Values, means_R: Values) -> tuple[Polynomial, float, float, float]:
    """A cubic in log rate through what lies near the best, the log rates of its ends, and its highest value."""
    logs_R, best = np.log(rates), int(means_R.argmax())
    near = slice(max(0, best - REACH), best + REACH + 1)
    kept = means_R[near] > means_R.max() - NEAR
    logs, means = logs_R[near][kept], means_R[near][kept]
    course = Polynomial.fit(logs, means, min(3, len(logs) - 1))
    return course, float(logs[0]), float(logs[-1]), float(course(np.linspace(logs[0], logs[-1], 400)).max())


def courses(folder: Path) -> list[Course]:
    """Of the settings that the rule was made on, without the one that is too noisy to tell."""
    steps, trainings = read_steps(folder), read_trainings(folder)
    out = []
    for name, num_seeds in DESIGN.items():
        if name == TOO_NOISY:
            continue
        setting, sweeps, seeds = SETTINGS[name], sweeps_of(steps, name), range(num_seeds)
        grid_SR = accuracies_of(trainings, name, sweeps, seeds)[:, -len(setting.rates) :]
        whole_R = ~np.isnan(grid_SR).any(axis=0)  # of a race, what all of its seeds have
        tests = tuple(landmarks(sweeps[seed]) for seed in seeds)
        out.append(
            Course(setting, tests, *smoothed(np.array(setting.rates)[whole_R], grid_SR[:, whole_R].mean(axis=0)))
        )
    return out


@dataclass(frozen=True)
class Cost:
    """A form's regrets, one a setting, and their mean over all seeds; as fractions."""

    mean: float
    regrets: tuple[float, ...]


def costs(known: Sequence[Course]) -> dict[Form, Cost]:
    """Each form's, those with the smallest mean first."""
    seeds = [len(course.tests) for course in known]
    out = {}
    for form in FORMS:
        regrets = [course.regret(form) for course in known]
        out[form] = Cost(float(np.average(regrets, weights=seeds)), tuple(regrets))
    return dict(sorted(out.items(), key=lambda item: item[1].mean))


def main() -> None:
    """The first twenty."""
    known = courses(OUT)
    table = Table(
        "power of the batch", "of the width", "of the steps", "factor of then", "share of the test",
        "mean over seeds (points)", "largest", *(f"{course.setting.name} ({len(course.tests)})" for course in known),
    )  # fmt: skip
    for form, cost in list(costs(known).items())[:20]:
        said = (form.batch_power, -form.width_power, -form.step_power, form.then_factor, form.share)
        points = (cost.mean, max(cost.regrets), *cost.regrets)
        table.add_row(*(f"{value:.3g}" for value in said), *(f"{100 * value:.2f}" for value in points))
    Console(width=230).print(table)


if __name__ == "__main__":
    main()
