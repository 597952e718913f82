"""The unit of the streams room: the records of one partition from one fetch.

It knows no Faust; records are anything with `offset`, `timestamp` (broker's, ms), `key`, `value`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tidemill.streams.rules import Log

LOGS: tuple[Log, Log] = ("decisions", "feedback")


class FetchedRecord(Protocol):
    """What is read of one record."""

    @property
    def offset(self) -> int:
        """Its place in the log."""

    @property
    def timestamp(self) -> int:
        """When the broker appended it, in milliseconds since the epoch."""

    @property
    def key(self) -> bytes | None:
        """The decision id, as the producer wrote it."""

    @property
    def value(self) -> bytes | None:
        """The event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The records of one partition from one fetch; ``[start, last]`` batches tile their log.

    *start* is the position before the fetch, and the one after it is behind *last*: holes left by
    compaction and marks of transactions belong to the batches. *session* counts the seeks of the
    consumer: a batch of an earlier one was read before a rebalance and is not for the state that
    there is now.
    """

    topic: str
    partition: int
    start: int
    last: int
    session: int
    records: Sequence[FetchedRecord]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def next(self) -> int:
        """The offset the following batch starts at."""
        return self.last + 1

    def values(self) -> list[bytes | None]:
        """Return the payloads in offset order."""
        return [record.value for record in self.records]

    def offsets(self) -> npt.NDArray[np.int64]:
        """Return the offset of each record."""
        count = len(self.records)
        if self.last - self.records[0].offset + 1 == count:  # no holes: nothing to ask one by one
            return np.arange(self.last + 1 - count, self.last + 1, dtype=np.int64)
        return np.fromiter((record.offset for record in self.records), np.int64, count)

    def timestamps_ms(self) -> npt.NDArray[np.int64]:
        """Return the broker's time of each record."""
        return np.fromiter((record.timestamp for record in self.records), np.int64, len(self))


def merged(batches: Sequence[Batch]) -> list[Batch]:
    """Return *batches* of one log as one, or as they are if one does not follow the other."""
    follows = all(after.start == before.next for before, after in pairwise(batches))
    if len(batches) < 2 or not follows:
        return list(batches)
    first, last = batches[0], batches[-1]
    return [
        Batch(
            topic=first.topic,
            partition=first.partition,
            start=first.start,
            last=last.last,
            session=last.session,
            records=[record for batch in batches for record in batch.records],
        )
    ]
