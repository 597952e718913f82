"""Rows that wait for their time: added in batches, taken by time or by number, then forgotten.

Small batches are put together in shelves of some thousand rows, each with its order by time, so
neither a slow stream nor a shuffled one makes work that grows with what is waiting. It knows
nothing of decisions or windows.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.streams.rules import Int64s

_SHELF_ROWS = 8192
_SHELF_BITS = 32


class _Shelf:
    """Some thousand rows in the order of their arrival, and how far their time has come."""

    def __init__(self) -> None:
        self.waiting = 0
        self._frames: list[pl.DataFrame] = []
        self._columns: list[Mapping[str, Int64s]] = []
        self._alive = np.empty(0, dtype=np.bool_)
        self._order: Int64s | None = None
        self._ordered_at = np.empty(0, dtype=np.int64)
        self._next = 0

    def __len__(self) -> int:
        return len(self._alive)

    def add(self, frame: pl.DataFrame, columns: Mapping[str, Int64s]) -> None:
        self._frames.append(frame)
        self._columns.append(columns)
        self._alive = np.concatenate((self._alive, np.ones(len(frame), dtype=np.bool_)))
        self.waiting += len(frame)
        self._order = None

    def frame(self) -> pl.DataFrame:
        if len(self._frames) > 1:
            self._frames = [pl.concat(self._frames)]
        return self._frames[0]

    def column(self, name: str) -> Int64s:
        if len(self._columns) > 1:
            names = self._columns[0]
            self._columns = [
                {name: np.concatenate([part[name] for part in self._columns]) for name in names}
            ]
        return self._columns[0][name]

    def alive(self, positions: Int64s) -> npt.NDArray[np.bool_]:
        return self._alive[positions]

    def earliest(self) -> int | None:
        """Return the time of the first row not yet due, dead ones included, or None."""
        self._sort()
        return int(self._ordered_at[self._next]) if self._next < len(self._ordered_at) else None

    def due(self, before: int) -> Int64s:
        """Return the positions of waiting rows earlier than *before*, ascending; once each."""
        self._sort()
        assert self._order is not None
        end = int(np.searchsorted(self._ordered_at, before))
        positions = np.sort(self._order[self._next : end])
        self._next = max(self._next, end)
        return positions[self._alive[positions]]

    def remove(self, positions: Int64s) -> None:
        self.waiting -= int(np.count_nonzero(self._alive[positions]))
        self._alive[positions] = False

    def _sort(self) -> None:
        if self._order is None:
            waiting = np.flatnonzero(self._alive)
            at = self.column("at")[waiting]
            by_time = np.argsort(at, kind="stable")
            self._order, self._ordered_at, self._next = waiting[by_time], at[by_time], 0


class WaitingRows:
    """A frame of rows beside numeric columns of the same length, one of them *at*, their time.

    A row has a number for as long as it waits. Frames are shared, not copied, until taken.
    """

    def __init__(self, shelf_rows: int = _SHELF_ROWS) -> None:
        self._shelf_rows = shelf_rows
        self._shelves: dict[int, _Shelf] = {}
        self._newest = 0

    def __len__(self) -> int:
        return sum(shelf.waiting for shelf in self._shelves.values())

    @property
    def shelves(self) -> int:
        """How many stretches of rows are in memory."""
        return len(self._shelves)

    def add(self, frame: pl.DataFrame, columns: Mapping[str, Int64s]) -> Int64s:
        """Keep *frame* and return the numbers of its rows, ascending."""
        shelf = self._shelves.get(self._newest)
        if shelf is None or len(shelf) + len(frame) > self._shelf_rows:
            self._newest += 1
            shelf = self._shelves[self._newest] = _Shelf()
        first = (self._newest << _SHELF_BITS) + len(shelf)
        shelf.add(frame, columns)
        return np.arange(first, first + len(frame), dtype=np.int64)

    def due(self, before: int) -> Int64s:
        """Return the numbers of rows earlier than *before*, ascending; each row only once."""
        found = []
        for number, shelf in self._shelves.items():
            earliest = shelf.earliest()
            if earliest is not None and earliest < before:
                found.append(shelf.due(before) + (number << _SHELF_BITS))
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def waiting(self, rows: Int64s) -> npt.NDArray[np.bool_]:
        """Return which of *rows* have not been removed; *rows* must be grouped by shelf."""
        parts = [
            self._shelves[number].alive(positions)
            if number in self._shelves
            else np.zeros(len(positions), dtype=np.bool_)
            for number, positions in _by_shelf(rows)
        ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.bool_)

    def columns(self, rows: Int64s, *names: str) -> list[Int64s]:
        """Return columns *names* of *rows*, which must be waiting and grouped by shelf."""
        shelves = [(self._shelves[number], positions) for number, positions in _by_shelf(rows)]
        return [
            np.concatenate([shelf.column(name)[positions] for shelf, positions in shelves])
            if shelves
            else np.empty(0, dtype=np.int64)
            for name in names
        ]

    def frame(self, rows: Int64s) -> pl.DataFrame | None:
        """Return the frame of *rows*, in their order; None for no rows."""
        parts = [
            _taken(self._shelves[number].frame(), positions)
            for number, positions in _by_shelf(rows)
        ]
        return pl.concat(parts) if parts else None

    def remove(self, rows: Int64s) -> None:
        """Forget *rows*, which must be grouped by shelf."""
        for number, positions in _by_shelf(rows):
            shelf = self._shelves[number]
            shelf.remove(positions)
            if not shelf.waiting:
                del self._shelves[number]


def _by_shelf(rows: Int64s) -> Iterator[tuple[int, Int64s]]:
    """Split *rows* into the shelf number and the positions of each stretch on one shelf."""
    if not len(rows):
        return
    shelves = rows >> _SHELF_BITS
    positions = rows & ((1 << _SHELF_BITS) - 1)
    cuts = np.flatnonzero(np.diff(shelves)) + 1
    starts = np.concatenate(([0], cuts))
    for start, part in zip(starts, np.split(positions, cuts), strict=True):
        yield int(shelves[start]), part


def _taken(frame: pl.DataFrame, positions: Int64s) -> pl.DataFrame:
    """Return the rows at *positions*; a slice, not a copy, where they are neighbours."""
    first, count = int(positions[0]), len(positions)
    if int(positions[-1]) - first == count - 1 and bool((np.diff(positions) == 1).all()):
        return frame.slice(first, count)
    return frame[positions]
