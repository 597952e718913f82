"""The figures of the demo."""

import math
from datetime import timedelta

from rich.table import Table

from tidemill.cli.terminal import add_row, new_table, print_table, print_text
from tidemill.deploy.demo.report import Month, Report


def print_report(report: Report) -> None:
    """Print every model, the months, and the loop in figures."""
    for table in (_models(report), _months(report), _summary(report)):
        print_table(table)
        print_text("")


def _models(report: Report) -> Table:
    table = new_table("model", "rows", "went live", "why", numbers=("rows",), title="Every model")
    for model in report.models:
        live = "yes" if model["promoted"] else "no"
        why = str(model["reason"]).removeprefix("not ").removeprefix("promoted: ")
        add_row(table, model["version"], model["trained_on_rows"], live, why)
    return table


def _months(report: Report) -> Table:
    numbers = ("by model", "live", "best constant", "AUC", "online", "batch")
    title = "Live, month by month (log loss; lower is better)"
    table = new_table("month", *numbers, numbers=numbers, title=title)
    for month in report.months:
        losses = (_rounded(value, 4) for value in _losses(month))
        add_row(table, month.month, month.decisions_by_model, *losses)
    return table


def _losses(month: Month) -> tuple[float | None, ...]:
    return (
        month.log_loss,
        month.base_log_loss,
        month.auc,
        month.online_log_loss,
        month.batch_log_loss,
    )


def _summary(report: Report) -> Table:
    table = new_table("", "", title="The loop in figures")
    table.show_header = False
    ends = ", ".join(f"{count:,} {state}" for state, count in report.examples.items() if count)
    swap = "-" if report.publish_to_swap_s is None else f"{report.publish_to_swap_s:.2f} s"
    decision, close = (
        f"p50 {_rounded(quantiles['p50'])}, p99 {_rounded(quantiles['p99'])}"
        for quantiles in (report.decision_ms, report.close_to_example_s)
    )
    for name, value in {
        "Kafka": f"{report.kafka['kind']}, {report.kafka['start_s']:.1f} s to start",
        "decisions": f"{report.decisions:,}",
        "feedback": f"{report.feedback:,}",
        "examples": ends,
        "ledger": "balanced" if report.ledger_balanced else "NOT BALANCED",
        "duplicates": f"{report.duplicates:,}",
        "events": f"{report.events_per_second:,.0f} a second through HTTP, Kafka and join",
        "a decision": f"{decision} ms, measured by the client",
        "close to example": f"{close} s",
        "publish to swap": f"{swap} until the last worker served it, the slowest version",
        "restarts": str(sum(report.restarts.values())),
        "wall clock": str(timedelta(seconds=round(report.wall_s))),
    }.items():
        add_row(table, name, value)
    return table


def _rounded(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
