"""Which version of a loop judged a row, and which rows have labels that mean the same.

Workers record at which frontier a version took a partition over (`progress_keys.begin`): decisions
before it were closed by the version before, by its label. Rows of another label are no rows to
learn from or to judge by. A complete backfill under the new label has labels for them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import polars as pl

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.lake.progress_keys import NOTHING_CLOSED, begin
from tidemill.features.sql.backfills import completed, read_backfill
from tidemill.schemas.loop.definition import Loop


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedSpan:
    """The rows of one partition that one version of a loop has judged.

    Attributes:
        partition: their partition.
        versions: the version; several if an older release did not record which of them it was.
        since: the earliest time of their decisions, in microseconds since 1970; None for no bound.
        until: the end of these times, itself excluded.
        is_first: whether only first revisions count: a later version corrects by another label.
    """

    partition: int
    versions: tuple[int, ...]
    since: int | None = None
    until: int | None = None
    is_first: bool = False

    @property
    def name(self) -> str:
        """How reports name its version."""
        return f"version {' or '.join(map(str, self.versions))}"

    def expr(self) -> pl.Expr:
        """Return whether a row of `examples` is in the span."""
        at = pl.col("at").dt.timestamp("us")
        found = pl.col("partition") == self.partition
        if self.since is not None:
            found &= at >= self.since
        if self.until is not None:
            found &= at < self.until
        return found

    def sql(self) -> str:
        """Return the same as a condition of DuckDB."""
        parts = [f'"partition" = {self.partition}']
        if self.since is not None:
            parts.append(f'epoch_us("at") >= {self.since}')
        if self.until is not None:
            parts.append(f'epoch_us("at") < {self.until}')
        return f"({' AND '.join(parts)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparableRows:
    """Which rows of `examples` have labels that mean what the label of one version means.

    Attributes:
        spans: the rows that do.
        others: the rows that do not. If there are none, every row counts.
        backfill: the complete backfill that has labels for *others*, if there is one.
    """

    spans: tuple[JudgedSpan, ...] = ()
    others: tuple[JudgedSpan, ...] = ()
    backfill: str | None = None

    @property
    def is_all(self) -> bool:
        """Whether every row counts."""
        return not self.others and not any(span.is_first for span in self.spans)

    def expr(self) -> pl.Expr:
        """Return whether a row of `examples` counts."""
        if self.is_all:
            return pl.lit(True)
        counted = (
            span.expr() & (pl.col("revision").fill_null(0) == 0) if span.is_first else span.expr()
            for span in self.spans
        )
        return reduce(or_, counted, pl.lit(False))

    def sql(self) -> str:
        """Return the same as a condition of DuckDB."""
        if self.is_all:
            return "true"
        counted = (
            f'({span.sql()} AND coalesce("revision", 0) = 0)' if span.is_first else span.sql()
            for span in self.spans
        )
        return f"({' OR '.join(['false', *counted])})"

    def other_sql(self) -> str:
        """Return whether a row belongs to another label, as a condition of DuckDB."""
        return f"({' OR '.join(['false', *(span.sql() for span in self.others)])})"

    def other_expr(self) -> pl.Expr:
        """Return the same as an expression of Polars."""
        return reduce(or_, (span.expr() for span in self.others), pl.lit(False))


ALL_ROWS = ComparableRows()
"""Every row counts: the loop has one version."""


def comparable_rows(lake: Lake, loop: Loop) -> ComparableRows:
    """Return which examples of *loop* in *lake* have labels that mean what its label means.

    Raises:
        LakeError: the lake cannot be read.
    """
    definitions = [each for each in lake.definitions(loop.loop) if each.version != loop.version]
    definitions = sorted([*definitions, loop], key=lambda each: each.version)
    if len(definitions) == 1:
        return ALL_ROWS
    digests = {each.version: each.label_digest for each in definitions}
    spans: list[JudgedSpan] = []
    others: list[JudgedSpan] = []
    for span in judged_spans(lake, loop, definitions):
        is_same = {digests[version] for version in span.versions} == {loop.label_digest}
        (spans if is_same else others).append(span)
    made = backfill_of(lake, loop) if others else None
    return ComparableRows(spans=tuple(spans), others=tuple(others), backfill=made)


def judged_spans(lake: Lake, loop: Loop, definitions: Sequence[Loop]) -> list[JudgedSpan]:
    """Return the spans of all partitions of *loop*; *definitions* are all versions, oldest first.

    Raises:
        LakeError: the lake cannot be read.
    """
    numbers = range(loop.partitions)
    keys = [begin(each.version).key(number) for each in definitions for number in numbers]
    recorded = lake.table(loop.loop, EXAMPLES).progress(keys)
    spans: list[JudgedSpan] = []
    for number in numbers:
        marks = [
            (each.version, frontier)
            for each in definitions
            if (frontier := recorded[begin(each.version).key(number)]) is not None
        ]
        spans += _spans(number, marks, definitions)
    return spans


def _spans(
    partition: int, marks: Sequence[tuple[int, int]], definitions: Sequence[Loop]
) -> Iterator[JudgedSpan]:
    """Yield the spans of one partition; *marks* are versions and the frontiers they began at."""
    first = marks[0][0] if marks else None
    earlier = tuple(e.version for e in definitions if first is None or e.version < first)
    starts = [(earlier, NOTHING_CLOSED)] if earlier else []
    starts += [((version,), frontier) for version, frontier in marks]
    if not earlier:
        starts[0] = (starts[0][0], NOTHING_CLOSED)
    ends = [*(frontier for _, frontier in starts[1:]), None]
    for (versions, since), until in zip(starts, ends, strict=True):
        if since == until:
            continue  # it closed nothing
        yield JudgedSpan(
            partition=partition,
            versions=versions,
            since=None if since == NOTHING_CLOSED else since,
            until=until,
            is_first=_is_corrected_otherwise(versions[0], definitions),
        )


def _is_corrected_otherwise(version: int, definitions: Sequence[Loop]) -> bool:
    """Return whether a version later than *version* corrects its rows by another label."""
    digest = {each.version: each.label_digest for each in definitions}
    return any(
        each.version > version and each.corrections and each.label_digest != digest[version]
        for each in definitions
    )


def backfill_name(version: int) -> str:
    """Return the name of the backfill that `tidemill publish --backfill` makes for *version*.

    >>> backfill_name(3)
    'version_3'
    """
    return f"version_{version}"


def backfill_of(lake: Lake, loop: Loop) -> str | None:
    """Return the complete backfill that made the labels of earlier rows anew, if there is one.

    It is that of the newest version up to that of *loop* whose label means the same.

    Raises:
        LakeError: the lake cannot be read.
    """
    known = set(completed(lake, loop.loop))
    for version in range(loop.version, 0, -1):
        name = backfill_name(version)
        if name in known and read_backfill(lake, loop.loop, name).loop.label_digest == (
            loop.label_digest
        ):
            return name
    return None
