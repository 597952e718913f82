r"""How commands print: one rule for every table, line of text, JSON document and progress bar.

- A table is as wide as the terminal. In a file or a pipe it has `PIPE_WIDTH` columns, or COLUMNS.
- No cell is cut: what is too long goes on in the next line. Numbers are right-aligned.
- Values come from events, topics and the lake, so anybody may have written them: what a terminal
  would act on is printed as its escape (`\x1b`), and nothing of it is markup.
- With `--json` a command prints one JSON document, or one in each line, and no table.
- Progress is shown on stderr, and only if that is a terminal.
"""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tidemill.harmless import harmless

PIPE_WIDTH = 160
WRONG = "bold red"
"""The style of what a person has to look at."""


class Terminal(Console):
    """A console that escapes what it prints: a string is text, and nothing of it is markup."""

    def render_str(self, text: str, *, style: str | Style = "", **_options: object) -> Text:
        """Return *text* as it is shown; see `harmless`."""
        return Text(harmless_lines(text), style)


def terminal(file: TextIO | None = None) -> Terminal:
    """Return the console of *file*, or of standard output, as wide as tables are there."""
    console = Terminal(file=file, highlight=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Terminal(file=file, highlight=False, width=PIPE_WIDTH)


def new_table(*columns: str, numbers: Collection[str] = (), title: str | None = None) -> Table:
    """Return a table without rows; the columns named in *numbers* are right-aligned."""
    table = Table(
        title=None if title is None else Text(harmless(title)),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    for name in columns:
        table.add_column(
            Text(harmless(name)),
            justify="right" if name in numbers else "left",
            overflow="fold",
        )
    return table


def add_row(table: Table, *cells: object, style: str | None = None) -> None:
    """Add a row to *table*, each cell as `shown`."""
    table.add_row(*(Text(shown(cell)) for cell in cells), style=style)


def shown(value: object) -> str:
    r"""Return *value* as a cell; a number that is an id or an offset is to be given as text.

    >>> [shown(value) for value in (None, 1234567, 0.25, "a" + chr(7))]
    ['-', '1,234,567', '0.25', 'a\\x07']
    >>> shown(datetime(2026, 1, 1, 12)), shown(datetime(999, 1, 1))
    ('2026-01-01 12:00:00', '0999-01-01 00:00:00')
    """
    match value:
        case None:
            return "-"
        case bool():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.6g}"
        case datetime():
            # strftime would write years below 1000 without zeros
            return value.replace(tzinfo=None).isoformat(sep=" ")
    return harmless(str(value))


def harmless_lines(text: str) -> str:
    """Return *text* as `harmless` does, but with its ends of lines."""
    return "\n".join(map(harmless, text.split("\n")))


def print_table(table: Table) -> None:
    """Print *table* on standard output."""
    terminal().print(table)


def print_text(text: str, style: str = "") -> None:
    """Print *text* as one line, however long it is."""
    terminal().print(Text(harmless(text), style), soft_wrap=True)


def print_error(error: object) -> None:
    """Print *error* on standard error, in its own lines."""
    print(harmless_lines(f"tidemill: {error}"), file=sys.stderr)


def print_json(document: object, *, indent: int | None = None) -> None:
    """Print *document* as JSON, in one line unless it has an *indent*; times are ISO 8601."""
    print(json.dumps(document, default=json_value, indent=indent), flush=True)


def json_value(value: object) -> str:
    """Return *value*, which JSON has no word for, as text."""
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much of *what* is done; yield the function to call with that and the total."""
    console = Terminal(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns,
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(harmless(what), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
