"""The store of open decisions is their raw table: they leave memory by being forgotten.

A stretch of rows that is committed can be told by where it is: the offsets it goes from and to, and
the times. What comes back is counted: a raw table that lost rows stops its worker, never an
example.
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
from tidemill.streams.join.checkpoints import fitted
from tidemill.streams.join.partition_join import DECISION_COLUMNS
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.state.segments import MARK
from tidemill.streams.state.spill import frame_bytes
from tidemill.streams.units import Int64s


class RawTable(Protocol):
    """The part of a lake table that is needed here; `tidemill.features.lake.lake.Table` has it."""

    def read(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """Return the rows that fulfil *where*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetSpan:
    """Where a stretch of one partition's first decisions is; all bounds included."""

    first: int
    last: int
    earliest: datetime
    latest: datetime
    rows: int

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "OffsetSpan":
        """Return where the rows of *frame* are; at least one."""
        bounds = [
            pl.col("offset").min().alias("first"),
            pl.col("offset").max().alias("last"),
            pl.col("at").min().alias("earliest"),
            pl.col("at").max().alias("latest"),
            pl.len().alias("rows"),
        ]
        return cls(**frame.select(bounds).row(0, named=True))


class RawTableSpillStore:
    """The store of one partition. Rows at offsets from *committed* on are not in the table yet."""

    def __init__(self, table: RawTable, partition: int, rules: JoinRules) -> None:
        self.table = table
        self.partition = partition
        self.rules = rules
        self.committed = 0

    def spill(self, rows: pl.DataFrame) -> "RawTableSpill | None":
        """Return a hold on *rows*; None if one of them is not committed yet."""
        span = OffsetSpan.of(rows)
        return RawTableSpill(self, span) if span.last < self.committed else None


class RawTableSpill:
    """Decisions in the raw table; all of them come back with the first that is asked for."""

    def __init__(self, store: RawTableSpillStore, span: OffsetSpan) -> None:
        self.store = store
        self.span = span
        self._frame: pl.DataFrame | None = None
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """How much memory the rows take that came back."""
        return self._nbytes

    @property
    def is_resident(self) -> bool:
        """Whether the rows have come back."""
        return self._frame is not None

    def take(self, positions: Int64s, columns: Sequence[str]) -> pl.DataFrame:
        """Return *columns* of the rows at *positions*.

        Raises:
            LakeError: the raw table cannot be read, or has other rows than were committed.
        """
        if self._frame is None:
            fetch([self])
        if self._frame is None:
            raise RuntimeError(f"{self.span} was fetched and is not here")
        return self._frame.select(columns)[positions]

    def load(self, frame: pl.DataFrame) -> None:
        """Take the rows out of *frame*, which has those of the partition in order of offset.

        Raises:
            LakeError: they are not as many as they were.
        """
        span = self.span
        start = frame["offset"].search_sorted(span.first, side="left")
        end = frame["offset"].search_sorted(span.last, side="right")
        found = frame.slice(start, end - start).filter(pl.col("at") >= span.earliest)
        if found.height != span.rows:
            raise LakeError(
                f"partition {self.store.partition}: of {span.rows} open decisions at offsets "
                f"{span.first} to {span.last} the raw table has {found.height}",
                hint="rows were removed from the decisions table while their windows were open; "
                "restore it to an earlier version, then start the worker again",
            )
        self._frame = _as_spilled(found, self.store.rules)
        self._nbytes = frame_bytes(self._frame)

    def release(self) -> None:
        """Forget the rows again."""
        self._frame, self._nbytes = None, 0


def fetch(stretches: Collection[RawTableSpill]) -> None:
    """Bring *stretches* back, with one read for all that are of one table; blocks.

    Raises:
        LakeError: a table cannot be read, or has other rows than were committed.
    """
    tables = {id(stretch.store.table): stretch.store.table for stretch in stretches}
    for key, table in tables.items():
        wanted = [
            each for each in stretches if id(each.store.table) == key and not each.is_resident
        ]
        by_partition = {each.store.partition: each.store.rules for each in wanted}
        if not wanted:
            continue
        places = [
            _place(partition, [each.span for each in wanted if each.store.partition == partition])
            for partition in by_partition
        ]
        names = ["partition", "offset", *wanted[0].store.rules.decisions]
        frame = table.read(names, reduce(or_, places) & pl.col("verdict").is_null())
        for partition in by_partition:
            rows = frame.filter(pl.col("partition") == partition).sort("offset")
            for each in wanted:
                if each.store.partition == partition:
                    each.load(rows)


def _place(partition: int, spans: Iterable[OffsetSpan]) -> pl.Expr:
    """Return what says in which files, and where in them, *spans* are."""
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
    """Return rows of the raw table as a join keeps them: its frame and its columns."""
    frame = fitted(raw, rules.decisions, "offset").select(DECISION_COLUMNS)
    ids = id_keys(frame["id"])
    return frame.with_columns(
        pl.Series(f"{MARK}at", frame["at"].to_physical()),
        pl.Series(f"{MARK}key", ids.key),
        pl.Series(f"{MARK}check", ids.check),
    )
