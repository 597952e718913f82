"""Where open rows are while memory has no place for them: a port, and its fake in memory.

Whoever keeps rows decides when they leave and which of them it needs back. What a store holds can
always be computed again from the lake, so it need not outlive the process. It knows no join.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from tidemill.streams.units import Int64s

_VIEW_BYTES = 16  # of each string, which Polars leaves out of its estimate


class SpillHandle(Protocol):
    """Rows that have left memory."""

    @property
    def nbytes(self) -> int:
        """How many bytes of memory they take all the same, because they were read again."""

    def take(self, positions: Int64s, columns: Sequence[str]) -> pl.DataFrame:
        """Return *columns* of the rows at *positions*, in the order of *positions*.

        Raises:
            TidemillError: they cannot be read, or not all of them are there any more.
        """

    def release(self) -> None:
        """Forget what was read again; it can be taken once more."""


class SpillStore(Protocol):
    """A place outside of memory; a row that is dropped from it needs no word."""

    def spill(self, rows: pl.DataFrame) -> SpillHandle | None:
        """Take *rows*, at least one; None if they cannot leave memory yet.

        Raises:
            TidemillError: there is no room for them.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SpillStores:
    """The stores of one partition: of its open decisions, of its open feedback, of its ids."""

    decisions: SpillStore
    feedback: SpillStore
    ids: SpillStore


class MemorySpillStore:
    """Keeps rows in this process all the same; for tests. *until* is the first offset to stay."""

    def __init__(self, until: int | None = None) -> None:
        self.until = until
        self.kept = 0

    def spill(self, rows: pl.DataFrame) -> "SpillHandle | None":
        """Take *rows*, unless one of them is at *until* or later."""
        if self.until is not None and rows["offset"].max() >= self.until:  # type: ignore[operator]
            return None
        self.kept += len(rows)
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
        """Do nothing: there is nothing that could be read again."""


def frame_bytes(frame: pl.DataFrame) -> int:
    """Return about how many bytes of memory *frame* takes, the views of its strings included."""
    strings = sum(_strings(kind) for kind in frame.schema.values())
    return int(frame.estimated_size()) + _VIEW_BYTES * strings * frame.height


def _strings(kind: object) -> int:
    """Return how many columns of strings a column of *kind* consists of."""
    if isinstance(kind, pl.Struct):
        return sum(_strings(field.dtype) for field in kind.fields)
    return int(kind == pl.String)
