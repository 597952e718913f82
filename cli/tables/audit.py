"""Audits on a terminal, or as JSON for a program. It prints and does nothing else."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tidemill.features.audit.audit import OnStep
from tidemill.features.audit.report import AuditReport


@contextmanager
def audit_progress(loop_name: str) -> Iterator[OnStep]:
    """Show the steps of one audit on stderr while it runs, if that is a terminal."""
    console = Console(stderr=True)
    with Progress(
        TextColumn(f"audit of {loop_name}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("audit", total=None)
        yield lambda done, steps: bar.update(task, completed=done, total=steps)


def print_audits(reports: Sequence[AuditReport], *, as_json: bool) -> None:
    """Print what audits found, a row a loop, then each difference and what to do about the first.

    The difference named first is the first of its loop.
    """
    if as_json:
        agree = all(report.agrees for report in reports)
        print(json.dumps({"agrees": agree, "audits": [report.to_json() for report in reports]}))
        return
    console = Console()
    console.print(_summary(reports))
    for report in reports:
        if report.agrees:
            console.print(f"{report.loop}: the stream wrote what its logs mean")
            continue
        console.print(_differences(report))
        first = report.first[0]
        console.print(f"[bold red]{report.loop}: the first difference[/]")
        console.print(f"  {first}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"  hint: {first.hint}", markup=False, highlight=False, soft_wrap=True)


def _summary(reports: Sequence[AuditReport]) -> Table:
    table = Table("loop", "versions")
    for name in ("records", "decisions", "feedback", "differences", "seconds"):
        table.add_column(name, justify="right")
    for report in reports:
        versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
        numbers = (report.records, report.decisions, report.feedback, report.differences)
        table.add_row(
            report.loop,
            versions,
            *(f"{number:,}" for number in numbers),
            f"{report.seconds:.2f}",
            style=None if report.agrees else "bold red",
        )
    return table


def _differences(report: AuditReport) -> Table:
    table = Table("record", "event time", "column", "stream", "audit", title=report.loop)
    for found in report.first:
        at = "" if found.at is None else f"{found.at:%Y-%m-%d %H:%M:%S}"
        for column, (stream, audit) in found.columns.items():
            table.add_row(found.record, at, column, _shown(stream), _shown(audit))
    hidden = report.differences - len(report.first)
    if hidden > 0:
        table.caption = f"and {hidden:,} more; show more with --limit"
    return table


def _shown(value: str | None) -> str:
    return "null" if value is None else value
