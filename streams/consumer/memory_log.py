"""A log in memory that is read in batches like a topic: for tests and notebooks.

It behaves like one partition of a topic: offsets count from 0 in the order of appending, each
record has the broker's time, and any reader may start at any offset.
"""

from dataclasses import dataclass

from tidemill.streams.consumer.batches import FetchedBatch


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """One record, a `FetchedRecord`."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class MemoryLog:
    """One partition of one topic."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.records: list[MemoryRecord] = []

    @property
    def end(self) -> int:
        """The offset of the next record to be appended."""
        return len(self.records)

    def append(self, key: bytes | None, value: bytes | None, *, timestamp_ms: int) -> int:
        """Append a record that the broker got at *timestamp_ms*; return its offset."""
        self.records.append(MemoryRecord(self.end, timestamp_ms, key, value))
        return self.end - 1

    def fetch(self, start: int, most: int, *, session: int = 0) -> FetchedBatch | None:
        """Return at most *most* records from offset *start* on; None if there is none."""
        records = self.records[start : start + most]
        if not records:
            return None
        return FetchedBatch(
            topic=self.topic,
            partition=self.partition,
            start=start,
            last=records[-1].offset,
            session=session,
            parts=records,
        )
