"""Rows that wait for their time: added in batches, taken by time or by number, then forgotten.

Small batches are put together in shelves of some thousand rows, each with its order by time, so
neither a slow stream nor a shuffled one makes work that grows with what is waiting. Shelves may
leave memory for a store; what is asked for is read there again. It knows nothing of decisions or
windows.
"""

from collections.abc import Iterator, Mapping
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import polars as pl

from tidemill.streams.join.rules import Int64s
from tidemill.streams.state.segments import MARK, AwayRows, AwayShelf, OpenShelf, Shelf, Source
from tidemill.streams.state.spill import Kept, Store

SHELF_ROWS = 8192
_SHELF_BITS = 32
_TOGETHER = 64


class WaitingRows:
    """A frame of rows beside numeric columns of the same length, one of them *at*, their time.

    A row has a number for as long as it waits. Frames are shared, not copied, until taken.
    """

    def __init__(
        self,
        shelf_rows: int = SHELF_ROWS,
        *,
        store: Store | None = None,
        together: int = _TOGETHER,
    ) -> None:
        """Start empty; *together* shelves at most go to *store* as one."""
        self._shelf_rows = shelf_rows
        self._shelves: dict[int, Shelf] = {}
        self._newest = 0
        self._store = store
        self._together = together

    def __len__(self) -> int:
        return sum(shelf.waiting for shelf in self._shelves.values())

    @property
    def shelves(self) -> int:
        """How many stretches of rows are known."""
        return len(self._shelves)

    @property
    def away(self) -> int:
        """How many waiting rows are in the store."""
        return sum(shelf.waiting for shelf in self._away())

    @property
    def nbytes(self) -> int:
        """How much memory all of it takes, what was read again included."""
        again = {id(shelf.rows): shelf.rows.kept.nbytes for shelf in self._away()}
        return sum(shelf.nbytes for shelf in self._shelves.values()) + sum(again.values())

    def add(self, frame: pl.DataFrame, columns: Mapping[str, Int64s]) -> Int64s:
        """Keep *frame* and return the numbers of its rows, ascending."""
        if not len(frame):
            return np.empty(0, dtype=np.int64)
        shelf = self._shelves.get(self._newest)
        if not isinstance(shelf, OpenShelf) or len(shelf) + len(frame) > self._shelf_rows:
            self._newest += 1
            shelf = self._shelves[self._newest] = OpenShelf()
        first = (self._newest << _SHELF_BITS) + len(shelf)
        shelf.add(frame, columns)
        return np.arange(first, first + len(frame), dtype=np.int64)

    def add_away(self, kept: Kept, names: tuple[str, ...], *, rows: int, earliest: int) -> None:
        """Take up *rows* rows that are in a store already; *names* are the columns of a frame."""
        self._newest += 1
        away = AwayRows(kept, names)
        self._shelves[self._newest] = AwayShelf(away, waiting=rows, earliest=earliest, count=rows)

    def leave(self, nbytes: int) -> int:
        """Let shelves leave memory, about *nbytes* of them, those that came last first.

        They are due last. What was read again is due next, and goes only if that is not enough.
        Returns how many bytes went.

        Raises:
            TidemillError: the store has no room.
        """
        before = self.nbytes
        freed, leaving, group = 0, 0, list[int]()
        for number, shelf in self._leaving():
            if freed >= nbytes:
                break
            group.append(number)
            leaving += shelf.nbytes
            if len(group) == self._together or freed + leaving >= nbytes:
                freed += self._put_away(group)
                leaving, group = 0, []
        freed += self._put_away(group)
        if freed < nbytes:
            for away in self._away():
                away.rows.kept.release()
        return before - self.nbytes

    def due(self, before: int) -> Int64s:
        """Return the numbers of rows earlier than *before*, ascending; each row only once."""
        found = []
        for number, shelf in self._shelves.items():
            earliest = shelf.earliest()
            if earliest is not None and earliest < before:
                found.append(shelf.due(before) + (number << _SHELF_BITS))
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def due_before(self, before: int) -> list[tuple[int, int]]:
        """Return of each shelf with rows due before then the earliest time, and its rows."""
        known = ((shelf.earliest(), shelf.waiting) for shelf in self._shelves.values())
        return [(at, rows) for at, rows in known if at is not None and at < before]

    def away_before(self, before: int) -> list[Kept]:
        """Return what the store has of rows due before then; what is due first first."""
        known = ((shelf.earliest(), shelf.rows.kept) for shelf in self._away())
        due = [(at, kept) for at, kept in known if at is not None and at < before]
        return [kept for _, kept in sorted(due, key=itemgetter(0))]

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
        parts = [source.columns(positions, names) for source, positions in self._sources(rows)]
        if not parts:
            return [np.empty(0, dtype=np.int64) for _ in names]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def frame(self, rows: Int64s) -> pl.DataFrame | None:
        """Return the frame of *rows*, in their order; None for no rows."""
        parts = [source.frame(positions) for source, positions in self._sources(rows)]
        return pl.concat(parts) if parts else None

    def remove(self, rows: Int64s) -> None:
        """Forget *rows*, which must be grouped by shelf."""
        for number, positions in _by_shelf(rows):
            shelf = self._shelves[number]
            shelf.remove(positions)
            if not shelf.waiting:
                del self._shelves[number]

    def _leaving(self) -> list[tuple[int, OpenShelf]]:
        """Return what may leave: the newest first, but the one being filled last, if at all."""
        here = [(n, shelf) for n, shelf in self._shelves.items() if isinstance(shelf, OpenShelf)]
        here.sort(key=lambda each: (each[0] == self._newest, -each[0]))
        if here and here[-1][0] == self._newest and len(here[-1][1]) * 8 < self._shelf_rows:
            here.pop()
        return here

    def _away(self) -> Iterator[AwayShelf]:
        return (shelf for shelf in self._shelves.values() if isinstance(shelf, AwayShelf))

    def _put_away(self, numbers: list[int]) -> int:
        """Let the shelves *numbers* go to the store as one, if it takes them; return the bytes."""
        shelves = {number: self._shelves[number] for number in sorted(numbers)}
        here = {n: shelf for n, shelf in shelves.items() if isinstance(shelf, OpenShelf)}
        if self._store is None or not here:
            return 0
        rows = pl.concat([shelf.rows() for shelf in here.values()])
        kept = self._store.keep(rows)
        if kept is None:
            return 0
        away = AwayRows(kept, [name for name in rows.columns if not name.startswith(MARK)])
        start = 0
        for number, shelf in here.items():
            self._shelves[number] = AwayShelf.of(shelf, away, start)
            start += len(shelf)
        return sum(shelf.nbytes for shelf in here.values())

    def _sources(self, rows: Int64s) -> Iterator[tuple[Source, Int64s]]:
        """Return where *rows* can be read, in their order: shelves, or stores with several."""
        source: Source | None = None
        parts: list[Int64s] = []
        for number, positions in _by_shelf(rows):
            found, places = self._shelves[number].place(positions)
            if source is not None and found is not source:
                yield source, np.concatenate(parts)
                parts = []
            source = found
            parts.append(places)
        if source is not None:
            yield source, np.concatenate(parts) if len(parts) > 1 else parts[0]


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
