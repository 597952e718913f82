"""The models of a loop."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from tidemill.cli.terminal import add_row, new_table, print_json, print_table, print_text, shown
from tidemill.schemas.models.manifest import DEFAULT
from tidemill.trainers.evaluation.action_gate import REWARD
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
    if any(REWARD in model.metrics for model in models):
        losses = ("reward", "of default", "of live")
    numbers = ("rows", "CPU s", *losses)
    table = new_table("version", "made", *numbers, "", numbers=numbers, title=f"models of {loop}")
    for model in models:
        promoted = "promoted" if model.promoted else "refused"
        if model.learner == DEFAULT:
            promoted = "took over"
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
    """Return what it was judged by: its loss or reward, that it had to beat, and the live model's.

    The rewards are those of SNIPS.
    """
    if REWARD in model.metrics:
        rewards = [model.metrics.get(f"{prefix}{REWARD}") for prefix in ("", "default_", "live_")]
        return [None if value is None else f"{value:.4g}" for value in rewards]
    metric = next((name for name in METRIC_NAMES if name in model.metrics), "")
    found = [model.metrics.get(f"{prefix}{metric}") for prefix in ("", "base_", "live_")]
    return [None if value is None else f"{value:.4g}" for value in found]


def print_model(model: ModelVersion, *, is_live: bool, as_json: bool) -> None:
    """Print the record of one model: its verdict, what it learned, and how it was judged."""
    document = model_document(model) | {"live": is_live}
    if as_json:
        print_json(document, indent=2)
        return
    print_text(f"{model.version} {'is live' if is_live else 'is not live'}: {model.reason}")
    for name, value in document.items():
        if name in ("version", "reason", "live") or value in ("", None):
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {shown(each)}" for key, each in value.items())
        print_text(f"  {name:<16} {value}")


def model_document(model: ModelVersion) -> dict[str, object]:
    """Return *model* as plain values for JSON, without its signature, which is long."""
    values = asdict(model)
    del values["features"]
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }
