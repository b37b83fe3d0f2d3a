"""What `scsuite predict` shows and writes: tables of the first images, and all predictions as CSV or JSON.

In: the result. Out: lines and tables; a file.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scsuite.cli.console import Terminal
from scsuite.cli.run_output import log_text, relative_path

if TYPE_CHECKING:
    from scsuite.core.runs.results import PredictResult

NUM_ROWS_SHOWN = 20  # images on the terminal
MAX_CLASSES_SHOWN = 5  # in a row, and in the line of counts


def write_predictions(path: Path, result: "PredictResult", topk: int) -> None:
    """Write the predictions as CSV, one row per image, or the same object as --json prints."""
    from scsuite.core.files import make_parent, write_atomic
    from scsuite.core.runs.csv_files import write_csv

    make_parent(path)
    if path.suffix.lower() == ".json":
        write_atomic(path, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
        return
    ranks = [name for rank in range(2, topk + 1) for name in (f"class_{rank}", f"probability_{rank}")]
    rows = ((row.file, *(v for item in row.topk for v in (item.name, item.probability))) for row in result.predictions)
    write_csv(path, ("file", "predicted", "probability", *ranks), rows)


def print_report(terminal: Terminal, result: "PredictResult", notes: list[str]) -> None:
    """Print the first predictions, the files that could not be read, and how many images each class has."""
    from scsuite.core.dataset.split import format_names
    from scsuite.report import tables

    rows = [
        replace(row, file=relative_path(row.file), topk=row.topk[:MAX_CLASSES_SHOWN])
        for row in result.predictions[:NUM_ROWS_SHOWN]
    ]
    if rows:
        terminal.log_table(tables.stack(tables.predictions(rows)))
    if num_more := len(result.predictions) - len(rows):
        where = "" if result.out else ": --out FILE.csv or --json has all"
        terminal.log_line(f"          and {num_more:,} more{where}")
    if result.unreadable:
        shown = [{**row, "file": relative_path(row["file"])} for row in result.unreadable[:NUM_ROWS_SHOWN]]
        terminal.log_table(tables.stack(tables.unreadable_files(shown)))
        if num_more := len(result.unreadable) - len(shown):
            terminal.log_line(f"          and {num_more:,} more")
    counts = Counter(row.predicted for row in result.predictions).most_common()
    classes = format_names([f"{name} {count:,}" for name, count in counts], MAX_CLASSES_SHOWN)
    terminal.log_line(
        f"images    {len(result.predictions):,} in {result.seconds:,.1f} s{': ' * bool(classes)}{classes}"
    )
    for note in notes:
        log_text(terminal, note)
    if result.out:
        terminal.log_line(f"out       {relative_path(result.out)}")
