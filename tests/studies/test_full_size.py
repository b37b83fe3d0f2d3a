"""The study at full size: its variants, designs and tables."""

import io
import math

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from tests.studies.full_size import (
    BASE,
    COLUMNS,
    DEFAULTS,
    FACTORS,
    OUT,
    VARIANTS,
    compute_gain,
    effects_table,
    factorial_design,
    fit_effects,
    gains_table,
    read_rows,
    variant_options,
)

ROWS = [
    {"variant": DEFAULTS, "seed": "1", "last": "0.90"},
    {"variant": DEFAULTS, "seed": "2", "last": "0.80"},
    {"variant": DEFAULTS, "seed": "3", "last": "0.10"},
    {"variant": "better", "seed": "2", "last": "0.82"},
    {"variant": "better", "seed": "1", "last": "0.91"},
    {"variant": "one seed", "seed": "1", "last": "0.88"},
    {"variant": "no shared seed", "seed": "4", "last": "0.88"},
]


def test_a_gain_is_the_mean_over_the_shared_seeds() -> None:
    # Differences of 1 and 2 points: a mean of 1.5, a deviation of 0.5 * sqrt(2), an error of 0.5.
    num_seeds, *gain_and_error = compute_gain(ROWS, "better", "last")
    assert num_seeds == 2
    assert gain_and_error == pytest.approx([1.5, 0.5])
    num_seeds, gain, error = compute_gain(ROWS, "one seed", "last")
    assert num_seeds == 1
    assert gain == pytest.approx(-2.0)
    assert math.isnan(error)
    num_seeds, gain, _ = compute_gain(ROWS, "no shared seed", "last")
    assert num_seeds == 0
    assert math.isnan(gain)


def test_joined_variants_have_the_options_of_each() -> None:
    options = variant_options("whitened, LRMIN 0.024, alternating flips, no decay of batch norm")
    assert options == {"whitening_init": True, "lr_min": 0.024, "flip": "alternate", "bn_weight_decay": False}
    with pytest.raises(KeyError, match="warmer"):
        variant_options("whitened, warmer")


def test_the_factorial_design_has_every_combination_once_each_with_its_own_seed() -> None:
    combinations = {frozenset(name.split(", ")) for name, _ in factorial_design()}
    assert len(factorial_design()) == len(combinations) == 2 ** len(FACTORS)
    assert all("whitened" in parts and parts - {"whitened"} <= set(FACTORS) for parts in combinations)
    assert sorted(seed for _, seed in factorial_design()) == list(range(1, 33))


def test_effects_equal_the_gains_the_made_up_rows() -> None:
    gains = dict(zip(FACTORS, (0.01, 0.0, -0.02, 0.003, 0.0), strict=True))
    rows = [
        {"variant": name, "seed": str(seed)}
        | dict.fromkeys(COLUMNS, str(0.9 + sum(gain for part, gain in gains.items() if part in name)))
        for name, seed in factorial_design()
    ]
    other = {"variant": DEFAULTS, "seed": "1", **dict.fromkeys(COLUMNS, "0.1")}
    lines = to_text(effects_table([other, *rows])).splitlines()
    for name, gain in gains.items():
        (line,) = [line for line in lines if f" {name} " in line]
        # A gain of zero can be printed as -0.00.
        assert line.replace("-0.00", "+0.00").count(f"{100 * gain:+.2f} ± 0.00") == len(COLUMNS)
    assert "n = 32 of 32" in lines[0]
    assert lines[-2].count("89.65 %") == len(COLUMNS)  # 90, and half of 1, -2 and 0.3
    assert "±" not in to_text(effects_table(rows[:6]))
    assert BASE not in to_text(gains_table([other, *rows]))  # its rows belong to the design


def test_correlated_factors_have_larger_errors() -> None:
    # Two factors that agree in six of eight rows, a correlation of a half: their errors grow by 1 / sqrt(1 - 0.5 ** 2).
    signs_RC = np.array([[1.0, 1.0], [-1.0, -1.0]] * 3 + [[1.0, -1.0], [-1.0, 1.0]])
    accuracies_RA = np.random.default_rng(0).normal(0.9, 0.004, (8, 1))
    effects_CA, errors_CA, means_A = fit_effects(signs_RC, accuracies_RA)
    residuals_R = 100 * accuracies_RA[:, 0] - means_A[0] - signs_RC @ effects_CA[:, 0] / 2
    deviation = np.sqrt((residuals_R**2).sum() / 5)
    assert errors_CA[:, 0] == pytest.approx(2 * deviation / np.sqrt(8) / np.sqrt(1 - 0.5**2))


def test_the_error_is_that_of_a_difference_of_two_means() -> None:
    rng, signs_RC = np.random.default_rng(0), np.array([[1.0], [-1.0]] * 8)
    errors = [fit_effects(signs_RC, rng.normal(0.9, 0.004, (16, 1)))[1][0, 0] for _ in range(400)]
    # Two means of eight values with a deviation of 0.4 points.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(0.4 * np.sqrt(2 / 8), rel=0.05)


def to_text(table: Table) -> str:
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_committed_rows_have_known_variants_and_make_a_table() -> None:
    rows = read_rows(OUT)
    removed = "whitened, by the first images"
    assert {row["variant"] for row in rows} <= {*VARIANTS, removed}
    (whitened,) = [line for line in to_text(gains_table(rows)).splitlines() if " whitened  " in line]
    # 90.66 - 90.67 and 91.05 - 90.78 with the last weights, 90.86 - 90.78 and 91.17 - 90.98 with EMA.
    assert "+0.13 ± 0.14" in whitened
    assert "+0.13 ± 0.05" in whitened
