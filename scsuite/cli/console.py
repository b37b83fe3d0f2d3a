"""What a person sees while a command works: tables, lines and a live display; the same, plain, in the run's log.txt."""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scsuite.core.errors import OutputError
from scsuite.report import words

if TYPE_CHECKING:
    from scsuite.cli.options import OutputOptions
    from scsuite.core.runs.rundir import RunDir

PLAIN_PROGRESS_SECONDS = 30.0  # seconds between lines about something long, off a terminal


class _Console(Console):
    """A console that falls silent when its reader goes away; rich's own ends the program, with exit code 1."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        redirect_to_devnull(self.file)


class Terminal:
    """Prints for people: on stdout, or on stderr where stdout is for JSON; and into the run's log once there is one."""

    def __init__(self, output: "OutputOptions") -> None:
        self.console = _Console(stderr=output.json, quiet=output.quiet, highlight=False, soft_wrap=False)
        self.json = output.json
        self._run: RunDir | None = None
        self._waiting: list[tuple[str, Callable[[], None]]] = []

    def attach_run(self, run: "RunDir") -> None:
        """Print what waited for a run, and from now on all at once; and all of it into the run's log.txt too.

        Until then nothing is printed: input may still be refused, and an error's line stands alone.
        """
        self._run = run
        for text, show in self._waiting:
            self._show(text, show)
        self._waiting.clear()

    def log_table(self, renderable: RenderableType) -> None:
        """Show a table or a text with markup."""
        plain = Console(file=io.StringIO(), width=120, color_system=None, highlight=False)
        plain.print(renderable)
        text = plain.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
        self._show(text, lambda: self.console.print(renderable))

    def log_line(self, text: str) -> None:
        """Show one line as it is."""
        self._show(words.clean(text), lambda: self.print_line(text))

    @property
    def is_live(self) -> bool:
        """Whether there is a screen to redraw on."""
        return self.console.is_terminal and not self.console.quiet

    def log_progress(self, text: str) -> None:
        """A line for the log, and for a screen that cannot be redrawn; a live one shows the same in a table."""
        self._show(words.clean(text), lambda: None if self.is_live else self.print_line(text))

    def log_warning(self, text: str) -> None:
        """Show a warning."""
        shown = f"[yellow]warning:[/yellow] {escape(words.clean(text))}"
        self._show(f"warning: {words.clean(text)}", lambda: self.console.print(shown, emoji=False, soft_wrap=True))

    def print_line(self, text: str) -> None:
        """Show one line at once, and log it nowhere."""
        with ignore_closed_stream(self.console.file):
            self.console.print(words.clean(text), markup=False, emoji=False, soft_wrap=True)

    def print_table(self, renderable: RenderableType) -> None:
        """Show a table at once, and log it nowhere."""
        with ignore_closed_stream(self.console.file):
            self.console.print(renderable)

    def _show(self, text: str, show: Callable[[], None]) -> None:
        if self._run is None:
            self._waiting.append((text, show))
            return
        self._run.log(text)
        with ignore_closed_stream(self.console.file):
            show()

    def print_json(self, result: Mapping[str, Any]) -> None:
        """The JSON object of --json."""
        if self.json:
            try:
                print(json.dumps(result, ensure_ascii=True), flush=True)  # noqa: T201 - the machine's half of the contract
            except BrokenPipeError:
                redirect_to_devnull(sys.stdout)
            except OSError as error:
                redirect_to_devnull(sys.stdout)
                raise OutputError(
                    "cannot write", "stdout", expected="room for the result", found=error.strerror or error,
                    hint="It is in the run directory too: result.json.",
                ) from None  # fmt: skip

    @contextlib.contextmanager
    def progress_bar(self) -> Iterator[Callable[[str, int, int | None], None]]:
        """A `progress(text, done, total)` for what takes long: a bar on a terminal, a line now and then elsewhere."""
        if self.is_live:
            bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=self.console, transient=True,
            )  # fmt: skip
            with bar:
                tasks: dict[str, Any] = {}

                def show(text: str, done: int, total: int | None) -> None:
                    if text not in tasks:
                        tasks[text] = bar.add_task(escape(text), total=total)
                    bar.update(tasks[text], completed=done, total=total)

                yield show
            return
        last = time.monotonic()

        def tell(text: str, done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last > PLAIN_PROGRESS_SECONDS:
                last = time.monotonic()
                self.print_line(f"{text}: {done:,}" + (f" of {total:,}" if total else ""))

        yield tell

    @contextlib.contextmanager
    def live_table(self) -> Iterator[Callable[[RenderableType], None]]:
        """A `show(renderable)` that redraws in place on a terminal, and does nothing elsewhere."""
        if not self.is_live:
            yield lambda _renderable: None
            return
        with Live(console=self.console, transient=True, refresh_per_second=4) as live:
            yield live.update


@contextlib.contextmanager
def ignore_closed_stream(stream: IO[str]) -> Iterator[None]:
    """A reader that went away (`| head -1`) or a full disk does not end a run: what follows is printed nowhere.

    The run's log.txt has it all.
    """
    try:
        yield
    except OSError:
        redirect_to_devnull(stream)


def redirect_to_devnull(stream: IO[str]) -> None:
    """Let a stream lead nowhere, so that nothing more fails on it, at exit neither."""
    import os

    devnull = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(devnull, stream.fileno())
    os.close(devnull)
