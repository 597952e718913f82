"""`python -m benchmarks [join] [decide] [train]`: measure, print, write the report.

A run of all three writes `benchmarks/report.json`; a run of some only prints, unless told where.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.decide import measure_decisions
from benchmarks.join import measure_join
from benchmarks.processes import stay_out_of_the_way
from benchmarks.train import measure_training
from tidemill.deploy.embedded import find_kafka

PARTS = ("join", "decide", "train")
SIZES = ("decisions", "naive_events", "calls", "seconds", "rows")
Report = dict[str, dict[str, float]]
TARGETS = {  # what the product promises, each (part, figure): (bound, is it a least value?)
    ("join", "cpu_s_per_million"): (5.0, False),
    ("join", "peak_mb"): (700.0, False),
    ("join", "times_less_cpu_than_naive"): (20.0, True),
    ("decide", "in_process_us"): (12.0, False),
    ("decide", "http_per_second"): (15_000.0, True),
    ("decide", "http_p99_ms"): (8.0, False),
}


def main() -> int:
    """Read the arguments, measure, print; return 1 if a run of full size misses a promise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--decisions", type=int, default=1_000_000, help="of the join")
    parser.add_argument("--naive-events", type=int, default=150_000, help="the naive join reads")
    parser.add_argument("--calls", type=int, default=200_000, help="in process")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load over HTTP")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the training set")
    parser.add_argument("--report", type=Path, help="where to write the figures as JSON")
    asked = parser.parse_args()
    stay_out_of_the_way()
    console = Console(stderr=True)
    report = measure(asked, console)
    path = asked.report or (Path(__file__).with_name("report.json") if not asked.parts else None)
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n")
    Console(width=100).print(table(report))
    is_full = all(getattr(asked, size) == parser.get_default(size) for size in SIZES)
    return int(is_full and bool(missed(report)))


def measure(asked: argparse.Namespace, console: Console) -> Report:
    """Run the parts asked for, one after the other, on one broker."""
    parts = asked.parts or PARTS
    report: Report = {}
    if "train" in parts:
        report["train"] = measure_training(rows=asked.rows, say=console.print)
    if parts == ["train"]:
        return _rounded(report)
    running = find_kafka(os.environ)
    try:
        if "join" in parts:
            report["join"] = measure_join(
                running.config,
                decisions=asked.decisions,
                naive_events=asked.naive_events,
                say=console.print,
            )
        if "decide" in parts:
            report["decide"] = measure_decisions(
                running.config, decisions=asked.calls, seconds=asked.seconds, say=console.print
            )
    finally:
        running.stop()
    return _rounded({part: report[part] for part in PARTS if part in report})


def _rounded(report: Report) -> Report:
    return {
        part: {name: round(value, 3) for name, value in figures.items()}
        for part, figures in report.items()
    }


def missed(report: Report) -> list[tuple[str, str]]:
    """Return the figures of *report* that are not what was promised."""
    return [
        (part, name)
        for (part, name), (bound, is_least) in TARGETS.items()
        if part in report and _misses(compared(report, part)[name], bound, is_least=is_least)
    ]


def _misses(value: float, bound: float, *, is_least: bool) -> bool:
    return value < bound if is_least else value > bound


def compared(report: Report, part: str) -> dict[str, float]:
    """Return the figures of *part*, and of the join also the ratio to the naive one."""
    figures = dict(report[part])
    if part == "join":
        naive, ours = figures["naive_cpu_s_per_million"], figures["cpu_s_per_million"]
        figures["times_less_cpu_than_naive"] = naive / ours
    return figures


def table(report: Report) -> Table:
    """Return the figures as a person reads them, what is missed in red."""
    made = Table("part", "figure", "value", "promised", box=None)
    red = missed(report)
    for part in report:
        for name, value in compared(report, part).items():
            bound, is_least = TARGETS.get((part, name), (None, False))
            told = "" if bound is None else f"{'at least' if is_least else 'at most'} {bound:,g}"
            made.add_row(part, name, f"{value:,.3f}", told, style="red" * ((part, name) in red))
    return made


if __name__ == "__main__":
    sys.exit(main())
