"""The port of a spill store, which has open rows that do not fit the memory budget; and its fake.

The owner of the rows decides which are spilled, and which it reads back. Spilled rows can always be
recomputed from the lake, so a store need not outlive the process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from tidemill.streams.units import Int64s

_VIEW_BYTES = 16  # of each string, which Polars leaves out of its estimate


class SpillHandle(Protocol):
    """Rows that were spilled."""

    @property
    def nbytes(self) -> int:
        """How many bytes of memory they take because they were read back."""

    def take(self, positions: Int64s, columns: Sequence[str]) -> pl.DataFrame:
        """Return *columns* of the rows at *positions*, in the order of *positions*.

        Raises:
            TidemillError: they cannot be read, or some of them are gone.
        """

    def release(self) -> None:
        """Free the memory of rows that were read back; `take` reads them again."""


class SpillStore(Protocol):
    """A store of rows outside of memory. It may drop rows whose handle nobody has any more."""

    def spill(self, rows: pl.DataFrame) -> SpillHandle | None:
        """Store *rows*, at least one; None if they cannot be spilled yet.

        Raises:
            TidemillError: the store is full.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SpillStores:
    """The stores of one partition: for its open decisions, its open feedback, and its ids."""

    decisions: SpillStore
    feedback: SpillStore
    ids: SpillStore


class MemorySpillStore:
    """A store in memory, for tests; it refuses rows at the offset *until* or later."""

    def __init__(self, until: int | None = None) -> None:
        self.until = until
        self.spilled = 0

    def spill(self, rows: pl.DataFrame) -> "SpillHandle | None":
        """Store *rows*, unless one of them is at *until* or later."""
        if self.until is not None and rows["offset"].max() >= self.until:  # type: ignore[operator]
            return None
        self.spilled += len(rows)
        return _MemorySpillHandle(rows)


class _MemorySpillHandle:
    def __init__(self, rows: pl.DataFrame) -> None:
        self._rows = rows

    @property
    def nbytes(self) -> int:
        return 0

    def take(self, positions: Int64s, columns: Sequence[str]) -> pl.DataFrame:
        return self._rows.select(columns)[positions]

    def release(self) -> None:
        """Do nothing: the rows never leave memory."""


def frame_bytes(frame: pl.DataFrame) -> int:
    """Return about how many bytes of memory *frame* takes, including the views of its strings."""
    strings = sum(_strings(kind) for kind in frame.schema.values())
    return int(frame.estimated_size()) + _VIEW_BYTES * strings * frame.height


def _strings(kind: object) -> int:
    """Return how many columns of strings a column of *kind* consists of."""
    if isinstance(kind, pl.Struct):
        return sum(_strings(field.dtype) for field in kind.fields)
    return int(kind == pl.String)
