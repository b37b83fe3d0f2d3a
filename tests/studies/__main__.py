"""`make study`: does the range test find? The regret study, all of it or what is missing of it.

    python -m tests.studies [SETTING ...] [--data ARCHIVE] [--out FOLDER] [--seeds N]
    python -m tests.studies --report [--out FOLDER]

Out, in FOLDER: sweeps.csv, trainings.csv, environments.json; of all rows there, regret.json, regret.png and tables.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.studies.cells import DESIGN, JUDGED, RACED, SETTINGS, Cell, read_steps, read_trainings, run_all
from tests.studies.regret import (
    WHOLE_SEEDS,
    Regret,
    accuracies_of,
    cells_of,
    contenders,
    regrets,
    seeds_of,
    sweeps_of,
)
from tests.studies.spread import SPREADS, Spread, spread_cells, spreads

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
OUT = ROOT / "runs" / "reference" / "regret"


def table(found: Sequence[Regret]) -> Table:
    """A line a setting and rule, in percentage points."""
    out = Table(
        "setting",
        "rule",
        "seeds",
        "LRMAX",
        "accuracy (%)",
        "last weights (%)",
        "regret (points)",
        "behind the found pair",
    )
    for row in found:
        rates = f"{min(row.rates_S):.3g} to {max(row.rates_S):.3g}"
        out.add_row(
            row.setting if row is found[0] else "", row.rule, str(row.seeds), rates, f"{100 * row.accuracy:.2f}",
            "" if row.raw_accuracy is None else f"{100 * row.raw_accuracy:.2f}",
            _points(row.regret, row.interval), _points(row.behind_found, row.behind_interval),
            end_section=row is found[-1],
        )  # fmt: skip
    return out


def _points(value: float, interval: tuple[float, float] | None) -> str:
    within = "" if interval is None else f" ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})"
    return f"{100 * value:.2f}{within}"


def spread_table(found: Sequence[Spread]) -> Table:
    """What ten seeds, and other batch sizes, find."""
    out = Table("range tests", "batch", "seeds", "LRMIN", "LRMAX", "its largest over smallest", "of the test alone")
    for row in found:
        out.add_row(
            row.name,
            str(row.batch_size),
            str(row.seeds),
            f"{row.lr_min:.3g}",
            f"{row.lr_max:.3g}",
            f"{row.ratio:.2f}",
            f"{row.test_ratio:.2f}",
        )
    return out


def main() -> None:
    """Run the cells that have no rows yet, then say what all rows come to."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="of them alone, rather than of all")
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="archive of the real images")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", type=int, default=24, help="of the settings that the rule was not made on")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    chosen = options.settings or list(SETTINGS)
    if unknown := set(chosen) - set(SETTINGS):
        parser.error(f"no setting {', '.join(sorted(unknown))}: expected some of {', '.join(SETTINGS)}")
    if options.seeds < WHOLE_SEEDS:
        parser.error(f"--seeds: expected {WHOLE_SEEDS} or more, found {options.seeds}")
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report:
        num_seeds = {**DESIGN, **dict.fromkeys(JUDGED, options.seeds)}
        seeds = {name: range(num) for name, num in num_seeds.items() if name in chosen}
        run(options.out, options.data, seeds, [name for name in SPREADS if name in chosen])
    report(options.out)


def report(folder: Path) -> None:
    """What the rows come to: of each setting whose first seeds are whole, and of the range tests alone."""
    steps, trainings = read_steps(folder), read_trainings(folder)
    seeds = {name: seeds_of(steps, trainings, name) for name in (*DESIGN, *JUDGED)}
    found = {name: regrets(steps, trainings, name, of) for name, of in seeds.items() if of}
    begun = {step.setting for step in steps}
    spread = [spreads(steps, name) for name in SPREADS if name in begun]
    write(folder, found, spread)
    grids = {
        name: accuracies_of(trainings, name, sweeps_of(steps, name), seeds[name])[:, -len(SETTINGS[name].rates) :]
        for name in JUDGED
        if name in found
    }
    if grids:
        from tests.studies.figure import draw

        draw(folder / "regret.png", {name: found[name] for name in grids}, grids)
    console = Console(width=150)
    for name, of in seeds.items():
        if of:
            console.print(table(found[name]))
        elif name in begun:
            console.print(f"{name}: not told of, its first seeds lack trainings")
    console.print(spread_table(spread))


def run(folder: Path, archive: Path, seeds: dict[str, range], alone: Sequence[str]) -> None:
    """The range tests; the whole grids; what these leave to the later seeds of a race, and at last their other LRMIN.

    Seed by seed, so that a study cut short has whole seeds.
    """
    run_all([Cell(name, seed) for name, of in seeds.items() for seed in of], folder, archive)
    steps = read_steps(folder)
    tests = {name: sweeps_of(steps, name) for name in seeds}
    turns = sorted((seed, name) for name, of in seeds.items() for seed in of)
    raced = [(seed, name) for seed, name in turns if name in RACED and seed >= WHOLE_SEEDS]
    whole = [turn for turn in turns if turn not in raced]
    cells = [cell for seed, name in whole for cell in cells_of(name, seed, tests[name][seed])]
    run_all([*cells, *spread_cells(alone)], folder, archive)
    trainings = read_trainings(folder)
    first: list[Cell] = []
    last: list[Cell] = []
    for seed, name in raced:
        num_rates = len(SETTINGS[name].rates)
        race = contenders(accuracies_of(trainings, name, tests[name], range(WHOLE_SEEDS))[:, -num_rates:])
        wanted = cells_of(name, seed, tests[name][seed])
        pairs, grid = wanted[:-num_rates], wanted[-num_rates:]
        first += [*pairs[:1], *grid[race]]
        last += pairs[1:]
    run_all([*first, *last], folder, archive)


def write(folder: Path, found: dict[str, list[Regret]], spread: Sequence[Spread]) -> None:
    """The figures as JSON."""
    figures = {
        "settings": {name: asdict(SETTINGS[name]) for name in found},
        "designed_on": DESIGN,
        "regrets": [asdict(row) for rows in found.values() for row in rows],
        "spread": [asdict(row) for row in spread],
    }
    (folder / "regret.json").write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
