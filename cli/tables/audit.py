"""Reports of audits."""

from collections.abc import Sequence

from rich.table import Table

from tidemill.cli.terminal import WRONG, add_row, new_table, print_json, print_table, print_text
from tidemill.features.audit.report import AuditReport


def print_audits(reports: Sequence[AuditReport], *, as_json: bool) -> None:
    """Print one row for each loop, then its differences and what to do about the first of them."""
    if as_json:
        agree = all(report.agrees for report in reports)
        print_json({"agrees": agree, "audits": [report.to_json() for report in reports]})
        return
    print_table(_summary(reports))
    for report in reports:
        for each in report.unchecked:
            print_text(f"{report.loop}: not checked: {each}")
        if report.agrees:
            print_text(f"{report.loop}: the stream wrote what its logs mean")
            continue
        for loss in report.losses:
            print_text(f"{report.loop}: {loss.what}", WRONG)
            print_text(f"  hint: {loss.hint}")
        if not report.first:
            continue
        print_text("")
        print_table(_differences(report))
        hidden = report.differences - len(report.first)
        if hidden > 0:
            print_text(f"and {hidden:,} more; show more with --limit")
        if any(each.columns.get("rows", ("",))[0] == "0" for each in report.first):
            print_text(f"  hint: put the missing rows back: tidemill lake repair {report.loop}")
        first = report.first[0]
        print_text(f"{report.loop}: the first difference", WRONG)
        print_text(f"  {first}")
        print_text(f"  hint: {first.hint}")


def _summary(reports: Sequence[AuditReport]) -> Table:
    numbers = ("records", "decisions", "feedback", "differences", "seconds")
    table = new_table("loop", "versions", *numbers, numbers=numbers)
    for report in reports:
        add_row(
            table,
            report.loop,
            ", ".join(f"{name} {number}" for name, number in report.versions.items()),
            report.records,
            report.decisions,
            report.feedback,
            report.differences,
            f"{report.seconds:.2f}",
            style=None if report.agrees else WRONG,
        )
    return table


def _differences(report: AuditReport) -> Table:
    table = new_table("record", "event time", "column", "stream", "audit", title=report.loop)
    for found in report.first:
        at = "" if found.at is None else f"{found.at:%Y-%m-%d %H:%M:%S}"
        for column, (stream, audit) in found.columns.items():
            add_row(table, found.record, at, column, _value(stream), _value(audit))
    return table


def _value(value: str | None) -> str:
    return "null" if value is None else value
