"""Give the joins of newly owned partitions back what the lake has of their open windows.

Restart, rebalance and recovery are this one act. It knows which rows matter (`rules.read_back`),
not what the join does with them. Windows may be longer than memory, so rows come in portions: ids
and feedback go into the join, which lets leave what is too much; decisions stay in the raw table,
and all that is read of them is where.
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
    REVISED,
    STREAM_TIME,
    UNMATCHED,
    join_time,
)
from tidemill.schemas.logs import OFFSETS, Log, first_position, position_of
from tidemill.streams.commit.ownership import Lease
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.commit.spill_to_lake import OffsetSpan, RawTableSpill, RawTableSpillStore
from tidemill.streams.join.checkpoints import Counts, Resume
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.join.rules import JoinRules, read_back
from tidemill.streams.state.row_buffer import SEGMENT_ROWS
from tidemill.streams.units import Int64s, moment


def resume_of(held: Lease) -> Resume:
    """Return the numbers that a join goes on from; without rows, which `recover` gives it."""
    return Resume(
        frontier=_frontier(held),
        stream_times={log: _stream_time(held, log) for log in held.logs},
        offsets={log: held.offset(log) for log in held.logs},
        counts=_counts(held),
        examined=held.examined,
        revised=held.numbers[EXAMPLES][REVISED] or 0,
    )


class Recovery:
    """What is read back for the partitions of one loop that have begun."""

    def __init__(
        self,
        rules: JoinRules,
        tables: Mapping[str, ProgressTable],
        leases: Mapping[int, Lease],
        joins: Mapping[int, PartitionJoin],
        enforce: Callable[[], object],
    ) -> None:
        """Recover *joins* by number; *enforce* is called whenever they have grown."""
        begun = {n: held for n, held in leases.items() if _frontier(held) or _has_begun(held)}
        self._tables = tables
        self._joins = {number: joins[number] for number in begun}
        self._frontiers = {number: _frontier(held) for number, held in begun.items()}
        self._needs = [read_back(rules, frontier) for frontier in self._frontiers.values()]
        self._unexamined = _unexamined(begun.values())
        self._relieve = enforce

    def run(self, stores: Mapping[int, RawTableSpillStore]) -> None:
        """Read ids, open decisions and open feedback; *stores* are those of the decisions.

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
        found: list[pl.DataFrame] = []
        for part in self._tables["decisions"].batches(
            ["partition", "id", "at", "verdict", "offset"], where
        ):
            for number, rows in _by_partition(part):
                self._joins[number].recall_ids(rows)
                found.append(_places(number, self._open(number, rows)))
            self._relieve()
        for row in _together(found).iter_rows(named=True):
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
            self._relieve()

    def _joined(self) -> dict[int, Int64s]:
        """Return of each partition the places, sorted, of feedback that examples have already."""
        since = self._since([need.examples for need in self._needs])
        found: dict[int, list[Int64s]] = {}
        for part in self._tables["examples"].batches(["partition", "feedback_offsets"], since):
            for number, rows in _by_partition(part):
                places = rows["feedback_offsets"].explode().drop_nulls().cast(pl.Int64)
                found.setdefault(number, []).append(places.to_numpy())
        return {number: np.sort(np.concatenate(parts)) for number, parts in found.items()}

    def _since(self, bounds: list[datetime | None]) -> pl.Expr:
        """Return what is true for rows of our partitions as far back as any of them needs."""
        ours = pl.col("partition").is_in(list(self._joins))
        known = [bound for bound in bounds if bound is not None]
        return ours & (pl.col("at") >= min(known)) if len(known) == len(bounds) else ours

    def _open(self, number: int, rows: pl.DataFrame) -> pl.DataFrame:
        frontier = self._frontiers[number]
        first = rows.filter(pl.col("verdict").is_null())
        return first if frontier is None else first.filter(pl.col("at") >= frontier)


def _unexamined(held: Iterable[Lease]) -> pl.Expr:
    """Return which feedback may not have been held against closed decisions yet.

    It was read after the examples were committed last, so it was judged by the stream time that
    its log had then, or a later one, whatever the rules were. A file with several streams spans
    nearly all places, so by places alone it is never ruled out.
    """
    least: dict[Log, int] = {}
    judged: dict[Log, list[int | None]] = {}
    for each in held:
        for log, offset in each.examined.items():
            least[log] = min(offset, least.get(log, offset))
            judged.setdefault(log, []).append(each.numbers[EXAMPLES][join_time(log)])
    found = pl.lit(value=False)
    for log, offset in least.items():
        end = first_position(log) + OFFSETS
        fresh = pl.col("offset").is_between(position_of(log, offset), end, closed="left")
        known = [time for time in judged[log] if time is not None]
        if len(known) == len(judged[log]):
            fresh &= pl.col("stream_time") >= moment(min(known))
        found |= fresh
    return found


def _by_partition(rows: pl.DataFrame) -> list[tuple[int, pl.DataFrame]]:
    parts = rows.partition_by("partition", as_dict=True)
    return [(number, part) for (number,), part in parts.items()]


def _places(number: int, rows: pl.DataFrame) -> pl.DataFrame:
    """Return where open decisions are, by stretches of `SEGMENT_ROWS` offsets."""
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


def _together(found: list[pl.DataFrame]) -> pl.DataFrame:
    """Return the stretches of several portions, each stretch once, in the order of offsets."""
    if not found:
        return pl.DataFrame()
    return (
        pl.concat(found)
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


def _frontier(held: Lease) -> datetime | None:
    return _moment(held.numbers[EXAMPLES][FRONTIER])


def _has_begun(held: Lease) -> bool:
    """Whether anything was read, or an empty log was moved on: the rest is judged by that time."""
    return any(held.offset(log) or held.of(log, STREAM_TIME) is not None for log in held.logs)


def _stream_time(held: Lease, log: Log) -> datetime | None:
    """Return the larger of what the raw table and the examples recorded."""
    found = (held.of(log, STREAM_TIME), held.numbers[EXAMPLES][join_time(log)])
    known = [time for time in found if time is not None]
    return _moment(max(known)) if known else None


def _counts(held: Lease) -> Counts:
    numbers = held.numbers[EXAMPLES]
    return Counts(
        late=numbers[LATE] or 0,
        duplicate=numbers[DUPLICATE] or 0,
        unmatched=numbers[UNMATCHED] or 0,
    )


def _moment(at: int | None) -> datetime | None:
    return None if at is None else moment(at)
