"""`tidemill audit`: parse, call one function, print.

The command imports its room when it runs, so that `tidemill --help` loads none of them.
"""

import os
from typing import Annotated

import typer


def audit(
    loop: Annotated[str | None, typer.Argument(help="One loop; all by default.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="Event time of the first decision to compare.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="Event time that those to compare are before.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most differences to name.")] = 20,
    memory_mb: Annotated[int, typer.Option(min=64, help="Most memory for the query.")] = 1_024,
    threads: Annotated[int | None, typer.Option(help="Threads; one a core by default.")] = None,
) -> int:
    """Compute all closed windows anew, and compare them with what the stream wrote.

    One DuckDB query, made from the loop, says what must have become of every record. Exit 1 if the
    lake says anything else. Workers may go on meanwhile.
    """
    from tidemill.cli.commands.lake import loops_of
    from tidemill.cli.tables.audit import audit_progress, print_audits
    from tidemill.cli.times import event_span
    from tidemill.features.audit.audit import Effort, audit
    from tidemill.features.lake.lake import Lake, LakeConfig

    first, behind = event_span(since, until)
    lake = Lake(LakeConfig.from_env(os.environ))
    effort = Effort(memory_mb=memory_mb, threads=threads, shown=limit)
    reports = []
    for name in [loop] if loop is not None else loops_of(lake):
        with audit_progress(name) as on_step:
            reports.append(
                audit(
                    lake,
                    name,
                    since=first,
                    until=behind,
                    effort=effort,
                    on_step=on_step,
                )
            )
    print_audits(reports, as_json=as_json)
    return 0 if all(report.agrees for report in reports) else 1
