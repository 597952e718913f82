"""`tidemill audit`."""

from typing import Annotated

import typer

from tidemill.cli.options import AsJson, FromTime, OneLoop, ToTime


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
    differs from it. Workers may go on meanwhile.
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
        reports.append(report)
    print_audits(reports, as_json=as_json)
    return 0 if all(report.agrees for report in reports) else 1
