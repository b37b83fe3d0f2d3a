"""The study's own device: what a regret is, its interval, and that a study goes on where it was cut short."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scsuite.core import loop
from scsuite.core.dataset import load_dataset
from tests.studies import __main__ as program
from tests.studies import cells
from tests.studies.cells import DESIGN, GRID, JUDGED, Cell, Step, Training, grid_cells
from tests.studies.regret import (
    FOUND,
    READ_OFF,
    RIVALS,
    _read_off_all,
    accuracies_of,
    bootstrap,
    cells_of,
    contenders,
    pair_of,
    read_off,
    regrets,
    seeds_of,
    sweeps_of,
)

NAME = "seventh-shapes-96"  # one that the rule is judged on
DESIGNED = "real-128"


def steps_of(seed: int, bottom: int) -> list[Step]:
    """A range test of 200 steps whose loss falls from step 20 to `bottom`, then rises."""
    lrs = np.geomspace(1e-3, 10, 200)
    loss = np.interp(np.arange(200), [0, 20, bottom, 199], [2.3, 2.3, 1.0, 3.0])
    return [Step(NAME, seed, i, float(lrs[i]), float(loss[i]), 0.1) for i in range(200)]


def training(cell: Cell, accuracy: float) -> Training:
    assert cell.lr_min is not None
    assert cell.lr_max is not None
    return Training(cell.setting, cell.seed, cell.lr_min, cell.lr_max, accuracy, accuracy - 0.02, False, "fp32", 1.0)


def peak_at(lr: float) -> float:
    """Accuracy: 0.8 at a rate of 0.4, a tenth less for each factor of two away."""
    return 0.8 - 0.1 * abs(float(np.log2(lr / 0.4)))


@pytest.fixture
def study() -> tuple[list[Step], list[Training]]:
    steps = [step for seed in range(6) for step in steps_of(seed, 130)]
    trainings = []
    for seed in range(6):
        for cell in cells_of(NAME, seed, sweeps_of(steps, NAME)[seed]):
            on_grid = cell.lr_max in GRID
            trainings.append(training(cell, peak_at(cell.lr_max or 0) if on_grid else 0.7 + 0.01 * seed))
    return steps, trainings


def test_regret_is_the_best_mean_of_the_grid_less_the_rules_mean(study: tuple[list[Step], list[Training]]) -> None:
    found = {row.rule: row for row in regrets(*study, NAME, range(6))}
    assert found[FOUND].accuracy == pytest.approx(0.725)  # the mean of 0.70 to 0.75
    assert found[FOUND].regret == pytest.approx(0.8 - 0.725)
    interval = found[FOUND].interval
    assert interval is not None
    # Resampled means lie within 0.70 and 0.75, and a normal approximation's interval within theirs.
    assert 0.0499 < interval[0] < 0.0750 - 1.96 * 0.0187 / 6**0.5
    assert 0.0750 + 1.96 * 0.0187 / 6**0.5 < interval[1] < 0.1001
    assert found[FOUND].raw_accuracy == pytest.approx(0.725 - 0.02)
    lr_max = found[FOUND].rates_S[0]
    read = found[READ_OFF]
    assert read.raw_accuracy is None
    assert read.accuracy == pytest.approx(peak_at(lr_max))  # straight between the grid's rates
    assert read.interval == pytest.approx((0.8 - peak_at(lr_max),) * 2)  # the same for every seed
    assert (read.behind_found, read.behind_interval) == (0, (0, 0))
    assert (found[FOUND].behind_found, found[f"{FOUND[:5]} LRMAX, LRMIN = LRMAX/10"].behind_found) == (0, 0)
    assert found["steepest"].behind_found == pytest.approx(peak_at(lr_max) - found["steepest"].accuracy)


def test_a_seed_trains_at_the_pair_its_range_test_gives_and_at_the_grid_with_that_lrmin(
    study: tuple[list[Step], list[Training]],
) -> None:
    (one, *_) = sweeps_of(study[0], NAME).values()
    lr_min, lr_max = pair_of(NAME, one)
    assert cells_of(NAME, 0, one)[:3] == [
        Cell(NAME, 0, lr_min, lr_max), Cell(NAME, 0, lr_max / 10, lr_max), Cell(NAME, 0, lr_max / 30, lr_max)
    ]  # fmt: skip
    assert cells_of(NAME, 0, one)[3:] == [Cell(NAME, 0, min(lr_min, top / 3), top) for top in GRID]


def test_where_the_rule_was_made_only_the_grid_is_trained_and_the_pair_is_read_off_it() -> None:
    steps = [replace(step, setting=DESIGNED) for step in steps_of(0, 130)]
    (one,) = sweeps_of(steps, DESIGNED).values()
    lr_min, lr_max = pair_of(DESIGNED, one)
    wanted = cells_of(DESIGNED, 0, one)
    assert wanted == [Cell(DESIGNED, 0, min(lr_min, top / 3), top) for top in GRID]
    first, *_ = regrets(steps, [training(cell, peak_at(cell.lr_max or 0)) for cell in wanted], DESIGNED, range(1))
    assert first.rule == READ_OFF
    assert first.accuracy == pytest.approx(peak_at(lr_max))
    assert (first.behind_found, first.raw_accuracy) == (0, None)


def test_a_setting_may_have_rates_and_an_lrmin_of_its_own() -> None:
    assert grid_cells("wide-512", 0, 0.02) == [Cell("wide-512", 0, 0.01, top) for top in (0.1, 0.2, 0.4, 0.8, 1.6)]


def test_between_two_rates_of_the_grid_the_accuracy_is_linear_in_log_rate() -> None:
    accuracies = np.arange(9.0)
    assert read_off(accuracies, GRID[3], GRID) == pytest.approx(3)
    assert read_off(accuracies, GRID[3] * 2**0.5, GRID) == pytest.approx(3.5)
    assert (read_off(accuracies, GRID[0] / 5, GRID), read_off(accuracies, GRID[-1] * 5, GRID)) == (0, 8)


@pytest.mark.parametrize(("num", "quantile", "margin"), [(60, 2.001, 0.03), (12, 2.201, 0.09)])
def test_the_interval_of_a_mean_is_students(num: int, quantile: float, margin: float) -> None:
    values = np.random.default_rng(3).normal(size=num)
    interval = bootstrap(lambda chosen: float(values[chosen].mean()), num)
    half = quantile * values.std(ddof=1) / num**0.5
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=margin)


def test_fewer_than_six_seeds_have_no_interval() -> None:
    assert bootstrap(lambda chosen: float(chosen.mean()), 5) is None
    assert bootstrap(lambda chosen: float(chosen.mean()), 6) is not None


def test_rates_that_the_first_seeds_show_to_be_far_behind_leave_the_race_and_those_between_stay() -> None:
    means = [0.50, 0.62, 0.69, 0.66, 0.70, 0.691, 0.681, 0.679, 0.1]
    seeds = [[mean + shift for mean in means] for shift in (-0.01, 0.0, 0.01)]
    later = [[1.0, *[np.nan] * 8]]  # of no account
    assert contenders(np.array(seeds + later)) == slice(2, 7)
    with pytest.raises(ValueError, match="whole grid"):
        contenders(np.array(seeds[:2] + later))


def test_a_later_seed_counts_where_it_has_the_contenders_and_the_rules_own_training(
    study: tuple[list[Step], list[Training]],
) -> None:
    steps, trainings = study
    top = pair_of(NAME, sweeps_of(steps, NAME)[5])[1]

    def kept(row: Training) -> bool:
        low_of_last = row.seed == 5 and row.lr_max == top and row.lr_min == top / 30
        return row.seed < 3 or (row.lr_max in (0.4, top) and not low_of_last)  # 0.4 is a tenth ahead of all others

    found = {row.rule: row for row in regrets(steps, [row for row in trainings if kept(row)], NAME, range(6))}
    whole = {row.rule: row for row in regrets(steps, trainings, NAME, range(6))}
    assert found[FOUND] == whole[FOUND]
    seeds = {rule: row.seeds for rule, row in found.items()}
    assert seeds.pop("found LRMAX, LRMIN = LRMAX/30") == 5
    assert (seeds.pop(FOUND), seeds.pop("found LRMAX, LRMIN = LRMAX/10")) == (6, 6)
    assert set(seeds.values()) == {3}  # read off the whole grid, all of whose rates but one are missing later
    assert found["steepest"].interval is None
    assert found["steepest"].accuracy == pytest.approx(whole["steepest"].accuracy)


def test_the_best_of_the_grid_is_that_of_the_rules_own_seeds_and_what_it_is_behind_is_paired(
    study: tuple[list[Step], list[Training]],
) -> None:
    steps, _ = study
    sweeps = sweeps_of(steps, NAME)
    top = pair_of(NAME, sweeps[0])[1]
    # Seeds differ by up to 0.05; 0.4 is best in the first five, 0.8 in the last, which has no LRMIN of a thirtieth.
    of_seed = {0: 0.60, 1: 0.61, 2: 0.62, 3: 0.63, 4: 0.64, 5: 0.65}
    trainings = []
    for seed, level in of_seed.items():
        better = {0.2: -0.025, 0.4: 0.03, 0.8: 0.01} if seed < 5 else {0.2: -0.01, 0.4: 0.00, 0.8: 0.20}
        for cell in cells_of(NAME, seed, sweeps[seed]):
            assert cell.lr_min is not None
            if cell.lr_max == top:
                own = 0.04 if cell.lr_min == top / 30 else 0.0
            else:
                own = better.get(cell.lr_max or 0, -0.3)
            if (seed, cell.lr_min, cell.lr_max) != (5, top / 30, top):
                trainings.append(training(cell, level + own))
    found = {row.rule: row for row in regrets(steps, trainings, NAME, range(6))}
    pair, thirtieth = found[FOUND], found["found LRMAX, LRMIN = LRMAX/30"]
    assert (pair.seeds, thirtieth.seeds) == (6, 5)
    assert pair.regret == pytest.approx((5 * 0.01 + 0.20) / 6)  # 0.8 is best on average of six
    assert thirtieth.regret == pytest.approx(0.03 - 0.04)  # 0.4 of the five
    assert thirtieth.behind_found == pytest.approx(-0.04)
    assert thirtieth.raw_accuracy == pytest.approx(0.62 + 0.04 - 0.02)
    assert thirtieth.interval is None
    assert pair.interval is not None
    assert pair.interval[0] < pair.regret < pair.interval[1]


def test_a_rule_within_the_race_keeps_its_seeds_where_the_found_rate_lies_without(
    study: tuple[list[Step], list[Training]],
) -> None:
    steps, _ = study
    sweeps, found_rate = sweeps_of(steps, NAME), pair_of(NAME, sweeps_of(steps, NAME)[0])[1]
    valley = RIVALS["valley"](sweeps[0])
    assert valley < 0.2 < found_rate
    trainings = [
        training(cell, 0.8 - abs(np.log2((cell.lr_max or 0) / 0.1)) / 60)  # 0.05, 0.1 and 0.2 stay
        for seed in range(6)
        for cell in cells_of(NAME, seed, sweeps[seed])
        if seed < 3 or (cell.lr_max or 0) <= 0.2
    ]
    found = {row.rule: row for row in regrets(steps, trainings, NAME, range(6))}
    assert (found["valley"].seeds, found[READ_OFF].seeds) == (6, 3)
    assert found["valley"].interval is not None
    assert found["valley"].behind_interval is None


def test_where_a_first_seed_lacks_a_training_its_setting_is_not_told_of() -> None:
    steps = [replace(step, setting=DESIGNED) for seed in range(2) for step in steps_of(seed, 130)]
    rows = [
        training(cell, 0.5)
        for seed, sweep in sweeps_of(steps, DESIGNED).items()
        for cell in cells_of(DESIGNED, seed, sweep)
    ]
    assert seeds_of(steps, rows, DESIGNED) == [0, 1]
    assert seeds_of(steps, rows[:-1], DESIGNED) == []
    assert accuracies_of(rows, DESIGNED, sweeps_of(steps, DESIGNED), [0, 1]).tolist() == [[0.5] * 9] * 2
    with pytest.raises(KeyError):
        accuracies_of(rows[:-1], DESIGNED, sweeps_of(steps, DESIGNED), [0, 1])


def test_what_is_read_off_later_seeds_lies_among_their_rates_for_all_of_them() -> None:
    rates = (0.1, 0.2, 0.4, 0.8)
    grid = np.array([[0.1, 0.2, 0.4, 0.3], [np.nan, 0.5, 0.7, np.nan]])
    race = slice(1, 3)
    assert _read_off_all(grid, race, rates, np.array([0.2, 0.4])).tolist() == pytest.approx([0.2, 0.7])
    inside_and_out = _read_off_all(grid, race, rates, np.array([0.8, 0.4]))
    assert inside_and_out.tolist() == pytest.approx([0.3, np.nan], nan_ok=True)


def test_a_study_cut_short_does_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Cell(NAME, 0), *grid_cells(NAME, 0, 0.01), *grid_cells(NAME, 0, 0.01)]
    assert cells.missing(wanted, tmp_path) == [Cell(NAME, 0), *grid_cells(NAME, 0, 0.01)]
    cells.append_rows(tmp_path, steps_of(0, 130))
    half = grid_cells(NAME, 0, 0.01)[:4]
    for cell in half:
        cells.append_rows(tmp_path, [training(cell, 0.1 + 0.2)])
    assert cells.missing(wanted, tmp_path) == grid_cells(NAME, 0, 0.01)[4:]
    assert cells.read_trainings(tmp_path) == [training(cell, 0.1 + 0.2) for cell in half]  # to the last digit
    assert cells.read_steps(tmp_path) == steps_of(0, 130)
    monkeypatch.setattr(cells, "run_cell", lambda *_: pytest.fail("nothing is left to do"))
    cells.run_all(half, tmp_path, tmp_path)
    assert not (tmp_path / "environments.json").exists()  # no row comes from here


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[Cell]]:
    """What the study would run, each time; the rows are made up."""
    calls: list[list[Cell]] = []

    def run_all(wanted: list[Cell], folder: Path, archive: Path) -> None:
        calls.append(wanted)
        for cell in wanted:
            if cell.lr_max is None:
                cells.append_rows(folder, [replace(step, setting=cell.setting) for step in steps_of(cell.seed, 130)])
            else:
                cells.append_rows(folder, [training(cell, peak_at(cell.lr_max))])

    monkeypatch.setattr(program, "run_all", run_all)
    return calls


def test_later_seeds_train_the_pair_and_what_is_left_of_the_race_and_their_other_lrmin_last(
    calls: list[list[Cell]], tmp_path: Path
) -> None:
    program.run(tmp_path, tmp_path, {NAME: range(5), DESIGNED: range(2)}, ["batch-32"])
    tests, whole, later = calls
    assert tests == [*(Cell(NAME, seed) for seed in range(5)), *(Cell(DESIGNED, seed) for seed in range(2))]
    one = sweeps_of(cells.read_steps(tmp_path), NAME)[0]
    lr_min, lr_max = pair_of(NAME, one)
    assert len(whole) == 3 * 12 + 2 * 9 + 10
    assert {(cell.setting, cell.seed) for cell in whole if cell.lr_max} == {
        (NAME, 0), (NAME, 1), (NAME, 2), (DESIGNED, 0), (DESIGNED, 1)
    }  # fmt: skip
    assert later == [
        Cell(NAME, 3, lr_min, lr_max), Cell(NAME, 3, min(lr_min, 0.4 / 3), 0.4),
        Cell(NAME, 4, lr_min, lr_max), Cell(NAME, 4, min(lr_min, 0.4 / 3), 0.4),
        Cell(NAME, 3, lr_max / 10, lr_max), Cell(NAME, 3, lr_max / 30, lr_max),
        Cell(NAME, 4, lr_max / 10, lr_max), Cell(NAME, 4, lr_max / 30, lr_max),
    ]  # fmt: skip


def test_later_seeds_of_a_race_that_the_rule_is_now_made_on_train_what_is_left_of_its_grid(
    calls: list[list[Cell]], tmp_path: Path
) -> None:
    name = "missed-shapes-128"
    program.run(tmp_path, tmp_path, {name: range(4)}, [])
    _, whole, later = calls
    assert len(whole) == 3 * 9
    assert [(cell.setting, cell.seed, cell.lr_max) for cell in later] == [(name, 3, 0.4)]


def test_a_report_tells_of_what_is_whole_and_names_what_is_not(
    calls: list[list[Cell]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.run(tmp_path, tmp_path, {NAME: range(4)}, [])
    program.report(tmp_path)
    figures = json.loads((tmp_path / "regret.json").read_text())
    assert list(figures["settings"]) == [NAME]
    assert {row["rule"]: row["seeds"] for row in figures["regrets"]}[FOUND] == 4
    assert (tmp_path / "regret.png").exists()
    cells.append_rows(tmp_path, [replace(step, setting=DESIGNED) for step in steps_of(0, 130)])
    capsys.readouterr()
    program.report(tmp_path)
    said = capsys.readouterr().out
    assert f"{DESIGNED}: not told of, its first seeds lack trainings" in said
    assert json.loads((tmp_path / "regret.json").read_text()) == figures


def test_without_any_rows_a_report_is_empty(tmp_path: Path) -> None:
    program.report(tmp_path)
    assert json.loads((tmp_path / "regret.json").read_text())["regrets"] == []


def test_each_machine_that_rows_come_from_is_kept(tmp_path: Path) -> None:
    for names in (["one", "two"], ["three"]):
        cells.note_environment(tmp_path, names)
    noted = json.loads((tmp_path / "environments.json").read_text())
    assert [entry["settings"] for entry in noted] == [["one", "two"], ["three"]]
    assert all("cpu" in entry and "command_line" not in entry for entry in noted)  # which names a machine's paths


def test_no_setting_is_both_made_for_and_judged_on() -> None:
    assert not set(DESIGN) & set(JUDGED)
    assert {*DESIGN, *JUDGED} <= set(cells.SETTINGS)


def test_a_training_is_in_fp32_where_auto_would_take_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(cells.SETTINGS["seventh-shapes-96"], num_train=60, num_held_out=20, epochs=1)
    monkeypatch.setitem(cells.SETTINGS, "seventh-shapes-96", small)
    monkeypatch.setattr(cells, "data_of", cells.data_of.__wrapped__)
    monkeypatch.setattr(loop, "_bf16_is_faster", lambda _device: True)
    assert loop.resolve_device("cpu", "auto").precision == "bf16"
    assert cells._train(Cell("seventh-shapes-96", 0, 0.01, 0.1), "").precision == "fp32"


def test_held_out_shapes_drawn_anew_are_none_of_the_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(cells.SETTINGS["fresh-shapes-256"], num_train=60, num_held_out=20)
    monkeypatch.setitem(cells.SETTINGS, "fresh-shapes-256", small)
    data, held_out = cells.data_of.__wrapped__("fresh-shapes-256", "")
    assert (len(data.train), len(held_out)) == (60, 20)
    everything = load_dataset("shapes")
    known = {image.tobytes() for split in (everything.train, everything.test) for image in split.images_NHWC}
    assert not known & {image.tobytes() for image in held_out.images_NHWC}
    assert np.bincount(held_out.labels_N).tolist() == [2] * 10


def test_trainings_and_range_tests_of_a_cell_see_the_same_images_and_never_the_held_out_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = replace(cells.SETTINGS["shapes-512"], num_train=60, num_held_out=20)
    monkeypatch.setitem(cells.SETTINGS, "shapes-512", small)
    data, held_out = cells.data_of.__wrapped__("shapes-512", "")
    assert (len(data.train), len(held_out)) == (60, 20)
    assert not set(data.train.files) & set(held_out.files)
    assert all(file.startswith("train/") for file in (*data.train.files, *held_out.files))
    assert set(data.test.files) <= set(held_out.files)  # what `fit` watches is not the test set either
