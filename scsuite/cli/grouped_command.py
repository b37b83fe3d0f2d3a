"""The layout of a command's --help.

In: a command's parameters. Out: its help, the options by group, readable at 80 columns.
"""

from typing import Any

import typer
from typer.core import TyperCommand

from scsuite.core.config import GROUPS, OUTPUT

HELP_COLUMN = 24  # characters for an option; the help of a longer one starts on the next line


class GroupedCommand(TyperCommand):
    """A command whose --help lists the options by group, readable at 80 columns."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: D102
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                name = typer.style(record[0].ljust(HELP_COLUMN), fg=typer.colors.CYAN)
                text = record[1].replace(r"\[", "[")  # older versions of Typer escape brackets for rich
                rows[getattr(parameter, "rich_help_panel", None) or OUTPUT].append((name, text))
        for group in GROUPS:
            if rows[group]:
                with formatter.section(typer.style(group, bold=True)):
                    formatter.write_dl(rows[group], col_max=HELP_COLUMN)
