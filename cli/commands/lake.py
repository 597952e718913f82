"""`tidemill sql`, `ledger`, `audit`, and `tidemill lake compact`, `repair` and `accept-topic`."""

import os
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.options import AsJson, FromTime, LoopName, OneLoop, ToTime
from tidemill.cli.terminal import print_text

if TYPE_CHECKING:
    from tidemill.features.audit.audit import Effort
    from tidemill.features.audit.report import AuditReport
    from tidemill.features.lake.lake import Lake


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over the views of the lake.")],
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, help="Most rows to print.")] = 100,
) -> None:
    """Query the lake in SQL.

    The views of loop `flight-delay` are in schema flight_delay: decisions, feedback, examples,
    decision_states and feedback_states, and items if its requests bring some; with one loop in the
    lake the schema may be left out.
    """
    from tidemill.cli.lakes import open_lake
    from tidemill.cli.tables.answers import print_answer
    from tidemill.features.lake.damage import damage_told
    from tidemill.features.sql.queries import ask

    lake = open_lake()
    with damage_told(lake):
        answer = ask(lake, query, limit=limit)
    print_answer(answer, as_json=as_json)


def ledger(loop: OneLoop = None, as_json: AsJson = False) -> int:
    """Show that each record read has ended or is open; exit 1 if one is not accounted for.

    With KAFKA_BOOTSTRAP_SERVERS set, records that no worker has read yet are shown as unread, and
    exit 1 tells of those that none will read: of partitions and topics that the loop does not have.
    Exit 3 if Kafka or the lake could not be read.
    """
    from tidemill.cli.lakes import chosen_loops, open_lake
    from tidemill.cli.tables.answers import print_ledger
    from tidemill.features.lake.damage import damage_told
    from tidemill.kafka import KafkaConfig
    from tidemill.monitor.lag.log_ends import broker_logs
    from tidemill.monitor.ledger import Account, is_balanced, ledger
    from tidemill.monitor.not_counted import KAFKA_NOT_COUNTED, left_out

    lake = open_lake()
    kafka = KafkaConfig.from_env(os.environ) if "KAFKA_BOOTSTRAP_SERVERS" in os.environ else None
    accounts: list[Account] = []
    not_counted = [] if kafka else [KAFKA_NOT_COUNTED]
    for name in chosen_loops(lake, loop):
        defined = lake.loop(name)
        logs = broker_logs(kafka, defined) if kafka else None
        with damage_told(lake, name):
            accounts += ledger(lake, defined, ends=logs.ends if logs else None)
        not_counted += left_out(defined, logs.unread if logs else {})
    print_ledger(accounts, not_counted, as_json=as_json)
    return 0 if is_balanced(accounts) and not any(each.records for each in not_counted) else 1


def compact(loop: OneLoop = None) -> None:
    """Merge the small files of each day, and remove the files that no reader needs any more."""
    from tidemill.cli.lakes import chosen_loops, open_lake
    from tidemill.features.lake.compaction import compact

    lake = open_lake()
    for name in chosen_loops(lake, loop):
        for done in compact(lake, name):
            print_text(
                f"{name}/{done.table}: {done.merged} files merged to {done.made},"
                f" {done.removed} old files removed"
            )


def repair(
    loop: LoopName,
    partitions: Annotated[
        list[int] | None,
        typer.Option("--partition", min=0, help="Repair this partition only; may be repeated."),
    ] = None,
    first: Annotated[
        int, typer.Option("--from", min=0, help="The first offset whose row is made again.")
    ] = 0,
    last: Annotated[
        int | None, typer.Option("--to", min=0, help="The last offset whose row is made again.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put the rows that a lake has lost back into it, from the topics.

    Exactly the missing rows are made, by the version of the loop that had made them: decisions and
    feedback are read again, examples follow from them. Workers may run. It refuses if Kafka no
    longer has the records. --from and --to are about the offsets of decisions and feedback.
    """
    from tidemill.cli.tables.reprocess import print_repair
    from tidemill.deploy.reprocess.repair import run_repair
    from tidemill.schemas.logs import OFFSETS
    from tidemill.streams.reprocess.lost_rows import RepairLimits
    from tidemill.streams.runtime.worker import StreamsWorkerConfig

    behind = OFFSETS if last is None else last + 1
    limits = RepairLimits(partitions=partitions, first=first, behind=behind)
    worker = StreamsWorkerConfig.from_env(os.environ, [loop])
    print_repair(run_repair(worker, loop, limits), as_json=as_json)


def accept_topic(loop: LoopName) -> None:
    """Go on with topics that were made anew and restored with their offsets, say from a copy.

    A worker refuses a topic that is not the one its lake has read, as Kafka's ids tell. Afterwards
    it goes on behind the offset up to which the lake has read; earlier records are not read again.
    """
    from tidemill.cli.lakes import open_lake
    from tidemill.kafka import KafkaConfig
    from tidemill.streams.reprocess.accept_topic import accept_topics

    lake = open_lake()
    accepted = accept_topics(KafkaConfig.from_env(os.environ), lake, lake.loop(loop))
    for topic in accepted:
        read = ", ".join(f"partition {number}: {offset}" for number, offset in topic.read.items())
        typer.echo(f"{topic.topic} has id {topic.id}; it counts as read up to {read}")
    if not accepted:
        typer.echo(f"the topics of {loop} are those that the lake has read")


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
