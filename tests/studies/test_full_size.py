"""The study at full size: its variants and its device. Run: pytest tests/studies/test_full.py."""

import io
import math

import pytest
from rich.console import Console
from rich.table import Table

from tests.studies.full import (
    BASE,
    COLUMNS,
    DEFAULTS,
    FACTORS,
    OUT,
    VARIANTS,
    effects_table,
    factorial,
    gains,
    read_rows,
    table,
    variant_of,
)

ROWS = [
    {"variant": DEFAULTS, "seed": "1", "last": "0.90"},
    {"variant": DEFAULTS, "seed": "2", "last": "0.80"},
    {"variant": DEFAULTS, "seed": "3", "last": "0.10"},
    {"variant": "better", "seed": "2", "last": "0.82"},
    {"variant": "better", "seed": "1", "last": "0.91"},
    {"variant": "alone", "seed": "1", "last": "0.88"},
    {"variant": "elsewhere", "seed": "4", "last": "0.88"},
]


def test_a_gain_is_the_mean_over_the_seeds_that_both_have() -> None:
    # Differences of 1 and 2 points: a mean of 1.5, a deviation of 0.5 * sqrt(2), an error of 0.5.
    num, *figures = gains(ROWS, "better", "last")
    assert num == 2
    assert figures == pytest.approx([1.5, 0.5])
    num, gain, error = gains(ROWS, "alone", "last")
    assert num == 1
    assert gain == pytest.approx(-2.0)
    assert math.isnan(error)
    num, gain, _ = gains(ROWS, "elsewhere", "last")
    assert num == 0
    assert math.isnan(gain)


def test_several_variants_at_once_are_each_of_them() -> None:
    several = variant_of("whitened, LRMIN 0.024, alternating flips, no decay of batch norm")
    assert several == {"whitening_init": True, "lr_min": 0.024, "alternate_flips": True, "bn_weight_decay": False}
    with pytest.raises(KeyError, match="warmer"):
        variant_of("whitened, warmer")


def test_the_factorial_has_every_combination_of_its_factors_once_and_each_its_own_seed() -> None:
    combinations = {frozenset(name.split(", ")) for name, _ in factorial()}
    assert len(factorial()) == len(combinations) == 2 ** len(FACTORS)
    assert all("whitened" in parts and parts - {"whitened"} <= set(FACTORS) for parts in combinations)
    assert sorted(seed for _, seed in factorial()) == list(range(1, 33))


def test_the_effects_of_a_factorial_are_those_that_its_rows_were_made_with() -> None:
    gains_of = dict(zip(FACTORS, (0.01, 0.0, -0.02, 0.003, 0.0), strict=True))
    rows = [
        {"variant": name, "seed": str(seed)}
        | dict.fromkeys(COLUMNS, str(0.9 + sum(gain for part, gain in gains_of.items() if part in name)))
        for name, seed in factorial()
    ]
    stray = {"variant": DEFAULTS, "seed": "1", **dict.fromkeys(COLUMNS, "0.1")}
    lines = shown(effects_table([stray, *rows])).splitlines()
    for name, gain in gains_of.items():
        (line,) = [line for line in lines if f" {name} " in line]
        # Or -0.00 where there is none.
        assert line.replace("-0.00", "+0.00").count(f"{100 * gain:+.2f} ± 0.00") == len(COLUMNS)
    assert "n = 32 of 32" in lines[0]
    assert lines[-2].count("89.65 %") == len(COLUMNS)  # 90, and half of 1, -2 and 0.3
    assert "±" not in shown(effects_table(rows[:6]))
    assert BASE not in shown(table([stray, *rows]))  # no seed of it is one of the defaults'


def shown(table: Table) -> str:
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_the_kept_rows_are_those_of_known_variants_and_make_a_table() -> None:
    rows = read_rows(OUT)
    earlier = "whitened, by the first images"
    assert {row["variant"] for row in rows} <= {*VARIANTS, earlier}
    (whitened,) = [line for line in shown(table(rows)).splitlines() if " whitened  " in line]
    # 90.66 less 90.67 and 91.05 less 90.78 of the last weights, 90.86 less 90.78 and 91.17 less 90.98 averaged.
    assert "+0.13 ± 0.14" in whitened
    assert "+0.13 ± 0.05" in whitened
