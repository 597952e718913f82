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
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import date, datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 160
WRONG = "bold red"
"""The style of what a person has to look at."""


def terminal() -> Console:
    """Return the console of standard output, with the width that tables have there."""
    console = Console(highlight=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(highlight=False, width=PIPE_WIDTH)


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


def harmless(text: str) -> str:
    r"""Return *text* without anything a terminal would act on.

    >>> harmless("red" + chr(27) + "[31m")
    'red\\x1b[31m'
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def print_table(table: Table) -> None:
    """Print *table* on standard output."""
    terminal().print(table)


def print_text(text: str, style: str = "") -> None:
    """Print *text* as one line, however long it is."""
    terminal().print(Text(harmless(text), style), soft_wrap=True)


def print_json(document: object, *, indent: int | None = None) -> None:
    """Print *document* as JSON, in one line unless it has an *indent*; times are ISO 8601."""
    print(json.dumps(document, default=_json_value, indent=indent))


def _json_value(value: object) -> str:
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much of *what* is done; yield the function to call with that and the total."""
    console = Console(stderr=True)
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
