"""From the close of a window to an example that can be read, under live traffic.

The measured time begins with the broker's time of the record with which the stream times of both
logs have passed the close, and ends when a reader that polls the table has the row. It includes
fetching, decoding, the wait for the next commit cycle, the commit and the reading.
"""

import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.join import PARTITIONS, metric, started_worker
from benchmarks.processes import LOAD, Measured, core, module_command
from benchmarks.workload import loop
from tidemill.deploy.local.kafka_settings import free_port
from tidemill.features.lake.lake import Lake, LakeConfig, Table
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.published import publish_loop
from tidemill.streams.join.rules import JoinRules, Spans

Say = Callable[[str], None]
Int64s = npt.NDArray[np.int64]
LOGS = ("decisions", "feedback")
WITHIN, GRACE = timedelta(seconds=10), timedelta(seconds=1)
POLL_S = 0.02
TAIL_S = 3.0  # how long to wait for commits after the last event


def measure_delay(
    kafka: KafkaConfig, *, events_per_second: float, seconds: float, say: Say
) -> dict[str, float]:
    """Return the figures of the report's `close_to_example_s`.

    `p50` and `p99` count from the close of the bucket that a decision's window closes with, the
    others from the close of its own window: up to a bucket, a second here, earlier.
    """
    bench = loop(f"bench-delay-{uuid.uuid4().hex[:8]}", within=WITHIN, grace=GRACE)
    publish_loop(kafka, bench)
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as home:
        folder, port = Path(home), free_port()
        with started_worker(kafka, bench, folder, port) as worker:
            worker.until(lambda: metric(port, PARTITIONS) > 0, timeout_s=60)
            start_s = worker.usage().cpu_s
            lake = Lake(LakeConfig(root=home))
            arguments = (kafka.bootstrap, bench.loop, str(events_per_second), str(seconds))
            with Measured(module_command("live", *arguments), cores=core(LOAD)) as live:
                seen = watch(lake.table(bench.loop, "examples"), worker, live)
                wrote = live.result()
            spent_s = worker.usage().cpu_s - start_s
        logs = {name: _log(lake, bench, name) for name in LOGS}
    spans = JoinRules.of(bench).spans()
    whole, own = delays(seen, logs, spans), delays(seen, logs, spans, whole=False)
    say(
        f"close to example: {wrote['events'] / seconds:,.0f} events/s, at most "
        f"{wrote['behind_s']:.3f} s behind; {len(whole):,} examples seen"
    )
    return {
        "p50": float(np.quantile(whole, 0.5)),
        "p99": float(np.quantile(whole, 0.99)),
        "own_p50": float(np.quantile(own, 0.5)),
        "own_p99": float(np.quantile(own, 0.99)),
        "events_per_second": wrote["events"] / seconds,
        "cpu_s_per_million": spent_s / wrote["events"] * 1e6,
    }


def watch(table: Table, worker: Measured, live: Measured) -> pl.DataFrame:
    """Read every commit of *table* as it comes, until a while after *live* has ended.

    Returns:
        A row an example: `partition`, `at` and `readable_at`.

    Raises:
        RuntimeError: *worker* has ended, or there was no example.
    """
    parts, version, ends_s = [], table.version(), float("inf")
    while time.monotonic() < ends_s:
        for commit in table.commits_since(version):
            version = commit.version
            rows = table.rows(commit).select("partition", "at")
            now = pl.lit(time.time_ns() // 1000).cast(pl.Datetime("us", "UTC"))
            parts.append(rows.with_columns(now.alias("readable_at")))
        if worker.process.poll() is not None:
            raise RuntimeError(f"the worker ended with {worker.process.returncode}")
        if live.process.poll() is not None and ends_s == float("inf"):
            ends_s = time.monotonic() + TAIL_S
        time.sleep(POLL_S)
    if not parts:
        raise RuntimeError("there was no example; the traffic was shorter than its windows")
    return pl.concat(parts)


def _log(lake: Lake, bench: Loop, name: str) -> pl.DataFrame:
    """Return event time and broker's time of every record of a log, in its order."""
    columns = ["partition", "offset", "at", "ingested_at"]
    return lake.table(bench.loop, name).read(columns).sort("partition", "offset")


def delays(
    seen: pl.DataFrame, logs: Mapping[str, pl.DataFrame], spans: Spans, *, whole: bool = True
) -> npt.NDArray[np.float64]:
    """Return the seconds from close to reader of each example that a record has closed.

    Args:
        seen: `partition`, `at`, `readable_at` of examples.
        logs: `partition`, `at`, `ingested_at` of the records of each log, in order.
        spans: the lengths of the join.
        whole: from the close of the whole bucket, else from the close of each window.
    """
    found = []
    for (partition,), examples in seen.group_by("partition"):
        at = examples["at"].to_physical().to_numpy()
        until = (at // spans.bucket + 1) * spans.bucket if whole else at + 1
        passed = np.maximum.reduce(
            [
                _passed(log.filter(pl.col("partition") == partition), until + spans.close)
                for log in logs.values()
            ]
        )
        readable = examples["readable_at"].to_physical().to_numpy()
        found.append((readable - passed)[passed < _NEVER] / 1e6)
    return np.concatenate(found)


_NEVER = 2**62


def _passed(log: pl.DataFrame, times: Int64s) -> Int64s:
    """Return when the stream time of *log* reached each of *times*, or `_NEVER`."""
    reached = np.maximum.accumulate(log["at"].to_physical().to_numpy())
    arrived = np.append(log["ingested_at"].to_physical().to_numpy(), _NEVER)
    return np.asarray(arrived[np.searchsorted(reached, times, side="left")], np.int64)
