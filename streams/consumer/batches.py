"""A fetched batch: the records of one partition from one fetch, which one Faust event carries."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tidemill.streams.consumer.record_batches import RecordBatch, records_of
from tidemill.streams.consumer.records import FetchedRecord, Records


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedBatch:
    """The records of one partition from one fetch; ``[start, last]`` batches tile their log.

    Gaps left by compaction, and control batches, belong to the batch before or behind them. *parts*
    are record batches as they came, or single records. *session* counts the seeks of the consumer:
    a batch of an earlier session was fetched before a rebalance, and the current state must not
    take it.
    """

    topic: str
    partition: int
    start: int
    last: int
    session: int
    parts: Sequence[RecordBatch | FetchedRecord]

    def __len__(self) -> int:
        return sum(part.count if isinstance(part, RecordBatch) else 1 for part in self.parts)

    @property
    def next(self) -> int:
        """The offset the following batch starts at."""
        return self.last + 1

    def records(self) -> Records:
        """Return the records as columns.

        Raises:
            CorruptRecordException: a record batch does not agree with its header.
        """
        batches = [part for part in self.parts if isinstance(part, RecordBatch)]
        if batches and len(batches) == len(self.parts):
            return records_of(batches)
        single: list[FetchedRecord] = []
        for part in self.parts:
            single += part.records() if isinstance(part, RecordBatch) else [part]
        return Records.of(single)


def merged(batches: Sequence[FetchedBatch]) -> list[FetchedBatch]:
    """Return *batches* of one log as one batch; unchanged if there is a gap between two of them."""
    follows = all(after.start == before.next for before, after in pairwise(batches))
    if len(batches) < 2 or not follows:
        return list(batches)
    first, last = batches[0], batches[-1]
    return [
        FetchedBatch(
            topic=first.topic,
            partition=first.partition,
            start=first.start,
            last=last.last,
            session=last.session,
            parts=[part for batch in batches for part in batch.parts],
        )
    ]
