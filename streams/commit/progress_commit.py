"""The single commit that makes progress: rows of several partitions, and their progress numbers.

Delivery: exactly once. A commit compares the epoch of each lease, and the old value of each number
it sets, on the version it is made from. A crash before a commit repeats its work, a crash after it
repeats nothing. Raw rows are committed first, examples last: the rows of a closed window are always
in the lake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tidemill.features.lake.progress_keys import (
    BAD_RECORDS,
    CLUSTER_ID,
    DEAD_LETTERS,
    GAPS,
    OFFSET,
    STREAM_TIME,
    TOPIC_ID,
)
from tidemill.streams.commit.leases import Lease
from tidemill.streams.commit.progress_table import PATIENCE_S, ProgressTable, patient


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """The part of one commit for one partition: rows to add, and new progress numbers."""

    lease: Lease
    frames: Sequence[pl.DataFrame]
    new: Mapping[str, int]


def commit(
    name: str,
    table: ProgressTable,
    updates: Sequence[ProgressUpdate],
    metadata: Mapping[str, str] | None = None,
    *,
    patience_s: float = PATIENCE_S,
) -> int:
    """Commit all *updates* to *table* in one version, and return it.

    Raises:
        FencedError: a partition has another owner now, or another worker has changed its numbers.
        LakeError: the lake still refused after *patience_s* seconds; nothing was committed.
    """
    frames = [frame for update in updates for frame in update.frames]
    frame = pl.concat(frames) if frames else None
    swaps = [swap for update in updates for swap in update.lease.swaps(name, update.new)]
    version = patient(
        lambda: table.append(frame, swaps=swaps, metadata=metadata), patience_s=patience_s
    )
    for update in updates:
        update.lease.record(name, update.new)
    return version


def raw_numbers(
    offset: int,
    time_us: int | None,
    dead: int,
    bad: int | None = None,
    gaps: int | None = None,
    topic_id: int | None = None,
    cluster_id: int | None = None,
) -> dict[str, int]:
    """Return the progress numbers of a log after some batches; None leaves a number unchanged."""
    numbers = {
        OFFSET: offset,
        STREAM_TIME: time_us,
        DEAD_LETTERS: dead,
        BAD_RECORDS: bad,
        GAPS: gaps,
        TOPIC_ID: topic_id,
        CLUSTER_ID: cluster_id,
    }
    return {name: number for name, number in numbers.items() if number is not None}
