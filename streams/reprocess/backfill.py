"""Backfill: examples made again from the raw tables, by another window or label.

`plan` decides once what belongs to it and cuts it into slices of event time; `run_slice` joins one
of them (`slices.py`) and commits it. Slices need nothing of each other, so any number of processes
may work on them.

Delivery: exactly once. The examples of a slice, and that it is done, are one commit, which is
refused if another process has done it. A crash before it repeats the slice; after it, nothing.
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

SLICE_ROWS = 200_000  # decisions; with 16 features and their feedback some 0.5 GB a process
_FEWEST_ROWS = 20_000  # below, opening the tables costs more than the join
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
    """Return what a backfill of the decisions in [*since*, *until*) by *loop* is to contain.

    It is of the raw rows that are in the lake now. *processes* is a hint for how many slices to
    cut, each of about *slice_rows* decisions at most.

    Raises:
        ContractError: the raw tables do not hold what *loop* reads.
        RequestError: there is no decision in that time.
        LakeError: the lake cannot be read.
    """
    _check(lake, loop)
    ends, frontiers = _reach(lake, loop)
    counts = _counts(lake, loop, since, until)
    if counts.is_empty():
        raise RequestError(
            f"{loop.loop} has no decisions between {since or 'the first'} and {until or 'now'}",
            hint='see what there is: tidemill sql "select min("at"), max("at") from decisions"',
        )
    share = int(counts["rows"].sum()) // (processes * _SLICES_A_PROCESS)
    cuts = _cuts(counts, min(slice_rows, max(share, _FEWEST_ROWS)))
    cuts[0] = since or cuts[0]
    cuts[-1] = until or cuts[-1]
    return Backfill(
        name=name,
        loop=loop,
        since=since,
        until=until,
        ends=ends,
        frontiers=frontiers,
        cuts=cuts,
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
    counts = _told(result)
    rows = result.examples.with_columns(pl.lit(topics.decisions(loop.loop)).alias("topic"))
    table = lake.table(loop.loop, table_name(backfill.name))
    try:
        table.append(rows if len(rows) else None, swaps=slice_swaps(number, counts))
    except FencedError:
        return {}
    return counts


def _told(result: SliceResult) -> dict[str, int]:
    return {
        "examples": len(result.examples),
        "late": result.late,
        "duplicate": result.duplicate,
        "open": result.open,
    }


def _check(lake: Lake, loop: Loop) -> None:
    """Refuse a definition that reads what the raw tables do not have."""
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
            hint=f"take the streams that there are: its logs are {', '.join(live.logs)}",
        )
    _check_all_logs(loop, live)
    for name in (DECISIONS, FEEDBACK):
        missing_fields(name, lake.table(loop.loop, name).schema, layouts(loop)[name])


def _check_all_logs(loop: Loop, live: Loop) -> None:
    """Refuse a definition that leaves out a log of *live*: what came by it would not count."""
    left_out = [log for log in live.logs if log not in loop.logs]
    if left_out:
        log = left_out[0]
        stream = stream_of(log)
        kinds = ", ".join(name for name, kind in live.feedback.items() if kind.log == log)
        said = "no stream" if stream is None else f"stream: {stream}"
        raise ContractError(
            f"this definition of {loop.loop} has no log {log}: the feedback there would not count",
            hint=f"give a kind {said}, as the live loop has it for {kinds}; a kind counts by any",
        )


def _reach(lake: Lake, loop: Loop) -> tuple[dict[Log, dict[int, int]], dict[int, int]]:
    """Return where the logs end in the lake, and up to which time windows are whole there.

    What closed last may have moved the time of a log on without a row: `examples` tells.
    """
    partitions = range(loop.partitions)
    ids = [join_time(log).key(number) for log in loop.logs for number in partitions]
    closed = lake.table(loop.loop, EXAMPLES).progress(ids)
    ends: dict[Log, dict[int, int]] = {}
    times: dict[Log, dict[int, int | None]] = {}
    for log in loop.logs:
        offset, time = OFFSET.for_log(log), STREAM_TIME.for_log(log)
        ids = [name.key(number) for name in (offset, time) for number in partitions]
        found = lake.table(loop.loop, table_of(log)).progress(ids)
        ends[log] = {number: found[offset.key(number)] or 0 for number in partitions}
        times[log] = {
            number: _latest(found[time.key(number)], closed[join_time(log).key(number)])
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


def _cuts(counts: pl.DataFrame, rows: int) -> list[datetime]:
    """Return bounds of slices that hold about *rows* decisions each."""
    cuts: list[datetime] = []
    held = rows
    for at, count in counts.iter_rows():
        if held + count > rows:
            cuts.append(at)
            held = 0
        held += count
    return [*cuts, counts["at"][-1] + _STEP]
