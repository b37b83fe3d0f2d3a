"""`make study`: the regret study of the range test, all of it or the cells that are missing.

    python -m tests.studies [SETTING ...] [--data ARCHIVE] [--out FOLDER] [--seeds N]
    python -m tests.studies --report [--out FOLDER]

Out, in FOLDER: sweeps.csv, trainings.csv, environments.json, and from all their rows regret.json, regret.png, tables.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.studies.regret import (
    NUM_FULL_GRID_SEEDS,
    Regret,
    accuracy_table,
    complete_seeds,
    compute_regrets,
    make_cells,
    make_sweeps,
    remaining_lrs,
)
from tests.studies.seed_variance import VARIANCE_NAMES, SeedVariance, compute_variance, variance_cells
from tests.studies.trainings import (
    NUM_DESIGN_SEEDS,
    SETTINGS,
    SUCCESSIVE_HALVING,
    TEST_NAMES,
    Cell,
    read_steps,
    read_trainings,
    run_all,
)

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
OUT = ROOT / "runs" / "reference" / "regret"


def regret_table(regrets: Sequence[Regret]) -> Table:
    """Return a table with a row per rule of one setting, in percentage points."""
    columns = ("setting", "rule", "seeds", "LRMAX", "accuracy (%)", "without EMA (%)", "regret (points)")
    table = Table(*columns, "below our LR bounds")
    for row in regrets:
        lr_max = f"{min(row.lr_max_S):.3g} to {max(row.lr_max_S):.3g}"
        table.add_row(
            row.setting if row is regrets[0] else "", row.rule, str(row.seeds), lr_max, f"{100 * row.accuracy:.2f}",
            "" if row.accuracy_no_ema is None else f"{100 * row.accuracy_no_ema:.2f}",
            _format_points(row.regret, row.interval), _format_points(row.deficit, row.deficit_interval),
            end_section=row is regrets[-1],
        )  # fmt: skip
    return table


def _format_points(value: float, interval: tuple[float, float] | None) -> str:
    limits = "" if interval is None else f" ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})"
    return f"{100 * value:.2f}{limits}"


def variance_table(variances: Sequence[SeedVariance]) -> Table:
    """Return a table of the LR bounds of ten seeds, with a row per batch size."""
    table = Table("range tests", "batch", "seeds", "LRMIN", "LRMAX", "largest / smallest LRMAX", "of the loss valley")
    for row in variances:
        valley_ratio = "" if row.valley_ratio is None else f"{row.valley_ratio:.2f}"
        bounds = (f"{row.lr_min:.3g}", f"{row.lr_max:.3g}")
        table.add_row(row.name, str(row.batch_size), str(row.seeds), *bounds, f"{row.lr_max_ratio:.2f}", valley_ratio)
    return table


def main() -> None:
    """Run the cells that have no rows, then report all rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="run only these")
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="archive of the real images")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seeds", type=int, default=24, help="seeds of the test settings")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    chosen = options.settings or list(SETTINGS)
    if unknown := set(chosen) - set(SETTINGS):
        parser.error(f"SETTING: expected some of {', '.join(SETTINGS)}, found {', '.join(sorted(unknown))}")
    if options.seeds < NUM_FULL_GRID_SEEDS:
        parser.error(f"--seeds: expected {NUM_FULL_GRID_SEEDS} or more, found {options.seeds}")
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report:
        num_seeds = {**NUM_DESIGN_SEEDS, **dict.fromkeys(TEST_NAMES, options.seeds)}
        seeds = {name: range(num) for name, num in num_seeds.items() if name in chosen}
        run(options.out, options.data, seeds, [name for name in VARIANCE_NAMES if name in chosen])
    report(options.out)


def run(folder: Path, archive: Path, seeds: dict[str, range], variance_names: Sequence[str]) -> None:
    """Run the range tests, the full grids, the remaining LRs of the later seeds, and last their other LRMIN.

    The order is seed by seed, so that a study that is stopped has complete seeds.
    """
    run_all([Cell(name, seed) for name, of_setting in seeds.items() for seed in of_setting], folder, archive)
    steps = read_steps(folder)
    sweeps = {name: make_sweeps(steps, name) for name in seeds}
    in_order = sorted((seed, name) for name, of_setting in seeds.items() for seed in of_setting)
    halved = [(seed, name) for seed, name in in_order if name in SUCCESSIVE_HALVING and seed >= NUM_FULL_GRID_SEEDS]
    full = [pair for pair in in_order if pair not in halved]
    cells = [cell for seed, name in full for cell in make_cells(name, seed, sweeps[name][seed])]
    run_all([*cells, *variance_cells(variance_names)], folder, archive)
    trainings = read_trainings(folder)
    first: list[Cell] = []
    last: list[Cell] = []
    for seed, name in halved:
        num_lrs = len(SETTINGS[name].lrs)
        grid_SR = accuracy_table(trainings, name, sweeps[name], range(NUM_FULL_GRID_SEEDS))[:, -num_lrs:]
        cells = make_cells(name, seed, sweeps[name][seed])
        with_our_lr_max, grid = cells[:-num_lrs], cells[-num_lrs:]
        first += [*with_our_lr_max[:1], *grid[remaining_lrs(grid_SR)]]
        last += with_our_lr_max[1:]
    run_all([*first, *last], folder, archive)


def report(folder: Path) -> None:
    """Write and print the results of all rows: of each setting whose first seeds are complete, and of the seeds."""
    steps, trainings = read_steps(folder), read_trainings(folder)
    seeds = {name: complete_seeds(steps, trainings, name) for name in (*NUM_DESIGN_SEEDS, *TEST_NAMES)}
    regrets = {name: compute_regrets(steps, trainings, name, some) for name, some in seeds.items() if some}
    started = {step.setting for step in steps}
    variances = [compute_variance(steps, name) for name in VARIANCE_NAMES if name in started]
    write_json(folder, regrets, variances)
    grids = {
        name: accuracy_table(trainings, name, make_sweeps(steps, name), seeds[name])[:, -len(SETTINGS[name].lrs) :]
        for name in TEST_NAMES
        if name in regrets
    }
    if grids:
        from tests.studies.figure import draw

        draw(folder / "regret.png", {name: regrets[name] for name in grids}, grids)
    console = Console(width=150)
    for name in seeds:
        if name in regrets:
            console.print(regret_table(regrets[name]))
        elif name in started:
            console.print(f"{name}: not reported, its first seeds lack trainings")
    console.print(variance_table(variances))


def write_json(folder: Path, regrets: dict[str, list[Regret]], variances: Sequence[SeedVariance]) -> None:
    """Write regret.json."""
    values = {
        "settings": {name: asdict(SETTINGS[name]) for name in regrets},
        "num_design_seeds": NUM_DESIGN_SEEDS,
        "regrets": [asdict(row) for rows in regrets.values() for row in rows],
        "seed_variance": [asdict(row) for row in variances],
    }
    (folder / "regret.json").write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
