"""The figures of a run: their promised bounds, their table for a terminal, and their JSON file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Union

from rich.table import Table

Figures = dict[str, Union[float, "Figures"]]
Flat = dict[str, float]

TARGETS = {  # the promises of the product, (part, figure): (bound, whether it is a minimum)
    ("join", "events_per_second"): (280_000.0, True),
    ("join", "cpu_s_per_million"): (3.5, False),
    ("join", "peak_mb"): (700.0, False),
    ("join", "times_less_cpu_than_naive"): (20.0, True),
    ("peers", "times_less_cpu_than_kafka_streams"): (8.0, True),
    ("peers", "times_less_cpu_than_quix"): (20.0, True),
    ("two_workers", "times_faster_than_one"): (1.7, True),
    ("close_to_example_s", "p99"): (2.0, False),
    ("flat", "times_dearer_than_the_smallest"): (1.15, False),
    ("decide", "in_process_us"): (10.0, False),
    ("decide", "batch_per_second"): (150_000.0, True),
    ("decide", "http_per_second"): (15_000.0, True),
    ("decide", "http_p99_ms"): (8.0, False),
    ("items", "scores_us"): (250.0, False),
    ("items", "decision_us"): (1_000.0, False),
    ("models", "many.ready_s"): (60.0, False),
    ("models", "over_base_mb"): (600.0, False),
    ("models", "times_one_p99"): (1.5, False),
    ("models", "times_one_in_process"): (2.5, False),
    ("models", "published.p50_s"): (0.5, False),
    ("models", "published.p99_s"): (1.5, False),
    ("feedback", "per_second"): (1_980.0, True),
    ("feedback", "p99_ms"): (100.0, False),
}


def flat(figures: Mapping[str, object], prefix: str = "") -> Flat:
    """Return nested figures on one level, names joined by dots."""
    found: Flat = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            found[prefix + name] = value
    return found


def compared(report: Mapping[str, Figures], part: str) -> Flat:
    """Return the figures of *part* on one level, with its ratios to others and sizes."""
    figures = flat(report[part])
    ours = flat(report.get("join", {})).get("cpu_s_per_million")
    if part == "join" and ours:
        figures["times_less_cpu_than_naive"] = figures["naive_cpu_s_per_million"] / ours
    if part == "peers" and ours:
        for peer in report[part]:
            figures[f"times_less_cpu_than_{peer}"] = figures[f"{peer}.cpu_s_per_million"] / ours
    if part == "two_workers":
        two, one = figures["two_events_per_second"], figures["one_events_per_second"]
        figures["times_faster_than_one"] = two / one
        busier = figures["two_busier_cpu_s_per_million"]
        figures["times_less_cpu_for_the_busier"] = figures["one_cpu_s_per_million"] / busier
    if part == "models":
        figures["over_base_mb"] = figures["many.memory_mb"] - figures["one.memory_mb"]
        figures["times_one_p99"] = figures["many.http_p99_ms"] / figures["one.http_p99_ms"]
        inside = figures["in_process.random_us"], figures["in_process.one_us"]
        figures["times_one_in_process"] = inside[0] / inside[1]
    if part == "flat":
        cost = [figures[f"{size}.cpu_s_per_million"] for size in report[part]]
        figures["times_dearer_than_the_smallest"] = max(cost) / cost[0]
    return figures


def missed(report: Mapping[str, Figures]) -> list[tuple[str, str]]:
    """Return the figures of *report* that miss their promise."""
    return [
        (part, name)
        for (part, name), (bound, is_least) in TARGETS.items()
        if part in report and _misses(compared(report, part)[name], bound, is_least=is_least)
    ]


def _misses(value: float, bound: float, *, is_least: bool) -> bool:
    return value < bound if is_least else value > bound


def table(report: Mapping[str, Figures]) -> Table:
    """Return the figures as a table for a terminal, missed promises in red."""
    made = Table("part", "figure", "value", "promised", box=None)
    red = missed(report)
    for part in report:
        for name, value in compared(report, part).items():
            bound, is_least = TARGETS.get((part, name), (None, False))
            told = "" if bound is None else f"{'at least' if is_least else 'at most'} {bound:,g}"
            made.add_row(part, name, f"{value:,.3f}", told, style="red" * ((part, name) in red))
    return made


def rounded(figures: Mapping[str, object]) -> Figures:
    """Return *figures* with three places after the point."""
    return {
        name: rounded(value) if isinstance(value, Mapping) else round(float(str(value)), 3)
        for name, value in figures.items()
    }


def write(path: Path, report: Mapping[str, Figures], order: tuple[str, ...]) -> None:
    """Write *report* to the JSON file at *path*; parts that were not run stay in the file."""
    before = json.loads(path.read_text()) if path.exists() else {}
    both = {**before, **report}
    kept = {part: both[part] for part in order if part in both}
    path.write_text(json.dumps(kept, indent=2) + "\n")
