"""The models of a loop."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from tidemill.cli.terminal import add_row, new_table, print_json, print_table, print_text
from tidemill.trainers.evaluation.metrics import METRIC_NAMES
from tidemill.trainers.registry import ModelVersion


def print_models(
    loop: str, models: Sequence[ModelVersion], live: ModelVersion | None, *, as_json: bool
) -> None:
    """Print *models*: one in each row, then in one line each why it was promoted or not.

    With *as_json*, print one JSON line for each.
    """
    number = live.number if live else 0
    if as_json:
        for model in models:
            print_json(model_document(model) | {"live": model.number == number})
        return
    losses = ("loss", "of base rate", "of live")
    numbers = ("rows", "CPU s", *losses)
    table = new_table("version", "made", *numbers, "", numbers=numbers, title=f"models of {loop}")
    for model in models:
        promoted = "promoted" if model.promoted else "refused"
        add_row(
            table,
            model.version,
            f"{model.at:%Y-%m-%d %H:%M}",
            model.trained_on_rows,
            f"{model.cpu_s:.1f}",
            *_losses(model),
            "live" if model.number == number else promoted,
        )
    print_table(table)
    for model in models:
        print_text(f"{model.version} {model.reason}")


def _losses(model: ModelVersion) -> list[str | None]:
    """Return the loss it was judged by, that of the base rate, and that of the live model then."""
    metric = next((name for name in METRIC_NAMES if name in model.metrics), "")
    found = [model.metrics.get(f"{prefix}{metric}") for prefix in ("", "base_", "live_")]
    return [None if value is None else f"{value:.4g}" for value in found]


def model_document(model: ModelVersion) -> dict[str, object]:
    """Return *model* as plain values for JSON, without its signature, which is long."""
    values = asdict(model)
    del values["features"]
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }
