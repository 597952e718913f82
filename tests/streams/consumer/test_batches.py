"""Fetched batches tile their log; merged, they are one batch of the same records."""

from dataclasses import dataclass

import pytest

from tidemill.streams.consumer.batches import FetchedBatch, merged


@dataclass(frozen=True)
class Row:
    """A record as the transport delivers it."""

    offset: int
    timestamp: int = 5
    key: bytes | None = None
    value: bytes | None = b"x"


def batch(start: int, *offsets: int) -> FetchedBatch:
    """A batch of records at *offsets*, read from position *start*."""
    return FetchedBatch(
        topic="t",
        partition=0,
        start=start,
        last=offsets[-1],
        session=1,
        parts=[Row(offset) for offset in offsets],
    )


@pytest.mark.parametrize("offsets", [(3, 4, 5), (3, 5), (4, 9)])
def test_offsets_are_those_of_the_records_with_or_without_gaps(offsets: tuple[int, ...]) -> None:
    """Compaction and transactions leave gaps; rows must not move into them."""
    assert batch(3, *offsets).records().offsets.tolist() == list(offsets)


def test_batches_that_follow_each_other_become_one() -> None:
    """A slow stream brings few records at a time; decoding costs as much for few as for many."""
    batches = merged([batch(0, 0, 1), batch(2, 4), batch(5, 5)])
    assert [(each.start, each.next, each.records().offsets.tolist()) for each in batches] == [
        (0, 6, [0, 1, 4, 5])
    ]


def test_batches_with_records_missing_between_are_not_merged() -> None:
    """The join has to notice the gap."""
    apart = [batch(0, 0, 1), batch(3, 3)]
    assert merged(apart) == apart
    assert merged([]) == []
