"""Recovery: the joins of newly owned partitions get their open windows back from the lake.

It is the same for a restart and a rebalance; `rules.read_back` says which rows it needs. Windows
may be larger than memory, so rows are read in portions. Ids and feedback are added to the join,
which evicts what exceeds the budget. Decisions stay spilled in the raw table; only their spans are
read.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import numpy as np
import polars as pl

from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.lake.progress_keys import (
    DUPLICATE,
    FRONTIER,
    LATE,
    MISPLACED,
    REVISED,
    STREAM_TIME,
    UNKNOWN_ITEM,
    UNMATCHED,
    join_time,
)
from tidemill.schemas.logs import OFFSETS, Log, first_position, position_of
from tidemill.streams.commit.leases import Lease
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.commit.spill_to_lake import OffsetSpan, RawTableSpill, RawTableSpillStore
from tidemill.streams.join.checkpoints import Counts, Resume
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.join.rules import JoinRules, read_back
from tidemill.streams.state.row_buffer import SEGMENT_ROWS
from tidemill.streams.units import Int64s, moment


def resume_of(lease: Lease) -> Resume:
    """Return the numbers a join continues from; its rows are added by `Recovery.run`."""
    return Resume(
        frontier=_frontier(lease),
        stream_times={log: _stream_time(lease, log) for log in lease.logs},
        offsets={log: lease.offset(log) for log in lease.logs},
        counts=_counts(lease),
        examined=lease.examined,
        revised=lease.numbers[EXAMPLES][REVISED] or 0,
    )


class Recovery:
    """The recovery of those partitions of one loop that were read before."""

    def __init__(
        self,
        rules: JoinRules,
        tables: Mapping[str, ProgressTable],
        leases: Mapping[int, Lease],
        joins: Mapping[int, PartitionJoin],
        enforce: Callable[[], object],
    ) -> None:
        """Recover *joins*, by partition; call *enforce* after each portion of rows."""
        begun = {n: lease for n, lease in leases.items() if _frontier(lease) or _has_begun(lease)}
        self._tables = tables
        self._joins = {number: joins[number] for number in begun}
        self._frontiers = {number: _frontier(lease) for number, lease in begun.items()}
        self._needs = [read_back(rules, frontier) for frontier in self._frontiers.values()]
        self._unexamined = _unexamined(begun.values())
        self._enforce = enforce

    def run(self, stores: Mapping[int, RawTableSpillStore]) -> None:
        """Read ids, open decisions and open feedback; *stores* are the raw tables of decisions.

        Raises:
            LakeError: the lake cannot be read.
        """
        if self._joins:
            self._recover_decisions(stores)
            self._recover_feedback(self._joined())

    def _recover_decisions(self, stores: Mapping[int, RawTableSpillStore]) -> None:
        verdict = pl.col("verdict")
        since = self._since([need.decisions for need in self._needs])
        where = since & (verdict.is_null() | (verdict == "duplicate"))
        spans: list[pl.DataFrame] = []
        for part in self._tables["decisions"].batches(
            ["partition", "id", "at", "verdict", "offset"], where
        ):
            for number, rows in _by_partition(part):
                self._joins[number].recall_ids(rows)
                spans.append(_spans(number, self._open(number, rows)))
            self._enforce()
        for row in _merged(spans).iter_rows(named=True):
            number = row.pop("partition")
            span = OffsetSpan(**row)
            self._joins[number].recall_spilled(
                RawTableSpill(stores[number], span), rows=span.rows, earliest=span.earliest
            )

    def _recover_feedback(self, joined: Mapping[int, Int64s]) -> None:
        ours = pl.col("partition").is_in(list(self._joins))
        recent = self._since([need.feedback for need in self._needs]) | (ours & self._unexamined)
        for part in self._tables["feedback"].batches(None, recent & pl.col("verdict").is_null()):
            for number, rows in _by_partition(part):
                self._joins[number].recall_feedback(rows, joined.get(number))
            self._enforce()

    def _joined(self) -> dict[int, Int64s]:
        """Return the sorted log positions of feedback that examples have, by partition."""
        since = self._since([need.examples for need in self._needs])
        positions: dict[int, list[Int64s]] = {}
        for part in self._tables["examples"].batches(["partition", "feedback_offsets"], since):
            for number, rows in _by_partition(part):
                joined = rows["feedback_offsets"].explode().drop_nulls().cast(pl.Int64)
                positions.setdefault(number, []).append(joined.to_numpy())
        return {number: np.sort(np.concatenate(parts)) for number, parts in positions.items()}

    def _since(self, bounds: list[datetime | None]) -> pl.Expr:
        """Return a filter for rows of these partitions, as far back as any of them needs."""
        ours = pl.col("partition").is_in(list(self._joins))
        known = [bound for bound in bounds if bound is not None]
        return ours & (pl.col("at") >= min(known)) if len(known) == len(bounds) else ours

    def _open(self, number: int, rows: pl.DataFrame) -> pl.DataFrame:
        frontier = self._frontiers[number]
        first = rows.filter(pl.col("verdict").is_null())
        return first if frontier is None else first.filter(pl.col("at") >= frontier)


def _unexamined(leases: Iterable[Lease]) -> pl.Expr:
    """Return a filter for feedback that may not have been compared with closed decisions yet.

    Such feedback was read after the last commit of examples, so it was judged by the stream time
    that its log had then, or a later one. The filter has that time too, because a file with several
    streams spans nearly all log positions: by positions alone Delta could never skip it.
    """
    least: dict[Log, int] = {}
    judged: dict[Log, list[int | None]] = {}
    for each in leases:
        for log, offset in each.examined.items():
            least[log] = min(offset, least.get(log, offset))
            judged.setdefault(log, []).append(each.numbers[EXAMPLES][join_time(log)])
    unexamined = pl.lit(value=False)
    for log, offset in least.items():
        end = first_position(log) + OFFSETS
        fresh = pl.col("offset").is_between(position_of(log, offset), end, closed="left")
        known = [time for time in judged[log] if time is not None]
        if len(known) == len(judged[log]):
            fresh &= pl.col("stream_time") >= moment(min(known))
        unexamined |= fresh
    return unexamined


def _by_partition(rows: pl.DataFrame) -> list[tuple[int, pl.DataFrame]]:
    parts = rows.partition_by("partition", as_dict=True)
    return [(number, part) for (number,), part in parts.items()]


def _spans(number: int, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the spans of open decisions, one for each stretch of `SEGMENT_ROWS` offsets."""
    stretch = (pl.col("offset") // SEGMENT_ROWS).alias("stretch")
    return (
        rows.group_by(stretch)
        .agg(
            pl.col("offset").min().alias("first"),
            pl.col("offset").max().alias("last"),
            pl.col("at").min().alias("earliest"),
            pl.col("at").max().alias("latest"),
            pl.len().cast(pl.Int64).alias("rows"),
        )
        .with_columns(pl.lit(number).alias("partition"))
    )


def _merged(spans: list[pl.DataFrame]) -> pl.DataFrame:
    """Return the spans of several portions, one for each stretch, in the order of offsets."""
    if not spans:
        return pl.DataFrame()
    return (
        pl.concat(spans)
        .group_by("partition", "stretch")
        .agg(
            pl.col("first").min(),
            pl.col("last").max(),
            pl.col("earliest").min(),
            pl.col("latest").max(),
            pl.col("rows").sum(),
        )
        .sort("partition", "stretch")
        .drop("stretch")
    )


def _frontier(lease: Lease) -> datetime | None:
    return _moment(lease.numbers[EXAMPLES][FRONTIER])


def _has_begun(lease: Lease) -> bool:
    """Return whether anything was read, or an idle log without records was advanced."""
    return any(lease.offset(log) or lease.of(log, STREAM_TIME) is not None for log in lease.logs)


def _stream_time(lease: Lease, log: Log) -> datetime | None:
    """Return the larger of the times that raw table and examples have of *log*."""
    recorded = (lease.of(log, STREAM_TIME), lease.numbers[EXAMPLES][join_time(log)])
    known = [time for time in recorded if time is not None]
    return _moment(max(known)) if known else None


def _counts(lease: Lease) -> Counts:
    numbers = lease.numbers[EXAMPLES]
    return Counts(
        late=numbers[LATE] or 0,
        duplicate=numbers[DUPLICATE] or 0,
        unmatched=numbers[UNMATCHED] or 0,
        misplaced=numbers[MISPLACED] or 0,
        unknown_item=numbers[UNKNOWN_ITEM] or 0,
    )


def _moment(at: int | None) -> datetime | None:
    return None if at is None else moment(at)
