"""`tidemill audit`."""

import os
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.options import AsJson, FromTime, OneLoop, ToTime

if TYPE_CHECKING:
    from tidemill.features.audit.audit import Effort
    from tidemill.features.audit.report import AuditReport
    from tidemill.features.lake.lake import Lake


def audit(
    loop: OneLoop = None,
    since: FromTime = None,
    until: ToTime = None,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, help="Most differences to print.")] = 20,
    memory_mb: Annotated[int, typer.Option(min=64, help="Most memory for the query.")] = 1_024,
    threads: Annotated[
        int | None, typer.Option(help="Threads; one for each core by default.")
    ] = None,
) -> int:
    """Compute all closed windows anew, and compare them with what the stream wrote.

    One DuckDB query, made from the loop, computes the outcome of every record. Exit 1 if the lake
    differs from it. Workers may go on meanwhile. Where a loop has `rekey: true`, late feedback is
    also compared with the topics that it was produced to, if KAFKA_BOOTSTRAP_SERVERS is set.
    """
    from tidemill.cli.lakes import chosen_loops, open_lake
    from tidemill.cli.tables.audit import print_audits
    from tidemill.cli.terminal import progress_bar
    from tidemill.cli.times import event_span
    from tidemill.features.audit.audit import Effort, audit
    from tidemill.features.lake.damage import damage_told

    first, end = event_span(since, until)
    lake = open_lake()
    effort = Effort(memory_mb=memory_mb, threads=threads, shown=limit)
    reports = []
    for name in chosen_loops(lake, loop):
        with progress_bar(f"audit of {name}") as on_step, damage_told(lake, name):
            report = audit(lake, name, since=first, until=end, effort=effort, on_step=on_step)
        reports.append(_with_sources(report, lake, (first, end), effort))
    print_audits(reports, as_json=as_json)
    return 0 if all(report.agrees for report in reports) else 1


def _with_sources(
    report: "AuditReport",
    lake: "Lake",
    bounds: tuple[datetime | None, datetime | None],
    effort: "Effort",
) -> "AuditReport":
    """Compare re-keyed feedback with the logs that it came from, if a broker is named."""
    from tidemill.features.audit.rekeyed import read_source_orders, with_source_orders
    from tidemill.kafka import KafkaConfig

    loop = lake.definitions(report.loop)[-1]
    if not loop.rekey:
        return report
    if "KAFKA_BOOTSTRAP_SERVERS" not in os.environ:
        why = "the logs that feedback was re-keyed from: KAFKA_BOOTSTRAP_SERVERS is not set"
        return replace(report, unchecked=(*report.unchecked, why))
    orders = read_source_orders(KafkaConfig.from_env(os.environ), loop)
    return with_source_orders(
        report,
        lake,
        orders,
        since=bounds[0],
        until=bounds[1],
        memory_mb=effort.memory_mb,
        shown=effort.shown,
    )
