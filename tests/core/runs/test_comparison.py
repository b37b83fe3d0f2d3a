"""Groups of trainings, their mean and spread, and paired differences."""

from pathlib import Path

import pytest

from scsuite.core.runs.comparison import T_95, compare
from scsuite.core.runs.train_summary import read_training
from tests.made_runs import make_training

FIRST = {0: 0.90, 1: 0.92, 2: 0.94}
SECOND = {0: 0.91, 1: 0.95, 2: 0.95, 7: 0.10}


def make_groups(folder: Path) -> list[Path]:
    paths = [make_training(folder / f"a{seed}", [value], seed=seed) for seed, value in FIRST.items()]
    return paths + [
        make_training(folder / f"b{seed}", [value], seed=seed, label_smoothing=0) for seed, value in SECOND.items()
    ]


def test_trainings_that_differ_only_in_the_seed_are_one_group(tmp_path: Path) -> None:
    comparison = compare([read_training(path) for path in make_groups(tmp_path)])
    first, second = comparison.groups
    assert comparison.differing == ("label_smoothing",)
    assert (first.label, first.settings, first.seeds) == ("A", {"label_smoothing": 0.1}, (0, 1, 2))
    assert (first.mean, first.std) == pytest.approx((0.92, 0.02))
    assert second.seeds == (0, 1, 2, 7)


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    (difference,) = compare([read_training(path) for path in make_groups(tmp_path)]).differences
    # 0.01, 0.03, 0.01: mean 0.01667, SD 0.011547; scipy.stats.ttest_rel(...).confidence_interval()
    assert (difference.first, difference.second, difference.seeds) == ("A", "B", (0, 1, 2))
    assert (difference.mean, difference.std) == pytest.approx((1 / 60, 0.0115470))
    assert difference.ci95 == pytest.approx((-0.0120177, 0.0453510), abs=1e-5)


def test_the_quantiles_are_those_of_students_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    assert pytest.approx([stats.t.ppf(0.975, n) for n in range(1, 31)], abs=6e-4) == list(T_95)


def test_one_seed_has_no_spread_and_one_pair_no_interval(tmp_path: Path) -> None:
    paths = [make_training(tmp_path / "a", [0.9]), make_training(tmp_path / "b", [0.8], l1=0.1)]
    comparison = compare([read_training(path) for path in paths])
    assert [group.std for group in comparison.groups] == [None, None]
    (difference,) = comparison.differences
    assert difference.mean == pytest.approx(-0.1)
    assert (difference.std, difference.ci95) == (None, None)


def test_an_unfinished_training_and_a_repeat_do_not_count_in_the_mean(tmp_path: Path) -> None:
    paths = [
        make_training(tmp_path / "old", [0.1], seed=0, started="2026-01-01T00:00:00"),
        make_training(tmp_path / "new", [0.8], seed=0, started="2026-01-02T00:00:00"),
        make_training(tmp_path / "stopped", [0.2], seed=1, complete=False),
    ]
    (group,) = compare([read_training(path) for path in paths]).groups
    assert (group.seeds, group.accuracies, len(group.trainings)) == ((0,), (0.8,), 3)


def test_bounds_that_each_seed_found_by_its_own_range_test_are_no_difference(tmp_path: Path) -> None:
    paths = [make_training(tmp_path / f"{seed}", [0.9], seed=seed, lr_max=0.4 + seed / 100) for seed in (0, 1)]
    assert len(compare([read_training(path) for path in paths]).groups) == 2
    for path in paths:
        (path / "history.csv").write_text("repeat,seed,step,lr,loss,accuracy\n")
    assert len(compare([read_training(path) for path in paths]).groups) == 1


def test_the_place_of_the_data_and_workers_are_no_difference_but_other_images_are(tmp_path: Path) -> None:
    path = make_training(tmp_path / "a", [0.9], data="/here/pets", workers=0)
    moved = make_training(tmp_path / "b", [0.9], data="/there/pets", workers=2, seed=1)
    assert len(compare([read_training(path), read_training(moved)]).groups) == 1
    environment = moved / "environment.json"
    environment.write_text(environment.read_text().replace("f" * 64, "0" * 64))
    comparison = compare([read_training(path), read_training(moved)])
    assert comparison.differing == ("data_fingerprint",)


def test_accuracies_on_other_images_are_not_subtracted(tmp_path: Path) -> None:
    paths = [make_training(tmp_path / name, [0.9], limit_test=limit) for name, limit in (("a", None), ("b", 10))]
    assert len(compare([read_training(path) for path in paths]).differences) == 1
    environment = paths[1] / "environment.json"
    environment.write_text(environment.read_text().replace('"test_images": 1000', '"test_images": 10'))
    assert compare([read_training(path) for path in paths]).differences == ()
