"""Tables of the lake in memory, for tests and notebooks: the same rows, numbers and fence.

The same suite tests them and Delta tables (tests/features/lake/test_tables.py), so what a test
proves with one holds for the other.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tidemill.errors import FencedError
from tidemill.features.lake.commits import CompareAndSwap
from tidemill.features.lake.layouts import PARTITION, fitted, layouts
from tidemill.schemas.loop.definition import Loop


@dataclass(frozen=True, slots=True)
class MemoryCommit:
    """One commit: its rows and its metadata."""

    rows: pl.DataFrame
    metadata: Mapping[str, str]


class MemoryTable:
    """One table, shared by sharing the object. Safe to share among threads."""

    def __init__(self, folder: str, schema: pl.Schema) -> None:
        self.folder = folder
        self.schema = schema
        self.commits: list[MemoryCommit] = []
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    def progress(self, app_ids: Iterable[str]) -> dict[str, int | None]:
        """Return the number at each of *app_ids*; None where there is none."""
        with self._lock:
            return {app_id: self._numbers.get(app_id) for app_id in app_ids}

    def version(self) -> int:
        """Return the newest version."""
        return len(self.commits)

    def append(
        self,
        frame: pl.DataFrame | None,
        *,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Commit the rows of *frame* and all *swaps* at once and return the new version.

        Raises:
            FencedError: a swap expects another number than the table has.
            ValueError: *frame* does not fit the table.
        """
        with self._lock:
            self._compare(swaps)
            rows = self._fitted(frame)
            if swaps or len(rows):
                self.commits.append(MemoryCommit(rows, dict(metadata or {})))
                self._numbers |= {swap.app_id: swap.new for swap in swaps}
            return len(self.commits)

    def read(
        self,
        columns: Sequence[str] | None = None,
        where: pl.Expr | None = None,
        version: int | None = None,
    ) -> pl.DataFrame:
        """Return the rows for which *where* is true, of the newest version by default."""
        with self._lock:
            frames = [commit.rows for commit in self.commits[:version] if len(commit.rows)]
        rows = pl.concat(frames) if frames else pl.DataFrame(schema=self.schema)
        if where is not None:
            rows = rows.filter(where)
        return rows if columns is None else rows.select(columns)

    def batches(
        self,
        columns: Sequence[str] | None = None,
        where: pl.Expr | None = None,
        *,
        rows: int = 100_000,
    ) -> Iterator[pl.DataFrame]:
        """Yield the rows for which *where* is true, *rows* at a time."""
        yield from self.read(columns, where).iter_slices(rows)

    def _compare(self, swaps: Sequence[CompareAndSwap]) -> None:
        for swap in swaps:
            number = self._numbers.get(swap.app_id)
            if number != swap.expected:
                raise FencedError(
                    f"{self.folder}: {swap.app_id} is at {number}, this worker expected "
                    f"{swap.expected}",
                    hint="another worker has taken over; drop this one's state and read the "
                    "progress again",
                )

    def _fitted(self, frame: pl.DataFrame | None) -> pl.DataFrame:
        if frame is None or frame.is_empty():
            return pl.DataFrame(schema=self.schema)
        if PARTITION in self.schema:
            frame = frame.with_columns(pl.col("at").dt.date().alias(PARTITION))
        return fitted(frame, self.schema)


class MemoryLake:
    """The tables of all loops by name."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], MemoryTable] = {}

    def create(self, loop: Loop) -> None:
        """Create the missing tables of *loop*."""
        for name, schema in layouts(loop).items():
            self._tables.setdefault((loop.loop, name), MemoryTable(f"{loop.loop}/{name}", schema))

    def table(self, loop_name: str, name: str) -> MemoryTable:
        """Return the table *name* of a loop.

        Raises:
            KeyError: it has not been created.
        """
        return self._tables[loop_name, name]
