"""A shell whose join has next to no memory: whatever may be spilled is, after every step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
from tests.streams.join_logs import Shell, shared_labels

from tidemill.features.lake.layouts import EXAMPLES, TABLES, table_of
from tidemill.features.lake.progress_keys import (
    DEAD_LETTERS,
    DUPLICATE,
    EXAMINED,
    FRONTIER,
    LATE,
    OFFSET,
    REVISED,
    STREAM_TIME,
    UNKNOWN_ITEM,
    UNMATCHED,
    join_time,
)
from tidemill.schemas.logs import DECISIONS, Log, is_feedback
from tidemill.streams.commit.leases import Lease, number_names
from tidemill.streams.commit.recovery import Recovery, resume_of
from tidemill.streams.commit.spill_to_lake import RawTableSpill, RawTableSpillStore, fetch
from tidemill.streams.join.partition_join import Closed, PartitionJoin
from tidemill.streams.state.memory_budget import MemoryBudget
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill_store import MemorySpillStore, SpillStore, SpillStores
from tidemill.streams.units import NEVER, micros


class RowsTable:
    """Rows in memory, read like a table of the lake."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self.rows = rows
        self.reads = 0

    def read(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """Return the rows that fulfil *where*, in an order of its own."""
        self.reads += 1
        rows = self.rows.reverse() if where is None else self.rows.reverse().filter(where)
        return rows if columns is None else rows.select(columns)

    def batches(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield them three at a time."""
        yield from self.read(columns, where).iter_slices(3) if len(self.rows) else ()


@dataclass
class TightShell(Shell):
    """A shell with a budget of *nbytes*, which closes in portions of *portion* decisions."""

    nbytes: int = 0
    portion: int = 1
    spill_files: SpillStore | None = None
    segment_rows: int = 2
    spill_rows: int = 1
    most_spilled: int = 0
    most_bytes: int = 0  # after a commit

    def start(self) -> None:
        """Continue from what is committed, read back in portions."""
        tables = {name: RowsTable(self.table(name)) for name in TABLES}
        lease = self.lease()
        self.raw_decisions = RawTableSpillStore(tables["decisions"], 0, self.rules)
        self.raw_decisions.committed = self.offsets[DECISIONS]
        spill_files = self.spill_files or MemorySpillStore()
        stores = SpillStores(decisions=self.raw_decisions, feedback=spill_files, ids=spill_files)
        state = OpenState(stores, segment_rows=self.segment_rows, spill_rows=self.spill_rows)
        self.budget = MemoryBudget(self.nbytes)
        self.join = PartitionJoin(
            self.rules,
            resume_of(lease),
            labels=shared_labels(self.rules),
            recall=self._recall,
            state=state,
        )
        recovery = Recovery(self.rules, tables, {0: lease}, {0: self.join}, self.enforce)  # type: ignore[arg-type]
        recovery.run({0: self.raw_decisions})
        self.positions = dict(self.offsets)
        self.taken = {log: [] for log in self.rules.logs}
        self.pending_advances = []

    def poll(self, log: Log, count: int) -> None:
        """Take records, then spill whatever may be spilled."""
        super().poll(log, count)
        self.enforce()

    def commit(self, crash_after: int = 3) -> None:
        """Commit, and close what is due in small portions, each with a commit of its own."""
        super().commit(crash_after)
        self.raw_decisions.table = RowsTable(self.table("decisions"))
        self.raw_decisions.committed = self.offsets[DECISIONS]
        self.enforce()
        self.most_bytes = max(self.most_bytes, self.eviction.nbytes)
        before = self.join.frontier
        closed = NEVER if before is None else micros(before)
        if crash_after == 3 and self.join.next_frontier(self.portion) > closed:
            self.commit()

    def close(self) -> Closed | None:
        """Close as far as one portion goes."""
        limit = self.join.next_frontier(self.portion)
        fetch(
            [
                handle
                for handle in self.join.state.spilled_before(limit)
                if isinstance(handle, RawTableSpill)
            ]
        )
        return self.join.close(limit)

    def enforce(self) -> None:
        """Spill everything that may be spilled."""
        self.eviction = self.budget.enforce(self.join.state.spillables)
        self.most_spilled = max(self.most_spilled, sum(self.join.state.spilled.values()))

    def lease(self) -> Lease:
        """Return the numbers of the lake."""
        last = self.closed[-1] if self.closed else None
        numbers: dict[str, dict[str, int | None]] = {
            name: dict.fromkeys(number_names(name, self.rules.logs)) for name in TABLES
        }
        for log in self.rules.logs:
            time = self.times[log]
            at = None if time is None else micros(time)
            told = {OFFSET: self.offsets[log], STREAM_TIME: at, DEAD_LETTERS: 0}
            numbers[table_of(log)] |= {name.for_log(log): told[name] for name in told}
            if self.rules.corrections and is_feedback(log):
                numbers[EXAMPLES][EXAMINED.for_log(log)] = 0
        if last is not None:
            numbers["examples"] |= {
                FRONTIER: micros(last.frontier),
                **{join_time(log): micros(at) for log, at in last.stream_times.items()},
                LATE: last.counts.late,
                DUPLICATE: last.counts.duplicate,
                UNMATCHED: last.counts.unmatched,
                UNKNOWN_ITEM: last.counts.unknown_item,
                **{EXAMINED.for_log(log): at for log, at in last.examined.items()},
                REVISED: last.revised,
            }
        return Lease(0, self.rules.logs, numbers)

    def table(self, name: str) -> pl.DataFrame:
        """Return the rows of a table as the lake has them."""
        if name == "examples":
            frame = self.revisions()
            if frame.is_empty():
                return pl.DataFrame(
                    schema={
                        "partition": pl.Int32(),
                        "at": pl.Datetime("us", "UTC"),
                        "feedback_offsets": pl.List(pl.Int64),
                    }
                )
        else:
            frame = self.rows_of(name)
        return frame.with_columns(
            pl.lit(0, dtype=pl.Int32).alias("partition"),
            pl.col("at").dt.date().alias("event_date"),
        )

    def rows_of(self, name: str) -> pl.DataFrame:
        """Return the raw rows of one table, none of them with their columns."""
        schema = self.rules.decisions if name == "decisions" else self.rules.feedback
        more = {"offset": pl.Int64(), "stream_time": pl.Datetime("us", "UTC")}
        empty = pl.DataFrame(schema={**schema, **more, "verdict": pl.String()})
        frames = [
            frame for log in self.rules.logs if table_of(log) == name for frame in self.raw[log]
        ]
        return pl.concat([empty, *frames])
