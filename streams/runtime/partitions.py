"""One partition of one loop in this process: its decoders, its join, the rows not yet committed.

It takes batches and returns dead letters for their unreadable records. A `PartitionSnapshot` has
everything since the last one: rows, progress numbers, closed examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import polars as pl

from tidemill.errors import BrokerError
from tidemill.schemas.events.decoder import Decoded, EventDecoder
from tidemill.schemas.logs import Log, first_position, is_feedback, offset_of
from tidemill.streams.commit.progress_commit import raw_numbers
from tidemill.streams.commit.snapshot import PartitionSnapshot
from tidemill.streams.consumer.batches import FetchedBatch
from tidemill.streams.consumer.records import Records
from tidemill.streams.consumer.topic_ids import TopicIdentity
from tidemill.streams.deadletters.error_limit import ErrorLimit
from tidemill.streams.deadletters.writer import DeadLetter
from tidemill.streams.join.event_times import EventTimes
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.runtime.copartitioning import CopartitioningCheck
from tidemill.streams.units import micros
from tidemill.streams.versions import VersionCheck


@dataclass(slots=True)
class LogReading:
    """The next offset of one log of the partition, and the rows read since the last snapshot."""

    topic: str
    decoder: EventDecoder
    error_limit: ErrorLimit
    next: int = 0
    dead: int = 0
    identity: TopicIdentity | None = None  # of the topic that is read; None if not known
    gaps: int = 0  # offsets without a record, except those that Kafka has deleted
    misplaced: int = 0  # feedback of decisions of other partitions, since `take_misplaced`
    frames: list[pl.DataFrame] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)


class Partition:
    """The state of one partition while this process owns it."""

    def __init__(
        self,
        *,
        number: int,
        join: PartitionJoin,
        readings: Mapping[Log, LogReading],
        times: EventTimes,
        versions: VersionCheck,
        keys: CopartitioningCheck,
    ) -> None:
        self.number = number
        self.join = join
        self.readings = readings
        self.pending_rows = 0
        self._times = times
        self._versions = versions
        self._keys = keys

    def take(self, log: Log, batch: FetchedBatch) -> list[DeadLetter] | None:
        """Decode and join *batch* of *log*; return dead letters for its unreadable records.

        Returns None if the batch was not taken, because it has events of a newer loop version.

        Raises:
            BrokerError: the batch does not start at the end of the last one.
            ContractError: more of the log is unreadable or misplaced than the loop allows, or it is
                keyed or placed differently from another log.
        """
        reading = self.readings[log]
        if batch.start != reading.next:
            raise BrokerError(
                f"{batch.topic}/{self.number} was read up to {reading.next}, "
                f"then from {batch.start}: records are missing or come twice",
                hint="nothing is lost: a restarted worker continues from the lake; please report "
                "this",
            )
        records = batch.records()
        decoded = reading.decoder.decode(records.values)
        if self._versions.is_newer(decoded, records.values):
            return None
        frame, dead_letters = self._with_positions(log, batch.topic, records, decoded)
        reading.error_limit.take(batch.last, dead_letters)
        if frame.height:
            self._check_keys(log, records, frame)
            reading.frames.append(self._joined(reading, log, frame))
        reading.gaps += batch.next - batch.start - len(records)
        reading.next = batch.next
        reading.dead += len(dead_letters)
        reading.dead_letters += dead_letters
        self.pending_rows += len(records)
        return dead_letters

    def _joined(self, reading: LogReading, log: Log, frame: pl.DataFrame) -> pl.DataFrame:
        if not is_feedback(log):
            return self.join.take_decisions(frame)
        is_misplaced = self.join.misplaced(frame)
        offsets = frame["offset"].to_numpy() - first_position(log)
        reading.misplaced += self._keys.count_misplaced(log, offsets, is_misplaced)
        return self.join.take_feedback(frame, log, is_misplaced)

    def take_misplaced(self, log: Log) -> int:
        """Return how much feedback of *log* was of other partitions since the last call."""
        reading = self.readings[log]
        count, reading.misplaced = reading.misplaced, 0
        return count

    def _check_keys(self, log: Log, records: Records, frame: pl.DataFrame) -> None:
        count = self._keys.sample_size(log)
        decisions = frame["decision_id" if is_feedback(log) else "id"]
        positions = frame["offset"]
        for row in range(0, frame.height, max(1, frame.height // count))[:count]:
            offset = offset_of(positions[row])
            record = int(np.searchsorted(records.offsets, offset))
            self._keys.check(log, records.keys[record], decisions[row], offset)
        self._keys.refuse()

    def skip_control_batches(self, log: Log, start: int, next: int) -> None:
        """Skip control batches at the end of *log*, from *start* to *next*.

        Nothing happens if the log is not read up to *start* yet.
        """
        reading = self.readings[log]
        if reading.next == start:
            reading.next = next
            reading.gaps += next - start
            self.pending_rows += next - start

    def stream_time(self, log: Log) -> datetime | None:
        """Return the largest event time of *log* so far, idle advances included."""
        return self.join.stream_time(log)

    def snapshot(self, limit: int | None = None) -> PartitionSnapshot:
        """Close what is due up to *limit*, and return everything since the last snapshot."""
        closed = self.join.close(limit)
        snapshot = PartitionSnapshot(
            partition=self.number,
            frames={log: reading.frames for log, reading in self.readings.items()},
            numbers={log: self._numbers(log) for log in self.readings},
            dead_letters=[
                dead_letter
                for reading in self.readings.values()
                for dead_letter in reading.dead_letters
            ],
            closed=closed,
        )
        for reading in self.readings.values():
            reading.frames, reading.dead_letters = [], []
        self.pending_rows = 0
        return snapshot

    def _numbers(self, log: Log) -> dict[str, int]:
        time = self.stream_time(log)
        reading = self.readings[log]
        identity = reading.identity
        return raw_numbers(
            reading.next,
            None if time is None else micros(time),
            reading.dead,
            reading.error_limit.bad if reading.dead else None,
            reading.gaps or None,
            None if identity is None else identity.number,
            None if identity is None else identity.cluster_number,
        )

    def _with_positions(
        self, log: Log, topic: str, records: Records, decoded: Decoded
    ) -> tuple[pl.DataFrame, list[DeadLetter]]:
        """Add topic, partition, log position and arrival time to the decoded rows.

        Returns:
            The rows without those whose time is refused (`EventTimes`), and dead letters for these
            and for records that could not be decoded.
        """
        offsets, arrived_ms = records.offsets, records.timestamps_ms
        frame = decoded.frame.clone()
        rows = frame.drop_in_place("row").to_numpy()
        if len(rows) < len(records):
            offsets, arrived_ms = offsets[rows], arrived_ms[rows]
        arrived, refused = self._times.check(frame["at"].to_physical().to_numpy(), arrived_ms)
        frame.hstack(
            [
                pl.Series("topic", [topic]).new_from_index(0, len(rows)),
                pl.Series("partition", [self.number], dtype=pl.Int32).new_from_index(0, len(rows)),
                pl.Series("offset", offsets + first_position(log)),
                pl.Series("ingested_at", arrived).cast(pl.Datetime("us", "UTC")),
            ],
            in_place=True,
        )
        poison = [(bad.row, bad.reason, bad.detail) for bad in decoded.poison]
        if refused:
            poison += [(int(rows[row]), *why) for row, why in refused.items()]
            taken = np.ones(len(rows), dtype=np.bool_)
            taken[list(refused)] = False
            frame = frame.filter(pl.Series(taken))
        dead_letters = [
            DeadLetter(
                topic=topic,
                partition=self.number,
                offset=int(records.offsets[row]),
                timestamp_ms=int(records.timestamps_ms[row]),
                reason=reason,
                detail=detail,
                key=records.keys[row],
                value=records.values[row],
            )
            for row, reason, detail in sorted(poison)
        ]
        return frame, dead_letters
