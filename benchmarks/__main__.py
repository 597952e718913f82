"""`python -m benchmarks [join] [decide] [train]`: measure, print, write the report.

A run of all three writes `benchmarks/report.json`; a run of some only prints, unless told where.
"""

import argparse
import json
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.decide import measure_decisions
from benchmarks.join import measure_join
from benchmarks.processes import stay_out_of_the_way
from benchmarks.train import measure_training
from tidemill.deploy.embedded import find_kafka

PARTS = ("join", "decide", "train")
Report = dict[str, dict[str, float]]


def main() -> None:
    """Read the arguments, measure, print."""
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


def table(report: Report) -> Table:
    """Return the figures as a person reads them."""
    made = Table("part", "figure", "value", box=None)
    for part, figures in report.items():
        for name, value in figures.items():
            made.add_row(part, name, f"{value:,.3f}")
    return made


if __name__ == "__main__":
    main()
