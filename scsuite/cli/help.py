"""The --help of a command: its options by group, readable at 80 columns. In: a command's parameters. Out: text."""

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
                is_argument = parameter.param_type_name == "argument"  # its record has a type too: PATH <list[str]>
                name = f"{parameter.metavar}..." if is_argument else record[0]
                styled = typer.style(name.ljust(HELP_COLUMN), fg=typer.colors.CYAN)
                text = record[1].replace(r"\[", "[")  # older versions of Typer escape brackets for rich
                rows[getattr(parameter, "rich_help_panel", None) or OUTPUT].append((styled, text))
        for group in GROUPS:
            if rows[group]:
                with formatter.section(typer.style(group, bold=True)):
                    formatter.write_dl(rows[group], col_max=HELP_COLUMN)
