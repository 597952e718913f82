"""One round of commits: dead letters, then decisions, feedback and examples of all partitions.

All logs of feedback are on one table, so their rows and numbers are one commit.

The order is the promise: a letter is safe before its record counts as read, and examples only ever
tell of rows that are there. It knows no clock and no Kafka but the letters.
"""

import json
from collections.abc import Collection, Iterator, Mapping

import polars as pl

from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, FEEDBACK, table_of
from tidemill.features.lake.progress_keys import (
    DUPLICATE,
    EXAMINED,
    FRONTIER,
    LATE,
    REVISED,
    UNMATCHED,
    ProgressName,
    join_time,
)
from tidemill.schemas import topics
from tidemill.streams.commit.ownership import Lease
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.commit.snapshot import PartitionSnapshot
from tidemill.streams.commit.transactions import ProgressUpdate, commit
from tidemill.streams.deadletters.writer import DeadLetterSink
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.units import micros

PORTION_ROWS = 100_000  # rows on their way into Parquet are held several times over


class CommitCycle:
    """Writes the snapshots of one loop; blocks, so it is called in a thread."""

    def __init__(
        self,
        loop_name: str,
        tables: Mapping[str, ProgressTable],
        letters: DeadLetterSink,
        metrics: StreamMetrics,
        patience_s: float,
    ) -> None:
        self._loop = loop_name
        self._tables = tables
        self._letters = letters
        self._metrics = metrics
        self._patience_s = patience_s

    def write(
        self, leases: Mapping[int, Lease], snapshots: Collection[PartitionSnapshot]
    ) -> int | None:
        """Make one round of commits; return the version of examples, if it moved.

        Raises:
            FencedError: another worker owns one of the partitions now.
            LakeError: the lake still refuses after a while.
            BrokerError: dead letters were not acknowledged.
        """
        self._letters.write(letter for snapshot in snapshots for letter in snapshot.letters)
        for table in (DECISIONS, FEEDBACK):
            self._commit(table, _raw_moves(leases, snapshots, table))
        topic = topics.decisions(self._loop)
        moves = [
            _examples_move(leases[snapshot.partition], topic, snapshot)
            for snapshot in snapshots
            if snapshot.closed is not None
        ]
        return self._commit(EXAMPLES, moves, _told(snapshots))

    def _commit(
        self, table: str, moves: Collection[ProgressUpdate], told: Mapping[str, str] | None = None
    ) -> int | None:
        version = None
        for portion in _portions(moves):
            version = commit(table, self._tables[table], portion, told, patience_s=self._patience_s)
            rows = sum(frame.height for move in portion for frame in move.frames)
            self._metrics.rows.labels(self._loop, table).inc(rows)
        return version


def _portions(moves: Collection[ProgressUpdate]) -> Iterator[list[ProgressUpdate]]:
    """Split *moves* between partitions where one commit would hold too many rows in memory."""
    portion: list[ProgressUpdate] = []
    rows = 0
    for move in moves:
        more = sum(frame.height for frame in move.frames)
        if portion and rows + more > PORTION_ROWS:
            yield portion
            portion, rows = [], 0
        portion.append(move)
        rows += more
    if portion:
        yield portion


def _raw_moves(
    leases: Mapping[int, Lease], snapshots: Collection[PartitionSnapshot], table: str
) -> list[ProgressUpdate]:
    """Return the moves of those partitions where there is anything new for the raw *table*."""
    moves = (_raw_move(leases[snapshot.partition], snapshot, table) for snapshot in snapshots)
    return [
        move
        for move in moves
        if move.frames
        or any(move.lease.numbers[table][name] != number for name, number in move.new.items())
    ]


def _raw_move(lease: Lease, snapshot: PartitionSnapshot, table: str) -> ProgressUpdate:
    logs = [log for log in snapshot.frames if table_of(log) == table]
    frames = [frame for log in logs for frame in snapshot.frames[log]]
    numbers = [
        (ProgressName(name).for_log(log), number)
        for log in logs
        for name, number in snapshot.numbers[log].items()
    ]
    return ProgressUpdate(lease, frames, dict(numbers))


def _examples_move(lease: Lease, topic: str, snapshot: PartitionSnapshot) -> ProgressUpdate:
    closed = snapshot.closed
    if closed is None:
        raise ValueError(f"partition {snapshot.partition} has closed nothing")
    frame = closed.examples.with_columns(
        pl.lit(topic).alias("topic"), pl.lit(snapshot.partition, dtype=pl.Int32).alias("partition")
    )
    numbers: dict[str, int] = {
        FRONTIER: micros(closed.frontier),
        **{join_time(log): micros(time) for log, time in closed.stream_times.items()},
        LATE: closed.counts.late,
        DUPLICATE: closed.counts.duplicate,
        UNMATCHED: closed.counts.unmatched,
    }
    if closed.examined:
        numbers |= {EXAMINED.for_log(log): at for log, at in closed.examined.items()}
        numbers[REVISED] = closed.revised
    return ProgressUpdate(lease, [frame] if frame.height else [], numbers)


def _told(snapshots: Collection[PartitionSnapshot]) -> dict[str, str]:
    """Return what the commit of examples tells besides: which idle logs were moved on, where."""
    advances = [
        {
            "partition": snapshot.partition,
            "log": advance.log,
            "offset": advance.offset,
            "to": advance.to.isoformat(),
        }
        for snapshot in snapshots
        if snapshot.closed is not None
        for advance in snapshot.closed.advances
    ]
    return {"tidemill.advances": json.dumps(advances)} if advances else {}
