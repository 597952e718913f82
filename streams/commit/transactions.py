"""The single commit that makes progress: rows of several partitions, and how far they reach.

Delivery: exactly once. A commit compares the epoch of each lease, and the numbers it moves, on the
snapshot it is made from. A crash before a commit repeats its work, after it nothing. Raw rows come
first, examples last: what was closed can always be traced to rows that are there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tidemill.features.lake.progress_keys import (
    BAD_RECORDS,
    DEAD_LETTERS,
    GAPS,
    OFFSET,
    STREAM_TIME,
)
from tidemill.streams.commit.ownership import Lease
from tidemill.streams.commit.progress_table import PATIENCE_S, ProgressTable, patient


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """What one commit does for one partition: rows to add, and where its numbers go."""

    lease: Lease
    frames: Sequence[pl.DataFrame]
    new: Mapping[str, int]


def commit(
    name: str,
    table: ProgressTable,
    moves: Sequence[ProgressUpdate],
    metadata: Mapping[str, str] | None = None,
    *,
    patience_s: float = PATIENCE_S,
) -> int:
    """Commit all *moves* to *table* at once and return its version.

    Raises:
        FencedError: a partition has another owner now, or was moved by someone else.
        LakeError: the lake still refused after *patience_s* seconds; nothing is visible of it.
    """
    frames = [frame for move in moves for frame in move.frames]
    frame = pl.concat(frames) if frames else None
    swaps = [swap for move in moves for swap in move.lease.swaps(name, move.new)]
    version = patient(
        lambda: table.append(frame, swaps=swaps, metadata=metadata), patience_s=patience_s
    )
    for move in moves:
        move.lease.moved(name, move.new)
    return version


def raw_numbers(
    offset: int,
    time_us: int | None,
    dead: int,
    bad: int | None = None,
    holes: int | None = None,
) -> dict[str, int]:
    """Return the numbers of a raw table after some batches; what is None stays as it was."""
    numbers = {
        OFFSET: offset,
        STREAM_TIME: time_us,
        DEAD_LETTERS: dead,
        BAD_RECORDS: bad,
        GAPS: holes,
    }
    return {name: number for name, number in numbers.items() if number is not None}
