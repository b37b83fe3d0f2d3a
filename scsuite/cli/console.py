"""What a person sees while a command works: lines, tables, progress bars; the same as plain text in the run's log.txt.

In: texts and rich tables. Out: stdout, or stderr if stdout is for JSON; and the log of the run once there is one.
"""

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from scsuite.cli.streams import make_console
from scsuite.core.errors import escape

if TYPE_CHECKING:  # rich is imported by commands that run: --help does not need it
    from rich.console import RenderableType

    from scsuite.cli.options import OutputOptions
    from scsuite.core.runs.rundir import RunDir

PLAIN_PROGRESS_SECONDS = 30.0  # between progress lines where there is no terminal


class Progress(Protocol):
    """Reports that `done` of `total` (None: unknown) parts of a task are done."""

    def __call__(self, task: str, done: int, total: int | None, detail: str = "") -> None: ...  # noqa: D102


class Terminal:
    """Prints for people, and writes the same into the run's log; `warnings` holds the text of all warnings."""

    def __init__(self, output: "OutputOptions") -> None:
        self.console = make_console(output.json, output.quiet)
        self.json, self.outcome = output.json, output.outcome
        self.warnings = output.outcome.warnings
        self._run: RunDir | None = None
        self._buffer: list[tuple[str, Callable[[], None]]] | None = []  # None: print at once

    def attach_run(self, run: "RunDir | None") -> None:
        """Print and log what was buffered, and everything later at once; an error before this prints its line alone."""
        self._run = self.outcome.run = run  # None: the command makes no run directory
        buffered, self._buffer = self._buffer or [], None
        for text, show in buffered:
            self._show(text, show)

    @property
    def is_live(self) -> bool:
        """Whether there is a screen that can be redrawn."""
        return self.console.is_terminal and not self.console.quiet

    def log_table(self, renderable: "RenderableType") -> None:
        """Show a table or a text with markup."""
        from rich.console import Console

        plain = Console(file=io.StringIO(), width=120, color_system=None, highlight=False)
        plain.print(renderable)
        text = plain.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
        self._show(text, lambda: self.console.print(renderable))

    def log_line(self, text: str) -> None:
        """Show one line, without markup."""
        self._show(escape(text), lambda: self.print_line(text))

    def log_progress(self, text: str) -> None:
        """Log a line, and print it unless a live table shows the same."""
        self._show(escape(text), lambda: None if self.is_live else self.print_line(text))

    def log_warning(self, text: str) -> None:
        """Show a warning."""
        from rich.markup import escape as escape_markup

        self.warnings.append(text)
        markup = f"[yellow]warning:[/yellow] {escape_markup(escape(text))}"
        wrap = self.is_live  # between words; in a pipe, a warning is one line
        self._show(f"warning: {escape(text)}", lambda: self.console.print(markup, emoji=False, soft_wrap=not wrap))

    def print_line(self, text: str) -> None:
        """Print one line at once, without logging it."""
        self.console.print(escape(text), markup=False, emoji=False, soft_wrap=True)

    def print_table(self, renderable: "RenderableType") -> None:
        """Print a table at once, without logging it."""
        self.console.print(renderable)

    def _show(self, text: str, show: Callable[[], None]) -> None:
        if self._buffer is not None:
            self._buffer.append((text, show))
            return
        if self._run is not None:
            self._run.log(text)
        show()

    def print_json(self, result: Mapping[str, Any]) -> None:
        """Print the JSON object of --json."""
        if self.json:
            self.outcome.print_json(result)

    @contextlib.contextmanager
    def progress_bar(self) -> Iterator[Progress]:
        """Yield a `Progress`: a bar per task on a terminal, a line now and then elsewhere."""
        from rich import progress

        last_time = time.monotonic()
        task_ids: dict[str, progress.TaskID] = {}
        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[detail]}", markup=False),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=self.console, transient=True, disable=not self.is_live) as bar:

            def show(task: str, done: int, total: int | None, detail: str = "") -> None:
                nonlocal last_time
                if self.is_live:
                    if task not in task_ids:
                        task_ids[task] = bar.add_task(task, total=total, detail="")
                    bar.update(task_ids[task], completed=done, total=total, detail=detail)
                elif time.monotonic() - last_time > PLAIN_PROGRESS_SECONDS:
                    last_time = time.monotonic()
                    text = f"{task}: {done:,}" + (f" of {total:,}" if total else "") + (detail and f", {detail}")
                    self.log_line(text) if self._run else self.print_line(text)

            yield show

    @contextlib.contextmanager
    def live_table(self) -> "Iterator[Callable[[RenderableType], None]]":
        """Yield a `show(renderable)` that redraws in place on a terminal, and does nothing elsewhere."""
        if not self.is_live:
            yield lambda _renderable: None
            return
        from rich.live import Live

        with Live(console=self.console, transient=True, refresh_per_second=4) as live:
            yield live.update
