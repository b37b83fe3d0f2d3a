"""The check of the LRMAX rule: regrets by hand, what is left to train, and the digits."""

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.studies.full_size import append_row
from tests.studies.rule_check import FACTORS, SEEDS, compute_regret, find_work, load_images, main, read_digits

ACCURACIES = {0: (0.50, 0.60, 0.70, 0.71, 0.10), 1: (0.50, 0.60, 0.68, 0.70, 0.10), 2: (0.50, 0.60, 0.69, 0.72, 0.10)}


def make_rows(accuracies: Mapping[int, tuple[float, ...]]) -> list[dict[str, str]]:
    return [
        {"setting": "cifar10", "seed": str(seed), "factor": str(factor), "lr_max": "0.4", "accuracy": str(accuracy)}
        for seed, values in accuracies.items()
        for factor, accuracy in zip(FACTORS, values, strict=False)
    ]


def test_the_regret_is_the_best_mean_minus_that_at_the_lr_max_found() -> None:
    regret = compute_regret("cifar10", make_rows(ACCURACIES))
    assert regret is not None
    assert regret.best_factor == 2.0
    # The differences are 0.01, 0.02 and 0.03: mean 0.02, standard error 0.01 / sqrt(3), t of 2 degrees 4.302653.
    assert regret.regret == pytest.approx(0.02)
    margin = 4.302653 * 0.01 / 3**0.5
    assert regret.interval == pytest.approx((0.02 - margin, 0.02 + margin), abs=1e-6)


def test_a_seed_without_all_trainings_is_left_out_and_one_seed_has_no_regret() -> None:
    two = compute_regret("cifar10", make_rows({**ACCURACIES, 2: (0.9, 0.9)}))
    assert two is not None
    assert two.seeds == 2
    assert compute_regret("cifar10", make_rows({0: ACCURACIES[0]})) is None
    assert compute_regret("digits", make_rows(ACCURACIES)) is None


def test_only_trainings_without_a_row_are_left_seed_by_seed(tmp_path: Path) -> None:
    for factor in FACTORS[:4]:
        append_row(tmp_path, {"setting": "digits", "seed": 0, "factor": factor})
    work = find_work(["cifar10", "digits"], "archive", tmp_path)
    assert [(item.seed, item.setting) for item in work] == list(itertools.product(SEEDS, ("cifar10", "digits")))
    assert work[1].factors == FACTORS[4:]
    append_row(tmp_path, {"setting": "digits", "seed": 0, "factor": FACTORS[4]})
    assert len(find_work(["cifar10", "digits"], "archive", tmp_path)) == len(work) - 1


def test_data_that_cannot_be_read_are_refused_before_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["rule_check", "cifar10", "--data", str(tmp_path / "no.tar"), "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "no.tar: expected cifar10, shapes, a folder or an archive" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_digits_are_grey_and_their_held_out_images_are_no_training_images() -> None:
    digits = read_digits()
    assert digits.images_NHWC.shape == (1797, 32, 32, 3)
    assert np.bincount(digits.labels_N).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's
    assert (digits.images_NHWC[..., 0] == digits.images_NHWC[..., 2]).all()
    data, held_out = load_images("digits", "")
    assert (len(data.train), len(held_out)) == (1197, 600)
    assert not set(data.train.files) & set(held_out.files)
