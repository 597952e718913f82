"""Closes windows again whose commit was taken away: the newest one of `examples`.

With the commit, its progress numbers are gone, so for the lake these windows are open. The raw
tables have all of their records. This runs the code of a worker without Kafka: it claims the
partition, recovers its open windows, and closes them as far as the rows reach that no commit has.
"""

import asyncio
from collections.abc import Collection
from datetime import datetime
from itertools import product
from pathlib import Path

import polars as pl

from tidemill.features.lake.damage import uncommitted_paths
from tidemill.features.lake.lake import Lake, Table
from tidemill.features.lake.layouts import EXAMPLES
from tidemill.features.lake.storage import lake_errors
from tidemill.streams.deadletters.writer import NoDeadLetters
from tidemill.streams.metrics import StreamMetrics
from tidemill.streams.runtime.commit_schedule import Cadence
from tidemill.streams.runtime.loop_runner import LoopRunner
from tidemill.streams.runtime.prepared_loop import PreparedLoop
from tidemill.streams.runtime.worker import open_tables
from tidemill.streams.state.spill_files import SpillFiles


def uncommitted_until(lake: Lake, table: Table) -> dict[int, datetime]:
    """Return the time of the newest example that is of no commit, by partition.

    Raises:
        LakeError: the storage does not answer.
    """
    found: dict[int, datetime] = {}
    with lake_errors(f"read what is of no commit of {table.folder}", lake.root):
        for path in uncommitted_paths(table):
            rows = pl.read_parquet(
                f"{table.location.root}/{table.folder}/{path}",
                columns=["partition", "at"],
                hive_partitioning=False,
                storage_options=table.location.options,
            )
            for number, at in rows.group_by("partition").agg(pl.col("at").max()).iter_rows():
                found[number] = max(at, found.get(number, at))
    return found


def close_again(
    lake: Lake, prepared: PreparedLoop, partitions: Collection[int] | None, scratch: Path
) -> int:
    """Close what the taken commit of examples had closed; return how many examples were made.

    A worker that owns one of the partitions is fenced by it, and starts again.

    Raises:
        FencedError: a worker claims the partition at the same time.
        LakeError: the lake refuses.
    """
    table = lake.table(prepared.loop.loop, EXAMPLES)
    until = uncommitted_until(lake, table)
    before = table.version()
    for number, at in until.items():
        if partitions is None or number in partitions:
            asyncio.run(_close(lake, prepared, number, at, scratch))
    return sum(table.rows(commit).height for commit in table.commits_since(before))


async def _close(
    lake: Lake, prepared: PreparedLoop, partition: int, until: datetime, scratch: Path
) -> None:
    loop = prepared.loop
    runner = LoopRunner(
        prepared=prepared,
        tables=open_tables(lake, loop),
        dead_letters=NoDeadLetters(),
        metrics=StreamMetrics(),
        on_examples=lambda _version: None,
        cadence=Cadence(),
        newest=lambda: loop.version,
        spill_files=SpillFiles(scratch),
    )
    await runner.claim([partition])
    runner.end_logs(until, list(product(loop.logs, [partition])))
    await runner.commit()
    while runner.is_closing:
        await runner.commit()
    await runner.release()
