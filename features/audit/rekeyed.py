"""Compares re-keyed feedback with the logs that it came from.

The other checks of an audit take the internal topic for the log of the feedback. But a record may
be late there although it was on time where it was produced: if re-keying wrote it behind a record
that the broker had appended later. So the header `source` of each record is followed to its own
log, and feedback that is late is judged again in the order in which the brokers appended.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from tidemill.features.audit.fragments import span_sql
from tidemill.features.audit.report import AuditReport, Difference, by_time
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS, FEEDBACK
from tidemill.features.sql.bounded import bounded_duckdb
from tidemill.features.sql.views import source
from tidemill.kafka import KafkaConfig, Record, Tail
from tidemill.schemas import topics
from tidemill.schemas.logs import Log, first_position, is_feedback, offset_of, stream_of, topic_of
from tidemill.schemas.loop.definition import Loop

SOURCE = "source"
"""The header of a re-keyed record: the topic, partition and offset that it came from."""

_REKEYED = {
    "partition": pl.Int32,
    "position": pl.Int64,
    "source_partition": pl.Int32,
    "source_offset": pl.Int64,
}
_SOURCE = {"source_partition": pl.Int32, "source_offset": pl.Int64, "appended_ms": pl.Int64}


@dataclass(frozen=True, slots=True)
class SourceOrder:
    """When the brokers appended the records of one log of re-keyed feedback.

    Attributes:
        log: the log.
        records: columns partition, position, appended_ms; only records that Kafka still has in both
            topics.
    """

    log: Log
    records: pl.DataFrame


def read_source_orders(kafka: KafkaConfig, loop: Loop) -> list[SourceOrder]:
    """Return the order of each log of feedback of *loop*, which has `rekey: true`.

    Raises:
        BrokerError: a topic cannot be read.
    """
    return [_read(kafka, loop, log) for log in loop.logs if is_feedback(log)]


def _read(kafka: KafkaConfig, loop: Loop, log: Log) -> SourceOrder:
    first = first_position(log)
    rekeyed = pl.DataFrame(
        [
            (record.partition, first + record.offset, int(partition), int(offset))
            for record in _records(kafka, topics.rekeyed(loop.loop, stream_of(log)))
            for _topic, partition, offset in [dict(record.headers)[SOURCE].split(b"/")]
        ],
        schema=_REKEYED,
        orient="row",
    )
    appended = pl.DataFrame(
        [
            (record.partition, record.offset, record.timestamp_ms)
            for record in _records(kafka, topic_of(loop.loop, log))
        ],
        schema=_SOURCE,
        orient="row",
    )
    records = rekeyed.join(appended, on=["source_partition", "source_offset"])
    return SourceOrder(log, records.select("partition", "position", "appended_ms"))


def _records(kafka: KafkaConfig, topic: str) -> Iterable[Record]:
    tail = Tail(kafka, topic)
    try:
        while not tail.caught_up:
            yield from tail.poll(1.0)
    finally:
        tail.close()


def with_source_orders(
    report: AuditReport,
    lake: Lake,
    orders: Iterable[SourceOrder],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    memory_mb: int = 1_024,
    shown: int = 20,
) -> AuditReport:
    """Add to *report* the feedback that is late only because of the *orders* of re-keying.

    Records that were appended in the same millisecond count as earlier, in doubt.

    Raises:
        LakeError: the lake cannot be read.
    """
    definitions = lake.definitions(report.loop)
    found = [
        difference
        for order in orders
        for difference in _made_late(lake, definitions, order, (since, until), memory_mb)
    ]
    first = sorted([*report.first, *found], key=by_time)[:shown]
    return replace(report, differences=report.differences + len(found), first=tuple(first))


def _made_late(
    lake: Lake,
    definitions: Sequence[Loop],
    order: SourceOrder,
    bounds: tuple[datetime | None, datetime | None],
    memory_mb: int,
) -> list[Difference]:
    loop = definitions[-1]
    with bounded_duckdb(f"the audit of {loop.loop}", memory_mb=memory_mb) as connection:
        connection.register("source_order", order.records.to_arrow())
        decisions, feedback = (
            source(connection, lake.table(loop.loop, table)).sql for table in (DECISIONS, FEEDBACK)
        )
        query = _made_late_sql(definitions, decisions, feedback)
        given = dict(zip(("since", "until"), bounds, strict=True))
        rows = connection.execute(query, given).fetchall()
    return [
        Difference(
            log=FEEDBACK,
            stream=stream_of(order.log),
            partition=partition,
            offset=offset_of(position),
            id=id_,
            at=at,
            columns={"source_order": (f"late, behind {before}", f"on time, behind {in_order}")},
        )
        for partition, position, id_, at, before, in_order in rows
    ]


def _made_late_sql(definitions: Sequence[Loop], decisions: str, feedback: str) -> str:
    """Return a query for late feedback that the order of its source logs would have on time.

    ``before`` is the stream time that its log had, ``in_order`` the one that it would have had. It
    is late by the rules of each of *definitions*, and on time by each.
    """
    windows = ", ".join(
        f"('{name}', {span_sql(kind.early)}, {span_sql(kind.within)})"
        for name, kind in definitions[-1].feedback.items()
    )
    waits = [loop.wait + loop.grace for loop in definitions]
    longest, shortest = span_sql(max(waits)), span_sql(min(waits))
    return f"""
        WITH windows(kind, early, within) AS (VALUES {windows}),
        f AS (
            SELECT r.*, max(r."at") OVER (
                PARTITION BY r."partition" ORDER BY r."offset"
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS before, max(r."at") OVER (
                PARTITION BY r."partition" ORDER BY o.appended_ms
                RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS in_order
            FROM {feedback} r JOIN source_order o
              ON o."partition" = r."partition" AND o.position = r."offset")
        SELECT f."partition", f."offset", f.id, f."at", f.before, f.in_order
        FROM f JOIN windows USING (kind) JOIN {decisions} d
          ON d."partition" = f."partition" AND d.id = f.decision_id AND d.verdict IS NULL
        WHERE f."at" BETWEEN d."at" - early AND d."at" + within
          AND f.before > d."at" + {longest} AND f.in_order <= d."at" + {shortest}
          AND coalesce(f."at" >= $since, true) AND coalesce(f."at" < $until, true)
        ORDER BY f."at", f."partition", f."offset" """
