"""One commit cycle: dead letters, then decisions, feedback and examples of all partitions.

Delivery: a dead letter is acknowledged before its record counts as read, and the rows of an example
are committed before the example. All logs of feedback are in one table, so their rows and numbers
are one commit.
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
    MISPLACED,
    REVISED,
    UNKNOWN_ITEM,
    UNMATCHED,
    ProgressName,
    join_time,
)
from tidemill.schemas import topics
from tidemill.streams.commit.leases import Lease
from tidemill.streams.commit.progress_commit import ProgressUpdate, commit
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.commit.snapshot import PartitionSnapshot
from tidemill.streams.deadletters.writer import DeadLetterSink
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.units import micros

PORTION_ROWS = 100_000  # rows of one commit: writing Parquet takes several copies in memory


class CommitCycle:
    """Writes the snapshots of one loop. It blocks, so call it in a thread."""

    def __init__(
        self,
        loop_name: str,
        tables: Mapping[str, ProgressTable],
        dead_letters: DeadLetterSink,
        metrics: StreamMetrics,
        patience_s: float,
    ) -> None:
        self._loop = loop_name
        self._tables = tables
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._patience_s = patience_s

    def write(
        self, leases: Mapping[int, Lease], snapshots: Collection[PartitionSnapshot]
    ) -> int | None:
        """Run one commit cycle; return the new version of examples, None if nothing was closed.

        Raises:
            FencedError: another worker owns one of the partitions now.
            LakeError: the lake still refuses after a while.
            BrokerError: dead letters were not acknowledged.
        """
        self._dead_letters.write(
            dead_letter for snapshot in snapshots for dead_letter in snapshot.dead_letters
        )
        for table in (DECISIONS, FEEDBACK):
            self._commit(table, _raw_updates(leases, snapshots, table))
        topic = topics.decisions(self._loop)
        updates = [
            _examples_update(leases[snapshot.partition], topic, snapshot)
            for snapshot in snapshots
            if snapshot.closed is not None
        ]
        return self._commit(EXAMPLES, updates, _commit_metadata(snapshots))

    def _commit(
        self,
        table: str,
        updates: Collection[ProgressUpdate],
        metadata: Mapping[str, str] | None = None,
    ) -> int | None:
        version = None
        for portion in _portions(updates):
            version = commit(
                table, self._tables[table], portion, metadata, patience_s=self._patience_s
            )
            rows = sum(frame.height for update in portion for frame in update.frames)
            self._metrics.rows.labels(self._loop, table).inc(rows)
        return version


def _portions(updates: Collection[ProgressUpdate]) -> Iterator[list[ProgressUpdate]]:
    """Split *updates* into commits of about `PORTION_ROWS` rows; each update stays whole."""
    portion: list[ProgressUpdate] = []
    rows = 0
    for update in updates:
        more = sum(frame.height for frame in update.frames)
        if portion and rows + more > PORTION_ROWS:
            yield portion
            portion, rows = [], 0
        portion.append(update)
        rows += more
    if portion:
        yield portion


def _raw_updates(
    leases: Mapping[int, Lease], snapshots: Collection[PartitionSnapshot], table: str
) -> list[ProgressUpdate]:
    """Return the updates of those partitions that have anything new for the raw *table*."""
    updates = (_raw_update(leases[snapshot.partition], snapshot, table) for snapshot in snapshots)
    return [
        update
        for update in updates
        if update.frames
        or any(update.lease.numbers[table][name] != number for name, number in update.new.items())
    ]


def _raw_update(lease: Lease, snapshot: PartitionSnapshot, table: str) -> ProgressUpdate:
    logs = [log for log in snapshot.frames if table_of(log) == table]
    frames = [frame for log in logs for frame in snapshot.frames[log]]
    numbers = [
        (ProgressName(name).for_log(log), number)
        for log in logs
        for name, number in snapshot.numbers[log].items()
    ]
    return ProgressUpdate(lease, frames, dict(numbers))


def _examples_update(lease: Lease, topic: str, snapshot: PartitionSnapshot) -> ProgressUpdate:
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
    if closed.counts.misplaced:
        numbers[MISPLACED] = closed.counts.misplaced
    if closed.counts.unknown_item:
        numbers[UNKNOWN_ITEM] = closed.counts.unknown_item
    if closed.examined:
        numbers |= {EXAMINED.for_log(log): at for log, at in closed.examined.items()}
        numbers[REVISED] = closed.revised
    return ProgressUpdate(lease, [frame] if frame.height else [], numbers)


def _commit_metadata(snapshots: Collection[PartitionSnapshot]) -> dict[str, str]:
    """Return the metadata for the commit of examples: the idle advances since the last one."""
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
