"""A table without the fence: what its commits do to each other is what the fence prevents."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import polars as pl

from tidemill.errors import FencedError
from tidemill.features.lake.commits import CompareAndSwap


class FencedTable(Protocol):
    """The part of a lake table that a writer needs; `Table` and `MemoryTable` have it."""

    def progress(self, app_ids: Iterable[str]) -> dict[str, int | None]:
        """Return the numbers on a fresh snapshot."""

    def append(
        self,
        frame: pl.DataFrame | None,
        *,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Commit rows and numbers at once, if the numbers are as expected; return the version."""

    def read(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """Return the rows that fulfil *where*."""

    def batches(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield the rows that fulfil *where* in portions, in no order."""


class UnfencedTable:
    """A table that anyone may overwrite, whatever numbers they expect."""

    def __init__(self, table: FencedTable) -> None:
        self._table = table

    def progress(self, app_ids: Iterable[str]) -> dict[str, int | None]:
        """Return the numbers on a fresh snapshot."""
        return self._table.progress(app_ids)

    def append(
        self,
        frame: pl.DataFrame | None,
        *,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Commit over whatever the numbers are now."""
        while True:
            found = self._table.progress(swap.app_id for swap in swaps)
            free = [CompareAndSwap(swap.app_id, found[swap.app_id], swap.new) for swap in swaps]
            try:
                return self._table.append(frame, swaps=free, metadata=metadata)
            except FencedError:
                continue

    def read(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """Return the rows that fulfil *where*."""
        return self._table.read(columns, where)

    def batches(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield the rows that fulfil *where* in portions, in no order."""
        return self._table.batches(columns, where)
