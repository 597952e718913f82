"""Backfill: examples made again from the raw tables, with other windows or another label.

`plan` decides once which rows belong to it, and divides them into slices of event time.
`run_slice` joins one slice (`slices.py`) and commits it. Slices are independent, so any number of
processes may work on them.

Delivery: exactly once. One commit has the examples of a slice and the record that it is done; it is
refused if another process was first. A crash before the commit repeats the slice, a crash after it
repeats nothing.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import polars as pl

from tidemill.errors import ContractError, FencedError, RequestError
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import (
    DECISIONS,
    EXAMPLES,
    FEEDBACK,
    layouts,
    missing_fields,
    table_of,
)
from tidemill.features.lake.progress_keys import OFFSET, STREAM_TIME, join_time
from tidemill.features.sql.backfills import Backfill, slice_swaps, table_name
from tidemill.schemas import topics
from tidemill.schemas.logs import Log, stream_of
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.join.idleness import frontier_at
from tidemill.streams.join.labels import Labels
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.reprocess.slices import RawLogs, SliceResult, join_slice
from tidemill.streams.units import moment

SLICE_ROWS = 200_000  # decisions; with 16 features and feedback some 0.5 GB in each process
_FEWEST_ROWS = 20_000  # with fewer, opening the tables takes longer than the join
_SLICES_A_PROCESS = 4  # so that one slow slice does not leave the other cores without work
_STEP = timedelta(minutes=1)


def plan(
    lake: Lake,
    loop: Loop,
    name: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    processes: int = 1,
    slice_rows: int = SLICE_ROWS,
) -> Backfill:
    """Return the plan of a backfill of the decisions in [*since*, *until*) by *loop*.

    It covers the raw rows that are in the lake now. The number of slices depends on *processes*;
    each has about *slice_rows* decisions at most.

    Raises:
        ContractError: the raw tables do not have the fields or logs that *loop* reads.
        RequestError: there is no decision in that time.
        LakeError: the lake cannot be read.
    """
    _check(lake, loop)
    ends, frontiers = _ends_and_frontiers(lake, loop)
    counts = _counts(lake, loop, since, until)
    if counts.is_empty():
        raise RequestError(
            f"{loop.loop} has no decisions between {since or 'the first'} and {until or 'now'}",
            hint='see what there is: tidemill sql "select min("at"), max("at") from decisions"',
        )
    share = int(counts["rows"].sum()) // (processes * _SLICES_A_PROCESS)
    bounds = _bounds(counts, min(slice_rows, max(share, _FEWEST_ROWS)))
    bounds[0] = since or bounds[0]
    bounds[-1] = until or bounds[-1]
    return Backfill(
        name=name,
        loop=loop,
        since=since,
        until=until,
        ends=ends,
        frontiers=frontiers,
        cuts=bounds,
    )


def run_slice(
    lake: Lake, backfill: Backfill, number: int, *, labels: Labels | None = None
) -> Mapping[str, int]:
    """Join one slice and commit it; return its counts, or none if another process has done it.

    Raises:
        LakeError: the lake cannot be read or written.
    """
    loop = backfill.loop
    rules = JoinRules.of(loop)
    raw = RawLogs(
        decisions=lake.table(loop.loop, DECISIONS).scan(),
        feedback=lake.table(loop.loop, FEEDBACK).scan(),
        ends=backfill.ends,
        frontiers=backfill.frontiers,
    )
    result = join_slice(rules, raw, *backfill.bounds(number), labels=labels)
    counts = _slice_counts(result)
    rows = result.examples.with_columns(pl.lit(topics.decisions(loop.loop)).alias("topic"))
    table = lake.table(loop.loop, table_name(backfill.name))
    try:
        table.append(rows if len(rows) else None, swaps=slice_swaps(number, counts))
    except FencedError:
        return {}
    return counts


def _slice_counts(result: SliceResult) -> dict[str, int]:
    return {
        "examples": len(result.examples),
        "late": result.late,
        "duplicate": result.duplicate,
        "open": result.open,
    }


def _check(lake: Lake, loop: Loop) -> None:
    """Raise an error if *loop* reads fields or logs that the raw tables do not have."""
    live = lake.loop(loop.loop)
    if loop.partitions != live.partitions:
        raise ContractError(
            f"{loop.loop} has {live.partitions} partitions, not {loop.partitions}",
            hint=f"write partitions: {live.partitions}; the rows of the lake are bound to them",
        )
    unknown = [log for log in loop.logs if log not in live.logs]
    if unknown:
        raise ContractError(
            f"{loop.loop} has no log {unknown[0]}, so no window of this definition is ever whole",
            hint=f"use the streams that exist: its logs are {', '.join(live.logs)}",
        )
    _check_all_logs(loop, live)
    for name in (DECISIONS, FEEDBACK):
        missing_fields(name, lake.table(loop.loop, name).schema, layouts(loop)[name])


def _check_all_logs(loop: Loop, live: Loop) -> None:
    """Raise an error if *loop* leaves out a log of *live*, whose feedback would not count."""
    left_out = [log for log in live.logs if log not in loop.logs]
    if left_out:
        log = left_out[0]
        stream = stream_of(log)
        kinds = ", ".join(name for name, kind in live.feedback.items() if kind.log == log)
        setting = "no stream" if stream is None else f"stream: {stream}"
        raise ContractError(
            f"this definition of {loop.loop} has no log {log}: the feedback there would not count",
            hint=f"give a kind {setting}, as the live loop does for {kinds}; any stream will do",
        )


def _ends_and_frontiers(lake: Lake, loop: Loop) -> tuple[dict[Log, dict[int, int]], dict[int, int]]:
    """Return the ends of the logs in the lake, and the frontier of complete windows there.

    An idle advance may have closed windows without a row; the numbers of `examples` include it.
    """
    partitions = range(loop.partitions)
    ids = [join_time(log).key(number) for log in loop.logs for number in partitions]
    closed = lake.table(loop.loop, EXAMPLES).progress(ids)
    ends: dict[Log, dict[int, int]] = {}
    times: dict[Log, dict[int, int | None]] = {}
    for log in loop.logs:
        offset, time = OFFSET.for_log(log), STREAM_TIME.for_log(log)
        ids = [name.key(number) for name in (offset, time) for number in partitions]
        raw = lake.table(loop.loop, table_of(log)).progress(ids)
        ends[log] = {number: raw[offset.key(number)] or 0 for number in partitions}
        times[log] = {
            number: _latest(raw[time.key(number)], closed[join_time(log).key(number)])
            for number in partitions
        }
    frontiers = {}
    rules = JoinRules.of(loop)
    for number in partitions:
        reached = [times[log][number] for log in loop.logs]
        known = [time for time in reached if time is not None]
        if len(known) == len(reached):
            frontiers[number] = frontier_at(rules, moment(min(known)))
    return ends, frontiers


def _latest(*times: int | None) -> int | None:
    return max((time for time in times if time is not None), default=None)


def _counts(lake: Lake, loop: Loop, since: datetime | None, until: datetime | None) -> pl.DataFrame:
    """Return how many decisions were made in each minute that has any, in order of time."""
    rows = lake.table(loop.loop, DECISIONS).scan()
    at, day = pl.col("at"), pl.col("event_date")
    if since is not None:
        rows = rows.filter((at >= since) & (day >= since.astimezone(UTC).date()))
    if until is not None:
        rows = rows.filter((at < until) & (day <= until.astimezone(UTC).date()))
    counted = rows.group_by(at.dt.truncate(_STEP)).agg(pl.len().alias("rows")).sort("at")
    return counted.collect(engine="streaming")


def _bounds(counts: pl.DataFrame, rows: int) -> list[datetime]:
    """Return the bounds of slices with about *rows* decisions each."""
    bounds: list[datetime] = []
    in_slice = rows
    for at, count in counts.iter_rows():
        if in_slice + count > rows:
            bounds.append(at)
            in_slice = 0
        in_slice += count
    return [*bounds, counts["at"][-1] + _STEP]
