"""The ledger: records read equal records ended plus records open, for every log and partition.

It is counted from the lake alone, at versions of the tables that fit together, and must hold at
every moment, even while workers write. With the ends of the logs it counts unread records too.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field

import duckdb

from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, FEEDBACK, table_of
from tidemill.features.lake.progress_keys import (
    DEAD_LETTERS,
    DUPLICATE,
    GAPS,
    LATE,
    MISPLACED,
    OFFSET,
    UNKNOWN_ITEM,
    UNMATCHED,
    ProgressName,
)
from tidemill.features.sql.views import open_duckdb, open_tables
from tidemill.monitor.record_counts import Counters, Stream, count_records
from tidemill.schemas.logs import Log, number_of
from tidemill.schemas.loop.definition import Loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One table of one partition, in records: the decisions, or the feedback of all its logs.

    Attributes:
        read: rows of the raw table, and dead letters.
        ends: the number of records by outcome; `dead_letter` is one of them. `label_error`,
            `misplaced` and `unknown_item` are there only if any record ended as that.
        open: rows whose window is still open.
        twice: rows minus distinct offsets; above 0 the fence has failed.
        lost: offsets from the first row to the next one to read that left no trace. Offsets that
            never held a record, such as transaction markers, do not count.
        unread: records in the log after the last one read; None if its end is not known.
        unread_by_log: *unread* for each log, if feedback has more than one.
        is_expected: whether the loop has this partition; no worker reads the others.
    """

    loop: str
    log: str
    partition: int
    read: int
    ends: Mapping[str, int]
    open: int
    twice: int
    lost: int
    unread: int | None = None
    unread_by_log: Mapping[Log, int] = field(default_factory=dict)
    is_expected: bool = True

    @property
    def difference(self) -> int:
        """Records read that neither ended nor are open; 0 in a correct lake."""
        return self.read - sum(self.ends.values()) - self.open

    @property
    def is_balanced(self) -> bool:
        """Whether every record read is accounted for exactly once, and all are read."""
        is_read = self.is_expected or not (self.read or self.unread)
        return is_read and self.difference == 0 and self.twice == 0 and self.lost == 0

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        return asdict(self) | {"difference": self.difference, "balanced": self.is_balanced}


def ledger(
    lake: Lake,
    loop: Loop,
    *,
    ends: Mapping[tuple[Log, int], int] | None = None,
    connection: duckdb.DuckDBPyConnection | None = None,
) -> list[Account]:
    """Return the accounts of *loop* by partition: decisions, then feedback of all logs.

    Args:
        lake: where the tables are.
        loop: the newest version of the loop.
        ends: the offset after the last record, by log and partition; also of partitions that the
            loop does not expect.
        connection: one of `open_duckdb`; by default a new one.

    Raises:
        LakeError: the lake cannot be read.
    """
    tables = open_tables(lake, loop)
    with nullcontext(connection) if connection is not None else open_duckdb() as opened:
        counted = count_records(tables, loop, opened)
    partitions = sorted(
        {*range(loop.partitions), *(number for _, number in ends or ())}
        | {number for streams in counted.values() for number, _ in streams}
    )
    numbers = _numbers(tables, loop, partitions)
    return [
        _account(loop, table, partition, counted[table], numbers, ends or {})
        for table in (DECISIONS, FEEDBACK)
        for partition in partitions
    ]


def is_balanced(accounts: Iterable[Account]) -> bool:
    """Return whether every account is balanced."""
    return all(account.is_balanced for account in accounts)


def _account(
    loop: Loop,
    table: str,
    partition: int,
    counted: Mapping[Stream, Counters],
    numbers: Mapping[tuple[str, str], int],
    ends: Mapping[tuple[Log, int], int],
) -> Account:
    logs = [log for log in loop.logs if table_of(log) == table]
    rows = {log: counted.get((partition, number_of(log)), {}) for log in logs}
    total: Counter[str] = Counter()
    for counts in rows.values():
        total.update(counts)
    passed = {log: _passed(log, partition, numbers) for log in logs}
    dead = sum(each.dead for each in passed.values())
    settled: dict[str, int] = {
        name: numbers[EXAMPLES, name.key(partition)] for name in _SETTLED[table]
    }
    total.update(settled)
    unread = {
        log: max(0, ends[log, partition] - each.offset)
        for log, each in passed.items()
        if (log, partition) in ends
    }
    is_expected = partition < loop.partitions
    is_known = len(unread) == len(logs) if is_expected else bool(unread)
    return Account(
        loop=loop.loop,
        log=table,
        partition=partition,
        read=total["rows"] + dead,
        ends={name: total[name] for name in _ENDS[table]}
        | {name: total[name] for name in _SELDOM if total[name]}
        | {"dead_letter": dead},
        open=total["open"],
        twice=total["rows"] - total["offsets"],
        lost=sum(_lost(rows[log], each) for log, each in passed.items()),
        unread=sum(unread.values()) if is_known else None,
        unread_by_log=unread if len(logs) > 1 else {},
        is_expected=is_expected,
    )


@dataclass(frozen=True, slots=True)
class _Passed:
    """How far a log was read: the next offset, and the offsets before it without a row."""

    offset: int
    dead: int
    holes: int


def _passed(log: Log, partition: int, numbers: Mapping[tuple[str, str], int]) -> _Passed:
    found = (numbers[log, name.key(partition)] for name in _READ)
    return _Passed(*found)


def _lost(counts: Counters, passed: _Passed) -> int:
    """Return how many offsets of a log left no trace, from its first row on.

    Retention may have deleted the first offsets; dead letters before the first row are in that gap.
    """
    if not counts.get("rows"):
        return 0
    return max(0, passed.offset - counts["first"] - counts["offsets"] - passed.dead - passed.holes)


def _numbers(
    tables: Mapping[str, Table], loop: Loop, partitions: Sequence[int]
) -> dict[tuple[str, str], int]:
    """Return the progress stored with commits, by log (or "examples") and by name."""
    wanted: list[tuple[str, str, ProgressName, ProgressName]] = [
        (log, table_of(log), name, name.for_log(log)) for log in loop.logs for name in _READ
    ]
    wanted += [(EXAMPLES, EXAMPLES, name, name) for name in _SETTLED[FEEDBACK]]
    ids = {
        (table, own.key(n)): (owner, name.key(n))
        for owner, table, name, own in wanted
        for n in partitions
    }
    found: dict[tuple[str, str], int] = {}
    for name, table in tables.items():
        keys = [key for owner, key in ids if owner == name]
        for key, number in table.progress(keys, table.version_read).items():
            found[ids[name, key]] = number or 0
    return found


_READ = (OFFSET, DEAD_LETTERS, GAPS)  # the progress that commits of rows store for each log
_SETTLED: Mapping[str, tuple[ProgressName, ...]] = {
    DECISIONS: (),
    FEEDBACK: (LATE, DUPLICATE, UNMATCHED, MISPLACED, UNKNOWN_ITEM),
}  # and commits of examples
_ENDS: Mapping[str, tuple[str, ...]] = {
    DECISIONS: ("labeled", "no_feedback", "censored", "not_activated", "late", "duplicate"),
    FEEDBACK: ("joined", "corrected", "late", "duplicate", "unmatched"),
}
# Outcomes that are listed only where there are any.
_SELDOM = ("label_error", "misplaced", "unknown_item")
