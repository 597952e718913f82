"""The segments of a `RowBuffer`: some thousand waiting rows each, resident or spilled.

A row has a position in a frame and in numeric columns, one of them *at*, its time. A spilled
segment has both in one frame, the columns under names with `COLUMN_PREFIX`; memory has only the
flags of the rows that still wait.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import polars as pl

from tidemill.streams.state.spill_store import SpillHandle, frame_bytes
from tidemill.streams.units import Bools, Int64s

COLUMN_PREFIX = "#"


class Segment(Protocol):
    """Rows in the order of their arrival, which become due in the order of their time."""

    waiting: int

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""

    def earliest(self) -> int | None:
        """Return the time of the first row not returned by `due` yet, removed or not; or None."""

    def due(self, before: int) -> Int64s:
        """Return the positions of waiting rows earlier than *before*, ascending, each only once."""

    def alive(self, positions: Int64s) -> Bools:
        """Return which rows are not removed."""

    def remove(self, positions: Int64s) -> None:
        """Remove the rows at *positions*."""

    def locate(self, positions: Int64s) -> "tuple[RowSource, Int64s]":
        """Return the source that has the rows, and their positions in it."""


class RowSource(Protocol):
    """Something that the rows of one segment, or of several, are read from."""

    def frame(self, positions: Int64s) -> pl.DataFrame:
        """Return the frame of rows, in the order of *positions*."""

    def columns(self, positions: Int64s, names: Sequence[str]) -> list[Int64s]:
        """Return columns of rows, in the order of *positions*."""


class ResidentSegment:
    """A segment in memory."""

    def __init__(self) -> None:
        self.waiting = 0
        self._frames: list[pl.DataFrame] = []
        self._columns: list[Mapping[str, Int64s]] = []
        self._alive = np.empty(0, dtype=np.bool_)
        self._order: Int64s | None = None
        self._ordered_at = np.empty(0, dtype=np.int64)
        self._next = 0
        self._nbytes: int | None = None

    def __len__(self) -> int:
        return len(self._alive)

    @property
    def nbytes(self) -> int:
        """How much memory the frames and columns take."""
        if self._nbytes is None:
            frames = sum(frame_bytes(frame) for frame in self._frames)
            columns = sum(column.nbytes for part in self._columns for column in part.values())
            self._nbytes = frames + columns + 17 * len(self)  # alive, and the order by time
        return self._nbytes

    def add(self, frame: pl.DataFrame, columns: Mapping[str, Int64s]) -> None:
        """Append rows."""
        self._frames.append(frame)
        self._columns.append(columns)
        self._alive = np.concatenate((self._alive, np.ones(len(frame), dtype=np.bool_)))
        self.waiting += len(frame)
        self._order = self._nbytes = None

    def all_frames(self) -> pl.DataFrame:
        """Return the frame of every row, the removed ones too."""
        if len(self._frames) > 1:
            self._frames = [pl.concat(self._frames)]
        return self._frames[0]

    def column(self, name: str) -> Int64s:
        """Return one column of every row."""
        if len(self._columns) > 1:
            names = self._columns[0]
            self._columns = [
                {name: np.concatenate([part[name] for part in self._columns]) for name in names}
            ]
        return self._columns[0][name]

    def rows(self) -> pl.DataFrame:
        """Return every row as a store gets it: frame and columns in one."""
        columns = [
            pl.Series(f"{COLUMN_PREFIX}{name}", self.column(name)) for name in self._columns[0]
        ]
        return self.all_frames().with_columns(columns)

    def alive(self, positions: Int64s) -> Bools:
        """Return which rows are not removed."""
        return self._alive[positions]

    def earliest(self) -> int | None:
        """Return the time of the first row not returned by `due` yet, removed or not; or None."""
        self._sort()
        return int(self._ordered_at[self._next]) if self._next < len(self._ordered_at) else None

    def due(self, before: int) -> Int64s:
        """Return the positions of waiting rows earlier than *before*, ascending, each only once."""
        self._sort()
        assert self._order is not None
        end = int(np.searchsorted(self._ordered_at, before))
        positions = np.sort(self._order[self._next : end])
        self._next = max(self._next, end)
        return positions[self._alive[positions]]

    def remove(self, positions: Int64s) -> None:
        """Remove the rows at *positions*."""
        self.waiting -= int(np.count_nonzero(self._alive[positions]))
        self._alive[positions] = False

    def locate(self, positions: Int64s) -> tuple[RowSource, Int64s]:
        """Return the segment itself."""
        return self, positions

    def frame(self, positions: Int64s) -> pl.DataFrame:
        """Return the frame of rows; a slice, not a copy, where they are neighbours."""
        frame = self.all_frames()
        first, count = int(positions[0]), len(positions)
        if int(positions[-1]) - first == count - 1 and bool((np.diff(positions) == 1).all()):
            return frame.slice(first, count)
        return frame[positions]

    def columns(self, positions: Int64s, names: Sequence[str]) -> list[Int64s]:
        """Return columns of rows."""
        return [self.column(name)[positions] for name in names]

    def _sort(self) -> None:
        if self._order is None:
            waiting = np.flatnonzero(self._alive)
            at = self.column("at")[waiting]
            by_time = np.argsort(at, kind="stable")
            self._order, self._ordered_at, self._next = waiting[by_time], at[by_time], 0


class SpilledRows:
    """The rows of one or several segments that were spilled together."""

    def __init__(self, handle: SpillHandle, names: Sequence[str]) -> None:
        self.handle = handle
        self._names = names

    def frame(self, positions: Int64s) -> pl.DataFrame:
        """Return the frame of rows."""
        return self.handle.take(positions, self._names)

    def columns(self, positions: Int64s, names: Sequence[str]) -> list[Int64s]:
        """Return columns of rows."""
        frame = self.handle.take(positions, [f"{COLUMN_PREFIX}{name}" for name in names])
        return [column.to_numpy() for column in frame.get_columns()]


class SpilledSegment:
    """A segment in a spill store: *count* rows from *start* of what was spilled together."""

    def __init__(
        self, rows: SpilledRows, *, waiting: int, earliest: int | None, start: int = 0, count: int
    ) -> None:
        self.waiting = waiting
        self.rows = rows
        self._earliest = earliest
        self._start = start
        self._count = count
        self._alive: Bools | None = None  # None: all of them

    def __len__(self) -> int:
        return self._count

    @classmethod
    def of(cls, segment: ResidentSegment, rows: SpilledRows, start: int) -> "SpilledSegment":
        """Return *segment* as spilled: *rows* have its rows from *start* on."""
        earliest = segment.earliest()
        spilled = cls(
            rows, waiting=segment.waiting, earliest=earliest, start=start, count=len(segment)
        )
        alive = segment.alive(np.arange(len(segment)))
        spilled._alive = None if alive.all() else alive
        return spilled

    @property
    def nbytes(self) -> int:
        """How much memory it takes, without rows that were read back."""
        return 0 if self._alive is None else self._alive.nbytes

    def earliest(self) -> int | None:
        """Return the time of the first row not returned by `due` yet, removed or not; or None."""
        return self._earliest

    def due(self, before: int) -> Int64s:
        """Return the positions of waiting rows earlier than *before*, ascending, each only once."""
        since = self._earliest
        if since is None or since >= before:
            return np.empty(0, dtype=np.int64)
        at = self.rows.columns(np.arange(self._count) + self._start, ["at"])[0]
        later = at[at >= before]
        self._earliest = int(later.min()) if len(later) else None
        positions = np.flatnonzero((at >= since) & (at < before))
        return positions if self._alive is None else positions[self._alive[positions]]

    def alive(self, positions: Int64s) -> Bools:
        """Return which rows are not removed."""
        if self._alive is None:
            return np.ones(len(positions), dtype=np.bool_)
        return self._alive[positions]

    def remove(self, positions: Int64s) -> None:
        """Remove the rows at *positions*."""
        if self._alive is None:
            self._alive = np.ones(self._count, dtype=np.bool_)
        self.waiting -= int(np.count_nonzero(self._alive[positions]))
        self._alive[positions] = False

    def locate(self, positions: Int64s) -> tuple[RowSource, Int64s]:
        """Return the rows that were spilled together."""
        return self.rows, positions + self._start
