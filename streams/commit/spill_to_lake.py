"""The spill store of open decisions: their raw table, which has the committed rows already.

Nothing is written to spill rows; the handle has their span of offsets and times. Rows that are read
back are counted: a raw table that lost rows stops the worker, and no example goes missing.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Protocol

import polars as pl

from tidemill.errors import LakeError
from tidemill.streams.id_hashes import id_keys
from tidemill.streams.join.checkpoints import conformed
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.state.segments import COLUMN_PREFIX
from tidemill.streams.state.spill_store import frame_bytes
from tidemill.streams.units import Int64s


class RawTable(Protocol):
    """A table that can be read; `tidemill.features.lake.lake.Table` is one."""

    def read(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """Return the rows that fulfil *where*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetSpan:
    """The offsets and times of consecutive first decisions of one partition; bounds included."""

    first: int
    last: int
    earliest: datetime
    latest: datetime
    rows: int

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "OffsetSpan":
        """Return the span of the rows of *frame*, which has at least one."""
        bounds = [
            pl.col("offset").min().alias("first"),
            pl.col("offset").max().alias("last"),
            pl.col("at").min().alias("earliest"),
            pl.col("at").max().alias("latest"),
            pl.len().alias("rows"),
        ]
        return cls(**frame.select(bounds).row(0, named=True))


class RawTableSpillStore:
    """The store of one partition. Its table has the rows at offsets below *committed*."""

    def __init__(self, table: RawTable, partition: int, rules: JoinRules) -> None:
        self.table = table
        self.partition = partition
        self.rules = rules
        self.committed = 0

    def spill(self, rows: pl.DataFrame) -> "RawTableSpill | None":
        """Return a handle of *rows*; None if one of them is not committed yet."""
        span = OffsetSpan.of(rows)
        return RawTableSpill(self, span) if span.last < self.committed else None


class RawTableSpill:
    """Decisions in the raw table; the first `take` reads all of them back."""

    def __init__(self, store: RawTableSpillStore, span: OffsetSpan) -> None:
        self.store = store
        self.span = span
        self._frame: pl.DataFrame | None = None
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """How much memory the rows take that were read back."""
        return self._nbytes

    @property
    def is_resident(self) -> bool:
        """Whether the rows were read back."""
        return self._frame is not None

    def take(self, positions: Int64s, columns: Sequence[str]) -> pl.DataFrame:
        """Return *columns* of the rows at *positions*.

        Raises:
            LakeError: the raw table cannot be read, or has other rows than were committed.
        """
        if self._frame is None:
            fetch([self])
        if self._frame is None:
            raise RuntimeError(f"{self.span} was fetched and is not in memory")
        return self._frame.select(columns)[positions]

    def load(self, frame: pl.DataFrame) -> None:
        """Take the rows of the span from *frame*, which has rows of the partition by offset.

        Raises:
            LakeError: there are more or fewer rows than were spilled.
        """
        span = self.span
        start = frame["offset"].search_sorted(span.first, side="left")
        end = frame["offset"].search_sorted(span.last, side="right")
        rows = frame.slice(start, end - start).filter(pl.col("at") >= span.earliest)
        if rows.height != span.rows:
            raise LakeError(
                f"partition {self.store.partition}: of {span.rows} open decisions at offsets "
                f"{span.first} to {span.last} the raw table has {rows.height}",
                hint="rows were removed from the decisions table while their windows were open; "
                "restore it to an earlier version, then start the worker again",
            )
        self._frame = _as_spilled(rows, self.store.rules)
        self._nbytes = frame_bytes(self._frame)

    def release(self) -> None:
        """Free the memory of the rows."""
        self._frame, self._nbytes = None, 0


def fetch(spills: Collection[RawTableSpill]) -> None:
    """Read *spills* back, with one query for each table; blocks.

    Raises:
        LakeError: a table cannot be read, or has other rows than were committed.
    """
    tables = {id(each.store.table): each.store.table for each in spills}
    for key, table in tables.items():
        wanted = [each for each in spills if id(each.store.table) == key and not each.is_resident]
        by_partition = {each.store.partition: each.store.rules for each in wanted}
        if not wanted:
            continue
        filters = [
            _covering(
                partition, [each.span for each in wanted if each.store.partition == partition]
            )
            for partition in by_partition
        ]
        names = ["partition", "offset", *wanted[0].store.rules.decisions]
        frame = table.read(names, reduce(or_, filters) & pl.col("verdict").is_null())
        for partition in by_partition:
            rows = frame.filter(pl.col("partition") == partition).sort("offset")
            for each in wanted:
                if each.store.partition == partition:
                    each.load(rows)


def _covering(partition: int, spans: Iterable[OffsetSpan]) -> pl.Expr:
    """Return a filter for rows of *partition* that covers *spans*, and lets Delta skip files."""
    spans = list(spans)
    earliest = min(span.earliest for span in spans)
    latest = max(span.latest for span in spans)
    return (
        (pl.col("partition") == partition)
        & pl.col("offset").is_between(
            min(span.first for span in spans), max(span.last for span in spans)
        )
        & pl.col("at").is_between(earliest, latest)
        & pl.col("event_date").is_between(earliest.date(), latest.date())
    )


def _as_spilled(raw: pl.DataFrame, rules: JoinRules) -> pl.DataFrame:
    """Return rows of the raw table as a join spills them: frame and columns in one."""
    frame = conformed(raw, rules.decisions, "offset").select(rules.open_columns)
    ids = id_keys(frame["id"])
    return frame.with_columns(
        pl.Series(f"{COLUMN_PREFIX}at", frame["at"].to_physical()),
        pl.Series(f"{COLUMN_PREFIX}key", ids.key),
        pl.Series(f"{COLUMN_PREFIX}check", ids.check),
    )
