"""The regret study: what a regret is, its interval, and that a stopped study continues where it was."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scsuite.core import device
from scsuite.core.dataset import load_dataset, shapes
from tests.core import tiny
from tests.studies import __main__ as program
from tests.studies import trainings as module
from tests.studies.regret import (
    BASELINES,
    DIV_FACTOR_RULES,
    INTERPOLATED,
    REFERENCE_ONLY,
    TRAINED,
    Indices,
    Regret,
    Values,
    _interpolate_all,
    accuracy_table,
    bootstrap_interval,
    complete_seeds,
    compute_regrets,
    find_bounds,
    interpolate_accuracy,
    make_cells,
    make_sweeps,
    remaining_lrs,
)
from tests.studies.trainings import LR_GRID, NUM_DESIGN_SEEDS, SETTINGS, TEST_NAMES, Cell, Step, Training, grid_cells

NAME = "seventh-shapes-96"  # a test setting
DESIGN_NAME = "real-128"
DIV_10, DIV_30 = DIV_FACTOR_RULES
Study = tuple[list[Step], list[Training]]


def make_steps(seed: int, lowest: int = 130, setting: str = NAME) -> list[Step]:
    """Return a range test of 200 steps whose loss falls from step 20 to `lowest`, then rises."""
    loss = np.interp(np.arange(200), [0, 20, lowest, 199], [2.3, 2.3, 1.0, 3.0])
    return [Step(setting, seed, step, float(loss[step]), 0.1) for step in range(200)]


def make_training(cell: Cell, accuracy: float) -> Training:
    assert cell.lr_min is not None
    assert cell.lr_max is not None
    return Training(cell.setting, cell.seed, cell.lr_min, cell.lr_max, accuracy, accuracy - 0.02, False, "fp32", 1.0)


def accuracy_at(lr: float | None) -> float:
    """Return 0.8 at an LR of 0.4, and 0.1 less for each factor of two from it."""
    return 0.8 - 0.1 * abs(float(np.log2((lr or 0) / 0.4)))


def by_rule(regrets: Iterable[Regret]) -> dict[str, Regret]:
    return {row.rule: row for row in regrets}


@pytest.fixture
def study() -> Study:
    """Six seeds with all trainings: `accuracy_at` on the grid, 0.70 to 0.75 with our LRMAX."""
    steps = [step for seed in range(6) for step in make_steps(seed)]
    trainings = [
        make_training(cell, accuracy_at(cell.lr_max) if cell.lr_max in LR_GRID else 0.7 + 0.01 * seed)
        for seed, sweep in make_sweeps(steps, NAME).items()
        for cell in make_cells(NAME, seed, sweep)
    ]
    return steps, trainings


def test_regret_is_the_best_mean_of_the_grid_minus_the_mean_of_the_rule(study: Study) -> None:
    regrets = by_rule(compute_regrets(*study, NAME, range(6)))
    trained = regrets[TRAINED]
    assert trained.accuracy == pytest.approx(0.725)  # the mean of 0.70 to 0.75
    assert trained.regret == pytest.approx(0.8 - 0.725)
    assert trained.interval is not None
    # Resampled means lie within 0.70 and 0.75; the interval is wider than that of a normal approximation.
    assert 0.0499 < trained.interval[0] < 0.0750 - 1.96 * 0.0187 / 6**0.5
    assert 0.0750 + 1.96 * 0.0187 / 6**0.5 < trained.interval[1] < 0.1001
    assert trained.accuracy_no_ema == pytest.approx(0.725 - 0.02)
    expected = accuracy_at(trained.lr_max_S[0])
    interpolated = regrets[INTERPOLATED]
    assert interpolated.accuracy_no_ema is None
    assert interpolated.accuracy == pytest.approx(expected)  # a line between the LRs of the grid
    assert interpolated.interval == pytest.approx((0.8 - expected,) * 2)  # the same for every seed
    assert (interpolated.deficit, interpolated.deficit_interval) == (0, (0, 0))
    assert (trained.deficit, regrets[DIV_10].deficit) == (0, 0)
    assert regrets["steepest"].deficit == pytest.approx(expected - regrets["steepest"].accuracy)


def test_the_deficit_of_the_reference_lr_is_zero_where_the_test_does_not_bound_it(study: Study) -> None:
    regrets = by_rule(compute_regrets(*study, NAME, range(6)))
    assert regrets[REFERENCE_ONLY].lr_max_S == regrets[TRAINED].lr_max_S
    assert regrets[REFERENCE_ONLY].deficit == 0


def test_a_test_setting_trains_our_bounds_and_the_grid_with_our_lr_min(study: Study) -> None:
    sweep = make_sweeps(study[0], NAME)[0]
    lr_min, lr_max = find_bounds(NAME, sweep)
    assert make_cells(NAME, 0, sweep)[:3] == [
        Cell(NAME, 0, lr_min, lr_max), Cell(NAME, 0, lr_max / 10, lr_max), Cell(NAME, 0, lr_max / 30, lr_max)
    ]  # fmt: skip
    assert make_cells(NAME, 0, sweep)[3:] == [Cell(NAME, 0, min(lr_min, lr / 3), lr) for lr in LR_GRID]


def test_a_design_setting_trains_only_the_grid_and_interpolates_our_lr_max() -> None:
    steps = make_steps(0, setting=DESIGN_NAME)
    sweep = make_sweeps(steps, DESIGN_NAME)[0]
    lr_min, lr_max = find_bounds(DESIGN_NAME, sweep)
    cells = make_cells(DESIGN_NAME, 0, sweep)
    assert cells == [Cell(DESIGN_NAME, 0, min(lr_min, lr / 3), lr) for lr in LR_GRID]
    trainings = [make_training(cell, accuracy_at(cell.lr_max)) for cell in cells]
    first, *_ = compute_regrets(steps, trainings, DESIGN_NAME, range(1))
    assert first.rule == INTERPOLATED
    assert first.accuracy == pytest.approx(accuracy_at(lr_max))
    assert (first.deficit, first.accuracy_no_ema) == (0, None)


def test_a_setting_can_have_its_own_lrs_and_lr_min() -> None:
    assert grid_cells("wide-512", 0, 0.02) == [Cell("wide-512", 0, 0.01, lr) for lr in (0.1, 0.2, 0.4, 0.8, 1.6)]


def test_accuracy_between_two_lrs_of_the_grid_is_linear_in_log_lr() -> None:
    accuracies = np.arange(9.0)
    assert interpolate_accuracy(accuracies, LR_GRID[3], LR_GRID) == pytest.approx(3)
    assert interpolate_accuracy(accuracies, LR_GRID[3] * 2**0.5, LR_GRID) == pytest.approx(3.5)
    assert interpolate_accuracy(accuracies, LR_GRID[0] / 5, LR_GRID) == 0
    assert interpolate_accuracy(accuracies, LR_GRID[-1] * 5, LR_GRID) == 8


@pytest.mark.parametrize(("num_seeds", "quantile", "tolerance"), [(60, 2.001, 0.03), (12, 2.201, 0.09)])
def test_the_interval_of_a_mean_is_students(num_seeds: int, quantile: float, tolerance: float) -> None:
    values = np.random.default_rng(3).normal(size=num_seeds)
    interval = bootstrap_interval(lambda indices_BS: np.asarray(values[indices_BS].mean(axis=1)), num_seeds)
    half = quantile * values.std(ddof=1) / num_seeds**0.5
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=tolerance)


def test_fewer_than_six_seeds_have_no_interval() -> None:
    def mean(indices_BS: Indices) -> Values:
        return np.asarray(indices_BS.mean(axis=1))

    assert bootstrap_interval(mean, 5) is None
    assert bootstrap_interval(mean, 6) is not None


def test_lrs_far_below_the_best_of_the_first_seeds_are_dropped_except_between_others() -> None:
    means = [0.50, 0.62, 0.69, 0.66, 0.70, 0.691, 0.681, 0.679, 0.1]
    first = [[mean + shift for mean in means] for shift in (-0.01, 0.0, 0.01)]
    later = [[1.0, *[np.nan] * 8]]  # has no influence
    assert remaining_lrs(np.array(first + later)) == slice(2, 7)
    with pytest.raises(ValueError, match="full grid"):
        remaining_lrs(np.array(first[:2] + later))


def test_a_later_seed_counts_if_it_has_the_remaining_lrs_and_the_training_of_the_rule(study: Study) -> None:
    steps, trainings = study
    lr_max = find_bounds(NAME, make_sweeps(steps, NAME)[5])[1]

    def is_trained(row: Training) -> bool:
        is_last_div_30 = row.seed == 5 and row.lr_max == lr_max and row.lr_min == lr_max / 30
        return row.seed < 3 or (row.lr_max in (0.4, lr_max) and not is_last_div_30)  # 0.4 is 0.1 above all others

    regrets = by_rule(compute_regrets(steps, [row for row in trainings if is_trained(row)], NAME, range(6)))
    complete = by_rule(compute_regrets(steps, trainings, NAME, range(6)))
    assert regrets[TRAINED] == complete[TRAINED]
    seeds = {rule: row.seeds for rule, row in regrets.items()}
    assert seeds.pop(DIV_30) == 5
    assert (seeds.pop(TRAINED), seeds.pop(DIV_10)) == (6, 6)
    assert set(seeds.values()) == {3}  # interpolated on the full grid, of which later seeds have one LR
    assert regrets["steepest"].interval is None
    assert regrets["steepest"].accuracy == pytest.approx(complete["steepest"].accuracy)


def test_the_best_of_the_grid_is_of_the_seeds_of_the_rule_and_deficits_are_paired(study: Study) -> None:
    steps, _ = study
    lr_max = find_bounds(NAME, make_sweeps(steps, NAME)[0])[1]
    # Seeds differ by up to 0.05; 0.4 is best for the first five, 0.8 for the last, which lacks LRMAX / 30.
    trainings = []
    for seed, sweep in make_sweeps(steps, NAME).items():
        bonus = {0.2: -0.025, 0.4: 0.03, 0.8: 0.01} if seed < 5 else {0.2: -0.01, 0.4: 0.00, 0.8: 0.20}
        for cell in make_cells(NAME, seed, sweep):
            is_div_30 = (cell.lr_min, cell.lr_max) == (lr_max / 30, lr_max)
            extra = 0.04 * is_div_30 if cell.lr_max == lr_max else bonus.get(cell.lr_max or 0, -0.3)
            if seed < 5 or not is_div_30:
                trainings.append(make_training(cell, 0.60 + 0.01 * seed + extra))
    regrets = by_rule(compute_regrets(steps, trainings, NAME, range(6)))
    ours, div_30 = regrets[TRAINED], regrets[DIV_30]
    assert (ours.seeds, div_30.seeds) == (6, 5)
    assert ours.regret == pytest.approx((5 * 0.01 + 0.20) / 6)  # 0.8 has the best mean of six seeds
    assert div_30.regret == pytest.approx(0.03 - 0.04)  # 0.4 has that of five
    assert div_30.deficit == pytest.approx(-0.04)
    assert div_30.accuracy_no_ema == pytest.approx(0.62 + 0.04 - 0.02)
    assert div_30.interval is None
    assert ours.interval is not None
    assert ours.interval[0] < ours.regret < ours.interval[1]


def test_a_rule_within_the_remaining_lrs_keeps_its_seeds_where_ours_is_outside(study: Study) -> None:
    steps, _ = study
    sweeps = make_sweeps(steps, NAME)
    assert BASELINES["valley"](sweeps[0]) < 0.2 < find_bounds(NAME, sweeps[0])[1]
    trainings = [
        make_training(cell, 0.8 - abs(np.log2((cell.lr_max or 0) / 0.07)) / 60)  # 0.025 to 0.2 remain
        for seed, sweep in sweeps.items()
        for cell in make_cells(NAME, seed, sweep)
        if seed < 3 or (cell.lr_max or 0) <= 0.2
    ]
    regrets = by_rule(compute_regrets(steps, trainings, NAME, range(6)))
    assert (regrets["valley"].seeds, regrets[INTERPOLATED].seeds) == (6, 3)
    assert regrets["valley"].interval is not None
    assert regrets["valley"].deficit_interval is None


def test_a_setting_whose_first_seeds_lack_a_training_is_not_reported() -> None:
    steps = [step for seed in range(2) for step in make_steps(seed, setting=DESIGN_NAME)]
    sweeps = make_sweeps(steps, DESIGN_NAME)
    cells = [cell for seed, sweep in sweeps.items() for cell in make_cells(DESIGN_NAME, seed, sweep)]
    rows = [make_training(cell, 0.5) for cell in cells]
    assert complete_seeds(steps, rows, DESIGN_NAME) == [0, 1]
    assert complete_seeds(steps, rows[:-1], DESIGN_NAME) == []
    assert accuracy_table(rows, DESIGN_NAME, sweeps, [0, 1]).tolist() == [[0.5] * 9] * 2
    with pytest.raises(KeyError):
        accuracy_table(rows[:-1], DESIGN_NAME, sweeps, [0, 1])


def test_later_seeds_are_interpolated_only_if_all_lrs_are_inside() -> None:
    lrs = (0.1, 0.2, 0.4, 0.8)
    grid = np.array([[0.1, 0.2, 0.4, 0.3], [np.nan, 0.5, 0.7, np.nan]])
    remaining = slice(1, 3)
    assert _interpolate_all(grid, remaining, lrs, np.array([0.2, 0.4])).tolist() == pytest.approx([0.2, 0.7])
    one_outside = _interpolate_all(grid, remaining, lrs, np.array([0.8, 0.4]))
    assert one_outside.tolist() == pytest.approx([0.3, np.nan], nan_ok=True)


# --- running and reporting ---


def test_a_stopped_study_runs_only_the_missing_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = grid_cells(NAME, 0, 0.01)
    cells = [Cell(NAME, 0), *grid, *grid]
    assert module.missing_cells(cells, tmp_path) == [Cell(NAME, 0), *grid]
    module.append_rows(tmp_path, make_steps(0))
    for cell in grid[:4]:
        module.append_rows(tmp_path, [make_training(cell, 0.1 + 0.2)])
    assert module.missing_cells(cells, tmp_path) == grid[4:]
    assert module.read_trainings(tmp_path) == [make_training(cell, 0.1 + 0.2) for cell in grid[:4]]  # exactly
    assert module.read_steps(tmp_path) == make_steps(0)
    monkeypatch.setattr(module, "run_cell", lambda *_: pytest.fail("all cells have rows"))
    module.run_all(grid[:4], tmp_path, tmp_path)
    assert not (tmp_path / "environments.json").exists()  # this machine made no row


@pytest.mark.parametrize("name", ["sweeps.csv", "trainings.csv"])
def test_new_rows_have_the_columns_of_the_committed_files(name: str, tmp_path: Path) -> None:
    module.append_rows(
        tmp_path, make_steps(0) if name == "sweeps.csv" else [make_training(grid_cells(NAME, 0, 1)[0], 0)]
    )
    with (program.OUT / name).open() as committed, (tmp_path / name).open() as new:
        assert next(new) == next(committed)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[Cell]]:
    """The cells of each call of `run_all`, which writes made-up rows."""
    calls: list[list[Cell]] = []

    def run_all(cells: list[Cell], folder: Path, _archive: Path) -> None:
        calls.append(cells)
        for cell in cells:
            if cell.lr_max is None:
                module.append_rows(folder, make_steps(cell.seed, setting=cell.setting))
            else:
                module.append_rows(folder, [make_training(cell, accuracy_at(cell.lr_max))])

    monkeypatch.setattr(program, "run_all", run_all)
    return calls


def test_later_seeds_train_our_bounds_and_the_remaining_lrs_and_other_lr_mins_last(
    calls: list[list[Cell]], tmp_path: Path
) -> None:
    program.run(tmp_path, tmp_path, {NAME: range(5), DESIGN_NAME: range(2)}, ["batch-32"])
    tests, full, later = calls
    assert tests == [*(Cell(NAME, seed) for seed in range(5)), *(Cell(DESIGN_NAME, seed) for seed in range(2))]
    lr_min, lr_max = find_bounds(NAME, make_sweeps(module.read_steps(tmp_path), NAME)[0])
    assert len(full) == 3 * 12 + 2 * 9 + 10
    assert {(cell.setting, cell.seed) for cell in full if cell.lr_max} == {
        (NAME, 0), (NAME, 1), (NAME, 2), (DESIGN_NAME, 0), (DESIGN_NAME, 1)
    }  # fmt: skip
    assert later == [
        Cell(NAME, 3, lr_min, lr_max), Cell(NAME, 3, min(lr_min, 0.4 / 3), 0.4),
        Cell(NAME, 4, lr_min, lr_max), Cell(NAME, 4, min(lr_min, 0.4 / 3), 0.4),
        Cell(NAME, 3, lr_max / 10, lr_max), Cell(NAME, 3, lr_max / 30, lr_max),
        Cell(NAME, 4, lr_max / 10, lr_max), Cell(NAME, 4, lr_max / 30, lr_max),
    ]  # fmt: skip


def test_later_seeds_of_a_design_setting_train_the_remaining_lrs(calls: list[list[Cell]], tmp_path: Path) -> None:
    name = "missed-shapes-128"
    program.run(tmp_path, tmp_path, {name: range(4)}, [])
    _, full, later = calls
    assert len(full) == 3 * 9
    assert [(cell.setting, cell.seed, cell.lr_max) for cell in later] == [(name, 3, 0.4)]


def test_a_report_has_the_complete_settings_and_names_the_others(
    calls: list[list[Cell]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.run(tmp_path, tmp_path, {NAME: range(4)}, [])
    assert calls
    program.report(tmp_path)
    values = json.loads((tmp_path / "regret.json").read_text())
    assert list(values["settings"]) == [NAME]
    assert {row["rule"]: row["seeds"] for row in values["regrets"]}[TRAINED] == 4
    assert (tmp_path / "regret.png").exists()
    module.append_rows(tmp_path, make_steps(0, setting=DESIGN_NAME))
    capsys.readouterr()
    program.report(tmp_path)
    assert f"{DESIGN_NAME}: not reported, its first seeds lack trainings" in capsys.readouterr().out
    assert json.loads((tmp_path / "regret.json").read_text()) == values


def test_a_report_without_rows_is_empty(tmp_path: Path) -> None:
    program.report(tmp_path)
    assert json.loads((tmp_path / "regret.json").read_text())["regrets"] == []


def test_environments_of_all_machines_are_recorded_without_paths(tmp_path: Path) -> None:
    for names in (["one", "two"], ["three"]):
        module.append_environment(tmp_path, names)
    entries = json.loads((tmp_path / "environments.json").read_text())
    assert [entry["settings"] for entry in entries] == [["one", "two"], ["three"]]
    assert all("cpu" in entry and "command_line" not in entry for entry in entries)


def test_no_setting_is_both_for_design_and_for_test() -> None:
    assert not set(NUM_DESIGN_SEEDS) & set(TEST_NAMES)
    assert {*NUM_DESIGN_SEEDS, *TEST_NAMES} <= set(SETTINGS)


# --- trainings on few images ---


def use_small_setting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    small = replace(SETTINGS[name], num_train=100, num_held_out=20, epochs=1, batch_size=8, width=0.05)
    monkeypatch.setitem(SETTINGS, name, small)
    monkeypatch.setattr(module, "load_images", module.load_images.__wrapped__)


def test_a_training_is_in_fp32_where_auto_would_use_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_setting(monkeypatch, NAME)
    monkeypatch.setattr(module, "load_images", lambda *_: (tiny.dataset(100), tiny.split(20)))
    monkeypatch.setattr(device, "_bf16_is_faster", lambda _device: True)
    assert device.resolve_device("cpu", "auto").precision == "bf16"
    row = module.run_training(Cell(NAME, 0, 0.01, 0.1), "")
    assert (row.precision, row.lr_min, row.lr_max, row.diverged) == ("fp32", 0.01, 0.1, False)
    assert 0 <= row.accuracy <= 1
    assert 0 <= row.accuracy_no_ema <= 1


def test_a_range_test_gives_a_row_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_setting(monkeypatch, NAME)
    monkeypatch.setattr(module, "load_images", lambda *_: (tiny.dataset(100), tiny.split(20)))
    rows = module.run_sweep(Cell(NAME, 3), "")
    assert [(row.setting, row.seed, row.step) for row in rows] == [(NAME, 3, step) for step in range(len(rows))]
    assert rows[0].loss == pytest.approx(np.log(3), abs=0.3)


def test_generated_held_out_images_are_not_in_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_setting(monkeypatch, "fresh-shapes-256")
    data, held_out = module.load_images("fresh-shapes-256", "")
    assert (len(data.train), len(held_out)) == (100, 20)
    dataset = load_dataset("shapes")
    known = {image.tobytes() for split in (dataset.train, dataset.test) for image in split.images_NHWC}
    assert not known & {image.tobytes() for image in held_out.images_NHWC}
    assert np.bincount(held_out.labels_N).tolist() == [2] * 10


def test_held_out_images_are_training_images_that_no_cell_trains_on(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_setting(monkeypatch, "shapes-512")
    monkeypatch.setattr(shapes, "NUM_TRAIN", 300)
    monkeypatch.setattr(shapes, "NUM_TEST", 20)
    data, held_out = module.load_images("shapes-512", "")
    assert (len(data.train), len(held_out)) == (100, 20)
    assert not set(data.train.files) & set(held_out.files)
    assert all(file.startswith("train/") for file in (*data.train.files, *held_out.files))
    assert set(data.test.files) <= set(held_out.files)  # `fit` does not evaluate the test images
