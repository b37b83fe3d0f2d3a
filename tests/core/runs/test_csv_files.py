r"""CSV files are safe to open and read back as what was written. Run: pytest tests/core/runs/test_csv_files.py."""

import csv
import io
import os
import re
from pathlib import Path

import pytest

from scsuite.core.runs.csv_files import csv_text, read_cell, write_csv

NAMES = [
    "a,b", 'say "hi"', "line\nbreak", "carriage\rreturn", "tab\there", " space ", "[red]", "$x_1^2$", "猫",
    "👨\u200d👩", "", "'", "'x", "''", "\\", "a;b", "x=1", "C:\\users\\a", "x" * 300, "éclair", "1", "-0.5", "TRUE",
    "1e5", "ls\u2028sep",
    # formulas
    "=1+1", "+1", "-1", "@x", "'=1", "''+", "＝1", "＋1", "－1", "＠x", " =1", "\t=1", "\r=1", "\n=1", "\xa0=1",
    "\u3000=1", "\u200b=1", "\ufeff=1", "' =1", "'\t=1", '=cmd|"/C calc"!A0', 'a;=1', "a; '=1", 'a;"=1',
    "a,=1", 'a","=1',
    # controls of a terminal
    "\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "next\x85line", "form\x0cfeed", "\0", "\x7f",
    "bi\u202edi", "\u2066x", "a\x1b=1",
    # what looks like an escape
    r"\u001b", r"\\u001b", "\\\x1b", r"\u005c", r"\u005cu001b", r"\u00", r"\u00zz", r"\ud83d", r"\x1b", r"'\u003d1",
    os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png", os.fsdecode(b"=\xff"),
]  # fmt: skip


def read(text: str) -> list[list[str]]:
    return [[read_cell(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_reads_back_and_acts_as_nothing_else(name: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["n", name], [[1, name], [2, "after"], [3, f"p_{name}"]])
    text = (tmp_path / "a.csv").read_bytes().decode()
    assert read(text) == [["n", name], ["1", name], ["2", "after"], ["3", f"p_{name}"]]
    assert text.count("\n") == 4  # one line per row, so other tools read the numbers
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", text)
    for delimiter in (",", ";", "\t"):  # a spreadsheet splits at the one of its country
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            assert not [
                cell for cell in row if cell.strip(' "\u3000\xa0\u200b\ufeff').startswith(tuple("=+-@＝＋－＠"))
            ]


def test_different_names_are_written_differently() -> None:
    assert len({csv_text([[name]]) for name in NAMES}) == len(set(NAMES))


def test_numbers_stay_numbers() -> None:
    assert csv_text([[-0.5, 3, -1e-7, None, True]]) == "-0.5,3,-1e-07,,True\n"


def test_plain_names_are_written_as_they_are() -> None:
    assert (
        csv_text([["cat", "猫 1.png", "a-b=c", "C:\\new\\x.png", "a;b"]]) == "cat,猫 1.png,a-b=c,C:\\new\\x.png,a;b\n"
    )


def test_bytes_that_are_not_utf_8_become_escapes_in_a_csv_file_that_is_utf_8(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["file"], [[os.fsdecode(b"caf\xe9.png")]])
    assert (tmp_path / "a.csv").read_bytes() == b"file\ncaf\\udce9.png\n"
