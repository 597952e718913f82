"""The lag of consumer groups, read once or again and again."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidemill.cli.terminal import (
    WRONG,
    add_row,
    harmless_lines,
    new_table,
    print_json,
    print_table,
    terminal,
)
from tidemill.errors import BrokerError
from tidemill.monitor.lag import GroupLag, PartitionLag


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a partition may be behind at most; None is no limit."""

    messages: int | None = None
    seconds: float | None = None

    def status(self, lags: Sequence[GroupLag]) -> int:
        """Return the exit status: 1 if any group is over a limit, or wrong without one."""
        return int(any(self.broken_by(lag) or lag.is_wrong for lag in lags))

    def broken_by(self, lag: GroupLag) -> bool:
        """Return whether *lag* is over a limit."""
        return lag.over(messages=self.messages, seconds=self.seconds)


def as_document(lags: Sequence[GroupLag], limits: Limits) -> list[dict[str, object]]:
    """Return *lags* as plain values for JSON, sums included."""
    return [
        {
            "group": lag.group,
            "members": lag.members,
            "messages": lag.messages,
            "seconds": round(lag.seconds, 3),
            "open_txn": lag.open_txn,
            "ahead": lag.ahead,
            "lost": lag.lost,
            "over": limits.broken_by(lag),
            "partitions": [partition.to_json() for partition in lag.partitions],
        }
        for lag in lags
    ]


def lag_table(lags: Sequence[GroupLag], limits: Limits) -> Table:
    """Return one row for each partition, the one that is furthest behind first."""
    numbers = ("members", "partition", "committed", "end", "messages", "seconds", "lost")
    table = new_table("group", "members", "topic", *numbers[1:], "status", numbers=numbers)
    rows = [(lag, partition) for lag in lags for partition in lag.partitions]
    for lag, row in sorted(rows, key=lambda row: (-row[1].seconds, -row[1].messages)):
        alone = GroupLag(group=lag.group, members=lag.members, partitions=(row,))
        add_row(
            table,
            lag.group,
            lag.members,
            row.topic,
            row.partition,
            None if row.committed is None else str(row.committed),
            str(row.end),
            f"{'<=' if row.messages_at_most else ''}{row.messages:,}",
            f"{'>=' if row.seconds_at_least else ''}{row.seconds:,.3f}",
            row.lost,
            _remark(row),
            style=WRONG if limits.broken_by(alone) or row.is_wrong else None,
        )
    for lag in lags:
        if not lag.partitions:
            add_row(table, lag.group, lag.members, None, None, None, None, 0, "0.000", 0, "OK")
    return table


def _remark(row: PartitionLag) -> str:
    """Return the status, and how many offsets it is about."""
    count = {"AHEAD": -row.messages, "OPEN_TXN": row.open_txn}.get(row.status)
    return row.status if count is None else f"{row.status} {count:,}"


def print_lag(lags: Sequence[GroupLag], limits: Limits, *, as_json: bool) -> int:
    """Print *lags* once; return 1 if any is over a limit or wrong, else 0."""
    if as_json:
        print_json(as_document(lags, limits))
    else:
        print_table(lag_table(lags, limits))
    return limits.status(lags)


def watch_lag(
    read: Callable[[], Sequence[GroupLag]],
    limits: Limits,
    *,
    as_json: bool,
    every_s: float,
    readings: int | None = None,
) -> int:
    """Print what *read* returns every *every_s* seconds until Ctrl-C, or so many times.

    A reading that fails is told in the place of its figures, and the next one is tried.

    Returns:
        The exit status of the last reading.
    """
    pause, count, status = threading.Event(), 0, 0
    with Live(console=terminal(), auto_refresh=False, transient=False) as live:
        try:
            while readings is None or count < readings:
                count += 1
                try:
                    lags = read()
                except BrokerError as error:
                    status = error.status
                    _show_error(live, error, as_json=as_json)
                else:
                    status = limits.status(lags)
                    _show(live, lags, limits, as_json=as_json)
                pause.wait(every_s)
        except KeyboardInterrupt:
            pass
    return status


def _show(live: Live, lags: Sequence[GroupLag], limits: Limits, *, as_json: bool) -> None:
    if as_json:
        print_json(as_document(lags, limits))
    else:
        live.update(lag_table(lags, limits), refresh=True)


def _show_error(live: Live, error: BrokerError, *, as_json: bool) -> None:
    """Show that nothing could be read: old figures would look like a group that is well."""
    if as_json:
        print_json({"problem": error.what, "hint": error.hint})
    else:
        live.update(Text(harmless_lines(str(error)), WRONG), refresh=True)
