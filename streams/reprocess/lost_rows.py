"""Makes lost rows of the raw tables again: reads their records from the logs, and judges them.

A record that the lake has read has a row, or it is a dead letter. So the rows that are lost are the
records before the lake's offset that have neither. Each is decoded and judged by the version of the
loop that read it first. The stream time before it follows from the rows before it, and from the
idle advances that the log of `examples` still has.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np
import polars as pl

from tidemill.features.audit.spans import NOTHING_READ, AuditSpan, memory
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.kafka import Record
from tidemill.schemas.logs import DECISIONS, OFFSETS, Log, first_position, is_feedback, offset_of
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.join.event_times import EventTimes
from tidemill.streams.join.verdicts import DUPLICATE, LATE
from tidemill.streams.runtime.prepared_loop import PreparedLoop
from tidemill.streams.units import moment

KNOWN = ("partition", "offset", "at", "stream_time", "verdict")
"""The columns of surviving rows that are needed, besides the id."""

_NEAR = 1_000  # gaps with fewer offsets between them are read at once


class LogRecords(Protocol):
    """The logs of one loop, as far as Kafka still has them."""

    def start(self, log: Log, partition: int) -> int:
        """Return the first offset that is there."""

    def read(self, log: Log, partition: int, first: int, behind: int) -> list[Record]:
        """Return the records from *first* to before *behind*."""

    def dead(self, log: Log, partition: int) -> Collection[int]:
        """Return the offsets of dead letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairLimits:
    """Some partitions, None for all, and their offsets from *first* to before *behind*."""

    partitions: Collection[int] | None = None
    first: int = 0
    behind: int = OFFSETS

    @property
    def is_whole(self) -> bool:
        """Whether all offsets are to be repaired."""
        return self == RepairLimits(partitions=self.partitions)

    def has(self, partition: int) -> bool:
        """Return whether *partition* is to be repaired."""
        return self.partitions is None or partition in self.partitions


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRows:
    """Finds the lost rows of one log, and makes them again.

    Attributes:
        history: the versions of the loop, with what each has read.
        log: the log.
        known: the surviving rows of its table, with `KNOWN` and *id*.
        records: where the records are.
        advances: the idle advances of the log, by partition: at which offset, to which time.
    """

    history: Sequence[tuple[PreparedLoop, Sequence[AuditSpan]]]
    log: Log
    known: pl.DataFrame
    records: LogRecords
    advances: Mapping[int, Sequence[tuple[int, datetime]]]

    def made(self, limits: RepairLimits) -> Iterator[pl.DataFrame]:
        """Yield the lost rows within *limits*, by version and partition, with their verdicts.

        Raises:
            BrokerError: Kafka does not answer.
        """
        for prepared, spans in self.history:
            for span in spans:
                if self.log in prepared.loop.logs and limits.has(span.partition):
                    rows = self._decoded(prepared, span, limits)
                    if rows.height:
                        yield self._judged(prepared.loop, span, rows)

    def _decoded(
        self, prepared: PreparedLoop, span: AuditSpan, limits: RepairLimits
    ) -> pl.DataFrame:
        number = span.partition
        first = max(offset_of(span.start.position(self.log)), limits.first)
        first = max(first, self.records.start(self.log, number))
        behind = min(offset_of(span.end.position(self.log)), limits.behind)
        here = self._here(number)["offset"].to_numpy() - first_position(self.log)
        lost = np.setdiff1d(np.arange(first, max(first, behind)), here)
        dead = self.records.dead(self.log, number) if len(lost) else ()
        wanted = set(lost.tolist()).difference(dead)
        found = [
            record
            for start, end in _stretches(sorted(wanted))
            for record in self.records.read(self.log, number, start, end)
            if record.offset in wanted
        ]
        return _rows(prepared, self.log, number, found)

    def _here(self, partition: int) -> pl.DataFrame:
        first = first_position(self.log)
        ours = (pl.col("offset") >= first) & (pl.col("offset") < first + OFFSETS)
        return self.known.filter((pl.col("partition") == partition) & ours)

    def _judged(self, loop: Loop, span: AuditSpan, rows: pl.DataFrame) -> pl.DataFrame:
        known = self._here(span.partition)
        advances = [
            {"offset": offset + first_position(self.log), "at": to}
            for offset, to in self.advances.get(span.partition, ())
        ]
        rows = with_stream_time(rows, known, advances)
        length = loop.grace if self.log == DECISIONS else _late_anyway(loop)
        late = pl.col("stream_time") > pl.col("at") + length
        if span.begin != NOTHING_READ and not (is_feedback(self.log) and loop.corrections):
            ahead = loop.early if is_feedback(self.log) else timedelta()
            late |= pl.col("at") + ahead < moment(max(span.begin.frontier, _FIRST))
        rows = rows.with_columns(verdict=pl.when(late).then(pl.lit(LATE)))
        return with_duplicates(rows, known, memory(loop)) if self.log == DECISIONS else rows


_FIRST = -62_135_596_800_000_000  # the year 1 in microseconds: a frontier before is none


def _late_anyway(loop: Loop) -> timedelta:
    return loop.early + loop.wait + loop.grace + loop.corrections


def _stretches(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges (first, behind) that hold all *offsets* and few others."""
    found = np.array(offsets, dtype=np.int64)
    for part in np.split(found, np.flatnonzero(np.diff(found) > _NEAR) + 1):
        if len(part):
            yield int(part[0]), int(part[-1]) + 1


def _rows(
    prepared: PreparedLoop, log: Log, partition: int, records: Sequence[Record]
) -> pl.DataFrame:
    """Return those of *records* that can be read as rows, without their judgement."""
    decoded = prepared.decoders[log].decode([record.value for record in records])
    frame = decoded.frame.clone()
    rows = frame.drop_in_place("row").to_numpy()
    sources = [records[row] for row in rows]
    loop = prepared.loop
    times = EventTimes(max_skew=loop.max_skew, max_age=loop.max_age)
    arrived_ms = np.array([each.timestamp_ms for each in sources], dtype=np.int64)
    arrived, refused = times.check(frame["at"].to_physical().to_numpy(), arrived_ms)
    taken = np.ones(len(sources), dtype=np.bool_)
    taken[list(refused)] = False
    offsets = np.array([each.offset for each in sources], dtype=np.int64)
    return frame.with_columns(
        pl.lit(sources[0].topic if sources else "").alias("topic"),
        pl.lit(partition, dtype=pl.Int32).alias("partition"),
        pl.Series("offset", offsets + first_position(log)),
        pl.Series("ingested_at", arrived).cast(pl.Datetime("us", "UTC")),
    ).filter(pl.Series(taken))


def with_stream_time(
    rows: pl.DataFrame, known: pl.DataFrame, advances: Sequence[Mapping[str, object]]
) -> pl.DataFrame:
    """Return *rows* with the stream time of their log before each of them.

    Args:
        rows: lost rows of one log of one partition.
        known: its surviving rows, with what they were judged by.
        advances: its idle advances, with the *offset* before which the time was advanced *at* it.
    """
    time = rows.schema["at"]
    idle = pl.DataFrame(advances, schema={"offset": pl.Int64(), "at": time})
    none = pl.lit(None, dtype=time).alias("stream_time")
    timeline = pl.concat(
        [
            idle.select("offset", "at", none, pl.lit(0).alias("rank")),
            known.select("offset", "at", "stream_time", pl.lit(1).alias("rank")),
            rows.select("offset", "at", none, pl.lit(2).alias("rank")),
        ]
    ).sort("offset", "rank")
    reached = pl.max_horizontal("at", "stream_time").shift(1).cum_max().alias("stream_time")
    before = timeline.with_columns(reached).filter(pl.col("rank") == 2)
    return rows.sort("offset").with_columns(before["stream_time"])


def with_duplicates(rows: pl.DataFrame, known: pl.DataFrame, memory: timedelta) -> pl.DataFrame:
    """Return decisions with the verdict of copies: their id came on time within *memory*."""
    columns = ["id", "offset", "at", "stream_time", "verdict"]
    same = known.filter(pl.col("id").is_in(rows["id"].implode()))
    on_time = pl.col("verdict").is_null() | (pl.col("verdict") == DUPLICATE)
    latest = pl.when(on_time).then("at").cum_max().forward_fill().shift(1).over("id")
    copies = (
        pl.concat([same.select(columns), rows.select(columns)])
        .sort("offset")
        .filter((latest + memory >= pl.col("stream_time")) & on_time)
    )
    is_copy = pl.col("offset").is_in(copies["offset"].implode())
    return rows.with_columns(verdict=pl.when(is_copy).then(pl.lit(DUPLICATE)).otherwise("verdict"))


def idle_advances(lake: Lake, loop_name: str) -> dict[Log, dict[int, list[tuple[int, datetime]]]]:
    """Return the idle advances that the log of `examples` still has, by log and partition.

    Raises:
        LakeError: the lake cannot be read.
    """
    found: dict[Log, dict[int, list[tuple[int, datetime]]]] = {}
    for metadata in _metadata(lake.table(loop_name, EXAMPLES)):
        for each in json.loads(metadata.get("tidemill.advances", "[]")):
            by_partition = found.setdefault(Log(each["log"]), {})
            to = datetime.fromisoformat(each["to"])
            by_partition.setdefault(each["partition"], []).append((each["offset"], to))
    return found


def _metadata(table: Table) -> Iterator[Mapping[str, str]]:
    names = table.location.storage.names(f"{table.folder}/_delta_log")
    kept = [int(name[:20]) for name in names if name[20:] == ".json" and name[:20].isdigit()]
    for commit in table.commits_since(min(kept, default=1) - 1):
        yield commit.metadata
