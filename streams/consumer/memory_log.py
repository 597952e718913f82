"""A log in this process's memory, read in batches as a topic is: for tests and notebooks.

It does what a partition of a topic does for its readers: offsets from 0 on in the order of
appending, any reader from any offset, the time of the broker beside each record.
"""

from dataclasses import dataclass

from tidemill.streams.consumer.batches import FetchedBatch


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """One record, as `FetchedRecord` says."""

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
        """Keep a record that the broker was sent at *timestamp_ms*; return its offset."""
        self.records.append(MemoryRecord(self.end, timestamp_ms, key, value))
        return self.end - 1

    def fetch(self, start: int, most: int, *, session: int = 0) -> FetchedBatch | None:
        """Return at most so many records from offset *start* on; None if there is none."""
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
