"""Rows that wait for their time: added in batches, taken by time or by number, then forgotten.

Small batches are put together in segments of some thousand rows, each with its order by time, so
neither a slow stream nor a shuffled one makes work that grows with what is waiting. Segments may
leave memory for a store; what is asked for is read there again. It knows nothing of decisions or
windows.
"""

from collections.abc import Iterator, Mapping
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.streams.state.segments import (
    MARK,
    ResidentSegment,
    RowSource,
    Segment,
    SpilledRows,
    SpilledSegment,
)
from tidemill.streams.state.spill import SpillHandle, SpillStore
from tidemill.streams.units import Int64s

SEGMENT_ROWS = 8192
_SEGMENT_BITS = 32
_TOGETHER = 64


class RowBuffer:
    """A frame of rows beside numeric columns of the same length, one of them *at*, their time.

    A row has a number for as long as it waits. Frames are shared, not copied, until taken.
    """

    def __init__(
        self,
        segment_rows: int = SEGMENT_ROWS,
        *,
        store: SpillStore | None = None,
        together: int = _TOGETHER,
    ) -> None:
        """Start empty; *together* segments at most go to *store* as one."""
        self._shelf_rows = segment_rows
        self._segments: dict[int, Segment] = {}
        self._newest = 0
        self._store = store
        self._together = together

    def __len__(self) -> int:
        return sum(segment.waiting for segment in self._segments.values())

    @property
    def segments(self) -> int:
        """How many stretches of rows are known."""
        return len(self._segments)

    @property
    def spilled(self) -> int:
        """How many waiting rows are in the store."""
        return sum(segment.waiting for segment in self._spilled())

    @property
    def nbytes(self) -> int:
        """How much memory all of it takes, what was read again included."""
        again = {id(segment.rows): segment.rows.kept.nbytes for segment in self._spilled()}
        return sum(segment.nbytes for segment in self._segments.values()) + sum(again.values())

    def add(self, frame: pl.DataFrame, columns: Mapping[str, Int64s]) -> Int64s:
        """Keep *frame* and return the numbers of its rows, ascending."""
        if not len(frame):
            return np.empty(0, dtype=np.int64)
        segment = self._segments.get(self._newest)
        if not isinstance(segment, ResidentSegment) or len(segment) + len(frame) > self._shelf_rows:
            self._newest += 1
            segment = self._segments[self._newest] = ResidentSegment()
        first = (self._newest << _SEGMENT_BITS) + len(segment)
        segment.add(frame, columns)
        return np.arange(first, first + len(frame), dtype=np.int64)

    def add_spilled(
        self, kept: SpillHandle, names: tuple[str, ...], *, rows: int, earliest: int
    ) -> None:
        """Take up *rows* rows that are in a store already; *names* are the columns of a frame."""
        self._newest += 1
        away = SpilledRows(kept, names)
        self._segments[self._newest] = SpilledSegment(
            away, waiting=rows, earliest=earliest, count=rows
        )

    def evict(self, nbytes: int) -> int:
        """Let segments leave memory, about *nbytes* of them, those that came last first.

        They are due last. What was read again is due next, and goes only if that is not enough.
        Returns how many bytes went.

        Raises:
            TidemillError: the store has no room.
        """
        before = self.nbytes
        freed, leaving, group = 0, 0, list[int]()
        for number, segment in self._evictable():
            if freed >= nbytes:
                break
            group.append(number)
            leaving += segment.nbytes
            if len(group) == self._together or freed + leaving >= nbytes:
                freed += self._spill(group)
                leaving, group = 0, []
        freed += self._spill(group)
        if freed < nbytes:
            for away in self._spilled():
                away.rows.kept.release()
        return before - self.nbytes

    def due(self, before: int) -> Int64s:
        """Return the numbers of rows earlier than *before*, ascending; each row only once."""
        found = []
        for number, segment in self._segments.items():
            earliest = segment.earliest()
            if earliest is not None and earliest < before:
                found.append(segment.due(before) + (number << _SEGMENT_BITS))
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def due_before(self, before: int) -> list[tuple[int, int]]:
        """Return of each segment with rows due before then the earliest time, and its rows."""
        known = ((segment.earliest(), segment.waiting) for segment in self._segments.values())
        return [(at, rows) for at, rows in known if at is not None and at < before]

    def spilled_before(self, before: int) -> list[SpillHandle]:
        """Return what the store has of rows due before then; what is due first first."""
        known = ((segment.earliest(), segment.rows.kept) for segment in self._spilled())
        due = [(at, kept) for at, kept in known if at is not None and at < before]
        return [kept for _, kept in sorted(due, key=itemgetter(0))]

    def waiting(self, rows: Int64s) -> npt.NDArray[np.bool_]:
        """Return which of *rows* have not been removed; *rows* must be grouped by segment."""
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
        """Forget *rows*, which must be grouped by segment."""
        for number, positions in _by_segment(rows):
            segment = self._segments[number]
            segment.remove(positions)
            if not segment.waiting:
                del self._segments[number]

    def _evictable(self) -> list[tuple[int, ResidentSegment]]:
        """Return what may leave: the newest first, but the one being filled last, if at all."""
        here = [
            (n, segment)
            for n, segment in self._segments.items()
            if isinstance(segment, ResidentSegment)
        ]
        here.sort(key=lambda each: (each[0] == self._newest, -each[0]))
        if here and here[-1][0] == self._newest and len(here[-1][1]) * 8 < self._shelf_rows:
            here.pop()
        return here

    def _spilled(self) -> Iterator[SpilledSegment]:
        return (
            segment for segment in self._segments.values() if isinstance(segment, SpilledSegment)
        )

    def _spill(self, numbers: list[int]) -> int:
        """Let the segments *numbers* go to the store as one, if it takes them; return the bytes."""
        segments = {number: self._segments[number] for number in sorted(numbers)}
        here = {
            n: segment for n, segment in segments.items() if isinstance(segment, ResidentSegment)
        }
        if self._store is None or not here:
            return 0
        rows = pl.concat([segment.rows() for segment in here.values()])
        kept = self._store.spill(rows)
        if kept is None:
            return 0
        away = SpilledRows(kept, [name for name in rows.columns if not name.startswith(MARK)])
        start = 0
        for number, segment in here.items():
            self._segments[number] = SpilledSegment.of(segment, away, start)
            start += len(segment)
        return sum(segment.nbytes for segment in here.values())

    def _sources(self, rows: Int64s) -> Iterator[tuple[RowSource, Int64s]]:
        """Return where *rows* can be read, in their order: segments, or stores with several."""
        source: RowSource | None = None
        parts: list[Int64s] = []
        for number, positions in _by_segment(rows):
            found, places = self._segments[number].place(positions)
            if source is not None and found is not source:
                yield source, np.concatenate(parts)
                parts = []
            source = found
            parts.append(places)
        if source is not None:
            yield source, np.concatenate(parts) if len(parts) > 1 else parts[0]


def _by_segment(rows: Int64s) -> Iterator[tuple[int, Int64s]]:
    """Split *rows* into the segment number and the positions of each stretch on one segment."""
    if not len(rows):
        return
    segments = rows >> _SEGMENT_BITS
    positions = rows & ((1 << _SEGMENT_BITS) - 1)
    cuts = np.flatnonzero(np.diff(segments)) + 1
    starts = np.concatenate(([0], cuts))
    for start, part in zip(starts, np.split(positions, cuts), strict=True):
        yield int(segments[start]), part
