"""Fills a lake like a worker does, without a broker, from the events of `workload.py` in columns.

The join and the commits are those of the worker; only decoding is left out.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl

from benchmarks.workload import COUNTRIES, DEVICES, EVERY, FLOATS, START, WITHIN
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import TABLES
from tidemill.features.lake.progress_keys import FRONTIER, join_time
from tidemill.schemas import topics
from tidemill.schemas.events.schemas import (
    CIRCUMSTANCES,
    decision_frame_schema,
    feedback_frame_schema,
)
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.commit.leases import Lease, claim
from tidemill.streams.commit.progress_commit import ProgressUpdate, commit, raw_numbers
from tidemill.streams.join.partition_join import PartitionJoin
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import micros

_AT_ONCE = 100_000
_TIME = pl.Datetime("us", "UTC")


def fill(lake: Lake, bench: Loop, decisions: int, *, at_once: int = _AT_ONCE) -> None:
    """Write *decisions* of the workload, their clicks, and the examples of all closed windows."""
    lake.create(bench)
    tables = {name: lake.table(bench.loop, name) for name in TABLES}
    leases = claim(tables, range(bench.partitions))
    joins = {number: PartitionJoin(JoinRules.of(bench)) for number in leases}
    offsets = {(log, number): 0 for log in bench.logs for number in leases}
    for frames in _events(bench, decisions, at_once):
        for log in bench.logs:
            updates = []
            for number, lease in leases.items():
                rows = frames[log].filter(pl.col("partition") == number)
                update = _raw_update(joins[number], lease, log, rows, offsets[log, number], bench)
                offsets[log, number] += len(rows)
                updates.append(update)
            commit(log, tables[log], updates)
        closed = [_examples_update(joins[number], lease, bench) for number, lease in leases.items()]
        commit("examples", tables["examples"], [update for update in closed if update is not None])


def _raw_update(
    join: PartitionJoin, lease: Lease, log: Log, rows: pl.DataFrame, offset: int, bench: Loop
) -> ProgressUpdate:
    positioned = rows.with_columns(
        pl.int_range(offset, offset + pl.len(), dtype=pl.Int64).alias("offset"),
        pl.col("at").alias("ingested_at"),
    )
    judged = (
        join.take_decisions(positioned) if log == "decisions" else join.take_feedback(positioned)
    )
    topic = topics.decisions(bench.loop) if log == "decisions" else topics.feedback(bench.loop)
    time = join.stream_time(log)
    numbers = raw_numbers(offset + len(rows), None if time is None else micros(time), 0)
    return ProgressUpdate(lease, [judged.with_columns(pl.lit(topic).alias("topic"))], numbers)


def _examples_update(join: PartitionJoin, lease: Lease, bench: Loop) -> ProgressUpdate | None:
    closed = join.close()
    if closed is None:
        return None
    times: dict[str, int] = {
        join_time(log): micros(time) for log, time in closed.stream_times.items()
    }
    numbers: dict[str, int] = {FRONTIER: micros(closed.frontier), **times}
    examples = closed.examples.with_columns(
        pl.lit(topics.decisions(bench.loop)).alias("topic"),
        pl.lit(lease.partition, pl.Int32).alias("partition"),
    )
    return ProgressUpdate(lease, [examples], numbers)


def _events(bench: Loop, decisions: int, at_once: int) -> Iterator[Mapping[Log, pl.DataFrame]]:
    """Yield both logs in portions of time, with partitions; every second decision has a click."""
    clicks = _clicks(bench, decisions)
    for first in range(0, decisions, at_once):
        last = min(first + at_once, decisions)
        until = START + last * EVERY if last < decisions else START + 2 * decisions * EVERY + WITHIN
        since = START + first * EVERY
        in_time = pl.col("at").is_between(since, until, closed="left")
        yield {DECISIONS: _decisions(bench, first, last), FEEDBACK: clicks.filter(in_time)}


def _decisions(bench: Loop, first: int, last: int) -> pl.DataFrame:
    number = np.arange(first, last)
    chance = np.random.default_rng(first)
    features = pl.DataFrame(
        {
            **{name: chance.random(len(number)) for name in FLOATS},
            "visits": number % 97,
            "hour": number // 3600 % 24,
            "country": pl.Series(COUNTRIES).gather(number % 50),
            "device": pl.Series(DEVICES).gather(number % 5),
            "returning": number % 3 == 0,
        }
    )
    frame = pl.DataFrame(
        {
            **_ids("id", number),
            "at": _times(number * micros(EVERY)),
            "entity": pl.Series(number % 9973).cast(pl.String),
            "features": features.to_struct(),
        }
    ).with_columns(
        pl.lit(False).alias("action"),
        pl.lit(0.25).alias("score"),
        pl.lit(1.0).alias("propensity"),
        pl.lit("model").alias("source"),
        pl.lit("lightgbm-7").alias("model_version"),
        pl.lit(1).alias("policy_version"),
        pl.lit(1).alias("loop_version"),
        *(pl.lit(None).alias(name) for name in CIRCUMSTANCES),
    )
    return _fitted(frame, decision_frame_schema(bench), number, bench)


def _clicks(bench: Loop, decisions: int) -> pl.DataFrame:
    number = np.arange(1, decisions, 2)
    delay = np.random.default_rng(7).random(len(number)) * micros(WITHIN)
    frame = pl.DataFrame(
        {
            "id": pl.Series(number).cast(pl.String),
            **_ids("decision_id", number),
            "at": _times(number * micros(EVERY) + delay.astype(np.int64)),
            "values": pl.DataFrame({"amount": np.full(len(number), 9.5)}).to_struct(),
        }
    ).with_columns(pl.lit("click").alias("kind"))
    return _fitted(frame, feedback_frame_schema(bench), number, bench).sort("at")


def _ids(name: str, number: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> dict[str, pl.Series]:
    return {name: (pl.Series(name, number) * 2654435761 % 2**32).cast(pl.String).str.zfill(32)}


def _times(after_us: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> pl.Series:
    return pl.Series(after_us + micros(START)).cast(_TIME)


def _fitted(
    frame: pl.DataFrame,
    schema: pl.Schema,
    number: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    bench: Loop,
) -> pl.DataFrame:
    partition = pl.Series("partition", number // 2 % bench.partitions, dtype=pl.Int32)
    return frame.select(pl.col(name).cast(kind) for name, kind in schema.items()).with_columns(
        partition
    )
