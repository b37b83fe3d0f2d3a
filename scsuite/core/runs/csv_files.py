r"""CSV files that are safe to open: no cell acts as a formula in a spreadsheet or as a command in a terminal.

In: rows of numbers and texts. Out: UTF-8 text whose texts read back as the same ones. A text is written by two rules,
and `read_cell` undoes them:

1. A control character, and a byte of a name that is not UTF-8, becomes \uXXXX, as in JSON. So does a `;` before a
   formula, because some spreadsheets start a cell after it, and a backslash that would be read as such an escape.
2. A text that a spreadsheet would run as a formula gets a `'` before it, and so does one that has quotes before a
   formula.

Source: https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from scsuite.core.errors import InputError
from scsuite.core.files import open_regular_file, write_atomic

MAX_ROW_BYTES = 4096  # of a table of a run
MAX_DAMAGED_ROWS = 1000  # each crash can leave one

# Spreadsheets ignore spaces before a formula, some of them invisible ones; \uff1d and the like are full-width forms.
_START = "'*[\\s\u200b-\u200f\u2060\ufeff]*[=+\\-@\uff1d\uff0b\uff0d\uff20]"
_FORMULA = re.compile(_START)
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")
# Controls of ASCII and Latin-1, line separators, controls of the writing direction, bytes that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    rf"|\\(?=u[0-9a-f]{{4}})|;(?=[\"\s]*{_START})"
)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as the lines of a CSV file, one line per row; numbers stay as they are."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_write_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically, in UTF-8. Raises OutputError."""
    write_atomic(path, csv_text([header, *rows]).encode())


def read_csv(path: Path) -> Iterator[list[str]]:
    """Yield the header of a CSV file without quoted values and its rows of as many cells; none if there is no file.

    One row is in memory at a time: the file may have any size. Raises InputError for long rows, and for many damaged.
    """
    if not path.exists():
        return
    num_cells, num_damaged = 0, 0
    with open_regular_file(path, "run") as file:
        while line := _read_line(file, path):
            row = line.decode(errors="replace").removesuffix("\n").split(",")
            if row != [""] and len(row) == (num_cells or len(row)):
                num_cells = len(row)
                yield row
                continue
            num_damaged += 1
            if num_damaged > MAX_DAMAGED_ROWS:
                found, hint = f"more than {MAX_DAMAGED_ROWS:,} others", "Give a training run."
                raise InputError("run", path, expected=f"rows of {num_cells} cells", found=found, hint=hint)


def check_num_rows(path: Path, max_rows: int) -> None:
    """Raise InputError for a CSV file of more rows than that, in much less time than reading them takes."""
    num_lines = 0
    with open_regular_file(path, "run") as file:
        while (block := file.read(2**20)) and (count := block.count(b"\n")):  # a block without one is a long row
            num_lines += count
            if num_lines > max_rows + 1:
                hint = "Give a training run."
                raise InputError("run", path, expected=f"at most {max_rows:,} rows", found="more", hint=hint)


def _read_line(file: BinaryIO, path: Path) -> bytes:
    try:
        line = file.readline(MAX_ROW_BYTES + 1)
    except OSError as error:
        hint = "Check the disk."
        raise InputError("run", path, expected="a readable file", found=error.strerror, hint=hint) from None
    if len(line) > MAX_ROW_BYTES:
        expected = f"rows of at most {MAX_ROW_BYTES:,} bytes"
        raise InputError("run", path, expected=expected, found="a longer one", hint="Give a training run.")
    return line


def read_cell(text: str) -> str:
    """Return the text that `csv_text` was given for a cell, from what `csv.reader` reads."""
    if text.startswith("'") and _FORMULA.match(text[1:]):
        text = text[1:]
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def _write_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", value)
    return f"'{text}" if _FORMULA.match(text) else text
