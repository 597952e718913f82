"""The ledger: what was read equals what has ended plus what is open, for every log and partition.

It is counted from the lake alone, in one set of versions that fit together, and is true at every
moment, in the middle of the work too. It knows no Kafka; hand it the ends of the logs to see what
has not been read yet.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import duckdb

from tidemill.features.lake import Lake
from tidemill.features.layouts import DECISIONS, EXAMPLES, FEEDBACK
from tidemill.features.revisions import has_revisions
from tidemill.features.views import joined_feedback, open_duckdb, schema_name, snapshot, views
from tidemill.schemas.loop import Loop

Counters = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One log of one partition, in records.

    Attributes:
        read: rows of the raw table and dead letters.
        ends: how many ended how; among them `dead_letter`.
        open: rows whose time is not over.
        twice: rows more than there are offsets; 0 or the fence has failed.
        lost: offsets between the first row and the next one to read that left no trace; marks of
            transactions and other holes of the log, which never held a record to read, are none.
        unread: what the log holds beyond; None if its end is not known.
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

    @property
    def difference(self) -> int:
        """Records read that neither ended nor are open; 0 in a sound lake."""
        return self.read - sum(self.ends.values()) - self.open

    @property
    def is_balanced(self) -> bool:
        """Whether every record read is accounted for exactly once."""
        return self.difference == 0 and self.twice == 0 and self.lost == 0

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values."""
        return asdict(self) | {"difference": self.difference, "balanced": self.is_balanced}


def ledger(
    lake: Lake, loop: Loop, *, ends: Mapping[tuple[str, int], int] | None = None
) -> list[Account]:
    """Return the accounts of *loop*, decisions first, by partition.

    Args:
        lake: where the tables are.
        loop: the newest version of the loop.
        ends: the offset behind the last record, by log ("decisions", "feedback") and partition.

    Raises:
        LakeError: the lake cannot be read.
    """
    versions = snapshot(lake, loop)
    revised = has_revisions(lake.table(loop.loop, EXAMPLES), loop, versions[EXAMPLES])
    with open_duckdb() as connection:
        views(lake, [loop], connection, versions={loop.loop: versions})
        schema = f'"{schema_name(loop.loop)}"'
        counted = {
            DECISIONS: _by_partition(connection, _DECISIONS.format(schema=schema)),
            FEEDBACK: _by_partition(connection, _feedback_query(schema, loop, revised=revised)),
        }
    numbers = _numbers(lake, loop, versions)
    return [
        _account(
            loop,
            (log, partition),
            counted[log].get(partition, {}),
            {name: numbers.get(f"{log}/{name}/{partition}", 0) for name in _NUMBERS[log]},
            (ends or {}).get((log, partition)),
        )
        for log in (DECISIONS, FEEDBACK)
        for partition in range(loop.partitions)
    ]


def is_balanced(accounts: Iterable[Account]) -> bool:
    """Return whether every account is."""
    return all(account.is_balanced for account in accounts)


def _account(
    loop: Loop, place: tuple[str, int], counts: Counters, numbers: Counters, end: int | None
) -> Account:
    log, partition = place
    rows, dead, offsets = (counts.get("rows", 0), numbers["dead"], counts.get("offsets", 0))
    ended = {name: counts.get(name, 0) + numbers.get(name, 0) for name in _ENDS[log]}
    # the log may begin behind 0 (retention); dead letters before the first row hide in that gap
    passed = numbers["offset"] - counts.get("first", 0)
    return Account(
        loop=loop.loop,
        log=log,
        partition=partition,
        read=rows + dead,
        ends=ended | {"dead_letter": dead},
        open=counts.get("open", 0),
        twice=rows - offsets,
        lost=max(0, passed - offsets - dead - numbers["holes"]) if rows else 0,
        unread=None if end is None else max(0, end - numbers["offset"]),
    )


def _numbers(lake: Lake, loop: Loop, versions: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers that travel with commits, by log, name and partition."""
    found: dict[str, int] = {}
    for log, name, table in _KEPT:
        ids = [f"{name}/{partition}" for partition in range(loop.partitions)]
        for key, number in lake.table(loop.loop, table).progress(ids, versions[table]).items():
            found[f"{log}/{key}"] = number or 0
    return found


def _by_partition(connection: duckdb.DuckDBPyConnection, query: str) -> dict[int, Counters]:
    result = connection.execute(query)
    names = [column[0] for column in result.description]
    rows = (dict(zip(names, row, strict=True)) for row in result.fetchall())
    return {row["partition"]: row for row in rows}


_KEPT = (  # which log a number belongs to, its name, and the table whose commits carry it
    (DECISIONS, "offset", DECISIONS),
    (DECISIONS, "dead", DECISIONS),
    (DECISIONS, "holes", DECISIONS),
    (FEEDBACK, "offset", FEEDBACK),
    (FEEDBACK, "dead", FEEDBACK),
    (FEEDBACK, "holes", FEEDBACK),
    (FEEDBACK, "late", EXAMPLES),
    (FEEDBACK, "duplicate", EXAMPLES),
    (FEEDBACK, "unmatched", EXAMPLES),
)
_NUMBERS = {log: [name for kept, name, _ in _KEPT if kept == log] for log in (DECISIONS, FEEDBACK)}
_ENDS = {
    DECISIONS: ("labeled", "no_feedback", "censored", "not_activated", "late", "duplicate"),
    FEEDBACK: ("joined", "corrected", "late", "duplicate", "unmatched"),
}

_DECISIONS = """
    WITH raw AS (
        SELECT d."partition", count(*) AS rows, count(DISTINCT "offset") AS offsets,
               min("offset") AS first,
               count(*) FILTER (verdict = 'late') AS late,
               count(*) FILTER (verdict = 'duplicate') AS duplicate,
               count(*) FILTER (verdict IS NULL AND coalesce(d.at >= frontier, true)) AS open
        FROM {schema}.decisions d LEFT JOIN {schema}.frontiers p USING ("partition")
        GROUP BY ALL
    ), closed AS (
        SELECT "partition", count(*) FILTER (state = 'labeled') AS labeled,
               count(*) FILTER (state = 'no_feedback') AS no_feedback,
               count(*) FILTER (state = 'censored') AS censored,
               count(*) FILTER (state = 'not_activated') AS not_activated
        FROM {schema}.examples GROUP BY ALL
    )
    SELECT "partition", coalesce(COLUMNS(* EXCLUDE "partition"), 0)
    FROM raw FULL JOIN closed USING ("partition")
"""


def _feedback_query(schema: str, loop: Loop, *, revised: bool) -> str:
    early = loop.early.total_seconds()
    return f"""
        WITH joined AS ({joined_feedback(schema, revised=revised)}), raw AS (
            SELECT f."partition", count(*) AS rows, count(DISTINCT f."offset") AS offsets,
                   min(f."offset") AS first,
                   count(*) FILTER (verdict = 'late') AS late,
                   count(*) FILTER (
                       f.verdict IS NULL AND j."offset" IS NULL
                       AND (coalesce(f.at + to_seconds({early}::DOUBLE) >= frontier, true)
                            OR coalesce(f."offset" >= examined, false))
                   ) AS open
            FROM {schema}.feedback f LEFT JOIN {schema}.frontiers p USING ("partition")
            LEFT JOIN (SELECT DISTINCT "partition", "offset" FROM joined) j
                USING ("partition", "offset")
            GROUP BY ALL
        ), closed AS (
            SELECT "partition", count(*) FILTER (revision = 0) AS joined,
                   count(*) FILTER (revision > 0) AS corrected
            FROM joined GROUP BY ALL
        )
        SELECT "partition", coalesce(COLUMNS(* EXCLUDE "partition"), 0)
        FROM raw FULL JOIN closed USING ("partition")
    """
