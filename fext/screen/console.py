"""Everything that is printed: messages, progress and tables, on a rich console that is passed in."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console, ConsoleDimensions
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from fext.data.names import readable
from fext.screen.interrupts import Interrupt, asked_to_stop
from fext.screen.streams import Output


def make_console(output: Output | None = None) -> Console:
    """The terminal, or plain text where output goes to a file or a pipe; without `output` it is standard output."""
    console = Console(file=cast("TextIO", output or Output(sys.stdout)), highlight=False, soft_wrap=False)
    if console.is_dumb_terminal:  # rich does not ask such a terminal for its size
        console.size = ConsoleDimensions(*shutil.get_terminal_size())
    return console


def _shown(text: str) -> str:
    """A text whose every character can be printed: a file's name may hold line ends and commands to the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in readable(text))


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="cyan")


class _ConsoleProgress:
    def __init__(self, progress: Progress, task: TaskID, interrupt: Interrupt) -> None:
        self._progress, self._task, self._interrupt = progress, task, interrupt

    def advance(self, count: int = 1, note: str = "") -> None:
        self._interrupt.check()
        self._progress.update(self._task, advance=count)
        if note:
            self._progress.update(self._task, description=escape(_shown(note)))


class ConsoleReporter:
    """Shows what a job tells: lines, and a bar with rate and time left where there is a terminal."""

    def __init__(self, console: Console, only_warnings: bool = False) -> None:
        self.console = console
        self._only_warnings = only_warnings

    def message(self, text: str) -> None:
        """Print a line; nothing where only warnings are wanted."""
        if not self._only_warnings:
            self.console.print(Text(_shown(text)))

    def warning(self, text: str) -> None:
        """Print a line in yellow."""
        self.console.print(Text(_shown(text), style="yellow"))

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[_ConsoleProgress]:
        """A bar with rate and time left; while it is open the first Ctrl-C asks the job to stop."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(compact=True),
        )
        shown = self.console.is_terminal and not self._only_warnings
        with (
            asked_to_stop(lambda: self.warning("Stopping after this batch (Ctrl-C again: at once)")) as interrupt,
            Progress(*columns, console=self.console, transient=True, disable=not shown, expand=True) as progress,
        ):
            yield _ConsoleProgress(progress, progress.add_task(escape(title), total=total), interrupt)


def show_error(console: Console, text: str) -> None:
    """One line that says what is wrong and what to do."""
    console.print(Text(_shown(text), style="bold red"))


def show_table(console: Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; the first column names, the others line up on the right."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def show_settings(console: Console, sections: Sequence[tuple[str, Sequence[tuple[str, str, str]]]]) -> None:
    """One table of (setting, value, default where it differs), a heading for each category."""
    table = Table(title="Settings in force", title_justify="left", title_style="bold", header_style="bold")
    table.add_column("setting", max_width=32)  # for the names; a heading is folded
    table.add_column("value", overflow="fold")
    table.add_column("differs from the default", overflow="fold", style="yellow")
    for title, rows in sections:
        table.add_row(Text(title, style="cyan"))
        for number, row in enumerate(rows):
            table.add_row(*(Text(cell) for cell in row), end_section=number == len(rows) - 1)
    console.print(table)


def show_facts(console: Console, title: str, facts: Sequence[tuple[str, str]]) -> None:
    """A short table of names and values."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(value))
    console.print(table)


def show_path(console: Console, label: str, path: Path, root: Path) -> None:
    """Where something was written; never wrapped."""
    console.print(Text(f"{label}: {shown_path(path, root)}"), soft_wrap=True)


def shown_path(path: Path, root: Path) -> str:
    """A path relative to the folder of FeXT where it lies in it."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
