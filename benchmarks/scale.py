"""What a load takes, computed from the figures of a report: `python -m benchmarks.scale`.

Each row divides the load by what one core was measured to do. It leaves out what was not measured:
the network, replicas of brokers, and cores that are kept free for the next peak.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPORT = Path(__file__).with_name("report.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleLoad:
    """So many *decisions* a second, of so many *models*, and *feedback* for each decision."""

    decisions: float = 6e6
    models: int = 1_000
    feedback: float = 0.5

    @property
    def events(self) -> float:
        """Events a second that the join reads."""
        return self.decisions * (1.0 + self.feedback)


@dataclass(frozen=True, slots=True)
class Need:
    """What one part of a fleet needs, and the figure that says so."""

    part: str
    cores: float
    figure: str


def needs(report: Mapping[str, Any], load: ScaleLoad) -> Iterator[Need]:
    """Yield what each part needs for *load*.

    Args:
        report: the figures of `benchmarks/report.json`.
        load: what comes in a second.
    """
    decide, join = report["decide"], report["join"]["events_per_second"]
    http, inside = decide["http_per_second"], decide["in_process_us"]
    together = decide["batch_per_second"]
    yield Need("decisions over HTTP", load.decisions / http, f"{http:,.0f} a second and core")
    yield Need("or inside the services", load.decisions * inside / 1e6, f"{inside:.1f} us each")
    yield Need("or in batches of 100", load.decisions / together, f"{together:,.0f} a second")
    yield Need("the join and the lake", load.events / join, f"{join:,.0f} events a second")
    brokers = report["two_workers"]["one_broker_cpu_s_per_million"]
    yield Need("brokers, reading", load.events * brokers / 1e6, f"{brokers:.2f} s a million events")


def told(report: Mapping[str, Any], load: ScaleLoad) -> list[str]:
    """Return the answer in lines of Markdown."""
    rows = [
        f"| {need.part} | {math.ceil(need.cores):,} | {need.figure} |"
        for need in needs(report, load)
    ]
    each = load.events / load.models
    return [
        f"{load.decisions:,.0f} decisions a second of {load.models:,} loops, "
        f"{load.feedback:g} feedback for each:",
        "",
        "| part | cores | measured |",
        "|---|---|---|",
        *rows,
        "",
        f"One loop of {load.models:,} has {each:,.0f} events a second then, "
        f"{each / report['join']['events_per_second']:.0%} of what one partition is joined at, "
        "so one partition a loop is enough.",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what a load takes."""
    plain = ScaleLoad()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--decisions", type=float, default=plain.decisions, help="a second")
    parser.add_argument("--models", type=int, default=plain.models, help="loops with one each")
    parser.add_argument("--feedback", type=float, default=plain.feedback, help="for each decision")
    parser.add_argument("--report", type=Path, default=REPORT)
    asked = parser.parse_args(arguments)
    load = ScaleLoad(decisions=asked.decisions, models=asked.models, feedback=asked.feedback)
    print("\n".join(told(json.loads(asked.report.read_text()), load)))


if __name__ == "__main__":
    main()
