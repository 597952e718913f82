"""Answers and ledgers on a terminal, or as JSON for a program. It prints and does nothing else."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime

from rich.console import Console
from rich.table import Table

from tidemill.features.sql.queries import QueryResult
from tidemill.monitor.ledger import Account, is_balanced

RARE = frozenset({"not_activated", "corrected"})
"""Ends that only some loops know; a column of zeros would take the width of a terminal."""


def print_answer(answer: QueryResult, *, as_json: bool) -> None:
    """Print the rows of *answer*: a table, or with *as_json* one JSON object a line."""
    if as_json:
        for record in answer.records():
            print(json.dumps(record, default=_plain))
        return
    table = Table(*answer.columns)
    for row in answer.rows:
        table.add_row(*(_shown(value) for value in row))
    console = _console()
    console.print(table)
    if answer.is_cut:
        console.print(f"more than {len(answer.rows)} rows; show more with --limit")


def print_ledger(accounts: Sequence[Account], *, as_json: bool) -> None:
    """Print *accounts*, a row a partition of each log, and whether all of them balance."""
    balanced = is_balanced(accounts)
    if as_json:
        found = [account.to_json() for account in accounts]
        print(json.dumps({"balanced": balanced, "accounts": found}))
        return
    console = _console()
    for log in ("decisions", "feedback"):
        chosen = [account for account in accounts if account.log == log]
        if chosen:
            console.print(_ledger_table(log, chosen))
            if by_log := _unread_by_log(chosen):
                console.print(f"unread of {by_log}", highlight=False)
    console.print("balanced" if balanced else "[bold red]NOT balanced[/]")


def _ledger_table(log: str, accounts: Sequence[Account]) -> Table:
    ends = [
        name
        for name in accounts[0].ends
        if name not in RARE or any(account.ends[name] for account in accounts)
    ]
    table = Table(title=log, box=None)
    table.add_column("loop", overflow="fold")
    for name in ("partition", "read", *ends, "open", "lost", "twice", "difference", "unread"):
        table.add_column(name, justify="right", overflow="fold")  # a cut number is a wrong one
    for account in accounts:
        ended = [account.ends[name] for name in ends]
        numbers = [account.partition, account.read, *ended, account.open]
        numbers += [account.lost, account.twice, account.difference]
        cells = [f"{number:,}" for number in numbers]
        cells.append("-" if account.unread is None else f"{account.unread:,}")
        table.add_row(account.loop, *cells, style=None if account.is_balanced else "bold red")
    return table


def _unread_by_log(accounts: Sequence[Account]) -> str:
    """Return how much is unread of each log where feedback comes by several; "" if nothing."""
    total: Counter[str] = Counter()
    for account in accounts:
        for log, count in account.unread_by_log.items():
            total[f"{account.loop}.{log}"] += count
    return ", ".join(f"{log} {count:,}" for log, count in total.items() if count)


def _console() -> Console:
    """Return where tables go: in a file or a pipe they need not fit 80 columns."""
    return Console(width=None if Console().is_terminal else 160)


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f").removesuffix(".000000")
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _plain(value: object) -> object:
    """Turn what JSON does not know into text."""
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)
