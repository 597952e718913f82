"""The process that `pending` measures: `python -m benchmarks.pendingjoin FOLDER PENDING MEMORY`.

It is a worker without Kafka: joins, budget, stores, commit cycles are those of production, and
so is the lake; rows come as columns instead of payloads. It prints figures of its phases as JSON.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from benchmarks.pendinglogs import PARTITIONS, Logs, loop
from benchmarks.processes import peak_mb
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import TABLES
from tidemill.schemas import topics
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.streams.commit.commit_cycle import CommitCycle
from tidemill.streams.commit.leases import claim
from tidemill.streams.commit.open_windows import OpenWindows
from tidemill.streams.commit.progress_commit import raw_numbers
from tidemill.streams.commit.progress_table import ProgressTable
from tidemill.streams.commit.snapshot import PartitionSnapshot
from tidemill.streams.deadletters.writer import MemoryDeadLetters
from tidemill.streams.join.checkpoints import Resume
from tidemill.streams.join.labels import Labels
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.state.open_state import OpenState
from tidemill.streams.state.spill_files import SpillFiles
from tidemill.streams.units import micros, moment

NAME = "bench-pending"
AT_ONCE = 100_000  # decisions of a commit cycle; about as many events as a worker commits at once


class Worker:
    """All partitions of the loop, from frames to commits."""

    def __init__(self, folder: Path, pending: int, memory: str) -> None:
        bench = loop(NAME, memory)
        lake = Lake(LakeConfig(root=str(folder / "lake")))
        lake.create(bench)
        tables: Mapping[str, ProgressTable] = {name: lake.table(NAME, name) for name in TABLES}
        self.rules, self.metrics = JoinRules.of(bench), StreamMetrics()
        labels = Labels(self.rules.label)

        def join(number: int, resume: Resume, state: OpenState) -> PartitionJoin:
            return PartitionJoin(self.rules, resume, labels=labels, state=state)

        spill_files = SpillFiles(folder)
        self.windows = OpenWindows(
            loop=bench,
            rules=self.rules,
            tables=tables,
            spill_files=spill_files,
            metrics=self.metrics,
            join=join,
            patience_s=30.0,
        )
        self.cycle = CommitCycle(NAME, tables, MemoryDeadLetters(), self.metrics, 30.0)
        self.leases = claim(tables, range(PARTITIONS), 1)
        self.joins = self.windows.recover(self.leases)
        self.frames: dict[tuple[Log, int], list[pl.DataFrame]] = {}
        self.next = {(log, number): 0 for log in self.rules.logs for number in self.joins}
        self.logs = Logs(bench, pending)
        self.most_bytes = 0.0

    def take(self, first: int, last: int) -> int:
        """Take the decisions *first* to *last* and the clicks of that time; return how many."""
        frames: dict[Log, pl.DataFrame] = {
            DECISIONS: self.logs.decisions(first, last),
            FEEDBACK: self.logs.feedback(first, last),
        }
        for log, frame in frames.items():
            for (number,), rows in frame.partition_by("partition", as_dict=True).items():
                self._take(log, int(number), rows)
        return sum(frame.height for frame in frames.values())

    def _take(self, log: Log, number: int, rows: pl.DataFrame) -> None:
        join, start = self.joins[number], self.next[log, number]
        positioned = rows.with_columns(
            pl.int_range(start, start + pl.len(), dtype=pl.Int64).alias("offset"),
            pl.col("at").alias("ingested_at"),
        )
        judged = (
            join.take_decisions(positioned)
            if log == "decisions"
            else join.take_feedback(positioned)
        )
        topic = topics.decisions(NAME) if log == "decisions" else topics.feedback(NAME)
        self.frames.setdefault((log, number), []).append(
            judged.with_columns(pl.lit(topic).alias("topic"))
        )
        self.next[log, number] = start + rows.height

    async def commit(self) -> bool:
        """Commit the taken rows and close what is due; return whether anything closed."""
        before = {number: join.frontier for number, join in self.joins.items()}
        limits = await self.windows.closing()
        snapshots = [
            self._snapshot(number, join, limits[number]) for number, join in self.joins.items()
        ]
        self.frames = {}
        self.cycle.write(self.leases, snapshots)
        self.windows.committed(self.leases)
        taken = self.metrics.registry.get_sample_value("tidemill_stream_open_bytes", {"loop": NAME})
        self.most_bytes = max(self.most_bytes, taken or 0)
        return before != {number: join.frontier for number, join in self.joins.items()}

    def _snapshot(self, number: int, join: PartitionJoin, limit: int) -> PartitionSnapshot:
        closed = join.close(limit)
        times = {log: join.stream_time(log) for log in self.rules.logs}
        at = {log: None if time is None else micros(time) for log, time in times.items()}
        return PartitionSnapshot(
            partition=number,
            frames={log: self.frames.get((log, number), []) for log in self.rules.logs},
            numbers={
                log: raw_numbers(self.next[log, number], at[log], 0) for log in self.rules.logs
            },
            dead_letters=[],
            closed=closed,
        )

    async def feed(self, first: int, last: int) -> dict[str, float]:
        """Take decisions *first* to *last* in commit cycles; return the cost."""
        started_s, started_cpu_s, events = time.perf_counter(), time.process_time(), 0
        for start in range(first, last, AT_ONCE):
            events += self.take(start, min(start + AT_ONCE, last))
            await self.commit()
        return _figures(events, started_s, started_cpu_s)

    async def finish(self, count: int) -> dict[str, float]:
        """End both logs after *count* decisions and close everything."""
        open_rows = sum(join.open_decisions for join in self.joins.values())
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        last = moment(int(self.logs.at(pl.Series([count]).to_numpy())[0]))
        for join in self.joins.values():
            for log in self.rules.logs:
                join.advance(log, self.rules.closing_time(last))
        while await self.commit():
            pass
        return _figures(open_rows, started_s, started_cpu_s)


def _figures(events: int, started_s: float, started_cpu_s: float) -> dict[str, float]:
    return {
        "events_per_second": events / (time.perf_counter() - started_s),
        "cpu_s_per_million": (time.process_time() - started_cpu_s) / events * 1e6,
    }


async def run(folder: Path, pending: int, memory: str) -> dict[str, float]:
    """Fill a window with *pending* decisions, continue for a tenth of it, and close everything."""
    worker = Worker(folder, pending, memory)
    found = {f"filling_{name}": value for name, value in (await worker.feed(0, pending)).items()}
    away = sum(sum(join.state.spilled.values()) for join in worker.joins.values())
    opened = [
        sum(join.open_decisions for join in worker.joins.values()),
        sum(join.open_feedback for join in worker.joins.values()),
    ]
    total = pending + pending // 10
    rolling = await worker.feed(pending, total)
    closing = await worker.finish(total)
    if any(join.open_decisions or join.open_feedback for join in worker.joins.values()):
        raise RuntimeError("something is still open")
    return {
        **found,
        **{f"rolling_{name}": value for name, value in rolling.items()},
        **{f"closing_{name}": value for name, value in closing.items()},
        "open_decisions": opened[0],
        "open_feedback": opened[1],
        "away_rows": away,
        "open_mb": worker.most_bytes / 1e6,
        "peak_mb": peak_mb(os.getpid()),
    }


if __name__ == "__main__":
    folder, pending, memory = sys.argv[1:]
    print(json.dumps(asyncio.run(run(Path(folder), int(pending), memory))))
