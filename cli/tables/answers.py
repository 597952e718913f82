"""Results of SQL queries, and ledgers."""

from collections import Counter
from collections.abc import Sequence
from numbers import Number

from rich.table import Table

from tidemill.cli.terminal import WRONG, add_row, new_table, print_json, print_table, print_text
from tidemill.features.sql.queries import QueryResult
from tidemill.monitor.ledger import Account, is_balanced
from tidemill.monitor.not_counted import NotCounted


def print_answer(answer: QueryResult, *, as_json: bool) -> None:
    """Print the rows of *answer*: a table, or with *as_json* one JSON object in each line."""
    if as_json:
        for record in answer.records():
            print_json(record)
        return
    columns = zip(*answer.rows, strict=True) if answer.rows else ()
    numbers = [
        name
        for name, values in zip(answer.columns, columns, strict=False)
        if all(value is None or _is_number(value) for value in values)
    ]
    table = new_table(*answer.columns, numbers=numbers)
    for row in answer.rows:
        add_row(table, *(str(value) if isinstance(value, int) else value for value in row))
    print_table(table)
    if answer.is_cut:
        print_text(f"more than {len(answer.rows)} rows; show more with --limit")


def _is_number(value: object) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool)


def print_ledger(
    accounts: Sequence[Account], not_counted: Sequence[NotCounted] = (), *, as_json: bool
) -> None:
    """Print *accounts*, one row for each partition of a log, and whether all of them balance.

    Ends that no record has are left out; *not_counted* is said at the end.
    """
    balanced = is_balanced(accounts)
    if as_json:
        documents = [account.to_json() for account in accounts]
        left = [each.to_json() for each in not_counted]
        print_json({"balanced": balanced, "accounts": documents, "not_counted": left})
        return
    for log in ("decisions", "feedback"):
        of_log = [account for account in accounts if account.log == log]
        if of_log:
            print_table(_ledger_table(log, of_log))
            if by_log := _unread_by_log(of_log):
                print_text(f"unread of {by_log}")
            print_text("")
    _print_not_counted(accounts, not_counted)
    print_text("balanced") if balanced else print_text("NOT balanced", WRONG)
    for loop in dict.fromkeys(each.loop for each in accounts if each.lost or each.difference > 0):
        print_text(f"  hint: put the lost rows back from the topics: tidemill lake repair {loop}")


def _print_not_counted(accounts: Sequence[Account], not_counted: Sequence[NotCounted]) -> None:
    for account in accounts:
        if not account.is_expected:
            count = account.read + (account.unread or 0)
            text = f"{account.loop}.{account.log}/{account.partition} has {count:,} records"
            print_text(f"{text}, and the loop has no such partition: no worker reads them", WRONG)
    for each in not_counted:
        records = f" ({each.records:,} records)" if each.records else ""
        print_text(f"not counted: {each.what}{records}: {each.why}", WRONG if records else "")


def _ledger_table(log: str, accounts: Sequence[Account]) -> Table:
    named = dict.fromkeys(name for account in accounts for name in account.ends)
    ends = [name for name in named if any(account.ends.get(name) for account in accounts)]
    titles = (name.replace("_", " ") for name in ends)
    numbers = ("partition", "read", *titles, "open", "lost", "twice", "difference", "unread")
    table = new_table("loop", *numbers, numbers=numbers, title=log)
    for account in accounts:
        add_row(
            table,
            account.loop,
            account.partition,
            account.read,
            *(account.ends.get(name, 0) for name in ends),
            account.open,
            account.lost,
            account.twice,
            account.difference,
            account.unread,
            style=None if account.is_balanced else WRONG,
        )
    return table


def _unread_by_log(accounts: Sequence[Account]) -> str:
    """Return what is unread of each log, if feedback comes by several; "" if nothing is."""
    total: Counter[str] = Counter()
    for account in accounts:
        for log, count in account.unread_by_log.items():
            total[f"{account.loop}.{log}"] += count
    return ", ".join(f"{log} {count:,}" for log, count in total.items() if count)
