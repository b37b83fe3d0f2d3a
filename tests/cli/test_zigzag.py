"""`scsuite zigzag`: the curve of each policy, the files it writes, and where its values come from."""

from pathlib import Path

import pytest

from tests.cli.run_files import read_rows
from tests.run_cli import CliResult, run_cli


def test_zigzag_draws_the_triangle(zigzag_run: CliResult) -> None:
    # step size 4, from 0.04 to 0.4: up a quarter of 0.36 a step, and down again; one cycle
    lrs = [float(row["lr"]) for row in read_rows(zigzag_run.run_dir / "schedule.csv")]
    assert lrs == pytest.approx([0.04, 0.13, 0.22, 0.31, 0.4, 0.31, 0.22, 0.13, 0.04])


@pytest.mark.parametrize(
    ("policy", "step", "lr"),
    [
        ("triangular2", 10, 0.1),  # the first peak
        ("triangular2", 30, 0.055),  # the second one: half the height, 0.01 + 0.09 / 2
        ("triangular2", 40, 0.01),
        ("exp-range", 0, 0.01),
        ("exp-range", 20, 0.01),  # a valley whatever gamma is
        ("one-cycle", 0, 0.01),
        ("one-cycle", 9, 0.1),  # 2 epochs of 5 steps: step 2 * 5 - 1
        ("one-cycle", 19, 0.01),  # the last of 4 * 5
        ("one-cycle", 14, 0.055),  # half way down from 9 to 19
    ],
)
def test_zigzag_writes_each_policys_values(policy: str, step: int, lr: float, tmp_path: Path) -> None:
    table = tmp_path / "curve.csv"
    options = ("--lr-min", 0.01, "--lr-max", 0.1, "--step-size", 10, "--epochs", 4, "--steps-per-epoch", 5)
    more = ("--peak-epoch", 2) if policy == "one-cycle" else ()
    answer = run_cli("zigzag", "--policy", policy, *options, *more, "--csv", table, "--runs-dir", tmp_path / "runs")
    assert answer.code == 0
    assert float(read_rows(table)[step]["lr"]) == pytest.approx(lr, abs=1e-12)


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_zigzag_writes_the_figure_to_out(suffix: str, magic: bytes, tmp_path: Path) -> None:
    out = tmp_path / f"curve.{suffix}"
    answer = run_cli("zigzag", "--step-size", 4, "--out", out, "--runs-dir", tmp_path / "runs", "--json")
    assert answer.result["figures"][-1] == str(out)
    assert out.read_bytes().startswith(magic)


def test_zigzag_creates_the_folders_of_out_and_csv(tmp_path: Path) -> None:
    out, table = tmp_path / "figures" / "new" / "curve.png", tmp_path / "tables" / "new" / "curve.csv"
    where = ("--out", out, "--csv", table, "--runs-dir", tmp_path / "runs")
    assert run_cli("zigzag", "--step-size", 4, *where).code == 0
    assert out.is_file()
    assert len(read_rows(table)) == 17


def test_zigzag_draws_the_actual_steps_of_a_run(train_run: CliResult, tmp_path: Path) -> None:
    answer = run_cli("zigzag", "--run", train_run.run_dir, "--runs-dir", tmp_path, "--json")
    real = [row["lr"] for row in read_rows(train_run.run_dir / "steps.csv")]
    assert [row["lr"] for row in read_rows(answer.run_dir / "schedule.csv")] == real
    assert (answer.result["lr_min"], answer.result["lr_max"]) == (0.01, 0.1)


def test_flags_override_the_file_and_the_file_overrides_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("lr-max: 1.5\nlr_min: 1e-2\nstep_size: 7\n")  # YAML reads 1e-2 as a text; both spellings of names
    answer = run_cli("zigzag", "--config", file, "--step-size", 3, "--runs-dir", tmp_path / "runs", "--json")
    result = answer.result
    assert (result["lr_min"], result["lr_max"], result["num_steps"]) == (0.01, 1.5, 2 * 2 * 3 + 1)
