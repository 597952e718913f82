"""The models of a loop."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from tidemill.cli.terminal import add_row, new_table, print_json, print_table
from tidemill.trainers.registry import ModelVersion


def print_models(
    loop: str, models: Sequence[ModelVersion], live: ModelVersion | None, *, as_json: bool
) -> None:
    """Print *models*, one in each row or JSON line, with a mark at the one that is *live*."""
    table = new_table(
        "version",
        "made",
        "rows",
        "CPU s",
        "",
        "reason",
        numbers=("rows", "CPU s"),
        title=f"models of {loop}",
    )
    for model in models:
        is_live = live is not None and model.number == live.number
        if as_json:
            print_json(model_document(model) | {"live": is_live})
            continue
        add_row(
            table,
            model.version,
            model.at.replace(microsecond=0),
            model.trained_on_rows,
            f"{model.cpu_s:.1f}",
            "live" if is_live else "",
            model.reason,
        )
    if not as_json:
        print_table(table)


def model_document(model: ModelVersion) -> dict[str, object]:
    """Return *model* as plain values for JSON, without its signature, which is long."""
    values = asdict(model)
    del values["features"]
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }
