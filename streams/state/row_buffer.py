"""A buffer of rows that wait for their time: added in batches, read by time or number, removed.

Small batches are collected in segments of some thousand rows, each sorted by time. So neither a
slow stream nor an unordered one causes work that grows with the number of waiting rows. Segments
may be spilled to a store, where later calls read their rows.
"""

from collections.abc import Iterator, Mapping
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.streams.state.segments import (
    COLUMN_PREFIX,
    ResidentSegment,
    RowSource,
    Segment,
    SpilledRows,
    SpilledSegment,
)
from tidemill.streams.state.spill_store import SpillHandle, SpillStore
from tidemill.streams.units import Int64s

SEGMENT_ROWS = 8192
_SEGMENT_BITS = 32
_SPILL_SEGMENTS = 64


class RowBuffer:
    """Rows as a frame and numeric columns of the same length, one of them *at*, their time.

    A row keeps its number until it is removed. Frames are shared, not copied, until they are read.
    """

    def __init__(
        self,
        segment_rows: int = SEGMENT_ROWS,
        *,
        store: SpillStore | None = None,
        spill_segments: int = _SPILL_SEGMENTS,
    ) -> None:
        """Start empty; at most *spill_segments* segments are spilled to *store* as one."""
        self._segment_rows = segment_rows
        self._segments: dict[int, Segment] = {}
        self._newest = 0
        self._store = store
        self._spill_segments = spill_segments

    def __len__(self) -> int:
        return sum(segment.waiting for segment in self._segments.values())

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return len(self._segments)

    @property
    def spilled(self) -> int:
        """How many waiting rows are in the store."""
        return sum(segment.waiting for segment in self._spilled())

    @property
    def nbytes(self) -> int:
        """How much memory all rows take, including spilled rows that were read back."""
        read_back = {id(segment.rows): segment.rows.handle.nbytes for segment in self._spilled()}
        return sum(segment.nbytes for segment in self._segments.values()) + sum(read_back.values())

    def add(self, frame: pl.DataFrame, columns: Mapping[str, Int64s]) -> Int64s:
        """Add the rows of *frame* and return their numbers, ascending."""
        if not len(frame):
            return np.empty(0, dtype=np.int64)
        segment = self._segments.get(self._newest)
        if (
            not isinstance(segment, ResidentSegment)
            or len(segment) + len(frame) > self._segment_rows
        ):
            self._newest += 1
            segment = self._segments[self._newest] = ResidentSegment()
        first = (self._newest << _SEGMENT_BITS) + len(segment)
        segment.add(frame, columns)
        return np.arange(first, first + len(frame), dtype=np.int64)

    def add_spilled(
        self, handle: SpillHandle, names: tuple[str, ...], *, rows: int, earliest: int
    ) -> None:
        """Add *rows* rows that are in a store already; *names* are the columns of their frame."""
        self._newest += 1
        self._segments[self._newest] = SpilledSegment(
            SpilledRows(handle, names), waiting=rows, earliest=earliest, count=rows
        )

    def evict(self, nbytes: int) -> int:
        """Spill segments until about *nbytes* are free, the newest first: they are due last.

        If that is not enough, spilled rows that were read back are released, which are due first.
        Returns how many bytes are free now.

        Raises:
            TidemillError: the store is full.
        """
        before = self.nbytes
        freed, grouped, group = 0, 0, list[int]()
        for number, segment in self._evictable():
            if freed >= nbytes:
                break
            group.append(number)
            grouped += segment.nbytes
            if len(group) == self._spill_segments or freed + grouped >= nbytes:
                freed += self._spill(group)
                grouped, group = 0, []
        freed += self._spill(group)
        if freed < nbytes:
            for spilled in self._spilled():
                spilled.rows.handle.release()
        return before - self.nbytes

    def due(self, before: int) -> Int64s:
        """Return the numbers of rows earlier than *before*, ascending; no row is returned twice."""
        due = []
        for number, segment in self._segments.items():
            earliest = segment.earliest()
            if earliest is not None and earliest < before:
                due.append(segment.due(before) + (number << _SEGMENT_BITS))
        return np.concatenate(due) if due else np.empty(0, dtype=np.int64)

    def due_before(self, before: int) -> list[tuple[int, int]]:
        """Return earliest time and row count of each segment with rows earlier than *before*."""
        known = ((segment.earliest(), segment.waiting) for segment in self._segments.values())
        return [(at, rows) for at, rows in known if at is not None and at < before]

    def spilled_before(self, before: int) -> list[SpillHandle]:
        """Return the spilled rows that are due *before*, those that are due first first."""
        known = ((segment.earliest(), segment.rows.handle) for segment in self._spilled())
        due = [(at, handle) for at, handle in known if at is not None and at < before]
        return [handle for _, handle in sorted(due, key=itemgetter(0))]

    def waiting(self, rows: Int64s) -> npt.NDArray[np.bool_]:
        """Return which of *rows* are not removed; *rows* must be grouped by segment."""
        parts = [
            self._segments[number].alive(positions)
            if number in self._segments
            else np.zeros(len(positions), dtype=np.bool_)
            for number, positions in _by_segment(rows)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.bool_)

    def columns(self, rows: Int64s, *names: str) -> list[Int64s]:
        """Return columns *names* of *rows*, which must be waiting and grouped by segment."""
        parts = [source.columns(positions, names) for source, positions in self._sources(rows)]
        if not parts:
            return [np.empty(0, dtype=np.int64) for _ in names]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def frame(self, rows: Int64s) -> pl.DataFrame | None:
        """Return the frame of *rows*, in their order; None for no rows."""
        parts = [source.frame(positions) for source, positions in self._sources(rows)]
        return pl.concat(parts) if parts else None

    def remove(self, rows: Int64s) -> None:
        """Remove *rows*, which must be grouped by segment."""
        for number, positions in _by_segment(rows):
            segment = self._segments[number]
            segment.remove(positions)
            if not segment.waiting:
                del self._segments[number]

    def _evictable(self) -> list[tuple[int, ResidentSegment]]:
        """Return the resident segments, newest first; the one being filled last, if not small."""
        resident = [
            (n, segment)
            for n, segment in self._segments.items()
            if isinstance(segment, ResidentSegment)
        ]
        resident.sort(key=lambda each: (each[0] == self._newest, -each[0]))
        if (
            resident
            and resident[-1][0] == self._newest
            and len(resident[-1][1]) * 8 < self._segment_rows
        ):
            resident.pop()
        return resident

    def _spilled(self) -> Iterator[SpilledSegment]:
        return (
            segment for segment in self._segments.values() if isinstance(segment, SpilledSegment)
        )

    def _spill(self, numbers: list[int]) -> int:
        """Spill the segments *numbers* as one, if the store takes them; return the bytes freed."""
        segments = {number: self._segments[number] for number in sorted(numbers)}
        resident = {
            n: segment for n, segment in segments.items() if isinstance(segment, ResidentSegment)
        }
        if self._store is None or not resident:
            return 0
        rows = pl.concat([segment.rows() for segment in resident.values()])
        handle = self._store.spill(rows)
        if handle is None:
            return 0
        names = [name for name in rows.columns if not name.startswith(COLUMN_PREFIX)]
        spilled = SpilledRows(handle, names)
        start = 0
        for number, segment in resident.items():
            self._segments[number] = SpilledSegment.of(segment, spilled, start)
            start += len(segment)
        return sum(segment.nbytes for segment in resident.values())

    def _sources(self, rows: Int64s) -> Iterator[tuple[RowSource, Int64s]]:
        """Yield the sources that have *rows*, in their order, with the positions in each source."""
        source: RowSource | None = None
        parts: list[Int64s] = []
        for number, positions in _by_segment(rows):
            next_source, positions_there = self._segments[number].locate(positions)
            if source is not None and next_source is not source:
                yield source, np.concatenate(parts)
                parts = []
            source = next_source
            parts.append(positions_there)
        if source is not None:
            yield source, np.concatenate(parts) if len(parts) > 1 else parts[0]


def _by_segment(rows: Int64s) -> Iterator[tuple[int, Int64s]]:
    """Yield a segment number and positions in it for each stretch of *rows* in one segment."""
    if not len(rows):
        return
    segments = rows >> _SEGMENT_BITS
    positions = rows & ((1 << _SEGMENT_BITS) - 1)
    changes = np.flatnonzero(np.diff(segments)) + 1
    starts = np.concatenate(([0], changes))
    for start, part in zip(starts, np.split(positions, changes), strict=True):
        yield int(segments[start]), part
