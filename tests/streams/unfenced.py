"""A table of the lake without its fence: the damage that the fence prevents."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import polars as pl

from tidemill.errors import FencedError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.streams.commit.progress_table import ProgressTable

logger = logging.getLogger(__name__)


class UnfencedTable:
    """A table that anyone may overwrite."""

    def __init__(self, table: ProgressTable) -> None:
        logger.critical("THE FENCE IS OFF: two workers on one partition will corrupt this lake")
        self._table = table

    def progress(self, app_ids: Iterable[str]) -> dict[str, int | None]:
        """Return the numbers of the newest version."""
        return self._table.progress(app_ids)

    def append(
        self,
        frame: pl.DataFrame | None,
        *,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Commit whatever the numbers were before."""
        while True:
            actual = self._table.progress(swap.app_id for swap in swaps)
            valid = [CompareAndSwap(swap.app_id, actual[swap.app_id], swap.new) for swap in swaps]
            try:
                return self._table.append(frame, swaps=valid, metadata=metadata)
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
        """Yield the rows that fulfil *where* in portions, in no particular order."""
        return self._table.batches(columns, where)
