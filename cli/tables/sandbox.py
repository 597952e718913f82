"""What a loop would have learned from a history."""

from tidemill.cli.tables.models import model_document, print_models
from tidemill.cli.terminal import add_row, new_table, print_json, print_table, print_text
from tidemill.deploy.sandbox.sandbox import SandboxReport
from tidemill.schemas.loop.definition import Loop


def print_report(loop: Loop, report: SandboxReport, *, as_json: bool) -> None:
    """Print *report*: examples by state, the versions with their verdicts, and one sentence."""
    if as_json:
        print_json(_document(loop, report))
        return
    table = new_table("state", "examples", numbers=["examples"], title=f"examples of {loop.loop}")
    for state, count in report.states.items():
        add_row(table, state, f"{count:,}")
    print_table(table)
    for reason, count in report.refused.items():
        print_text(f"{count:,} events could not be joined: {reason}", "yellow")
    if report.models:
        print_models(loop.loop, report.models, report.live, as_json=False)
    print_text(
        f"{report.decisions:,} decisions and {report.feedback:,} feedback from "
        f"{report.first:%Y-%m-%d %H:%M} to {report.last:%Y-%m-%d %H:%M} took {report.took_s:.1f} s"
    )
    print_text(_verdict(loop, report), "bold")


def _verdict(loop: Loop, report: SandboxReport) -> str:
    labeled = f"{report.labels:,} labels" + (
        "" if report.mean_label is None else f" with the mean {report.mean_label:.4g}"
    )
    if report.live is not None:
        return f"{labeled}: {report.live.version} would decide"
    if report.models:
        return f"{labeled}: no model would decide, for the reasons above"
    batch = loop.models.batch
    least = f"; the batch learner wants {batch.min_labels:,} at least" if batch else ""
    return f"{labeled}: no model was made{least}"


def _document(loop: Loop, report: SandboxReport) -> dict[str, object]:
    return {
        "loop": loop.loop,
        "version": loop.version,
        "decisions": report.decisions,
        "feedback": report.feedback,
        "first": report.first,
        "last": report.last,
        "states": report.states,
        "labels": report.labels,
        "mean_label": report.mean_label,
        "refused": report.refused,
        "models": [model_document(model) for model in report.models],
        "live": report.live.version if report.live else None,
        "took_s": round(report.took_s, 2),
    }
